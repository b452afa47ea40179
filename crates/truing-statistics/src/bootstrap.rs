//! Bootstrap intervals (Efron 1979, 1987): percentile, and bias-corrected and accelerated (BCa).
//!
//! What is drawn is a unit: an item, or a cluster of items. A statistic is a function of the drawn units'
//! numbers, so the same code serves means, ratios, medians and fitted strengths.

use std::cell::Cell;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde::Serialize;
use truing_types::Seed;

use crate::distributions::normal_quantile;
use crate::means::Interval;
use crate::normal_probability;

/// How an interval is made of resampled statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootstrapKind {
    /// Quantiles of the resampled statistics.
    Percentile,
    /// Quantiles shifted by bias and acceleration, estimated by leaving out each unit once.
    Bca,
}

/// Settings of a bootstrap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// Number of resamples.
    pub n_resamples: usize,
    /// Same seed, same interval.
    pub seed: Seed,
    /// Such as 0.95.
    pub level: f64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { n_resamples: 2_000, seed: Seed(0), level: 0.95 }
    }
}

impl Bootstrap {
    /// The statistic of each of the resamples of `n_units` units, in increasing order. Statistics that are
    /// not finite, as a ratio without a denominator is, are left out.
    #[must_use]
    pub fn statistics(&self, n_units: usize, statistic: impl Fn(&[usize]) -> f64) -> Vec<f64> {
        let mut generator = self.seed.generator("bootstrap", &[]);
        let mut drawn = vec![0; n_units];
        let mut statistics = Vec::with_capacity(self.n_resamples);
        if n_units == 0 {
            return statistics;
        }
        for _ in 0..self.n_resamples {
            drawn.iter_mut().for_each(|unit| *unit = below(&mut generator, n_units));
            let found = statistic(&drawn);
            if found.is_finite() {
                statistics.push(found);
            }
        }
        statistics.sort_by(f64::total_cmp);
        statistics
    }

    /// The interval of a statistic of `n_units` independent units. `None` without a unit or a finite statistic.
    #[must_use]
    pub fn interval(
        &self,
        n_units: usize,
        kind: BootstrapKind,
        statistic: impl Fn(&[usize]) -> f64,
    ) -> Option<Interval> {
        let sorted = self.statistics(n_units, &statistic);
        let tail = (1.0 - self.level) / 2.0;
        let [low, high] = match kind {
            BootstrapKind::Percentile => [tail, 1.0 - tail],
            BootstrapKind::Bca => bca_levels(&sorted, n_units, tail, &statistic)?,
        };
        Some(Interval { low: quantile(&sorted, low)?, high: quantile(&sorted, high)? })
    }

    /// A statistic of all `n_units` units with its percentile interval. `None` where the statistic of all units, or of
    /// every resample, is undefined.
    #[must_use]
    pub fn estimate(
        &self,
        n_units: usize,
        statistic: impl Fn(&[usize]) -> Option<f64>,
    ) -> Option<BootstrapEstimate> {
        let all: Vec<usize> = (0..n_units).collect();
        let value = statistic(&all).filter(|value| value.is_finite())?;
        let n_defined = Cell::new(0_usize);
        let interval = self.interval(n_units, BootstrapKind::Percentile, |drawn| {
            let found = statistic(drawn).filter(|value| value.is_finite());
            n_defined.set(n_defined.get() + usize::from(found.is_some()));
            found.unwrap_or(f64::NAN)
        })?;
        let share_defined = n_defined.get() as f64 / self.n_resamples as f64;
        Some(BootstrapEstimate { value, interval, n_units, share_defined })
    }

