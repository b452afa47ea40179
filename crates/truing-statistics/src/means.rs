//! Means with their uncertainty, of independent items and of items that come in clusters (turns of a dialogue,
//! questions on one text).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::distributions::student_quantile;

/// The bounds of a confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// A mean, or a ratio of sums, with its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeanEstimate {
    /// The estimate.
    pub mean: f64,
    /// Its standard error; `None` for a single cluster.
    pub standard_error: Option<f64>,
    /// Items.
    pub n: usize,
    /// Clusters of items; as many as items where each stands alone.
    pub n_clusters: usize,
}

impl MeanEstimate {
    /// The interval by Student's t with one degree of freedom less than clusters, at a level such as 0.95.
    /// `None` without a standard error.
    #[must_use]
    pub fn interval(&self, level: f64) -> Option<Interval> {
        let half =
            student_quantile(f64::midpoint(1.0, level), self.n_clusters as f64 - 1.0) * self.standard_error?;
        Some(Interval { low: self.mean - half, high: self.mean + half })
    }
}

/// The mean of independent values. `None` without values.
#[must_use]
pub fn mean_estimate(values: &[f64]) -> Option<MeanEstimate> {
    let (mean, deviation) = crate::mean_and_sample_deviation(values)?;
    let n = values.len();
    let standard_error = (n > 1).then(|| deviation / (n as f64).sqrt());
    Some(MeanEstimate { mean, standard_error, n, n_clusters: n })
}

/// The mean of values whose clusters are independent, `clusters[i]` being that of value i: the sandwich
/// estimate of the standard error (Liang and Zeger 1986) with the factor G/(G-1) for G clusters. `None` without
/// values or where the lengths differ.
#[must_use]
pub fn clustered_mean<Cluster: Ord>(values: &[f64], clusters: &[Cluster]) -> Option<MeanEstimate> {
    clustered_ratio(values, &vec![1.0; values.len()], clusters)
}

/// The ratio of the sums of two lists of the same clusters, as a mean over constraints or tokens is, by
/// linearisation: each cluster's `numerator - ratio * denominator` counts as one independent number. `None`
/// where the lengths differ or the denominators do not sum to a positive number.
#[must_use]
pub fn clustered_ratio<Cluster: Ord>(
    numerators: &[f64],
    denominators: &[f64],
    clusters: &[Cluster],
) -> Option<MeanEstimate> {
    let n = numerators.len();
    let total: f64 = denominators.iter().sum();
    if n != clusters.len() || n != denominators.len() || !(total > 0.0 && total.is_finite()) {
        return None;
    }
    let ratio = numerators.iter().sum::<f64>() / total;
    let mut residuals: BTreeMap<&Cluster, f64> = BTreeMap::new();
    for ((numerator, denominator), cluster) in numerators.iter().zip(denominators).zip(clusters) {
        *residuals.entry(cluster).or_default() += numerator - ratio * denominator;
    }
    let n_clusters = residuals.len();
    let standard_error = (n_clusters > 1).then(|| {
        let squares: f64 = residuals.values().map(|sum| sum * sum).sum();
        (squares * n_clusters as f64 / (n_clusters as f64 - 1.0)).sqrt() / total
    });
    Some(MeanEstimate { mean: ratio, standard_error, n, n_clusters })
}

/// The lowest and highest mean that values with `n_missing` others can have, if each of those lies in `range`.
/// `None` where there is nothing at all.
#[must_use]
pub fn mean_bounds(values: &[f64], n_missing: usize, range: Interval) -> Option<Interval> {
    let n = values.len() + n_missing;
    let sum: f64 = values.iter().sum();
    let mean = |missing: f64| (sum + n_missing as f64 * missing) / n as f64;
    (n > 0).then(|| Interval { low: mean(range.low), high: mean(range.high) })
}

