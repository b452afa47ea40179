//! The door to other ranks. Implementations live in `truing-parallel`; nothing here is a collective algorithm.

use std::sync::Arc;

/// A process's number among its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rank(pub usize);

/// A collective that did not complete. The policy is fail-stop: report, exit, restart from the checkpoint.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum CommunicationError {
    /// Ranks called with buffers of different lengths, or with two buffers that do not fit together.
    #[error("{operation}: rank {rank} has a buffer of {found} elements, expected {expected}")]
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
    /// The world cannot be divided into sequence groups of this size.
    #[error("{world_size} ranks cannot be divided into sequence groups of {sequence_size}")]
    UnevenGroups {
        /// Number of ranks.
        world_size: usize,
        /// Ranks wanted in each sequence group.
        sequence_size: usize,
    },
    /// A peer is gone.
    #[error("{operation}: a peer left before the operation completed")]
    PeerLost {
        /// The collective.
        operation: &'static str,
    },
    /// Ranks are in different collectives: they no longer run the same program.
    #[error("{operation}: rank {rank} called {found}")]
    OperationMismatch {
        /// The collective of rank 0.
        operation: &'static str,
        /// The first rank that called another one.
        rank: usize,
        /// What it called.
        found: &'static str,
    },
    /// Ranks name different roots for the same collective.
    #[error("{operation}: rank {rank} expects the values of rank {found}, rank 0 those of rank {expected}")]
    RootMismatch {
        /// The collective.
        operation: &'static str,
        /// The first rank with another root than rank 0's.
        rank: usize,
        /// Rank 0's root.
        expected: usize,
        /// The root of `rank`.
        found: usize,
    },
    /// Ranks call collectives of their groups in different orders.
    #[error("{operation}: rank {rank} of the world is in a collective of another group")]
    OtherGroup {
        /// The collective of this rank.
        operation: &'static str,
        /// The rank of the world that is in another one.
        rank: usize,
    },
    /// A collective did not complete within the time that it may take.
    #[error("{operation}: not all ranks have taken part within {seconds} s")]
    Overdue {
        /// The collective.
        operation: &'static str,
        /// The time that was allowed, in whole seconds.
        seconds: u64,
    },
    /// Bytes of a rank that do not decode to the values expected.
    #[error("rank {rank} sent {n_bytes} bytes that are not lists of numbers")]
    Malformed {
        /// The rank.
        rank: usize,
        /// What it sent.
        n_bytes: usize,
    },
}

/// Collectives over a group of ranks. A world of one is not a special case: every reduction of the trainer
/// goes through here. All sums run in rank order and in double precision, so a result depends neither on timing nor on
/// the algorithm of a library.
///
/// Every rank calls the collectives of all its groups in the same order. Implementations may run them one after
/// another.
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
    /// Replaces `bytes` by those of `root`. Lengths may differ.
    ///
    /// # Errors
    /// When a peer is lost.
    fn broadcast_bytes(&self, bytes: &mut Vec<u8>, root: Rank) -> Result<(), CommunicationError>;
    /// The bytes of every rank, in rank order, on every rank. Lengths may differ.
    ///
    /// # Errors
    /// When a peer is lost.
    fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError>;
    /// Exchanges equal blocks. `send` has one block for each rank, in rank order. `receive` is as long and becomes
    /// the blocks that were meant for this rank, in the order of the ranks that sent them.
    ///
    /// # Errors
    /// When a peer is lost, when lengths differ, or when they are not a multiple of the number of ranks.
    fn all_to_all(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError>;
    /// Fills `receive` with `send` of every rank, in rank order. `receive` has the length of `send` times the number
    /// of ranks.
    ///
    /// # Errors
    /// When a peer is lost, or when lengths differ or do not fit together.
    fn all_gather(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError>;
    /// Fills `receive` with this rank's block of the element-wise sum of `send` over ranks. `send` has one block for
    /// each rank, in rank order, and a block has the length of `receive`. Equals
    /// [`all_reduce_sum`](Self::all_reduce_sum) of `send` bit for bit.
    ///
    /// # Errors
    /// When a peer is lost, or when lengths differ or do not fit together.
    fn reduce_scatter_sum(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError>;
    /// The bytes of every rank, in rank order, on `root`, and `None` on the other ranks. Lengths may differ.
    ///
    /// # Errors
    /// When a peer is lost.
    fn gather_bytes(&self, bytes: &[u8], root: Rank) -> Result<Option<Vec<Vec<u8>>>, CommunicationError>;
    /// The group of the ranks that call with the same `colour`, numbered from 0 in rank order. Every rank of this
    /// communicator has to call. A group's collectives are independent of this communicator's and of other groups',
    /// and dropping the group leaves it.
    ///
    /// # Errors
    /// When a peer is lost.
    fn split(&self, colour: usize) -> Result<Arc<dyn Communicator>, CommunicationError>;
    /// Waits until every rank is here.
    ///
    /// # Errors
    /// When a peer is lost.
    fn barrier(&self) -> Result<(), CommunicationError>;
}

/// The indices of this rank's share of `n_items`, which are dealt to the ranks one by one.
pub fn dealt(n_items: usize, communicator: &dyn Communicator) -> impl Iterator<Item = usize> {
    (communicator.rank().0..n_items).step_by(communicator.world_size())
}

/// Items that were [`dealt`], put back into their order: one of each rank in turn.
#[must_use]
pub fn in_dealt_order<T>(by_rank: Vec<Vec<T>>) -> Vec<T> {
    let n_items = by_rank.iter().map(Vec::len).sum();
    let mut ranks: Vec<_> = by_rank.into_iter().map(Vec::into_iter).collect();
    let mut items = Vec::with_capacity(n_items);
    while items.len() < n_items {
        items.extend(ranks.iter_mut().filter_map(Iterator::next));
    }
    items
}

/// Gathers lists of numbers, one for each [`dealt`] item, on every rank and in the order of the items.
///
/// # Errors
/// When a peer is lost.
pub fn all_gather_dealt(
    communicator: &dyn Communicator,
    mine: Vec<Vec<f32>>,
) -> Result<Vec<Vec<f32>>, CommunicationError> {
    if communicator.world_size() == 1 {
        return Ok(mine);
    }
    let mut bytes = Vec::with_capacity(mine.iter().map(|list| 8 + 4 * list.len()).sum());
    for list in &mine {
        bytes.extend((list.len() as u64).to_le_bytes());
        bytes.extend(list.iter().flat_map(|value| value.to_le_bytes()));
    }
    let by_rank = communicator.all_gather_bytes(&bytes)?;
    let lists = by_rank.iter().enumerate().map(|(rank, bytes)| {
        let malformed = CommunicationError::Malformed { rank, n_bytes: bytes.len() };
        lists_of(bytes).ok_or(malformed)
    });
    Ok(in_dealt_order(lists.collect::<Result<_, _>>()?))
}

/// Lists of numbers, each after its length.
fn lists_of(mut bytes: &[u8]) -> Option<Vec<Vec<f32>>> {
    let mut lists = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let n_bytes = usize::try_from(u64::from_le_bytes(*length)).ok()?.checked_mul(4)?;
        let (values, rest) = rest.split_at_checked(n_bytes)?;
        let (values, _) = values.as_chunks::<4>();
        lists.push(values.iter().map(|value| f32::from_le_bytes(*value)).collect());
        bytes = rest;
    }
    Some(lists)
}