    /// As [`Bootstrap::estimate`], but where there are more than `n_most` units, resamples are drawn from a random
    /// sample of `n_most` of them, and their distances from the sample's statistic are made shorter by the square root
    /// of `n_most / n_units` (subsampling, Politis, Romano and Wolf 1999). The value is that of all units. The time of
    /// a resample no longer grows with the number of units.
    #[must_use]
    pub fn estimate_of_many(
        &self,
        n_units: usize,
        n_most: usize,
        statistic: impl Fn(&[usize]) -> Option<f64>,
    ) -> Option<BootstrapEstimate> {
        if n_units <= n_most {
            return self.estimate(n_units, statistic);
        }
        let all: Vec<usize> = (0..n_units).collect();
        let value = statistic(&all).filter(|value| value.is_finite())?;
        let sample = sample_of(self.seed, n_units, n_most);
        let found = self.estimate(n_most, |drawn| {
            let units: Vec<usize> = drawn.iter().map(|&idx| sample[idx]).collect();
            statistic(&units)
        })?;
        let shorter = (n_most as f64 / n_units as f64).sqrt();
        let [low, high] =
            [found.interval.low, found.interval.high].map(|bound| value + (bound - found.value) * shorter);
        Some(BootstrapEstimate { value, interval: Interval { low, high }, n_units, ..found })
    }
}

/// `n` of the numbers below `n_units`, in increasing order; every set is equally likely. All of them where there are no
/// more.
#[must_use]
pub fn sample_of(seed: Seed, n_units: usize, n: usize) -> Vec<usize> {
    let mut generator = seed.generator("sample of units", &[]);
    let mut sample = Vec::with_capacity(n.min(n_units));
    // Selection sampling (Fan, Muller and Rezucha 1962).
    for unit in 0..n_units {
        let n_missing = n - sample.len();
        if n_missing == 0 {
            break;
        }
        if below(&mut generator, n_units - unit) < n_missing {
            sample.push(unit);
        }
    }
    sample
}

/// A statistic with its bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BootstrapEstimate {
    /// The statistic of all units.
    pub value: f64,
    /// Its interval.
    pub interval: Interval,
    /// Units, such as annotated items.
    pub n_units: usize,
    /// Share of the resamples in which the statistic is defined; an alpha is not where all resampled ratings are equal.
    /// The interval is made of these resamples only. If the share is far below 1, there are too few units for it.
    pub share_defined: f64,
}

impl BootstrapEstimate {
    /// How many further units the interval needs until its half width is `target`: [`labels_needed`].
    #[must_use]
    pub fn labels_needed(&self, target: f64) -> Option<usize> {
        labels_needed(self.interval, self.n_units, target)
    }
}

/// How many units beyond the `n` of today an interval needs until half its width is `target`, in the units of the
/// statistic. The width of an interval falls as one over the square root of the number of units, so that half the width
/// `h` of today asks for `n (h / target)^2` units in all; the answer is that, rounded up, less `n`, and 0 where the
/// interval is narrow enough.
///
/// It presumes that further units are like those of today. `None` where the target or the interval's width is not a
/// positive number or `n` is 0. An interval without width (units that all agree) does not say how it will shrink.
#[must_use]
pub fn labels_needed(interval: Interval, n: usize, target: f64) -> Option<usize> {
    let half_width = (interval.high - interval.low) / 2.0;
    let is_positive = |number: f64| number > 0.0 && number.is_finite();
    if n == 0 || !is_positive(half_width) || !is_positive(target) {
        return None;
    }
    let n_in_all = n as f64 * (half_width / target).powi(2);
    // The last digits of a quotient must not ask for one more unit.
    Some(((n_in_all * (1.0 - 1e-12)).ceil() as usize).saturating_sub(n))
}

