//! How a process ends because another rank, or its launcher, is lost.

use std::io::{self, Write as _};
#[cfg(unix)]
use std::os::unix::process::parent_id;
use std::thread;
use std::time::Duration;

use truing_parallel::{Cause, Loss};

use crate::outcome::{INTERRUPTED, WAITING};

/// The launcher ends all ranks when the first one ends: the rank that failed says why before.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// The time between two looks for the launcher.
#[cfg(unix)]
const LOOK: Duration = Duration::from_secs(1);

/// Ends this process, rank `rank`, because another one is lost. Rank 0 says it. Where rank 0 is lost itself, it has
/// said why it ends, or rank 1 says that it is gone. The exit status is that of a temporary failure: `--resume`
/// continues the run. A rank that the user stopped is no failure: this one stops too, with the same status.
#[expect(clippy::exit, reason = "the main thread waits for a rank that will never answer")]
pub(super) fn end_with(rank: usize, loss: &Loss) {
    let speaker = match (loss.rank.0, loss.cause) {
        (0, Cause::Ended { .. } | Cause::Panicked) => None,
        (0, Cause::Closed | Cause::Silent) => Some(1),
        _ => Some(0),
    };
    let was_stopped = loss.cause == Cause::Ended { status: INTERRUPTED };
    if speaker == Some(rank) {
        let text = if was_stopped {
            format!("rank {} ({}) was stopped, and the others with it", loss.rank.0, loss.name)
        } else {
            format!("error: {loss}\nhint: --resume continues from the last checkpoint")
        };
        // Nobody reads stderr: the status tells.
        let _ = writeln!(io::stderr(), "{text}");
    }
    thread::sleep(LAST_WORDS);
    std::process::exit(i32::from(if was_stopped { INTERRUPTED } else { WAITING }));
}

/// Ends this process, rank `rank`, once the process that has started it is gone: nobody would end the other ranks when
/// one is lost, and nobody would stop them on Ctrl-C. `launcher` is what that process says its number is: by now it may
/// be gone.
///
/// # Errors
/// When the system gives no thread.
#[cfg(unix)]
pub(super) fn end_with_launcher(rank: usize, launcher: Option<u32>) -> io::Result<()> {
    let launcher = launcher.unwrap_or_else(parent_id);
    let watch = move || watch_launcher(rank, launcher);
    thread::Builder::new().name("launcher".to_owned()).spawn(watch)?;
    Ok(())
}

#[cfg(unix)]
#[expect(clippy::exit, reason = "the main thread is in the middle of a step")]
fn watch_launcher(rank: usize, launcher: u32) {
    while parent_id() == launcher {
        thread::sleep(LOOK);
    }
    if rank == 0 {
        // Nobody reads stderr: the status tells.
        let _ = writeln!(
            io::stderr(),
            "error: `truing launch` is gone\nhint: --resume continues from the last checkpoint"
        );
    }
    std::process::exit(i32::from(WAITING));
}

/// This system does not tell whether a launcher is there.
#[cfg(not(unix))]
pub(super) fn end_with_launcher(_: usize, _: Option<u32>) -> io::Result<()> {
    Ok(())
}
