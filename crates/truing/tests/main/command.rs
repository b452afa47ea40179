//! Runs the binary with an environment of its own.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// What a process that has ended left.
    pub(crate) fn of(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Fails unless the exit status is this.
    #[track_caller]
    pub(crate) fn expect_status(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Fails unless stderr holds each text.
    #[track_caller]
    pub(crate) fn expect_stderr(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "no `{text}` in stderr: {}", self.stderr);
        }
        self
    }
}

/// The binary, without any of the user's variables, with its caches below `home`.
pub(crate) fn truing(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_truing"));
    command.env_clear().env("HOME", home).env("HF_HUB_OFFLINE", "1").env("PATH", "").stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn run<S: AsRef<OsStr>>(home: &Path, arguments: impl IntoIterator<Item = S>) -> Finished {
    finish(truing(home).args(arguments))
}

/// Runs it to its end where `home` is the folder that paths are relative to.
pub(crate) fn run_inside<S: AsRef<OsStr>>(home: &Path, arguments: impl IntoIterator<Item = S>) -> Finished {
    finish(truing(home).current_dir(home).args(arguments))
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Finished {
    Finished::of(command.output().unwrap())
}
