//! Logistic regression on few features: style control of Arena-Hard and the length control of AlpacaEval are one.

use nalgebra::{DMatrix, DVector};

/// Coefficients with their standard errors.
#[derive(Debug, Clone, PartialEq)]
pub struct LogisticFit {
    /// One for each feature.
    pub coefficients: Vec<f64>,
    /// From the curvature at the optimum.
    pub standard_errors: Vec<f64>,
}

/// One observation: a share of successes (1, 0, or a preference between them), its weight and its features.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// 0 to 1.
    pub share: f64,
    /// How often it counts.
    pub weight: f64,
    /// One number for each feature.
    pub features: Vec<f64>,
}

/// Most steps of Newton's method.
const MAX_STEPS: usize = 200;

/// The coefficients that minimise the weighted cross-entropy plus `penalty / 2` times their squares, with a
/// penalty for each feature. `None` where lengths differ, a number is not finite, or the system is singular, as
/// a feature that separates successes from failures makes it without a penalty.
#[must_use]
pub fn fit_logistic(observations: &[Observation], penalties: &[f64]) -> Option<LogisticFit> {
    let n = penalties.len();
    let is_usable = |observation: &Observation| {
        observation.features.len() == n
            && observation.features.iter().all(|value| value.is_finite())
            && (0.0..=1.0).contains(&observation.share)
            && observation.weight.is_finite()
    };
    if n == 0 || observations.is_empty() || !observations.iter().all(is_usable) {
        return None;
    }
    let mut at = DVector::zeros(n);
    let mut height = objective(observations, penalties, &at);
    for _ in 0..MAX_STEPS {
        let (gradient, curvature) = derivatives(observations, penalties, &at);
        let step = curvature.cholesky()?.solve(&gradient);
        let mut share = 1.0;
        loop {
            let moved = &at - &step * share;
            let reached = objective(observations, penalties, &moved);
            if reached <= height || share < 1e-9 {
                (at, height) = (moved, reached);
                break;
            }
            share /= 2.0;
        }
        if step.amax() < 1e-12 * (1.0 + at.amax()) {
            break;
        }
    }
    // A coefficient that still runs away belongs to separable data.
    if !at.iter().all(|value| value.is_finite() && value.abs() < 1e6) {
        return None;
    }
    let (gradient, curvature) = derivatives(observations, penalties, &at);
    let weight: f64 = observations.iter().map(|observation| observation.weight).sum();
    if gradient.amax() > 1e-6 * weight.max(1.0) {
        return None;
    }
    let inverse: DMatrix<f64> = curvature.cholesky()?.inverse();
    let standard_errors: Vec<f64> = (0..n).map(|i| inverse[(i, i)].sqrt()).collect();
    // On the way to infinity the curvature vanishes.
    let is_known = standard_errors.iter().all(|error| error.is_finite() && *error < 1e4);
    is_known.then(|| LogisticFit { coefficients: at.iter().copied().collect(), standard_errors })
}

fn linear(observation: &Observation, at: &DVector<f64>) -> f64 {
    observation.features.iter().zip(at.iter()).map(|(feature, coefficient)| feature * coefficient).sum()
}

fn objective(observations: &[Observation], penalties: &[f64], at: &DVector<f64>) -> f64 {
    // ln(1 + e^x) without overflow.
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let loss: f64 = observations
        .iter()
        .map(|observation| {
            let x = linear(observation, at);
            observation.weight * (softplus(x) - observation.share * x)
        })
        .sum();
    loss + penalties.iter().zip(at.iter()).map(|(penalty, value)| penalty * value * value / 2.0).sum::<f64>()
}

fn derivatives(
    observations: &[Observation],
    penalties: &[f64],
    at: &DVector<f64>,
) -> (DVector<f64>, DMatrix<f64>) {
    let n = penalties.len();
    let mut gradient = DVector::from_iterator(n, penalties.iter().zip(at.iter()).map(|(p, value)| p * value));
    let mut curvature = DMatrix::from_diagonal(&DVector::from_column_slice(penalties));
    for observation in observations {
        let p = 1.0 / (1.0 + (-linear(observation, at)).exp());
        let slope = observation.weight * (p - observation.share);
        let bend = observation.weight * p * (1.0 - p);
        for (i, &left) in observation.features.iter().enumerate() {
            gradient[i] += slope * left;
            for (j, &right) in observation.features.iter().enumerate() {
                curvature[(i, j)] += bend * left * right;
            }
        }
    }
    (gradient, curvature)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observations() -> Vec<Observation> {
        (0..40)
            .map(|i| {
                let x = f64::from(i % 7) - 3.0;
                let z = f64::from(i * i % 5) - 2.0;
                let share = f64::from(i32::from(i * 37 % 11 < 4 + i % 7));
                let weight = if i % 3 == 0 { 3.0 } else { 1.0 };
                Observation { share, weight, features: vec![1.0, x, z] }
            })
            .collect()
    }

    #[test]
    fn coefficients_are_those_of_statsmodels() {
        // sm.GLM(y, X, family=Binomial(), freq_weights=w).fit()
        let found = fit_logistic(&observations(), &[0.0; 3]).unwrap();
        for (found, expected) in found.coefficients.iter().zip([
            1.014_130_871_428_127,
            0.403_684_087_212_742_74,
            0.391_250_885_032_143_56,
        ]) {
            assert!((found - expected).abs() < 1e-8, "{found} {expected}");
        }
        for (found, expected) in found.standard_errors.iter().zip([
            0.323_008_343_560_306_2,
            0.162_493_210_577_563_55,
            0.196_928_036_011_636_86,
        ]) {
            assert!((found - expected).abs() < 1e-8, "{found} {expected}");
        }
    }

    #[test]
    fn a_penalty_draws_towards_0_and_separable_data_has_no_fit_without_one() {
        let penalised = fit_logistic(&observations(), &[0.0, 50.0, 0.0]).unwrap();
        let free = fit_logistic(&observations(), &[0.0; 3]).unwrap();
        assert!(penalised.coefficients[1].abs() < free.coefficients[1].abs());
        let separable: Vec<Observation> = (0..10)
            .map(|i| Observation {
                share: f64::from(i32::from(i >= 5)),
                weight: 1.0,
                features: vec![1.0, f64::from(i) - 4.5],
            })
            .collect();
        assert_eq!(fit_logistic(&separable, &[0.0, 0.0]), None);
        assert!(fit_logistic(&separable, &[0.1, 0.1]).is_some());
        assert_eq!(fit_logistic(&separable, &[0.0]), None, "a feature without a penalty");
        assert_eq!(fit_logistic(&[], &[0.0]), None);
    }
}
