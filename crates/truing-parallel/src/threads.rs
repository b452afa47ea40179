//! Ranks as threads of one process: a test double, so that a world of several can be tried on any machine.
//!
//! Every collective is one exchange in which each rank brings its values and gets everybody's; sums are then
//! formed by each rank for itself, in rank order and in double precision, so all ranks hold the same bits
//! whoever came first. Ranks that meet in different collectives get an error, so that a program whose ranks have
//! parted is found by its test.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use truing_types::{CommunicationError, Communicator, Rank};

use crate::call::{Call, Fit, Lengths, check};

/// One rank of a [`thread_world`], or of a group split from one. Dropping it tells the others that this peer has left.
#[derive(Debug)]
pub struct ThreadRank {
    rank: usize,
    size: usize,
    meeting: Arc<Meeting>,
}

/// Where the ranks of a world or of a group meet.
#[derive(Debug, Default)]
struct Meeting {
    exchange: Mutex<Exchange>,
    changed: Condvar,
}

/// One exchange at a time: first everybody brings, then everybody takes.
#[derive(Debug, Default)]
struct Exchange {
    brought: BTreeMap<usize, Brought>,
    gathered: Option<Arc<Vec<Brought>>>,
    n_taken: usize,
    is_broken: bool,
}

/// What one rank brings to a collective. What the collective does not use is empty.
#[derive(Debug, Default)]
struct Brought {
    call: Call,
    numbers: Vec<f64>,
    bytes: Vec<u8>,
    /// A colour, and a place where the ranks of this colour can meet: the first of them provides it.
    group: Option<(usize, Arc<Meeting>)>,
}

/// Makes `world_size` ranks, to be moved into one thread each.
#[must_use]
pub fn thread_world(world_size: usize) -> Vec<ThreadRank> {
    let meeting = Arc::new(Meeting::default());
    (0..world_size).map(|rank| ThreadRank { rank, size: world_size, meeting: Arc::clone(&meeting) }).collect()
}

