//! What the program does for a pipeline: it lists the stages, finds models, reads the clock, and runs a stage.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use crate::StageKind;

/// An error of the program's side.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The program around a pipeline.
pub trait Host: Sync {
    /// The stages that a recipe may use.
    fn kinds(&self) -> &[StageKind];

    /// What of the program decides results besides settings and data: its version and its engine.
    fn program(&self) -> &str;

    /// The file or folder of a model that a recipe names.
    ///
    /// # Errors
    /// When there is none.
    fn find_model(&self, name: &str) -> Result<PathBuf, Cause>;

    /// The folder of a data set, where the text is the name of one.
    ///
    /// # Errors
    /// When it cannot be had.
    fn find_data(&self, name: &str) -> Result<Option<PathBuf>, Cause>;

    /// The time.
    fn now(&self) -> SystemTime;

    /// Runs one stage to its end. Called from several threads where stages run side by side.
    ///
    /// # Errors
    /// When it could not be started.
    fn run(&self, job: &Job<'_>) -> Result<JobEnd, Cause>;

    /// Called for each event, when it happens.
    fn notice(&self, notice: &Notice<'_>);
}

/// A stage that is to be run.
#[derive(Debug)]
pub struct Job<'a> {
    /// Its name in the pipeline.
    pub stage: &'a str,
    /// What is run.
    pub work: &'a Work,
    /// The folder for its results. What an earlier attempt left is there.
    pub folder: &'a Path,
    /// For what it prints, if it is not shown.
    pub log: &'a Path,
    /// The lock on the result. A process that keeps it open keeps others from the folder, also when this one is gone.
    pub lock: &'a File,
    /// How many stages may run at the same time.
    pub jobs: usize,
    /// Set from outside: the stage is to stop.
    pub stop: &'a AtomicBool,
}

/// What is run for a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A stage of the program, with a recipe of its own.
    Recipe {
        /// The name of its kind.
        kind: String,
        /// The recipe's file.
        path: PathBuf,
    },
    /// Another program.
    Command {
        /// The program and its arguments.
        arguments: Vec<String>,
        /// Where it is run.
        folder: PathBuf,
    },
}

/// How a stage ended.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEnd {
    /// Its results are complete.
    Finished(JobReport),
    /// It was stopped, and can be continued.
    Interrupted,
    /// It failed, for this reason.
    Failed(String),
}

/// What is known of a stage that has run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobReport {
    /// Its main figures.
    pub figures: BTreeMap<String, f64>,
    /// How long it ran, in seconds.
    pub seconds: f64,
    /// The most memory it had, in bytes.
    pub peak_bytes: Option<u64>,
}

/// What happens while a pipeline is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice<'a> {
    /// A stage starts, or continues where it was stopped.
    Started {
        /// The stage.
        stage: &'a str,
        /// Whether an earlier attempt left something.
        continues: bool,
    },
    /// A stage has ended.
    Finished {
        /// The stage.
        stage: &'a str,
    },
    /// The result came from the store, without a run.
    Reused {
        /// The stage.
        stage: &'a str,
    },
    /// Another process makes the same result; this one waits.
    WaitsForOther {
        /// The stage.
        stage: &'a str,
    },
    /// The result is fetched from the remote.
    Fetching {
        /// The stage.
        stage: &'a str,
        /// The size of the result.
        bytes: u64,
    },
    /// The result came from the remote, without a run.
    Fetched {
        /// The stage.
        stage: &'a str,
    },
    /// Another machine makes the same result; this one waits.
    WaitsForMachine {
        /// The stage.
        stage: &'a str,
        /// The process that makes it.
        owner: &'a str,
    },
    /// Another machine has stored another result of the same key first: that one is used here too.
    Replaced {
        /// The stage.
        stage: &'a str,
    },
    /// The result is here, and could not be uploaded.
    NotUploaded {
        /// The stage.
        stage: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// The digests of files could not be kept: they are read again the next time.
    NotRemembered {
        /// Why.
        reason: &'a str,
    },
    /// A stage has failed.
    Failed {
        /// The stage.
        stage: &'a str,
        /// Why.
        reason: &'a str,
    },
}
