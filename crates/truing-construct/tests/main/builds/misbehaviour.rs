//! Models that reply in every wrong way: each builder ends with counted fates.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use truing_ask::OpenChatModel;

use super::{MODELS, lines};
use super::{
    back_translation, code, code_interpreter, constraints, mathematics, reasoning, reversal, rewrite,
    system_messages, textbook, tools,
};
use crate::scripted::Scripted;

/// Replies of a model that has lost its way.
const WRONG: [&str; 9] = [
    "",
    "I'm sorry, but I can't help with that request.",
    "```json\n{\"prompt\": \"Write",
    "{\"prompt\": \"one\"}\n{\"prompt\": \"two\"}",
    "<think>The user wants a prompt, so",
    "<think>[[YES]] <prompt>x</prompt></think>",
    "<prompt></prompt> <problem>only half",
    "[[MAYBE, PERHAPS]] [[11]] <missing>",
    "<prompt>\u{0}</answer> [[",
];

/// Each builder that works here with its recipe and its folder of data.
fn builders() -> Vec<(String, TempDir)> {
    let of = |recipe: &str, folder| (format!("{recipe}{MODELS}"), folder);
    let mut builders = vec![
        of(constraints::RECIPE, constraints::folder()),
        of(reversal::RECIPE, reversal::folder()),
        of(mathematics::RECIPE, mathematics::folder()),
        of(system_messages::RECIPE, system_messages::folder()),
        of(reasoning::RECIPE, reasoning::folder()),
        of(textbook::RECIPE, textbook::folder()),
        of(code::RECIPE, code::folder()),
        of(tools::RECIPE, tools::folder()),
        of(back_translation::RECIPE, back_translation::folder()),
        of(rewrite::RECIPE, rewrite::folder()),
    ];
    builders.extend(code::has_python().then(|| of(code_interpreter::RECIPE, code_interpreter::folder())));
    builders
}

/// Runs a builder that keeps no row; returns its fates.
fn run_in_vain(folder: &Path, recipe: &str, models: Vec<OpenChatModel>) -> (Vec<Value>, String) {
    let error = super::run(folder, recipe, models).unwrap_err().to_string();
    (lines(&folder.join("built/fates.jsonl")), error)
}

#[test]
fn replies_out_of_form_leave_no_row_and_every_unit_has_a_reason() {
    for (recipe, folder) in builders() {
        let n_asked = std::sync::atomic::AtomicUsize::new(0);
        let wrong = Scripted::new(move |_| {
            let n = n_asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok(WRONG[n % WRONG.len()].to_owned())
        });
        let recipe = format!("max_failures_in_a_row = 1000\n{recipe}");
        let (fates, error) = run_in_vain(folder.path(), &recipe, vec![wrong.open(), wrong.open()]);
        assert!(error.contains("no rows of "), "{error}");
        assert!(fates.len() > 3 && fates.iter().all(|fate| fate["reason"].is_string()), "{fates:?}");
        assert!(folder.path().join("built/summary.json").exists());
        assert!(!folder.path().join("built/rows.jsonl").exists());
    }
}

#[test]
fn data_without_a_row_that_can_be_read_is_an_error_and_no_new_rows_are_made() {
    for (recipe, folder) in [
        (mathematics::RECIPE, mathematics::folder()),
        (reasoning::RECIPE, reasoning::folder()),
        (code::RECIPE, code::folder()),
        (tools::RECIPE, tools::folder()),
        (code_interpreter::RECIPE, code_interpreter::folder()),
    ] {
        fs::write(folder.path().join("bad.jsonl"), "not json\n{\"prompt\": \"cut\n").unwrap();
        let data = "[[data]]\npath = \"bad.jsonl\"\n";
        let recipe = format!("on_bad_row = \"skip\"\n{recipe}{data}{MODELS}");
        let error = super::plan(folder.path(), &recipe, &[]).unwrap_err().to_string();
        assert!(error.contains("`data` is 0 rows, none of which can be used"), "{error}");
    }
}

#[test]
fn replies_that_are_cut_and_models_that_fail_are_told() {
    for (recipe, folder) in builders() {
        let cut = Scripted::cut("<prompt>x</prompt> <problem>1 + 1?</problem> <answer>2</answer> [[9]]");
        let (fates, _) = run_in_vain(folder.path(), &recipe, vec![cut.open(), cut.open()]);
        let reasons: Vec<&str> = fates.iter().filter_map(|fate| fate["reason"].as_str()).collect();
        assert!(reasons.iter().any(|reason| reason.contains("cut at max_tokens")), "{reasons:?}");
    }
    for (recipe, folder) in builders() {
        let down = Scripted::fails();
        let (_, error) = run_in_vain(folder.path(), &recipe, vec![down.open(), down.open()]);
        assert!(error.contains("the server is down"), "{error}");
    }
    let (recipe, folder) =
        (format!("max_failures_in_a_row = 2\n{}{MODELS}", constraints::RECIPE), constraints::folder());
    let down = Scripted::fails();
    let (fates, error) = run_in_vain(folder.path(), &recipe, vec![down.open(), down.open()]);
    let n_never = fates.len() - 2;
    assert!(error.contains(&format!("the server is down; {n_never} were never asked about")), "{error}");
    for (recipe, folder) in builders() {
        let refuses = Scripted::refuses("status 401: no such key");
        let error = super::run(folder.path(), &recipe, vec![refuses.open(), refuses.open()]).unwrap_err();
        assert!(error.to_string().contains("status 401: no such key"), "{error}");
        assert!(!folder.path().join("built/fates.jsonl").exists());
    }
}
