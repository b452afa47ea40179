//! What can go wrong, each with its place in the file.

use std::fmt;
use std::path::PathBuf;

use crate::keys::Tool;

/// A position in a YAML file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why a file cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file is not YAML, or uses something of YAML that is not read.
    #[error("{}:{place}: {reason}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Where.
        place: Place,
        /// What is wrong.
        reason: String,
    },
    /// A value does not fit its key.
    #[error("{}:{place}: `{key}` is {found}, expected {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Where the value is.
        place: Place,
        /// The key.
        key: String,
        /// The value, or what kind of value it is.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// None of the keys tells which tool the file is for, or those of several tools do.
    #[error("{}: cannot detect which tool this file is for{}; expected a file of TRL, axolotl, LLaMA-Factory \
             or verl", path.display(), candidates(found))]
    UnknownTool {
        /// The file.
        path: PathBuf,
        /// The tools that have about the same number of its keys.
        found: Vec<Tool>,
    },
    /// A file of TRL does not say which trainer it is for, and its keys do not tell either.
    #[error(
        "{}: the keys of this file of TRL fit several of its trainers; expected a stage (sft, dpo, kto, orpo, cpo, \
         reward, grpo or rloo)",
        path.display()
    )]
    UnknownStage {
        /// The file.
        path: PathBuf,
    },
    /// What the file asks for is nothing that truing does.
    #[error("{}:{place}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The key that asks for it.
        place: Place,
        /// What it is, and why not.
        reason: String,
    },
    /// The file names no training data.
    #[error("{}: no training data, expected `{key}`", path.display())]
    NoData {
        /// The file.
        path: PathBuf,
        /// The key that would name them.
        key: &'static str,
    },
    /// LLaMA-Factory's list of data sets cannot be used.
    #[error("{}: {reason}", path.display())]
    DataInfo {
        /// `dataset_info.json`.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

fn candidates(found: &[Tool]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = found.iter().map(|tool| tool.name()).collect();
    format!(" ({} would fit)", names.join(" and "))
}
