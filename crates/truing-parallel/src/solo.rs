//! The world of one: every collective is the identity.

use truing_types::{CommunicationError, Communicator, Rank};

/// A single process. Not a special case for callers: they reduce through it like through any other.
#[derive(Debug, Default, Clone, Copy)]
pub struct Solo;

impl Communicator for Solo {
    fn rank(&self) -> Rank {
        Rank(0)
    }

    fn world_size(&self) -> usize {
        1
    }

    fn all_reduce_sum(&self, _values: &mut [f32]) -> Result<(), CommunicationError> {
        Ok(())
    }

    fn all_reduce_sum_f64(&self, _values: &mut [f64]) -> Result<(), CommunicationError> {
        Ok(())
    }

    fn broadcast(&self, _values: &mut [f32], _root: Rank) -> Result<(), CommunicationError> {
        Ok(())
    }

    fn broadcast_bytes(&self, _bytes: &mut Vec<u8>, _root: Rank) -> Result<(), CommunicationError> {
        Ok(())
    }

    fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError> {
        Ok(vec![bytes.to_vec()])
    }

    fn barrier(&self) -> Result<(), CommunicationError> {
        Ok(())
    }
}
