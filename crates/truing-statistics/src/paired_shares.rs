//! The difference of two shares on the same items.

use crate::Interval;

/// Bonett's and Price's 95 % interval (2012, "Adjusted Wald confidence interval for a difference of binomial proportions
/// based on paired data") of the second share minus the first: Wald's interval after one item is added to each of the two
/// kinds that differ. It keeps its level with few items, where Wald's own does not. `None` without items, or with more
/// that differ than there are.
#[must_use]
pub fn paired_share_interval(n_first_only: u64, n_second_only: u64, n: u64) -> Option<Interval> {
    const Z: f64 = 1.959_963_984_540_054;
    if n == 0 || n_first_only + n_second_only > n {
        return None;
    }
    let n = n as f64 + 2.0;
    let (first, second) = ((n_first_only as f64 + 1.0) / n, (n_second_only as f64 + 1.0) / n);
    let difference = second - first;
    let half = Z * ((first + second - difference * difference) / n).sqrt();
    Some(Interval { low: (difference - half).max(-1.0), high: (difference + half).min(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_its_authors() {
        // The paper's formula by hand: n = 50, 3 and 12 items differ.
        let found = paired_share_interval(3, 12, 50).unwrap();
        assert!(
            (found.low - 0.024_961_3).abs() < 1e-6 && (found.high - 0.321_192_5).abs() < 1e-6,
            "{found:?}"
        );
        assert!(paired_share_interval(0, 0, 0).is_none() && paired_share_interval(3, 3, 5).is_none());
        let equal = paired_share_interval(0, 0, 100).unwrap();
        assert!(equal.low < 0.0 && equal.high > 0.0 && equal.high < 0.03, "{equal:?}");
    }

    /// Every outcome of 40 items, weighted with its probability.
    #[test]
    fn it_covers_the_true_difference() {
        let n = 40_u64;
        let ln_factorial = |k: u64| (1..=k).map(|i| (i as f64).ln()).sum::<f64>();
        for (first, second) in [(0.1_f64, 0.1_f64), (0.05, 0.3), (0.2, 0.25), (0.02, 0.02)] {
            let same = 1.0 - first - second;
            let mut covered = 0.0;
            for a in 0..=n {
                for b in 0..=n - a {
                    let log_ways =
                        ln_factorial(n) - ln_factorial(a) - ln_factorial(b) - ln_factorial(n - a - b);
                    let log_chance =
                        a as f64 * first.ln() + b as f64 * second.ln() + (n - a - b) as f64 * same.ln();
                    let interval = paired_share_interval(a, b, n).unwrap();
                    if (interval.low..=interval.high).contains(&(second - first)) {
                        covered += (log_ways + log_chance).exp();
                    }
                }
            }
            assert!(covered > 0.945, "{first} {second}: {covered}");
        }
    }
}
