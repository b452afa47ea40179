//! Collectives made of messages between two ranks. A [`Wire`] carries the messages, over TCP or MPI; what is sent and
//! the order of all sums are the same on each, and so are the bits of every result.
//!
//! The base of all is [`Transfers::exchange`]: in round `i` each rank sends to the rank `i` places after it and
//! receives from the one `i` places before it. Every message is in flight beside its counterpart, so no order of
//! arrival matters.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytemuck::Pod;
use truing_types::CommunicationError;

use crate::call::{Call, Fit, Lengths, check};

/// The collectives, by their number in messages.
const OPERATIONS: [&str; 11] = [
    "all_reduce_sum",
    "all_reduce_sum_f64",
    "broadcast",
    "broadcast_bytes",
    "all_gather_bytes",
    "all_to_all",
    "all_gather",
    "reduce_scatter_sum",
    "gather_bytes",
    "split",
    "barrier",
];

/// What carries messages between the ranks of the world.
pub(crate) trait Wire {
    /// Sends bytes to the world's rank `to` while it receives from the world's rank `from`, which sends as many as
    /// there is room for. Either message may be empty. `tag` is that of the group on both sides.
    fn swap(
        &self,
        tag: u32,
        to: (usize, &[u8]),
        from: (usize, &mut [u8]),
        operation: &'static str,
    ) -> Result<(), CommunicationError>;
}

/// The ranks of a group.
#[derive(Debug)]
pub(crate) struct Members {
    /// Their ranks in the world.
    pub(crate) ranks: Vec<usize>,
    /// This process's place among them.
    pub(crate) me: usize,
    /// The tag of the group's messages. No two groups that share a rank have the same one.
    pub(crate) tag: u32,
}

impl Members {
    /// All ranks of a world, of which this process is one.
    pub(crate) fn world(me: usize, world_size: usize) -> Self {
        Self { ranks: (0..world_size).collect(), me, tag: 0 }
    }
}

/// Numbers that are summed, in double precision.
pub(crate) trait Number: Pod {
    fn double(self) -> f64;
    fn rounded(sum: f64) -> Self;
}

impl Number for f32 {
    fn double(self) -> f64 {
        f64::from(self)
    }

    fn rounded(sum: f64) -> Self {
        sum as f32
    }
}

impl Number for f64 {
    fn double(self) -> f64 {
        self
    }

    fn rounded(sum: f64) -> Self {
        sum
    }
}

/// A group at work on one collective.
pub(crate) struct Transfers<'a, W> {
    pub(crate) wire: &'a W,
    pub(crate) members: &'a Members,
    /// The method of `Communicator`, for errors.
    pub(crate) operation: &'static str,
    /// Longer messages are carried in pieces of this size, in bytes.
    pub(crate) n_bytes_at_once: usize,
}

