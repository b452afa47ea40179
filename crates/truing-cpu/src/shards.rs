//! The part of the states that this rank holds, and the collectives that bring the parts together (ZeRO, arXiv
//! 1910.02054).
//!
//! A parameter is cut into one range of elements for each rank of the world ([`owned_range`]). Long parameters are
//! exchanged in pieces, so that the buffers of an exchange stay small.

use std::ops::Range;
use std::sync::Arc;

use truing_model::{EngineError, ZeroStage, owned_range};
use truing_types::{CommunicationError, Communicator, Groups, Rank};

/// Most elements of a buffer of an exchange, over all ranks' parts.
const EXCHANGED_ELEMENTS: usize = 1 << 20;

/// The rank that reads whole tensors.
const FIRST: Rank = Rank(0);

/// An exchange that a rank requests of all ranks. Units are those of a pass: the embeddings, each block, the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchange {
    /// The values of a unit.
    Gather(usize),
    /// The gradients of a unit.
    Reduce(usize),
}

impl Exchange {
    fn to_bytes(self) -> Vec<u8> {
        let (kind, unit) = match self {
            Self::Gather(unit) => (0, unit),
            Self::Reduce(unit) => (1, unit),
        };
        message(kind, unit)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match parse_message(bytes)? {
            (0, unit) => Some(Self::Gather(unit)),
            (1, unit) => Some(Self::Reduce(unit)),
            _ => None,
        }
    }
}

/// A message between ranks: a kind and a number.
pub(crate) fn message(kind: u8, number: usize) -> Vec<u8> {
    [&[kind][..], &(number as u64).to_le_bytes()].concat()
}

/// Kind and number of a [`message`]; `None` where the bytes are none.
pub(crate) fn parse_message(bytes: &[u8]) -> Option<(u8, usize)> {
    let (&kind, number) = bytes.split_first()?;
    let number = u64::from_le_bytes(number.try_into().ok()?);
    Some((kind, usize::try_from(number).ok()?))
}

/// What is sharded, and over which ranks.
pub(crate) struct Shards {
    world: Arc<dyn Communicator>,
    /// A world of one shards nothing.
    pub(crate) stage: ZeroStage,
}

