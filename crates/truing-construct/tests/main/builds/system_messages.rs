//! `ability = "system_messages"`.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{MODELS, all_yes, last};
use crate::scripted::Scripted;

pub(crate) const RECIPE: &str = r#"
stage = "build"
ability = "system_messages"
output_dir = "built"
[system_messages]
max_constraints = 1
groups = ["language"]
exclude = ["language.other_language", "language.all_capitals", "language.all_lowercase", "language.capital_words"]
[[data]]
path = "prompts.jsonl"
"#;
const REPLIES: &str = include_str!("fixtures/system_messages.json");
const COMPONENTS: [&str; 5] = ["task", "workflow", "output", "rules", "opening"];

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

fn is_evolution(text: &str) -> bool {
    text.contains("Write a better version") || text.contains("请写出更好的版本")
}

/// The recorded components, with the constraints among the rules; evolved by a sentence; and the recorded response.
pub(crate) fn writer() -> Scripted {
    Scripted::new(|text| {
        if is_evolution(text) {
            return Ok(format!("<system>\n{}\nBe exact.\n</system>", last(text, "system")));
        }
        let replies = replies();
        let reply = replies.iter().find(|reply| text.contains(reply["prompt"].as_str().unwrap())).unwrap();
        if !text.contains("<constraints>") {
            return Ok(reply["response"].as_str().unwrap().to_owned());
        }
        let sentences = last(text, "constraints").lines().map(|line| line.split_once(". ").unwrap().1);
        let sentences = sentences.collect::<Vec<_>>().join(" ");
        let component = |tag: &str| {
            let more = if tag == "rules" { format!(" {sentences}") } else { String::new() };
            format!("<{tag}>{}{more}</{tag}>", reply[tag].as_str().unwrap())
        };
        Ok(COMPONENTS.map(component).join("\n"))
    })
}

/// Finds everything in order.
pub(crate) fn checker() -> Scripted {
    Scripted::new(|text| Ok(all_yes(last(text, "constraints").lines().count() + 4)))
}

#[test]
fn recorded_replies_make_rows_that_pass_the_check() {
    let folder = folder();
    let built = super::run(folder.path(), &recipe(), vec![writer().open(), checker().open()]).unwrap();
    let (summary, n) = (&built.outcome.summary, replies().len());
    assert!(summary.recheck.share.unwrap() >= 0.95, "{:?}", built.fates);
    assert_eq!((summary.n_begun, summary.n_rows, summary.n_prompts), (n, n, n), "{:?}", summary.dropped);
    for (row, reply) in built.rows.iter().zip(replies()) {
        let turns = row["messages"].as_array().unwrap();
        assert_eq!(turns.len(), 3);
        assert_eq!((&turns[0]["role"], &turns[1]["content"]), (&json!("system"), &reply["prompt"]));
        let message = turns[0]["content"].as_str().unwrap();
        assert!(message.contains(row["constraints"][0]["text"].as_str().unwrap()), "{message}");
        assert!(message.ends_with("Be exact."), "it was evolved: {message}");
        assert_eq!(turns[2]["content"], reply["response"]);
    }
    let asked = built.prompts[0]["prompt"].as_array().unwrap();
    assert_eq!((asked.len(), &asked[0]["role"]), (2, &json!("system")));
    let kinds = summary.coverage.kinds.iter().filter(|row| row.target.is_some());
    assert!(kinds.clone().all(|row| (row.target, row.n_kept) == (Some(2), 2)), "{:?}", summary.coverage);
    assert_eq!(kinds.count(), 4);
}

#[test]
fn messages_that_the_filter_rejects_say_why() {
    let folder = folder();
    // A contradiction in the first message, a constraint that is not there in the second.
    let strict = Scripted::new(|text| {
        let verdicts = match last(text, "prompt") {
            "How do I keep basil alive in winter?" => "[[YES, NO, YES, YES, YES]]",
            "My parcel says delivered but I do not have it." => "[[YES, YES, YES, YES, NO]]",
            _ => "[[YES, YES, YES, YES, YES]]",
        };
        Ok(verdicts.to_owned())
    });
    let built = super::run(folder.path(), &recipe(), vec![writer().open(), strict.open()]).unwrap();
    let reasons: Vec<Option<&str>> = built.fates.iter().map(|fate| fate.reason.as_deref()).collect();
    let expected = [
        Some("the message contradicts itself"),
        Some("the checker does not find every constraint in the message"),
        None,
    ];
    assert_eq!(reasons[..3], expected);
    assert_eq!(built.rows.len(), replies().len() - 2);
}
