//! Stages that ask models, killed at random moments: `scripts/kill-test.py` with few kills. By hand it runs with 200.
#![allow(clippy::print_stderr, reason = "says why a test was skipped")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn killed_runs_end_with_the_files_of_an_uninterrupted_run_and_pay_for_nothing_twice() {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no python3");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kill-test.py");
    let mut command = Command::new("python3");
    let output =
        command.arg(script).arg(env!("CARGO_BIN_EXE_truing")).args(["--kills", "3"]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    let stages: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(stages.len(), 3, "{stdout}");
    for stage in stages {
        assert_eq!(stage["kept_replies_requested_again"], 0, "{stage}");
        assert!(stage["kills"].as_u64().unwrap() >= 3, "{stage}");
    }
}
