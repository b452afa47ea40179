//! A confidence interval of a share.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::distributions::beta_quantile;

/// The 97.5 % quantile of the normal distribution.
pub(crate) const Z_975: f64 = 1.959_963_984_540_054;

/// The bounds of a 95 % confidence interval of a share, each between 0 and 1. Written as `[low, high]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShareInterval {
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

impl ShareInterval {
    /// Wilson's score interval of `share` among `n` independent trials (Wilson 1927); `None` without trials. Its middle
    /// is drawn towards one half, so that its bounds lie at different distances from `share` and never beyond 0 and 1.
    #[must_use]
    pub fn wilson(share: f64, n: f64) -> Option<Self> {
        const Z: f64 = Z_975;
        if !(share.is_finite() && n > 0.0) {
            return None;
        }
        let z2 = Z * Z / n;
        let middle = (share + z2 / 2.0) / (1.0 + z2);
        let half = Z * (share * (1.0 - share) / n + z2 / (4.0 * n)).max(0.0).sqrt() / (1.0 + z2);
        // Rounding may leave the last digit beyond the share, where that is a bound itself.
        Some(Self { low: (middle - half).clamp(0.0, share), high: (middle + half).clamp(share, 1.0) })
    }

    /// Clopper's and Pearson's interval (1934) of `n_right` among `n` independent trials: the shares that an exact
    /// binomial test of 2.5 % on either side does not reject. It holds at least 95 % of the time whatever the true
    /// share is, and is therefore wider than Wilson's. `None` without trials, or with more successes than trials.
    #[must_use]
    pub fn clopper_pearson(n_right: u64, n: u64) -> Option<Self> {
        const TAIL: f64 = 0.025;
        if n == 0 || n_right > n {
            return None;
        }
        let (right, wrong) = (n_right as f64, (n - n_right) as f64);
        let low = if n_right == 0 { 0.0 } else { beta_quantile(TAIL, right, wrong + 1.0) };
        let high = if n_right == n { 1.0 } else { beta_quantile(1.0 - TAIL, right + 1.0, wrong) };
        Some(Self { low, high })
    }

    /// The bounds as percentages with one decimal, as `83.9 to 100.0`.
    #[must_use]
    pub fn percent(self) -> String {
        format!("{:.1} to {:.1}", 100.0 * self.low, 100.0 * self.high)
    }
}

impl fmt::Display for ShareInterval {
    /// The bounds in brackets with three decimals, as `[0.839, 1.000]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:.3}, {:.3}]", self.low, self.high)
    }
}

impl Serialize for ShareInterval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [self.low, self.high].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ShareInterval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let [low, high] = <[f64; 2]>::deserialize(deserializer)?;
        Ok(Self { low, high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_wilsons() {
        // 81 of 263 and 15 of 148 as Newcombe printed them (1998, table I); the others by the formula.
        for (n_right, n, low, high) in [
            (81.0, 263.0, 0.2553, 0.3662),
            (15.0, 148.0, 0.0624, 0.1605),
            (0.0, 20.0, 0.0, 0.1611),
            (20.0, 20.0, 0.8389, 1.0),
            (3.0, 3.0, 0.4385, 1.0),
            (1.0, 2.0, 0.0945, 0.9055),
        ] {
            let found = ShareInterval::wilson(n_right / n, n).unwrap();
            assert!(
                (found.low - low).abs() < 1e-4 && (found.high - high).abs() < 1e-4,
                "{n_right}/{n}: {found}"
            );
        }
    }

    #[test]
    fn exact_bounds_are_clopper_and_pearsons() {
        // statsmodels.stats.proportion.proportion_confint(method="beta")
        for (n_right, n, low, high) in [
            (81, 263, 0.252_736_745_585_271_26, 0.367_621_922_601_351_4),
            (0, 20, 0.0, 0.168_433_470_983_085_34),
            (20, 20, 0.831_566_529_016_914_6, 1.0),
            (1, 2, 0.012_579_117_093_425_05, 0.987_420_882_906_574_9),
        ] {
            let found = ShareInterval::clopper_pearson(n_right, n).unwrap();
            assert!(
                (found.low - low).abs() < 1e-10 && (found.high - high).abs() < 1e-10,
                "{n_right}/{n}: {found}"
            );
        }
        assert_eq!(
            (ShareInterval::clopper_pearson(0, 0), ShareInterval::clopper_pearson(3, 2)),
            (None, None)
        );
    }

    #[test]
    fn bounds_stay_within_0_and_1_around_the_share() {
        for n in 1..200 {
            for n_right in 0..=n {
                let share = f64::from(n_right) / f64::from(n);
                let ShareInterval { low, high } = ShareInterval::wilson(share, f64::from(n)).unwrap();
                assert!(
                    0.0 <= low && low <= share && share <= high && high <= 1.0 && low < high,
                    "{n_right}/{n}"
                );
            }
        }
        assert_eq!(ShareInterval::wilson(0.5, 0.0), None);
        assert_eq!(ShareInterval::wilson(f64::NAN, 3.0), None);
    }
}
