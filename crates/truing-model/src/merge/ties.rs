//! TIES (Yadav et al. 2023, arXiv 2306.01708): each delta keeps its largest entries; at each place the sign with the larger
//! weighted sum is elected; the entries of that sign are averaged.
//!
//! With `s_i` the trimmed deltas, `e` the sign of `sum_i w_i s_i` (plus for 0) and `A` the models with `sign(w_i s_i) = e`:
//! `W = W_0 + lambda sum_{i in A} w_i s_i / sum_{i in A} w_i`, without the division where `normalize` is off.
//!
//! Of a tensor with n values `max(1, floor(density n))` are kept, and all that are as large as the smallest of those, as in
//! the authors' program. mergekit keeps exactly that many and leaves to its sort which of equal ones: in 16-bit models, where
//! many deltas are equal, those at the beginning or end of a tensor.

use super::rule::Block;
use super::sparsity::{DeltaRows, Sparsity};

/// Keeps the largest entries.
pub(super) struct Trim {
    density: f64,
    smallest: f32,
}

impl Trim {
    pub(super) fn new(density: f64) -> Self {
        Self { density, smallest: 0.0 }
    }
}

impl Sparsity for Trim {
    fn ranks(&self, n_values: u64) -> Vec<u64> {
        let n_kept = ((self.density * n_values as f64) as u64).clamp(1, n_values.max(1));
        if n_kept >= n_values { Vec::new() } else { vec![n_values - n_kept] }
    }

    fn set_magnitudes(&mut self, magnitudes: &[f32]) {
        self.smallest = magnitudes.first().copied().unwrap_or(0.0);
    }

    fn factors(&self, rows: DeltaRows<'_>, factors: &mut [f64]) {
        for (factor, value) in factors.iter_mut().zip(rows.values) {
            *factor = f64::from(u8::from(value.abs() >= self.smallest));
        }
    }
}

/// The merged delta of a block by elected signs, into `merged`. `parts` are the sparse deltas `[model][place]` with the weight
/// of each model. Returns at how many places any model has an entry, and at how many the signs differ.
pub(super) fn merge_elected(
    block: &Block<'_>,
    parts: &[(f64, Vec<f64>)],
    normalize: bool,
    merged: &mut [f64],
) -> [u64; 2] {
    // Election in f32, as mergekit's: which of two nearly equal sums is larger must not depend on rounding.
    let mut votes = vec![0.0_f32; block.len()];
    let mut signs = vec![0_u8; block.len()];
    for (weight, values) in parts {
        let weight = *weight as f32;
        for ((vote, signs), value) in votes.iter_mut().zip(&mut signs).zip(values) {
            let product = weight * *value as f32;
            *vote += product;
            *signs |= u8::from(product > 0.0) | u8::from(product < 0.0) << 1;
        }
    }
    let mut divisors = vec![0.0; block.len()];
    for (weight, values) in parts {
        for (((merged, divisor), vote), value) in merged.iter_mut().zip(&mut divisors).zip(&votes).zip(values)
        {
            let product = weight * value;
            let agrees = if *vote >= 0.0 { product > 0.0 } else { product < 0.0 };
            *merged += if agrees { product } else { 0.0 };
            *divisor += if agrees { *weight } else { 0.0 };
        }
    }
    if normalize {
        for (merged, divisor) in merged.iter_mut().zip(&divisors) {
            *merged /= if *divisor == 0.0 { 1.0 } else { *divisor };
        }
    }
    let count = |is_counted: fn(u8) -> bool| signs.iter().filter(|signs| is_counted(**signs)).count() as u64;
    [count(|signs| signs != 0), count(|signs| signs == 3)]
}
