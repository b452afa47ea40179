//! The pages of evaluations on benchmarks, of runs whose every figure is known.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use truing_eval::benchmarks::{
    Answer, Answers, Benchmark, Item, LogLikelihood, Scored, Scoring, TaskOptions, find, load,
    summarise_benchmark,
};
use truing_eval::comparison::RunPair;
use truing_eval::results::{
    HARNESS_RESULTS, ItemRecord, RESULTS, RunFacts, TaskRecord, harness_results, items_file, write_items,
};
use truing_report::{ReportError, write_comparison, write_report};
use truing_types::{ChatReply, FinishReason, Unscored, UnscoredReason};

const ALERT: &str = "</script><script>alert('no')</script><b>bold</b>";

fn reply(text: String) -> Answer {
    Answer::Reply(ChatReply {
        text,
        reasoning: None,
        tool_calls: Vec::new(),
        tokens: Vec::new(),
        finish_reason: FinishReason::EndOfTurn,
        n_prompt_tokens: 0,
        n_completion_tokens: 0,
    })
}

/// Answers every item of a benchmark and keeps what a run keeps of it.
fn record(
    folder: &Path,
    benchmark: &dyn Benchmark,
    rows: &[Value],
    respond: impl Fn(usize, &Item) -> Answer,
) -> TaskRecord {
    let path = folder.join(format!("{}.jsonl", benchmark.name()));
    fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let options = TaskOptions::default();
    let loaded = load(benchmark, &path, &options).unwrap();
    let answers: Vec<Answers> = loaded
        .items
        .iter()
        .enumerate()
        .map(|(place, item)| {
            let mut answers = Answers::default();
            for request in benchmark.requests(item, &answers, &options) {
                answers.0.insert(request.id, respond(place, item));
            }
            answers
        })
        .collect();
    let pairs: Vec<(&Item, &Answers)> = loaded.items.iter().zip(&answers).collect();
    let scores = benchmark.score(&pairs, &options, &Scoring::default());
    let records: Vec<ItemRecord> = loaded
        .items
        .iter()
        .zip(answers.clone())
        .zip(scores)
        .map(|((item, answers), score)| ItemRecord { item: item.clone(), seed: 0, answers, score })
        .collect();
    write_items(&folder.join(items_file(benchmark.name())), &records).unwrap();
    let scored: Vec<Scored<'_>> = records.iter().map(ItemRecord::scored).collect();
    TaskRecord {
        task: benchmark.name().to_owned(),
        version: benchmark.version(),
        file: loaded.file,
        n_items_in_file: loaded.n_rows,
        n_shots: 0,
        mean_shots: None,
        output_type: "generate_until".into(),
        mode: truing_eval::benchmarks::ScoringMode::Strict,
        differences: vec!["one <difference>".into()],
        settings: serde_json::Map::new(),
        summary: summarise_benchmark(benchmark, &scored, &options),
    }
}

/// A run of SVAMP, right where `is_right` says so and unscored where it says nothing, and of ARC.
pub(crate) fn write_run(folder: &Path, n: usize, is_right: impl Fn(usize) -> Option<bool>) {
    let svamp: Vec<Value> = (0..n)
        .map(|i| {
            let kind = if i % 2 == 0 { "Addition" } else { "Sub<traction>" };
            json!({"ID": i, "Body": format!("Body {i} {ALERT}."), "Question": "How many?", "Answer": 3, "Type": kind})
        })
        .collect();
    let arc: Vec<Value> = (0..4)
        .map(|i| {
            json!({"id": format!("arc-{i}"), "question": "Which?", "answerKey": "B",
                "choices": {"text": ["one thing", "the answer"], "label": ["A", "B"]}})
        })
        .collect();
    let tasks = [
        record(folder, find("svamp").unwrap(), &svamp, |i, _| match is_right(i) {
            Some(true) => reply(format!("It is 3. {ALERT}")),
            Some(false) => reply("It is 4.".into()),
            None => Answer::Failed(Unscored::new(UnscoredReason::Failed, "a bad <gateway>")),
        }),
        record(folder, find("arc").unwrap(), &arc, |i, _| {
            let one = |sum| LogLikelihood { sum, n_tokens: 2, is_greedy: false };
            Answer::LogLikelihoods(vec![one(-2.0), one(if i == 0 { -1.0 } else { -3.0 })])
        }),
    ];
    fs::write(folder.join(RESULTS), serde_json::to_string(&tasks).unwrap()).unwrap();
    let facts = RunFacts { model: format!("model {ALERT}"), seconds: Some(12.5), ..RunFacts::default() };
    let known = harness_results(&tasks, &facts, &std::collections::BTreeMap::new());
    fs::write(folder.join(HARNESS_RESULTS), known.to_string()).unwrap();
    fs::write(folder.join("recipe.resolved.toml"), "stage = \"evaluate\" # <b>").unwrap();
}

