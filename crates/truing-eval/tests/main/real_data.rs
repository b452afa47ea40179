//! Real sets, where `TRUING_TEST_SHARED` names a folder that holds them: they load, and stored verdicts are
//! found again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use truing_data::read_objects;
use truing_eval::benchmarks::{TaskOptions, find, load, mt_bench_scores_of_judgments};

use super::{file_name, reply, run, shared, summarised, value};

/// Keys on which the published checker itself is not deterministic.
const UNSTABLE: [u64; 4] = [1122, 1129, 3456, 3617];

#[test]
fn ifeval_rates_are_those_of_the_stored_verdicts() {
    let Some(data) = shared() else { return };
    let benchmark = find("ifeval").unwrap();
    let options = TaskOptions::default();
    let loaded = load(benchmark, &data.join("ifeval/input_data.jsonl"), &options).unwrap();
    assert_eq!(loaded.items.len(), 541);
    for (stored, modes) in [("gpt4", ["strict", "loose"]), ("qwen2.5-1.5b", ["strict", "loose"])] {
        let verdicts = |mode: &str| -> BTreeMap<String, (String, Vec<bool>)> {
            let plain = data.join(format!("ifeval/{stored}_verdicts_{mode}.jsonl"));
            let path = if plain.exists() {
                plain
            } else {
                data.join(format!("ifeval/{stored}_verdicts_{mode}.jsonl.gz"))
            };
            let rows = read_objects(&path).unwrap().into_iter();
            rows.map(|row| {
                let text = |column: &str| row.object[column].as_str().unwrap().to_owned();
                let list = row.object["follow_instruction_list"].as_array().unwrap().iter();
                (text("prompt"), (text("response"), list.map(|one| one.as_bool().unwrap()).collect()))
            })
            .collect()
        };
        let strict = verdicts("strict");
        let is_stable = |key: &str| !UNSTABLE.contains(&key.parse::<u64>().unwrap());
        let items: Vec<_> = loaded
            .items
            .iter()
            .filter(|item| strict.contains_key(item.text("prompt")) && is_stable(&item.id))
            .cloned()
            .collect();
        let (records, summary) =
            run(benchmark, &items, &options, |item, _| reply(strict[item.text("prompt")].0.clone()));
        for mode in modes {
            let expected = verdicts(mode);
            let (mut n, mut differing) = (0, BTreeSet::new());
            for record in &records {
                let found = record.score.details[mode].as_array().unwrap();
                for (found, expected) in found.iter().zip(&expected[record.item.text("prompt")].1) {
                    n += 1;
                    if found["followed"] != *expected {
                        differing.insert(record.item.id.clone());
                    }
                }
            }
            println!("{stored} {mode}: {} items, {n} verdicts, differing {differing:?}", records.len());
            // Too short for a language to be told: the verifier's tests list them.
            let known: &[&str] = if stored == "gpt4" { &["1843", "202"] } else { &["1259"] };
            assert_eq!(
                differing.iter().map(String::as_str).collect::<BTreeSet<_>>(),
                known.iter().copied().collect()
            );
        }
        println!("{stored}: prompt-level strict {:.4}", value(&summary, "prompt_level_strict_acc,none"));
    }
}

