//! Tests of the difference of two systems on the same items.

use std::collections::BTreeMap;

use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::bootstrap::{Bootstrap, BootstrapKind};
use crate::distributions::binomial_at_most;
use crate::estimate::{Estimate, PairedPasses};
use crate::means::{Interval, MeanEstimate, clustered_mean};

/// Two systems on the same right-or-wrong items.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Items that only the first has right.
    pub n_first_only: u64,
    /// Items that only the second has right.
    pub n_second_only: u64,
    /// Two-sided probability of so uneven a split where both are equally good.
    pub p_value: f64,
}

/// McNemar's exact test (1947): of the items on which two systems differ, each has the half where both are
/// equally good.
#[must_use]
pub fn mcnemar(n_first_only: u64, n_second_only: u64) -> McNemar {
    let n = n_first_only + n_second_only;
    let tail = binomial_at_most(n_first_only.min(n_second_only), n, 0.5);
    McNemar { n_first_only, n_second_only, p_value: (2.0 * tail).min(1.0) }
}

/// How the interval of a paired difference was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairedInterval {
    /// Newcombe's of two shares of the same items ([`Estimate::difference_of_paired_shares`]): independent
    /// right-or-wrong items. It has a width where the systems differ on no item, and holds where they differ on few.
    Newcombe,
    /// The percentile bootstrap by clusters.
    Bootstrap,
    /// That of a mean of equal values ([`crate::interval_of_equal_values`]): all clusters differ by the same amount, so
    /// that every resample has the same mean.
    EqualValues,
}

/// The mean difference of two systems on the same items.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// Second minus first, with its standard error by clusters.
    pub estimate: MeanEstimate,
    /// 95 % interval of the difference; a bootstrap has the level of its settings. `None` where every cluster differs
    /// by the same amount and the scores are not right or wrong: a bootstrap would have no width, and without the
    /// scores' range nothing else has one.
    pub interval: Option<Interval>,
    /// How it was made.
    #[serde(default)]
    pub interval_kind: Option<PairedInterval>,
    /// Two-sided probability by exchanging the two systems' scores within clusters.
    pub p_value: f64,
    /// Whether every exchange was counted, rather than a sample of them.
    pub is_exact: bool,
}

/// Most clusters of which every pattern of exchanges is counted.
const MAX_ENUMERATED: usize = 16;
/// Sums this close, relative to the largest, count as equal: rounding depends on the order of the sum.
const EQUAL: f64 = 1e-12;

/// Compares two systems' scores of the same items. Clusters of items are drawn, and exchanged, as one. `None`
/// without items, or where the lengths differ.
#[must_use]
pub fn paired_difference<Cluster: Ord>(
    first: &[f64],
    second: &[f64],
    clusters: &[Cluster],
    settings: &Bootstrap,
) -> Option<PairedDifference> {
    if first.len() != second.len() {
        return None;
    }
    let differences: Vec<f64> = first.iter().zip(second).map(|(first, second)| second - first).collect();
    let estimate = clustered_mean(&differences, clusters)?;
    // Sum and number of each cluster.
    let mut sums: BTreeMap<&Cluster, (f64, f64)> = BTreeMap::new();
    for (difference, cluster) in differences.iter().zip(clusters) {
        let (sum, n) = sums.entry(cluster).or_default();
        *sum += difference;
        *n += 1.0;
    }
    let sums: Vec<(f64, f64)> = sums.into_values().collect();
    let of_shares = (sums.len() == first.len()).then(|| of_right_or_wrong(first, second)).flatten();
    let (interval, interval_kind) = match of_shares {
        Some(interval) => (Some(interval), Some(PairedInterval::Newcombe)),
        None => {
            let interval = resampled(&sums, settings);
            (interval, interval.map(|_| PairedInterval::Bootstrap))
        }
    };
    let (p_value, is_exact) = sign_flips(&sums, settings);
    Some(PairedDifference { estimate, interval, interval_kind, p_value, is_exact })
}

