//! The parent's side: which isolation there is, and running programs in it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[cfg(not(target_os = "linux"))]
use super::elsewhere as process;
use super::messages::{ChildSpec, Ending, Mode, Output, SandboxError};
#[cfg(target_os = "linux")]
use super::process;
use super::{Isolation, Level, Limits};

/// Starts sandboxed programs.
#[derive(Debug)]
pub struct Launcher {
    /// The binary that answers to [`CHILD_COMMAND`](super::CHILD_COMMAND): this program's own.
    pub program: PathBuf,
    /// What a sandboxed program may use.
    pub limits: Limits,
    /// Directories that it may read, besides the system's libraries.
    pub readable: Vec<PathBuf>,
    /// Run even if nothing isolates a program from files. It can then read, write and fake anything.
    pub allow_unsandboxed: bool,
    isolation: OnceLock<Isolation>,
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

/// Finds out by starting `program` (a binary that answers to [`CHILD_COMMAND`](super::CHILD_COMMAND)) once or twice.
#[must_use]
pub fn isolation(program: &Path) -> Isolation {
    Launcher::new(program.to_owned(), Limits::default()).isolation().clone()
}
