//! Collectives made of messages between two ranks, as the thread that owns MPI runs them.
//!
//! The base of all is [`Transfers::exchange`]: in round `i` each rank sends to the rank `i` places after it and receives
//! from the one `i` places before it. Every message is in flight beside its counterpart, so no order of arrival matters.

use ::mpi::datatype::Equivalence;
use ::mpi::point_to_point::send_receive_into_with_tags;
use ::mpi::topology::{Communicator as _, SimpleCommunicator};
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

/// The ranks of a group.
#[derive(Debug)]
pub(super) struct Members {
    /// Their ranks in MPI's world.
    pub(super) ranks: Vec<i32>,
    /// This process's place among them.
    pub(super) me: usize,
    /// The tag of the group's messages. No two groups that share a rank have the same one.
    pub(super) tag: i32,
}

/// What is sent between ranks.
pub(super) trait Element: Equivalence + Copy + Default + 'static {}
impl Element for u8 {}
impl Element for u64 {}
impl Element for f32 {}
impl Element for f64 {}

/// Numbers that are summed, in double precision.
pub(super) trait Number: Element {
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

/// A group at work.
pub(super) struct Transfers<'a> {
    pub(super) world: &'a SimpleCommunicator,
    pub(super) members: &'a Members,
    pub(super) n_bytes_at_once: usize,
}

