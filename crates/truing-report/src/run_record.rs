//! A run as its folder records it. Only files are read; what a run does not have is absent, not an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use truing_eval::classifier::ClassifierEvaluation;
use truing_eval::held_out::HeldOutScores;
use truing_eval::pipeline::{Evaluation, Pipeline};
use truing_eval::reward::{RewardDiagnostics, RewardEvaluation};
use truing_store::RunInputs;

use crate::ReportError;
use crate::examples::{RolloutExamples, read_examples};
use crate::names;

const INPUTS: &str = "inputs.json";

/// Figures of one optimiser step or evaluation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetricsRow {
    /// Optimiser steps taken.
    pub step: u64,
    /// Name and value.
    pub values: BTreeMap<String, f64>,
}

/// The planner's table (`plan.json`), as far as a page shows it.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct PlanRecord {
    /// Predicted peak of the whole process.
    pub peak_bytes: Option<u64>,
    /// What the run was allowed.
    pub budget_bytes: Option<u64>,
    /// Layers a segment.
    pub layers_per_segment: Option<u64>,
    /// Why that many.
    pub reason: String,
    /// Optimiser steps of the whole run.
    pub n_steps: Option<u64>,
    /// Parts of the predicted peak.
    pub parts: Vec<PlanPart>,
}

/// One part of the predicted memory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PlanPart {
    /// What it is for.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
}

/// One stage's run directory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StageRecord {
    /// `sft`, `dpo`, `reward_model`, `grpo`, `classifier`, `embed`, `reward_evaluation`.
    pub kind: String,
    /// Its folder.
    pub folder: PathBuf,
    /// `recipe.resolved.toml`.
    pub recipe: String,
    /// `inputs.json`.
    pub inputs: RunInputs,
    /// `metrics.jsonl`, in order.
    pub metrics: Vec<MetricsRow>,
    /// `plan.json`.
    pub plan: Option<PlanRecord>,
    /// Out of `rollouts/`, where a policy was trained.
    pub examples: RolloutExamples,
    /// `diagnostics.jsonl`, in order, where a reward model was trained or evaluated.
    pub diagnostics: Vec<RewardEvaluation>,
    /// `held_out.jsonl`, in order, where the stage keeps what it measured on each held-out item.
    pub held_out: Vec<HeldOutScores>,
    /// Peak memory in GiB that the process had reached in earlier stages of a pipeline.
    pub peak_before: Option<f64>,
    /// Step of the newest checkpoint, where there is one.
    pub checkpoint_step: Option<u64>,
    /// Whether `outcome.json` says that the run came to its end.
    pub is_finished: bool,
    /// `evaluation.json`, where a classifier or scorer of texts was trained.
    pub classification: Option<ClassifierEvaluation>,
}

/// A whole run: one stage, or a pipeline of them with evaluations between.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunRecord {
    /// What the page is called.
    pub title: String,
    /// The model at the beginning, where known.
    pub model: String,
    /// In order.
    pub stages: Vec<StageRecord>,
    /// In order; the first was made before any stage.
    pub evaluations: Vec<Evaluation>,
    /// Of a pipeline that has not come to its end.
    pub unfinished: Option<Unfinished>,
}

/// How far an unfinished pipeline is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Stages that came to their end, and all stages.
    pub stages: (usize, usize),
    /// The same of evaluations.
    pub evaluations: (usize, usize),
    /// The command that continues it, where one is known.
    pub resume_command: Option<String>,
}

impl StageRecord {
    /// Steps and values of one metric, in order.
    #[must_use]
    pub fn series(&self, name: &str) -> Vec<(u64, f64)> {
        self.metrics.iter().filter_map(|row| Some((row.step, *row.values.get(name)?))).collect()
    }

    /// The last value of a metric.
    #[must_use]
    pub fn last(&self, name: &str) -> Option<f64> {
        self.metrics.iter().rev().find_map(|row| row.values.get(name).copied())
    }

    /// Names of the reward functions that were logged one by one.
    #[must_use]
    pub fn reward_parts(&self) -> Vec<&str> {
        let names = self.metrics.iter().flat_map(|row| row.values.keys());
        let parts: BTreeSet<&str> = names.filter_map(|name| names::reward_part_of(name)).collect();
        parts.into_iter().collect()
    }

    /// The last optimiser step.
    #[must_use]
    pub fn last_step(&self) -> u64 {
        self.metrics.last().map_or(0, |row| row.step)
    }
}

