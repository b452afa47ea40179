//! Lengths in numbers: what a page or a terminal draws of a data set.

use serde::{Deserialize, Serialize};

/// Most bars of a histogram.
const MAX_BINS: u32 = 24;

/// How many sequences have which length.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LengthHistogram {
    /// Tokens a bin: 1, 2 or 5 times a power of ten. Bin `i` holds the lengths from `i * bin_width` up to, but
    /// without, `(i + 1) * bin_width`.
    pub bin_width: u32,
    /// Sequences in each bin, from length 0.
    pub counts: Vec<u64>,
}

/// Lengths in five numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LengthSummary {
    /// Number of sequences.
    pub n_sequences: usize,
    /// Sum.
    pub n_tokens: u64,
    /// Shortest.
    pub min: u32,
    /// The length that half of the sequences reach at most.
    pub median: u32,
    /// The length that 95 of 100 sequences reach at most.
    pub percentile_95: u32,
    /// Longest.
    pub max: u32,
    /// Tokens over sequences.
    pub mean: f64,
}

/// One source of a data set in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceStatistics {
    /// The source as the user named it.
    pub name: String,
    /// How often an epoch visits each of its samples.
    pub weight: f64,
    /// Samples.
    pub n_samples: usize,
    /// Their tokens.
    pub n_tokens: u64,
    /// Tokens of them that carry loss.
    pub n_loss_tokens: u64,
}

impl SourceStatistics {
    /// Tokens that carry loss over all tokens.
    #[must_use]
    pub fn loss_share(&self) -> f64 {
        if self.n_tokens == 0 { 0.0 } else { self.n_loss_tokens as f64 / self.n_tokens as f64 }
    }
}

impl LengthHistogram {
    /// Counts lengths into at most 24 bins.
    #[must_use]
    pub fn of(lengths: &[u32]) -> Self {
        let Some(&longest) = lengths.iter().max() else { return Self { bin_width: 1, counts: Vec::new() } };
        let bin_width = (0..)
            .flat_map(|power| [1u64, 2, 5].map(|digit| digit * 10u64.pow(power)))
            .find(|width| u64::from(longest) / width < u64::from(MAX_BINS))
            .and_then(|width| u32::try_from(width).ok())
            .unwrap_or(u32::MAX);
        let mut counts = vec![0; (longest / bin_width) as usize + 1];
        for length in lengths {
            counts[(length / bin_width) as usize] += 1;
        }
        Self { bin_width, counts }
    }
}

impl LengthSummary {
    /// Sums up lengths; all zero when there are none.
    #[must_use]
    pub fn of(lengths: &[u32]) -> Self {
        let mut sorted = lengths.to_vec();
        sorted.sort_unstable();
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else { return Self::default() };
        let n_tokens: u64 = sorted.iter().map(|&l| u64::from(l)).sum();
        // The nearest-rank percentile: the smallest length that at least this share of all reaches at most.
        let percentile = |share: f64| sorted[((share * sorted.len() as f64).ceil() as usize).max(1) - 1];
        Self {
            n_sequences: sorted.len(),
            n_tokens,
            min,
            median: percentile(0.5),
            percentile_95: percentile(0.95),
            max,
            mean: n_tokens as f64 / sorted.len() as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_have_round_widths_and_hold_every_length() {
        for (longest, width) in [(1, 1), (23, 1), (24, 2), (100, 5), (2048, 100), (u32::MAX, 200_000_000)] {
            let histogram = LengthHistogram::of(&[0, longest]);
            assert_eq!(histogram.bin_width, width, "{longest}");
            assert_eq!(histogram.counts.iter().sum::<u64>(), 2);
        }
        assert!(LengthHistogram::of(&[]).counts.is_empty());
    }

    #[test]
    fn five_numbers() {
        let lengths: Vec<u32> = (1..=100).rev().collect();
        let summary = LengthSummary::of(&lengths);
        assert_eq!((summary.min, summary.median, summary.percentile_95, summary.max), (1, 50, 95, 100));
        assert_eq!((summary.n_tokens, summary.mean), (5050, 50.5));
        assert_eq!(LengthSummary::of(&[7]).median, 7);
        assert_eq!(LengthSummary::of(&[]), LengthSummary::default());
    }
}