/// Newcombe's interval, where every score is 0 or 1.
fn of_right_or_wrong(first: &[f64], second: &[f64]) -> Option<Interval> {
    let is_right_or_wrong = |score: &f64| *score == 0.0 || *score == 1.0;
    if !first.iter().chain(second).all(is_right_or_wrong) {
        return None;
    }
    let pairs = first.iter().zip(second).map(|(first, second)| (*first == 1.0, *second == 1.0));
    let Estimate { low, high, .. } = Estimate::difference_of_paired_shares(PairedPasses::count(pairs))?;
    Some(Interval { low, high })
}

/// The percentile bootstrap of clusters with a sum and a number each. `None` where it has no width.
fn resampled(sums: &[(f64, f64)], settings: &Bootstrap) -> Option<Interval> {
    let mean_of = |(sum, n): &(f64, f64)| sum / n;
    let means: Vec<f64> = sums.iter().map(mean_of).collect();
    let scale = means.iter().fold(0.0_f64, |scale, mean| scale.max(mean.abs()));
    if means.iter().all(|mean| (mean - means[0]).abs() <= EQUAL * scale) {
        return None;
    }
    settings.interval(sums.len(), BootstrapKind::Percentile, |drawn| {
        let (sum, n) = drawn.iter().fold((0.0, 0.0), |(sum, n), &i| (sum + sums[i].0, n + sums[i].1));
        sum / n
    })
}

/// The share of patterns of exchanged clusters whose difference is at least as large (Fisher 1935); among
/// patterns drawn at random the observed one counts as one (Phipson and Smyth 2010), so that the share is never
/// 0.
fn sign_flips(sums: &[(f64, f64)], settings: &Bootstrap) -> (f64, bool) {
    let sums: Vec<f64> = sums.iter().map(|(sum, _)| *sum).filter(|sum| *sum != 0.0).collect();
    let scale: f64 = sums.iter().map(|sum| sum.abs()).sum();
    let observed = sums.iter().sum::<f64>().abs() - EQUAL * scale;
    if sums.len() <= MAX_ENUMERATED {
        let n_patterns = 1_u64 << sums.len();
        let n_large = (0..n_patterns)
            .filter(|pattern| {
                let signed = |(i, sum): (usize, &f64)| if pattern >> i & 1 == 1 { -sum } else { *sum };
                sums.iter().enumerate().map(signed).sum::<f64>().abs() >= observed
            })
            .count();
        return (n_large as f64 / n_patterns as f64, true);
    }
    let mut generator = settings.seed.generator("exchange", &[]);
    let mut n_large = 0;
    for _ in 0..settings.n_resamples {
        let mut sum = 0.0;
        for signed in sums.chunks(64) {
            let pattern = generator.next_u64();
            let signs = signed.iter().enumerate();
            sum += signs.map(|(i, sum)| if pattern >> i & 1 == 1 { -sum } else { *sum }).sum::<f64>();
        }
        n_large += usize::from(sum.abs() >= observed);
    }
    ((n_large + 1) as f64 / (settings.n_resamples + 1) as f64, false)
}

