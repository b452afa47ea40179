//! The parent's side: which isolation there is, and running programs in it.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

#[cfg(not(target_os = "linux"))]
use super::elsewhere as process;
#[cfg(target_os = "linux")]
use super::process;
use super::{Isolation, Level, Limits};

/// The hidden sub-command: the binary calls [`child_main`](super::child_main) with the argument after it, before it
/// starts a thread.
pub const CHILD_COMMAND: &str = "sandbox-child";

/// Exit status of a child that could not shut itself in. The program's own statuses are passed on as 0 to 3.
pub(super) const SETUP_FAILED: i32 = 125;

/// Starts sandboxed programs.
#[derive(Debug)]
pub struct Launcher {
    /// The binary that answers to [`CHILD_COMMAND`]: this program's own.
    pub program: PathBuf,
    /// What a sandboxed program may use.
    pub limits: Limits,
    /// Directories that it may read, besides the system's libraries.
    pub readable: Vec<PathBuf>,
    /// Run even if nothing isolates a program from files. It can then read, write and fake anything.
    pub allow_unsandboxed: bool,
    isolation: OnceLock<Isolation>,
}

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

const SYSTEM: [&str; 5] = ["/usr", "/bin", "/lib", "/lib64", "/etc/alternatives"];

impl Launcher {
    /// Programs may read the system's libraries only, and are refused where nothing shuts them off.
    #[must_use]
    pub fn new(program: PathBuf, limits: Limits) -> Self {
        Self { program, limits, readable: vec![], allow_unsandboxed: false, isolation: OnceLock::new() }
    }

    /// How far programs are shut off here, found out once.
    pub fn isolation(&self) -> &Isolation {
        self.isolation.get_or_init(|| self.find_isolation())
    }

    fn find_isolation(&self) -> Isolation {
        let mut missing = Vec::new();
        for (mode, name) in [(Mode::Namespaces, "namespaces"), (Mode::Landlock, "Landlock")] {
            let mut spec = self.spec(&[], None, mode);
            spec.limits = Limits::default();
            let reason = match process::run(&self.program, &spec, "") {
                Ok(Output { ending: Ending::Succeeded, stdout, .. }) => {
                    let level = match (mode, stdout.is_empty()) {
                        (Mode::Namespaces, true) => Level::Full,
                        (Mode::Namespaces, false) => Level::Namespaces,
                        _ => Level::Landlock,
                    };
                    missing.extend((!stdout.is_empty()).then(|| format!("Landlock: {stdout}")));
                    return Isolation { level, missing };
                }
                Ok(output) => format!("the child ended as {:?}", output.ending),
                Err(SandboxError::Unavailable(reason)) => reason,
                Err(error) => error.to_string(),
            };
            missing.push(format!("{name}: {reason}"));
        }
        Isolation { level: Level::Nothing, missing }
    }

    /// Runs a command with this input, and waits for its end.
    ///
    /// # Errors
    /// When it could not be run in the sandbox. However the command itself ends is no error.
    pub fn run(&self, command: &[String], input: &str) -> Result<Output, SandboxError> {
        self.start(command, None, input)
    }

    /// Runs a command beside a second one that it can talk to but that cannot reach it otherwise: the numbers of the
    /// descriptors to read from and to write to are the command's two last arguments, the peer has them as its
    /// standard input and output. What is returned is the command's own; the peer ends with it.
    ///
    /// The command says by status 3 that the peer left it: [`Ending::PeerLeft`], or [`Ending::Killed`] where a signal
    /// ended the peer.
    ///
    /// # Errors
    /// When one of them could not be run in the sandbox.
    pub fn run_pair(&self, command: &[String], peer: &[String], input: &str) -> Result<Output, SandboxError> {
        self.start(command, Some(peer), input)
    }

    fn start(
        &self,
        command: &[String],
        peer: Option<&[String]>,
        input: &str,
    ) -> Result<Output, SandboxError> {
        let isolation = self.isolation();
        let mode = match isolation.level {
            Level::Full | Level::Namespaces => Mode::Namespaces,
            Level::Landlock => Mode::Landlock,
            Level::Nothing if self.allow_unsandboxed => Mode::Unsandboxed,
            Level::Nothing => return Err(SandboxError::Unavailable(isolation.missing.join("; "))),
        };
        process::run(&self.program, &self.spec(command, peer, mode), input)
    }

    fn spec(&self, command: &[String], peer: Option<&[String]>, mode: Mode) -> ChildSpec {
        ChildSpec {
            command: command.to_vec(),
            peer: peer.map(<[String]>::to_vec),
            readable: SYSTEM.iter().map(PathBuf::from).chain(self.readable.iter().cloned()).collect(),
            limits: self.limits.clone(),
            mode,
        }
    }
}
