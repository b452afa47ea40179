//! Ranks as threads of one process: a test double, so that a world of several can be tried on any machine.
//!
//! Every collective is one exchange in which each rank brings its values and gets everybody's; sums are then
//! formed by each rank for itself, in rank order and in double precision, so all ranks hold the same bits
//! whoever came first. Ranks that meet in different collectives get an error, so that a program whose ranks have
//! parted is found by its test.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use truing_types::{CommunicationError, Communicator, Rank};

/// One rank of a [`thread_world`]. Dropping it tells the others that this peer has left.
#[derive(Debug)]
pub struct ThreadRank {
    rank: usize,
    world: Arc<World>,
}

#[derive(Debug)]
struct World {
    size: usize,
    exchange: Mutex<Exchange>,
    changed: Condvar,
}

/// One exchange at a time: first everybody brings, then everybody takes.
#[derive(Debug)]
struct Exchange {
    brought: Vec<Option<Brought>>,
    gathered: Option<Arc<Vec<Brought>>>,
    n_taken: usize,
    is_broken: bool,
}

/// What one rank brings to a collective: numbers or bytes, the other empty.
#[derive(Debug, Clone)]
struct Brought {
    operation: &'static str,
    numbers: Vec<f64>,
    bytes: Vec<u8>,
}

/// Makes `world_size` ranks, to be moved into one thread each.
#[must_use]
pub fn thread_world(world_size: usize) -> Vec<ThreadRank> {
    let exchange = Exchange { brought: vec![None; world_size], gathered: None, n_taken: 0, is_broken: false };
    let world = World { size: world_size, exchange: Mutex::new(exchange), changed: Condvar::new() };
    let world = Arc::new(world);
    (0..world_size).map(|rank| ThreadRank { rank, world: Arc::clone(&world) }).collect()
}

impl World {
    // A rank that panicked leaves the exchange as it was; its drop marks the world as broken.
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
        let mut exchange = self.world.lock();
        // The previous exchange must have been taken by all before this rank may bring again.
        while exchange.gathered.is_some() && !exchange.is_broken {
            exchange = self.world.wait(exchange);
        }
        if exchange.is_broken {
            return Err(CommunicationError::PeerLost { operation });
        }
        exchange.brought[self.rank] = Some(mine);
        if exchange.brought.iter().all(Option::is_some) {
            let gathered = exchange.brought.iter_mut().filter_map(Option::take).collect();
            exchange.gathered = Some(Arc::new(gathered));
            self.world.changed.notify_all();
        }
        let gathered = loop {
            if let Some(gathered) = &exchange.gathered {
                break Arc::clone(gathered);
            }
            if exchange.is_broken {
                return Err(CommunicationError::PeerLost { operation });
            }
            exchange = self.world.wait(exchange);
        };
        exchange.n_taken += 1;
        if exchange.n_taken == self.world.size {
            exchange.gathered = None;
            exchange.n_taken = 0;
            self.world.changed.notify_all();
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

    /// Brings as many numbers as every other rank.
    fn gather(
        &self,
        operation: &'static str,
        numbers: Vec<f64>,
    ) -> Result<Arc<Vec<Brought>>, CommunicationError> {
        let gathered = self.exchange(Brought { operation, numbers, bytes: Vec::new() })?;
        let expected = gathered[0].numbers.len();
        match gathered.iter().position(|brought| brought.numbers.len() != expected) {
            Some(rank) => Err(CommunicationError::LengthMismatch {
                operation,
                rank,
                expected,
                found: gathered[rank].numbers.len(),
            }),
            None => Ok(gathered),
        }
    }

    fn sum(&self, operation: &'static str, values: Vec<f64>) -> Result<Vec<f64>, CommunicationError> {
        let gathered = self.gather(operation, values)?;
        let mut sum = gathered[0].numbers.clone();
        for brought in &gathered[1..] {
            sum.iter_mut().zip(&brought.numbers).for_each(|(total, value)| *total += value);
        }
        Ok(sum)
    }
}

impl Communicator for ThreadRank {
    fn rank(&self) -> Rank {
        Rank(self.rank)
    }

    fn world_size(&self) -> usize {
        self.world.size
    }

    fn all_reduce_sum(&self, values: &mut [f32]) -> Result<(), CommunicationError> {
        let sum = self.sum("all_reduce_sum", values.iter().map(|&v| f64::from(v)).collect())?;
        values.iter_mut().zip(sum).for_each(|(value, total)| *value = total as f32);
        Ok(())
    }

    fn all_reduce_sum_f64(&self, values: &mut [f64]) -> Result<(), CommunicationError> {
        let sum = self.sum("all_reduce_sum_f64", values.to_vec())?;
        values.copy_from_slice(&sum);
        Ok(())
    }

    fn broadcast(&self, values: &mut [f32], root: Rank) -> Result<(), CommunicationError> {
        let gathered = self.gather("broadcast", values.iter().map(|&v| f64::from(v)).collect())?;
        values.iter_mut().zip(&gathered[root.0].numbers).for_each(|(value, &from)| *value = from as f32);
        Ok(())
    }

    fn broadcast_bytes(&self, bytes: &mut Vec<u8>, root: Rank) -> Result<(), CommunicationError> {
        let mine = if self.rank == root.0 { std::mem::take(bytes) } else { Vec::new() };
        let gathered =
            self.exchange(Brought { operation: "broadcast_bytes", numbers: Vec::new(), bytes: mine })?;
        bytes.clone_from(&gathered[root.0].bytes);
        Ok(())
    }

    fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError> {
        let (operation, bytes) = ("all_gather_bytes", bytes.to_vec());
        let gathered = self.exchange(Brought { operation, numbers: Vec::new(), bytes })?;
        Ok(gathered.iter().map(|brought| brought.bytes.clone()).collect())
    }

    fn barrier(&self) -> Result<(), CommunicationError> {
        self.gather("barrier", Vec::new()).map(drop)
    }
}

impl Drop for ThreadRank {
    fn drop(&mut self) {
        let mut exchange = self.world.lock();
        exchange.is_broken = true;
        self.world.changed.notify_all();
    }
}
