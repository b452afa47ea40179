//! An estimate with its 95 % confidence interval: differences of means and of shares, trends, correlations.

use crate::{ShareInterval, student_quantile};

/// Probability below the upper bound.
const UPPER: f64 = 0.975;
/// Fewer points say nothing about a trend and its noise.
const MIN_TREND_POINTS: usize = 6;
/// The strongest correlation of neighbouring residuals that is corrected for.
const MAX_AUTOCORRELATION: f64 = 0.95;

/// A value and the bounds of its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The estimate itself.
    pub value: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// How many items passed before and after: the four cells of a paired table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PairedPasses {
    /// Passed before and after.
    pub n_both: u64,
    /// Failed before, passed after.
    pub n_gained: u64,
    /// Passed before, failed after.
    pub n_lost: u64,
    /// Failed before and after.
    pub n_neither: u64,
}

impl PairedPasses {
    /// Counts pairs of (passed before, passed after).
    pub fn count(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut counts = Self::default();
        for pair in pairs {
            *match pair {
                (true, true) => &mut counts.n_both,
                (false, true) => &mut counts.n_gained,
                (true, false) => &mut counts.n_lost,
                (false, false) => &mut counts.n_neither,
            } += 1;
        }
        counts
    }

    /// All items.
    #[must_use]
    pub fn n(self) -> u64 {
        self.n_both + self.n_gained + self.n_lost + self.n_neither
    }
}

impl Estimate {
    /// Whether the interval lies above or below 0 as a whole; otherwise a difference from 0 is not shown.
    #[must_use]
    pub fn is_shown(self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }

    /// The weighted mean of independent values, for instance of paired differences, with Student's interval. The
    /// variance is that of a ratio of sums (Cochran 1977, 6.4), for equal weights the usual one. `None` for fewer than
    /// two values.
    #[must_use]
    pub fn weighted_mean(weighted: &[(f64, f64)]) -> Option<Self> {
        let n = weighted.len();
        let quantile = student_quantile(UPPER, n.checked_sub(1).filter(|&n| n > 0)? as f64);
        let sum: f64 = weighted.iter().map(|(weight, _)| weight).sum();
        let value = weighted.iter().map(|(weight, value)| weight * value).sum::<f64>() / sum;
        let squares: f64 = weighted.iter().map(|(weight, one)| (weight * (one - value)).powi(2)).sum();
        let half = quantile * (squares * n as f64 / (n - 1) as f64).sqrt() / sum;
        half.is_finite().then_some(Self { value, low: value - half, high: value + half })
    }

    /// The difference of two shares of independent samples, `after` less `before`, each a share and its number of
    /// trials (Newcombe 1998, method 10 for independent samples). `None` without trials.
    #[must_use]
    pub fn difference_of_shares(before: (f64, u64), after: (f64, u64)) -> Option<Self> {
        let intervals = [before, after].map(|(share, n)| ShareInterval::wilson(share, n as f64));
        let [Some(of_before), Some(of_after)] = intervals else { return None };
        Some(square_and_add((before.0, of_before), (after.0, of_after), 0.0))
    }

    /// The difference of two shares of the same items, `after` less `before` (Newcombe 1998, method 10 for paired
    /// samples). `None` without items.
    #[must_use]
    pub fn difference_of_paired_shares(passes: PairedPasses) -> Option<Self> {
        let PairedPasses { n_both, n_gained, n_lost, n_neither } = passes;
        let n = passes.n() as f64;
        let [both, gained, lost, neither] = [n_both, n_gained, n_lost, n_neither].map(|count| count as f64);
        let (before, after) = ((both + lost) / n, (both + gained) / n);
        let of_before = ShareInterval::wilson(before, n)?;
        let of_after = ShareInterval::wilson(after, n)?;
        let product = (both + gained) * (lost + neither) * (both + lost) * (gained + neither);
        let excess = both * neither - gained * lost;
        // With a correction for continuity where the answers agree.
        let excess = if excess > 0.0 { (excess - n / 2.0).max(0.0) } else { excess };
        let correlation = if product > 0.0 { excess / product.sqrt() } else { 0.0 };
        Some(square_and_add((before, of_before), (after, of_after), correlation))
    }