impl std::fmt::Debug for Shards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shards").field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl Shards {
    pub(crate) fn new(groups: &Groups, stage: ZeroStage) -> Self {
        let world = Arc::clone(&groups.world);
        let stage = if world.world_size() > 1 { stage } else { ZeroStage::Replicated };
        Self { world, stage }
    }

    pub(crate) fn is_first(&self) -> bool {
        self.world.rank() == FIRST
    }

    /// What each rank owns of `n_elements`, in rank order.
    pub(crate) fn ranges(&self, n_elements: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let n_ranks = self.world.world_size();
        (0..n_ranks).map(move |rank| owned_range(n_elements, rank, n_ranks))
    }

    /// What this rank owns of `n_elements`.
    pub(crate) fn owned(&self, n_elements: usize) -> Range<usize> {
        owned_range(n_elements, self.world.rank().0, self.world.world_size())
    }

    /// Sums over all ranks, element by element.
    pub(crate) fn all_reduce(&self, values: &mut [f32]) -> Result<(), EngineError> {
        Ok(self.world.all_reduce_sum(values)?)
    }

    /// The sum of a number over all ranks, in rank order.
    pub(crate) fn sum(&self, number: f64) -> Result<f64, EngineError> {
        let mut sum = [number];
        self.world.all_reduce_sum_f64(&mut sum)?;
        Ok(sum[0])
    }

    /// The exchange of the first rank that requests one; `None` where no rank does. Every rank calls it, and gets the
    /// same.
    pub(crate) fn agree(&self, mine: Option<Exchange>) -> Result<Option<Exchange>, EngineError> {
        let wanted = self.world.all_gather_bytes(&mine.map(Exchange::to_bytes).unwrap_or_default())?;
        let Some((rank, bytes)) = wanted.iter().enumerate().find(|(_, bytes)| !bytes.is_empty()) else {
            return Ok(None);
        };
        let malformed = CommunicationError::Malformed { rank, n_bytes: bytes.len() };
        Ok(Some(Exchange::from_bytes(bytes).ok_or(malformed)?))
    }

    /// Adds to `sum`, what this rank owns, the sum of `values` `[n_elements]` over the ranks. A rank without values
    /// adds 0.
    pub(crate) fn reduce_scatter(
        &self,
        n_elements: usize,
        values: Option<&[f32]>,
        sum: &mut [f32],
    ) -> Result<(), EngineError> {
        for (offset, n_piece) in self.pieces(n_elements) {
            let mut send = vec![0.0; n_piece * self.world.world_size()];
            for (range, send) in self.ranges(n_elements).zip(send.chunks_exact_mut(n_piece)) {
                let part = piece_of(&range, offset, n_piece);
                if let Some(values) = values {
                    send[..part.len()].copy_from_slice(&values[part]);
                }
            }
            let mut receive = vec![0.0; n_piece];
            self.world.reduce_scatter_sum(&send, &mut receive)?;
            let own = sum.iter_mut().skip(offset);
            own.zip(&receive).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }

    /// Writes into `values` `[n_elements]` what the ranks own of it; `own` is this rank's part. Without `values` it
    /// only sends.
    pub(crate) fn all_gather(
        &self,
        n_elements: usize,
        own: &[f32],
        mut values: Option<&mut [f32]>,
    ) -> Result<(), EngineError> {
        for (offset, n_piece) in self.pieces(n_elements) {
            let mut send = vec![0.0; n_piece];
            let part = piece_of(&(0..own.len()), offset, n_piece);
            send[..part.len()].copy_from_slice(&own[part]);
            let mut receive = vec![0.0; n_piece * self.world.world_size()];
            self.world.all_gather(&send, &mut receive)?;
            if let Some(values) = &mut values {
                for (range, receive) in self.ranges(n_elements).zip(receive.chunks_exact(n_piece)) {
                    let part = piece_of(&range, offset, n_piece);
                    let n_part = part.len();
                    values[part].copy_from_slice(&receive[..n_part]);
                }
            }
        }
        Ok(())
    }

    /// On the first rank: asks the others for their parts of a tensor and puts them together with its own.
    pub(crate) fn collect(&self, request: &[u8], own: &[f32]) -> Result<Vec<f32>, EngineError> {
        self.world.broadcast_bytes(&mut request.to_vec(), FIRST)?;
        let parts = self.world.gather_bytes(&bytes_of(own), FIRST)?.unwrap_or_default();
        let values = parts.iter().flat_map(|part| part.as_chunks::<4>().0);
        Ok(values.map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// On the first rank: there are no more requests.
    pub(crate) fn end_requests(&self) -> Result<(), EngineError> {
        Ok(self.world.broadcast_bytes(&mut Vec::new(), FIRST)?)
    }

    /// On the others: the next request; `None` after the last.
    pub(crate) fn next_request(&self) -> Result<Option<Vec<u8>>, EngineError> {
        let mut request = Vec::new();
        self.world.broadcast_bytes(&mut request, FIRST)?;
        Ok((!request.is_empty()).then_some(request))
    }

    /// On the others: this rank's part of what was asked for.
    pub(crate) fn answer(&self, own: &[f32]) -> Result<(), EngineError> {
        self.world.gather_bytes(&bytes_of(own), FIRST)?;
        Ok(())
    }

    /// Offsets and lengths of the pieces in which the ranks' parts of `n_elements` are exchanged.
    fn pieces(&self, n_elements: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let n_ranks = self.world.world_size();
        let n_longest = n_elements.div_ceil(n_ranks);
        let n_piece = (EXCHANGED_ELEMENTS / n_ranks).clamp(1, n_longest.max(1));
        (0..n_longest).step_by(n_piece).map(move |offset| (offset, n_piece.min(n_longest - offset)))
    }
}

/// The elements of a piece that lie in `range`.
fn piece_of(range: &Range<usize>, offset: usize, n_piece: usize) -> Range<usize> {
    (range.start + offset).min(range.end)..(range.start + offset + n_piece).min(range.end)
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use truing_parallel::run_thread_world;

    use super::*;

    /// What every rank of a world of some size finds.
    fn on_ranks<T: Send>(n_ranks: usize, work: impl Fn(&Shards, usize) -> T + Sync) -> Vec<T> {
        run_thread_world(n_ranks, |world| {
            let groups = Groups::new(Arc::new(world), 1).unwrap();
            let rank = groups.world.rank().0;
            work(&Shards::new(&groups, ZeroStage::Parameters), rank)
        })
    }

    fn values(n_elements: usize, rank: usize) -> Vec<f32> {
        (0..n_elements).map(|i| ((i * 7 + rank * 3) as f32).sin() * 1e3).collect()
    }

    /// Lengths that ranks cannot divide, that are shorter than the world, and of several pieces.
    #[test]
    fn reduced_parts_are_those_of_the_whole_sum_bit_for_bit_and_gather_to_it() {
        for n_ranks in [2, 3, 4] {
            for n_elements in [0, 1, 3, 10, 101, EXCHANGED_ELEMENTS + 5] {
                let found = on_ranks(n_ranks, |shards, rank| {
                    let mine = values(n_elements, rank);
                    let mut whole = mine.clone();
                    shards.all_reduce(&mut whole).unwrap();
                    let owned = shards.owned(n_elements);
                    let mut own = vec![0.0; owned.len()];
                    shards.reduce_scatter(n_elements, Some(&mine), &mut own).unwrap();
                    assert!(own == whole[owned], "{n_elements} elements, rank {rank} of {n_ranks}");
                    let mut gathered = vec![0.0; n_elements];
                    // The last rank only sends.
                    let wants = rank + 1 < n_ranks;
                    shards.all_gather(n_elements, &own, wants.then_some(&mut gathered[..])).unwrap();
                    !wants || gathered == whole
                });
                assert_eq!(found, vec![true; n_ranks], "{n_elements} elements");
            }
        }
    }

    #[test]
    fn a_rank_without_values_adds_nothing() {
        let found = on_ranks(3, |shards, rank| {
            let mine = values(10, rank);
            let mut own = vec![1.0; shards.owned(10).len()];
            shards.reduce_scatter(10, (rank == 1).then_some(&mine[..]), &mut own).unwrap();
            own
        });
        let expected: Vec<f32> = values(10, 1).iter().map(|value| 1.0 + value).collect();
        assert_eq!(found.concat(), expected);
    }

    #[test]
    fn ranks_that_request_different_exchanges_take_turns() {
        let found = on_ranks(3, |shards, rank| {
            // Rank 0 wants nothing, rank 1 one exchange, rank 2 two.
            let wanted = [vec![], vec![Exchange::Reduce(4)], vec![Exchange::Gather(2), Exchange::Reduce(4)]];
            let mut mine = wanted[rank].iter().copied().peekable();
            let mut agreed = Vec::new();
            while let Some(exchange) = shards.agree(mine.peek().copied()).unwrap() {
                agreed.push(exchange);
                mine.next_if_eq(&exchange);
            }
            agreed
        });
        let expected = vec![Exchange::Reduce(4), Exchange::Gather(2), Exchange::Reduce(4)];
        assert_eq!(found, vec![expected; 3]);
    }
}
