//! What can go wrong when a run is shown.

use std::io;
use std::path::{Path, PathBuf};

use truing_eval::benchmarks::BenchmarkError;
use truing_store::StoreError;

/// A report or an event file that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `write`, `open`, `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A folder that holds no run.
    #[error("{} holds no run: it has no `{missing}`", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
        /// The file that every run has.
        missing: &'static str,
    },
    /// A run of a version that did not write which stage ran.
    #[error("{}: missing field `stage`; an older version made this run: add the field, for instance \
             \"stage\": \"sft\"", path.display())]
    NoStage {
        /// The file.
        path: PathBuf,
    },
    /// A file of the run that does not say what it should.
    #[error("{}:{line}: {reason}", path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// The records of an evaluation cannot be read.
    #[error(transparent)]
    Evaluation(#[from] BenchmarkError),
    /// A file could not be written durably.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The page's template could not be filled; a fault of ours.
    #[error("the page could not be written")]
    Template(#[from] askama::Error),
    /// Figures could not be written as JSON; a fault of ours.
    #[error("the charts' figures could not be written")]
    Json(#[from] serde_json::Error),
}

impl ReportError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
