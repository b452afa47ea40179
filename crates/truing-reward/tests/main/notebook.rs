//! Notebooks, with a real interpreter.
#![allow(clippy::print_stderr, reason = "says why a test was skipped")]

use std::collections::BTreeMap;
use std::process::Command;

use truing_reward::notebook::{CellOutput, Notebook, NotebookError, NotebookRunner};
use truing_reward::sandbox::{Ending, Level, Limits};

use crate::sandbox::{child, has};

/// Runs notebooks of these cells beside a file; `None` where Python does not run here.
fn run(notebooks: &[&[&str]]) -> Option<Vec<Result<Vec<CellOutput>, NotebookError>>> {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) || !has(Level::Namespaces) {
        eprintln!("skipped: Python does not run in the sandbox here");
        return None;
    }
    let limits = Limits { wall_millis: 60_000, cpu_secs: 1, ..Limits::default() };
    let files = BTreeMap::from([("a.csv".to_owned(), "n,m\n1,2\n".to_owned())]);
    let of = |cells: &&[&str]| Notebook {
        cells: cells.iter().map(ToString::to_string).collect(),
        files: files.clone(),
    };
    let notebooks: Vec<Notebook> = notebooks.iter().map(of).collect();
    Some(NotebookRunner::new("python3", child(), limits, 60).unwrap().run(&notebooks))
}

#[test]
fn cells_share_variables_and_files_and_go_on_after_an_error() {
    let cells: &[&str] = &[
        "import csv\nrows = list(csv.DictReader(open('a.csv')))",
        "total = sum(int(row['m']) for row in rows)\nprint('total:', total)\ntotal + 1",
        "kept = 5\ntotal / 0",
        "with open('b.txt', 'w') as file:\n    file.write(f'{kept}')",
        "from pathlib import Path\nPath('b.txt').read_text()",
        "'x' * 100",
        "def broken(",
    ];
    let Some(mut outputs) = run(&[cells]) else { return };
    let outputs = outputs.remove(0).unwrap();
    let found: Vec<(&str, bool)> = outputs.iter().map(|cell| (cell.text.as_str(), cell.is_error)).collect();
    assert_eq!(found[..2], [("", false), ("total: 2\n3", false)]);
    assert_eq!(found[2], ("line 2: total / 0\nZeroDivisionError: division by zero", true));
    assert_eq!(found[4], ("'5'", false));
    assert_eq!(found[5].0, format!("'{}\n[the output was cut here]", "x".repeat(59)));
    assert!(found[6].1 && found[6].0.contains("SyntaxError"), "{:?}", found[6]);
}

#[test]
fn what_differs_from_run_to_run_or_does_not_end_has_no_outputs() {
    let cells: &[&[&str]] = &[
        &["print({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})"],
        &["while True:\n    pass"],
        &["import os\nos._exit(0)"],
        &["object().nothing"],
        &["import random\nrandom.seed(1)\nrandom.random() < 2"],
    ];
    let Some(outputs) = run(cells) else { return };
    assert_eq!(outputs[0], Err(NotebookError::NotReproducible));
    assert_eq!(outputs[1], Err(NotebookError::Ended(Ending::Killed)));
    assert_eq!(outputs[2], Err(NotebookError::Ended(Ending::Succeeded)));
    assert!(outputs[3].as_ref().unwrap()[0].text.contains("AttributeError"));
    assert_eq!(outputs[4].as_ref().unwrap()[0].text, "True");
}
