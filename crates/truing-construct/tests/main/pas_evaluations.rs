//! `truing pas evaluate` with models that answer by a rule.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;
use truing_ask::OpenChatModel;
use truing_construct::pas_evaluate::{
    ComparedReplies, PasEvaluateConfig, PasEvaluateInputs, PasEvaluatePlan, PasEvaluateStage,
    PasEvaluateSummary,
};
use truing_eval::benchmarks::Opinion;
use truing_stages::{Ended, Recipe, Stage, StageError};
use truing_types::{ChatError, Silent};

use crate::scripted::Scripted;
use crate::setup::{self, Cpu};

pub(crate) const RECIPE: &str = r#"
stage = "pas_evaluate"
output_dir = "results"
[[data]]
path = "prompts.jsonl"
[complementer]
server = { base_url = "http://127.0.0.1:9/v1", model = "complementer" }
[target]
server = { base_url = "http://127.0.0.1:9/v1", model = "target" }
"#;
const JUDGE: &str = "[judge]\nserver = { base_url = \"http://127.0.0.1:9/v1\", model = \"judge\" }\n";

/// Four prompts whose replies may have no comma, and two without instructions.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let row = |prompt: &str, category: &str, ids: &str, kwargs: &str| {
        format!(
            "{{\"prompt\": \"{prompt}\", \"category\": \"{category}\", \"instruction_id_list\": [{ids}], \
             \"kwargs\": [{kwargs}]}}\n"
        )
    };
    let checked = |prompt: &str| row(prompt, "code", "\"punctuation:no_comma\"", "{}");
    let rows = ["gained", "lost", "kept", "failing"].map(checked).concat()
        + &row("open 1", "writing", "", "")
        + &row("open 2", "writing", "", "");
    fs::write(folder.path().join("prompts.jsonl"), rows).unwrap();
    folder
}

fn plan(
    folder: &Path,
    recipe: &str,
    overrides: &[&str],
) -> Result<(PasEvaluatePlan, PasEvaluateInputs), StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = PasEvaluateConfig::from_toml(recipe, &folder.join("recipe.toml"), &overrides)?;
    let inputs = PasEvaluateInputs::load(&config, &mut Silent)?;
    Ok((PasEvaluatePlan::resolve(config, &inputs)?, inputs))
}

fn run(
    folder: &Path,
    recipe: &str,
    models: Vec<OpenChatModel>,
) -> Result<(PasEvaluateSummary, Vec<ComparedReplies>), StageError> {
    let (plan, inputs) = plan(folder, recipe, &[])?;
    let stop = AtomicBool::new(false);
    match PasEvaluateStage::run::<Cpu>(&plan, &inputs, setup::judged(models, &mut Silent, &stop))? {
        Ended::Finished(outcome) => {
            let text = fs::read_to_string(outcome.results).unwrap();
            let rows = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            Ok((outcome.summary, rows))
        }
        Ended::Interrupted { .. } => panic!("nobody stopped it"),
    }
}

/// Complements everything but one prompt.
fn complementer() -> Scripted {
    Scripted::new(|text| match text.contains("\nfailing\n") {
        true => Err(ChatError::Failed("out of memory".into())),
        false => Ok("Be kind.".into()),
    })
}

/// Uses a comma or not; the complement is the last line of what it is asked.
fn target() -> Scripted {
    Scripted::new(|text| {
        let (prompt, is_complemented) = match text.strip_suffix("\nBe kind.") {
            Some(prompt) => (prompt, true),
            None => (text, false),
        };
        Ok(match (prompt, is_complemented) {
            ("gained", true) | ("lost", false) | ("kept" | "failing", _) => "no comma".into(),
            ("open 1" | "open 2", _) => format!("{prompt}{}", if is_complemented { " better" } else { "" }),
            _ => "a, comma".into(),
        })
    })
}

#[test]
fn replies_are_checked_and_counted_with_their_intervals() {
    let folder = folder();
    let (summary, rows) = run(folder.path(), RECIPE, vec![complementer().open(), target().open()]).unwrap();
    let passes: Vec<_> = rows.iter().map(|row| row.passes).collect();
    assert_eq!(
        passes,
        [Some([false, true]), Some([true, false]), Some([true, true]), Some([true, true]), None, None]
    );
    assert_eq!((rows[3].complement.as_ref(), rows[0].complement.as_deref()), (None, Some("Be kind.")));
    let verified = summary.overall.verified.unwrap();
    assert_eq!((verified.n, verified.n_gained, verified.n_lost, verified.p_value), (4, 1, 1, 1.0));
    assert_eq!((verified.without.value, verified.with.value, verified.difference.value), (0.75, 0.75, 0.0));
    assert!(verified.difference.low < -0.3 && verified.difference.high > 0.3);
    assert_eq!((summary.n_prompts, summary.n_without_complement), (6, 1));
    assert_eq!(summary.failures.len(), 1);
    assert_eq!(summary.overall.judged, None, "there is no judge");
    assert_eq!(summary.categories["code"].verified, summary.overall.verified);
    assert_eq!(summary.categories["writing"].verified, None);
}

