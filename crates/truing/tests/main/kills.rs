//! Programs that are killed at random moments: `scripts/kill-test.py`, `pipeline-kill-test.py` and
//! `annotate-kill-test.py` with few kills. By hand they run with hundreds (docs/results/robustness.md).
#![allow(clippy::print_stderr, reason = "says why a test was skipped")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs a script, which has to succeed, and returns the objects that it prints; `None` without Python.
fn run_script(name: &str, arguments: &[&str]) -> Option<Vec<Value>> {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no python3");
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(name);
    let mut command = Command::new("python3");
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(script).arg(env!("CARGO_BIN_EXE_truing")).args(arguments);
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    Some(stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn killed_runs_end_with_the_files_of_an_uninterrupted_run_and_pay_for_nothing_twice() {
    let names = ["respond", "prefer", "reversal", "constraints", "tools"];
    let joined = names.join(",");
    let Some(stages) = run_script("kill-test.py", &["--kills", "3", "--stages", &joined]) else { return };
    assert_eq!(stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect::<Vec<_>>(), names);
    for stage in stages {
        assert_eq!(stage["kept_replies_requested_again"], 0, "{stage}");
        assert!(stage["kills"].as_u64().unwrap() >= 3, "{stage}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_killed_pipeline_ends_with_the_digests_of_an_undisturbed_one() {
    let Some(found) = run_script("pipeline-kill-test.py", &["--kills", "4"]) else { return };
    assert!(found[0]["kills"].as_u64().unwrap() >= 4, "{}", found[0]);
    assert_eq!(found[0]["stages"], 8, "{}", found[0]);
}

#[test]
fn a_killed_annotation_server_has_every_answer_that_it_acknowledged() {
    let Some(found) = run_script("annotate-kill-test.py", &["--kills", "10", "--items", "0"]) else { return };
    assert_eq!((&found[0]["kills"], &found[0]["lost"]), (&Value::from(10), &Value::from(0)), "{}", found[0]);
    assert!(found[0]["acknowledged"].as_u64().unwrap() > 0, "{}", found[0]);
}
