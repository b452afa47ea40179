//! Ranks as threads of one process: a test double, so that a world of several can be tried on any machine.
//!
//! Every collective is one exchange in which each rank brings its values and gets everybody's; sums are then
//! formed by each rank for itself, in rank order and in double precision, so all ranks hold the same bits
//! whoever came first. Ranks that meet in different collectives get an error, so that a program whose ranks have
//! parted is found by its test.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use truing_types::{CommunicationError, Communicator, Rank};

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
    operation: &'static str,
    numbers: Vec<f64>,
    /// How many numbers the rank has room for.
    n_receive: usize,
    bytes: Vec<u8>,
    /// A colour, and a place where the ranks of this colour can meet: the first of them provides it.
    group: Option<(usize, Arc<Meeting>)>,
}

/// How long the buffers of a collective have to be, on every rank.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    send: usize,
    receive: usize,
}

/// Makes `world_size` ranks, to be moved into one thread each.
#[must_use]
pub fn thread_world(world_size: usize) -> Vec<ThreadRank> {
    let meeting = Arc::new(Meeting::default());
    (0..world_size).map(|rank| ThreadRank { rank, size: world_size, meeting: Arc::clone(&meeting) }).collect()
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
    fn exchange(&self, mine: Brought) -> Result<Arc<Vec<Brought>>, CommunicationError> {
        let operation = mine.operation;
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
        let operation = gathered[0].operation;
        match gathered.iter().position(|brought| brought.operation != operation) {
            Some(rank) => Err(CommunicationError::OperationMismatch {
                operation,
                rank,
                found: gathered[rank].operation,
            }),
            None => Ok(gathered),
        }
    }

    /// Brings numbers, with room for `n_receive` of them. `lengths` derives from rank 0's lengths what those of every
    /// rank have to be.
    fn gather(
        &self,
        operation: &'static str,
        numbers: Vec<f64>,
        n_receive: usize,
        lengths: impl Fn(Lengths) -> Lengths,
    ) -> Result<Arc<Vec<Brought>>, CommunicationError> {
        let gathered = self.exchange(Brought { operation, numbers, n_receive, ..Brought::default() })?;
        let expected = lengths(gathered[0].lengths());
        for (rank, brought) in gathered.iter().enumerate() {
            let found = brought.lengths();
            for (expected, found) in [(expected.send, found.send), (expected.receive, found.receive)] {
                if expected != found {
                    return Err(CommunicationError::LengthMismatch { operation, rank, expected, found });
                }
            }
        }
        Ok(gathered)
    }

    /// Brings as many numbers as every other rank, and takes as many.
    fn gather_equal(
        &self,
        operation: &'static str,
        numbers: Vec<f64>,
    ) -> Result<Arc<Vec<Brought>>, CommunicationError> {
        let n_receive = numbers.len();
        self.gather(operation, numbers, n_receive, |first| first)
    }

    fn sum(&self, operation: &'static str, values: Vec<f64>) -> Result<Vec<f64>, CommunicationError> {
        let gathered = self.gather_equal(operation, values)?;
        Ok(sum_in_rank_order(&gathered, 0, gathered[0].numbers.len()))
    }
}

impl Brought {
    fn lengths(&self) -> Lengths {
        Lengths { send: self.numbers.len(), receive: self.n_receive }
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
        let gathered = self.gather_equal("broadcast", doubles(values))?;
        copy_singles(values, &gathered[root.0].numbers);
        Ok(())
    }

    fn broadcast_bytes(&self, bytes: &mut Vec<u8>, root: Rank) -> Result<(), CommunicationError> {
        let mine = if self.rank == root.0 { std::mem::take(bytes) } else { Vec::new() };
        let operation = "broadcast_bytes";
        let gathered = self.exchange(Brought { operation, bytes: mine, ..Brought::default() })?;
        bytes.clone_from(&gathered[root.0].bytes);
        Ok(())
    }

    fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError> {
        let (operation, bytes) = ("all_gather_bytes", bytes.to_vec());
        let gathered = self.exchange(Brought { operation, bytes, ..Brought::default() })?;
        Ok(gathered.iter().map(|brought| brought.bytes.clone()).collect())
    }

    fn all_to_all(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        let whole_blocks = |first: Lengths| {
            let n_values = first.receive / self.size * self.size;
            Lengths { send: n_values, receive: n_values }
        };
        let gathered = self.gather("all_to_all", doubles(send), receive.len(), whole_blocks)?;
        let n_block = receive.len() / self.size;
        for (rank, brought) in gathered.iter().enumerate() {
            let meant_for_me = &brought.numbers[self.rank * n_block..][..n_block];
            copy_singles(&mut receive[rank * n_block..][..n_block], meant_for_me);
        }
        Ok(())
    }

    fn all_gather(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        let one_to_all = |first: Lengths| Lengths { send: first.send, receive: first.send * self.size };
        let gathered = self.gather("all_gather", doubles(send), receive.len(), one_to_all)?;
        for (rank, brought) in gathered.iter().enumerate() {
            copy_singles(&mut receive[rank * send.len()..][..send.len()], &brought.numbers);
        }
        Ok(())
    }

    fn reduce_scatter_sum(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CommunicationError> {
        let all_to_one = |first: Lengths| Lengths { send: first.receive * self.size, receive: first.receive };
        let gathered = self.gather("reduce_scatter_sum", doubles(send), receive.len(), all_to_one)?;
        let sum = sum_in_rank_order(&gathered, self.rank * receive.len(), receive.len());
        copy_singles(receive, &sum);
        Ok(())
    }

    fn gather_bytes(&self, bytes: &[u8], root: Rank) -> Result<Option<Vec<Vec<u8>>>, CommunicationError> {
        let (operation, bytes) = ("gather_bytes", bytes.to_vec());
        let gathered = self.exchange(Brought { operation, bytes, ..Brought::default() })?;
        Ok((self.rank == root.0).then(|| gathered.iter().map(|brought| brought.bytes.clone()).collect()))
    }

    fn split(&self, colour: usize) -> Result<Arc<dyn Communicator>, CommunicationError> {
        let group = Some((colour, Arc::default()));
        let gathered = self.exchange(Brought { operation: "split", group, ..Brought::default() })?;
        let of_this_colour = |(rank, brought): (usize, &'_ Brought)| match &brought.group {
            Some((its, meeting)) if *its == colour => Some((rank, Arc::clone(meeting))),
            _ => None,
        };
        let members: Vec<_> = gathered.iter().enumerate().filter_map(of_this_colour).collect();
        let rank = members.partition_point(|(rank, _)| *rank < self.rank);
        Ok(Arc::new(Self { rank, size: members.len(), meeting: Arc::clone(&members[0].1) }))
    }

    fn barrier(&self) -> Result<(), CommunicationError> {
        self.exchange(Brought { operation: "barrier", ..Brought::default() }).map(drop)
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
