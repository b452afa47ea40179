//! The job over TCP.

use std::sync::Arc;

use truing_parallel::{ControlError, Farewell, JobToken, Launcher, Loss, TcpError, TcpJob, TcpOptions};
use truing_types::Communicator;

use super::ending::{end_with, end_with_launcher};
use super::{Job, Launched};
use crate::outcome::SaidElsewhere;

/// Joins the other ranks.
pub(super) fn start(launched: &Launched<'_>) -> anyhow::Result<Box<dyn Job>> {
    let &Launched { place, host, program, token, launcher_process, join_within } = launched;
    let rank = place.rank;
    if place.launcher == Launcher::Truing {
        end_with_launcher(rank, launcher_process)?;
    }
    let job = match &place.job {
        Some(job) => format!("{program}, job {job}"),
        None => program.to_owned(),
    };
    let token = JobToken::new(token);
    let mut options = TcpOptions::new(host.to_owned(), std::process::id(), job, token);
    if let Some(join_within) = join_within {
        options.join_within = join_within;
    }
    let on_loss = move |loss: &Loss| end_with(rank, loss);
    match TcpJob::start(place, &options, on_loss) {
        Ok(job) => Ok(Box::new(job)),
        // It comes from rank 0, which says it itself.
        Err(TcpError::Control(ControlError::Refused { reason })) if rank > 0 => {
            Err(anyhow::Error::new(SaidElsewhere { reason }))
        }
        Err(error) => Err(error.into()),
    }
}

impl Job for TcpJob {
    fn world(&self) -> Arc<dyn Communicator> {
        TcpJob::world(self)
    }

    fn n_on_host(&self) -> usize {
        TcpJob::n_on_host(self)
    }

    fn farewell(&self) -> Farewell {
        TcpJob::farewell(self)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(TcpJob::finish(*self)?)
    }

    fn fail(self: Box<Self>, status: u8) {
        TcpJob::fail(*self, status);
    }
}
