//! Supervised fine-tuning (report 2.1): the weighted mean of `-log p` over all loss tokens of the optimiser
//! step, as one division of two global sums.
//!
//! ```text
//! L = sum_t w_t (-log p_t) / sum_t w_t        dL / dlog p_t = -w_t / sum_t w_t
//! ```
//!
//! The gradient depends on nothing but the weights, so it is known before the forward pass.

use truing_model::TokenLogProbs;
use truing_types::{PackedBatch, TargetTokens};

use super::{Objective, WeightedSum};

/// The objective of supervised fine-tuning.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sft;

fn total_weight(targets: &TargetTokens) -> f64 {
    targets.weights.iter().map(|&weight| f64::from(weight)).sum()
}

fn weighted_sum(weights: &[f32], values: impl Iterator<Item = f64>) -> f64 {
    weights.iter().zip(values).map(|(&weight, value)| f64::from(weight) * value).sum()
}

impl Objective for Sft {
    fn denominator(&self, _batch: &PackedBatch, targets: &TargetTokens) -> f64 {
        total_weight(targets)
    }

    fn constant_gradient(
        &self,
        _batch: &PackedBatch,
        targets: &TargetTokens,
        denominator: f64,
    ) -> Option<Vec<f32>> {
        Some(targets.weights.iter().map(|&weight| (-f64::from(weight) / denominator) as f32).collect())
    }

    fn gradient(
        &self,
        batch: &PackedBatch,
        targets: &TargetTokens,
        _log_probs: &TokenLogProbs,
        denominator: f64,
    ) -> Vec<f32> {
        self.constant_gradient(batch, targets, denominator).unwrap_or_default()
    }

    fn metric_names(&self) -> &'static [&'static str] {
        &["loss", "mean_token_accuracy", "entropy"]
    }

    fn measure(
        &self,
        _batch: &PackedBatch,
        targets: &TargetTokens,
        scores: &TokenLogProbs,
    ) -> Vec<WeightedSum> {
        let denominator = total_weight(targets);
        let weights = &targets.weights;
        [
            weighted_sum(weights, scores.log_probs.iter().map(|&log_prob| -f64::from(log_prob))),
            weighted_sum(weights, scores.is_argmax.iter().map(|&hit| f64::from(u8::from(hit)))),
            weighted_sum(weights, scores.entropies.iter().map(|&entropy| f64::from(entropy))),
        ]
        .map(|numerator| WeightedSum { numerator, denominator })
        .to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_types::RowOrigin;

    fn example() -> (PackedBatch, TargetTokens, TokenLogProbs) {
        let origin = RowOrigin { source: "t".into(), line: 1 };
        let batch = PackedBatch::new([(&[1, 2, 3, 4][..], &[0.0, 1.0, 0.5, 2.0][..], origin)]).unwrap();
        let targets = batch.targets();
        let scores = TokenLogProbs {
            log_probs: vec![-1.0, -2.0, -0.25],
            entropies: vec![0.5, 1.0, 2.0],
            is_argmax: vec![true, false, true],
        };
        (batch, targets, scores)
    }

    fn loss(batch: &PackedBatch, targets: &TargetTokens, scores: &TokenLogProbs) -> f64 {
        Sft.measure(batch, targets, scores)[0].numerator / Sft.denominator(batch, targets)
    }

    #[test]
    fn metrics_are_means_weighted_by_the_loss_weights() {
        let (batch, targets, scores) = example();
        let means: Vec<f64> =
            Sft.measure(&batch, &targets, &scores).iter().map(|m| m.numerator / m.denominator).collect();
        assert_eq!(means, [2.5 / 3.5, 3.0 / 3.5, 5.0 / 3.5]);
        assert_eq!(Sft.metric_names().len(), means.len());
    }

    #[test]
    fn the_gradient_equals_finite_differences() {
        let (batch, targets, scores) = example();
        let denominator = Sft.denominator(&batch, &targets);
        let gradient = Sft.constant_gradient(&batch, &targets, denominator).unwrap();
        for (target_idx, &closed_form) in gradient.iter().enumerate() {
            let mut moved = [scores.clone(), scores.clone()];
            moved[0].log_probs[target_idx] += 0.125;
            moved[1].log_probs[target_idx] -= 0.125;
            let [up, down] = moved.map(|scores| loss(&batch, &targets, &scores));
            assert!((f64::from(closed_form) - (up - down) / 0.25).abs() < 1e-7);
        }
    }
}
