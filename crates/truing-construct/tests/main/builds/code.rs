//! `ability = "code"`.
#![allow(clippy::print_stderr, reason = "says why a test was skipped")]

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use truing_reward::sandbox::{Level, isolation};

use super::{MODELS, SANDBOX_CHILD, all_yes, last};
use crate::scripted::Scripted;

pub(crate) const RECIPE: &str = r#"
stage = "build"
ability = "code"
output_dir = "built"
n_rows = 10
[code]
languages = ["javascript"]
"#;
const PYTHON: &str = r#"
stage = "build"
ability = "code"
output_dir = "built"
n_rows = 3
[code]
categories = ["generation", "completion", "debugging"]
languages = ["python"]
prompt_languages = ["en"]
"#;
const REPLIES: &str = include_str!("fixtures/code.json");
const PYTHON_REPLIES: &str = include_str!("fixtures/code_python.json");

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Whether Python runs in the sandbox here.
pub(crate) fn has_python() -> bool {
    let python = Command::new("python3").arg("--version").output();
    let is_there = python.is_ok_and(|output| output.status.success())
        && isolation(Path::new(SANDBOX_CHILD)).level != Level::Nothing;
    if !is_there {
        eprintln!("skipped: Python does not run in the sandbox here");
    }
    is_there
}

fn tagged(reply: &Value, tag: &str, field: &str) -> String {
    reply[field].as_str().map_or_else(String::new, |text| format!("<{tag}>\n{text}\n</{tag}>\n"))
}

/// Replies of a writer as they are recorded, by the category, and later by the task.
fn writer_of(replies: &'static str) -> Scripted {
    Scripted::new(move |text| {
        let replies: Vec<Value> = serde_json::from_str(replies).unwrap();
        let holds = |field: &str, text: &str| {
            let reply = replies.iter().find(|reply| text.contains(reply[field].as_str().unwrap()));
            reply.unwrap().clone()
        };
        if text.starts_with("Write a request") || text.starts_with("请写出一条") {
            let reply = holds("category", text);
            let parts =
                [("request", "task"), ("given_code", "code"), ("solution", "solution"), ("tests", "tests")];
            return Ok(parts.map(|(tag, field)| tagged(&reply, tag, field)).concat());
        }
        let reply = holds("task", text);
        if text.contains("<response>") {
            return Ok(tagged(&reply, "follow_up", "follow_up") + &tagged(&reply, "answer", "answer"));
        }
        Ok(reply["response"].as_str().unwrap().to_owned())
    })
}

pub(crate) fn writer() -> Scripted {
    writer_of(REPLIES)
}

fn is_first_review(text: &str) -> bool {
    text.starts_with("You review a request") || text.starts_with("你的任务是审查一条")
}

/// Finds everything in order, and of medium difficulty.
pub(crate) fn checker() -> Scripted {
    Scripted::new(|text| {
        Ok(match is_first_review(text) {
            true => format!("<difficulty>2</difficulty>\n{}", all_yes(4)),
            false => all_yes(3),
        })
    })
}