    /// The change that a straight line through the points shows from the first to the last `x`: its slope by least
    /// squares, times the range of x.
    ///
    /// The noise is what a cubic leaves (a parabola for fewer than 20 points, a line for fewer than 10), so that a bend
    /// is not taken for noise. Where neighbouring residuals are correlated, there are as many fewer independent points
    /// (Santer et al. 2000, their equation 6). `None` for fewer than six points or no range.
    #[must_use]
    pub fn trend(points: &[(f64, f64)]) -> Option<Self> {
        let n = points.len();
        let (first, last) = (points.first()?.0, points.last()?.0);
        if n < MIN_TREND_POINTS || last <= first || points.iter().any(|(_, y)| !y.is_finite()) {
            return None;
        }
        let degree = if n < 10 {
            1
        } else if n < 20 {
            2
        } else {
            3
        };
        let x: Vec<f64> = points.iter().map(|(x, _)| 2.0 * (x - first) / (last - first) - 1.0).collect();
        let mut residuals: Vec<f64> = points.iter().map(|(_, y)| *y).collect();
        // Orthogonal polynomials on these points, each taken out of the residuals in turn.
        let mut basis: Vec<Vec<f64>> = Vec::new();
        let (mut slope, mut squares_of_x) = (0.0, 0.0);
        for power in 0..=degree {
            let mut next: Vec<f64> = x.iter().map(|x| x.powi(power)).collect();
            for known in &basis {
                let share = dot(&next, known) / dot(known, known);
                next.iter_mut().zip(known).for_each(|(a, b)| *a -= share * b);
            }
            let squares = dot(&next, &next);
            if squares < 1e-9 {
                return None;
            }
            let coefficient = dot(&residuals, &next) / squares;
            residuals.iter_mut().zip(&next).for_each(|(a, b)| *a -= coefficient * b);
            if power == 1 {
                (slope, squares_of_x) = (coefficient, squares);
            }
            basis.push(next);
        }
        let squares = dot(&residuals, &residuals);
        let neighbours: f64 = residuals.windows(2).map(|pair| pair[0] * pair[1]).sum();
        let found = if squares > 0.0 { neighbours / squares } else { 0.0 };
        // Residuals of a polynomial are less correlated than the noise (Kendall 1954 for a mean, extended to more
        // coefficients). Of few points a correction would be worse than none.
        let degree = f64::from(degree);
        let unbiased =
            if n < 20 { found } else { (n as f64 * found + degree + 1.0) / (n as f64 - degree - 3.0) };
        let correlation = unbiased.clamp(0.0, MAX_AUTOCORRELATION);
        let n_free = (n as f64 * (1.0 - correlation) / (1.0 + correlation) - degree - 1.0).max(1.0);
        let quantile = student_quantile(UPPER, n_free.floor());
        let variance = squares / (n as f64 - degree - 1.0) * (1.0 + correlation) / (1.0 - correlation);
        // x goes from -1 to 1.
        let (value, half) = (2.0 * slope, 2.0 * quantile * (variance / squares_of_x).sqrt());
        Some(Self { value, low: value - half, high: value + half })
    }

    /// Spearman's rank correlation of `n` pairs, with the interval of Bonett and Wright (2000). `None` for fewer than
    /// four pairs.
    #[must_use]
    pub fn rank_correlation(correlation: f64, n: u64) -> Option<Self> {
        let n_free = n.checked_sub(3).filter(|&n| n > 0)? as f64;
        let middle = correlation.clamp(-1.0 + 1e-12, 1.0 - 1e-12).atanh();
        let half = crate::interval::Z_975 * ((1.0 + correlation * correlation / 2.0) / n_free).sqrt();
        Some(Self { value: correlation, low: (middle - half).tanh(), high: (middle + half).tanh() })
    }
}

