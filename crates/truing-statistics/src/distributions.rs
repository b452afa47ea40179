//! Quantiles and probabilities of the distributions that intervals and tests need.

use statrs::distribution::{Beta, ContinuousCDF, StudentsT};
use statrs::function::erf::erfc_inv;

/// Halvings of an interval that leave less than the last digit of a double.
const BISECTIONS: usize = 120;

/// The number that a standard normal number is below with this probability, 0 < `probability` < 1.
#[must_use]
pub fn normal_quantile(probability: f64) -> f64 {
    -std::f64::consts::SQRT_2 * erfc_inv(2.0 * probability)
}

/// The number that a Student t number is below with this probability. With infinitely many degrees of freedom
/// it is the normal one; without any it is infinite.
#[must_use]
pub fn student_quantile(probability: f64, degrees_of_freedom: f64) -> f64 {
    if degrees_of_freedom.is_infinite() {
        return normal_quantile(probability);
    }
    let Ok(distribution) = StudentsT::new(0.0, 1.0, degrees_of_freedom) else { return f64::INFINITY };
    // The quantile of the crate is good to nine digits; its distribution function to fifteen.
    let upper = probability.max(1.0 - probability);
    let mut high = 2.0;
    while distribution.cdf(high) < upper && high < 1e15 {
        high *= 2.0;
    }
    let quantile = bisect(0.0, high, |t| distribution.cdf(t) < upper);
    if probability < 0.5 { -quantile } else { quantile }
}

/// Probability that a Student t number is at least this far from 0.
#[must_use]
pub fn student_two_sided(t: f64, degrees_of_freedom: f64) -> f64 {
    if degrees_of_freedom.is_infinite() {
        return statrs::function::erf::erfc(t.abs() / std::f64::consts::SQRT_2);
    }
    match StudentsT::new(0.0, 1.0, degrees_of_freedom) {
        Ok(distribution) => (2.0 * distribution.cdf(-t.abs())).min(1.0),
        Err(_) => 1.0,
    }
}

/// The number that a beta-distributed number is below with this probability.
pub(crate) fn beta_quantile(probability: f64, a: f64, b: f64) -> f64 {
    match Beta::new(a, b) {
        Ok(distribution) => bisect(0.0, 1.0, |x| distribution.cdf(x) < probability),
        Err(_) => f64::NAN,
    }
}

/// Probability of at most `k` successes in `n` trials.
pub(crate) fn binomial_at_most(k: u64, n: u64, p: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    statrs::function::beta::beta_reg((n - k) as f64, k as f64 + 1.0, 1.0 - p)
}

/// Where a condition that holds at `low` and not at `high` ends.
pub(crate) fn bisect(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_scipy() {
        // scipy.stats.norm.ppf, t.ppf, beta.ppf
        for (p, expected) in [
            (0.975, 1.959_963_984_540_054),
            (0.8, 0.841_621_233_572_914_3),
            (0.5, 0.0),
            (1e-6, -4.753_424_308_822_899),
        ] {
            assert!((normal_quantile(p) - expected).abs() < 1e-9, "{p}: {}", normal_quantile(p));
        }
        for (p, df, expected) in [
            (0.975, 1.0, 12.706_204_736_174_69),
            (0.975, 9.0, 2.262_157_162_798_205),
            (0.025, 30.0, -2.042_272_456_301_238),
            (0.95, 4.0, 2.131_846_786_326_649),
            (0.975, f64::INFINITY, 1.959_963_984_540_054),
        ] {
            let found = student_quantile(p, df);
            assert!((found - expected).abs() < 1e-9, "{p} {df}: {found}");
        }
        assert_eq!(student_quantile(0.975, 0.0), f64::INFINITY);
        assert!((beta_quantile(0.025, 3.0, 8.0) - 0.066_739_511_177_734_5).abs() < 1e-9);
        // 2 * (1 - t.cdf(2.5, 11)), binom.cdf(3, 10, 0.3)
        assert!((student_two_sided(2.5, 11.0) - 0.029_506_374_087_364_163).abs() < 1e-10);
        assert!((student_two_sided(-1.0, f64::INFINITY) - 0.317_310_507_862_914_15).abs() < 1e-10);
        assert!((binomial_at_most(3, 10, 0.3) - 0.649_610_718_4).abs() < 1e-9);
        assert_eq!(binomial_at_most(10, 10, 0.3), 1.0);
    }
}
