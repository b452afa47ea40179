//! The job over MPI.

use std::sync::Arc;

use truing_parallel::{Farewell, Loss, MpiJob};
use truing_types::Communicator;

use super::ending::end_with;
use super::{Job, Launched};

/// Whether this program speaks MPI.
pub(crate) const IS_THERE: bool = true;

/// Joins the other ranks.
pub(super) fn start(launched: &Launched<'_>) -> anyhow::Result<Box<dyn Job>> {
    let Launched { place, host, program, .. } = launched;
    let rank = place.rank;
    let on_loss = move |loss: &Loss| end_with(rank, loss);
    Ok(Box::new(MpiJob::start(place, host, std::process::id(), program, on_loss)?))
}

impl Job for MpiJob {
    fn world(&self) -> Arc<dyn Communicator> {
        MpiJob::world(self)
    }

    fn n_on_host(&self) -> usize {
        MpiJob::n_on_host(self)
    }

    fn farewell(&self) -> Farewell {
        MpiJob::farewell(self)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(MpiJob::finish(*self)?)
    }

    fn fail(self: Box<Self>, status: u8) {
        MpiJob::fail(*self, status);
    }
}
