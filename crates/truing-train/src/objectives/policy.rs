//! The policy's objective: a clipped surrogate on given advantages, KL penalties, and the KL to the original model
//! on fine-tuning data in place of PTX (report 2.1). What the advantages are is [`crate::advantages`]'s business.
//!
//! ```text
//! rho_t = exp(log pi(o_t) - log pi_old(o_t))          (or one ratio a sequence: GSPO, arXiv 2507.18071)
//! L     = - sum_t w_t min(rho_t A_t, clip(rho_t, 1 - low, 1 + high) A_t) / W          policy
//!         + c sum_t w_t kl_t / W                                                     kl
//!         + gamma sum_{t in ptx} kl_t / N                                            ptx
//! ```
//!
//! Weights and their sum `W` are the [`Aggregation`]. The exact `kl_t` depends on the state before the token alone:
//! as a number in the reward it teaches only earlier tokens. Its direct gradient is the part `kl` here. With
//! `c = beta`, weights that are the same for every token ([`Aggregation::ConstantLength`]) and advantages that are
//! centred and not divided, both together are the full gradient of the report's Eq. 2. In all other cases they are not
//! the gradient of one objective: [`Aggregation::SequenceMean`] divides by the completion's own length, which is
//! random; [`Aggregation::TokenMean`] by the tokens of the step; a division by the group's deviation scales the
//! reward's part, and with it a KL in the outcome ([`KlInReward::InOutcome`](crate::KlInReward)), but not the direct
//! part. The sign of the printed gamma term is that of a penalty.
//!
//! Completions that another policy `mu` has sampled (the same weights in 8 bits) carry importance weights, which
//! multiply each token's part of the first line: `pi_old(o_t) / mu(o_t)`, truncated. Token by token this mends the
//! distribution of each token given what came before it. What came before, and what follows and decides the reward,
//! stay `mu`'s: the expectation is the gradient of `sum_t E_{s_t ~ mu} sum_o pi(o | s_t) Q_mu(s_t, o)`, which differs
//! from that of the policy's own expected reward in the first order of `pi - mu`. A KL part is an expectation over
//! `mu`'s states too, and truncation takes weight from the tokens that `mu` draws too rarely. Only weights of the whole
//! completion (their product) would be free of bias, at a variance that grows with its length.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_model::{HeadGradient, HeadOutput, HeadRequest, TopLogProbs};
use truing_types::{ExcludedTokens, PackedBatch};

use super::{Objective, TrainingPack, WeightedSum};

/// What a pack is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyPackKind {
    /// Completions of the policy with their advantages.
    Rollouts,
    /// Fine-tuning data, on which the policy should stay near the original model.
    Ptx,
}

/// Completions of a policy, all per target in the order of [`PackedBatch::targets`].
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyPack {
    /// Rollouts or fine-tuning data.
    pub kind: PolicyPackKind,
    /// The tokens; loss weight 1 on the completions' tokens.
    pub batch: PackedBatch,
    /// Completion that each target belongs to, ascending from 0 `[n_targets]`.
    pub completions: Vec<u32>,
    /// `[n_targets]`; empty for fine-tuning data.
    pub advantages: Vec<f32>,
    /// Log-probabilities when the completions were sampled `[n_targets]`; empty for fine-tuning data.
    pub old_log_probs: Vec<f32>,
    /// Log-probabilities under the reference, for the sampled estimator `[n_targets]`; empty where not used.
    pub reference_log_probs: Vec<f32>,
    /// Weights for what was sampled from another distribution than the policy's, truncated `[n_targets]`; empty for 1.
    pub importance_weights: Vec<f32>,
    /// The reference's most likely tokens `[n_targets, k]`, for the exact KL. The largest part of a pack by far, so it
    /// is shared by all updates that learn from it.
    pub reference: Option<TopLogProbs>,
}

