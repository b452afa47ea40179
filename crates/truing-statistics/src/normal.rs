//! The normal distribution.

/// Probability that a standard normal number is below `z`, for z of 0 or more (Abramowitz and Stegun 1964, 26.2.17; within
/// 7.5e-8).
#[must_use]
pub fn normal_probability(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let polynomial = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530]
        .into_iter()
        .fold(0.0, |sum, factor| (sum + factor) * t);
    1.0 - (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * polynomial
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_distribution_has_its_known_values() {
        for (z, expected) in [(0.0, 0.5), (1.0, 0.841_344_746), (1.96, 0.975_002_105), (3.0, 0.998_650_102)] {
            assert!((normal_probability(z) - expected).abs() < 1e-7, "{z}: {}", normal_probability(z));
        }
        assert!(normal_probability(40.0) <= 1.0);
    }
}