/// The 95 % interval of a mean of which all `n` independent units have the same value. They show no spread, so neither
/// Student's t nor a bootstrap has a width. But as many as `1 - 0.025^(1/n)` of all units may have another value (the
/// exact bound of a share of which none was seen; about `3.7/n`, and with one side the rule of three, Hanley and
/// Lippman-Hand 1983), and those may lie at either end of `range`. `None` without units, or for a value outside the
/// range.
#[must_use]
pub fn interval_of_equal_values(value: f64, n: usize, range: Interval) -> Option<Interval> {
    const TAIL: f64 = 0.025;
    let is_inside = range.low <= value && value <= range.high;
    let others = 1.0 - TAIL.powf(1.0 / n as f64);
    (n > 0 && is_inside).then_some(Interval {
        low: value - others * (value - range.low),
        high: value + others * (range.high - value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [f64; 8] = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.5, 1.0];

    #[test]
    fn the_interval_of_a_mean_is_students() {
        let found = mean_estimate(&VALUES).unwrap();
        let interval = found.interval(0.95).unwrap();
        // scipy.stats.sem and t.interval(0.95, 7, mean, sem)
        assert!((found.mean - 0.6875).abs() < 1e-12);
        assert!((found.standard_error.unwrap() - 0.161_949_617_385_866_55).abs() < 1e-10);
        assert!(
            (interval.low - 0.304_550_007_193_207_6).abs() < 1e-9
                && (interval.high - 1.070_449_992_806_792_3).abs() < 1e-9,
            "{interval:?}"
        );
        assert_eq!(mean_estimate(&[]), None);
        let one = mean_estimate(&[2.0]).unwrap();
        assert_eq!((one.mean, one.standard_error, one.interval(0.95)), (2.0, None, None));
    }

    #[test]
    fn clustered_errors_are_those_of_a_regression_on_a_constant() {
        // statsmodels OLS(values, 1).fit(cov_type="cluster")
        let found = clustered_mean(&VALUES, &["a", "a", "b", "b", "b", "c", "c", "d"]).unwrap();
        assert!((found.standard_error.unwrap() - 0.073_287_746_247_241_06).abs() < 1e-10, "{found:?}");
        assert_eq!((found.n, found.n_clusters), (8, 4));
        // Clusters of one are no clusters.
        let alone = clustered_mean(&VALUES, &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        let plain = mean_estimate(&VALUES).unwrap();
        assert!((alone.standard_error.unwrap() - plain.standard_error.unwrap()).abs() < 1e-12);
        assert_eq!(clustered_mean(&VALUES, &[0; 8]).unwrap().standard_error, None);
        assert_eq!(clustered_mean(&VALUES, &[0; 7]), None);
    }

    #[test]
    fn a_ratio_whose_denominators_are_equal_is_a_mean() {
        let ratio = clustered_ratio(&VALUES, &[2.0; 8], &[0, 0, 1, 1, 2, 2, 3, 3]).unwrap();
        let mean = clustered_mean(&VALUES.map(|value| value / 2.0), &[0, 0, 1, 1, 2, 2, 3, 3]).unwrap();
        assert!((ratio.mean - mean.mean).abs() < 1e-12);
        assert!((ratio.standard_error.unwrap() - mean.standard_error.unwrap()).abs() < 1e-12);
        assert_eq!(clustered_ratio(&[1.0], &[0.0], &[0]), None);
    }

    #[test]
    fn equal_values_have_an_interval_of_their_range() {
        // Shares: that of Clopper and Pearson, statsmodels.stats.proportion.proportion_confint(20, 20, method="beta").
        let range = Interval { low: 0.0, high: 1.0 };
        let found = interval_of_equal_values(1.0, 20, range).unwrap();
        assert!((found.low - 0.831_566_529_016_914_6).abs() < 1e-10 && found.high == 1.0, "{found:?}");
        // Eleven grades of 8 between 1 and 10: 1 - 0.025^(1/11) = 0.284914 of all answers may have other grades.
        let found = interval_of_equal_values(8.0, 11, Interval { low: 1.0, high: 10.0 }).unwrap();
        assert!((found.low - 6.005_600).abs() < 1e-5 && (found.high - 8.569_828).abs() < 1e-5, "{found:?}");
        assert_eq!(interval_of_equal_values(1.0, 0, range), None);
        assert_eq!(interval_of_equal_values(2.0, 5, range), None);
    }

    #[test]
    fn missing_values_may_be_anything_in_their_range() {
        let range = Interval { low: 0.0, high: 1.0 };
        assert_eq!(mean_bounds(&[1.0, 0.0, 1.0], 1, range), Some(Interval { low: 0.5, high: 0.75 }));
        assert_eq!(mean_bounds(&[], 2, range), Some(range));
        assert_eq!(mean_bounds(&[], 0, range), None);
    }
}