impl TrainingPack for PolicyPack {
    fn batch(&self) -> &PackedBatch {
        &self.batch
    }
}

/// How the tokens' losses become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The mean over completions of each one's mean (GRPO).
    #[default]
    SequenceMean,
    /// The mean over all tokens of the step (DAPO, arXiv 2503.14476).
    TokenMean,
    /// The sum over tokens by the longest completion allowed, the mean over completions (Dr. GRPO).
    ConstantLength(u32),
}

/// What the probability ratio is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RatioLevel {
    /// One ratio per token.
    #[default]
    Token,
    /// One ratio per completion: the geometric mean of its tokens' ratios (GSPO).
    Sequence,
}

/// A KL penalty in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum KlInLoss {
    /// None.
    #[default]
    None,
    /// The exact KL over the reference's top tokens, with its own gradient.
    Exact(f64),
    /// `pi_ref / pi - log(pi_ref / pi) - 1` of the token sampled (k3; DeepSeekMath). Its gradient is that of the KL
    /// in the other direction, not of the reverse KL that its value estimates.
    K3(f64),
}

/// The objective.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Temperature that the completions were sampled at; the policy is the tempered distribution.
    pub temperature: f32,
    /// Tokens that are never sampled; the policy is the distribution over all others.
    pub excluded: ExcludedTokens,
    /// Ratios below `1 - clip_low` are cut where that helps.
    pub clip_low: f64,
    /// Ratios above `1 + clip_high` are cut where that helps.
    pub clip_high: f64,
    /// How tokens become one loss.
    pub aggregation: Aggregation,
    /// What the ratio is taken over.
    pub ratio_level: RatioLevel,
    /// A KL penalty in the loss.
    pub kl: KlInLoss,
    /// Weight of the KL to the original model on fine-tuning data (gamma).
    pub ptx_coefficient: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            excluded: ExcludedTokens::none(),
            clip_low: 0.2,
            clip_high: 0.2,
            aggregation: Aggregation::default(),
            ratio_level: RatioLevel::default(),
            kl: KlInLoss::default(),
            ptx_coefficient: 0.0,
        }
    }
}

const POLICY: usize = 0;
const PTX: usize = 1;

/// One target as the surrogate sees it.
struct Surrogate {
    /// `-min(...)`, before weighting.
    loss: f64,
    /// Its derivative with respect to the ratio's logarithm.
    d_log_ratio: f64,
    is_clipped_low: bool,
    is_clipped_high: bool,
}

impl PolicyPack {
    fn n_targets_of_completions(&self) -> Vec<u32> {
        let mut counts = vec![0; self.completions.last().map_or(0, |&last| last as usize + 1)];
        self.completions.iter().for_each(|&completion| counts[completion as usize] += 1);
        counts
    }

    fn importance_weight(&self, target: usize) -> f64 {
        self.importance_weights.get(target).map_or(1.0, |&weight| f64::from(weight))
    }
}

impl Policy {
    /// Weight of each target `[n_targets]`; their sum over the step is not the denominator of `ConstantLength`.
    fn weights(&self, pack: &PolicyPack) -> Vec<f64> {
        let counts = pack.n_targets_of_completions();
        let weight = |&completion: &u32| match self.aggregation {
            Aggregation::SequenceMean => 1.0 / f64::from(counts[completion as usize]),
            Aggregation::TokenMean => 1.0,
            Aggregation::ConstantLength(length) => 1.0 / f64::from(length),
        };
        pack.completions.iter().map(weight).collect()
    }

    fn log_ratios(&self, pack: &PolicyPack, output: &HeadOutput) -> Vec<f64> {
        let log_probs = output.tokens.log_probs.iter().zip(&pack.old_log_probs);
        let mut ratios: Vec<f64> = log_probs.map(|(&now, &old)| f64::from(now) - f64::from(old)).collect();
        if self.ratio_level == RatioLevel::Sequence {
            let counts = pack.n_targets_of_completions();
            let mut sums = vec![0.0; counts.len()];
            ratios.iter().zip(&pack.completions).for_each(|(ratio, &i)| sums[i as usize] += ratio);
            for (ratio, &i) in ratios.iter_mut().zip(&pack.completions) {
                *ratio = sums[i as usize] / f64::from(counts[i as usize]);
            }
        }
        ratios
    }

