//! A job of several processes: the world over MPI with the control channel beside it.

use std::sync::Arc;

use truing_types::{CommunicationError, Communicator, Rank};

use super::{MpiError, MpiOptions, MpiWorld};
use crate::{
    ControlChannel, ControlError, ControlListener, ControlOptions, Farewell, Launcher, Loss, Rendezvous,
};

/// This process as a rank of a job. It must end with [`MpiJob::finish`] or [`MpiJob::fail`]; dropping it is a loss for the
/// other ranks, a panic if the thread is panicking.
pub struct MpiJob {
    // The first to be dropped: the other ranks hear why this one ends.
    channel: ControlChannel,
    mpi: MpiWorld,
    n_on_host: usize,
}

/// Why a job does not start.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The launcher does not speak PMI or PMIx.
    #[error(
        "{launcher} started {world_size} processes that MPI cannot connect: it speaks neither PMI nor PMIx"
    )]
    NoMpi {
        /// What started the processes.
        launcher: Launcher,
        /// How many.
        world_size: usize,
    },
    /// MPI does not find the ranks that the launcher started.
    #[error(
        "{launcher} started rank {rank} of {world_size}, but MPI finds rank {found_rank} of {found_size}: \
         the launcher and this program's MPI library do not belong together"
    )]
    OtherWorld {
        /// What started the processes.
        launcher: Launcher,
        /// This rank, as the launcher says.
        rank: usize,
        /// The number of ranks, as the launcher says.
        world_size: usize,
        /// This rank in MPI's world.
        found_rank: usize,
        /// The size of MPI's world.
        found_size: usize,
    },
    /// MPI cannot be initialised or finalised.
    #[error(transparent)]
    Mpi(#[from] MpiError),
    /// The ranks cannot exchange their addresses.
    #[error(transparent)]
    Communication(#[from] CommunicationError),
    /// The control channel cannot be set up.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl MpiJob {
    /// Starts MPI and joins the other ranks. `host` is this host's name, by which the other hosts reach it, and `process`
    /// this process's number there; all ranks have the same `job`. `on_loss` is called once at most, when a rank is lost, and ends the process.
    ///
    /// # Errors
    /// When MPI does not find the launcher's ranks, or they do not join.
    pub fn start(
        place: &Rendezvous,
        host: &str,
        process: u32,
        job: &str,
        on_loss: impl Fn(&Loss) + Send + Sync + 'static,
    ) -> Result<Self, JobError> {
        let &Rendezvous { launcher, rank, world_size, .. } = place;
        if !place.has_mpi {
            return Err(JobError::NoMpi { launcher, world_size });
        }
        let mpi = MpiWorld::start(MpiOptions::default())?;
        let world = mpi.communicator();
        let (Rank(found_rank), found_size) = (world.rank(), world.world_size());
        if (found_rank, found_size) != (rank, world_size) {
            return Err(JobError::OtherWorld { launcher, rank, world_size, found_rank, found_size });
        }
        let hosts = world.all_gather_bytes(host.as_bytes())?;
        let n_on_host = hosts.iter().filter(|other| **other == host.as_bytes()).count();
        let name = format!("{host}, process {process}");
        let options = ControlOptions::new(Rank(rank), world_size, name, job.to_owned());
        let channel = if rank == 0 {
            let is_local = n_on_host == world_size;
            let (own, port) = match &place.address {
                Some((_, port)) => ("0.0.0.0", *port),
                None => (if is_local { "127.0.0.1" } else { "0.0.0.0" }, 0),
            };
            let listener = ControlListener::bind((own, port))?;
            let reached_at = match &place.address {
                Some((given, _)) => given.as_str(),
                None => {
                    if is_local {
                        "127.0.0.1"
                    } else {
                        host
                    }
                }
            };
            let mut address = format!("{reached_at}\t{}", listener.address()?.port()).into_bytes();
            world.broadcast_bytes(&mut address, Rank(0))?;
            ControlChannel::listen(listener, &options, on_loss)?
        } else {
            let mut address = Vec::new();
            world.broadcast_bytes(&mut address, Rank(0))?;
            let (first, port) = parse(&address)?;
            ControlChannel::connect((&first, port), &options, on_loss)?
        };
        Ok(Self { channel, mpi, n_on_host })
    }

    /// All ranks.
    #[must_use]
    pub fn world(&self) -> Arc<dyn Communicator> {
        self.mpi.communicator()
    }

    /// Number of ranks on this host, which share its cores and memory.
    #[must_use]
    pub fn n_on_host(&self) -> usize {
        self.n_on_host
    }

    /// A handle that reports this rank's exit from a thread that does not own the job.
    #[must_use]
    pub fn farewell(&self) -> Farewell {
        self.channel.farewell()
    }

    /// Ends after success: waits for all ranks.
    ///
    /// # Errors
    /// When the thread that calls MPI has ended too early.
    pub fn finish(self) -> Result<(), JobError> {
        self.mpi.finish()?;
        self.channel.leave(0);
        Ok(())
    }

    /// Ends after a failure: the others hear the status, with which the process must end now.
    pub fn fail(self, status: u8) {
        self.channel.leave(status);
    }
}

/// Rank 0's host and port.
fn parse(address: &[u8]) -> Result<(String, u16), CommunicationError> {
    let text = std::str::from_utf8(address).ok().and_then(|text| text.split_once('\t'));
    text.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .ok_or(CommunicationError::Malformed { rank: 0, n_bytes: address.len() })
}
