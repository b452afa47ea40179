//! `ability = "rewrite"`.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{MODELS, last, starts_with_one_of};
use crate::scripted::Scripted;

pub(crate) const RECIPE: &str = r#"
stage = "build"
ability = "rewrite"
output_dir = "built"
[rewrite]
faults = ["It apologises without a reason.", "It states a number without saying where it is from."]
[[data]]
path = "responses.jsonl"
"#;

const APOLOGY: &str = "I am so sorry to bother you. ";

/// Prompt, response, fault of a person, reference.
type Row = (&'static str, &'static str, Option<&'static str>, Option<&'static str>);

const ROWS: [Row; 5] = [
    ("How do I keep basil fresh for a week?", "Stand it in water like flowers.", None, None),
    ("What is a good way to learn the names of birds?", "Learn five a week, by their songs.", None, None),
    (
        "Add 17 and 25, and say how you did it.",
        "17 and 25 is 43.\nAnswer: 43",
        Some("It adds wrongly."),
        Some("42"),
    ),
    ("怎样让孩子爱上阅读？", "每天睡前一起读十五分钟。", Some("开头道歉没有理由。"), None),
    ("Why does bread rise?", "Yeast makes gas, which the dough holds.", None, None),
];

pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let row = |(n, (prompt, response, fault, answer)): (usize, &Row)| {
        // All but the last two begin with an apology.
        let apology = if n < 2 || fault.is_some() { APOLOGY } else { "" };
        let mut row = json!({"prompt": prompt, "response": format!("{apology}{response}")});
        if let Some(fault) = fault {
            row["fault"] = json!(fault);
        }
        if let Some(answer) = answer {
            row["answer"] = json!(answer);
        }
        row.to_string() + "\n"
    };
    let rows: String = ROWS.iter().enumerate().map(row).collect();
    fs::write(folder.path().join("responses.jsonl"), rows).unwrap();
    folder
}

fn recipe() -> String {
    format!("{RECIPE}{MODELS}")
}

fn is_search(text: &str) -> bool {
    starts_with_one_of(text, ["Criticise", "请批评"])
}

/// Leaves the apology out, and adds right.
pub(crate) fn writer() -> Scripted {
    Scripted::new(|text| {
        let better = last(text, "response").replace(APOLOGY, "").replace("43", "42");
        Ok(format!("<response>\n{better}\n</response>"))
    })
}

/// Finds apologies and gives them a low score.
pub(crate) fn checker() -> Scripted {
    Scripted::new(|text| {
        let has_apology = last(text, "response").contains(APOLOGY);
        let n_faults = last(text, "fault").lines().count();
        let mut verdicts = vec!["NO"; n_faults];
        if has_apology {
            verdicts[0] = "YES";
        }
        let critique = if has_apology { "It begins with an apology; nothing calls for one." } else { "" };
        Ok(match is_search(text) {
            true => format!("<critique>\n{critique}\n</critique>\n[[{}]]", verdicts.join(", ")),
            false if has_apology => "It apologises. [[5]]".into(),
            false => "Clear. [[8]]".into(),
        })
    })
}

#[test]
fn recorded_replies_make_rows_that_pass_the_check() {
    let folder = folder();
    let (writer, checker) = (writer(), checker());
    let built = super::run(folder.path(), &recipe(), vec![writer.open(), checker.open()]).unwrap();
    let summary = &built.outcome.summary;
    assert_eq!((summary.n_begun, summary.n_rows, summary.n_prompts), (5, 4, 0), "{:?}", built.fates);
    assert_eq!(built.fates[4].reason.as_deref(), Some("the response has none of the faults"));
    assert_eq!(summary.recheck.share, Some(1.0));
    for (row, (prompt, response, ..)) in built.rows.iter().zip(ROWS) {
        let turns = &row["messages"];
        let expected = response.replace("43", "42");
        assert_eq!((&turns[0]["content"], &turns[1]["content"]), (&json!(prompt), &json!(expected)));
        assert_eq!(row["original_response"], format!("{APOLOGY}{response}"));
        assert_eq!((&row["original_score"], &row["score"]), (&json!(5.0), &json!(8.0)));
        assert!(!row["critique"].as_str().unwrap().is_empty());
    }
    assert_eq!(built.rows[0]["faults"], json!(["It apologises without a reason."]));
    assert_eq!(
        (&built.rows[2]["faults"], &built.rows[2]["answer"]),
        (&json!(["It adds wrongly."]), &json!("42"))
    );
    // Five critiques, four grades before and four after.
    assert_eq!((writer.asked().len(), checker.asked().len()), (4, 5 + 4 + 4));
}

