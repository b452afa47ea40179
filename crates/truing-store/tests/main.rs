//! Faults from outside the process: a file size limit, and `kill -9` at any moment.
//!
//! Each test starts this same binary again as a child that writes; the child's part runs only when the variable
//! [`CHILD_DIRECTORY`] names the directory to write to.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use truing_store::{
    CommittedDirectory, MetricsLog, StagedDirectory, StoreError, atomic, latest_valid, prune,
};

const CHILD_DIRECTORY: &str = "TRUING_STORE_TEST_CHILD";

fn child_directory() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIRECTORY).map(PathBuf::from)
}

fn child(test: &str, directory: &Path, shell_prelude: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("{shell_prelude} exec \"$0\" --exact {test} --nocapture"))
        .arg(std::env::current_exe().unwrap())
        .env(CHILD_DIRECTORY, directory);
    command
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn no_room_is_a_clear_error_and_leaves_nothing_half_written() {
    if let Some(directory) = child_directory() {
        let too_big = vec![7; 1 << 20];
        let error = atomic::write(&directory.join("kept.bin"), &too_big).unwrap_err();
        assert!(matches!(error, StoreError::StorageFull { .. }), "{error:?}");
        let mut staged = StagedDirectory::begin(&directory.join("step-2")).unwrap();
        staged.write("small", b"fits").unwrap();
        let error = staged.write("big", &too_big).unwrap_err();
        assert!(matches!(error, StoreError::StorageFull { .. }), "{error:?}");
        assert!(error.to_string().starts_with("no room to write `"), "{error}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    atomic::write(&directory.path().join("kept.bin"), b"old").unwrap();
    StagedDirectory::begin(&directory.path().join("step-1")).unwrap().commit().unwrap();
    // A file size limit with its signal ignored makes write(2) fail half-way, as a full disk does.
    let test = "no_room_is_a_clear_error_and_leaves_nothing_half_written";
    let output = child(test, directory.path(), "trap '' XFSZ; ulimit -f 64;").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(names(directory.path()), ["kept.bin", "step-1"]);
    assert_eq!(std::fs::read(directory.path().join("kept.bin")).unwrap(), b"old");
}

#[test]
fn a_full_device_is_a_clear_error() {
    if !Path::new("/dev/full").exists() {
        println!("skipped: no /dev/full here");
        return;
    }
    let mut log = MetricsLog::open(Path::new("/dev/full")).unwrap();
    let error = log.append(&serde_json::json!({"step": 1})).unwrap_err();
    assert!(matches!(error, StoreError::StorageFull { .. }), "{error:?}");
}

/// The content of step `step`: long enough for the kill to fall inside the writing.
fn content(step: u64) -> Vec<u8> {
    (0..200_000u64).map(|i| ((i * 2_654_435_761) ^ step) as u8).collect()
}

#[test]
fn killed_at_any_moment_the_last_announced_checkpoint_is_whole() {
    if let Some(directory) = child_directory() {
        let start = latest_valid(&directory, "step-").unwrap().found.map_or(0, |(step, _)| step);
        for step in start + 1.. {
            let mut staged = StagedDirectory::begin(&directory.join(format!("step-{step}"))).unwrap();
            staged.write("weights", &content(step)).unwrap();
            std::fs::write(staged.path().join("state"), step.to_string()).unwrap();
            staged.commit().unwrap();
            // The same name again: the exchange must be as safe as the first commit.
            let mut staged = StagedDirectory::begin(&directory.join("best-1")).unwrap();
            staged.write("state", step.to_string().as_bytes()).unwrap();
            staged.commit().unwrap();
            println!("\nstep {step}");
            std::io::stdout().flush().unwrap();
            prune(&directory, "step-", 2, &[]).unwrap();
        }
    }
    let directory = tempfile::tempdir().unwrap();
    for round in 0..12 {
        let test = "killed_at_any_moment_the_last_announced_checkpoint_is_whole";
        let mut writer = child(test, directory.path(), "").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let announced: u64 = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("step ").map(|n| n.parse().unwrap()))
            .nth(round % 4)
            .unwrap();
        // The child keeps writing while these few instructions run, so each round cuts it at another place.
        for i in 0..round * 40_000 {
            std::hint::black_box(i);
        }
        writer.kill().unwrap();
        writer.wait().unwrap();

        let latest = latest_valid(directory.path(), "step-").unwrap();
        assert!(latest.damaged.is_empty(), "{:?}", latest.damaged);
        let (step, checkpoint) = latest.found.unwrap();
        assert!(step >= announced, "step {announced} was announced, {step} found");
        assert_eq!(std::fs::read(checkpoint.path().join("weights")).unwrap(), content(step));
        assert_eq!(std::fs::read_to_string(checkpoint.path().join("state")).unwrap(), step.to_string());
        let best = CommittedDirectory::open_verified(&directory.path().join("best-1")).unwrap();
        let best: u64 = std::fs::read_to_string(best.path().join("state")).unwrap().parse().unwrap();
        assert!(best >= announced && best <= step);
    }
}
