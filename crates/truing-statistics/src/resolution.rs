//! The smallest difference that a number of items can resolve: what a two-sided test at 5 % finds with 80 %
//! power. It is computed before anything is spent, from what is assumed about the items.

use statrs::function::gamma::ln_gamma;

use crate::distributions::{binomial_at_most, bisect, normal_quantile};

/// Level and power of the test that is planned for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Power {
    /// Probability of a finding where there is none, both sides together.
    pub level: f64,
    /// Probability of finding the difference.
    pub power: f64,
}

impl Default for Power {
    fn default() -> Self {
        Self { level: 0.05, power: 0.8 }
    }
}

impl Power {
    fn quantiles(self) -> (f64, f64) {
        (normal_quantile(1.0 - self.level / 2.0), normal_quantile(self.power))
    }

    /// The smallest difference of two shares right on the same `n` items that McNemar's exact test finds, where
    /// the share `discordant` of the items is right in one system alone; its power is summed exactly. `None`
    /// where even the largest difference that is possible, all discordant items on one side, is not found often
    /// enough.
    #[must_use]
    pub fn paired_shares(self, n: u64, discordant: f64) -> Option<f64> {
        if n == 0 || !(discordant > 0.0 && discordant <= 1.0) {
            return None;
        }
        let splits = self.critical_splits(n, discordant);
        let found = |difference: f64| {
            let better = f64::midpoint(discordant, difference) / discordant;
            let power = |&(weight, n_discordant, critical): &(f64, u64, Option<u64>)| {
                let Some(critical) = critical else { return 0.0 };
                let worse_tail = binomial_at_most(critical, n_discordant, better);
                weight * (worse_tail + binomial_at_most(critical, n_discordant, 1.0 - better))
            };
            splits.iter().map(power).sum::<f64>() >= self.power
        };
        found(discordant).then(|| bisect(0.0, discordant, |difference| !found(difference)))
    }

    /// Probability of each number of discordant items, with the largest count of the rarer side that is a finding.
    fn critical_splits(self, n: u64, discordant: f64) -> Vec<(f64, u64, Option<u64>)> {
        const DEVIATIONS: f64 = 7.0;
        let total = n as f64;
        let (mean, deviation) = (total * discordant, (total * discordant * (1.0 - discordant)).sqrt());
        let low = (mean - DEVIATIONS * deviation).floor().max(0.0) as u64;
        let high = ((mean + DEVIATIONS * deviation).ceil() as u64).min(n);
        let ln_probability = |k: f64| {
            let ways = ln_gamma(total + 1.0) - ln_gamma(k + 1.0) - ln_gamma(total - k + 1.0);
            let rest = if k < total { (total - k) * (1.0 - discordant).ln() } else { 0.0 };
            ways + k * discordant.ln() + rest
        };
        let mut splits = Vec::new();
        let mut critical: Option<u64> = None;
        for k in low..=high {
            // The largest count that is a finding grows with the number of discordant items, by at most one each.
            let is_finding = |count: u64| 2.0 * binomial_at_most(count, k, 0.5) < self.level;
            let mut next = critical.map_or(0, |count| count + 1);
            while is_finding(next) {
                critical = Some(next);
                next += 1;
            }
            splits.push((ln_probability(k as f64).exp(), k, critical));
        }
        splits
    }

    /// The smallest difference above a share `share` of two groups of `n` different items each; below it where
    /// nothing above can be found. `None` where neither can.
    #[must_use]
    pub fn unpaired_shares(self, n: f64, share: f64) -> Option<f64> {
        let (level, power) = self.quantiles();
        let found = |difference: f64| {
            let other = share + difference;
            let middle = f64::midpoint(share, other);
            let variance = share * (1.0 - share) + other * (1.0 - other);
            let pooled = 2.0 * middle * (1.0 - middle);
            difference.abs() * n.sqrt() >= level * pooled.max(0.0).sqrt() + power * variance.max(0.0).sqrt()
        };
        if !(n > 0.0 && (0.0..=1.0).contains(&share)) {
            return None;
        }
        let up = (share < 1.0 && found(1.0 - share)).then(|| bisect(0.0, 1.0 - share, |size| !found(size)));
        let down = || (share > 0.0 && found(-share)).then(|| bisect(0.0, share, |size| !found(-size)));
        up.or_else(down)
    }