#[test]
fn only_what_is_better_by_the_margin_or_right_where_the_original_was_wrong_is_accepted() {
    let folder = folder();
    let rule = writer();
    // The basil comes back unchanged; the sum stays wrong the first time.
    let n_sums = std::sync::atomic::AtomicUsize::new(0);
    let lazy = Scripted::new(move |text| {
        let reply = rule.answer(text)?;
        let is_first_sum = || n_sums.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        Ok(match () {
            () if text.contains("basil") => format!("<response>\n{}\n</response>", last(text, "response")),
            () if text.contains("17 and 25") && is_first_sum() => reply.replace("42", "44"),
            () => reply,
        })
    });
    let search = checker();
    let indifferent = Scripted::new(move |text| match is_search(text) {
        true => search.answer(text),
        false => Ok("Well. [[6]]".into()),
    });
    let built = super::run(folder.path(), &recipe(), vec![lazy.open(), indifferent.open()]).unwrap();
    let reasons: Vec<Option<&str>> = built.fates.iter().map(|fate| fate.reason.as_deref()).collect();
    let expected = [
        Some("the new response is the original"),
        Some("no new response is better by `rewrite.min_margin`"),
        None,
        Some("no new response is better by `rewrite.min_margin`"),
        Some("the response has none of the faults"),
    ];
    assert_eq!(reasons, expected);
    let row: &Value = &built.rows[0];
    assert_eq!(
        (&row["n_rewrites"], &row["score"], &row["original_score"]),
        (&json!(2), &json!(6.0), &json!(6.0))
    );
}

#[test]
fn what_no_score_is_better_than_by_the_margin_is_not_rewritten() {
    let folder = folder();
    let (search, writer) = (checker(), writer());
    let delighted = Scripted::new(move |text| match is_search(text) {
        true => search.answer(text),
        false => Ok("Perfect. [[10]]".into()),
    });
    let built = super::run(folder.path(), &recipe(), vec![writer.open(), delighted.open()]).unwrap();
    let reasons: Vec<Option<&str>> = built.fates.iter().map(|fate| fate.reason.as_deref()).collect();
    let best = Some("no response can be better by `rewrite.min_margin`");
    // The sum was wrong, and is right now.
    assert_eq!(reasons, [best, best, None, best, Some("the response has none of the faults")]);
    assert_eq!(writer.asked().len(), 1);
}

#[test]
fn rows_without_a_response_or_a_fault_to_look_for_are_dropped_before_anything_is_asked() {
    let folder = folder();
    let write = |rows: &[&str]| fs::write(folder.path().join("responses.jsonl"), rows.join("\n")).unwrap();
    let unusable = r#"{"prompt": "Why?"}"#;
    let plain = r#"{"prompt": "How?", "response": "So."}"#;
    write(&[unusable, plain]);
    let none: String = recipe().split_inclusive('\n').filter(|line| !line.starts_with("faults = ")).collect();
    let error = super::plan(folder.path(), &none, &[]).unwrap_err().to_string();
    assert!(
        error.contains("`data` is 2 rows, none of which can be used, the first: no response in"),
        "{error}"
    );
    let story =
        format!(r#"{{"prompt": "When?", "response": "Now.", "answer": "{}"}}"#, "It is long. ".repeat(20));
    let marked = r#"{"prompt": "How many?", "response": "3", "fault": ["It is short.", " ", "It is bare."],
        "answer": "One and two are three.\n#### 3"}"#;
    write(&[unusable, plain, &story, &marked.replace('\n', " ")]);
    let (plan, _) = super::plan(folder.path(), &recipe(), &[]).unwrap();
    let dropped: Vec<bool> = plan.job.units().iter().map(|unit| unit.dropped.is_some()).collect();
    assert_eq!(dropped, [true, false, true, false]);
    let reason = plan.job.units()[2].dropped.as_ref().map(|dropped| dropped.reason.as_str());
    assert_eq!(reason, Some("no short answer in `rewrite.answer_column`"));
    assert_eq!(plan.job.units()[3].kinds, ["It is short.", "It is bare."]);
    let n_calls: Vec<(u64, u64)> = plan.calls.iter().map(|one| (one.n_calls, one.max_calls)).collect();
    assert_eq!(n_calls, [(2, 2), (2, 2), (2, 4), (2, 4)]);
    let error = super::plan(folder.path(), &recipe(), &["temperature=0"]).unwrap_err().to_string();
    assert!(
        error.contains("`temperature` is 0: expected above 0, or `rewrite.max_rewrites` of 1"),
        "{error}"
    );
}