#[test]
fn a_judge_is_asked_in_both_orders_and_one_that_prefers_a_place_decides_nothing() {
    let recipe = format!("{RECIPE}{JUDGE}");
    let judged = |judge: Scripted| {
        let folder = folder();
        let models = vec![complementer().open(), target().open(), judge.open()];
        let (summary, rows) = run(folder.path(), &recipe, models).unwrap();
        assert_eq!(judge.asked().len(), 4);
        (summary.overall.judged.unwrap(), rows[4].opinion)
    };
    let fair = Scripted::new(|text| {
        let first = text.split("<answer_a>\n").nth(1).unwrap().split("\n</answer_a>").next().unwrap();
        Ok(if first.ends_with("better") { "[[A>B]]" } else { "[[B>>A]]" }.into())
    });
    let (found, opinion) = judged(fair);
    assert_eq!((found.n_good, found.n_same, found.n_bad, found.net), (2, 0, 0, 1.0));
    assert_eq!((opinion, found.win_rate.unwrap().value), (Some(Opinion::Good), 1.0));
    let (found, opinion) = judged(Scripted::says("[[A>B]]"));
    assert_eq!((found.n_good, found.n_same, found.n_bad), (0, 2, 0));
    assert_eq!((opinion, found.win_rate.unwrap().value), (Some(Opinion::Same), 0.5));

    let folder = folder();
    let silent = Scripted::says("Both are nice.");
    let models = vec![complementer().open(), target().open(), silent.open()];
    let (summary, rows) = run(folder.path(), &recipe, models).unwrap();
    assert_eq!((summary.overall.judged, rows[4].opinion), (None, None));
    assert_eq!(silent.asked().len(), 8, "each verdict is asked for twice");
    assert!(rows[4].failures[0].contains("a verdict"), "{:?}", rows[4].failures);
}

#[test]
fn replies_are_kept_and_a_run_is_not_paid_for_twice() {
    let folder = folder();
    let cache = folder.path().join("replies.sqlite");
    let (complementer, target) = (complementer(), target());
    let models = || vec![complementer.cached(&cache), target.cached(&cache)];
    let (first, _) = run(folder.path(), RECIPE, models()).unwrap();
    // The failure is no reply: it is asked for again.
    assert_eq!((complementer.asked().len(), target.asked().len()), (6, 6 + 5));
    let (second, _) = run(folder.path(), RECIPE, models()).unwrap();
    assert_eq!((complementer.asked().len(), target.asked().len()), (7, 6 + 5));
    assert_eq!(first, second);
}

#[test]
fn plans_count_calls_and_refuse_what_cannot_be_compared() {
    let folder = folder();
    let (planned, _) = plan(folder.path(), RECIPE, &[]).unwrap();
    assert_eq!((planned.n_prompts, planned.n_verifiable, planned.n_judge_calls), (6, 4, 0));
    let (planned, _) = plan(folder.path(), &format!("{RECIPE}{JUDGE}"), &[]).unwrap();
    assert_eq!(planned.n_judge_calls, 4);
    let path = folder.path().join("prompts.jsonl");
    for (row, expected) in [
        ("{\"prompt\": \"a\"}", "none with `instruction_id_list`, and no `judge`"),
        (
            "{\"prompt\": \"a\", \"instruction_id_list\": [\"punctuation:no_coma\"], \"kwargs\": [{}]}",
            "prompts.jsonl:1: `instruction_id_list` is",
        ),
        (
            "{\"prompt\": \"a\", \"instruction_id_list\": [\"punctuation:no_comma\"]}",
            "1 instructions with 0 `kwargs`",
        ),
        (
            "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"a\"}]}",
            "`prompt` is 2 turns",
        ),
    ] {
        fs::write(&path, format!("{row}\n")).unwrap();
        let error = plan(folder.path(), RECIPE, &[]).unwrap_err().to_string();
        assert!(error.contains(expected), "{row}: {error}");
    }
    let fails = vec![Scripted::says("x").open(), Scripted::fails().open()];
    fs::write(
        &path,
        "{\"prompt\": \"a\", \"instruction_id_list\": [\"punctuation:no_comma\"], \"kwargs\": [{}]}\n",
    )
    .unwrap();
    let error = run(folder.path(), RECIPE, fails).unwrap_err().to_string();
    assert!(error.contains("nothing could be compared") && error.contains("the server is down"), "{error}");
}
