//! How a process ends because another rank is lost.

use std::io::Write as _;
use std::thread;
use std::time::Duration;

use truing_parallel::{Cause, Loss};

use crate::outcome::WAITING;

/// The launcher ends all ranks when the first one ends: the rank that failed says why before.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Ends this process, rank `rank`, because another one is lost. Rank 0 says it. Where rank 0 is lost itself, it has
/// said why it ends, or rank 1 says that it is gone. The exit status is that of a temporary failure: `--resume`
/// continues the run.
#[expect(clippy::exit, reason = "the main thread waits for a rank that will never answer")]
pub(super) fn end_with(rank: usize, loss: &Loss) {
    let speaker = match (loss.rank.0, loss.cause) {
        (0, Cause::Ended { .. } | Cause::Panicked) => None,
        (0, Cause::Closed | Cause::Silent) => Some(1),
        _ => Some(0),
    };
    if speaker == Some(rank) {
        // Nobody reads stderr: the status tells.
        let _ =
            writeln!(std::io::stderr(), "error: {loss}\nhint: --resume continues from the last checkpoint");
    }
    thread::sleep(LAST_WORDS);
    std::process::exit(i32::from(WAITING));
}