/// Holm's adjusted p-values (1979), in the order given: below 0.05 each holds together with all others at 5 %.
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut largest = 0.0_f64;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max((p_values.len() - rank) as f64 * p_values[i]).min(1.0);
        adjusted[i] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_is_the_binomial_test() {
        // scipy.stats.binomtest(min, n).pvalue
        for (first, second, expected) in [
            (5, 15, 0.041_389_465_332_031_25),
            (0, 7, 0.015_625),
            (10, 10, 1.0),
            (0, 0, 1.0),
            (40, 70, 0.005_447_429_511_444_476),
        ] {
            let found = mcnemar(first, second).p_value;
            assert!((found - expected).abs() < 1e-10, "{first} {second}: {found}");
        }
    }

    #[test]
    fn exchanges_of_few_items_are_counted() {
        // scipy.stats.permutation_test(permutation_type="samples"), two-sided on the absolute mean
        let first = [0.2, 0.5, 0.9, 0.4, 0.3, 0.8, 0.1];
        let second = [0.6, 0.5, 1.0, 0.9, 0.2, 0.9, 0.4];
        let found =
            paired_difference(&first, &second, &[0, 1, 2, 3, 4, 5, 6], &Bootstrap::default()).unwrap();
        assert!(found.is_exact && (found.p_value - 0.125).abs() < 1e-12, "{found:?}");
        assert!((found.estimate.mean - 0.185_714_285_714_285_72).abs() < 1e-12);
        let same = paired_difference(&first, &first, &[0, 1, 2, 3, 4, 5, 6], &Bootstrap::default()).unwrap();
        assert_eq!((same.p_value, same.estimate.mean), (1.0, 0.0));
    }

    #[test]
    fn right_or_wrong_items_have_mcnemars_p_value() {
        let (first, second): (Vec<f64>, Vec<f64>) = (0..200)
            .map(|i| match i {
                0..10 => (1.0, 0.0),
                10..30 => (0.0, 1.0),
                _ => (1.0, 1.0),
            })
            .unzip();
        let items: Vec<usize> = (0..200).collect();
        let settings = Bootstrap { n_resamples: 40_000, ..Bootstrap::default() };
        let found = paired_difference(&first, &second, &items, &settings).unwrap();
        let exact = mcnemar(10, 20).p_value;
        assert!(!found.is_exact && (found.p_value - exact).abs() < 0.006, "{} {exact}", found.p_value);
        let interval = found.interval.unwrap();
        assert!(interval.low < 0.05 && interval.high > 0.05);
    }

    #[test]
    fn few_differences_do_not_make_an_interval_without_width() {
        let names: Vec<usize> = (0..60).collect();
        let right: Vec<f64> = (0..60).map(|i| f64::from(u8::from(i < 40))).collect();
        let same = paired_difference(&right, &right, &names, &Bootstrap::default()).unwrap();
        // Newcombe's method 10 with 40 right and 20 wrong in both, by the formula in Python.
        let Interval { low, high } = same.interval.unwrap();
        assert_eq!(same.interval_kind, Some(PairedInterval::Newcombe));
        assert!((low + 0.037_485).abs() < 1e-5 && (high - 0.037_485).abs() < 1e-5, "{low} {high}");
        // Grades that are all one better: there is no spread to resample.
        let grades = [5.0, 6.0, 7.0, 8.0];
        let better = grades.map(|grade| grade + 1.0);
        let found = paired_difference(&grades, &better, &[0, 1, 2, 3], &Bootstrap::default()).unwrap();
        assert_eq!((found.interval, found.interval_kind, found.estimate.mean), (None, None, 1.0));
        let mixed = paired_difference(&grades, &[6.0, 6.0, 8.0, 8.5], &[0, 1, 2, 3], &Bootstrap::default());
        let mixed = mixed.unwrap();
        assert_eq!(mixed.interval_kind, Some(PairedInterval::Bootstrap));
        assert!(mixed.interval.is_some_and(|Interval { low, high }| low < 0.625 && high > 0.625));
    }

    #[test]
    fn clusters_are_exchanged_as_one() {
        // Three clusters that all improve: one of four patterns of signs and its mirror, 2 / 8.
        let (first, second) = ([0.0; 30], [1.0; 30]);
        let clusters: Vec<usize> = (0..30).map(|i| i / 10).collect();
        let found = paired_difference(&first, &second, &clusters, &Bootstrap::default()).unwrap();
        assert_eq!((found.p_value, found.is_exact), (0.25, true));
        assert_eq!(paired_difference(&first, &second[..3], &clusters, &Bootstrap::default()), None);
    }

    #[test]
    fn holm_is_that_of_statsmodels() {
        // multipletests(method="holm")
        let found = holm(&[0.01, 0.04, 0.03, 0.005, 0.5]);
        for (found, expected) in found.iter().zip([0.04, 0.09, 0.09, 0.025, 0.5]) {
            assert!((found - expected).abs() < 1e-12, "{found}");
        }
        assert!(holm(&[]).is_empty());
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }
}
