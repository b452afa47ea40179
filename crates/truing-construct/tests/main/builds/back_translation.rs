//! `ability = "back_translation"`.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::reversal::replies;
use super::{MODELS, last, starts_with_one_of};
use crate::scripted::Scripted;

pub(crate) const RECIPE: &str = r#"
stage = "build"
ability = "back_translation"
output_dir = "built"
[back_translation]
min_characters = 100
[[data]]
path = "texts.jsonl"
"#;

/// What surrounds the texts where they were published.
const AROUND: [&str; 2] = ["Home | News | Contact\nBy A. Writer, 3 May\n\n", "\n\nPlease like and share."];

fn is_cleaning(text: &str) -> bool {
    starts_with_one_of(text, ["Clean a text", "请清理一段"])
}

fn is_pair(text: &str) -> bool {
    starts_with_one_of(text, ["Judge a pair", "请评判一对"])
}

pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let published = |reply: &Value| format!("{}{}{}", AROUND[0], reply["text"].as_str().unwrap(), AROUND[1]);
    let rows: String =
        replies().iter().map(|reply| json!({"text": published(reply)}).to_string() + "\n").collect();
    let rows = rows + &json!({"text": "A fragment."}).to_string() + "\n";
    fs::write(folder.path().join("texts.jsonl"), rows).unwrap();
    folder
}

fn recipe() -> String {
    format!("{RECIPE}{MODELS}")
}

/// Cleans texts, and writes the recorded instructions.
pub(crate) fn writer() -> Scripted {
    Scripted::new(|text| {
        let replies = replies();
        let reply = replies.iter().find(|reply| text.contains(reply["text"].as_str().unwrap())).unwrap();
        let part = |tag: &str, field: &str| format!("<{tag}>\n{}\n</{tag}>", reply[field].as_str().unwrap());
        Ok(if is_cleaning(text) { part("response", "text") } else { part("prompt", "prompt") })
    })
}

/// Finds every text and pair excellent.
pub(crate) fn checker() -> Scripted {
    Scripted::new(|text| {
        Ok(if is_pair(text) { "<missing>\n</missing>\n[[9]]" } else { "Fine. [[9]]" }.to_owned())
    })
}

#[test]
fn recorded_replies_make_rows_that_pass_the_check() {
    let folder = folder();
    let (writer, checker) = (writer(), checker());
    let built = super::run(folder.path(), &recipe(), vec![writer.open(), checker.open()]).unwrap();
    let summary = &built.outcome.summary;
    let n = replies().len();
    assert_eq!((summary.n_units, summary.n_begun), (n + 1, n));
    assert_eq!(built.fates[n].reason.as_deref(), Some("shorter than `back_translation.min_characters`"));
    assert_eq!((summary.n_rows, summary.n_prompts), (n, 0), "{:?}", built.fates);
    assert_eq!(summary.recheck.share, Some(1.0));
    for (row, reply) in built.rows.iter().zip(replies()) {
        let turns = &row["messages"];
        assert_eq!((&turns[0]["content"], &turns[1]["content"]), (&reply["prompt"], &reply["text"]));
        let original = row["original_text"].as_str().unwrap();
        assert!(original.starts_with(AROUND[0]) && original.ends_with(AROUND[1]), "{original}");
        assert_eq!((&row["quality"], &row["score"], &row["n_rounds"]), (&json!(9.0), &json!(9.0), &json!(1)));
    }
    assert_eq!((writer.asked().len(), checker.asked().len()), (2 * n, 2 * n));
}

#[test]
fn poor_texts_rewritten_ones_and_pairs_that_stay_poor_are_dropped_with_their_reasons() {
    let folder = folder();
    let rule = writer();
    // The text on rivers is rewritten instead of cleaned, that on bread is cut short.
    let careless = Scripted::new(move |text| {
        let reply = rule.answer(text)?;
        Ok(match is_cleaning(text) {
            true if text.contains("Rivers remember") => {
                reply.replace("Rivers remember where they", "Streams know where water")
            }
            true if text.contains("Good bread") => {
                "<response>\nGood bread needs time more than skill.\n</response>".into()
            }
            _ => reply,
        })
    });
    let strict = Scripted::new(|text| {
        Ok(match is_pair(text) {
            true if text.contains("A map lies") => "<missing>\n</missing>\n[[8]]".to_owned(),
            true => "<missing>\nIt does not name the reader.\n</missing>\n[[5]]".into(),
            false if text.contains("茶叶") => "Thin. [[4]]".into(),
            false => "Fine. [[8]]".into(),
        })
    });
    let built = super::run(folder.path(), &recipe(), vec![careless.open(), strict.open()]).unwrap();
    let reasons: Vec<Option<&str>> = built.fates.iter().map(|fate| fate.reason.as_deref()).collect();
    let poor = Some("the pair is not good enough after `back_translation.max_rounds`");
    let expected = [
        poor,
        Some("cleaning removed more than `back_translation.min_kept_share` allows"),
        Some("the cleaned text has other words"),
        None,
        Some("the text's score is below `back_translation.min_quality`"),
        poor,
        Some("shorter than `back_translation.min_characters`"),
    ];
    assert_eq!(reasons, expected);
    let detail = built.fates[0].detail.as_deref().unwrap();
    assert_eq!(detail, "It does not name the reader.; The pair was given a score of 5 of 10.");
    let again =
        careless.asked().into_iter().filter(|text| !is_cleaning(text) && text.contains("A lighthouse"));
    let again: Vec<String> = again.collect();
    assert_eq!(again.len(), 2);
    assert!(last(&again[1], "missing").starts_with("It does not name the reader."), "{}", again[1]);
}