/// The levels of the two quantiles that BCa takes.
fn bca_levels(
    sorted: &[f64],
    n_units: usize,
    tail: f64,
    statistic: impl Fn(&[usize]) -> f64,
) -> Option<[f64; 2]> {
    let all: Vec<usize> = (0..n_units).collect();
    let whole = statistic(&all);
    if !whole.is_finite() || sorted.is_empty() {
        return None;
    }
    // Of ties half counts as below, as a discrete statistic has many.
    let below = sorted.partition_point(|&value| value < whole) as f64;
    let at_most = sorted.partition_point(|&value| value <= whole) as f64;
    let share = f64::midpoint(below, at_most) / sorted.len() as f64;
    let edge = 0.5 / sorted.len() as f64;
    let bias = normal_quantile(share.clamp(edge, 1.0 - edge));
    let without: Vec<f64> = (0..n_units)
        .map(|left_out| {
            let others: Vec<usize> = all.iter().copied().filter(|&unit| unit != left_out).collect();
            statistic(&others)
        })
        .filter(|value| value.is_finite())
        .collect();
    let mean = without.iter().sum::<f64>() / without.len().max(1) as f64;
    let (squares, cubes) = without.iter().fold((0.0, 0.0), |(squares, cubes), value| {
        let off = mean - value;
        (squares + off * off, cubes + off * off * off)
    });
    let acceleration = if squares > 0.0 { cubes / (6.0 * f64::powf(squares, 1.5)) } else { 0.0 };
    Some([tail, 1.0 - tail].map(|level| {
        let shifted = bias + normal_quantile(level);
        normal_probability(bias + shifted / (1.0 - acceleration * shifted))
    }))
}

/// The quantile of sorted values, interpolated between neighbours (type 7 of Hyndman and Fan 1996, as numpy has
/// it).
#[must_use]
pub fn quantile(sorted: &[f64], level: f64) -> Option<f64> {
    let place = level.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let (lower, share) = (place.floor(), place.fract());
    let low = sorted[lower as usize];
    let high = sorted[(lower as usize + 1).min(sorted.len() - 1)];
    Some(low + share * (high - low))
}

