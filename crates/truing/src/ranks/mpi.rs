//! The job over MPI.

use std::fs;
use std::io::Write as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use truing_parallel::{Cause, Loss, MpiJob, Rendezvous};
use truing_types::Communicator;

use super::Job;

/// The exit status of a rank that ends because another one was lost: a temporary failure, after sysexits.h. `--resume`
/// continues the run.
const RANK_LOST: i32 = 75;
/// The launcher ends all ranks when the first one ends: the rank that failed says why before.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Joins the other ranks.
pub(super) fn start(place: &Rendezvous) -> anyhow::Result<Box<dyn Job>> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "localhost".to_owned());
    let job = format!("truing {}", env!("CARGO_PKG_VERSION"));
    let rank = place.rank;
    let on_loss = move |loss: &Loss| end_with(rank, loss);
    Ok(Box::new(MpiJob::start(place, host.trim(), std::process::id(), &job, on_loss)?))
}

impl Job for MpiJob {
    fn world(&self) -> Arc<dyn Communicator> {
        MpiJob::world(self)
    }

    fn n_on_host(&self) -> usize {
        MpiJob::n_on_host(self)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(MpiJob::finish(*self)?)
    }

    fn fail(self: Box<Self>, status: u8) {
        MpiJob::fail(*self, status);
    }
}

/// Ends this process because another rank is lost. Rank 0 says it. Where rank 0 is lost itself, it has said why it ends, or
/// rank 1 says that it is gone.
#[expect(clippy::exit, reason = "the main thread waits for a rank that will never answer")]
fn end_with(rank: usize, loss: &Loss) {
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
    std::process::exit(RANK_LOST);
}
