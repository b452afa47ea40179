//! Implementations of [`Communicator`](truing_types::Communicator): the world of one; ranks as threads of one process,
//! which is how tests run a world of several; ranks as processes over TCP; and over MPI (feature `mpi`).
//!
//! Beside them is what a job of several processes needs: [`Rendezvous`] reads what a launcher says about the ranks, and
//! a [`ControlChannel`] notices ranks that died, panicked or stopped. What every implementation has to do is a suite of
//! checks in the crate `truing-conformance`.

mod call;
mod control;
#[cfg(feature = "mpi")]
mod over_mpi;
mod over_tcp;
mod rendezvous;
mod solo;
mod threads;
mod transfers;

pub use control::{
    Cause, ControlChannel, ControlError, ControlListener, ControlOptions, Farewell, JobToken, Loss,
};
#[cfg(feature = "mpi")]
pub use over_mpi::{JobError, MpiError, MpiJob, MpiOptions, MpiWorld};
pub use over_tcp::{TcpError, TcpJob, TcpOptions};
pub use rendezvous::{Launcher, Rendezvous, RendezvousError};
pub use solo::Solo;
pub use threads::{ThreadRank, run_thread_world, thread_world};
