//! Objectives: a loss as a numerator over a denominator, and its closed-form gradient with respect to what
//! the engine hands back. One file each; the trainer knows none of them by name.

mod sft;

pub use sft::Sft;

use truing_model::TokenLogProbs;
use truing_types::{PackedBatch, TargetTokens};

/// A weighted mean in the making: sums over tokens, packs and ranks stay apart until one division.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct WeightedSum {
    /// Sum of weight times value.
    pub numerator: f64,
    /// Sum of weights.
    pub denominator: f64,
}

/// A loss over token log-probabilities, `numerator / denominator`, both summed over the whole optimiser step
/// (every pack of every rank) before one division, so that the gradient does not depend on how the step was
/// cut.
pub trait Objective {
    /// One pack's share of the step's denominator, known before any forward pass.
    fn denominator(&self, batch: &PackedBatch, targets: &TargetTokens) -> f64;

    /// The gradient of the loss with respect to each log-probability `[n_targets]`, where it does not depend
    /// on the log-probabilities; the head then runs once. `None` where it does.
    fn constant_gradient(
        &self,
        batch: &PackedBatch,
        targets: &TargetTokens,
        denominator: f64,
    ) -> Option<Vec<f32>>;

    /// The same where it depends on them. Asked only when [`constant_gradient`](Self::constant_gradient)
    /// gave `None`.
    fn gradient(
        &self,
        batch: &PackedBatch,
        targets: &TargetTokens,
        log_probs: &TokenLogProbs,
        denominator: f64,
    ) -> Vec<f32>;

    /// Names of what [`measure`](Self::measure) returns. The first is the loss.
    fn metric_names(&self) -> &'static [&'static str];

    /// One pack's share of each metric, in the order of the names.
    fn measure(
        &self,
        batch: &PackedBatch,
        targets: &TargetTokens,
        log_probs: &TokenLogProbs,
    ) -> Vec<WeightedSum>;
}
