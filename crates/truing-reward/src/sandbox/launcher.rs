//! The parent's side: start the child, feed it, keep a little of what it says, end it in time.
#![allow(unsafe_code, reason = "system calls")]

use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Limits;
use super::child::{CHILD_COMMAND, ChildSpec, KILLED, SETUP_FAILED};

/// How to start sandboxed programs.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The binary that answers to [`CHILD_COMMAND`]: this program's own.
    pub program: PathBuf,
    /// What a sandboxed program may use.
    pub limits: Limits,
    /// Directories that it may read, besides the system's libraries.
    pub readable: Vec<PathBuf>,
    /// Whether namespaces are used. Without them only seccomp and the limits hold, and files can be read and written.
    pub is_isolated: bool,
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

const SYSTEM: [&str; 5] = ["/usr", "/bin", "/lib", "/lib64", "/etc/alternatives"];

impl Launcher {
    /// Runs a command with this input, and waits for its end.
    ///
    /// # Errors
    /// When it could not be run in the sandbox. However the command itself ends is no error.
    pub fn run(&self, command: &[String], input: &str) -> Result<Output, SandboxError> {
        let readable = SYSTEM.iter().map(PathBuf::from).chain(self.readable.iter().cloned()).collect();
        let spec = ChildSpec {
            command: command.to_vec(),
            readable,
            limits: self.limits.clone(),
            is_isolated: self.is_isolated,
        };
        let argument = serde_json::to_string(&spec).map_err(io::Error::other)?;
        let mut child = Command::new(&self.program)
            .args([CHILD_COMMAND, &argument])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let cap = self.limits.output_bytes;
        let (status, stdout, stderr) = thread::scope(|scope| {
            // A program that does not read its input is its own business.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
            let stdout = scope.spawn(move || read_capped(stdout, cap));
            let stderr = scope.spawn(move || read_capped(stderr, cap));
            let status = wait(&mut child, Duration::from_millis(self.limits.wall_millis));
            let join =
                |reader: thread::ScopedJoinHandle<'_, (String, bool)>| reader.join().unwrap_or_default();
            (status, join(stdout), join(stderr))
        });
        let ending = match status? {
            None => Ending::TimedOut,
            Some(0) => Ending::Succeeded,
            Some(SETUP_FAILED) => return Err(SandboxError::Unavailable(stderr.0.trim().to_owned())),
            Some(KILLED) => Ending::Killed,
            Some(_) => Ending::Failed,
        };
        Ok(Output { ending, is_cut: stdout.1 || stderr.1, stdout: stdout.0, stderr: stderr.0 })
    }
}

/// The exit status, or `None` when the time was over. Either way nothing of the process group is left.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<i32>> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    let result = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(Some(status.code().unwrap_or(KILLED))),
            Ok(None) if Instant::now() >= deadline => break Ok(None),
            Ok(None) => {}
            Err(error) => break Err(error),
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    if !matches!(result, Ok(Some(_)))
        && let Ok(group) = i32::try_from(child.id())
    {
        // SAFETY: no pointers. The child has not been waited for, so the number is still its group's.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        child.wait()?;
    }
    result
}

/// Reads to the end, so that the writer is never held up, and keeps the first bytes.
fn read_capped(stream: Option<impl Read>, cap: usize) -> (String, bool) {
    let Some(mut stream) = stream else { return <_>::default() };
    let mut kept = Vec::new();
    // An error is the end of the stream.
    let _ = stream.by_ref().take(cap as u64).read_to_end(&mut kept);
    let dropped = io::copy(&mut stream, &mut io::sink()).unwrap_or(0);
    (String::from_utf8_lossy(&kept).into_owned(), dropped > 0)
}
