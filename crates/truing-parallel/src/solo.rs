//! The world of one: every collective is the identity.

use std::sync::Arc;

use truing_types::{CommunicationError, Communicator, Groups, Rank};

/// A single process. Not a special case for callers: they reduce through it like through any other.
#[derive(Debug, Default, Clone, Copy)]
pub struct Solo;

impl Solo {
    /// The groups of a single process.
    #[must_use]
    pub fn groups() -> Groups {
        Groups { world: Arc::new(Self), data: Arc::new(Self), sequence: Arc::new(Self) }
    }
}

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

    fn all_to_all(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        copy("all_to_all", send, receive)
    }

    fn all_gather(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        copy("all_gather", send, receive)
    }

    fn reduce_scatter_sum(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        copy("reduce_scatter_sum", send, receive)
    }

    fn gather_bytes(&self, bytes: &[u8], _root: Rank) -> Result<Option<Vec<Vec<u8>>>, CommunicationError> {
        Ok(Some(vec![bytes.to_vec()]))
    }

    fn split(&self, _colour: usize) -> Result<Arc<dyn Communicator>, CommunicationError> {
        Ok(Arc::new(Self))
    }

    fn barrier(&self) -> Result<(), CommunicationError> {
        Ok(())
    }
}

fn copy(operation: &'static str, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
    let (expected, found) = (send.len(), receive.len());
    if expected != found {
        return Err(CommunicationError::LengthMismatch { operation, rank: 0, expected, found });
    }
    receive.copy_from_slice(send);
    Ok(())
}