/// A number below `n`, every one equally likely.
pub(crate) fn below(generator: &mut ChaCha8Rng, n: usize) -> usize {
    // Lemire (2019): the high half of a product, redrawn where the low half would favour some numbers.
    let n = n as u64;
    loop {
        let product = u128::from(generator.next_u64()) * u128::from(n);
        if product as u64 >= n.wrapping_neg() % n {
            return (product >> 64) as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64], drawn: &[usize]) -> f64 {
        drawn.iter().map(|&unit| values[unit]).sum::<f64>() / drawn.len() as f64
    }

    #[test]
    fn intervals_are_those_of_scipy_up_to_chance() {
        // scipy.stats.bootstrap((values,), np.mean, n_resamples=2_000_000) of 20 skewed values
        let values: Vec<f64> = (1..=20).map(|i| f64::from(i * i) / 10.0).collect();
        let settings = Bootstrap { n_resamples: 100_000, ..Bootstrap::default() };
        for (kind, low, high) in [(BootstrapKind::Percentile, 9.10, 19.97), (BootstrapKind::Bca, 9.38, 20.38)]
        {
            let found = settings.interval(20, kind, |drawn| mean(&values, drawn)).unwrap();
            assert!((found.low - low).abs() < 0.08 && (found.high - high).abs() < 0.08, "{kind:?} {found:?}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_interval_and_nothing_has_none() {
        let values = [1.0, 2.0, 4.0, 9.0];
        let settings = Bootstrap { n_resamples: 500, ..Bootstrap::default() };
        let interval = || settings.interval(4, BootstrapKind::Bca, |drawn| mean(&values, drawn));
        assert_eq!(interval(), interval());
        assert_eq!(settings.interval(0, BootstrapKind::Percentile, |_| 1.0), None);
        assert_eq!(settings.interval(3, BootstrapKind::Percentile, |_| f64::NAN), None);
        let constant = settings.interval(3, BootstrapKind::Bca, |_| 2.5).unwrap();
        assert_eq!((constant.low, constant.high), (2.5, 2.5));
    }

    #[test]
    fn an_estimate_leaves_out_resamples_without_the_statistic_and_says_so() {
        // A ratio of sums whose denominator is zero when only units 0 and 1 are drawn: (2/3)^3 of resamples.
        let weights = [0.0, 0.0, 2.0];
        let ratio = |drawn: &[usize]| {
            let sum: f64 = drawn.iter().map(|&unit| weights[unit]).sum();
            (sum > 0.0).then(|| drawn.len() as f64 / sum)
        };
        let settings = Bootstrap { n_resamples: 20_000, ..Bootstrap::default() };
        let found = settings.estimate(3, ratio).unwrap();
        assert_eq!((found.value, found.n_units), (1.5, 3));
        assert!((found.share_defined - 19.0 / 27.0).abs() < 0.015, "{}", found.share_defined);
        assert_eq!((found.interval.low, found.interval.high), (0.5, 1.5));
        assert_eq!(settings.estimate(2, ratio), None);
        assert_eq!(settings.estimate(0, |_| Some(1.0)), None);
        assert_eq!(settings.estimate(3, |_| Some(f64::INFINITY)), None);
    }

    #[test]
    fn the_interval_of_many_units_is_that_of_all_of_them_from_a_sample() {
        let values: Vec<f64> = (0..20_000).map(|idx| f64::from(idx % 100)).collect();
        let settings = Bootstrap { n_resamples: 2_000, ..Bootstrap::default() };
        let statistic = |drawn: &[usize]| Some(mean(&values, drawn));
        let found = settings.estimate_of_many(20_000, 1_000, statistic).unwrap();
        assert_eq!((found.value, found.n_units), (49.5, 20_000));
        // The normal interval of the mean: 28.87 is the deviation of 0 to 99.
        let half_width = 1.96 * 28.87 / 20_000_f64.sqrt();
        let Interval { low, high } = found.interval;
        assert!(((high - low) / 2.0 - half_width).abs() < 0.1 * half_width, "{low} {high}");
        assert!((f64::midpoint(low, high) - 49.5).abs() < 0.2 * half_width, "{low} {high}");
        assert_eq!(settings.estimate_of_many(4, 4, statistic), settings.estimate(4, statistic));
    }

    #[test]
    fn a_sample_has_as_many_different_units_as_asked_for() {
        let sample = sample_of(Seed(3), 100, 30);
        assert_eq!(sample.len(), 30);
        assert!(sample.windows(2).all(|pair| pair[0] < pair[1]) && sample[29] < 100, "{sample:?}");
        assert_eq!(sample_of(Seed(3), 3, 5), [0, 1, 2]);
        assert_ne!(sample_of(Seed(4), 100, 30), sample);
    }

    #[test]
    fn half_the_width_needs_four_times_the_units() {
        let interval = Interval { low: 0.4, high: 0.8 };
        let needed = |target| labels_needed(interval, 50, target);
        assert_eq!([0.1, 0.05, 0.2, 0.5].map(needed), [Some(150), Some(750), Some(0), Some(0)]);
        // 50 (0.2 / 0.15)^2 = 88.9 units in all.
        assert_eq!(needed(0.15), Some(39));
        assert_eq!([0.0, -0.1, f64::NAN, f64::INFINITY].map(needed), [None; 4]);
        assert_eq!(labels_needed(interval, 0, 0.1), None);
        assert_eq!(labels_needed(Interval { low: 1.0, high: 1.0 }, 50, 0.1), None);
    }

    #[test]
    fn quantiles_interpolate_as_numpy_does() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        // numpy.quantile
        for (level, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
            assert!((quantile(&sorted, level).unwrap() - expected).abs() < 1e-12, "{level}");
        }
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn numbers_below_n_are_equally_likely() {
        let mut generator = Seed(5).generator("test", &[]);
        let mut counts = [0_u32; 7];
        (0..70_000).for_each(|_| counts[below(&mut generator, 7)] += 1);
        let chi_square: f64 = counts.iter().map(|&n| (f64::from(n) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi_square < 22.5, "{counts:?}: beyond 99.9 % of uniform draws");
    }
}
