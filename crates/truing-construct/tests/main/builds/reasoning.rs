//! `ability = "reasoning"`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{MODELS, last};
use crate::scripted::Scripted;

pub(crate) const RECIPE: &str = r#"
stage = "build"
ability = "reasoning"
output_dir = "built"
n_rows = 14
[reasoning]
max_easy_share = 0.7
"#;
const REPLIES: &str = include_str!("fixtures/reasoning.json");

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
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

fn text_of(reply: &Value, field: &str) -> String {
    reply[field].as_str().unwrap().to_owned()
}

fn is_new_question(text: &str) -> bool {
    text.starts_with("Write one question") || text.starts_with("请出一道")
}

fn is_comparison(text: &str) -> bool {
    text.starts_with("Two answers") || text.starts_with("下面是对同一个问题的两个答案")
}

/// Writes the recorded question of the kind, and the recorded corrected chain.
pub(crate) fn writer() -> Scripted {
    Scripted::new(|text| {
        if !is_new_question(text) {
            return Ok(text_of(&reply_with("question", text), "corrected"));
        }
        let reply = reply_with("kind", text.lines().next().unwrap());
        let (question, answer) = (text_of(&reply, "question"), text_of(&reply, "answer"));
        Ok(format!("<question>\n{question}\n</question>\n<answer>{answer}</answer>"))
    })
}

/// Gives the recorded wrong answer as often as recorded, then the right one; knows the recorded other wordings.
pub(crate) fn checker() -> Scripted {
    let n_asked: Mutex<BTreeMap<String, u64>> = Mutex::default();
    Scripted::new(move |text| {
        let reply = reply_with("question", text);
        if is_comparison(text) {
            let is_same = reply["other"].as_str() == Some(last(text, "answer"));
            return Ok(if is_same { "[[YES]]" } else { "[[NO]]" }.to_owned());
        }
        let mut n_asked = n_asked.lock().unwrap();
        let n_before = n_asked.entry(text.to_owned()).or_default();
        *n_before += 1;
        let is_wrong = *n_before <= reply["n_wrong"].as_u64().unwrap_or(0);
        Ok(text_of(&reply, if is_wrong { "wrong" } else { "solution" }))
    })
}

#[test]
fn recorded_replies_make_rows_that_pass_the_check() {
    let folder = folder();
    let (writer, checker) = (writer(), checker());
    let built = super::run(folder.path(), &recipe(), vec![writer.open(), checker.open()]).unwrap();
    let summary = &built.outcome.summary;
    assert_eq!((summary.n_units, summary.n_begun), (14, 14));
    assert!(summary.recheck.share.unwrap() >= 0.95, "{:?}", built.fates);
    assert_eq!((summary.n_rows, summary.n_prompts), (14, 14), "{:?}", summary.dropped);
    assert!(summary.coverage.kinds.iter().all(|row| (row.target, row.n_kept) == (Some(2), 2)), "{summary:?}");
    assert_eq!(writer.asked().len(), 14 + 5, "every question, and every question with a wrong answer");
    let (compared, answered): (Vec<String>, Vec<String>) =
        checker.asked().into_iter().partition(|text| is_comparison(text));
    assert_eq!((answered.len(), compared.len()), (14 * 4, 7));
    assert!(answered.iter().all(|text| !text.contains("<answer>")), "no answer is shown");
    let with = |word: &str| {
        let row =
            built.rows.iter().find(|row| row["messages"][0]["content"].as_str().unwrap().contains(word));
        row.unwrap().clone()
    };
    let matches = with("matches");
    assert_eq!((&matches["pass_rate"], &matches["is_reflection"]), (&json!(0.5), &json!(true)));
    assert!(matches["messages"][1]["content"].as_str().unwrap().starts_with("An even number is not enough"));
    assert!(matches["wrong_response"].as_str().unwrap().ends_with("Answer: 1"));
    assert_eq!(with("choir")["same_answers"], json!(["Mira is not a soloist today"]));
    let frozen = with("freezer");
    assert_eq!((&frozen["pass_rate"], &frozen["is_reflection"]), (&json!(1.0), &json!(false)));
    assert_eq!(frozen["wrong_response"], Value::Null);
    assert_eq!(built.rows.iter().filter(|row| row["is_reflection"] == true).count(), 5);
}

