//! Sequences joined into packs of a token budget (report 2.2).
//!
//! Best-fit decreasing: the longest sequence first, each into the pack where the least room would be left. It needs
//! at most 11/9 of the optimum's packs plus 4 (Johnson 1973), and on text lengths leaves about nothing free. Packs
//! are kept in a stack per free capacity, and a bitmap tree finds the smallest capacity that suffices, so the whole
//! takes O(n + budget) time but for the tree's depth, log64 of the budget.

use serde::{Deserialize, Serialize};
use truing_types::Seed;

use crate::mix::shuffle;
use crate::statistics::LengthHistogram;

/// Sequences that cannot be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackingError {
    /// A sequence longer than the budget; [`LongSamplePolicy`](crate::LongSamplePolicy) comes before packing.
    #[error("sequence {index} has {length} tokens, more than the pack's budget of {budget}")]
    TooLong {
        /// Which, counted from 0.
        index: usize,
        /// Its tokens.
        length: u32,
        /// The pack's.
        budget: u32,
    },
    /// A sequence without tokens.
    #[error("sequence {index} is empty")]
    Empty {
        /// Which, counted from 0.
        index: usize,
    },
}

/// How sequences are put into packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackingStrategy {
    /// As many sequences a pack as fit ("packing on batch").
    #[default]
    BestFitDecreasing,
    /// One sequence a pack ("packing on sample"): no packing.
    OneSequence,
}

/// The packs of one epoch and what they make of the budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Packing {
    /// Samples of each pack, as indices into the data set; packs in training order.
    pub packs: Vec<Vec<u32>>,
    /// In numbers.
    pub report: PackingReport,
}

/// What packing makes of a budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackingReport {
    /// Most tokens a pack.
    pub budget: u32,
    /// Sequences packed.
    pub n_sequences: usize,
    /// Packs made.
    pub n_packs: usize,
    /// Tokens in them.
    pub n_tokens: u64,
    /// Packs times budget.
    pub n_allocated: u64,
    /// Tokens over allocated: 1 is perfect.
    pub utilisation: f64,
    /// What a padded batch would reach: as many sequences a batch as a pack holds on average, in visiting order,
    /// each padded to the longest of its batch.
    pub padded_utilisation: f64,
    /// Lengths of the sequences.
    pub lengths: LengthHistogram,
}

impl Packing {
    /// Packs the samples that an epoch visits ([`epoch_order`](crate::epoch_order)). `lengths` are those of the
    /// whole data set. Which of equally long samples share a pack follows from the visiting order, and the order of
    /// the packs from (seed, epoch).
    ///
    /// # Errors
    /// When a visited sample is empty or longer than the budget.
    pub fn of_epoch(
        lengths: &[u32],
        visits: &[u32],
        budget: u32,
        strategy: PackingStrategy,
        seed: Seed,
        epoch: u64,
    ) -> Result<Self, PackingError> {
        let visited: Vec<u32> = visits.iter().map(|&i| lengths[i as usize]).collect();
        let mut packs = match strategy {
            PackingStrategy::BestFitDecreasing => pack_best_fit_decreasing(&visited, budget),
            PackingStrategy::OneSequence => one_sequence_a_pack(&visited, budget),
        }
        .map_err(|error| error.at_sample(visits))?;
        let report = PackingReport::new(&visited, packs.len(), budget);
        for sequence_idx in packs.iter_mut().flatten() {
            *sequence_idx = visits[*sequence_idx as usize];
        }
        shuffle(&mut packs, &mut seed.generator("pack order", &[epoch]));
        Ok(Self { packs, report })
    }

    /// The packs of each optimiser step; the last step may have fewer.
    pub fn steps(&self, n_packs_per_step: usize) -> impl ExactSizeIterator<Item = &[Vec<u32>]> {
        self.packs.chunks(n_packs_per_step.max(1))
    }
}

impl PackingError {
    /// Names the data set's sample instead of its place among the visited ones.
    fn at_sample(self, visits: &[u32]) -> Self {
        match self {
            Self::TooLong { index, length, budget } => {
                Self::TooLong { index: visits[index] as usize, length, budget }
            }
            Self::Empty { index } => Self::Empty { index: visits[index] as usize },
        }
    }
}

