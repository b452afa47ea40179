//! `ability = "textbook"`.

use std::fs;
use std::sync::Mutex;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{MODELS, all_yes, last};
use crate::scripted::Scripted;

pub(crate) const RECIPE: &str = r#"
stage = "build"
ability = "textbook"
output_dir = "built"
[[data]]
path = "prompts.jsonl"
"#;
const REPLIES: &str = include_str!("fixtures/textbook.json");

fn replies() -> Vec<Value> {
    serde_json::from_str(REPLIES).unwrap()
}

pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let rows = replies().into_iter().map(|reply| json!({"prompt": reply["prompt"]}).to_string() + "\n");
    fs::write(folder.path().join("prompts.jsonl"), rows.collect::<String>()).unwrap();
    folder
}

fn recipe() -> String {
    format!("{RECIPE}{MODELS}")
}

fn is_exercise(text: &str) -> bool {
    text.starts_with("A textbook has") || text.starts_with("教材中有")
}

/// The recorded question and parts, or the recorded exercise and answer, of the request.
pub(crate) fn writer() -> Scripted {
    Scripted::new(|text| {
        let replies = replies();
        let reply = replies.iter().find(|reply| last(text, "prompt") == reply["prompt"]).unwrap();
        let tagged = |tag: &str, value: &Value| format!("<{tag}>\n{}\n</{tag}>\n", value.as_str().unwrap());
        if is_exercise(text) {
            return Ok(tagged("exercise", &reply["exercise"]) + &tagged("answer", &reply["answer"]));
        }
        let parts = reply["parts"].as_object().unwrap();
        let parts: String = parts.iter().map(|(tag, value)| tagged(tag, value)).collect();
        Ok(tagged("question", &reply["question"]) + &parts)
    })
}

/// Finds everything in order.
pub(crate) fn checker() -> Scripted {
    Scripted::new(|_| Ok(all_yes(7)))
}

#[test]
fn recorded_replies_make_rows_that_pass_the_check() {
    let folder = folder();
    let (writer, checker) = (writer(), checker());
    let built = super::run(folder.path(), &recipe(), vec![writer.open(), checker.open()]).unwrap();
    let (summary, n) = (&built.outcome.summary, replies().len());
    assert!(summary.recheck.share.unwrap() >= 0.95, "{:?}", built.fates);
    assert_eq!((summary.n_begun, summary.n_rows, summary.n_prompts), (n, n, 0), "{:?}", summary.dropped);
    assert_eq!((writer.asked().len(), checker.asked().len()), (2 * n, n));
    for (row, reply) in built.rows.iter().zip(replies()) {
        assert_eq!(row["aspect"], reply["aspect"]);
        let turns = row["messages"].as_array().unwrap();
        let roles: Vec<&str> = turns.iter().map(|turn| turn["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
        let contents = [&turns[0]["content"], &turns[2]["content"], &turns[3]["content"]];
        assert_eq!(contents, [&reply["question"], &reply["exercise"], &reply["answer"]]);
        for part in reply["parts"].as_object().unwrap().values() {
            assert!(turns[1]["content"].as_str().unwrap().contains(part.as_str().unwrap()));
        }
    }
    let zh = built.rows[4]["messages"][1]["content"].as_str().unwrap();
    assert!(zh.starts_with("## 专业水平\n\n听的人是八岁的孩子"), "{zh}");
    assert!(summary.coverage.kinds.iter().all(|row| (row.target, row.n_kept) == (Some(2), 2)), "{summary:?}");
}

#[test]
fn what_fails_is_written_again_and_then_dropped_with_its_reason() {
    let folder = folder();
    let rule = writer();
    // The exercise of the second is its request again; it never gets to the checker.
    let careless = Scripted::new(move |text| {
        if is_exercise(text) && text.contains("refrigerator") {
            return Ok(format!("<exercise>{}</exercise><answer>It pumps.</answer>", last(text, "prompt")));
        }
        rule.answer(text)
    });
    let n_bakery = Mutex::new(0);
    let strict = Scripted::new(move |text| {
        let mut n_bakery = n_bakery.lock().unwrap();
        let verdicts = match last(text, "prompt") {
            // Wrong once, then right.
            prompt if prompt.contains("bakery") => {
                *n_bakery += 1;
                if *n_bakery == 1 { "[[YES, YES, YES, YES, YES, YES, NO]]".to_owned() } else { all_yes(7) }
            }
            prompt if prompt.contains("team of five") => "[[YES, YES, NO, YES, YES, YES, YES]]".to_owned(),
            prompt if prompt.contains("grandmother") => "[[YES, YES, YES, YES, YES, NO, NO]]".to_owned(),
            _ => all_yes(7),
        };
        Ok(verdicts)
    });
    let built = super::run(folder.path(), &recipe(), vec![careless.open(), strict.open()]).unwrap();
    let reasons: Vec<Option<&str>> = built.fates.iter().map(|fate| fate.reason.as_deref()).collect();
    let expected = [
        None,
        Some("the exercise is the seed prompt again"),
        Some("a part of the lesson is wrong, or not about the request"),
        Some("the answer does not follow the lesson"),
    ];
    assert_eq!(reasons[..4], expected);
    assert!(reasons[4..].iter().all(Option::is_none));
    // Four chapters are written twice.
    assert_eq!(careless.asked().len(), 2 * (8 + 4));
    assert!(strict.asked().iter().all(|text| !text.contains("refrigerator")));
}
