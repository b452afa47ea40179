//! A build without MPI: no job of several processes.

use truing_parallel::Rendezvous;

use super::Job;
use crate::outcome::Hinted;

/// Refuses to start.
pub(super) fn start(place: &Rendezvous) -> anyhow::Result<Box<dyn Job>> {
    let Rendezvous { launcher, world_size, .. } = place;
    let source = anyhow::anyhow!("{launcher} started {world_size} processes, but this program has no MPI");
    let hint = "`cargo build --release -p truing --features mpi` builds it with MPI".to_owned();
    Err(anyhow::Error::new(Hinted { source, hint }))
}
