//! Everything that can be wrong with a pipeline, with its place in the recipe.

use std::path::PathBuf;

use truing_data::DataError;
use truing_run::{RecipeError, RecipePlace};
use truing_store::StoreError;

use crate::{Cause, RemoteError};

/// A pipeline that cannot be planned or applied.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The recipe cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The recipe of the pipeline, or of a stage.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The pipeline's own keys.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Settings of a stage.
    #[error("stage `{stage}`: {source}")]
    Settings {
        /// The stage.
        stage: String,
        /// What is wrong, with its place.
        source: Box<RecipeError>,
    },
    /// Something of a stage that is not a setting of its kind.
    #[error("{place}: stage `{stage}`: {reason}")]
    Stage {
        /// Its place in the recipe.
        place: RecipePlace,
        /// The stage.
        stage: String,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// Stages that need each other.
    #[error("{place}: stages need each other: {}", stages.join(" -> "))]
    Cycle {
        /// The place of the first of them in the recipe.
        place: RecipePlace,
        /// The cycle: each stage needs the next; the last is the first.
        stages: Vec<String>,
    },
    /// A model or file that a stage reads, or a value that it cannot use.
    #[error("{place}: stage `{stage}`: {source}")]
    Input {
        /// Where it is named.
        place: RecipePlace,
        /// The stage.
        stage: String,
        /// What is wrong with it.
        source: Cause,
    },
    /// A lock file of a newer version.
    #[error("{} has version {found}, expected at most {supported}: it was written by a newer truing", path.display())]
    NewerLock {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version that is read here.
        supported: u32,
    },
    /// A lock file that cannot be read.
    #[error("{}: {reason}", path.display())]
    BadLock {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A history of turns that cannot be read.
    #[error("{}:{line}: {reason}", path.display())]
    BadTurns {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// No stage of this name.
    #[error("{} has no stage `{name}`: {hint}", path.display())]
    NoStage {
        /// The recipe.
        path: PathBuf,
        /// The name.
        name: String,
        /// The nearest name, or all.
        hint: String,
    },
    /// Another process uses the store in a way that this one would disturb.
    #[error("{} is in use by another process: {action}", path.display())]
    Busy {
        /// The store.
        path: PathBuf,
        /// What the other one does, or may do.
        action: &'static str,
    },
    /// Results cannot be transferred.
    #[error("{}: {reason}", path.display())]
    NoRemote {
        /// The recipe.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The remote.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A row, a file or a selector that lineage cannot follow.
    #[error("{reason}")]
    Lineage {
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A file of rows.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file of the store or of an input.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PipelineError {
    /// The stage that it is about, where it is about one.
    #[must_use]
    pub fn stage(&self) -> Option<&str> {
        match self {
            Self::Settings { stage, .. } | Self::Stage { stage, .. } | Self::Input { stage, .. } => {
                Some(stage)
            }
            _ => None,
        }
    }
}
