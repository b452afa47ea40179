//! Multi-SLERP: a weighted mean of directions, with the weighted mean of lengths (Goddard 2025, "Multi-SLERP").
//!
//! With `d_i` the tensors, or their deltas where there is a base, `n_i` their norms and `w_i` the weights (their sum 1 where
//! `normalize` is on): `m = sum_i w_i d_i / n_i`, and `W = base + (sum_i w_i n_i) m / |m|`.
//!
//! The original goes from `m` into the tangent space and back. At the weighted mean of the directions the weighted sum of the
//! tangent vectors is 0, so that step changes nothing but rounding, and is left out. For two models `W` lies on their great
//! circle, at the place of SLERP for t = 0.5 and near it for others.
//!
//! All of it follows from the inner products of the tensors: one pass adds those up, then each result is one weighted sum.

use super::gram::{Gram, inner_products};
use super::rule::{Block, Rule, Sums};

/// Added to norms that are divided by, as in mergekit.
const EPSILON: f64 = 1e-8;

pub(super) struct MultiSlerp {
    weights: Vec<f64>,
    coefficients: Vec<f64>,
    has_base: bool,
}

impl MultiSlerp {
    pub(super) fn new(weights: &[f64], normalize: bool, has_base: bool) -> Self {
        let sum = if normalize { weights.iter().sum() } else { 1.0 };
        let weights: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        Self { coefficients: weights.clone(), weights, has_base }
    }
}

impl Rule for MultiSlerp {
    fn n_passes(&self) -> usize {
        usize::from(self.weights.len() > 1)
    }

    fn measure(&self, _: usize, block: &Block<'_>) -> Sums {
        Sums { values: inner_products(block, self.has_base, 0..block.len()), counts: Vec::new() }
    }

    fn finish_pass(&mut self, _: usize, sums: &Sums) {
        let gram = Gram { n: self.weights.len(), products: &sums.values };
        let norms: Vec<f64> = (0..gram.n).map(|i| gram.get(i, i).sqrt()).collect();
        // The mean direction as a sum of the tensors.
        let of_mean: Vec<f64> =
            self.weights.iter().zip(&norms).map(|(weight, norm)| weight / (norm + EPSILON)).collect();
        let square: f64 = (0..gram.n)
            .flat_map(|i| (0..gram.n).map(move |j| (i, j)))
            .map(|(i, j)| of_mean[i] * of_mean[j] * gram.get(i, j))
            .sum();
        let length = square.max(0.0).sqrt();
        // Directions that cancel each other have no mean: the plain weighted sum, which is small then.
        if length < EPSILON {
            return;
        }
        let mean_norm: f64 = self.weights.iter().zip(&norms).map(|(weight, norm)| weight * norm).sum();
        self.coefficients = of_mean.iter().map(|coefficient| coefficient * mean_norm / length).collect();
    }

    fn merge(&self, block: &Block<'_>, merged: &mut [f32]) -> Sums {
        if let [only] = block.models[..] {
            merged.copy_from_slice(only);
            return Sums::default();
        }
        for (place, merged) in merged.iter_mut().enumerate() {
            let base = if self.has_base { f64::from(block.base[place]) } else { 0.0 };
            let products = block.models.iter().zip(&self.coefficients);
            let sum: f64 = products.map(|(values, weight)| weight * (f64::from(values[place]) - base)).sum();
            *merged = (base + sum) as f32;
        }
        Sums::default()
    }
}
