//! Collectives over the links of this rank, on the thread of their caller.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use truing_types::{CommunicationError, Communicator, Rank};

use super::mesh::Mesh;
use crate::call::{Call, Fit, Lengths};
use crate::transfers::{Members, Number, Transfers, sent};

/// A group at work over TCP.
type OverTcp<'a> = Transfers<'a, Mesh>;

/// One rank of the world or of a group.
pub(super) struct TcpCommunicator {
    members: Members,
    mesh: Arc<Mesh>,
    n_bytes_at_once: usize,
    /// The highest tag of any group of this process, all of which share it.
    highest_tag: Arc<AtomicUsize>,
}

impl TcpCommunicator {
    pub(super) fn world(me: usize, world_size: usize, mesh: Arc<Mesh>, n_bytes_at_once: usize) -> Self {
        Self { members: Members::world(me, world_size), mesh, n_bytes_at_once, highest_tag: Arc::default() }
    }

    /// Runs one collective, once all ranks agree on the call.
    fn run<T>(
        &self,
        call: Call,
        fit: Fit,
        work: impl FnOnce(&OverTcp<'_>, &[Call]) -> Result<T, CommunicationError>,
    ) -> Result<T, CommunicationError> {
        let operation = call.operation;
        let _turn = self.mesh.turn(operation)?;
        let (wire, members, n_bytes_at_once) = (&*self.mesh, &self.members, self.n_bytes_at_once);
        let transfers = Transfers { wire, members, operation, n_bytes_at_once };
        let calls = transfers.agree(call, fit)?;
        work(&transfers, &calls)
    }

    fn sum<T: Number>(&self, operation: &'static str, values: &mut [T]) -> Result<(), CommunicationError> {
        let call = Call { operation, root: 0, lengths: Lengths::equal(values.len()) };
        let sum = self.run(call, Fit::Equal, |transfers, _| transfers.all_reduce(&values[..]))?;
        values.copy_from_slice(&sum);
        Ok(())
    }

    /// Runs a collective of blocks, whose result fills `receive`.
    fn blocks(
        &self,
        operation: &'static str,
        send: &[f32],
        receive: &mut [f32],
        fit: Fit,
        work: impl FnOnce(&OverTcp<'_>) -> Result<Vec<f32>, CommunicationError>,
    ) -> Result<(), CommunicationError> {
        let lengths = Lengths { send: send.len(), receive: receive.len() };
        let call = Call { operation, root: 0, lengths };
        receive.copy_from_slice(&self.run(call, fit, |transfers, _| work(transfers))?);
        Ok(())
    }
}

impl Communicator for TcpCommunicator {
    fn rank(&self) -> Rank {
        Rank(self.members.me)
    }

    fn world_size(&self) -> usize {
        self.members.ranks.len()
    }

    fn all_reduce_sum(&self, values: &mut [f32]) -> Result<(), CommunicationError> {
        self.sum("all_reduce_sum", values)
    }

    fn all_reduce_sum_f64(&self, values: &mut [f64]) -> Result<(), CommunicationError> {
        self.sum("all_reduce_sum_f64", values)
    }

    fn broadcast(&self, values: &mut [f32], root: Rank) -> Result<(), CommunicationError> {
        let call = Call { operation: "broadcast", root: root.0, lengths: Lengths::equal(values.len()) };
        let copied = self
            .run(call, Fit::Equal, |transfers, _| transfers.broadcast(&values[..], values.len(), root.0))?;
        values.copy_from_slice(&copied);
        Ok(())
    }

    fn broadcast_bytes(&self, bytes: &mut Vec<u8>, root: Rank) -> Result<(), CommunicationError> {
        let n_bytes = if self.rank() == root { bytes.len() } else { 0 };
        let call = Call { operation: "broadcast_bytes", root: root.0, lengths: Lengths::equal(n_bytes) };
        let copied = self.run(call, Fit::Free, |transfers, calls| {
            transfers.broadcast(&bytes[..], calls[root.0].lengths.send, root.0)
        })?;
        *bytes = copied;
        Ok(())
    }

    fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError> {
        let call = Call { operation: "all_gather_bytes", root: 0, lengths: Lengths::equal(bytes.len()) };
        self.run(call, Fit::Free, |transfers, calls| transfers.gather(bytes, &sent(calls), None))
    }

    fn all_to_all(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        let n_block = receive.len() / self.world_size();
        let work = |transfers: &OverTcp<'_>| transfers.all_to_all(send, n_block);
        self.blocks("all_to_all", send, receive, Fit::Blocks, work)
    }

    fn all_gather(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        let work = |transfers: &OverTcp<'_>| transfers.all_gather(send);
        self.blocks("all_gather", send, receive, Fit::OneToAll, work)
    }

    fn reduce_scatter_sum(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        let work = |transfers: &OverTcp<'_>| transfers.reduce_scatter(send);
        self.blocks("reduce_scatter_sum", send, receive, Fit::AllToOne, work)
    }

    fn gather_bytes(&self, bytes: &[u8], root: Rank) -> Result<Option<Vec<Vec<u8>>>, CommunicationError> {
        let call = Call { operation: "gather_bytes", root: root.0, lengths: Lengths::equal(bytes.len()) };
        let all = self
            .run(call, Fit::Free, |transfers, calls| transfers.gather(bytes, &sent(calls), Some(root.0)))?;
        Ok((self.rank() == root).then_some(all))
    }

    fn split(&self, colour: usize) -> Result<Arc<dyn Communicator>, CommunicationError> {
        let call = Call { operation: "split", ..Call::default() };
        let members = self.run(call, Fit::Free, |transfers, _| transfers.split(colour, &self.highest_tag))?;
        let (mesh, highest_tag) = (Arc::clone(&self.mesh), Arc::clone(&self.highest_tag));
        Ok(Arc::new(Self { members, mesh, n_bytes_at_once: self.n_bytes_at_once, highest_tag }))
    }

    fn barrier(&self) -> Result<(), CommunicationError> {
        self.run(Call { operation: "barrier", ..Call::default() }, Fit::Free, |_, _| Ok(()))
    }
}
