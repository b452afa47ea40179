//! The normal distribution.

use statrs::function::erf::erfc;

/// Probability that a standard normal number is below `z`, to 1e-10.
#[must_use]
pub fn normal_probability(z: f64) -> f64 {
    erfc(-z / std::f64::consts::SQRT_2) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_distribution_has_its_known_values() {
        // scipy.stats.norm.cdf
        for (z, expected) in [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_542_9),
            (1.96, 0.975_002_104_851_779_5),
            (3.0, 0.998_650_101_968_369_9),
            (-2.0, 0.022_750_131_948_179_21),
        ] {
            assert!((normal_probability(z) - expected).abs() < 1e-10, "{z}: {}", normal_probability(z));
        }
        assert!(normal_probability(40.0) <= 1.0);
    }
}
