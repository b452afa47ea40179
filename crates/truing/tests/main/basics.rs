//! Help, refusals, exit statuses, streams.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value;

use crate::command::{run, truing};

#[test]
fn help_goes_to_stdout_and_names_every_command() {
    let home = tempfile::tempdir().unwrap();
    let help = run(home.path(), ["--help"]).expect_status(0);
    for command in
        ["quickstart", "sft", "label", "plan", "verify", "inspect", "chat", "generate", "doctor", "report"]
    {
        assert!(help.stdout.contains(&format!("  {command}")), "{}", help.stdout);
        let own = run(home.path(), [command, "--help"]).expect_status(0);
        assert!(own.stdout.contains(&format!("Usage: truing {command}")), "{}", own.stdout);
    }
    assert!(help.stdout.contains("130 interrupted"));
}

#[test]
fn the_list_of_benchmarks_fits_a_terminal() {
    let home = tempfile::tempdir().unwrap();
    let list = run(home.path(), ["evaluate", "list"]).expect_status(0);
    assert!(list.stdout.lines().all(|line| line.chars().count() <= 80), "{}", list.stdout);
    assert!(list.stdout.lines().any(|line| line.starts_with("user_experience  ")), "{}", list.stdout);
}

#[test]
fn the_list_of_builders_fits_a_terminal() {
    let home = tempfile::tempdir().unwrap();
    let list = run(home.path(), ["build", "list"]).expect_status(0);
    assert!(list.stdout.lines().all(|line| line.chars().count() <= 80), "{}", list.stdout);
    for builder in [
        "constraints",
        "reversal",
        "mathematics",
        "system_messages",
        "reasoning",
        "textbook",
        "code",
        "tools",
        "code_interpreter",
        "back_translation",
        "rewrite",
    ] {
        assert!(list.stdout.lines().any(|line| line.starts_with(builder)), "{}", list.stdout);
    }
    let listed = run(home.path(), ["build", "list", "--json"]).expect_status(0);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed["builders"][2]["works_without_data"], true);
    run(home.path(), ["build"]).expect_status(2).expect_stderr(&["<RECIPE>"]);
}

#[test]
fn a_refused_command_line_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let refused = run(home.path(), ["reprot"]).expect_status(2);
    assert!(refused.stdout.is_empty());
    refused.expect_stderr(&["error: unrecognized subcommand 'reprot'", "'report'"]);
    run(home.path(), ["--threads", "0", "doctor", "--no-measure"])
        .expect_status(2)
        .expect_stderr(&["error: `--threads` is 0, expected at least 1"]);
    // A time in which nothing can be done.
    run(home.path(), ["serve", "--model", "nowhere", "--request-timeout", "0"])
        .expect_status(2)
        .expect_stderr(&["error: --request-timeout is 0, expected at least 1 second"]);
    let proxy = ["pas", "serve", "--model", "nowhere", "--upstream", "http://127.0.0.1:1"];
    run(home.path(), [&proxy[..], &["--complement-timeout", "0"]].concat())
        .expect_status(2)
        .expect_stderr(&["error: --complement-timeout is 0, expected at least 1 millisecond"]);
    // Options of these names are other tools'.
    for options in [&["--learning_rate", "1e-5"][..], &["--learning-rate=1e-5"]] {
        run(home.path(), [&["sft", "recipe.toml"][..], options].concat())
            .expect_status(2)
            .expect_stderr(&["tip: `learning_rate` is a setting of recipes: `--set learning_rate=1e-5`"]);
    }
}

#[test]
fn errors_say_what_and_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let finished = run(home.path(), ["report", "no-such-run"]).expect_status(2);
    assert_eq!(
        finished.stderr,
        "error: no-such-run holds no run: it has no `recipe.resolved.toml`\n\
         hint: a run's folder is what `output_dir` named in its recipe\n"
    );
    assert!(finished.stdout.is_empty());
}

#[test]
fn doctor_reports_as_json_without_measuring() {
    let home = tempfile::tempdir().unwrap();
    let finished = run(home.path(), ["doctor", "--json", "--no-measure"]);
    assert!(matches!(finished.status, Some(0 | 1)), "{finished:?}");
    let findings: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert!(findings["usable_cores"].as_u64().unwrap() >= 1);
    assert_eq!(findings["devices"][0]["engine"], "cpu");
    assert_eq!(findings["measured"], Value::Null);
    assert!(findings["model_cache"]["path"].as_str().unwrap().starts_with(home.path().to_str().unwrap()));
    assert_eq!(finished.status == Some(0), findings["to_fix"].as_array().unwrap().is_empty());
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let mut child = truing(home.path())
        .args(["doctor", "--no-measure"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}