/// The data that the page's script reads.
fn script_data(html: &str, id: &str) -> Value {
    let opening = format!("<script type=\"application/json\" id=\"{id}\">");
    let from = html.find(&opening).unwrap() + opening.len();
    let length = html[from..].find("</script>").unwrap();
    serde_json::from_str(&html[from..from + length]).unwrap()
}

fn check_is_self_contained(html: &str) {
    assert!(!html.contains("<script>alert") && !html.contains("<b>bold"), "markup of a run must be escaped");
    assert_eq!(html.matches("</script>").count(), 3, "two of data, one of code");
    let own = &html[..html.find("<script type=\"application/json\"").unwrap()];
    assert!(!own.contains("http://") && !own.contains("https://"), "the page loads nothing");
}

#[test]
fn the_page_of_an_evaluation_has_every_score_and_every_item() {
    let folder = tempfile::tempdir().unwrap();
    write_run(folder.path(), 20, |i| (i != 19).then_some(i < 10));
    let page = folder.path().join("report.html");
    write_report(folder.path(), &page).unwrap();
    let html = fs::read_to_string(&page).unwrap();
    check_is_self_contained(&html);
    // 10 of 19 with Wilson's interval, one failed: with it from 10 of 20 to 11 of 20.
    for expected in
        ["0.526", "0.317 to 0.727", "1 failed", "0.500 to 0.550", "12.5 s", "one &#60;difference&#62;"]
    {
        assert!(html.contains(expected), "{expected}");
    }
    let data = script_data(&html, "samples");
    assert_eq!(
        (data["tasks"][0]["name"].as_str(), data["tasks"][0]["rule"].as_str()),
        (Some("svamp"), Some("All 20 items."))
    );
    let samples = data["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 24);
    let run = &samples[0]["runs"][0];
    assert_eq!(
        (run["values"][0].as_f64(), run["answers"][0]["text"].as_str().unwrap().contains("It is 3.")),
        (Some(1.0), true)
    );
    let failed = &samples[19]["runs"][0];
    assert!(
        failed["values"][0].is_null() && failed["why"].to_string().contains("a bad <gateway>"),
        "{failed}"
    );
    // Options are beside their likelihoods.
    let likelihoods = samples[20]["runs"][0]["answers"][0]["text"].as_str().unwrap();
    assert!(likelihoods.contains("-1.000  the answer  (2 tokens)"), "{likelihoods}");
    let charts = script_data(&html, "charts");
    let figure = &charts[0]["figure"];
    assert_eq!(figure["x"]["categories"], json!(["Addition", "Sub<traction>"]));
    let series = &figure["series"][0];
    // Of the even items 5 of 10 are right, of the odd ones 5 of 9.
    assert_eq!((series["y"][0].as_f64(), series["y"][1].as_f64()), (Some(0.5), Some(0.55556)));
    assert!(series["low"][0].as_f64().unwrap() < 0.3 && series["high"][0].as_f64().unwrap() > 0.7);
    if let Some(keep) = std::env::var_os("TRUING_TEST_KEEP_PAGE") {
        fs::copy(&page, keep).unwrap();
    }
}

#[test]
fn the_page_of_two_evaluations_has_differences_and_the_items_that_changed() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    write_run(folders[0].path(), 40, |i| Some(i < 10));
    write_run(folders[1].path(), 40, |i| Some((1..30).contains(&i)));
    let paths = [folders[0].path(), folders[1].path()];
    let pair = RunPair::read(paths[0], paths[1]).unwrap();
    let page = folders[0].path().join("comparison.html");
    write_comparison(paths, &pair, &page).unwrap();
    let html = fs::read_to_string(&page).unwrap();
    check_is_self_contained(&html);
    // 10 and 29 of 40; 20 up, 1 down: scipy.stats.binomtest(1, 21).pvalue is 2.1e-5
    for expected in ["0.250", "0.725", "+0.475", "McNemar", "&#60; 0.001", "20 up, 1 down", "second better"] {
        assert!(html.contains(expected), "{expected}");
    }
    let data = script_data(&html, "samples");
    assert_eq!(data["tasks"][0]["rule"], "All 21 items whose score changed.");
    let samples = data["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 21, "no item of ARC changed");
    let lost = samples.iter().find(|sample| sample["id"] == "0").unwrap();
    assert_eq!((&lost["runs"][0]["values"][0], &lost["runs"][1]["values"][0]), (&json!(1.0), &json!(0.0)));
    let charts = script_data(&html, "charts");
    assert_eq!(charts[0]["figure"]["series"][0]["y"][0].as_f64(), Some(0.475));
    assert!(html.contains("40 pairs"));
    // By category the values have no intervals of their own; those of the differences are of pairs.
    let series = |id: &str| {
        let chart = charts.as_array().unwrap().iter().find(|chart| chart["id"] == id).unwrap();
        chart["figure"]["series"].clone()
    };
    let values = series("chart-0-0");
    assert_eq!(values.as_array().unwrap().len(), 2);
    assert!(values[0].get("low").is_none() && values[1].get("low").is_none(), "{values}");
    let differences = series("chart-0-difference-0");
    // Of the 20 even items 5 were right and 14 are (2 to 28), of the odd ones 5 and 15.
    assert_eq!(differences[0]["y"], json!([0.45, 0.5]));
    assert_eq!(differences[0]["words"][0], "20 pairs, 0.250 → 0.700");
    assert!(differences[0]["low"][0].as_f64().unwrap() > 0.0);
    if let Some(keep) = std::env::var_os("TRUING_TEST_KEEP_PAGE") {
        fs::copy(&page, keep).unwrap();
    }
}

#[test]
fn the_page_of_two_evaluations_counts_what_is_not_compared() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    write_run(folders[0].path(), 40, |i| Some(i < 20));
    write_run(folders[1].path(), 36, |i| (i != 5).then_some(i < 20));
    let paths = [folders[0].path(), folders[1].path()];
    let pair = RunPair::read(paths[0], paths[1]).unwrap();
    let page = folders[0].path().join("comparison.html");
    write_comparison(paths, &pair, &page).unwrap();
    let html = fs::read_to_string(&page).unwrap();
    // 20 of 40 in the first; in the second 19 of 40, and five more at most.
    for expected in
        ["4 only in the first run, 1 without a score", "from -0.025 to +0.100", "detectable difference"]
    {
        assert!(html.contains(expected), "{expected}");
    }
    // Four questions of ARC can show nothing.
    assert!(html.contains("no difference can be resolved with 4 items"), "ARC");
}