#[test]
fn easy_questions_beyond_their_share_are_dropped() {
    let folder = folder();
    let recipe = recipe().replace("max_easy_share = 0.7", "max_easy_share = 0.5");
    let built = super::run(folder.path(), &recipe, vec![writer().open(), checker().open()]).unwrap();
    let n_easy = built.rows.iter().filter(|row| row["pass_rate"] == 1.0).count();
    assert_eq!((built.rows.len(), n_easy), (10, 5));
    let dropped = &built.outcome.summary.dropped;
    let reason = "difficulty: more questions that every answer has right than `reasoning.max_easy_share`";
    assert_eq!(dropped.get(reason), Some(&4), "{dropped:?}");
}

#[test]
fn references_without_agreement_and_chains_that_mention_one_are_not_used() {
    let folder = folder();
    let rule = writer();
    let careless = Scripted::new(move |text| {
        let reply = rule.answer(text)?;
        if is_new_question(text) && reply.contains("freezer") {
            return Ok(reply.replace(">frozen<", &format!(">{}<", "frozen, as I would say ".repeat(8))));
        }
        let remark =
            if text.contains("matches") { "Unlike the previous answer, this is right.\n" } else { "" };
        Ok(format!("{remark}{reply}"))
    });
    let rule = checker();
    let n_orchard = Mutex::new(0);
    let other = Scripted::new(move |text| {
        if text.contains("camping stove") && !is_comparison(text) {
            return Ok("Answer: 40".to_owned());
        }
        // Three of four are wrong, and agree.
        let is_wrong = || {
            let mut n_orchard = n_orchard.lock().unwrap();
            *n_orchard += 1;
            *n_orchard > 1
        };
        if text.contains("orchard") && !is_comparison(text) && is_wrong() {
            return Ok("Answer: 8".to_owned());
        }
        if text.contains("orchard") && !is_comparison(text) {
            return Ok("Answer: 9".to_owned());
        }
        rule.answer(text)
    });
    let built = super::run(folder.path(), &recipe(), vec![careless.open(), other.open()]).unwrap();
    let mut reasons: Vec<&str> = built.fates.iter().filter_map(|fate| fate.reason.as_deref()).collect();
    reasons.sort_unstable();
    let expected = [
        "more independent answers agree on another answer",
        "no independent answer agrees with the reference",
        "the answer is not a short one",
    ];
    assert_eq!(reasons, expected);
    let detail = built.fates.iter().find(|fate| fate.reason.as_deref() == Some(expected[0])).unwrap();
    assert_eq!(detail.detail.as_deref(), Some("9, 8, 8, 8 instead of 9"));
    let matches = built.rows.iter().find(|row| row["pass_rate"] == 0.5).unwrap();
    assert_eq!(matches["is_reflection"], false, "the corrected chain is replaced by an independent answer");
    assert!(matches["messages"][1]["content"].as_str().unwrap().starts_with("Whoever leaves a multiple"));
}

#[test]
fn rows_with_reference_answers_are_answered_and_corrected() {
    let folder = folder();
    let row = |reply: Value| json!({"question": reply["question"], "answer": reply["answer"], "kind": "disruptive"});
    let long = json!({"question": "What is love?", "answer": "a long story ".repeat(20)});
    let rows = replies().into_iter().map(row).chain([long, json!({"question": "How many?"})]);
    let rows: String = rows.map(|row| row.to_string() + "\n").collect();
    fs::write(folder.path().join("questions.jsonl"), rows).unwrap();
    let head = "stage = \"build\"\nability = \"reasoning\"\noutput_dir = \"built\"\n";
    let tables = "[reasoning]\nmax_easy_share = 1.0\n[[data]]\npath = \"questions.jsonl\"\n";
    let rule = checker();
    let always_wrong = Scripted::new(move |text| match text.contains("orchard") && !is_comparison(text) {
        true => Ok("17 - 9 = 8\nAnswer: 8".to_owned()),
        false => rule.answer(text),
    });
    let writer = writer();
    let recipe = format!("{head}{tables}{MODELS}");
    let built = super::run(folder.path(), &recipe, vec![writer.open(), always_wrong.open()]).unwrap();
    assert_eq!((built.rows.len(), built.prompts.len(), writer.asked().len()), (14, 14, 5));
    let orchard = built.rows.iter().find(|row| row["pass_rate"] == 0.0).unwrap();
    assert_eq!((&orchard["is_reflection"], &orchard["answer"]), (&json!(true), &json!("9")));
    assert_eq!(orchard["reasoning_kind"], "disruptive");
    let unusable = Some("no short answer in `reasoning.answer_column`");
    assert!(built.fates[14..].iter().all(|fate| fate.reason.as_deref() == unusable), "{:?}", built.fates);
}