#[test]
fn gsm8k_verdicts_are_those_of_the_stored_solutions() {
    let Some(data) = shared() else { return };
    let benchmark = find("gsm8k").unwrap();
    let rows = read_objects(&data.join("math/gsm8k_model_solutions.jsonl.gz")).unwrap();
    let test = load(benchmark, &data.join("math/gsm8k_test.jsonl"), &TaskOptions::default()).unwrap();
    assert_eq!((test.items.len(), test.n_rows), (660, 660));
    let stored: BTreeMap<&str, &serde_json::Map<String, Value>> =
        rows.iter().map(|row| (row.object["question"].as_str().unwrap(), &row.object)).collect();
    let items: Vec<_> =
        test.items.into_iter().filter(|item| stored.contains_key(item.text("question"))).collect();
    for system in ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"] {
        let solution = |item: &truing_eval::benchmarks::Item| &stored[item.text("question")][system];
        let (records, summary) = run(benchmark, &items, &TaskOptions::default(), |item, _| {
            reply(solution(item)["solution"].as_str().unwrap())
        });
        let n_same = records
            .iter()
            .filter(|record| {
                let found = record.score.measures["exact_match,verifier"].clone().unwrap().value == 1.0;
                found == solution(&record.item)["is_correct"].as_bool().unwrap()
            })
            .count();
        println!(
            "{system}: {n_same} of {} verdicts, accuracy {:.4}",
            items.len(),
            value(&summary, "exact_match,verifier")
        );
        assert_eq!(n_same, items.len());
    }
    assert!(items.len() > 600, "{}", items.len());
}

/// Mean grade over both turns, of the first and of the second, as FastChat's `show_result.py` has them;
/// computed with Python.
const MT_BENCH_MEANS: [(&str, [f64; 3]); 4] = [
    ("mistral-orpo", [5.5, 6.2317073170731705, 4.7682926829268295]),
    ("mistral-orpo-capybara", [6.439024390243903, 6.585365853658536, 6.2926829268292686]),
    ("mistral-orpo-mix", [5.7317073170731705, 6.048780487804878, 5.414634146341464]),
    ("mistral-orpo-trl", [7.054878048780488, 7.841463414634147, 6.2682926829268295]),
];

#[test]
fn mt_bench_scores_are_those_of_the_stored_judgments() {
    let Some(data) = shared() else { return };
    let benchmark = find("mt_bench").unwrap();
    let rows = read_objects(&data.join("mt_bench/judgment_gpt4_single.jsonl.gz")).unwrap();
    for (model, [score, first, second]) in MT_BENCH_MEANS {
        let scored = mt_bench_scores_of_judgments(&rows, model).unwrap();
        let summary = summarised(benchmark, &scored, &TaskOptions::default());
        let found = ["score,none", "turn_1,none", "turn_2,none"].map(|key| value(&summary, key));
        println!("{model}: {found:.4?} of {} questions", scored.len());
        for (found, expected) in found.into_iter().zip([score, first, second]) {
            assert!((found - expected).abs() < 1e-9, "{model}: {found}, expected {expected}");
        }
    }
    let items =
        load(benchmark, &data.join("mt_bench/question.jsonl"), &TaskOptions::default()).unwrap().items;
    assert_eq!(items.len(), 80);
}

#[test]
fn real_files_of_other_benchmarks_load() {
    let Some(data) = shared() else { return };
    let answers: BTreeMap<String, String> =
        read_objects(&data.join("arena_hard/v0.1_answer_gpt-4-0613.jsonl.gz"))
            .unwrap()
            .into_iter()
            .map(|row| {
                let turns = row.object["messages"].as_array().unwrap();
                let content = &turns.last().unwrap()["content"];
                let text = content["answer"].as_str().or_else(|| content.as_str()).unwrap();
                (row.object["uid"].as_str().unwrap().to_owned(), text.to_owned())
            })
            .collect();
    let plain = TaskOptions::default;
    let n_items = |name: &str, path: &str, options: TaskOptions| {
        load(find(name).unwrap(), &data.join(path), &options)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .items
            .len()
    };
    assert_eq!(
        n_items(
            "arena_hard_v0.1",
            "arena_hard/v0.1_question.jsonl",
            TaskOptions { baseline: answers, ..plain() }
        ),
        500
    );
    assert_eq!(n_items("svamp", "math/svamp.jsonl", plain()), 624);
    assert_eq!(n_items("mgsm", "math/mgsm_zh.jsonl", plain()), 150);
    assert_eq!(n_items("mgsm", "math/mgsm_ja.jsonl", plain()), 150);
    assert_eq!(n_items("humaneval", "code/humaneval.jsonl", plain()), 100);
    assert_eq!(n_items("mbpp", "code/mbpp.jsonl", plain()), 473);
    assert_eq!(n_items("mt_bench", "chinese/mt_bench_zh_question.jsonl", plain()), 52);
    for entry in std::fs::read_dir(data.join("preferences")).unwrap() {
        let path = entry.unwrap().path();
        if file_name(&path).starts_with("llmbar_") {
            assert!(n_items("llmbar", &format!("preferences/{}", file_name(&path)), plain()) > 10);
        }
    }
    for entry in std::fs::read_dir(data.join("followbench")).unwrap() {
        let name = file_name(&entry.unwrap().path());
        let n = n_items("followbench", &format!("followbench/{name}"), plain());
        assert!(n >= 8, "{name}: {n}");
    }
    assert_eq!(n_items("cfbench", "format_fixtures/cfbench.jsonl", plain()), 2);
    assert_eq!(n_items("sysbench", "format_fixtures/sysbench.jsonl", plain()), 1);
}

