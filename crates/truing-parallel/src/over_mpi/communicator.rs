//! The side of the callers: values go to the thread that owns MPI, and results come back.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

use ::mpi::topology::SimpleCommunicator;
use truing_types::{CommunicationError, Communicator, Rank};

use super::{Job, MpiOptions};
use crate::call::{Call, Fit, Lengths};
use crate::transfers::{Members, Number, Transfers, sent};

/// A group at work over MPI.
type OverMpi<'a> = Transfers<'a, SimpleCommunicator>;

/// One rank of the world or of a group.
pub(super) struct MpiCommunicator {
    members: Arc<Members>,
    jobs: Sender<Job>,
    options: MpiOptions,
    /// The highest tag of any group of this process, all of which share it.
    highest_tag: Arc<AtomicUsize>,
}

impl MpiCommunicator {
    pub(super) fn world(rank: i32, world_size: i32, options: MpiOptions, jobs: Sender<Job>) -> Self {
        let number = |number: i32| usize::try_from(number).expect("ranks are not negative");
        let members = Arc::new(Members::world(number(rank), number(world_size)));
        Self { members, jobs, options, highest_tag: Arc::default() }
    }

    /// Lets the owner of MPI do something for this group, once all ranks agree on the call.
    fn run<T: Send + 'static>(
        &self,
        call: Call,
        fit: Fit,
        work: impl FnOnce(&OverMpi<'_>, &[Call]) -> Result<T, CommunicationError> + Send + 'static,
    ) -> Result<T, CommunicationError> {
        let operation = call.operation;
        let (members, n_bytes_at_once) = (Arc::clone(&self.members), self.options.n_bytes_at_once);
        let (reply, result) = channel();
        let job = Job::Run(Box::new(move |world| {
            let transfers = Transfers { wire: world, members: &members, operation, n_bytes_at_once };
            let found = transfers.agree(call, fit).and_then(|calls| work(&transfers, &calls));
            // Nobody reads it where the caller's patience has ended.
            let _ = reply.send(found);
        }));
        let lost = CommunicationError::PeerLost { operation };
        if self.jobs.send(job).is_err() {
            return Err(lost);
        }
        let Some(limit) = self.options.longest_wait else { return result.recv().unwrap_or(Err(lost)) };
        result.recv_timeout(limit).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => {
                Err(CommunicationError::Overdue { operation, seconds: limit.as_secs() })
            }
            RecvTimeoutError::Disconnected => Err(lost),
        })
    }

    fn sum<T: Number + Send + 'static>(
        &self,
        operation: &'static str,
        values: &mut [T],
    ) -> Result<(), CommunicationError> {
        let call = Call { operation, root: 0, lengths: Lengths::equal(values.len()) };
        let mine = values.to_vec();
        let sum = self.run(call, Fit::Equal, move |transfers, _| transfers.all_reduce(&mine))?;
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
        work: impl FnOnce(&OverMpi<'_>, &[f32]) -> Result<Vec<f32>, CommunicationError> + Send + 'static,
    ) -> Result<(), CommunicationError> {
        let lengths = Lengths { send: send.len(), receive: receive.len() };
        let mine = send.to_vec();
        let call = Call { operation, root: 0, lengths };
        let result = self.run(call, fit, move |transfers, _| work(transfers, &mine))?;
        receive.copy_from_slice(&result);
        Ok(())
    }
}

impl Communicator for MpiCommunicator {
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
        let n_values = values.len();
        let call = Call { operation: "broadcast", root: root.0, lengths: Lengths::equal(n_values) };
        let mine = if self.rank() == root { values.to_vec() } else { Vec::new() };
        let work = move |transfers: &OverMpi<'_>, _: &[Call]| transfers.broadcast(&mine, n_values, root.0);
        values.copy_from_slice(&self.run(call, Fit::Equal, work)?);
        Ok(())
    }

    fn broadcast_bytes(&self, bytes: &mut Vec<u8>, root: Rank) -> Result<(), CommunicationError> {
        let mine = if self.rank() == root { bytes.clone() } else { Vec::new() };
        let lengths = Lengths::equal(mine.len());
        let call = Call { operation: "broadcast_bytes", root: root.0, lengths };
        *bytes = self.run(call, Fit::Free, move |transfers, calls| {
            transfers.broadcast(&mine, calls[root.0].lengths.send, root.0)
        })?;
        Ok(())
    }

    fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError> {
        let (mine, lengths) = (bytes.to_vec(), Lengths::equal(bytes.len()));
        let call = Call { operation: "all_gather_bytes", root: 0, lengths };
        self.run(call, Fit::Free, move |transfers, calls| transfers.gather(&mine, &sent(calls), None))
    }

    fn all_to_all(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        let n_block = receive.len() / self.world_size();
        self.blocks("all_to_all", send, receive, Fit::Blocks, move |transfers, mine| {
            transfers.all_to_all(mine, n_block)
        })
    }

    fn all_gather(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        self.blocks("all_gather", send, receive, Fit::OneToAll, |transfers, mine| transfers.all_gather(mine))
    }

    fn reduce_scatter_sum(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        self.blocks("reduce_scatter_sum", send, receive, Fit::AllToOne, |transfers, mine| {
            transfers.reduce_scatter(mine)
        })
    }

    fn gather_bytes(&self, bytes: &[u8], root: Rank) -> Result<Option<Vec<Vec<u8>>>, CommunicationError> {
        let (mine, lengths) = (bytes.to_vec(), Lengths::equal(bytes.len()));
        let call = Call { operation: "gather_bytes", root: root.0, lengths };
        let all = self.run(call, Fit::Free, move |transfers, calls| {
            transfers.gather(&mine, &sent(calls), Some(root.0))
        })?;
        Ok((self.rank() == root).then_some(all))
    }

    fn split(&self, colour: usize) -> Result<Arc<dyn Communicator>, CommunicationError> {
        let call = Call { operation: "split", ..Call::default() };
        let highest_tag = Arc::clone(&self.highest_tag);
        let members = self.run(call, Fit::Free, move |transfers, _| transfers.split(colour, &highest_tag))?;
        Ok(Arc::new(Self {
            members: Arc::new(members),
            jobs: self.jobs.clone(),
            options: self.options,
            highest_tag: Arc::clone(&self.highest_tag),
        }))
    }

    fn barrier(&self) -> Result<(), CommunicationError> {
        self.run(Call { operation: "barrier", ..Call::default() }, Fit::Free, |_, _| Ok(()))
    }
}
