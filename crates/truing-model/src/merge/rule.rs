//! What a method does with one tensor. The inputs are never in memory at once: a rule sees blocks of whole rows. It may ask
//! for passes over them that add up sums and counts, and then gives the result block by block.
//!
//! Blocks are cut by the tensor's shape alone, and their sums are added in order. So no bit of a result depends on the
//! number of threads.

use serde::Serialize;

/// Whole rows of one tensor in all inputs.
#[derive(Debug, Clone)]
pub(super) struct Block<'a> {
    /// The first of the rows.
    pub(super) first_row: usize,
    /// Values of a row.
    pub(super) width: usize,
    /// The base model's values, where the method has a base.
    pub(super) base: &'a [f32],
    /// The values of each model.
    pub(super) models: Vec<&'a [f32]>,
}

impl Block<'_> {
    /// Number of values of each input.
    pub(super) fn len(&self) -> usize {
        self.models.first().map_or(self.base.len(), |values| values.len())
    }

    /// The delta of a model from the base at one place. Exact in f64 but for extreme ratios, so that a delta added to its
    /// base gives the model's value back.
    #[inline(always)]
    pub(super) fn delta(&self, model: usize, place: usize) -> f64 {
        f64::from(self.models[model][place]) - f64::from(self.base[place])
    }
}

/// What blocks add up.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sums {
    /// Sums of values.
    pub(super) values: Vec<f64>,
    /// Counts.
    pub(super) counts: Vec<u64>,
}

impl Sums {
    /// Adds those of the next block.
    pub(super) fn add(&mut self, next: &Self) {
        self.values.resize(self.values.len().max(next.values.len()), 0.0);
        self.counts.resize(self.counts.len().max(next.counts.len()), 0);
        self.values.iter_mut().zip(&next.values).for_each(|(sum, value)| *sum += value);
        self.counts.iter_mut().zip(&next.counts).for_each(|(sum, count)| *sum += count);
    }
}

/// A method with its settings for one tensor.
pub(super) trait Rule: Send + Sync {
    /// Passes over the inputs before the result.
    fn n_passes(&self) -> usize {
        0
    }

    /// What a block adds up in a pass.
    fn measure(&self, _pass: usize, _block: &Block<'_>) -> Sums {
        Sums::default()
    }

    /// Takes the sums of all blocks of a pass.
    fn finish_pass(&mut self, _pass: usize, _sums: &Sums) {}

    /// The result of a block, and what is counted for the report.
    fn merge(&self, block: &Block<'_>, merged: &mut [f32]) -> Sums;

    /// What is reported of the tensor, from the sums of all results.
    fn figures(&self, _n_values: usize, _sums: &Sums) -> Figures {
        Figures::default()
    }
}

/// What a method reports of a tensor. What does not apply is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// SLERP: cosine of the two tensors. Model Stock: c, the mean cosine of pairs of deltas (row-wise: its mean over the rows).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// Model Stock: t, the weight of the mean of the models; the rest is the base's. Row-wise: its mean over the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Model Stock: the share of ratios that were set to 0, because the deltas point away from each other on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_guarded: Option<f64>,
    /// SLERP: the tensors are so near to one line that they were interpolated linearly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_linear: Option<bool>,
    /// The share of the entries of each model's delta that were kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<f64>,
    /// Of the places where at least one model keeps an entry other than 0, the share at which the signs of kept entries
    /// differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign_conflicts: Option<f64>,
    /// Of a tensor that is saved as an adapter: the share of the squared norm of its difference from the base that the
    /// adapter has; 0 where it has none for the tensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captured: Option<f64>,
    /// Of a tensor that is saved as an adapter: the squared norm of its difference from the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<f64>,
}

/// `n` of `all` as a share; 0 of nothing.
pub(super) fn share(n: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { n as f64 / all as f64 }
}
