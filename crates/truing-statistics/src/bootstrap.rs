//! Bootstrap intervals (Efron 1979, 1987): percentile, and bias-corrected and accelerated (BCa).
//!
//! What is drawn is a unit: an item, or a cluster of items. A statistic is a function of the drawn units'
//! numbers, so the same code serves means, ratios, medians and fitted strengths.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
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
    /// Samples drawn.
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
    /// The statistic of each of the drawn samples of `n_units` units, in increasing order. Statistics that are
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