/// Newcombe's interval of a difference from the intervals of both shares and the correlation of their trials.
fn square_and_add(before: (f64, ShareInterval), after: (f64, ShareInterval), correlation: f64) -> Estimate {
    let value = after.0 - before.0;
    let length = |a: f64, b: f64| (a * a - 2.0 * correlation * a * b + b * b).max(0.0).sqrt();
    let below = length(after.0 - after.1.low, before.1.high - before.0);
    let above = length(after.1.high - after.0, before.0 - before.1.low);
    Estimate { value, low: value - below, high: value + above }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: Option<Estimate>, value: f64, low: f64, high: f64) {
        let found = found.unwrap();
        let is_near = |a: f64, b: f64| (a - b).abs() < 1e-4;
        assert!(
            is_near(found.value, value) && is_near(found.low, low) && is_near(found.high, high),
            "{found:?}"
        );
    }

    #[test]
    fn a_mean_has_students_interval() {
        // scipy 1.14: `stats.t.interval(0.95, 4, np.mean(x), stats.sem(x))`.
        let equal = [0.1, 0.4, -0.2, 0.3, 0.2].map(|value| (1.0, value));
        check(Estimate::weighted_mean(&equal), 0.16, -0.12589, 0.44589);
        let tripled = equal.map(|(_, value)| (3.0, value));
        check(Estimate::weighted_mean(&tripled), 0.16, -0.12589, 0.44589);
        let weighted = Estimate::weighted_mean(&[(1.0, 0.0), (3.0, 1.0)]).unwrap();
        assert!((weighted.value - 0.75).abs() < 1e-12 && !weighted.is_shown());
        assert_eq!(Estimate::weighted_mean(&[(1.0, 2.0)]), None);
        let unchanged = Estimate::weighted_mean(&[(1.0, 0.0); 8]).unwrap();
        assert_eq!((unchanged.low, unchanged.high, unchanged.is_shown()), (0.0, 0.0, false));
    }

    #[test]
    fn differences_of_shares_are_newcombes() {
        // Newcombe (1998, Statistics in Medicine 17:873), table II: 56/70 less 48/80, 9/10 less 3/10, 10/10 less 0/10.
        check(Estimate::difference_of_shares((0.6, 80), (0.8, 70)), 0.2, 0.0524, 0.3339);
        check(Estimate::difference_of_shares((0.3, 10), (0.9, 10)), 0.6, 0.1705, 0.8090);
        check(Estimate::difference_of_shares((0.0, 10), (1.0, 10)), 1.0, 0.6075, 1.0);
        assert_eq!(Estimate::difference_of_shares((0.5, 0), (0.5, 10)), None);
    }

    #[test]
    fn pairing_narrows_the_interval_of_a_difference() {
        let pairs =
            |n_both, n_gained, n_lost, n_neither| PairedPasses { n_both, n_gained, n_lost, n_neither };
        let unpaired = Estimate::difference_of_shares((0.4, 100), (0.5, 100)).unwrap();
        let paired = Estimate::difference_of_paired_shares(pairs(39, 11, 1, 49)).unwrap();
        assert!(
            (paired.value - 0.1).abs() < 1e-12 && paired.is_shown() && !unpaired.is_shown(),
            "{paired:?}"
        );
        let opposed = Estimate::difference_of_paired_shares(pairs(0, 50, 40, 10)).unwrap();
        assert!(opposed.high - opposed.low > unpaired.high - unpaired.low);
        // Without a change of any item the interval still has a width, that of the number of items.
        let same = Estimate::difference_of_paired_shares(pairs(18, 0, 0, 6)).unwrap();
        assert!(same.value == 0.0 && same.low < 0.0 && same.high > 0.0 && !same.is_shown(), "{same:?}");
        assert_eq!(Estimate::difference_of_paired_shares(PairedPasses::default()), None);
        assert_eq!(
            PairedPasses::count([(true, true), (false, true), (false, true), (true, false)]),
            pairs(1, 2, 1, 0)
        );
    }

    /// The same numbers in every run, evenly spread over -1 to 1, and independent of their neighbours.
    fn noise(i: u32) -> f64 {
        let mixed = i.wrapping_add(1).wrapping_mul(0x9e37_79b1);
        let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x85eb_ca77);
        f64::from((mixed ^ (mixed >> 13)) >> 8) / f64::from(1 << 23) - 1.0
    }

    #[test]
    fn a_line_has_the_interval_of_least_squares() {
        // scipy 1.14, `stats.linregress`; 7 steps, residuals of opposite signs: slope 0.5 and 6 intervals.
        let y = [1.1, 1.4, 2.1, 2.4, 3.1, 3.4, 4.1];
        let points: Vec<(f64, f64)> = y.iter().enumerate().map(|(i, &y)| (i as f64, y)).collect();
        check(Estimate::trend(&points), 3.0, 2.658_66, 3.341_34);
        assert_eq!(Estimate::trend(&points[..5]), None);
        assert_eq!(Estimate::trend(&[(1.0, 2.0); 9]), None);
    }

    #[test]
    fn about_one_trend_in_twenty_is_found_in_noise() {
        let n_shown = |rho: f64| {
            let runs = (0..400).filter(|run| {
                let mut state = 0.0;
                let points: Vec<(f64, f64)> = (0..40)
                    .map(|step| {
                        state = rho * state + noise(run * 1000 + step);
                        (f64::from(step), state)
                    })
                    .collect();
                Estimate::trend(&points).unwrap().is_shown()
            });
            runs.count()
        };
        assert!((6..=36).contains(&n_shown(0.0)), "{}", n_shown(0.0));
        // Without the correction it would be about a third of them.
        assert!(n_shown(0.6) <= 60, "{}", n_shown(0.6));
    }

    #[test]
    fn a_bend_is_not_noise() {
        let points: Vec<(f64, f64)> = (0..120)
            .map(|step| {
                let t = f64::from(step) / 120.0;
                (f64::from(step), 0.6 + 1.9 * (-4.0 * t).exp() + 0.12 * noise(step as u32))
            })
            .collect();
        let found = Estimate::trend(&points).unwrap();
        assert!(found.high < -1.0 && found.high - found.low < 0.3, "{found:?}");
    }

    #[test]
    fn rank_correlations_have_an_interval() {
        // Bonett and Wright's formula, by hand: tanh(atanh(0.5) -+ 1.959964 sqrt(1.125 / 97)).
        check(Estimate::rank_correlation(0.5, 100), 0.5, 0.3259, 0.6413);
        assert_eq!(Estimate::rank_correlation(0.5, 3), None);
    }
}
