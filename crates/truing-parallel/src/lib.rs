//! Implementations of [`Communicator`](truing_types::Communicator): the world of one.
//!
//! No collective algorithm of our own lives here; engines (MPI) come behind the same trait.

mod solo;

pub use solo::Solo;