impl PackingReport {
    fn new(lengths: &[u32], n_packs: usize, budget: u32) -> Self {
        let n_tokens: u64 = lengths.iter().map(|&l| u64::from(l)).sum();
        let n_allocated = n_packs as u64 * u64::from(budget);
        let batch_size = (lengths.len() as f64 / n_packs.max(1) as f64).round().max(1.0) as usize;
        let longest = |batch: &[u32]| u64::from(batch.iter().copied().max().unwrap_or(0));
        let n_padded = lengths.chunks(batch_size).map(|batch| longest(batch) * batch.len() as u64).sum();
        let share = |whole: u64| if whole == 0 { 0.0 } else { n_tokens as f64 / whole as f64 };
        Self {
            budget,
            n_sequences: lengths.len(),
            n_packs,
            n_tokens,
            n_allocated,
            utilisation: share(n_allocated),
            padded_utilisation: share(n_padded),
            lengths: LengthHistogram::of(lengths),
        }
    }
}

fn check_lengths(lengths: &[u32], budget: u32) -> Result<(), PackingError> {
    match lengths.iter().position(|&length| length == 0 || length > budget) {
        None => Ok(()),
        Some(index) if lengths[index] == 0 => Err(PackingError::Empty { index }),
        Some(index) => Err(PackingError::TooLong { index, length: lengths[index], budget }),
    }
}

fn one_sequence_a_pack(lengths: &[u32], budget: u32) -> Result<Vec<Vec<u32>>, PackingError> {
    check_lengths(lengths, budget)?;
    Ok((0..lengths.len() as u32).map(|i| vec![i]).collect())
}

/// Packs by best-fit decreasing: indices into `lengths` per pack, packs in the order in which they were opened.
/// Equally long sequences keep their order; of equally good packs the one that came last to its room is taken.
///
/// # Errors
/// When a length is 0 or above the budget.
pub fn pack_best_fit_decreasing(lengths: &[u32], budget: u32) -> Result<Vec<Vec<u32>>, PackingError> {
    check_lengths(lengths, budget)?;
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let shortest = lengths.iter().copied().min().unwrap_or(0);
    let mut packs: Vec<Vec<u32>> = Vec::new();
    // A pack with less room than the shortest sequence is full; one opened has at most `budget - shortest` left.
    let mut rooms = Rooms::new(budget.saturating_sub(shortest));
    for sequence_idx in longest_first(lengths, longest) {
        let length = lengths[sequence_idx as usize];
        let (pack_idx, room) = match rooms.take_smallest_from(length) {
            Some((pack_idx, room)) => {
                packs[pack_idx as usize].push(sequence_idx);
                (pack_idx, room - length)
            }
            None => {
                packs.push(vec![sequence_idx]);
                (packs.len() as u32 - 1, budget - length)
            }
        };
        if room >= shortest {
            rooms.put(pack_idx, room);
        }
    }
    Ok(packs)
}

/// Indices by falling length, equal ones in order: a counting sort.
fn longest_first(lengths: &[u32], longest: u32) -> Vec<u32> {
    let mut starts = vec![0u32; longest as usize + 2];
    for &length in lengths {
        starts[(longest - length) as usize + 1] += 1;
    }
    for i in 1..starts.len() {
        starts[i] += starts[i - 1];
    }
    let mut sorted = vec![0; lengths.len()];
    for (i, &length) in lengths.iter().enumerate() {
        let place = &mut starts[(longest - length) as usize];
        sorted[*place as usize] = i as u32;
        *place += 1;
    }
    sorted
}

/// Open packs by the room left in them.
struct Rooms {
    /// Packs of each room, the last one on top.
    stacks: Vec<Vec<u32>>,
    /// Bit trees over the rooms that have packs: level 0 has a bit a room, each higher level a bit a word below.
    levels: Vec<Vec<u64>>,
}

