//! Distillation: the student's distribution at every token of its own completions is moved to the teacher's (on-policy
//! distillation; GKD, arXiv 2306.13649).
//!
//! ```text
//! L = sum_t D(p_t, q_t) / n        p_t: student, q_t: teacher, each after the same completion tokens
//! ```
//!
//! `D` is a [`Divergence`] over the k tokens of the pack at each target, exact and with its own gradient at each token.
//! The gradient through which completions are sampled is left out, as in GKD. The teacher may have read another prompt
//! than the student: a complement, a golden answer, a critique.

use std::borrow::Cow;

use truing_model::{Divergence, HeadGradient, HeadOutput, HeadRequest, Reference, TopLogProbs};
use truing_types::{ExcludedTokens, PackedBatch};

use super::{Objective, TrainingPack, WeightedSum};

/// Completions of the student with what the teacher finds likely at each token.
#[derive(Debug, Clone, PartialEq)]
pub struct DistillationPack {
    /// The student's tokens; loss weight 1 on the completions' tokens.
    pub batch: PackedBatch,
    /// Tokens of each completion.
    pub n_targets: Vec<usize>,
    /// The teacher's log-probabilities at every target, in the order of [`PackedBatch::targets`] `[n_targets, k]`.
    /// Shared, because they are the largest part.
    pub teacher: TopLogProbs,
}

impl TrainingPack for DistillationPack {
    fn batch(&self) -> &PackedBatch {
        &self.batch
    }
}

/// The objective.
#[derive(Debug, Clone, PartialEq)]
pub struct Distillation {
    /// Temperature of both distributions.
    pub temperature: f32,
    /// Tokens that are never sampled; the distributions are over all others.
    pub excluded: ExcludedTokens,
    /// What is minimised.
    pub divergence: Divergence,
}

impl Objective for Distillation {
    type Pack = DistillationPack;

    fn request<'a>(&self, pack: &'a DistillationPack) -> HeadRequest<'a> {
        HeadRequest::LogProbs {
            targets: Cow::Owned(pack.batch.targets()),
            temperature: self.temperature,
            excluded: self.excluded.clone(),
            reference: Some(Reference { top: pack.teacher.clone(), divergence: self.divergence }),
        }
    }

    fn denominators(&self, _pack: &DistillationPack, request: &HeadRequest<'_>) -> Vec<f64> {
        vec![request.rows().len() as f64]
    }

    fn constant_gradient(
        &self,
        _pack: &DistillationPack,
        request: &HeadRequest<'_>,
        denominators: &[f64],
    ) -> Option<HeadGradient> {
        let kl = vec![(1.0 / denominators[0]) as f32; request.rows().len()];
        Some(HeadGradient { kl, ..HeadGradient::default() })
    }

    fn gradient(
        &self,
        pack: &DistillationPack,
        request: &HeadRequest<'_>,
        _output: &HeadOutput,
        denominators: &[f64],
    ) -> HeadGradient {
        self.constant_gradient(pack, request, denominators).unwrap_or_default()
    }

    fn metric_names(&self) -> Vec<&str> {
        vec!["loss", "entropy", "completions/mean_length"]
    }

    fn measure(
        &self,
        pack: &DistillationPack,
        request: &HeadRequest<'_>,
        output: &HeadOutput,
    ) -> Vec<WeightedSum> {
        let n_targets = request.rows().len() as f64;
        let total = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>();
        vec![
            WeightedSum { numerator: total(&output.kl), denominator: n_targets },
            WeightedSum { numerator: total(&output.tokens.entropies), denominator: n_targets },
            WeightedSum { numerator: n_targets, denominator: pack.n_targets.len() as f64 },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_model::{HostTopLogProbs, TokenLogProbs};
    use truing_types::RowOrigin;

    #[test]
    fn the_loss_is_the_mean_over_all_tokens_of_the_step() {
        let origin = RowOrigin { source: "t".into(), line: 1 };
        let pack = |n: usize| {
            let weights: Vec<f32> = [vec![0.0], vec![1.0; n]].concat();
            let batch = PackedBatch::new([(&vec![1; n + 1][..], &weights[..], origin.clone())]).unwrap();
            let top = HostTopLogProbs { k: 1, tokens: vec![0; n], log_probs: vec![0.0; n] };
            DistillationPack { batch, n_targets: vec![n], teacher: top.into() }
        };
        let output = |kl: Vec<f32>| HeadOutput {
            tokens: TokenLogProbs { entropies: vec![0.5; kl.len()], ..TokenLogProbs::default() },
            kl,
            ..HeadOutput::default()
        };
        let objective = Distillation {
            temperature: 1.0,
            excluded: ExcludedTokens::none(),
            divergence: Divergence::ForwardKl,
        };
        let (packs, outputs) = ([pack(1), pack(3)], [output(vec![4.0]), output(vec![1.0, 2.0, 1.0])]);
        let means: Vec<f64> = objective
            .measure_step(&packs, &outputs)
            .iter()
            .map(|sum| sum.numerator / sum.denominator)
            .collect();
        assert_eq!(means, [2.0, 0.5, 2.0], "mean divergence, entropy, length");
        let denominator =
            packs.iter().map(|pack| objective.denominators(pack, &objective.request(pack))[0]).sum();
        assert_eq!(denominator, 4.0);
        for pack in &packs {
            let gradient =
                objective.constant_gradient(pack, &objective.request(pack), &[denominator]).unwrap();
            assert_eq!(gradient.kl, vec![0.25; pack.batch.targets().rows.len()]);
            assert!(gradient.log_probs.is_empty());
        }
    }
}
