//! The builders of `truing build`, each with a writer and a checker that answer from a file of replies, and with
//! models that misbehave. No network.

mod back_translation;
mod code;
mod code_interpreter;
mod constraints;
mod mathematics;
mod misbehaviour;
mod reasoning;
mod resumes;
mod reversal;
mod rewrite;
mod system_messages;
mod textbook;
mod tools;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use truing_ask::OpenChatModel;
use truing_construct::build::{BuildConfig, BuildInputs, BuildOutcome, BuildPlan, BuildStage, FateRow};
use truing_data::{OnBadRow, SourceConfig, read_prompts, read_rows};
use truing_stages::{Ended, Recipe, RunContext, Stage, StageError};
use truing_types::Silent;

use crate::setup::{Cpu, judged};

/// What starts the sandbox.
pub(crate) const SANDBOX_CHILD: &str = env!("CARGO_BIN_EXE_truing-construct-sandbox-child");

/// The tables of both models.
pub(crate) const MODELS: &str = r#"
[writer]
server = { base_url = "http://127.0.0.1:9/v1", model = "writer" }
[checker]
server = { base_url = "http://127.0.0.1:9/v1", model = "checker" }
"#;

/// What a finished run left behind.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) outcome: BuildOutcome,
    pub(crate) fates: Vec<FateRow>,
    pub(crate) rows: Vec<Value>,
    pub(crate) prompts: Vec<Value>,
}

/// The lines of a file as JSON.
pub(crate) fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn plan(
    folder: &Path,
    recipe: &str,
    overrides: &[&str],
) -> Result<(BuildPlan, BuildInputs), StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = BuildConfig::from_toml(recipe, &folder.join("recipe.toml"), &overrides)?;
    let inputs = BuildInputs::load(&config, &mut Silent)?;
    Ok((BuildPlan::resolve(config, &inputs)?, inputs))
}

pub(crate) fn run_until(
    folder: &Path,
    recipe: &str,
    models: Vec<OpenChatModel>,
    stop: &AtomicBool,
) -> Result<Ended<BuildOutcome>, StageError> {
    let (plan, inputs) = plan(folder, recipe, &[])?;
    let mut events = Silent;
    let context =
        RunContext { sandbox_program: Some(Path::new(SANDBOX_CHILD)), ..judged(models, &mut events, stop) };
    BuildStage::run::<Cpu>(&plan, &inputs, context)
}

/// Runs to the end, and reads what was written; `truing sft` and `truing grpo` can read it too.
pub(crate) fn run(folder: &Path, recipe: &str, models: Vec<OpenChatModel>) -> Result<Built, StageError> {
    let ended = run_until(folder, recipe, models, &AtomicBool::new(false))?;
    let Ended::Finished(outcome) = ended else { panic!("nobody stopped it") };
    let rows: Vec<Value> = outcome.rows.as_deref().map_or_else(Vec::new, lines);
    if let Some(path) = &outcome.rows {
        let read = read_rows(&SourceConfig::new(path), OnBadRow::Error).unwrap();
        assert_eq!(read.map(Result::unwrap).count(), rows.len());
    }
    let prompts: Vec<Value> = outcome.prompts.as_deref().map_or_else(Vec::new, lines);
    if let Some(path) = &outcome.prompts {
        let read = read_prompts(&SourceConfig::new(path), OnBadRow::Error).unwrap();
        assert_eq!(read.map(Result::unwrap).count(), prompts.len());
    }
    Ok(Built { fates: lines(&outcome.fates), outcome, rows, prompts })
}

/// The text of the last of some tags.
pub(crate) fn last<'a>(text: &'a str, tag: &str) -> &'a str {
    let after = text.rsplit(&format!("<{tag}>\n")).next().unwrap();
    after.split(&format!("\n</{tag}>")).next().unwrap()
}

/// A reply with so many times YES.
pub(crate) fn all_yes(n: usize) -> String {
    format!("Each of them is met.\n[[{}]]", vec!["YES"; n].join(", "))
}

/// Whether a text begins as the English or the Chinese prompt does.
pub(crate) fn starts_with_one_of(text: &str, beginnings: [&str; 2]) -> bool {
    beginnings.iter().any(|beginning| text.starts_with(beginning))
}
