//! Implementations of [`Communicator`](truing_types::Communicator): the world of one, and ranks as threads of
//! one process, which is how tests run a world of several.
//!
//! No collective algorithm of our own lives here; engines (MPI) come behind the same trait.

mod solo;
mod threads;

pub use solo::Solo;
pub use threads::{ThreadRank, thread_world};
