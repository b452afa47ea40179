//! Linear: the weighted sum of the models (model soups, Wortsman et al. 2022, arXiv 2203.05482).
//!
//! `W = sum_i w_i W_i`, divided by `sum_i w_i` unless `normalize` is off. Summed in f64 and rounded once, so the average of
//! equal models is the model itself, bit for bit.

use super::rule::{Block, Rule, Sums};

pub(super) struct Linear {
    /// One for each model; already divided by their sum where that is asked for.
    coefficients: Vec<f64>,
}

impl Linear {
    pub(super) fn new(weights: &[f64], normalize: bool) -> Self {
        let sum = if normalize { weights.iter().sum() } else { 1.0 };
        Self { coefficients: weights.iter().map(|weight| weight / sum).collect() }
    }
}

impl Rule for Linear {
    fn merge(&self, block: &Block<'_>, merged: &mut [f32]) -> Sums {
        for (place, merged) in merged.iter_mut().enumerate() {
            let products = block.models.iter().zip(&self.coefficients);
            let sum: f64 = products.map(|(values, weight)| weight * f64::from(values[place])).sum();
            *merged = sum as f32;
        }
        Sums::default()
    }
}