    fn surrogate(&self, log_ratio: f64, advantage: f64) -> Surrogate {
        let ratio = log_ratio.exp();
        let clipped = ratio.clamp(1.0 - self.clip_low, 1.0 + self.clip_high);
        let is_clipped = clipped * advantage < ratio * advantage;
        Surrogate {
            loss: -(ratio * advantage).min(clipped * advantage),
            d_log_ratio: if is_clipped { 0.0 } else { -ratio * advantage },
            is_clipped_low: is_clipped && ratio < 1.0,
            is_clipped_high: is_clipped && ratio > 1.0,
        }
    }

    /// k3 and its derivative with respect to the policy's log-probability.
    fn k3(pack: &PolicyPack, output: &HeadOutput, target: usize) -> (f64, f64) {
        let reference = pack.reference_log_probs.get(target).copied().unwrap_or_default();
        let log_ratio = f64::from(reference) - f64::from(output.tokens.log_probs[target]);
        (log_ratio.exp_m1() - log_ratio, 1.0 - log_ratio.exp())
    }
}

impl Objective for Policy {
    type Pack = PolicyPack;

    fn request<'a>(&self, pack: &'a PolicyPack) -> HeadRequest<'a> {
        HeadRequest::LogProbs {
            targets: Cow::Owned(pack.batch.targets()),
            temperature: self.temperature,
            excluded: self.excluded.clone(),
            reference: pack.reference.clone().map(Into::into),
        }
    }

    fn denominators(&self, pack: &PolicyPack, request: &HeadRequest<'_>) -> Vec<f64> {
        let n_targets = request.rows().len() as f64;
        match (pack.kind, self.aggregation) {
            (PolicyPackKind::Ptx, _) => vec![0.0, n_targets],
            (_, Aggregation::TokenMean) => vec![n_targets, 0.0],
            (_, Aggregation::SequenceMean | Aggregation::ConstantLength(_)) => {
                vec![pack.n_targets_of_completions().len() as f64, 0.0]
            }
        }
    }

    fn gradient(
        &self,
        pack: &PolicyPack,
        _request: &HeadRequest<'_>,
        output: &HeadOutput,
        denominators: &[f64],
    ) -> HeadGradient {
        let n_targets = output.tokens.log_probs.len();
        if pack.kind == PolicyPackKind::Ptx {
            let d_kl = (self.ptx_coefficient / denominators[PTX]) as f32;
            return HeadGradient { kl: vec![d_kl; n_targets], ..HeadGradient::default() };
        }
        let weights: Vec<f64> =
            self.weights(pack).into_iter().map(|weight| weight / denominators[POLICY]).collect();
        let log_ratios = self.log_ratios(pack, output);
        let mut log_probs: Vec<f64> = (0..n_targets)
            .map(|t| {
                let surrogate = self.surrogate(log_ratios[t], f64::from(pack.advantages[t]));
                weights[t] * pack.importance_weight(t) * surrogate.d_log_ratio
            })
            .collect();
        if self.ratio_level == RatioLevel::Sequence {
            // Every token moves the ratio of all tokens of its completion by 1 / |o|.
            let counts = pack.n_targets_of_completions();
            let mut sums = vec![0.0; counts.len()];
            log_probs.iter().zip(&pack.completions).for_each(|(d, &i)| sums[i as usize] += d);
            for (d, &i) in log_probs.iter_mut().zip(&pack.completions) {
                *d = sums[i as usize] / f64::from(counts[i as usize]);
            }
        }
        let mut kl = Vec::new();
        match self.kl {
            KlInLoss::None => {}
            KlInLoss::Exact(coefficient) => {
                kl = weights.iter().map(|weight| (coefficient * weight) as f32).collect();
            }
            KlInLoss::K3(coefficient) => {
                for (t, d) in log_probs.iter_mut().enumerate() {
                    *d += coefficient * weights[t] * Self::k3(pack, output, t).1;
                }
            }
        }
        let log_probs = log_probs.into_iter().map(|d| d as f32).collect();
        HeadGradient { log_probs, kl, ..HeadGradient::default() }
    }

    fn metric_names(&self) -> Vec<&str> {
        vec![
            "policy_loss",
            "kl_loss",
            "ptx_kl",
            "kl",
            "entropy",
            "clip_ratio/low_mean",
            "clip_ratio/high_mean",
            "clip_ratio/region_mean",
            "log_ratio_mean",
        ]
    }

    fn measure(&self, pack: &PolicyPack, request: &HeadRequest<'_>, output: &HeadOutput) -> Vec<WeightedSum> {
        let mut sums = vec![WeightedSum::default(); self.metric_names().len()];
        let denominators = self.denominators(pack, request);
        let n_targets = output.tokens.log_probs.len();
        let total = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>();
        if pack.kind == PolicyPackKind::Ptx {
            sums[2] = WeightedSum { numerator: total(&output.kl), denominator: denominators[PTX] };
            return sums;
        }
        let (weights, log_ratios) = (self.weights(pack), self.log_ratios(pack, output));
        for t in 0..n_targets {
            let surrogate = self.surrogate(log_ratios[t], f64::from(pack.advantages[t]));
            sums[0].numerator += weights[t] * pack.importance_weight(t) * surrogate.loss;
            sums[1].numerator += weights[t]
                * match self.kl {
                    KlInLoss::None => 0.0,
                    KlInLoss::Exact(_) => f64::from(output.kl[t]),
                    KlInLoss::K3(_) => Self::k3(pack, output, t).0,
                };
            let kl = match output.kl.get(t) {
                Some(&kl) => f64::from(kl),
                None if pack.reference_log_probs.is_empty() => 0.0,
                None => Self::k3(pack, output, t).0,
            };
            sums[3].numerator += kl;
            sums[5].numerator += f64::from(u8::from(surrogate.is_clipped_low));
            sums[6].numerator += f64::from(u8::from(surrogate.is_clipped_high));
            sums[8].numerator += log_ratios[t];
        }
        sums[4].numerator = total(&output.tokens.entropies);
        sums[7].numerator = sums[5].numerator + sums[6].numerator;
        for sum in &mut sums[..2] {
            sum.denominator = denominators[POLICY];
        }
        for sum in &mut sums[3..] {
            sum.denominator = n_targets as f64;
        }
        sums
    }

    fn loss(&self, means: &BTreeMap<String, f64>) -> f64 {
        // A part that no pack of the step has a share in is 0 / 0.
        let mean = |name: &str| means.get(name).copied().filter(|mean| !mean.is_nan());
        let kl_coefficient = match self.kl {
            KlInLoss::None => 0.0,
            KlInLoss::Exact(coefficient) | KlInLoss::K3(coefficient) => coefficient,
        };
        let parts = [
            (1.0, mean("policy_loss")),
            (kl_coefficient, mean("kl_loss")),
            (self.ptx_coefficient, mean("ptx_kl")),
        ];
        let known = parts.iter().filter(|(weight, _)| *weight != 0.0).filter_map(|(w, m)| Some(w * (*m)?));
        known.reduce(|a, b| a + b).unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_model::TokenLogProbs;
    use truing_types::RowOrigin;

    /// Two completions of 3 and 1 tokens after prompts of one token.
    fn example(kind: PolicyPackKind) -> (PolicyPack, HeadOutput) {
        let origin = |line| RowOrigin { source: "t".into(), line };
        let batch = PackedBatch::new([
            (&[1, 2, 3, 4][..], &[0.0, 1.0, 1.0, 1.0][..], origin(1)),
            (&[5, 6][..], &[0.0, 1.0][..], origin(2)),
        ])
        .unwrap();
        let pack = PolicyPack {
            kind,
            batch,
            completions: vec![0, 0, 0, 1],
            advantages: vec![0.5, -1.0, 2.0, -0.75],
            old_log_probs: vec![-1.1, -0.6, -2.5, -0.9],
            reference_log_probs: vec![-1.0, -0.8, -2.0, -1.4],
            importance_weights: vec![1.0, 0.5, 2.0, 1.0],
            reference: None,
        };
        let tokens = TokenLogProbs {
            log_probs: vec![-1.0, -0.5, -2.0, -1.3],
            entropies: vec![1.0; 4],
            is_argmax: vec![true; 4],
        };
        (pack, HeadOutput { tokens, kl: vec![0.1, 0.3, 0.0, 0.25], ..HeadOutput::default() })
    }

    fn loss(objective: &Policy, pack: &PolicyPack, output: &HeadOutput) -> f64 {
        let measured = objective.measure(pack, &objective.request(pack), output);
        let means = measured.iter().map(|sum| sum.numerator / sum.denominator);
        objective.loss(&objective.metric_names().iter().map(ToString::to_string).zip(means).collect())
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let aggregations =
            [Aggregation::SequenceMean, Aggregation::TokenMean, Aggregation::ConstantLength(7)];
        for aggregation in aggregations {
            for ratio_level in [RatioLevel::Token, RatioLevel::Sequence] {
                for kl in [KlInLoss::None, KlInLoss::Exact(0.3), KlInLoss::K3(0.2)] {
                    for kind in [PolicyPackKind::Rollouts, PolicyPackKind::Ptx] {
                        let objective = Policy {
                            aggregation,
                            ratio_level,
                            kl,
                            ptx_coefficient: 0.4,
                            ..Policy::default()
                        };
                        let (pack, output) = example(kind);
                        let request = objective.request(&pack);
                        let denominators = objective.denominators(&pack, &request);
                        let gradient = objective.gradient(&pack, &request, &output, &denominators);
                        let step = 1.0 / 512.0;
                        let difference = |change: &dyn Fn(&mut HeadOutput, f32)| {
                            let moved = |by: f32| {
                                let mut output = output.clone();
                                change(&mut output, by);
                                loss(&objective, &pack, &output)
                            };
                            (moved(step) - moved(-step)) / (2.0 * f64::from(step))
                        };
                        for t in 0..4 {
                            let of_log_prob = gradient.log_probs.get(t).copied().unwrap_or_default();
                            let expected = difference(&|output, by| output.tokens.log_probs[t] += by);
                            assert!((f64::from(of_log_prob) - expected).abs() < 1e-4, "{objective:?} {t}");
                            let of_kl = gradient.kl.get(t).copied().unwrap_or_default();
                            let expected = difference(&|output, by| output.kl[t] += by);
                            assert!((f64::from(of_kl) - expected).abs() < 1e-4, "{objective:?} {t}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn only_ratios_that_help_are_clipped() {
        let objective = Policy::default();
        for (log_ratio, advantage, is_clipped) in [
            (0.3, 1.0, true),
            (0.3, -1.0, false),
            (-0.3, 1.0, false),
            (-0.3, -1.0, true),
            (0.1, 1.0, false),
            (0.1, -1.0, false),
        ] {
            let surrogate = objective.surrogate(log_ratio, advantage);
            assert_eq!(surrogate.d_log_ratio == 0.0, is_clipped, "{log_ratio} {advantage}");
            assert_eq!(surrogate.is_clipped_low || surrogate.is_clipped_high, is_clipped);
        }
    }
}
