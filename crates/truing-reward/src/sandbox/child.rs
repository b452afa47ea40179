//! The child's side: shut in, start the interpreter, pass on how it ended.
#![allow(unsafe_code, reason = "system calls")]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::{Limits, limits, namespaces, seccomp};

/// The hidden sub-command: the binary calls [`child_main`] with the argument after it, before it starts a thread.
pub const CHILD_COMMAND: &str = "sandbox-child";

/// Exit status of a child that could not shut itself in. The program's own statuses are passed on as 0, 1 or 2.
pub(super) const SETUP_FAILED: i32 = 125;
/// Exit status of a child whose program was killed by a signal, for instance at a limit.
pub(super) const KILLED: i32 = 2;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChildSpec {
    pub(super) command: Vec<String>,
    pub(super) readable: Vec<PathBuf>,
    pub(super) limits: Limits,
    pub(super) is_isolated: bool,
}

/// Runs what the argument (JSON, made by [`super::Launcher`]) says and gives the status to exit with.
#[must_use]
pub fn child_main(argument: &str) -> i32 {
    let outcome = serde_json::from_str(argument).map_err(io::Error::other).and_then(|spec| run(&spec));
    outcome.unwrap_or_else(|error| {
        // What the parent shows to a person.
        let _ = io::Write::write_all(&mut io::stderr(), format!("sandbox: {error}\n").as_bytes());
        SETUP_FAILED
    })
}

fn run(spec: &ChildSpec) -> io::Result<i32> {
    if spec.is_isolated {
        namespaces::enter().map_err(|error| io::Error::other(format!("namespaces: {error}")))?;
    }
    // The first process of the process namespace: when it ends, the kernel ends all others.
    supervise(|| {
        if spec.is_isolated {
            namespaces::change_root(&spec.readable, spec.limits.file_bytes)?;
        }
        // A second one, since the first process of a namespace is spared most signals.
        let status = supervise(|| Err(start(spec)))?;
        Ok(status.map_or(KILLED, |status| status.min(1)))
    })
    .map(|status| status.unwrap_or(KILLED))
}

/// Only returns when the program could not be started.
fn start(spec: &ChildSpec) -> io::Error {
    let prepare = || -> io::Result<()> {
        limits::apply(&spec.limits)?;
        // SAFETY: no pointers.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        for filter in seccomp::filters().map_err(io::Error::other)? {
            seccompiler::apply_filter(&filter).map_err(io::Error::other)?;
        }
        Ok(())
    };
    if let Err(error) = prepare() {
        return error;
    }
    let Some((program, arguments)) = spec.command.split_first() else {
        return io::Error::other("there is no command");
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    command.envs([("PATH", "/usr/bin:/bin"), ("HOME", "/tmp"), ("LANG", "C.UTF-8"), ("PYTHONHASHSEED", "0")]);
    command.exec()
}

/// Runs a function in a process of its own and gives that one's exit status, or `None` when a signal ended it. An error there is one here, told through
/// a pipe that closes at `exec`, so that no program can pretend to it.
fn supervise(function: impl FnOnce() -> io::Result<i32>) -> io::Result<Option<i32>> {
    let (reader, writer) = io::pipe()?;
    // SAFETY: this process has one thread, so the child may go on as usual.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reader);
            // SAFETY: no pointers. The child dies with its parent.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let status = function().unwrap_or_else(|error| {
                let _ = io::Write::write_all(&mut &writer, error.to_string().as_bytes());
                SETUP_FAILED
            });
            // SAFETY: no pointers; ends this process without running what the parent registered.
            unsafe { libc::_exit(status) }
        }
        child => {
            drop(writer);
            let message = io::read_to_string(reader)?;
            let mut status = 0;
            // SAFETY: the pointer is to a live integer.
            if unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
            match (message.is_empty(), libc::WIFEXITED(status)) {
                (false, _) => Err(io::Error::other(message)),
                (true, false) => Ok(None),
                (true, true) => Ok(Some(libc::WEXITSTATUS(status))),
            }
        }
    }
}