impl Transfers<'_> {
    fn n_ranks(&self) -> usize {
        self.members.ranks.len()
    }

    /// The calls of all ranks, in rank order, after a check that they fit together.
    pub(super) fn agree(&self, call: Call, fit: Fit) -> Result<Vec<Call>, CommunicationError> {
        let operation = OPERATIONS.iter().position(|name| *name == call.operation);
        let operation = operation.expect("every collective has a number");
        let words = [operation, call.root, call.lengths.send, call.lengths.receive];
        let read = |[operation, root, send, receive]: [usize; 4]| Call {
            operation: OPERATIONS[operation],
            root,
            lengths: Lengths { send, receive },
        };
        let calls: Vec<Call> = self.gather_words(words).into_iter().map(read).collect();
        check(&calls, fit).map(|()| calls)
    }

    /// A few words of every rank, in rank order. After each round a rank knows twice as many ranks, those after its own
    /// (Bruck's algorithm).
    pub(super) fn gather_words<const N: usize>(&self, mine: [usize; N]) -> Vec<[usize; N]> {
        let (me, n_ranks) = (self.members.me, self.n_ranks());
        let mut known: Vec<u64> = mine.map(|word| word as u64).to_vec();
        let mut n_known = 1;
        while n_known < n_ranks {
            let n_new = n_known.min(n_ranks - n_known);
            let mut new = vec![0; n_new * N];
            let (to, from) = ((me + n_ranks - n_known) % n_ranks, (me + n_known) % n_ranks);
            self.swap(to, &known[..n_new * N], from, &mut new, n_new * N);
            known.extend(new);
            n_known += n_new;
        }
        let (blocks, _) = known.as_chunks::<N>();
        let mut words: Vec<_> = blocks.iter().map(|block| block.map(|word| word as usize)).collect();
        words.rotate_right(me);
        words
    }

    /// Sends `block(r)` to each rank r, and returns the blocks that came from each, which have `n_receive(r)` elements. No
    /// block on any rank is longer than `n_longest`, and all ranks say the same.
    pub(super) fn exchange<'b, T: Element>(
        &self,
        n_longest: usize,
        block: impl Fn(usize) -> &'b [T],
        n_receive: impl Fn(usize) -> usize,
    ) -> Vec<Vec<T>> {
        let (me, n_ranks) = (self.members.me, self.n_ranks());
        let mut received = vec![Vec::new(); n_ranks];
        received[me] = block(me).to_vec();
        for distance in 1..n_ranks {
            let (to, from) = ((me + distance) % n_ranks, (me + n_ranks - distance) % n_ranks);
            let mut values = vec![T::default(); n_receive(from)];
            self.swap(to, block(to), from, &mut values, n_longest);
            received[from] = values;
        }
        received
    }

    /// Sends to one rank while it receives from another, in as many pieces as the longest block needs.
    fn swap<T: Element>(&self, to: usize, send: &[T], from: usize, receive: &mut [T], n_longest: usize) {
        let Members { ranks, tag, .. } = self.members;
        let to = self.world.process_at_rank(ranks[to]);
        let from = self.world.process_at_rank(ranks[from]);
        let n_at_once = (self.n_bytes_at_once / size_of::<T>()).max(1);
        for start in (0..n_longest).step_by(n_at_once) {
            let piece = |length: usize| start.min(length)..(start + n_at_once).min(length);
            let (sent, received) = (piece(send.len()), piece(receive.len()));
            send_receive_into_with_tags(&send[sent], &to, *tag, &mut receive[received], &from, *tag);
        }
    }

    /// The same values on every rank: those of all slices, in rank order. Rank r has slice r.
    fn join_slices<T: Element>(&self, mine: &[T], n_values: usize) -> Vec<T> {
        let n_longest = n_values.div_ceil(self.n_ranks());
        let slices = self.exchange(n_longest, |_| mine, |from| self.slice(from, n_values).len());
        slices.concat()
    }

    /// Rank r's slice of `n_values`: the slices differ by one element at most.
    fn slice(&self, rank: usize, n_values: usize) -> std::ops::Range<usize> {
        let (n_each, n_longer) = (n_values / self.n_ranks(), n_values % self.n_ranks());
        let start = |rank: usize| rank * n_each + rank.min(n_longer);
        start(rank)..start(rank + 1)
    }

    /// The element-wise sum over ranks. Each rank sums one slice and gives it to the others.
    pub(super) fn all_reduce<T: Number>(&self, values: &[T]) -> Vec<T> {
        let n_values = values.len();
        let n_mine = self.slice(self.members.me, n_values).len();
        let n_longest = n_values.div_ceil(self.n_ranks());
        let parts = self.exchange(n_longest, |to| &values[self.slice(to, n_values)], |_| n_mine);
        self.join_slices(&sum_in_rank_order(&parts), n_values)
    }

    /// This rank's block of the element-wise sum over ranks.
    pub(super) fn reduce_scatter<T: Number>(&self, values: &[T]) -> Vec<T> {
        let n_block = values.len() / self.n_ranks();
        sum_in_rank_order(&self.exchange(n_block, |to| &values[to * n_block..][..n_block], |_| n_block))
    }

    /// The `n_values` of `root`, whose own are `values`. The root gives each rank one slice, and the ranks give theirs to
    /// the others, so the root sends no more than twice its values.
    pub(super) fn broadcast<T: Element>(&self, values: &[T], n_values: usize, root: usize) -> Vec<T> {
        let me = self.members.me;
        let n_longest = n_values.div_ceil(self.n_ranks());
        let block = |to: usize| if me == root { &values[self.slice(to, n_values)] } else { &[] };
        let n_receive = |from: usize| if from == root { self.slice(me, n_values).len() } else { 0 };
        let slices = self.exchange(n_longest, block, n_receive);
        self.join_slices(&slices[root], n_values)
    }

    /// The bytes of every rank on every rank, or on one.
    pub(super) fn gather(&self, bytes: &[u8], lengths: &[usize], root: Option<usize>) -> Vec<Vec<u8>> {
        let me = self.members.me;
        let n_longest = lengths.iter().copied().max().unwrap_or(0);
        let is_wanted_by = |rank: usize| root.is_none_or(|root| root == rank);
        let block = |to: usize| if is_wanted_by(to) { bytes } else { &[] };
        self.exchange(n_longest, block, |from| if is_wanted_by(me) { lengths[from] } else { 0 })
    }
}

fn sum_in_rank_order<T: Number>(parts: &[Vec<T>]) -> Vec<T> {
    let sum = |i: usize| parts[1..].iter().fold(parts[0][i].double(), |sum, part| sum + part[i].double());
    (0..parts[0].len()).map(|i| T::rounded(sum(i))).collect()
}
