//! The page of a pipeline: its graph with states, what each stage measured, models before and after, signs of reward
//! hacking, and samples side by side. The program says what the stages are and where their results lie; the rest is
//! read from the results.

mod abilities;
mod figures;
mod layout;
mod page;
mod policy;
mod policy_rollouts;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use truing_store::atomic;

use crate::ReportError;

/// A pipeline as its page shows it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PipelineRecord {
    /// Its name.
    pub name: String,
    /// The file of its recipe, as it was named.
    pub recipe: String,
    /// Its stages in the order in which they run, each after those that it needs.
    pub stages: Vec<PipelineStageRecord>,
    /// When stages were last run or taken from the store, in words; empty where that is not known.
    pub applied: String,
}

/// A stage of a pipeline.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PipelineStageRecord {
    /// Its name in the pipeline.
    pub name: String,
    /// Its kind: the `stage` of a recipe, `merge`, `command` or `gate`.
    pub uses: String,
    /// The stages that it needs, by their index; smaller than its own.
    pub needs: Vec<usize>,
    /// What is to be done about it.
    pub state: PipelineStageState,
    /// Why it is in that state; empty where nothing needs to be said.
    pub reason: String,
    /// Its key, where it is known.
    pub key: Option<String>,
    /// The folder of its result, where there is one.
    pub folder: Option<PathBuf>,
    /// The same as a link from the page, with the escapes of URLs.
    pub link: Option<String>,
    /// What became of it when the pipeline was last applied, where that is known.
    pub fate: Option<PipelineStageFate>,
    /// Its main figures by name.
    pub figures: BTreeMap<String, f64>,
    /// How long it ran.
    pub seconds: Option<f64>,
    /// The most memory it had.
    pub peak_bytes: Option<u64>,
    /// The size of its outputs.
    pub bytes: Option<u64>,
    /// What it cost, in the currency of the prices in its recipe.
    pub cost: Option<f64>,
    /// Calls of models on servers and of judges.
    pub n_calls: Option<u64>,
}

/// What is to be done about a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PipelineStageState {
    /// Its result is there, and the lock file names it.
    UpToDate,
    /// Its result is there, made by another pipeline or with an earlier recipe.
    InStore,
    /// It has no result.
    #[default]
    ToRun,
    /// It was started and has no result yet.
    ToContinue,
    /// It has failed.
    Failed,
    /// It waits for a file from people.
    Waiting,
    /// It needs a stage that waits.
    Blocked,
}

impl PipelineStageState {
    /// In words.
    fn words(self) -> &'static str {
        match self {
            Self::UpToDate => "up to date",
            Self::InStore => "in store",
            Self::ToRun => "to run",
            Self::ToContinue => "to continue",
            Self::Failed => "failed",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
        }
    }

    /// For those who see no colours.
    fn mark(self) -> &'static str {
        match self {
            Self::UpToDate | Self::InStore => "✓",
            Self::ToRun | Self::ToContinue => "▸",
            Self::Failed => "✗",
            Self::Waiting => "…",
            Self::Blocked => "–",
        }
    }

    /// Style class of the page.
    fn class(self) -> &'static str {
        match self {
            Self::UpToDate | Self::InStore => "good",
            Self::ToRun | Self::ToContinue => "open",
            Self::Failed => "bad",
            Self::Waiting | Self::Blocked => "look",
        }
    }

    /// Whether there is a result.
    fn has_result(self) -> bool {
        matches!(self, Self::UpToDate | Self::InStore)
    }
}

/// What became of a stage when the pipeline was last applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipelineStageFate {
    /// It ran.
    Ran,
    /// Its result was in the store, and the lock file named another one or none.
    Reused,
    /// It was up to date.
    UpToDate,
}

impl PipelineStageFate {
    /// In words.
    fn words(self) -> &'static str {
        match self {
            Self::Ran => "ran",
            Self::Reused => "taken from the store",
            Self::UpToDate => "was up to date",
        }
    }
}

/// Writes the page of a pipeline, whole or not at all.
///
/// # Errors
/// When the page cannot be written. A stage whose records cannot be read is named on the page.
pub fn write_pipeline(record: &PipelineRecord, page: &Path) -> Result<(), ReportError> {
    Ok(atomic::write(page, render_pipeline(record)?.as_bytes())?)
}

/// The page of a pipeline.
///
/// # Errors
/// Only through a fault of ours.
pub fn render_pipeline(record: &PipelineRecord) -> Result<String, ReportError> {
    page::render(record)
}
