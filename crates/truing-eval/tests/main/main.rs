//! Benchmarks from file to metrics, with models and judges that answer by rule.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot set up should fail and say why"
)]

mod comparing;
mod contaminated;
mod harness;
mod judged;
mod oracles;
mod real_data;
mod verified;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use truing_data::ObjectRow;
use truing_eval::benchmarks::{
    Answer, Answers, Benchmark, Item, ItemScore, Loaded, Recipient, Request, Scored, Scoring, Summary,
    TaskOptions, load, pending, summarise_benchmark,
};
use truing_eval::results::ItemRecord;
use truing_types::{ChatReply, FinishReason, RowOrigin};

/// A reply as a model or judge gives it.
fn reply(text: impl Into<String>) -> Answer {
    Answer::Reply(ChatReply {
        text: text.into(),
        reasoning: None,
        tool_calls: Vec::new(),
        tokens: Vec::new(),
        finish_reason: FinishReason::EndOfTurn,
        n_prompt_tokens: 0,
        n_completion_tokens: 0,
    })
}

fn row(line: u64, object: &Value) -> ObjectRow {
    ObjectRow {
        object: object.as_object().unwrap().clone(),
        origin: RowOrigin { source: "own.jsonl".into(), line },
    }
}

/// Items of rows in a file.
fn loaded(benchmark: &dyn Benchmark, rows: &[Value], options: &TaskOptions) -> Result<Loaded, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.jsonl");
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    load(benchmark, &path, options)
        .map_err(|error| error.to_string().replace(&*folder.path().to_string_lossy(), ""))
}

/// Asks until nothing is left to be asked, as a run does.
fn answered(
    benchmark: &dyn Benchmark,
    item: &Item,
    options: &TaskOptions,
    respond: &mut dyn FnMut(&Item, &Request) -> Answer,
) -> Answers {
    let mut answers = Answers::default();
    for _ in 0..100 {
        let requests = pending(benchmark, item, &answers, options);
        if requests.is_empty() {
            return answers;
        }
        for request in requests {
            let answer = respond(item, &request);
            assert!(answers.0.insert(request.id.clone(), answer).is_none(), "{} was asked twice", request.id);
        }
    }
    panic!("{} never ends", item.id);
}

/// A whole run.
fn run(
    benchmark: &dyn Benchmark,
    items: &[Item],
    options: &TaskOptions,
    mut respond: impl FnMut(&Item, &Request) -> Answer,
) -> (Vec<ItemRecord>, Summary) {
    let answers: Vec<Answers> =
        items.iter().map(|item| answered(benchmark, item, options, &mut respond)).collect();
    let pairs: Vec<(&Item, &Answers)> = items.iter().zip(&answers).collect();
    let scores = benchmark.score(&pairs, options, &Scoring::default());
    assert_eq!(scores.len(), items.len());
    let records: Vec<ItemRecord> = items
        .iter()
        .zip(answers)
        .zip(scores)
        .map(|((item, answers), score)| ItemRecord { item: item.clone(), seed: 0, answers, score })
        .collect();
    let scored: Vec<Scored<'_>> = records.iter().map(ItemRecord::scored).collect();
    let summary = summarise_benchmark(benchmark, &scored, options);
    (records, summary)
}

fn value(summary: &Summary, key: &str) -> f64 {
    let metric = summary.metric(key).unwrap_or_else(|| panic!("there is no `{key}`"));
    metric.value.unwrap_or_else(|| panic!("`{key}` has no value: {:?}", metric.unscored))
}

/// Summarises stored scores.
fn summarised(benchmark: &dyn Benchmark, scored: &[(Item, ItemScore)], options: &TaskOptions) -> Summary {
    let answers = Answers::default();
    let scored: Vec<Scored<'_>> =
        scored.iter().map(|(item, score)| Scored { item, answers: &answers, score }).collect();
    summarise_benchmark(benchmark, &scored, options)
}

/// The text of what is asked, as a person reads it.
fn asked(request: &Request) -> String {
    match &request.ask {
        truing_eval::benchmarks::Ask::Generate { prompt, .. } => prompt.shown(),
        other => panic!("{other:?} is no generation"),
    }
}

fn is_for_judge(request: &Request) -> bool {
    request.to == Recipient::Judge
}

fn shared() -> Option<PathBuf> {
    let found = std::env::var_os("TRUING_TEST_SHARED").map(|path| PathBuf::from(path).join("data"));
    let found = found.filter(|path| path.exists());
    if found.is_none() {
        println!("skipped: TRUING_TEST_SHARED does not name a folder with data/");
    }
    found
}

fn no_baseline() -> BTreeMap<String, String> {
    BTreeMap::new()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn every_benchmark_names_a_missing_column_with_its_line() {
    for benchmark in truing_eval::benchmarks::BENCHMARKS {
        let options = TaskOptions { baseline: no_baseline(), ..TaskOptions::default() };
        let error = loaded(*benchmark, &[json!({"nothing": 1})], &options).unwrap_err();
        let is_named = error.contains("own.jsonl:1") && error.contains("is missing, expected");
        // A file of answers alone has no question, and so no item.
        let has_no_item = benchmark.name() == "function_calls" && error.contains("has no item");
        assert!(is_named || has_no_item, "{}: {error}", benchmark.name());
    }
}