/// Writes a value as Python does.
fn python(value: &Value) -> String {
    match value {
        Value::Bool(value) => if *value { "True" } else { "False" }.into(),
        Value::Null => "None".into(),
        Value::Array(list) => format!("[{}]", list.iter().map(python).collect::<Vec<_>>().join(", ")),
        // Of an object each value is one of the accepted ones.
        Value::Object(object) => {
            let pairs = object.iter().filter_map(|(key, accepted)| {
                let first = accepted.as_array().map_or(accepted, |accepted| &accepted[0]);
                (first != "").then(|| format!("{}: {}", Value::from(key.as_str()), python(first)))
            });
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[test]
fn accepted_function_calls_are_accepted_and_changed_ones_are_not() {
    let Some(data) = shared() else { return };
    let benchmark = find("function_calls").unwrap();
    for kind in ["simple_python", "multiple", "parallel", "irrelevance"] {
        let path = data.join(format!("tool_use/bfcl_v4_{kind}.jsonl"));
        let answers = data.join(format!("tool_use/bfcl_v4_{kind}_answers.jsonl"));
        let references = if answers.exists() { read_objects(&answers).unwrap() } else { Vec::new() };
        let options = TaskOptions { references, ..TaskOptions::default() };
        let items = load(benchmark, &path, &options).unwrap().items;
        let written = |item: &truing_eval::benchmarks::Item, changed: bool| {
            let calls = item.row["ground_truth"].as_array().unwrap().iter().map(|call| {
                let (name, arguments) = call.as_object().unwrap().iter().next().unwrap();
                let arguments = arguments.as_object().unwrap().iter().filter_map(|(key, accepted)| {
                    // An empty text says that the argument may be left out.
                    let given = accepted.as_array().unwrap().iter().find(|value| **value != "")?;
                    Some(format!("{key}={}", python(given)))
                });
                let mut arguments: Vec<String> = arguments.collect();
                if changed {
                    arguments.push("not_a_parameter=1".into());
                }
                format!("{name}({})", arguments.join(", "))
            });
            format!("[{}]", calls.collect::<Vec<_>>().join(", "))
        };
        let (records, right) = run(benchmark, &items, &options, |item, _| reply(written(item, false)));
        let (_, wrong) = run(benchmark, &items, &options, |item, _| {
            reply(if kind == "irrelevance" { "[f(x=1)]".to_owned() } else { written(item, true) })
        });
        for record in records.iter().filter(|record| record.score.details.contains_key("problem")) {
            println!(
                "{}: {} {}",
                record.item.id,
                record.score.details["problem"],
                written(&record.item, false)
            );
        }
        println!("{kind}: {} items, accepted {:.4}", items.len(), value(&right, "acc,none"));
        assert_eq!((value(&right, "acc,none"), value(&wrong, "acc,none")), (1.0, 0.0), "{kind}");
    }
}
