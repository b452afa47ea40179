//! Two runs compared.

use serde_json::{Value, json};
use truing_eval::benchmarks::{TaskOptions, find};
use truing_eval::comparison::{Finding, Test, compare_metric, holm_over_tasks, resolution};
use truing_eval::results::ItemRecord;
use truing_statistics::Bootstrap;

use super::{loaded, reply, run};

fn svamp_run(is_right: impl Fn(usize) -> Option<bool>) -> Vec<ItemRecord> {
    let benchmark = find("svamp").unwrap();
    let rows: Vec<Value> = (0..100)
        .map(|i| json!({"ID": i, "Body": "x.", "Question": "y?", "Answer": 3, "Type": "t"}))
        .collect();
    let options = TaskOptions::default();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let kept: Vec<_> =
        items.into_iter().filter(|item| is_right(item.id.parse().unwrap()).is_some()).collect();
    let (records, _) = run(benchmark, &kept, &options, |item, _| {
        reply(if is_right(item.id.parse().unwrap()) == Some(true) { "It is 3." } else { "It is 4." })
    });
    records
}

#[test]
fn right_or_wrong_items_are_compared_exactly_and_flips_are_listed() {
    let first = svamp_run(|i| Some(i < 60));
    // Loses 2, gains 15; one item is missing.
    let second = svamp_run(|i| (i != 99).then_some((2..75).contains(&i)));
    let metric = &find("svamp").unwrap().metrics(&TaskOptions::default())[0];
    let found = compare_metric("svamp", metric, &first, &second, &Bootstrap::default()).unwrap();
    assert_eq!((found.n, found.n_only_first, found.n_only_second, found.test), (99, 1, 0, Test::McNemar));
    let exact = found.mcnemar.unwrap();
    assert_eq!((exact.n_first_only, exact.n_second_only), (2, 15));
    // scipy.stats.binomtest(2, 17).pvalue
    assert!((found.p_value - 0.002349853515625).abs() < 1e-10, "{}", found.p_value);
    assert!((found.difference.estimate.mean - 13.0 / 99.0).abs() < 1e-12);
    assert_eq!((found.flips.len(), found.finding()), (17, Finding::SecondBetter));
    assert!(found.flips.iter().any(|flip| flip.id == "0" && flip.first == 1.0 && flip.second == 0.0));
    let interval = found.interval().unwrap();
    assert!(interval.low > 0.0 && interval.high < 0.25);
    assert!(found.resolvable.unwrap() > 0.05 && found.resolvable.unwrap() < 0.2);
    // Together with 30 other comparisons that find nothing, it is no finding any more.
    let nothing = compare_metric("svamp", metric, &first, &first, &Bootstrap::default()).unwrap();
    assert_eq!((nothing.p_value, nothing.finding(), nothing.flips.len()), (1.0, Finding::Unresolved, 0));
    let mut all = vec![nothing; 30];
    all.push(found);
    holm_over_tasks(&mut all);
    assert!((all[30].p_adjusted.unwrap() - 31.0 * all[30].p_value).abs() < 1e-12);
    assert_eq!(all[30].finding(), Finding::Unresolved);
    assert!(compare_metric("svamp", metric, &first, &[], &Bootstrap::default()).is_none());
}

#[test]
fn ratios_are_compared_as_ratios() {
    let benchmark = find("ifeval").unwrap();
    let row = |key: u64, n: usize| json!({"key": key, "prompt": "x", "instruction_id_list": vec!["punctuation:no_comma"; n], "kwargs": vec![json!({}); n]});
    let options = TaskOptions::default();
    let rows: Vec<Value> = (0..30).map(|i| row(i, 1 + i as usize % 3)).collect();
    let items = loaded(benchmark, &rows, &options).unwrap().items;
    let (first, one) =
        run(benchmark, &items, &options, |item, _| reply(if item.line % 2 == 0 { "a, b" } else { "a b" }));
    let (second, other) = run(benchmark, &items, &options, |_, _| reply("a b"));
    let metric = &benchmark.metrics(&options)[1];
    let found = compare_metric("ifeval", metric, &first, &second, &Bootstrap::default()).unwrap();
    let expected = other.metrics[1].value.unwrap() - one.metrics[1].value.unwrap();
    assert!((found.difference.estimate.mean - expected).abs() < 1e-12);
    assert_eq!((found.test, found.finding()), (Test::Exchange, Finding::SecondBetter));
    assert!((found.first - one.metrics[1].value.unwrap()).abs() < 1e-12);
}

#[test]
fn what_items_can_resolve_is_known_before() {
    let benchmark = find("svamp").unwrap();
    let rows: Vec<Value> = (0..400)
        .map(|i| json!({"ID": i, "Body": "x.", "Question": "y?", "Answer": 3, "Type": "t"}))
        .collect();
    let mut items = loaded(benchmark, &rows, &TaskOptions::default()).unwrap().items;
    let alone = resolution(&items);
    assert!((0.05..0.08).contains(&alone.paired.unwrap()), "{alone:?}");
    assert!(alone.unpaired.unwrap() > alone.paired.unwrap());
    for (i, item) in items.iter_mut().enumerate() {
        item.cluster = Some((i / 5).to_string());
    }
    let clustered = resolution(&items);
    assert!(clustered.paired.unwrap() > alone.paired.unwrap() && clustered.n_effective < 400.0);
    assert_eq!(resolution(&[]).paired, None);
}
