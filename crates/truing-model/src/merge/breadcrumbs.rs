//! Model Breadcrumbs (Davari and Belilovsky 2023, arXiv 2312.06795): of each delta both the largest entries, taken for outliers,
//! and the smallest are dropped.
//!
//! Of n values, in the order of their magnitudes, the `floor(gamma n)` largest are dropped, and of the others the `floor(density
//! n)` largest are kept. Where that leaves too few, fewer outliers are dropped. As in TIES, values that equal the smallest or
//! largest of those kept are kept too. `breadcrumbs` adds the deltas as task arithmetic does, `breadcrumbs_ties` elects signs.

use super::sparsity::{DeltaRows, Sparsity};

/// Keeps the entries between the smallest and the largest.
pub(super) struct Breadcrumbs {
    pub(super) density: f64,
    pub(super) gamma: f64,
    pub(super) smallest: f32,
    pub(super) largest: f32,
}

impl Breadcrumbs {
    pub(super) fn new(density: f64, gamma: f64) -> Self {
        Self { density, gamma, smallest: 0.0, largest: f32::INFINITY }
    }
}

impl Sparsity for Breadcrumbs {
    fn ranks(&self, n_values: u64) -> Vec<u64> {
        let n_kept = ((self.density * n_values as f64) as u64).clamp(1, n_values.max(1));
        let n_outliers = (self.gamma * n_values as f64) as u64;
        let n_small = n_values.saturating_sub(n_kept + n_outliers);
        vec![n_small, n_small + n_kept - 1]
    }

    fn set_magnitudes(&mut self, magnitudes: &[f32]) {
        if let [smallest, largest] = *magnitudes {
            (self.smallest, self.largest) = (smallest, largest);
        }
    }

    fn factors(&self, rows: DeltaRows<'_>, factors: &mut [f64]) {
        for (factor, value) in factors.iter_mut().zip(rows.values) {
            *factor = f64::from(u8::from((self.smallest..=self.largest).contains(&value.abs())));
        }
    }
}