#[test]
fn recorded_replies_make_rows_that_pass_the_check() {
    let folder = folder();
    let (writer, checker) = (writer(), checker());
    let recipe = format!("{RECIPE}{MODELS}");
    let built = super::run(folder.path(), &recipe, vec![writer.open(), checker.open()]).unwrap();
    let summary = &built.outcome.summary;
    assert!(summary.recheck.share.unwrap() >= 0.95, "{:?}", built.fates);
    assert_eq!((summary.n_begun, summary.n_rows, summary.n_prompts), (10, 10, 0), "{:?}", summary.dropped);
    assert_eq!((writer.asked().len(), checker.asked().len()), (30, 20));
    for row in &built.rows {
        let turns = row["messages"].as_array().unwrap();
        let roles: Vec<&str> = turns.iter().map(|turn| turn["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
        assert_eq!((&row["difficulty"], &row["has_follow_up"]), (&json!("medium"), &json!(true)));
    }
    for category in ["generation", "completion", "debugging", "explanation", "knowledge_qa"] {
        let languages: Vec<&str> = built
            .rows
            .iter()
            .filter(|row| row["category"] == category)
            .map(|row| row["language"].as_str().unwrap())
            .collect();
        assert!(languages == ["en", "zh"] || languages == ["zh", "en"], "{category}: {languages:?}");
    }
    let sorting = built.rows.iter().find(|row| row["category"] == "debugging" && row["language"] == "en");
    let prompt = sorting.unwrap()["messages"][0]["content"].as_str().unwrap();
    assert!(prompt.ends_with(
        "What is wrong?\n\n```javascript\nconst sorted = [10, 9, 100].sort();\nconsole.log(sorted);\n```"
    ));
    let checked = summary.coverage.kinds.iter().find(|row| row.kind.starts_with("checked_by"));
    assert_eq!(checked.map(|row| (row.kind.as_str(), row.n_kept)), Some(("checked_by.checker", 10)));
}

#[test]
fn very_hard_tasks_and_wrong_responses_are_dropped_and_poor_follow_ups_left_out() {
    let folder = folder();
    let strict = Scripted::new(|text| {
        let task = last(text, "task");
        Ok(match is_first_review(text) {
            true if task.contains("nightsPerMonth") => format!("<difficulty>4</difficulty>{}", all_yes(4)),
            true if task.contains("list of prices") => {
                "<difficulty>1</difficulty>[[YES, YES, NO, NO]]".into()
            }
            true => format!("<difficulty>3</difficulty>{}", all_yes(4)),
            false if task.contains("wordCounts") => "[[NO, YES, YES]]".into(),
            false => all_yes(3),
        })
    });
    let writer = writer();
    let recipe = format!("{RECIPE}{MODELS}");
    let built = super::run(folder.path(), &recipe, vec![writer.open(), strict.open()]).unwrap();
    let mut reasons: Vec<&str> = built.fates.iter().filter_map(|fate| fate.reason.as_deref()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["the response is wrong", "the task is very hard"]);
    // Ten tasks, ten responses and one again, eight deeper questions.
    assert_eq!(writer.asked().len(), 10 + 10 + 1 + 8);
    let short: Vec<&Value> = built.rows.iter().filter(|row| row["has_follow_up"] == false).collect();
    assert_eq!((built.rows.len(), short.len()), (8, 1));
    assert_eq!(short[0]["messages"].as_array().unwrap().len(), 2);
}

#[test]
fn a_response_without_the_code_that_is_wanted_is_not_reviewed() {
    let folder = folder();
    let rule = writer();
    let wordy = Scripted::new(move |text| {
        let reply = rule.answer(text)?;
        let is_response = !text.starts_with("Write a request") && !text.contains("<response>");
        let is_bare = is_response && (text.contains("nightsPerMonth") || text.contains("== and ==="));
        Ok(if is_bare { reply.replace("```", "") } else { reply })
    });
    let checker = checker();
    let recipe = format!("{RECIPE}{MODELS}");
    let built = super::run(folder.path(), &recipe, vec![wordy.open(), checker.open()]).unwrap();
    let reasons: Vec<(&str, &str)> = built
        .fates
        .iter()
        .filter_map(|fate| Some((fate.step.as_deref()?, fate.reason.as_deref()?)))
        .collect();
    assert_eq!(reasons, [("response", "the response has no code in a fence")], "a question needs no code");
    assert!(checker.asked().iter().all(|text| !text.contains("nightsPerMonth")));
    assert_eq!(built.outcome.summary.recheck.share, Some(1.0));
}

#[test]
fn python_is_run_with_tests_that_notice_faults() {
    if !has_python() {
        return;
    }
    let folder = folder();
    let recipe = format!("{PYTHON}{MODELS}");
    let models = || vec![writer_of(PYTHON_REPLIES).open(), checker().open()];
    let built = super::run(folder.path(), &recipe, models()).unwrap();
    let summary = &built.outcome.summary;
    assert_eq!((summary.n_rows, summary.n_prompts), (3, 3), "{:?}", built.fates);
    assert_eq!((summary.recheck.n_checked, summary.recheck.n_passed), (3, 3));
    for row in &built.prompts {
        assert!(row["n_mutants"].as_u64().unwrap() >= 4 && row["n_caught"] == row["n_mutants"], "{row}");
        assert!(row["test"].as_str().unwrap().starts_with("assert "));
    }
    let is_tested = |row: &&truing_construct::build::CoverageRow| row.kind == "checked_by.tests";
    assert_eq!(summary.coverage.kinds.iter().find(is_tested).map(|row| row.n_kept), Some(3));
}

#[test]
fn tests_that_prove_nothing_drop_their_tasks() {
    if !has_python() {
        return;
    }
    let folder = folder();
    let rule = writer_of(PYTHON_REPLIES);
    let careless = Scripted::new(move |text| {
        let reply = rule.answer(text)?;
        if !reply.contains("<tests>") {
            return Ok(reply);
        }
        let tests = last(&reply, "tests").to_owned();
        Ok(if reply.contains("merge_intervals") {
            reply.replace(&tests, "assert merge_intervals([]) == []")
        } else if reply.contains("running_mean") {
            reply.replace("means = []", "means = [0]")
        } else {
            reply.replace(last(&reply, "given_code"), last(&reply, "solution"))
        })
    });
    let recipe = format!("{PYTHON}{MODELS}");
    let error = super::run(folder.path(), &recipe, vec![careless.open(), checker().open()]).unwrap_err();
    assert!(error.to_string().contains("no rows of 3"), "{error}");
    let fates: Vec<Value> = super::lines(&folder.path().join("built/fates.jsonl"));
    let reasons: Vec<&str> = fates.iter().map(|fate| fate["reason"].as_str().unwrap()).collect();
    let expected = [
        "the tests do not notice faults",
        "the solution does not pass its tests",
        "the faulty program passes the tests",
    ];
    assert_eq!(reasons, expected);
    assert_eq!(careless.asked().len(), 3, "nothing else is asked");
}