impl Rooms {
    fn new(largest: u32) -> Self {
        let n_rooms = largest as usize + 1;
        let mut levels = Vec::new();
        let mut n_bits = n_rooms;
        loop {
            let n_words = n_bits.div_ceil(64);
            levels.push(vec![0; n_words]);
            if n_words == 1 {
                break;
            }
            n_bits = n_words;
        }
        Self { stacks: vec![Vec::new(); n_rooms], levels }
    }

    fn put(&mut self, pack_idx: u32, room: u32) {
        let mut at = room as usize;
        self.stacks[at].push(pack_idx);
        for level in &mut self.levels {
            level[at / 64] |= 1 << (at % 64);
            at /= 64;
        }
    }

    /// Takes a pack of the smallest room that is at least `least`.
    fn take_smallest_from(&mut self, least: u32) -> Option<(u32, u32)> {
        let room = self.smallest_from(least as usize)?;
        let pack_idx = self.stacks[room].pop()?;
        if self.stacks[room].is_empty() {
            let mut at = room;
            for level in &mut self.levels {
                level[at / 64] &= !(1 << (at % 64));
                if level[at / 64] != 0 {
                    break;
                }
                at /= 64;
            }
        }
        Some((pack_idx, room as u32))
    }

    fn smallest_from(&self, least: usize) -> Option<usize> {
        // Up until a word has a bit at or behind the place, then down along the lowest bits.
        let mut at = least;
        for (depth, level) in self.levels.iter().enumerate() {
            let word = level.get(at / 64)? & (u64::MAX << (at % 64));
            if word != 0 {
                at = at / 64 * 64 + word.trailing_zeros() as usize;
                for below in self.levels[..depth].iter().rev() {
                    at = at * 64 + below[at].trailing_zeros() as usize;
                }
                return Some(at);
            }
            at = at / 64 + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::mix_bits;
    use proptest::prelude::*;

    /// Best-fit decreasing as one would say it: look at every pack, take the one with the least room that
    /// suffices and of those the one changed last.
    fn naive_best_fit_decreasing(lengths: &[u32], budget: u32) -> Vec<Vec<u32>> {
        let mut sorted: Vec<u32> = (0..lengths.len() as u32).collect();
        sorted.sort_by_key(|&i| std::cmp::Reverse(lengths[i as usize]));
        let mut packs: Vec<(u32, usize, Vec<u32>)> = Vec::new();
        for (now, i) in sorted.into_iter().enumerate() {
            let length = lengths[i as usize];
            let best =
                packs.iter_mut().filter(|p| p.0 >= length).min_by_key(|p| (p.0, std::cmp::Reverse(p.1)));
            match best {
                Some((room, changed, pack)) => {
                    *room -= length;
                    *changed = now;
                    pack.push(i);
                }
                None => packs.push((budget - length, now, vec![i])),
            }
        }
        packs.into_iter().map(|p| p.2).collect()
    }

    fn first_fit(lengths: &[u32], budget: u32) -> usize {
        let mut rooms: Vec<u32> = Vec::new();
        for &length in lengths {
            match rooms.iter_mut().find(|room| **room >= length) {
                Some(room) => *room -= length,
                None => rooms.push(budget - length),
            }
        }
        rooms.len()
    }

    fn lengths_and_budget() -> impl Strategy<Value = (Vec<u32>, u32)> {
        prop_oneof![1..40u32, 1..300u32, 4000..9000u32]
            .prop_flat_map(|budget| (prop::collection::vec(1..=budget, 0..200), Just(budget)))
    }

    proptest! {
        #[test]
        fn equals_the_naive_one((lengths, budget) in lengths_and_budget()) {
            let packs = pack_best_fit_decreasing(&lengths, budget).unwrap();
            prop_assert_eq!(packs, naive_best_fit_decreasing(&lengths, budget));
        }

        #[test]
        fn every_index_once_and_no_pack_over_budget((lengths, budget) in lengths_and_budget()) {
            let packs = pack_best_fit_decreasing(&lengths, budget).unwrap();
            for pack in &packs {
                prop_assert!(!pack.is_empty());
                prop_assert!(pack.iter().map(|&i| u64::from(lengths[i as usize])).sum::<u64>() <= u64::from(budget));
            }
            let mut indices: Vec<u32> = packs.into_iter().flatten().collect();
            indices.sort_unstable();
            prop_assert!(indices.into_iter().eq(0..lengths.len() as u32));
        }

        // First-fit may be lucky on a given order, so only Johnson's bound holds for every input.
        #[test]
        fn never_beyond_the_proven_bound((lengths, budget) in lengths_and_budget()) {
            let n_packs = pack_best_fit_decreasing(&lengths, budget).unwrap().len();
            prop_assert!(9 * n_packs <= 11 * first_fit(&lengths, budget) + 36);
        }

        #[test]
        fn every_visit_is_packed_once(
            (lengths, budget) in lengths_and_budget(),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..300),
            seed in any::<u64>(),
        ) {
            prop_assume!(!lengths.is_empty());
            let mut visits: Vec<u32> = picks.iter().map(|p| p.index(lengths.len()) as u32).collect();
            for strategy in [PackingStrategy::BestFitDecreasing, PackingStrategy::OneSequence] {
                let packing = Packing::of_epoch(&lengths, &visits, budget, strategy, Seed(seed), 1).unwrap();
                let again = Packing::of_epoch(&lengths, &visits, budget, strategy, Seed(seed), 1).unwrap();
                prop_assert_eq!(&packing, &again);
                prop_assert_eq!(packing.report.n_packs, packing.packs.len());
                prop_assert_eq!(packing.steps(3).flatten().count(), packing.packs.len());
                let mut packed: Vec<u32> = packing.packs.into_iter().flatten().collect();
                packed.sort_unstable();
                visits.sort_unstable();
                prop_assert_eq!(&packed, &visits);
            }
        }
    }

    /// Lengths spread as text's are: many short ones and a long tail.
    fn text_like_lengths(n: u64, longest: u32) -> Vec<u32> {
        let noise = |i: u64, k: u64| (mix_bits(i * 4 + k) >> 11) as f64 / (1u64 << 53) as f64;
        let length = |i| 20.0 + 400.0 * noise(i, 0) * noise(i, 1) / (0.2 + noise(i, 2));
        (0..n).map(|i| (length(i) as u32).min(longest)).collect()
    }

    #[test]
    fn never_worse_than_first_fit_on_text_lengths() {
        for budget in [256, 1024, 2048, 8192] {
            let lengths = text_like_lengths(5_000, budget);
            let packs = pack_best_fit_decreasing(&lengths, budget).unwrap();
            assert!(packs.len() <= first_fit(&lengths, budget), "{budget}");
            let report = PackingReport::new(&lengths, packs.len(), budget);
            assert!(report.utilisation > 0.98 || packs.len() < 50, "{budget}: {report:?}");
            assert!(report.padded_utilisation < report.utilisation);
        }
    }

    #[test]
    fn what_cannot_be_packed_is_named() {
        assert_eq!(pack_best_fit_decreasing(&[1, 0], 4), Err(PackingError::Empty { index: 1 }));
        let error = PackingError::TooLong { index: 1, length: 5, budget: 4 };
        assert_eq!(pack_best_fit_decreasing(&[4, 5], 4), Err(error));
        assert_eq!(pack_best_fit_decreasing(&[], 4), Ok(vec![]));
        assert_eq!(pack_best_fit_decreasing(&[], 0), Ok(vec![]));
        let strategy = PackingStrategy::OneSequence;
        let named = Packing::of_epoch(&[1, 9], &[1], 4, strategy, Seed(0), 0).unwrap_err();
        assert_eq!(named, PackingError::TooLong { index: 1, length: 9, budget: 4 });
    }

    #[test]
    fn epochs_differ_and_repeat() {
        let lengths = text_like_lengths(500, 512);
        let visits: Vec<u32> = (0..500).collect();
        let of = |seed, epoch| {
            Packing::of_epoch(&lengths, &visits, 512, PackingStrategy::default(), Seed(seed), epoch)
                .unwrap()
                .packs
        };
        assert_eq!(of(1, 0), of(1, 0));
        assert_ne!(of(1, 0), of(1, 1));
        assert_ne!(of(1, 0), of(2, 0));
    }
}
