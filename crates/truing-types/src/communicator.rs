//! The door to other ranks. Implementations live in `truing-parallel`; nothing here is a collective algorithm.

/// A process's number among its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rank(pub usize);

/// A collective that did not complete. The policy is fail-stop: report, exit, restart from the checkpoint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CommunicationError {
    /// Ranks called with buffers of different lengths.
    #[error("{operation}: rank {rank} brought {found} elements, expected {expected}")]
    LengthMismatch {
        /// The collective.
        operation: &'static str,
        /// The offending rank.
        rank: usize,
        /// Elements expected.
        expected: usize,
        /// Elements found.
        found: usize,
    },
    /// A peer is gone.
    #[error("{operation}: a peer left before the operation completed")]
    PeerLost {
        /// The collective.
        operation: &'static str,
    },
}

/// Collectives over a group of ranks. A world of one is not a special case: every reduction of the trainer
/// goes through here. All sums run in rank order, so a result does not depend on timing.
pub trait Communicator: Send + Sync {
    /// This process's number.
    fn rank(&self) -> Rank;
    /// Number of ranks.
    fn world_size(&self) -> usize;
    /// Replaces `values` by the element-wise sum over ranks.
    ///
    /// # Errors
    /// When a peer is lost or lengths differ.
    fn all_reduce_sum(&self, values: &mut [f32]) -> Result<(), CommunicationError>;
    /// The same in double precision, for losses and denominators.
    ///
    /// # Errors
    /// When a peer is lost or lengths differ.
    fn all_reduce_sum_f64(&self, values: &mut [f64]) -> Result<(), CommunicationError>;
    /// Copies `values` of `root` to every rank.
    ///
    /// # Errors
    /// When a peer is lost or lengths differ.
    fn broadcast(&self, values: &mut [f32], root: Rank) -> Result<(), CommunicationError>;
    /// Waits until every rank is here.
    ///
    /// # Errors
    /// When a peer is lost.
    fn barrier(&self) -> Result<(), CommunicationError>;
}
