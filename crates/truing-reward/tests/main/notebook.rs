//! Notebooks, with a real interpreter.
#![allow(clippy::print_stderr, reason = "says why a test was skipped")]

use std::collections::BTreeMap;
use std::process::Command;

use truing_reward::notebook::{CUT, CellOutput, Notebook, NotebookError, NotebookRunner};
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
fn cells_share_variables_and_files_and_continue_after_an_error() {
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
    assert_eq!(found[5].0, format!("'{}\n{CUT}", "x".repeat(59)));
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

/// Cell and output, where none is an error.
fn check_outputs(cells: &[(&str, &str)]) {
    let codes: Vec<&str> = cells.iter().map(|(code, _)| *code).collect();
    let Some(mut outputs) = run(&[codes.as_slice()]) else { return };
    let outputs = outputs.remove(0).unwrap();
    let found: Vec<(&str, bool)> = outputs.iter().map(|cell| (cell.text.as_str(), cell.is_error)).collect();
    let expected: Vec<(&str, bool)> = cells.iter().map(|(_, text)| (*text, false)).collect();
    assert_eq!(found, expected);
}

#[test]
fn files_are_what_they_are_on_a_disk() {
    check_outputs(&[
        ("with open('a.csv', 'r+') as file:\n    file.write('N')", ""),
        ("open('a.csv').read()", r"'N,m\n1,2\n'"),
        ("file = open('b.txt', 'w')\nfile.write('one')", "3"),
        ("open('b.txt').read()", "''"),
        ("file.flush()\nopen('b.txt').read()", "'one'"),
        ("file.close()\nwith open('b.txt', 'a') as more:\n    more.write('two')", ""),
        ("import os\nopen(os.path.abspath('b.txt'), 'rb').read()", "b'onetwo'"),
        (
            "import io\ntry:\n    open('a.csv').write('x')\nexcept io.UnsupportedOperation as error:\n    print(error)",
            "not writable",
        ),
        ("try:\n    open('a.csv', 'rw')\nexcept ValueError:\n    print('no mode')", "no mode"),
        ("try:\n    open('c.txt', 'r+')\nexcept FileNotFoundError:\n    print('no file')", "no file"),
    ]);
}

#[test]
fn what_one_cell_keeps_of_the_output_and_defines_is_there_in_later_cells() {
    check_outputs(&[
        ("import logging, sys\nlogging.basicConfig(level=logging.INFO)\nout = sys.stdout", ""),
        ("logging.info('two')", "INFO:root:two"),
        ("print('three', file=out)\nsys.stdout.close()", "three"),
        ("import pickle\nclass A: pass\ntype(pickle.loads(pickle.dumps(A()))) is A", "True"),
        ("from __main__ import A as B\nA is B", "True"),
        ("import __main__\nhasattr(__main__, 'json')", "False"),
        ("sys.stdout.buffer.write(b'\\xff') and None", "\u{fffd}"),
    ]);
}

#[test]
fn long_output_is_cut_once_and_a_lone_surrogate_is_escaped() {
    let cells: &[&str] = &[
        "for i in range(100_000):\n    print('é' * 30)",
        "print('x' * 60 + '\\n\\n')",
        "raise ValueError('\\udc00')",
    ];
    let Some(mut outputs) = run(&[cells]) else { return };
    let outputs = outputs.remove(0).unwrap();
    let line = "é".repeat(30);
    assert_eq!(outputs[0].text, format!("{line}\n{}\n{CUT}", "é".repeat(29)));
    assert_eq!(outputs[1].text, "x".repeat(60));
    assert_eq!(outputs[2].text, "line 1: raise ValueError('\\udc00')\nValueError: \\udc00");
}

/// The order of a set depends on the cells alone, so that a build that is continued has the same outputs again.
#[test]
fn runs_of_the_same_cells_see_the_same_hashes() {
    let cells: &[&str] = &["hash('a') == hash('a')", "len({'a', 'b', 'c', 'd', 'e'})"];
    let set: &[&str] = &["print({'a', 'b'})"];
    let Some(first) = run(&[cells, set]) else { return };
    assert_eq!(first[0].as_ref().unwrap()[1].text, "5");
    for _ in 0..4 {
        assert_eq!(run(&[cells, set]).unwrap(), first);
    }
}