#[test]
fn a_large_evaluation_gives_a_page_that_says_what_it_shows() {
    let folder = tempfile::tempdir().unwrap();
    write_run(folder.path(), 2400, |i| Some(i % 3 == 0));
    let page = folder.path().join("report.html");
    write_report(folder.path(), &page).unwrap();
    let html = fs::read_to_string(&page).unwrap();
    let data = script_data(&html, "samples");
    let rule = data["tasks"][0]["rule"].as_str().unwrap();
    assert_eq!(rule, "1,000 of 2,400 items, evenly spaced; all are in items_svamp.jsonl.");
    assert_eq!(data["samples"].as_array().unwrap().len(), 1004);
}

#[test]
fn damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write_run(folder.path(), 4, |_| Some(true));
    let items = folder.path().join(items_file("svamp"));
    let text = fs::read_to_string(&items).unwrap();
    fs::write(&items, text.replacen('{', "[", 1)).unwrap();
    let page = folder.path().join("report.html");
    let error = write_report(folder.path(), &page).unwrap_err();
    assert!(
        matches!(error, ReportError::Evaluation(_)) && error.to_string().contains("items_svamp.jsonl`:1"),
        "{error}"
    );
    assert!(!page.exists());
    let other = tempfile::tempdir().unwrap();
    let error = RunPair::read(folder.path(), other.path()).unwrap_err().to_string();
    assert!(error.contains("is not the folder of a finished evaluation"), "{error}");
}
