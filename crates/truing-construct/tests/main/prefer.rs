//! `truing prefer` with judges that answer by a rule: good ones, and each kind of bad one.

mod judge;
mod minimal;
mod outputs;
mod resumes;
mod settings;
mod weights;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use tempfile::TempDir;
use truing_ask::OpenChatModel;
use truing_construct::prefer::{PreferConfig, PreferInputs, PreferOutcome, PreferPlan, PreferStage};
use truing_stages::{Ended, Recipe, Stage, StageError};
use truing_types::Silent;

use crate::setup::{Cpu, judged};

const RECIPE: &str = r#"
stage = "prefer"
output_dir = "run"
repeat_share = 0
min_gap = 0.1
[[data]]
path = "rows.jsonl"
[[judge]]
name = "one"
model = { server = { base_url = "http://127.0.0.1:9/v1", model = "m" } }
"#;
const SECOND: &str = r#"
[[judge]]
name = "two"
model = { server = { base_url = "http://127.0.0.1:9/v1", model = "n" } }
"#;

/// Responses whose text says how good they are: `quality 5`.
const ROWS: &str = concat!(
    r#"{"prompt": "First?", "category": "a", "answer": "x", "responses": "#,
    r#"["quality 2", "quality 5", "quality 3"]}"#,
    "\n",
    r#"{"prompt": "Second?", "category": "b", "responses": [{"content": "quality 4", "model": "m1", "score": 0.5}, "#,
    r#"{"text": "quality 1", "model": "m2", "score": 0.25}, {"response": "quality 9", "fate": "duplicate"}]}"#,
    "\n",
    r#"{"prompt": "High?", "responses": ["quality 5", "quality 5 too"]}"#,
    "\n",
    r#"{"prompt": "Low?", "responses": ["quality 1", "quality 2"]}"#,
    "\n",
    r#"{"prompt": "Equal?", "responses": ["quality 3", "quality 3 too"]}"#,
    "\n",
    r#"{"prompt": "One?", "responses": ["quality 3", "quality 3", " "]}"#,
    "\n",
);

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rows.jsonl"), ROWS).unwrap();
    folder
}

fn plan(folder: &Path, recipe: &str, overrides: &[&str]) -> Result<(PreferPlan, PreferInputs), StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = PreferConfig::from_toml(recipe, &folder.join("recipe.toml"), &overrides)?;
    let inputs = PreferInputs::load(&config, &mut Silent)?;
    Ok((PreferPlan::resolve(config, &inputs)?, inputs))
}

fn run_until(
    folder: &Path,
    recipe: &str,
    overrides: &[&str],
    models: Vec<OpenChatModel>,
    stop: &AtomicBool,
) -> Result<Ended<PreferOutcome>, StageError> {
    let (plan, inputs) = plan(folder, recipe, overrides)?;
    PreferStage::run::<Cpu>(&plan, &inputs, judged(models, &mut Silent, stop))
}

fn run(
    folder: &Path,
    recipe: &str,
    overrides: &[&str],
    models: Vec<OpenChatModel>,
) -> Result<PreferOutcome, StageError> {
    match run_until(folder, recipe, overrides, models, &AtomicBool::new(false))? {
        Ended::Finished(outcome) => Ok(outcome),
        Ended::Interrupted { .. } => panic!("nobody stopped it"),
    }
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
