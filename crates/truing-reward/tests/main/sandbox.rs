//! The sandbox and the reward for code, with a real interpreter where there is one.
#![allow(clippy::print_stderr, reason = "says why a test was skipped")]

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Map, Value};
use truing_reward::sandbox::{Ending, Launcher, Limits, Output};
use truing_reward::verifiers::code::{Code, CodeConfig};
use truing_reward::{Completion, RewardFunction as _};
use truing_types::{Conversation, FinishReason, RowOrigin, Unscored, UnscoredReason};

fn child() -> PathBuf {
    env!("CARGO_BIN_EXE_truing-sandbox-child").into()
}

fn score(config: CodeConfig, text: &str, columns: &Map<String, Value>) -> Result<f64, Unscored> {
    let origin = RowOrigin { source: "code.jsonl".into(), line: 1 };
    let prompt = Conversation::default();
    let finish_reason = FinishReason::EndOfTurn;
    let completion =
        Completion { prompt: &prompt, text, n_tokens: 1, finish_reason, columns, origin: &origin };
    Code::new(config, child()).score(&[completion]).remove(0)
}

fn is_ready() -> bool {
    let has_python = Command::new("python3").arg("--version").output().is_ok_and(|out| out.status.success());
    let columns = row(r#"{"test_list": ["assert True"]}"#);
    let is_ready = has_python && score(CodeConfig::default(), "pass", &columns) == Ok(1.0);
    if !is_ready {
        eprintln!(
            "skipped: no python3, or no namespaces here: {:?}",
            score(CodeConfig::default(), "pass", &columns)
        );
    }
    is_ready
}

fn row(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap()
}

fn shell(script: &str, limits: Limits) -> Option<Output> {
    let launcher = Launcher { program: child(), limits, readable: vec![], is_isolated: true };
    match launcher.run(&["/bin/sh".into(), "-c".into(), script.into()], "") {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn a_program_is_shut_in() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "secret").unwrap();
    let hello = "echo hello; echo $HOME; cat $0 2>/dev/null; pwd";
    let Some(output) = shell(hello, Limits::default()) else { return };
    assert_eq!((output.ending, output.stdout.as_str()), (Ending::Failed, "hello\n/tmp\n"), "{output:?}");
    let look = |script: String| shell(&script, Limits::default()).unwrap();
    // The shell's own words only: it cannot start a process.
    let output = look(format!("read line < {} && echo $line", secret.path().display()));
    assert_eq!((output.ending, output.stdout.as_str()), (Ending::Failed, ""));
    assert_eq!(look("echo x > /usr/written".into()).ending, Ending::Failed);
    assert_eq!(look("echo x > /written".into()).ending, Ending::Failed);
    assert_eq!(look("echo x > /tmp/written && read line < /tmp/written".into()).ending, Ending::Succeeded);
    assert_eq!(look("(echo forked)".into()).stdout, "");
    assert_eq!(look("kill -9 $$".into()).ending, Ending::Killed);
    assert_eq!(look("exit 125".into()).ending, Ending::Failed);
    let output = look("i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done".into());
    assert!(output.is_cut && output.stdout.len() == Limits::default().output_bytes);
    let short = Limits { wall_millis: 300, ..Limits::default() };
    assert_eq!(shell("while :; do :; done", short).unwrap().ending, Ending::TimedOut);
}

#[test]
fn tests_decide_and_what_breaks_a_limit_fails() {
    if !is_ready() {
        return;
    }
    let columns = row(r#"{"test_list": ["assert double(2) == 4"]}"#);
    let limits = Limits { wall_millis: 1500, ..Limits::default() };
    let config = CodeConfig { limits, ..CodeConfig::default() };
    let right = "def double(x):\n    return 2 * x\n";
    let check = |text: &str, expect: f64| {
        assert_eq!(score(config.clone(), text, &columns), Ok(expect), "{text}");
    };
    check(right, 1.0);
    check(&format!("Here:\n```python\n{right}```\n"), 1.0);
    check("def double(x):\n    return x\n", 0.0);
    check("import os; os._exit(0)", 0.0);
    check(&format!("{right}import sys; sys.exit(0)"), 0.0);
    check(&format!("{right}while True: pass"), 0.0);
    check(&format!("{right}import os\nwhile True: os.fork()"), 0.0);
    check(&format!("{right}x = bytearray(4 << 30)"), 0.0);
    check(&format!("{right}import socket; socket.socket()"), 0.0);
    check(&format!("{right}open('/usr/x', 'w')"), 0.0);
    check(&format!("{right}open('/etc/passwd')"), 0.0);
    check(&format!("{right}print('x' * 10_000_000)"), 1.0);
    let strict = CodeConfig { limits_are_unscored: true, ..config.clone() };
    let unscored = score(strict, "while True: pass", &columns).unwrap_err();
    assert_eq!(unscored.reason, UnscoredReason::LimitReached);
    let unscored = score(config.clone(), right, &Map::new()).unwrap_err();
    assert_eq!(unscored.reason, UnscoredReason::MissingReference);
    let absent = CodeConfig { interpreter: "no-such-interpreter".into(), ..config.clone() };
    assert_eq!(score(absent, right, &columns).unwrap_err().reason, UnscoredReason::NoSandbox);
}

#[test]
fn canonical_solutions_pass_and_broken_ones_fail() {
    let Some(shared) = std::env::var_os("TRUING_TEST_SHARED").map(PathBuf::from) else {
        eprintln!("skipped: TRUING_TEST_SHARED is not set");
        return;
    };
    if !is_ready() {
        return;
    }
    for (file, solution) in [("humaneval.jsonl", "canonical_solution"), ("mbpp.jsonl", "code")] {
        let text = std::fs::read_to_string(shared.join("data/code").join(file)).unwrap();
        for line in text.lines().take(20) {
            let columns = row(line);
            let canonical = columns[solution].as_str().unwrap();
            assert_eq!(score(CodeConfig::default(), canonical, &columns), Ok(1.0), "{file}: {line}");
            let broken = match columns.get("entry_point") {
                Some(_) => "    return NotImplemented\n",
                None => "pass",
            };
            assert_eq!(score(CodeConfig::default(), broken, &columns), Ok(0.0), "{file}: {line}");
        }
    }
}