/// Runs `work` on every rank of a [`thread_world`], each in a thread of its own; the results in rank order. A panic of
/// a rank is continued in the caller.
pub fn run_thread_world<T: Send>(world_size: usize, work: impl Fn(ThreadRank) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let start = |rank| scope.spawn(move || work(rank));
        let threads: Vec<_> = thread_world(world_size).into_iter().map(start).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|found| found.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

impl Meeting {
    // A rank that panicked leaves the exchange as it was; its drop marks the meeting as broken.
    fn lock(&self) -> MutexGuard<'_, Exchange> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, Exchange>) -> MutexGuard<'a, Exchange> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThreadRank {
    /// Brings something and returns everybody's, in rank order.
    fn exchange(&self, mine: Brought, fit: Fit) -> Result<Arc<Vec<Brought>>, CommunicationError> {
        let operation = mine.call.operation;
        let mut exchange = self.meeting.lock();
        // The previous exchange must have been taken by all before this rank may bring again.
        while exchange.gathered.is_some() && !exchange.is_broken {
            exchange = self.meeting.wait(exchange);
        }
        if exchange.is_broken {
            return Err(CommunicationError::PeerLost { operation });
        }
        exchange.brought.insert(self.rank, mine);
        if exchange.brought.len() == self.size {
            let gathered = std::mem::take(&mut exchange.brought).into_values().collect();
            exchange.gathered = Some(Arc::new(gathered));
            self.meeting.changed.notify_all();
        }
        let gathered = loop {
            if let Some(gathered) = &exchange.gathered {
                break Arc::clone(gathered);
            }
            if exchange.is_broken {
                return Err(CommunicationError::PeerLost { operation });
            }
            exchange = self.meeting.wait(exchange);
        };
        exchange.n_taken += 1;
        if exchange.n_taken == self.size {
            exchange.gathered = None;
            exchange.n_taken = 0;
            self.meeting.changed.notify_all();
        }
        drop(exchange);
        let calls: Vec<Call> = gathered.iter().map(|brought| brought.call).collect();
        check(&calls, fit).map(|()| gathered)
    }

    /// Brings numbers, with room for `n_receive` of them.
    fn gather(
        &self,
        operation: &'static str,
        numbers: Vec<f64>,
        n_receive: usize,
        fit: Fit,
    ) -> Result<Arc<Vec<Brought>>, CommunicationError> {
        let lengths = Lengths { send: numbers.len(), receive: n_receive };
        let call = Call { operation, root: 0, lengths };
        self.exchange(Brought { call, numbers, ..Brought::default() }, fit)
    }

    /// Brings bytes, of any length.
    fn gather_any(
        &self,
        operation: &'static str,
        bytes: Vec<u8>,
        root: usize,
    ) -> Result<Arc<Vec<Brought>>, CommunicationError> {
        let call = Call { operation, root, ..Call::default() };
        self.exchange(Brought { call, bytes, ..Brought::default() }, Fit::Free)
    }

    fn sum(&self, operation: &'static str, values: Vec<f64>) -> Result<Vec<f64>, CommunicationError> {
        let n_values = values.len();
        let gathered = self.gather(operation, values, n_values, Fit::Equal)?;
        Ok(sum_in_rank_order(&gathered, 0, n_values))
    }
}

impl Communicator for ThreadRank {
    fn rank(&self) -> Rank {
        Rank(self.rank)
    }

    fn world_size(&self) -> usize {
        self.size
    }

    fn all_reduce_sum(&self, values: &mut [f32]) -> Result<(), CommunicationError> {
        let sum = self.sum("all_reduce_sum", doubles(values))?;
        copy_singles(values, &sum);
        Ok(())
    }

    fn all_reduce_sum_f64(&self, values: &mut [f64]) -> Result<(), CommunicationError> {
        let sum = self.sum("all_reduce_sum_f64", values.to_vec())?;
        values.copy_from_slice(&sum);
        Ok(())
    }

    fn broadcast(&self, values: &mut [f32], root: Rank) -> Result<(), CommunicationError> {
        let call = Call { operation: "broadcast", root: root.0, lengths: Lengths::equal(values.len()) };
        let mine = Brought { call, numbers: doubles(values), ..Brought::default() };
        let gathered = self.exchange(mine, Fit::Equal)?;
        copy_singles(values, &gathered[root.0].numbers);
        Ok(())
    }

    fn broadcast_bytes(&self, bytes: &mut Vec<u8>, root: Rank) -> Result<(), CommunicationError> {
        let mine = if self.rank == root.0 { std::mem::take(bytes) } else { Vec::new() };
        let gathered = self.gather_any("broadcast_bytes", mine, root.0)?;
        bytes.clone_from(&gathered[root.0].bytes);
        Ok(())
    }

    fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError> {
        let gathered = self.gather_any("all_gather_bytes", bytes.to_vec(), 0)?;
        Ok(gathered.iter().map(|brought| brought.bytes.clone()).collect())
    }

    fn all_to_all(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        let gathered = self.gather("all_to_all", doubles(send), receive.len(), Fit::Blocks)?;
        let n_block = receive.len() / self.size;
        for (rank, brought) in gathered.iter().enumerate() {
            let meant_for_me = &brought.numbers[self.rank * n_block..][..n_block];
            copy_singles(&mut receive[rank * n_block..][..n_block], meant_for_me);
        }
        Ok(())
    }

    fn all_gather(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        let gathered = self.gather("all_gather", doubles(send), receive.len(), Fit::OneToAll)?;
        for (rank, brought) in gathered.iter().enumerate() {
            copy_singles(&mut receive[rank * send.len()..][..send.len()], &brought.numbers);
        }
        Ok(())
    }

    fn reduce_scatter_sum(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        let gathered = self.gather("reduce_scatter_sum", doubles(send), receive.len(), Fit::AllToOne)?;
        let sum = sum_in_rank_order(&gathered, self.rank * receive.len(), receive.len());
        copy_singles(receive, &sum);
        Ok(())
    }

    fn gather_bytes(&self, bytes: &[u8], root: Rank) -> Result<Option<Vec<Vec<u8>>>, CommunicationError> {
        let gathered = self.gather_any("gather_bytes", bytes.to_vec(), root.0)?;
        Ok((self.rank == root.0).then(|| gathered.iter().map(|brought| brought.bytes.clone()).collect()))
    }

    fn split(&self, colour: usize) -> Result<Arc<dyn Communicator>, CommunicationError> {
        let call = Call { operation: "split", ..Call::default() };
        let mine = Brought { call, group: Some((colour, Arc::default())), ..Brought::default() };
        let gathered = self.exchange(mine, Fit::Free)?;
        let of_this_colour = |(rank, brought): (usize, &'_ Brought)| match &brought.group {
            Some((its, meeting)) if *its == colour => Some((rank, Arc::clone(meeting))),
            _ => None,
        };
        let members: Vec<_> = gathered.iter().enumerate().filter_map(of_this_colour).collect();
        let rank = members.partition_point(|(rank, _)| *rank < self.rank);
        Ok(Arc::new(Self { rank, size: members.len(), meeting: Arc::clone(&members[0].1) }))
    }

    fn barrier(&self) -> Result<(), CommunicationError> {
        self.gather_any("barrier", Vec::new(), 0).map(drop)
    }
}

impl Drop for ThreadRank {
    fn drop(&mut self) {
        let mut exchange = self.meeting.lock();
        exchange.is_broken = true;
        self.meeting.changed.notify_all();
    }
}

/// The element-wise sum of `n_values` numbers of every rank, from the number at `first`.
fn sum_in_rank_order(gathered: &[Brought], first: usize, n_values: usize) -> Vec<f64> {
    let mut sum = gathered[0].numbers[first..][..n_values].to_vec();
    for brought in &gathered[1..] {
        sum.iter_mut().zip(&brought.numbers[first..]).for_each(|(total, value)| *total += value);
    }
    sum
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn copy_singles(to: &mut [f32], from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(value, &number)| *value = number as f32);
}
