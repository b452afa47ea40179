//! Ranks as processes, over MPI (feature `mpi`; tested with OpenMPI 4.1).
//!
//! One thread initialises MPI, and it alone calls MPI. Collectives may be called from any other thread: they hand their
//! values to the owner and wait for its answer. MPI therefore needs no more than `MPI_THREAD_FUNNELED`, which
//! [`MpiWorld::start`] asks for and checks, and a wait can have a limit ([`MpiOptions::longest_wait`]).
//!
//! Every collective is made of messages between two ranks (`transfers.rs`), so a result depends on no algorithm that an
//! MPI library chooses. Groups are lists of ranks with a tag of their own; leaving one needs no call of MPI.

mod communicator;
mod job;
mod wire;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use ::mpi::Threading;
use ::mpi::topology::{Communicator as _, SimpleCommunicator};
use truing_types::Communicator;

use communicator::MpiCommunicator;
pub use job::{JobError, MpiJob};

/// How collectives over MPI work.
#[derive(Debug, Clone, Copy)]
pub struct MpiOptions {
    /// After this time a collective is [`Overdue`](truing_types::CommunicationError::Overdue). `None`: it waits as long as
    /// the other ranks work. Whether they are alive is the business of a [`ControlChannel`](crate::ControlChannel).
    pub longest_wait: Option<Duration>,
    /// Bytes that are handed to MPI at once, whose counts end at 2^31. Longer messages are sent in pieces.
    pub n_bytes_at_once: usize,
}

impl Default for MpiOptions {
    fn default() -> Self {
        Self { longest_wait: None, n_bytes_at_once: 1 << 28 }
    }
}

/// Why there are no ranks over MPI.
#[derive(Debug, thiserror::Error)]
pub enum MpiError {
    /// MPI can be initialised once in a process.
    #[error("MPI has been initialised before in this process")]
    AlreadyInitialised,
    /// The library does not allow a process with several threads.
    #[error("this MPI library provides the thread level {provided}, expected MPI_THREAD_FUNNELED or higher")]
    ThreadLevel {
        /// What it provides.
        provided: &'static str,
    },
    /// The operating system gives no thread.
    #[error("cannot start the thread that calls MPI")]
    Thread(#[source] std::io::Error),
    /// The thread that called MPI has ended.
    #[error("the thread that calls MPI has ended too early")]
    OwnerLost,
}

/// What the thread that owns MPI is asked to do.
enum Job {
    Run(Box<dyn FnOnce(&SimpleCommunicator) + Send>),
    Finish,
}

/// The world of the processes that a launcher (`mpirun`, `srun --mpi=pmix`) started together.
///
/// A process that ends without [`MpiWorld::finish`] has failed: MPI is not finalised, so that the launcher notices and ends
/// the other ranks.
pub struct MpiWorld {
    jobs: Sender<Job>,
    owner: thread::JoinHandle<()>,
    world: Arc<MpiCommunicator>,
}

impl MpiWorld {
    /// Initialises MPI, once in a process. Without a launcher the world has one rank.
    ///
    /// # Errors
    /// When MPI was initialised before, or does not allow several threads.
    pub fn start(options: MpiOptions) -> Result<Self, MpiError> {
        let (jobs, queue) = channel();
        let (ready, started) = channel();
        let owner = thread::Builder::new()
            .name("mpi".to_owned())
            .spawn(move || own_mpi(&ready, &queue))
            .map_err(MpiError::Thread)?;
        let (rank, world_size) = started.recv().map_err(|_| MpiError::OwnerLost)??;
        let world = Arc::new(MpiCommunicator::world(rank, world_size, options, jobs.clone()));
        Ok(Self { jobs, owner, world })
    }

    /// All ranks.
    #[must_use]
    pub fn communicator(&self) -> Arc<dyn Communicator> {
        Arc::<MpiCommunicator>::clone(&self.world)
    }

    /// Finalises MPI, after all collectives that were called. Waits for the other ranks; later collectives fail.
    ///
    /// # Errors
    /// When the thread that calls MPI has ended before.
    pub fn finish(self) -> Result<(), MpiError> {
        self.jobs.send(Job::Finish).map_err(|_| MpiError::OwnerLost)?;
        self.owner.join().map_err(|_| MpiError::OwnerLost)
    }
}

/// Initialises MPI, tells the rank and the number of ranks, and does jobs until the last one.
fn own_mpi(ready: &Sender<Result<(i32, i32), MpiError>>, jobs: &Receiver<Job>) {
    let Some((universe, provided)) = ::mpi::initialize_with_threading(Threading::Funneled) else {
        let _ = ready.send(Err(MpiError::AlreadyInitialised));
        return;
    };
    if provided < Threading::Funneled {
        let _ = ready.send(Err(MpiError::ThreadLevel { provided: "MPI_THREAD_SINGLE" }));
        return;
    }
    let world = universe.world();
    let _ = ready.send(Ok((world.rank(), world.size())));
    loop {
        match jobs.recv() {
            Ok(Job::Run(job)) => job(&world),
            Ok(Job::Finish) => return,
            Err(_) => break,
        }
    }
    // Everybody who could finish is gone: a failure. Finalising would wait for the other ranks.
    std::mem::forget(universe);
}
