//! How a run begins and how it ends.

use std::path::Path;

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// In a folder that holds no run yet.
    Fresh,
    /// From the newest complete checkpoint of the folder's run. Where there is no run yet, because the folder is missing,
    /// empty or of a run that was killed before its first file, the run starts.
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
