//! Supervised fine-tuning (report 2.1): the weighted mean of `-log p` over all loss tokens of the optimiser
//! step, as one division of two global sums.
//!
//! ```text
//! L = sum_t w_t (-log p_t) / sum_t w_t        dL / dlog p_t = -w_t / sum_t w_t
//! ```
//!
//! The gradient depends on nothing but the weights, so it is known before the forward pass.
//!
//! The softmax is over every row of the head, as in transformers, rows without a token included: fine-tuning then
//! teaches the model not to predict them. (Sampling, and [`Policy`](super::Policy) with it, excludes these rows.)

use std::borrow::Cow;

use truing_model::{HeadGradient, HeadOutput, HeadRequest};
use truing_types::{ExcludedTokens, PackedBatch, TargetTokens};

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
    type Pack = PackedBatch;

    fn request<'a>(&self, pack: &'a PackedBatch) -> HeadRequest<'a> {
        HeadRequest::LogProbs {
            targets: Cow::Owned(pack.targets()),
            temperature: 1.0,
            excluded: ExcludedTokens::none(),
            reference: None,
        }
    }

    fn denominators(&self, _pack: &PackedBatch, request: &HeadRequest<'_>) -> Vec<f64> {
        vec![request.targets().map_or(0.0, total_weight)]
    }

    fn constant_gradient(
        &self,
        _pack: &PackedBatch,
        request: &HeadRequest<'_>,
        denominators: &[f64],
    ) -> Option<HeadGradient> {
        let weights = &request.targets()?.weights;
        let log_probs = weights.iter().map(|&weight| (-f64::from(weight) / denominators[0]) as f32).collect();
        Some(HeadGradient { log_probs, ..HeadGradient::default() })
    }

    fn gradient(
        &self,
        pack: &PackedBatch,
        request: &HeadRequest<'_>,
        _output: &HeadOutput,
        denominators: &[f64],
    ) -> HeadGradient {
        self.constant_gradient(pack, request, denominators).unwrap_or_default()
    }

    fn metric_names(&self) -> Vec<&str> {
        vec!["loss", "mean_token_accuracy", "entropy"]
    }

    fn measure(
        &self,
        _pack: &PackedBatch,
        request: &HeadRequest<'_>,
        output: &HeadOutput,
    ) -> Vec<WeightedSum> {
        let Some(targets) = request.targets() else { return Vec::new() };
        let denominator = total_weight(targets);
        let (weights, tokens) = (&targets.weights, &output.tokens);
        [
            weighted_sum(weights, tokens.log_probs.iter().map(|&log_prob| -f64::from(log_prob))),
            weighted_sum(weights, tokens.is_argmax.iter().map(|&hit| f64::from(u8::from(hit)))),
            weighted_sum(weights, tokens.entropies.iter().map(|&entropy| f64::from(entropy))),
        ]
        .map(|numerator| WeightedSum { numerator, denominator })
        .to_vec()
    }

    fn pieces(&self, pack: &PackedBatch) -> Vec<PackedBatch> {
        let alone = |(sequence_idx, origin): (usize, &truing_types::RowOrigin)| {
            let range = pack.sequence_range(sequence_idx);
            let (tokens, weights) = (&pack.tokens()[range.clone()], &pack.loss_weights()[range]);
            PackedBatch::new([(tokens, weights, origin.clone())]).ok()
        };
        pack.origins().iter().enumerate().filter_map(alone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_model::TokenLogProbs;
    use truing_types::RowOrigin;

    fn example() -> (PackedBatch, HeadOutput) {
        let origin = RowOrigin { source: "t".into(), line: 1 };
        let batch = PackedBatch::new([(&[1, 2, 3, 4][..], &[0.0, 1.0, 0.5, 2.0][..], origin)]).unwrap();
        let tokens = TokenLogProbs {
            log_probs: vec![-1.0, -2.0, -0.25],
            entropies: vec![0.5, 1.0, 2.0],
            is_argmax: vec![true, false, true],
        };
        (batch, HeadOutput { tokens, ..HeadOutput::default() })
    }

    fn loss(batch: &PackedBatch, output: &HeadOutput) -> f64 {
        let request = Sft.request(batch);
        Sft.measure(batch, &request, output)[0].numerator / Sft.denominators(batch, &request)[0]
    }

    #[test]
    fn metrics_are_means_weighted_by_the_loss_weights() {
        let (batch, output) = example();
        let measured = Sft.measure(&batch, &Sft.request(&batch), &output);
        let means: Vec<f64> = measured.iter().map(|m| m.numerator / m.denominator).collect();
        assert_eq!(means, [2.5 / 3.5, 3.0 / 3.5, 5.0 / 3.5]);
        assert_eq!(Sft.metric_names().len(), means.len());
    }

    #[test]
    fn the_gradient_equals_finite_differences() {
        let (batch, output) = example();
        let request = Sft.request(&batch);
        let denominators = Sft.denominators(&batch, &request);
        let gradient = Sft.constant_gradient(&batch, &request, &denominators).unwrap().log_probs;
        for (target_idx, &closed_form) in gradient.iter().enumerate() {
            let mut moved = [output.clone(), output.clone()];
            moved[0].tokens.log_probs[target_idx] += 0.125;
            moved[1].tokens.log_probs[target_idx] -= 0.125;
            let [up, down] = moved.map(|output| loss(&batch, &output));
            assert!((f64::from(closed_form) - (up - down) / 0.25).abs() < 1e-7);
        }
    }
}
