//! A build without MPI.

use super::{Job, Launched, transport};

/// Whether this program speaks MPI.
pub(crate) const IS_THERE: bool = false;

/// Refuses to start.
pub(super) fn start(_: &Launched<'_>) -> anyhow::Result<Box<dyn Job>> {
    Err(transport::no_mpi())
}
