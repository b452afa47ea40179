//! `ability = "mathematics"`.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{MODELS, last};
use crate::scripted::Scripted;

pub(crate) const RECIPE: &str = r#"
stage = "build"
ability = "mathematics"
output_dir = "built"
n_rows = 16
[mathematics]
knowledge_points = "points.toml"
"#;
const REPLIES: &str = include_str!("fixtures/mathematics.json");
const POINTS: &str = include_str!("fixtures/knowledge_points.toml");

pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("points.toml"), POINTS).unwrap();
    folder
}

fn replies() -> Vec<Value> {
    serde_json::from_str(REPLIES).unwrap()
}

fn recipe() -> String {
    format!("{RECIPE}{MODELS}")
}

/// The reply whose field is in the text.
fn reply_with(field: &str, text: &str) -> Value {
    let holds = |reply: &Value| text.contains(reply[field].as_str().unwrap());
    replies().into_iter().find(holds).unwrap()
}

fn is_new_problem(text: &str) -> bool {
    text.starts_with("Write one mathematics problem") || text.starts_with("请为“")
}

/// Writes the recorded problem of the knowledge point, and its recorded solution.
pub(crate) fn writer() -> Scripted {
    Scripted::new(|text| {
        if !is_new_problem(text) {
            return Ok(reply_with("problem", text)["solution"].as_str().unwrap().to_owned());
        }
        let line = text.lines().next().unwrap();
        let reply = reply_with("point", line);
        let (problem, answer) = (reply["problem"].as_str().unwrap(), reply["answer"].as_str().unwrap());
        Ok(format!("<problem>\n{problem}\n</problem>\n<answer>{answer}</answer>"))
    })
}

/// Solves every problem on its own.
pub(crate) fn checker() -> Scripted {
    Scripted::new(|text| Ok(reply_with("problem", text)["solution"].as_str().unwrap().to_owned()))
}

#[test]
fn recorded_replies_make_rows_that_pass_the_check() {
    let folder = folder();
    let (writer, checker) = (writer(), checker());
    let built = super::run(folder.path(), &recipe(), vec![writer.open(), checker.open()]).unwrap();
    let summary = &built.outcome.summary;
    assert_eq!((summary.n_units, summary.n_begun), (16, 16));
    assert!(summary.recheck.share.unwrap() >= 0.95, "{:?}", built.fates);
    assert_eq!((summary.n_rows, summary.n_prompts), (16, 16), "{:?}", summary.dropped);
    assert_eq!(writer.asked().len(), 32, "every problem and every solution once");
    assert!(checker.asked().iter().all(|text| !text.contains("<answer>")), "no answer is shown");
    assert!(writer.asked().iter().any(|text| text.contains("95 %")));
    let levels = ["elementary", "middle", "high", "college"];
    for level in levels {
        assert_eq!(built.rows.iter().filter(|row| row["level"] == level).count(), 4, "{level}");
    }
    assert_eq!(built.rows.iter().filter(|row| row["language"] == "zh").count(), 8);
    assert!(summary.coverage.kinds.iter().all(|row| (row.target, row.n_kept) == (Some(2), 2)), "{summary:?}");
    assert_eq!(summary.coverage.covered_share, Some(1.0));
}

#[test]
fn wrong_answers_mentions_of_a_reference_and_other_results_are_dropped() {
    let folder = folder();
    let rule = writer();
    let n_honey = std::sync::atomic::AtomicUsize::new(0);
    let careless = Scripted::new(move |text| {
        if is_new_problem(text) {
            return rule.answer(text);
        }
        // The first solution is wrong, the second right.
        let is_first = || n_honey.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        if text.contains("beekeepers") && is_first() {
            return Ok(r"It is \boxed{24}.".to_owned());
        }
        if text.contains("kite") {
            return Ok(r"\boxed{65}".to_owned());
        }
        let remark = if text.contains("ferry") { " This matches the given answer." } else { "" };
        Ok(rule.answer(text)? + remark)
    });
    let rule = checker();
    let other = Scripted::new(move |text| {
        if text.contains("flea market") { Ok(r"So \boxed{30}".to_owned()) } else { rule.answer(text) }
    });
    let built = super::run(folder.path(), &recipe(), vec![careless.open(), other.open()]).unwrap();
    let mut reasons: Vec<&str> = built.fates.iter().filter_map(|fate| fate.reason.as_deref()).collect();
    reasons.sort_unstable();
    let expected = [
        "an independent solution has another answer",
        "every solution with the reference answer speaks of a reference",
        "no solution has the reference answer",
    ];
    assert_eq!(reasons, expected);
    let detail = built.fates.iter().find_map(|fate| fate.detail.as_deref());
    assert_eq!(detail, Some("30 instead of 25"));
    let honey = built.rows.iter().find(|row| row["answer"] == "32").unwrap();
    assert!(honey["messages"][1]["content"].as_str().unwrap().ends_with(r"\boxed{32}"));
}

#[test]
fn rows_with_reference_answers_are_expanded() {
    let folder = folder();
    let rows = replies()
        .into_iter()
        .map(|reply| {
            let answer = format!("#### {}", reply["answer"].as_str().unwrap());
            json!({"question": reply["problem"], "answer": answer})
        })
        .chain([json!({"question": "What is love?", "answer": "?"}), json!({"question": "How many?"})])
        .map(|row| row.to_string() + "\n");
    fs::write(folder.path().join("problems.jsonl"), rows.collect::<String>()).unwrap();
    let data = "[[data]]\npath = \"problems.jsonl\"\n";
    let recipe = format!("stage = \"build\"\nability = \"mathematics\"\noutput_dir = \"built\"\n{data}");
    let (writer, checker) = (writer(), checker());
    let recipe = format!("{recipe}{MODELS}");
    let built = super::run(folder.path(), &recipe, vec![writer.open(), checker.open()]).unwrap();
    assert_eq!((built.rows.len(), built.prompts.len()), (16, 16));
    assert_eq!(built.prompts[0]["answer"], "32", "the answer alone is the reference");
    let unusable = Some("no readable answer in `mathematics.answer_column`");
    assert!(built.fates[16..].iter().all(|fate| fate.reason.as_deref() == unusable), "{:?}", built.fates);
    assert!(checker.asked().is_empty() && writer.asked().len() == 16);
    assert!(last(&writer.asked()[0], "answer") == "32");
}
