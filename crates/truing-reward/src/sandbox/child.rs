//! The child's side: shut in, start the interpreter, pass on how it ended.
#![allow(unsafe_code, reason = "system calls")]

use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use super::messages::{ChildSpec, Mode, SETUP_FAILED};
use super::{landlock_rules, limits, namespaces, seccomp};

/// Exit status of a child whose program was killed by a signal, for instance at a limit.
pub(super) const KILLED: i32 = 2;
/// Status by which a program says that its peer left it.
pub(super) const PEER_LEFT: i32 = 3;
/// A peer that closed its end may still be on its way out.
const PEER_GRACE: Duration = Duration::from_millis(200);

/// Runs what the argument (JSON, made by [`Launcher`](super::Launcher)) says and gives the status to exit with.
#[must_use]
pub fn child_main(argument: &str) -> i32 {
    let outcome = serde_json::from_str(argument).map_err(io::Error::other).and_then(|spec| run(&spec));
    outcome.unwrap_or_else(|error| {
        // What the parent shows to a person.
        let _ = io::stderr().write_all(error.to_string().as_bytes());
        SETUP_FAILED
    })
}

fn run(spec: &ChildSpec) -> io::Result<i32> {
    if spec.mode == Mode::Namespaces {
        namespaces::enter()?;
    }
    // The first process of the process namespace: when it ends, the kernel ends all others.
    Ok(Forked::start(|| run_inside(spec))?.wait()?.unwrap_or(KILLED))
}

/// The programs are processes of their own, since the first one of a namespace is spared most signals.
fn run_inside(spec: &ChildSpec) -> io::Result<i32> {
    if spec.mode == Mode::Namespaces {
        namespaces::change_root(&spec.readable, spec.limits.file_bytes)?;
    } else {
        std::env::set_current_dir("/")?;
    }
    let Some(peer_command) = &spec.peer else {
        let status = Forked::start(|| start(spec, &spec.command, Streams::Inherited))?.wait()?;
        return Ok(status.map_or(KILLED, |status| status.min(1)));
    };
    let (peer_input, to_peer) = io::pipe()?;
    let (from_peer, peer_output) = io::pipe()?;
    let mut peer = Forked::start(|| start(spec, peer_command, Streams::Peer(peer_input, peer_output)))?;
    let program = Forked::start(|| start(spec, &spec.command, Streams::Beside(from_peer, to_peer)))?;
    peer.check_start()?;
    Ok(match program.wait()? {
        None => KILLED,
        Some(PEER_LEFT) if peer.was_killed()? => KILLED,
        Some(PEER_LEFT) => PEER_LEFT,
        Some(status) => status.min(1),
    })
}

/// What a program is connected to.
enum Streams {
    /// The parent.
    Inherited,
    /// Nobody but the program beside it.
    Peer(PipeReader, PipeWriter),
    /// The parent, and the peer by two more descriptors.
    Beside(PipeReader, PipeWriter),
}

/// Becomes the program; only returns when that could not be, or there is none to become.
fn start(spec: &ChildSpec, command: &[String], streams: Streams) -> io::Result<i32> {
    let landlock = shut_in(spec)?;
    let Some((program, arguments)) = command.split_first() else {
        io::stdout().write_all(landlock.as_bytes())?;
        io::stdout().flush()?;
        return Ok(0);
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    command.envs([("PATH", "/usr/bin:/bin"), ("HOME", "/tmp"), ("LANG", "C.UTF-8"), ("PYTHONHASHSEED", "0")]);
    match streams {
        Streams::Inherited => Err(command.exec()),
        Streams::Peer(input, output) => Err(command.stdin(input).stdout(output).exec()),
        Streams::Beside(input, output) => {
            for descriptor in [input.as_raw_fd(), output.as_raw_fd()] {
                // SAFETY: no pointers; the descriptor is open.
                check(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) }.into())?;
                command.arg(descriptor.to_string());
            }
            Err(command.exec())
        }
    }
}

/// Gives up everything; what is returned is why Landlock does not hold, empty where it does.
fn shut_in(spec: &ChildSpec) -> io::Result<String> {
    let is_isolated = spec.mode == Mode::Namespaces;
    limits::apply(&spec.limits, is_isolated)?;
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    if !is_isolated {
        drop_capabilities();
    }
    // Nothing that this process inherited may be inherited further.
    // SAFETY: no pointers; descriptors stay open until `exec`.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    let landlock = landlock_rules::restrict(&spec.readable, is_isolated).err().unwrap_or_default();
    if spec.mode == Mode::Landlock && !landlock.is_empty() {
        return Err(io::Error::other(landlock));
    }
    let files = match spec.mode {
        Mode::Namespaces => seccomp::Files::OwnTree,
        Mode::Landlock => seccomp::Files::GuardedByLandlock,
        Mode::Unsandboxed => seccomp::Files::Unguarded,
    };
    match seccomp::apply(files) {
        Err(reason) if spec.mode != Mode::Unsandboxed => Err(io::Error::other(format!("seccomp: {reason}"))),
        _ => Ok(landlock),
    }
}

/// A program of the superuser gets no more rights than one of anybody else. An error means there are none to drop.
fn drop_capabilities() {
    for capability in 0..64 {
        // SAFETY: no pointers.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}

/// A process that runs a function. An error there is returned here, through a pipe that closes at `exec`, so that no
/// program can pretend to it.
struct Forked {
    id: libc::pid_t,
    errors: PipeReader,
}

impl Forked {
    fn start(function: impl FnOnce() -> io::Result<i32>) -> io::Result<Self> {
        let (errors, mut writer) = io::pipe()?;
        // SAFETY: this process has one thread, so the child may continue as usual.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(errors);
                // SAFETY: no pointers. The child dies with its parent.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                let status = function().unwrap_or_else(|error| {
                    let _ = writer.write_all(error.to_string().as_bytes());
                    SETUP_FAILED
                });
                // SAFETY: no pointers; ends this process without running what the parent registered.
                unsafe { libc::_exit(status) }
            }
            id => Ok(Self { id, errors }),
        }
    }

    /// Returns once the program has begun.
    fn check_start(&mut self) -> io::Result<()> {
        match io::read_to_string(&self.errors)? {
            message if message.is_empty() => Ok(()),
            message => Err(io::Error::other(message)),
        }
    }

    /// The exit status, or `None` when a signal ended it.
    fn wait(mut self) -> io::Result<Option<i32>> {
        self.check_start()?;
        let mut status = 0;
        // SAFETY: the pointer is to a live integer.
        check(unsafe { libc::waitpid(self.id, &raw mut status, 0) }.into())?;
        Ok(libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)))
    }

    /// Whether a signal ended it, now or soon.
    fn was_killed(&self) -> io::Result<bool> {
        let deadline = Instant::now() + PEER_GRACE;
        let mut status = 0;
        loop {
            // SAFETY: the pointer is to a live integer.
            let found = unsafe { libc::waitpid(self.id, &raw mut status, libc::WNOHANG) };
            check(found.into())?;
            if found != 0 || Instant::now() >= deadline {
                return Ok(found != 0 && libc::WIFSIGNALED(status));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