impl<W: Wire> Transfers<'_, W> {
    fn n_ranks(&self) -> usize {
        self.members.ranks.len()
    }

    /// The calls of all ranks, in rank order, after a check that they fit together.
    pub(crate) fn agree(&self, call: Call, fit: Fit) -> Result<Vec<Call>, CommunicationError> {
        let operation = OPERATIONS.iter().position(|name| *name == call.operation);
        let operation = operation.expect("every collective has a number");
        let words = [operation, call.root, call.lengths.send, call.lengths.receive];
        let read = |[operation, root, send, receive]: [usize; 4]| Call {
            operation: OPERATIONS[operation],
            root,
            lengths: Lengths { send, receive },
        };
        let calls: Vec<Call> = self.gather_words(words)?.into_iter().map(read).collect();
        check(&calls, fit).map(|()| calls)
    }

    /// A few words of every rank, in rank order. After each round a rank knows twice as many ranks, those after its own
    /// (Bruck's algorithm).
    fn gather_words<const N: usize>(&self, mine: [usize; N]) -> Result<Vec<[usize; N]>, CommunicationError> {
        let (me, n_ranks) = (self.members.me, self.n_ranks());
        let mut known: Vec<u64> = mine.map(|word| word as u64).to_vec();
        let mut n_known = 1;
        while n_known < n_ranks {
            let n_new = n_known.min(n_ranks - n_known);
            let mut new = vec![0; n_new * N];
            let (to, from) = ((me + n_ranks - n_known) % n_ranks, (me + n_known) % n_ranks);
            self.swap(to, &known[..n_new * N], from, &mut new, n_new * N)?;
            known.extend(new);
            n_known += n_new;
        }
        let (blocks, _) = known.as_chunks::<N>();
        let mut words: Vec<_> = blocks.iter().map(|block| block.map(|word| word as usize)).collect();
        words.rotate_right(me);
        Ok(words)
    }

    /// The ranks that named the same colour, as a group of their own. `highest_tag` is the highest tag of any group of
    /// this process; the new group's is above every tag that one of the ranks has, so that no two groups with a common
    /// rank share one.
    pub(crate) fn split(
        &self,
        colour: usize,
        highest_tag: &AtomicUsize,
    ) -> Result<Members, CommunicationError> {
        let words = self.gather_words([colour, highest_tag.load(Ordering::Relaxed)])?;
        let tag = 1 + words.iter().map(|[_, tag]| *tag).max().unwrap_or(0);
        highest_tag.store(tag, Ordering::Relaxed);
        let places: Vec<usize> = (0..words.len()).filter(|place| words[*place][0] == colour).collect();
        Ok(Members {
            me: places.partition_point(|place| *place < self.members.me),
            ranks: places.iter().map(|place| self.members.ranks[*place]).collect(),
            tag: u32::try_from(tag).expect("fewer than 2^32 groups"),
        })
    }

    /// Sends `block(r)` to each rank r, and returns the blocks that came from each, which have `n_receive(r)` elements.
    /// No block on any rank is longer than `n_longest`, and all ranks say the same.
    fn exchange<'b, T: Pod>(
        &self,
        n_longest: usize,
        block: impl Fn(usize) -> &'b [T],
        n_receive: impl Fn(usize) -> usize,
    ) -> Result<Vec<Vec<T>>, CommunicationError> {
        let (me, n_ranks) = (self.members.me, self.n_ranks());
        let mut received = vec![Vec::new(); n_ranks];
        received[me] = block(me).to_vec();
        for distance in 1..n_ranks {
            let (to, from) = ((me + distance) % n_ranks, (me + n_ranks - distance) % n_ranks);
            let mut values = vec![T::zeroed(); n_receive(from)];
            self.swap(to, block(to), from, &mut values, n_longest)?;
            received[from] = values;
        }
        Ok(received)
    }

    /// Sends to one rank while it receives from another, in as many pieces as the longest block needs.
    fn swap<T: Pod>(
        &self,
        to: usize,
        send: &[T],
        from: usize,
        receive: &mut [T],
        n_longest: usize,
    ) -> Result<(), CommunicationError> {
        let Members { ranks, tag, .. } = self.members;
        let send: &[u8] = bytemuck::cast_slice(send);
        let receive: &mut [u8] = bytemuck::cast_slice_mut(receive);
        let n_at_once = self.n_bytes_at_once.max(1);
        for start in (0..n_longest * size_of::<T>()).step_by(n_at_once) {
            let piece = |length: usize| start.min(length)..(start + n_at_once).min(length);
            let (sent, received) = (piece(send.len()), piece(receive.len()));
            let (to, from) = ((ranks[to], &send[sent]), (ranks[from], &mut receive[received]));
            self.wire.swap(*tag, to, from, self.operation)?;
        }
        Ok(())
    }

    /// The same values on every rank: those of all slices, in rank order. Rank r has slice r.
    fn join_slices<T: Pod>(&self, mine: &[T], n_values: usize) -> Result<Vec<T>, CommunicationError> {
        let n_longest = n_values.div_ceil(self.n_ranks());
        let slices = self.exchange(n_longest, |_| mine, |from| self.slice(from, n_values).len())?;
        Ok(slices.concat())
    }

    /// Rank r's slice of `n_values`: the slices differ by one element at most.
    fn slice(&self, rank: usize, n_values: usize) -> Range<usize> {
        let (n_each, n_longer) = (n_values / self.n_ranks(), n_values % self.n_ranks());
        let start = |rank: usize| rank * n_each + rank.min(n_longer);
        start(rank)..start(rank + 1)
    }

    /// The element-wise sum over ranks. Each rank sums one slice and gives it to the others.
    pub(crate) fn all_reduce<T: Number>(&self, values: &[T]) -> Result<Vec<T>, CommunicationError> {
        let n_values = values.len();
        let n_mine = self.slice(self.members.me, n_values).len();
        let n_longest = n_values.div_ceil(self.n_ranks());
        let parts = self.exchange(n_longest, |to| &values[self.slice(to, n_values)], |_| n_mine)?;
        self.join_slices(&sum_in_rank_order(&parts), n_values)
    }

    /// This rank's block of the element-wise sum over ranks.
    pub(crate) fn reduce_scatter<T: Number>(&self, values: &[T]) -> Result<Vec<T>, CommunicationError> {
        let n_block = values.len() / self.n_ranks();
        let parts = self.exchange(n_block, |to| &values[to * n_block..][..n_block], |_| n_block)?;
        Ok(sum_in_rank_order(&parts))
    }

    /// The blocks that all ranks have for this one, in rank order, of `n_block` elements each.
    pub(crate) fn all_to_all<T: Pod>(
        &self,
        values: &[T],
        n_block: usize,
    ) -> Result<Vec<T>, CommunicationError> {
        let blocks = self.exchange(n_block, |to| &values[to * n_block..][..n_block], |_| n_block)?;
        Ok(blocks.concat())
    }

    /// The values of all ranks, in rank order. Every rank brings as many.
    pub(crate) fn all_gather<T: Pod>(&self, values: &[T]) -> Result<Vec<T>, CommunicationError> {
        Ok(self.exchange(values.len(), |_| values, |_| values.len())?.concat())
    }

    /// The `n_values` of `root`, whose own are `values`. The root gives each rank one slice, and the ranks give theirs
    /// to the others, so the root sends no more than twice its values.
    pub(crate) fn broadcast<T: Pod>(
        &self,
        values: &[T],
        n_values: usize,
        root: usize,
    ) -> Result<Vec<T>, CommunicationError> {
        let me = self.members.me;
        let n_longest = n_values.div_ceil(self.n_ranks());
        let block = |to: usize| if me == root { &values[self.slice(to, n_values)] } else { &[] };
        let n_receive = |from: usize| if from == root { self.slice(me, n_values).len() } else { 0 };
        let slices = self.exchange(n_longest, block, n_receive)?;
        self.join_slices(&slices[root], n_values)
    }

    /// The bytes of every rank on every rank, or on one. `lengths` are those of all ranks.
    pub(crate) fn gather(
        &self,
        bytes: &[u8],
        lengths: &[usize],
        root: Option<usize>,
    ) -> Result<Vec<Vec<u8>>, CommunicationError> {
        let me = self.members.me;
        let n_longest = lengths.iter().copied().max().unwrap_or(0);
        let is_wanted_by = |rank: usize| root.is_none_or(|root| root == rank);
        let block = |to: usize| if is_wanted_by(to) { bytes } else { &[] };
        self.exchange(n_longest, block, |from| if is_wanted_by(me) { lengths[from] } else { 0 })
    }
}

/// How many bytes each rank sends.
pub(crate) fn sent(calls: &[Call]) -> Vec<usize> {
    calls.iter().map(|call| call.lengths.send).collect()
}

fn sum_in_rank_order<T: Number>(parts: &[Vec<T>]) -> Vec<T> {
    let sum = |i: usize| parts[1..].iter().fold(parts[0][i].double(), |sum, part| sum + part[i].double());
    (0..parts[0].len()).map(|i| T::rounded(sum(i))).collect()
}
