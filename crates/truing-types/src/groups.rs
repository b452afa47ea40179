//! The ranks of a run in two dimensions: which ranks share a sequence, and which hold different data.

use std::sync::Arc;

use crate::{CommunicationError, Communicator};

/// The communicators of one rank. The world is a table with a row for each sequence group and a column for each data
/// group. Six ranks with sequence groups of two:
///
/// ```text
///                  data group 0   data group 1
/// sequence group 0      rank 0         rank 1
/// sequence group 1      rank 2         rank 3
/// sequence group 2      rank 4         rank 5
/// ```
#[derive(Clone)]
pub struct Groups {
    /// All ranks.
    pub world: Arc<dyn Communicator>,
    /// The ranks at the same place of their sequence groups, one for each sequence group. They hold different packs.
    pub data: Arc<dyn Communicator>,
    /// Consecutive ranks that divide each sequence of the same packs between them.
    pub sequence: Arc<dyn Communicator>,
}

impl Groups {
    /// Divides `world` into sequence groups of `sequence_size` ranks each. Every rank of the world has to call, with
    /// the same size.
    ///
    /// # Errors
    /// When `sequence_size` does not divide the number of ranks, on every rank and before any communication; when a
    /// peer is lost.
    pub fn new(world: Arc<dyn Communicator>, sequence_size: usize) -> Result<Self, CommunicationError> {
        let (rank, world_size) = (world.rank().0, world.world_size());
        if sequence_size == 0 || !world_size.is_multiple_of(sequence_size) {
            return Err(CommunicationError::UnevenGroups { world_size, sequence_size });
        }
        let sequence = world.split(rank / sequence_size)?;
        let data = world.split(rank % sequence_size)?;
        Ok(Self { world, data, sequence })
    }

    /// The same world in sequence groups of another size. Every rank of the world has to call, with the same size.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_sequence_size(&self, sequence_size: usize) -> Result<Self, CommunicationError> {
        if self.sequence.world_size() == sequence_size {
            return Ok(self.clone());
        }
        Self::new(Arc::clone(&self.world), sequence_size)
    }
}
