//! Messages between the sandbox and its child process, and the outcome of a program.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Limits;

/// The hidden sub-command: the binary calls [`child_main`](super::child_main) with the argument after it, before it
/// starts a thread.
pub const CHILD_COMMAND: &str = "sandbox-child";

/// Exit status of a child that could not shut itself in. The program's own statuses are passed on as 0 to 3.
pub(super) const SETUP_FAILED: i32 = 125;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With status 0.
    Succeeded,
    /// With another status.
    Failed,
    /// By a signal: a limit, or its own fault.
    Killed,
    /// By the wall clock.
    TimedOut,
    /// With status 3: the program beside it left it.
    PeerLeft,
}

/// What became of a program.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub ending: Ending,
    /// The beginning of its output.
    pub stdout: String,
    /// The beginning of its error output.
    pub stderr: String,
    /// Whether more was written than was kept.
    pub is_cut: bool,
}

/// A program that was not run.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The child could not shut itself in.
    #[error("no sandbox: {0}")]
    Unavailable(String),
    /// The child could not be started or read.
    #[error("the sandbox's child: {0}")]
    Io(#[from] io::Error),
}

/// The message to a child process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChildSpec {
    /// Nothing to only find out whether the child can shut itself in; it then writes why Landlock does not hold.
    pub(super) command: Vec<String>,
    /// A second program; its input and output are two descriptors of the first.
    pub(super) peer: Option<Vec<String>>,
    pub(super) readable: Vec<PathBuf>,
    pub(super) limits: Limits,
    pub(super) mode: Mode,
}

/// What the child has to shut itself in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mode {
    /// Namespaces and seccomp; Landlock where there is one.
    Namespaces,
    /// Landlock and seccomp.
    Landlock,
    /// Whatever there is.
    Unsandboxed,
}