    /// The smallest difference of means of `n` items, each with this deviation of its differences.
    #[must_use]
    pub fn paired_means(self, n: f64, deviation: f64) -> f64 {
        let (level, power) = self.quantiles();
        (level + power) * deviation / n.sqrt()
    }

    /// The smallest difference of the means of two groups of `n` different items each with this deviation.
    #[must_use]
    pub fn unpaired_means(self, n: f64, deviation: f64) -> f64 {
        self.paired_means(n, deviation * std::f64::consts::SQRT_2)
    }
}

/// Independent items that `n_items` in clusters of `n_items / n_clusters` amount to, with this correlation
/// inside a cluster (Kish 1965).
#[must_use]
pub fn effective_items(n_items: f64, n_clusters: f64, correlation: f64) -> f64 {
    n_items / (1.0 + (n_items / n_clusters - 1.0) * correlation)
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::Rng;
    use truing_types::Seed;

    use super::*;
    use crate::paired::mcnemar;

    #[test]
    fn differences_of_means_follow_the_formula() {
        // (1.95996 + 0.84162) * 0.5 / 20
        assert!((Power::default().paired_means(400.0, 0.5) - 0.070_039_630).abs() < 1e-8);
        assert!((Power::default().unpaired_means(400.0, 0.5) - 0.099_051_0).abs() < 1e-6);
        // statsmodels.stats.power.NormalIndPower-like: two shares of 0.5 and 0.5 + d with 500 items each
        let found = Power::default().unpaired_shares(500.0, 0.5).unwrap();
        let other = 0.5 + found;
        let middle = f64::midpoint(0.5, other);
        let n = (1.959_963_985 * (2.0 * middle * (1.0 - middle)).sqrt()
            + 0.841_621_234 * (0.25 + other * (1.0 - other)).sqrt())
        .powi(2)
            / (found * found);
        assert!((n - 500.0).abs() < 1e-4, "{n}");
        assert_eq!(Power::default().unpaired_shares(3.0, 0.5), None);
        assert!(Power::default().unpaired_shares(40.0, 1.0).unwrap() < 0.2);
        assert_eq!(
            (Power::default().paired_shares(5, 0.2), Power::default().paired_shares(0, 0.2)),
            (None, None)
        );
        assert!((effective_items(2500.0, 500.0, 0.25) - 1250.0).abs() < 1e-9);
        assert!((effective_items(2500.0, 500.0, 0.0) - 2500.0).abs() < 1e-9);
    }

    #[test]
    fn mcnemars_test_finds_the_paired_difference_in_four_of_five_cases() {
        for (n, discordant) in [(500_u64, 0.2), (1000, 0.1), (300, 0.4), (60, 0.3)] {
            let size = Power::default().paired_shares(n, discordant).unwrap();
            let [better, worse] = [(discordant + size) / 2.0, (discordant - size) / 2.0];
            let mut generator = Seed(n).generator("power", &[]);
            let mut unit = || (generator.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            let n_found = (0..2000)
                .filter(|_| {
                    let (mut first, mut second) = (0, 0);
                    for _ in 0..n {
                        let drawn = unit();
                        second += u64::from(drawn < better);
                        first += u64::from(drawn >= 1.0 - worse);
                    }
                    mcnemar(first, second).p_value < 0.05
                })
                .count();
            // Three standard errors of 2,000 draws.
            let power = n_found as f64 / 2000.0;
            assert!((power - 0.8).abs() < 0.027, "{n} {discordant}: {power} at {size}");
        }
    }
}
