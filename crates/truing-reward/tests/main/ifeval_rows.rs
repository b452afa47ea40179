//! Rows as IFEval, M-IFEval and Multi-IF have them, written for this test: right and wrong responses in five languages,
//! and rows that cannot be scored.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use truing_reward::verifiers::ifeval::{Locale, Mode, check_row, instruction_ids};
use truing_types::UnscoredReason;

fn rows() -> Vec<Map<String, Value>> {
    let text = include_str!("../fixtures/ifeval_rows.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn found(row: &Map<String, Value>, mode: Mode) -> Result<Vec<bool>, String> {
    let response = row["response"].as_str().unwrap();
    match check_row(row, response, mode) {
        Ok(verdicts) => Ok(verdicts.into_iter().map(|(_, is_followed)| is_followed).collect()),
        Err(unscored) if unscored.reason == UnscoredReason::BadReference => Err(unscored.detail),
        Err(unscored) => panic!("{unscored}: {row:?}"),
    }
}

#[test]
fn every_row_gets_its_verdict_or_its_error() {
    let (mut n, mut wrong) = (0, Vec::new());
    for row in rows() {
        for (mode, key) in [(Mode::Strict, "strict"), (Mode::Loose, "loose")] {
            n += 1;
            let found = found(&row, mode);
            let is_right = match (&found, row.get("error").and_then(Value::as_str)) {
                (Err(detail), Some(part)) => detail.contains(part),
                (Ok(verdicts), None) => row[key] == Value::from(verdicts.clone()),
                _ => false,
            };
            if !is_right {
                wrong.push(format!("{key}: {found:?}\n  {}", Value::from(row.clone())));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {n}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_instruction_of_another_language_has_a_row() {
    let tested: BTreeSet<String> = rows()
        .iter()
        .filter(|row| !row.contains_key("error"))
        .flat_map(|row| row["instruction_id_list"].as_array().unwrap().clone())
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    // What is the same in every language is tested in English.
    let english: BTreeSet<&str> = instruction_ids(Locale::En).collect();
    for locale in Locale::ALL.into_iter().filter(|locale| *locale != Locale::En) {
        for id in instruction_ids(locale).filter(|id| !english.contains(id)) {
            let id = format!("{}:{id}", locale.code());
            assert!(tested.contains(&id), "{id}");
        }
    }
}
