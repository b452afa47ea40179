//! `ability = "reversal"`.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{MODELS, last};
use crate::scripted::Scripted;

pub(crate) const RECIPE: &str = r#"
stage = "build"
ability = "reversal"
output_dir = "built"
[reversal]
min_characters = 100
[[data]]
path = "texts.jsonl"
"#;
const REPLIES: &str = include_str!("fixtures/reversal.json");

pub(crate) fn replies() -> Vec<Value> {
    serde_json::from_str(REPLIES).unwrap()
}

pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let rows = replies().into_iter().map(|reply| json!({"text": reply["text"]}).to_string() + "\n");
    let rows = rows.collect::<String>() + &json!({"text": "A fragment."}).to_string() + "\n";
    fs::write(folder.path().join("texts.jsonl"), rows).unwrap();
    folder
}

fn recipe() -> String {
    format!("{RECIPE}{MODELS}")
}

/// The recorded prompt, with the measured properties as they are listed.
pub(crate) fn writer() -> Scripted {
    Scripted::new(|text| {
        let replies = replies();
        let reply = replies.iter().find(|reply| text.contains(reply["text"].as_str().unwrap())).unwrap();
        let listed = last(text, "constraints").lines().filter_map(|line| line.split_once(". "));
        let listed: Vec<&str> = listed.map(|(_, sentence)| sentence).collect();
        Ok(format!("<prompt>\n{} {}\n</prompt>", reply["prompt"].as_str().unwrap(), listed.join(" ")))
    })
}

/// Finds every text rich, and nothing missing in any prompt.
pub(crate) fn checker() -> Scripted {
    Scripted::new(|text| {
        Ok(if is_inspection(text) { "<missing>\n</missing>\n[[9]]" } else { "Rich. [[9]]" }.to_owned())
    })
}

fn is_inspection(text: &str) -> bool {
    text.contains("Inspect the prompt.") || text.contains("请检查这个提示词")
}

#[test]
fn recorded_replies_make_rows_that_pass_the_check() {
    let folder = folder();
    let checker = checker();
    let built = super::run(folder.path(), &recipe(), vec![writer().open(), checker.open()]).unwrap();
    let summary = &built.outcome.summary;
    let n = replies().len();
    assert_eq!((summary.n_units, summary.n_begun), (n + 1, n));
    assert_eq!(built.fates[n].reason.as_deref(), Some("shorter than `reversal.min_characters`"));
    assert!(summary.recheck.share.unwrap() >= 0.95, "{:?}", built.fates);
    assert_eq!((summary.n_rows, summary.n_prompts, built.rows.len()), (n, 0, n), "{:?}", summary.dropped);
    for (row, reply) in built.rows.iter().zip(replies()) {
        assert_eq!(
            row["messages"][1]["content"], reply["text"],
            "the text is the response, letter by letter"
        );
        assert_eq!((row["n_rounds"].as_u64(), row["quality"].as_f64()), (Some(1), Some(9.0)));
        let prompt = row["messages"][0]["content"].as_str().unwrap();
        for constraint in row["constraints"].as_array().unwrap() {
            assert!(prompt.contains(constraint["text"].as_str().unwrap()), "{prompt}");
        }
    }
    assert_eq!(checker.asked().len(), 2 * n);
}

#[test]
fn a_prompt_is_written_again_until_nothing_is_missing() {
    let folder = folder();
    let n_inspected = std::sync::atomic::AtomicUsize::new(0);
    // The first inspection of each text finds something; that of the bread text always does.
    let checker = Scripted::new(move |text| {
        if !is_inspection(text) {
            return Ok(if text.contains("A map lies") { "Thin. [[4]]" } else { "[[8]]" }.to_owned());
        }
        let n = n_inspected.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let finds = n < 5 || text.contains("Good bread needs time");
        Ok(if finds { "<missing>\nthe tone\n</missing>\n[[6]]" } else { "<missing></missing> [[9]]" }
            .to_owned())
    });
    let writer = writer();
    let built = super::run(folder.path(), &recipe(), vec![writer.open(), checker.open()]).unwrap();
    let reason = |text: &str| {
        let fate = built.fates.iter().find(|fate| fate.text.starts_with(text)).unwrap();
        (fate.reason.clone(), fate.detail.clone())
    };
    let (poor, score) = reason("A map lies");
    assert_eq!(
        (poor.as_deref(), score.as_deref()),
        (Some("the text's score is below `reversal.min_quality`"), Some("4"))
    );
    let (incomplete, detail) = reason("Good bread");
    assert_eq!(incomplete.as_deref(), Some("the prompt is still incomplete after `reversal.max_rounds`"));
    assert_eq!(detail.as_deref(), Some("the tone"));
    assert_eq!(built.rows.len(), 4);
    assert!(built.rows.iter().all(|row| row["n_rounds"] == 2), "{:?}", built.rows);
    let again = writer.asked().into_iter().filter(|text| text.contains("<missing>\n1. the tone\n</missing>"));
    assert_eq!(again.count(), 4 + 2, "four prompts once more, that of the bread text twice");
}
