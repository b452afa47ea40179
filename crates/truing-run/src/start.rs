//! How a run begins and how it ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use truing_store::{RunDirectory, atomic};

use crate::RunError;

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// In a folder that holds no run yet.
    Fresh,
    /// From the newest complete checkpoint of the folder's run. Where there is no run yet, because the folder is
    /// missing, empty or of a run that was killed before its first file, the run starts.
    Resume,
}

impl Start {
    /// A resume where the folder holds a run, a fresh start otherwise.
    #[must_use]
    pub fn of(output_dir: &Path) -> Self {
        if output_dir.join("recipe.resolved.toml").exists() { Self::Resume } else { Self::Fresh }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended<T> {
    /// All work is done.
    Finished(T),
    /// The stop flag was set. What was done is saved, and a resume continues from there.
    Interrupted {
        /// Optimiser steps that are saved; `None` for a stage without steps.
        step: Option<u64>,
    },
}

impl<T> Ended<T> {
    /// A run of a stage without optimiser steps that was stopped.
    pub const STOPPED: Self = Self::Interrupted { step: None };

    /// The result of a finished run.
    #[must_use]
    pub fn finished(self) -> Option<T> {
        match self {
            Self::Finished(outcome) => Some(outcome),
            Self::Interrupted { .. } => None,
        }
    }
}

/// What a stage that trains leaves behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainedModel {
    /// The directory of the saved model or adapter.
    pub model: PathBuf,
    /// The last value of every metric.
    pub metrics: BTreeMap<String, f64>,
    /// Why the model was not trained, where it was not.
    pub nothing_learnt: Option<String>,
}

/// What a finished run's `outcome.json` says of it, so that a later call gives the same answer.
#[derive(Serialize, Deserialize)]
struct SavedOutcome {
    /// Optimiser steps that were taken; runs of earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n_steps: Option<u64>,
    metrics: BTreeMap<String, f64>,
    nothing_learnt: Option<String>,
}

impl TrainedModel {
    /// Writes `outcome.json` of a run of `n_steps` optimiser steps in the run's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_outcome(&self, folder: &Path, n_steps: u64) -> Result<(), RunError> {
        let (metrics, nothing_learnt) = (self.metrics.clone(), self.nothing_learnt.clone());
        let outcome = SavedOutcome { n_steps: Some(n_steps), metrics, nothing_learnt };
        Ok(atomic::write_json(&RunDirectory::outcome_path(folder), &outcome)?)
    }

    /// The model of a run that was finished before. Runs of earlier versions have no `outcome.json`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_finished_run(folder: &Path, model: PathBuf) -> Result<Self, RunError> {
        let SavedOutcome { metrics, nothing_learnt, .. } = saved_outcome(folder)?;
        Ok(Self { model, metrics, nothing_learnt })
    }
}

/// Optimiser steps of a run that was finished before; `None` where its version did not record them, or it has not
/// ended.
pub(crate) fn n_steps_of_outcome(folder: &Path) -> Result<Option<u64>, RunError> {
    Ok(saved_outcome(folder)?.n_steps)
}

fn saved_outcome(folder: &Path) -> Result<SavedOutcome, RunError> {
    let path = RunDirectory::outcome_path(folder);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => b"{\"metrics\": {}}".to_vec(),
        Err(source) => return Err(RunError::Read { path, source }),
    };
    serde_json::from_slice(&bytes).map_err(|error| RunError::Read { path, source: error.into() })
}