impl RunRecord {
    /// Reads a run directory, or a pipeline's folder with its stages.
    ///
    /// # Errors
    /// When the folder holds no run, or a file of it cannot be understood.
    pub fn read(folder: &Path) -> Result<Self, ReportError> {
        let Some(pipeline) = read_json::<Pipeline>(&folder.join(Pipeline::FILE_NAME))? else {
            let stage = read_stage(folder, None)?;
            let name = folder.file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned());
            return Ok(Self { title: name, stages: vec![stage], ..Self::default() });
        };
        let mut record = Self { title: pipeline.title, model: pipeline.model, ..Self::default() };
        let mut peak_before: Option<f64> = None;
        for stage in &pipeline.stages {
            // A stage that has not begun has no folder yet.
            match read_stage(&folder.join(&stage.folder), Some(&stage.kind)) {
                Ok(stage) => {
                    let peak = stage.last(names::PEAK_MEMORY_GIB);
                    record.stages.push(StageRecord { peak_before, ..stage });
                    peak_before = peak_before.into_iter().chain(peak).reduce(f64::max);
                }
                Err(ReportError::NoRun { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for file in &pipeline.evaluations {
            record.evaluations.extend(read_json::<Evaluation>(&folder.join(file))?);
        }
        let n_finished = record.stages.iter().filter(|stage| stage.is_finished).count();
        let stages = (n_finished, pipeline.stages.len());
        let evaluations = (record.evaluations.len(), pipeline.evaluations.len());
        record.unfinished = (stages.0 < stages.1 || evaluations.0 < evaluations.1).then(|| Unfinished {
            stages,
            evaluations,
            resume_command: pipeline.resume_command.map(|command| format!("{command} {}", folder.display())),
        });
        Ok(record)
    }
}

/// `kind` is what a pipeline calls the stage; without a pipeline it is the stage that the run's `inputs.json` names.
fn read_stage(folder: &Path, kind: Option<&str>) -> Result<StageRecord, ReportError> {
    let recipe_name = "recipe.resolved.toml";
    let Some(recipe) = read_text(&folder.join(recipe_name))? else {
        return Err(ReportError::NoRun { path: folder.to_owned(), missing: recipe_name });
    };
    let inputs_path = folder.join(INPUTS);
    let inputs = read_json::<InputsFile>(&inputs_path)?.map(RunInputs::from).unwrap_or_default();
    let kind = kind.or(inputs.stage.as_deref());
    let plan: Option<PlanRecord> = read_json(&folder.join("plan.json"))?;
    // A finished run that is being made longer has the outcome of the shorter one, and the plan of the longer.
    let n_planned = plan.as_ref().and_then(|plan| plan.n_steps);
    let outcome = read_json::<OutcomeFile>(&folder.join("outcome.json"))?;
    let is_whole = |outcome: OutcomeFile| outcome.n_steps.zip(n_planned).is_none_or(|(taken, n)| taken >= n);
    Ok(StageRecord {
        kind: kind.ok_or(ReportError::NoStage { path: inputs_path })?.to_owned(),
        folder: folder.to_owned(),
        recipe,
        inputs,
        metrics: read_metrics(&folder.join("metrics.jsonl"))?,
        plan,
        examples: read_examples(&folder.join("rollouts"))?,
        diagnostics: read_lines(&folder.join(RewardDiagnostics::FILE_NAME))?,
        held_out: read_lines(&folder.join(HeldOutScores::FILE_NAME))?,
        peak_before: None,
        checkpoint_step: newest_checkpoint(&folder.join("checkpoints"))?,
        is_finished: outcome.is_some_and(is_whole),
        classification: read_json(&folder.join(ClassifierEvaluation::FILE_NAME))?,
    })
}

/// `outcome.json`, as far as it says how long the run was.
#[derive(Deserialize)]
struct OutcomeFile {
    n_steps: Option<u64>,
}

/// `inputs.json` with its format version, which the store checks and a page does not need.
#[derive(Deserialize)]
struct InputsFile {
    stage: Option<String>,
    versions: BTreeMap<String, String>,
    seeds: BTreeMap<String, u64>,
    files: Vec<truing_store::InputFile>,
}

impl From<InputsFile> for RunInputs {
    fn from(file: InputsFile) -> Self {
        Self { stage: file.stage, versions: file.versions, seeds: file.seeds, files: file.files }
    }
}

/// Step of the newest `checkpoint-STEP` that was saved whole; one that is being written has another name.
fn newest_checkpoint(folder: &Path) -> Result<Option<u64>, ReportError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ReportError::io("read", folder)(error)),
    };
    let steps = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let step = entry.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
        entry.path().join("manifest.json").is_file().then_some(step)
    });
    Ok(steps.max())
}

/// The objects of a file with one a line; none where it is not there.
fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, ReportError> {
    let text = read_text(path)?.unwrap_or_default();
    let read = |(line_number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| ReportError::BadRecord {
            path: path.to_owned(),
            line: line_number,
            reason: error.to_string(),
        })
    };
    whole_lines(&text).map(read).collect()
}

/// Lines with their numbers. A last line that is cut off belongs to a run in progress.
fn whole_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive('\n')
        .enumerate()
        .filter(|(_, line)| line.ends_with('\n') && !line.trim().is_empty())
        .map(|(idx, line)| (idx + 1, line))
}

/// Numbers are kept, other values passed over.
fn read_metrics(path: &Path) -> Result<Vec<MetricsRow>, ReportError> {
    let text = read_text(path)?.unwrap_or_default();
    let mut rows = Vec::new();
    for (line_number, line) in whole_lines(&text) {
        let bad =
            |reason: String| ReportError::BadRecord { path: path.to_owned(), line: line_number, reason };
        let object: BTreeMap<String, Value> =
            serde_json::from_str(line).map_err(|error| bad(format!("{error}; expected a JSON object")))?;
        let step = object
            .get("step")
            .and_then(Value::as_u64)
            .ok_or_else(|| bad("no whole number `step`".to_owned()))?;
        let numbers = object.into_iter().filter(|(name, _)| name != "step");
        let values = numbers.filter_map(|(name, value)| Some((name, value.as_f64()?))).collect();
        rows.push(MetricsRow { step, values });
    }
    Ok(rows)
}

fn read_text(path: &Path) -> Result<Option<String>, ReportError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ReportError::io("read", path)(error)),
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ReportError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| ReportError::BadRecord {
        path: path.to_owned(),
        line: error.line(),
        reason: error.to_string(),
    })
}
