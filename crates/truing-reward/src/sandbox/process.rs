//! One child: start it, feed it, keep a little of what it says, end it in time.
#![allow(unsafe_code, reason = "system calls")]

use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::child::{KILLED, PEER_LEFT};
use super::messages::{CHILD_COMMAND, ChildSpec, Ending, Output, SETUP_FAILED, SandboxError};

pub(super) fn run(program: &Path, spec: &ChildSpec, input: &str) -> Result<Output, SandboxError> {
    let argument = serde_json::to_string(spec).map_err(io::Error::other)?;
    let mut child = Command::new(program)
        .args([CHILD_COMMAND, &argument])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let cap = spec.limits.output_bytes;
    let (status, stdout, stderr) = thread::scope(|scope| {
        // A program that does not read its input is its own business.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        let stdout = scope.spawn(move || read_capped(stdout, cap));
        let stderr = scope.spawn(move || read_capped(stderr, cap));
        let status = wait(&mut child, Duration::from_millis(spec.limits.wall_millis));
        let join = |reader: thread::ScopedJoinHandle<'_, (String, bool)>| reader.join().unwrap_or_default();
        (status, join(stdout), join(stderr))
    });
    let ending = match status? {
        None => Ending::TimedOut,
        Some(0) => Ending::Succeeded,
        Some(SETUP_FAILED) => return Err(SandboxError::Unavailable(stderr.0.trim().to_owned())),
        Some(KILLED) => Ending::Killed,
        Some(PEER_LEFT) => Ending::PeerLeft,
        Some(_) => Ending::Failed,
    };
    Ok(Output { ending, is_cut: stdout.1 || stderr.1, stdout: stdout.0, stderr: stderr.0 })
}

/// The exit status, or `None` when the time was over. Either way nothing of the process group is left.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<i32>> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    let mut has_ended = has_ended(child)?;
    while !has_ended && Instant::now() < deadline {
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
        has_ended = self::has_ended(child)?;
    }
    if let Ok(group) = i32::try_from(child.id()) {
        // SAFETY: no pointers. The child has not been waited for, so the number is still its group's.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    let status = child.wait()?;
    Ok(has_ended.then(|| status.code().unwrap_or(KILLED)))
}

/// Looks without waiting for the child, so that its number stays taken.
fn has_ended(child: &Child) -> io::Result<bool> {
    // SAFETY: `siginfo_t` is plain integers, for which zero is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is to a live structure.
    if unsafe { libc::waitid(libc::P_PID, child.id(), &raw mut info, flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call filled in the structure, or left it zero.
    Ok(unsafe { info.si_pid() } != 0)
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
