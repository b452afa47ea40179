//! Two runs compared.

use serde_json::{Value, json};
use truing_eval::benchmarks::{DataFile, Scored, ScoringMode, TaskOptions, find, summarise_benchmark};
use truing_eval::comparison::{Finding, RunPair, Test, compare_metric, holm_over_tasks, resolution};
use truing_eval::results::{ItemRecord, RESULTS, TaskRecord, items_file, write_items};
use truing_statistics::Bootstrap;
use truing_types::{Unscored, UnscoredReason};

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
fn items_that_are_not_compared_are_counted_and_bound_the_difference() {
    let metric = &find("svamp").unwrap().metrics(&TaskOptions::default())[0];
    // 50 of 100 right; then items 90 to 99 are missing, 80 to 84 have no score, and all others are as before.
    let first = svamp_run(|i| Some(i < 50));
    let mut second = svamp_run(|i| (i < 90).then_some(i < 50));
    for record in second.iter_mut().filter(|record| (80..85).contains(&record.item.line.saturating_sub(1))) {
        let why = Unscored::new(UnscoredReason::Failed, "a bad gateway");
        record.score.measures.insert(metric.key(), Err(why));
    }
    let found = compare_metric("svamp", metric, &first, &second, &Bootstrap::default()).unwrap();
    assert_eq!((found.n, found.n_only_first, found.n_only_second, found.n_unscored), (85, 10, 0, 5));
    // Of 100 items 50 are right in the first; in the second 50, or all 15 that are missing besides.
    let bounds = found.bounds.unwrap();
    assert!(bounds.low.abs() < 1e-12 && (bounds.high - 0.15).abs() < 1e-12, "{bounds:?}");
    let text = found.not_compared().unwrap();
    assert!(text.contains("10 only in the first run, 5 without a score"), "{text}");
    assert!(text.contains("from +0.000 to +0.150"), "{text}");
    let same = compare_metric("svamp", metric, &first, &first, &Bootstrap::default()).unwrap();
    assert_eq!((same.bounds, same.not_compared()), (None, None));
    // No item changed: the interval still has the width of 100 items, and a difference could have been found.
    let interval = same.interval().unwrap();
    assert!(interval.low < -0.005 && interval.high > 0.005, "{interval:?}");
    assert!(
        same.resolvable.is_some_and(|smallest| (0.05..0.15).contains(&smallest)),
        "{:?}",
        same.resolvable
    );
    // Five items can show nothing.
    let few = compare_metric("svamp", metric, &first[..5], &second[..5], &Bootstrap::default()).unwrap();
    assert_eq!(few.resolvable, None);
    assert_eq!(few.resolvable_text(), "no difference can be resolved with 5 items");
}

#[test]
fn items_of_one_name_with_other_contents_are_no_pair() {
    let metric = &find("svamp").unwrap().metrics(&TaskOptions::default())[0];
    let first = svamp_run(|i| Some(i < 50));
    let mut second = first.clone();
    for record in &mut second[..20] {
        record.item.row.insert("Question".into(), "another?".into());
    }
    // Other ways to write the same are no other content.
    second[30].item.row.insert("Answer".into(), json!(3.0));
    second[31].item.row.insert("Equation".into(), Value::Null);
    let found = compare_metric("svamp", metric, &first, &second, &Bootstrap::default()).unwrap();
    assert_eq!((found.n, found.n_changed), (80, 20));
    assert!(found.not_compared().unwrap().contains("20 of the same name but changed"));
}

/// A folder as a run leaves it, with these records of SVAMP.
fn write_run(folder: &std::path::Path, records: &[ItemRecord], settings: Value) {
    let benchmark = find("svamp").unwrap();
    let options = TaskOptions::default();
    let scored: Vec<Scored<'_>> = records.iter().map(ItemRecord::scored).collect();
    let record = TaskRecord {
        task: "svamp".into(),
        version: benchmark.version(),
        file: DataFile { path: "svamp.jsonl".into(), sha256: "0".into(), known_as: None },
        n_items_in_file: records.len(),
        n_shots: 0,
        mean_shots: None,
        output_type: "generate_until".into(),
        mode: ScoringMode::Strict,
        differences: Vec::new(),
        settings: settings.as_object().unwrap().clone(),
        summary: summarise_benchmark(benchmark, &scored, &options),
    };
    std::fs::write(folder.join(RESULTS), serde_json::to_string(&[record]).unwrap()).unwrap();
    write_items(&folder.join(items_file("svamp")), records).unwrap();
}

#[test]
fn runs_on_other_items_are_refused_and_other_settings_are_named() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, other] = [folders[0].path(), folders[1].path()];
    let first = svamp_run(|i| Some(i < 50));
    write_run(one, &first, json!({"temperature": null, "judge": "m", "seed": 0}));
    write_run(other, &first, json!({"temperature": 0.7, "judge": "m", "seed": 0}));
    let pair = RunPair::read(one, other).unwrap();
    assert_eq!(pair.remarks, ["`temperature` differs: not set and 0.7"]);
    // Most items are others: the file was another one.
    let mut second = first.clone();
    for record in &mut second[..51] {
        record.item.row.insert("Body".into(), "z.".into());
    }
    write_run(other, &second, json!({}));
    let error = RunPair::read(one, other).unwrap_err().to_string();
    assert!(error.contains("51 of 100 items of the same name have different contents"), "{error}");
    // No item with a score in both: the reason is there.
    write_run(other, &svamp_run(|i| (i < 3).then_some(true))[..3], json!({}));
    write_run(one, &first[3..], json!({}));
    let error = RunPair::read(one, other).unwrap_err().to_string();
    assert!(error.contains("97 only in the first run, 3 only in the second run"), "{error}");
}

#[test]
fn ratios_are_compared_as_ratios() {
    let benchmark = find("ifeval").unwrap();
    let row = |key: u64, n: usize| {
        json!({
            "key": key, "prompt": "x", "instruction_id_list": vec!["punctuation:no_comma"; n],
            "kwargs": vec![json!({}); n]
        })
    };
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
    // Grades are assumed to differ by a fifth of their range: 2.8 * 0.2 / sqrt(400).
    assert_eq!(alone.paired_in(Some([0.0, 1.0])), alone.paired);
    let grades = alone.paired_in(Some([1.0, 10.0])).unwrap();
    assert!((grades - 0.028_016).abs() < 1e-5, "{grades}");
    assert_eq!(resolution(&items[..1]).paired_in(Some([1.0, 10.0])), None);
}
