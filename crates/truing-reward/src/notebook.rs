//! Notebooks: cells of Python that share their variables, run in the [`sandbox`](crate::sandbox).
//!
//! One run is one process that executes all cells in order. Nothing is kept between runs: a notebook that grows is run
//! again from its first cell, so n cells that are added one at a time are n (n + 1) / 2 executions. In return a run
//! depends on its cells and files alone, and can be repeated at any time: the hash seeds are derived from the number of
//! its cells. The exceptions are the time limits, which may end a run on a busy machine only.
//!
//! Files are in memory and seen by `open` alone, also through `pathlib` and what is built on them: `os.listdir` and
//! `os.path.exists` do not know them. What a cell writes by `open` is there for later cells.
//!
//! Not covered: cells run in the same process as the code that runs them, and can falsify their outputs. Use notebooks
//! for data that are made with a model, not for rewards of a policy in training.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::sandbox::{Ending, Launcher, Limits};
use crate::verifiers::code::find_python;

const SCRIPT: &str = include_str!("notebook.py");
/// Starts the interpreter again with a seed for its hashes of strings; `-I` alone would not let it be set.
const START: &str = "import os, sys
os.execve(sys.argv[2], sys.argv[2:], {**os.environ, 'PYTHONHASHSEED': sys.argv[1]})";

/// The last line of an output that was cut.
pub const CUT: &str = "[the output was cut here]";

/// Runs notebooks.
#[derive(Debug)]
pub struct NotebookRunner {
    launcher: Launcher,
    python: PathBuf,
    max_output_characters: usize,
    workers: usize,
}

/// The cells of a notebook and the files beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notebook {
    /// Python, in the order in which it is run.
    pub cells: Vec<String>,
    /// Texts by their names.
    pub files: BTreeMap<String, String>,
}

/// The output of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellOutput {
    /// What it printed, the value of its last expression, and its error.
    pub text: String,
    /// Whether it raised an error.
    pub is_error: bool,
}

/// Why a notebook has no outputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotebookError {
    /// Nothing could be run.
    #[error("no sandbox: {0}")]
    NoSandbox(String),
    /// A cell ended the process, or a limit did.
    #[error("the cells did not come to their end ({0:?})")]
    Ended(Ending),
    /// The same cells have other outputs.
    #[error("the output differs between two runs")]
    NotReproducible,
}

impl NotebookRunner {
    /// Finds the interpreter. `program` is the binary that answers to
    /// [`CHILD_COMMAND`](crate::sandbox::CHILD_COMMAND); `limits` hold for a whole run of a notebook, except that
    /// everything that the cells may print is kept: `max_output_characters` of each.
    ///
    /// # Errors
    /// When the interpreter does not run in the sandbox here.
    pub fn new(
        interpreter: &str,
        program: PathBuf,
        limits: Limits,
        max_output_characters: usize,
    ) -> Result<Self, NotebookError> {
        let mut launcher = Launcher::new(program, limits);
        let python = find_python(interpreter, &mut launcher)
            .map_err(|why| NotebookError::NoSandbox(format!("{interpreter}: {why}")))?;
        Ok(Self { launcher, python, max_output_characters, workers: 2 })
    }

    /// The outputs of all cells of each notebook. Each is run twice, by interpreters whose hashes of strings differ:
    /// what depends on the order of a set, on the clock or on an unseeded generator is
    /// [`NotReproducible`](NotebookError::NotReproducible). Two orders of a small set may agree by chance.
    #[must_use]
    pub fn run(&mut self, notebooks: &[Notebook]) -> Vec<Result<Vec<CellOutput>, NotebookError>> {
        const LONGEST_ESCAPE: usize = 12;
        let most_cells = notebooks.iter().map(|one| one.cells.len()).max().unwrap_or(0);
        // For each cell its printed text and its error, escaped as JSON.
        let of_cell = self.max_output_characters.saturating_mul(2).saturating_add(100);
        let bytes = most_cells.saturating_mul(of_cell);
        self.launcher.limits.output_bytes = bytes.saturating_mul(LONGEST_ESCAPE);
        let (runner, next) = (&*self, AtomicUsize::new(0));
        let work = || {
            let mut done = Vec::new();
            while let Some((i, notebook)) = {
                let i = next.fetch_add(1, Ordering::Relaxed);
                notebooks.get(i).map(|notebook| (i, notebook))
            } {
                done.push((i, runner.run_twice(notebook)));
            }
            done
        };
        let mut done: BTreeMap<usize, Result<Vec<CellOutput>, NotebookError>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.workers.min(notebooks.len())).map(|_| scope.spawn(work)).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
        });
        let lost = || Err(NotebookError::NoSandbox("the worker thread failed".into()));
        (0..notebooks.len()).map(|i| done.remove(&i).unwrap_or_else(lost)).collect()
    }

    fn run_twice(&self, notebook: &Notebook) -> Result<Vec<CellOutput>, NotebookError> {
        let seed = 2 * notebook.cells.len();
        let first = self.run_once(notebook, seed)?;
        let second = self.run_once(notebook, seed + 1)?;
        if first == second { Ok(first) } else { Err(NotebookError::NotReproducible) }
    }

    fn run_once(&self, notebook: &Notebook, hash_seed: usize) -> Result<Vec<CellOutput>, NotebookError> {
        let input = json!({
            "cells": notebook.cells, "files": notebook.files,
            "max_output_characters": self.max_output_characters, "cut": CUT,
        });
        let (python, hash_seed) = (self.python.to_string_lossy(), hash_seed.to_string());
        let command: [&str; 11] =
            [&python, "-I", "-B", "-c", START, &hash_seed, &python, "-s", "-B", "-c", SCRIPT];
        let output = self.launcher.run(&command.map(str::to_owned), &input.to_string());
        let output = output.map_err(|error| NotebookError::NoSandbox(error.to_string()))?;
        let cells: Option<Vec<CellOutput>> = serde_json::from_str(&output.stdout).ok();
        match (output.ending, cells) {
            (Ending::Succeeded, Some(cells)) if cells.len() == notebook.cells.len() => Ok(cells),
            (ending, _) => Err(NotebookError::Ended(ending)),
        }
    }
}
