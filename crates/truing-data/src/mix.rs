//! Which samples an epoch visits, and in what order; which ones are held out. All of it follows from the seed, so
//! a resumed run sees what the uninterrupted one would have seen.

use std::ops::Range;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};
use truing_types::Seed;

/// The samples of one source.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceRange {
    /// The source as the user named it.
    pub name: Arc<str>,
    /// How often an epoch visits each of its samples.
    pub sampling_weight: f64,
    /// Its samples.
    pub samples: Range<usize>,
}

/// The samples of one epoch in the order of their visit, as indices into the data set.
///
/// A source of weight `w` is visited `w` times: `floor(w)` times whole, and for the rest by a window that moves
/// through a seeded order of its samples from epoch to epoch, so that over the epochs none is visited more than
/// once oftener than another. Then everything is shuffled by (seed, epoch).
#[must_use]
pub fn epoch_order(sources: &[SourceRange], seed: Seed, epoch: u64) -> Vec<u32> {
    let mut order = Vec::new();
    for (source_idx, source) in sources.iter().enumerate() {
        let samples = source.samples.start as u32..source.samples.end as u32;
        let n_samples = samples.len();
        if n_samples == 0 {
            continue;
        }
        for _ in 0..source.sampling_weight as u64 {
            order.extend(samples.clone());
        }
        let n_more = (source.sampling_weight.fract() * n_samples as f64).round() as usize;
        if n_more > 0 {
            let mut rotation: Vec<u32> = samples.collect();
            shuffle(&mut rotation, &mut seed.generator("source rotation", &[source_idx as u64]));
            let start = ((epoch as u128 * n_more as u128) % n_samples as u128) as usize;
            order.extend((start..start + n_more).map(|i| rotation[i % n_samples]));
        }
    }
    shuffle(&mut order, &mut seed.generator("epoch order", &[epoch]));
    order
}

/// Fisher and Yates' shuffle. Written out because a library's may change between versions, and with it every run.
/// [`Seed::shuffled`] maps the numbers of the generator in another way, so neither can take the other's place.
pub(crate) fn shuffle<T>(items: &mut [T], generator: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        let pick = (u128::from(generator.next_u64()) * (last as u128 + 1)) >> 64;
        items.swap(last, pick as usize);
    }
}

/// How much of the data is kept from training, to measure on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldOut {
    /// About this share of the rows, between 0 and 1. Whether a row is held out depends on its content and the
    /// seed only, so it stays on its side when others are added.
    Fraction(f64),
    /// This many samples, and the duplicates of the last.
    Samples(usize),
}

/// Two sides of a data set as indices, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Split {
    /// To be trained on.
    pub train: Vec<u32>,
    /// Kept apart.
    pub held_out: Vec<u32>,
}

/// Splits samples by their content keys ([`Dataset::row_keys`](crate::Dataset::row_keys)): equal keys, that is
/// duplicates and the pieces of one row, fall on the same side.
#[must_use]
pub fn split_held_out(row_keys: &[u64], held_out: HeldOut, seed: Seed) -> Split {
    let salt = seed.generator("held out", &[]).next_u64();
    let drawn: Vec<u64> = row_keys.iter().map(|&key| mix_bits(key ^ salt)).collect();
    // Samples drawn at or below the limit are held out.
    let limit = match held_out {
        HeldOut::Fraction(share) if share > 0.0 => Some((share.min(1.0) * u64::MAX as f64) as u64),
        HeldOut::Samples(n) if n > 0 => {
            let mut sorted = drawn.clone();
            sorted.sort_unstable();
            sorted.get(n.min(sorted.len()).wrapping_sub(1)).copied()
        }
        _ => None,
    };
    let mut split = Split::default();
    for (i, &draw) in drawn.iter().enumerate() {
        let side =
            if limit.is_some_and(|limit| draw <= limit) { &mut split.held_out } else { &mut split.train };
        side.push(i as u32);
    }
    split
}

/// The finaliser of `SplitMix64` (Steele, Lea and Flood 2014): every input bit changes half of the output bits.
pub(crate) fn mix_bits(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(weights: &[(usize, f64)]) -> Vec<SourceRange> {
        let mut start = 0;
        let range = |&(n, weight): &(usize, f64)| {
            start += n;
            SourceRange { name: "s".into(), sampling_weight: weight, samples: start - n..start }
        };
        weights.iter().map(range).collect()
    }

    fn visits(sources: &[SourceRange], epochs: Range<u64>) -> Vec<usize> {
        let mut counts = vec![0; sources.last().unwrap().samples.end];
        for epoch in epochs {
            for i in epoch_order(sources, Seed(3), epoch) {
                counts[i as usize] += 1;
            }
        }
        counts
    }

    #[test]
    fn weights_say_how_often() {
        let sources = sources(&[(10, 1.0), (10, 2.0), (10, 0.5), (4, 1.25)]);
        let counts = visits(&sources, 0..1);
        assert_eq!(counts[..10], [1; 10]);
        assert_eq!(counts[10..20], [2; 10]);
        assert_eq!(counts[20..30].iter().sum::<usize>(), 5);
        assert_eq!(counts[30..].iter().sum::<usize>(), 5);
        let counts = visits(&sources, 0..4);
        assert_eq!(counts[20..30], [2; 10], "every other epoch");
        assert_eq!(counts[30..], [5; 4]);
    }

    #[test]
    fn the_order_follows_from_seed_and_epoch() {
        let sources = sources(&[(100, 1.0)]);
        let order = |seed, epoch| epoch_order(&sources, Seed(seed), epoch);
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        // Fixed for good: a change here changes every run.
        assert_eq!(order(1, 0)[..5], [16, 74, 45, 65, 20]);
    }

    #[test]
    fn duplicates_stay_on_one_side_and_rows_stay_where_they_were() {
        let keys: Vec<u64> = (0..10_000).map(|i| i % 5_000).collect();
        let split = split_held_out(&keys, HeldOut::Fraction(0.1), Seed(5));
        let share = split.held_out.len() as f64 / keys.len() as f64;
        assert!((share - 0.1).abs() < 0.02, "{share}");
        for &i in &split.held_out {
            assert!(split.held_out.binary_search(&((i + 5_000) % 10_000)).is_ok());
        }
        let fewer = split_held_out(&keys[..3_000], HeldOut::Fraction(0.1), Seed(5));
        let before: Vec<u32> = split.held_out.iter().copied().filter(|&i| i < 3_000).collect();
        assert_eq!(fewer.held_out, before);

        let by_number = split_held_out(&keys, HeldOut::Samples(7), Seed(5));
        assert_eq!(by_number.held_out.len(), 8, "seven, and the duplicate of the last");
        assert_eq!(by_number.train.len(), keys.len() - 8);
        assert!(split_held_out(&keys, HeldOut::Samples(0), Seed(5)).held_out.is_empty());
        assert!(split_held_out(&keys, HeldOut::Fraction(0.0), Seed(5)).held_out.is_empty());
        assert!(split_held_out(&[], HeldOut::Samples(3), Seed(5)).held_out.is_empty());
        assert!(split_held_out(&keys, HeldOut::Samples(1 << 40), Seed(5)).train.is_empty());
    }
}
