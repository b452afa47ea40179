//! Preference losses without a reward model: the family of direct preference optimisation (Rafailov et al. 2023,
//! arXiv 2305.18290), one file a loss. Each is a function of the summed log-probabilities of whole responses under
//! the policy and a frozen reference, and hands its derivative back with its value.

mod dpo;
mod hinge;
mod ipo;
mod kto;
mod orpo;
mod simpo;

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_model::{HeadGradient, HeadOutput, HeadRequest};
use truing_types::{ExcludedTokens, PackedBatch};

use super::{Objective, TrainingPack, WeightedSum};

/// Which loss. The names are TRL's where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceLoss {
    /// DPO (Rafailov et al. 2023, arXiv 2305.18290); with `label_smoothing` conservative DPO (Mitchell 2023).
    #[default]
    Sigmoid,
    /// Length-normalised DPO: log-probabilities per token (Lambert et al. 2024, arXiv 2411.15124).
    SigmoidNorm,
    /// Robust DPO: unbiased if a fraction of the labels is flipped (Chowdhury et al. 2024, arXiv 2403.00409).
    Robust,
    /// IPO: squared loss (Azar et al. 2023, arXiv 2310.12036).
    Ipo,
    /// Hinge loss, as in SLiC (Zhao et al. 2023, arXiv 2305.10425).
    Hinge,
    /// SimPO: mean log-probabilities and a target margin, no reference model (Meng et al. 2024, arXiv 2405.14734).
    Simpo,
    /// ORPO: negative log-likelihood of the chosen response plus an odds-ratio term, no reference model (Hong et al.
    /// 2024, arXiv 2403.07691).
    Orpo,
    /// KTO: unpaired responses, each desirable or undesirable (Ethayarajh et al. 2024, arXiv 2402.01306).
    Kto,
}

impl PreferenceLoss {
    /// Whether a frozen reference takes part.
    #[must_use]
    pub fn uses_reference(self) -> bool {
        !matches!(self, Self::Simpo | Self::Orpo)
    }

    /// Whether it learns from single verdicts and not from pairs.
    #[must_use]
    pub fn is_unpaired(self) -> bool {
        self == Self::Kto
    }
}

/// The objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preference {
    /// Which loss.
    pub loss: PreferenceLoss,
    /// Strength of the pull to the reference; the weight of the odds ratio in ORPO.
    pub beta: f64,
    /// Share of labels taken to be flipped (sigmoid, robust).
    pub label_smoothing: f64,
    /// Target margin of SimPO.
    pub gamma: f64,
    /// Weight of the mean negative log-likelihood of the better response beside the loss (RPO; Llama 3 uses it).
    pub nll_coefficient: f64,
    /// KTO's weight of wanted responses.
    pub desirable_weight: f64,
    /// KTO's weight of unwanted ones.
    pub undesirable_weight: f64,
    /// KTO's reference point: the policy's KL from the reference on mismatched responses, 0 or more. It is part of
    /// the step's data and carries no gradient.
    pub kto_baseline: f64,
}

impl Default for Preference {
    fn default() -> Self {
        Self {
            loss: PreferenceLoss::default(),
            beta: 0.1,
            label_smoothing: 0.0,
            gamma: 0.5,
            nll_coefficient: 0.0,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            kto_baseline: 0.0,
        }
    }
}

/// A better and a worse response, as places among a pack's responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponsePair {
    /// The better one.
    pub chosen: usize,
    /// The worse one.
    pub rejected: usize,
}

/// Responses with what is known of them. Both sides of a pair lie in the same pack.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferencePack {
    /// The tokens; what carries loss are the responses.
    pub batch: PackedBatch,
    /// Targets of each response, in the order of [`PackedBatch::targets`] `[n_responses]`.
    pub n_targets: Vec<usize>,
    /// Who is better than whom; empty for single verdicts.
    pub pairs: Vec<ResponsePair>,
    /// Whether each response is wanted `[n_responses]`; empty for pairs.
    pub verdicts: Vec<bool>,
    /// Summed log-probability of each response under the reference `[n_responses]`; empty where none takes part.
    pub reference_log_probs: Vec<f64>,
}

impl TrainingPack for PreferencePack {
    fn batch(&self) -> &PackedBatch {
        &self.batch
    }
}

/// A response as the losses see it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ResponseLogProbs {
    /// Summed log-probability under the policy.
    pub policy: f64,
    /// Under the reference; 0 where none takes part.
    pub reference: f64,
    /// Sum of the loss weights: the number of tokens.
    pub n_tokens: f64,
}

impl ResponseLogProbs {
    /// `log pi / pi_ref`.
    fn log_ratio(self) -> f64 {
        self.policy - self.reference
    }

    /// The mean over its tokens of the policy's log-probabilities.
    fn mean(self) -> f64 {
        self.policy / self.n_tokens
    }
}

/// A loss of a pair with its derivatives by the two summed log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct PairLoss {
    loss: f64,
    d_chosen: f64,
    d_rejected: f64,
}

/// `-log sigma(x)` without overflow.
fn negative_log_sigmoid(x: f64) -> f64 {
    (-x).max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The summed log-probability of each response of a pack `[n_responses]`, weighted by the loss weights, and the sum of
/// the weights.
///
/// `log_probs` are per target `[n_targets]`.
#[must_use]
pub fn response_log_probs(
    pack: &PreferencePack,
    weights: &[f32],
    log_probs: &[f32],
) -> Vec<ResponseLogProbs> {
    let mut start = 0;
    let of_response = |(i, &n): (usize, &usize)| {
        let range = start..start + n;
        start += n;
        let weights = &weights[range.clone()];
        let weighted = weights.iter().zip(&log_probs[range]).map(|(&w, &p)| f64::from(w) * f64::from(p));
        ResponseLogProbs {
            policy: weighted.sum(),
            reference: pack.reference_log_probs.get(i).copied().unwrap_or_default(),
            n_tokens: weights.iter().map(|&weight| f64::from(weight)).sum(),
        }
    };
    pack.n_targets.iter().enumerate().map(of_response).collect()
}

impl Preference {
    fn pair_loss(&self, chosen: ResponseLogProbs, rejected: ResponseLogProbs) -> PairLoss {
        let mut pair = match self.loss {
            PreferenceLoss::Sigmoid => dpo::sigmoid_loss(self, chosen, rejected),
            PreferenceLoss::SigmoidNorm => dpo::length_normalised_loss(self, chosen, rejected),
            PreferenceLoss::Robust => dpo::robust_loss(self, chosen, rejected),
            PreferenceLoss::Ipo => ipo::loss(self, chosen, rejected),
            PreferenceLoss::Hinge => hinge::loss(self, chosen, rejected),
            PreferenceLoss::Simpo => simpo::loss(self, chosen, rejected),
            PreferenceLoss::Orpo => orpo::loss(self, chosen, rejected),
            PreferenceLoss::Kto => PairLoss::default(),
        };
        if self.nll_coefficient != 0.0 {
            pair.loss -= self.nll_coefficient * chosen.mean();
            pair.d_chosen -= self.nll_coefficient / chosen.n_tokens;
        }
        pair
    }

    /// What the loss takes as a response's reward.
    fn reward(&self, response: ResponseLogProbs) -> f64 {
        match self.loss {
            PreferenceLoss::Simpo | PreferenceLoss::Orpo => self.beta * response.mean(),
            PreferenceLoss::SigmoidNorm => self.beta * response.log_ratio() / response.n_tokens,
            _ => self.beta * response.log_ratio(),
        }
    }
}

fn weights_of<'a>(request: &'a HeadRequest<'_>) -> &'a [f32] {
    request.targets().map_or(&[], |targets| &targets.weights)
}

impl Objective for Preference {
    type Pack = PreferencePack;

    fn request<'a>(&self, pack: &'a PreferencePack) -> HeadRequest<'a> {
        HeadRequest::LogProbs {
            targets: Cow::Owned(pack.batch.targets()),
            temperature: 1.0,
            excluded: ExcludedTokens::none(),
            reference: None,
        }
    }

    fn denominators(&self, pack: &PreferencePack, _request: &HeadRequest<'_>) -> Vec<f64> {
        vec![if self.loss.is_unpaired() { pack.verdicts.len() } else { pack.pairs.len() } as f64]
    }

    fn gradient(
        &self,
        pack: &PreferencePack,
        request: &HeadRequest<'_>,
        output: &HeadOutput,
        denominators: &[f64],
    ) -> HeadGradient {
        let weights = weights_of(request);
        let responses = response_log_probs(pack, weights, &output.tokens.log_probs);
        let mut by_response = vec![0.0; responses.len()];
        if self.loss.is_unpaired() {
            for ((d, &response), &is_wanted) in by_response.iter_mut().zip(&responses).zip(&pack.verdicts) {
                *d = kto::loss(self, response, is_wanted).1;
            }
        }
        for &ResponsePair { chosen, rejected } in &pack.pairs {
            let pair = self.pair_loss(responses[chosen], responses[rejected]);
            by_response[chosen] += pair.d_chosen;
            by_response[rejected] += pair.d_rejected;
        }
        let repeated = by_response.iter().zip(&pack.n_targets).flat_map(|(&d, &n)| std::iter::repeat_n(d, n));
        let log_probs = repeated
            .zip(weights)
            .map(|(d, &weight)| (d * f64::from(weight) / denominators[0]) as f32)
            .collect();
        HeadGradient { log_probs, ..HeadGradient::default() }
    }

    fn metric_names(&self) -> Vec<&str> {
        vec![
            "loss",
            "rewards/chosen",
            "rewards/rejected",
            "rewards/accuracies",
            "logps/chosen",
            "logps/rejected",
            "nll_loss",
            "entropy",
        ]
    }

    fn measure(
        &self,
        pack: &PreferencePack,
        request: &HeadRequest<'_>,
        output: &HeadOutput,
    ) -> Vec<WeightedSum> {
        let weights = weights_of(request);
        let responses = response_log_probs(pack, weights, &output.tokens.log_probs);
        let mut sums = vec![WeightedSum::default(); self.metric_names().len()];
        let mut add = |place: usize, value: f64| {
            sums[place].numerator += value;
            sums[place].denominator += 1.0;
        };
        for &ResponsePair { chosen, rejected } in &pack.pairs {
            let (chosen, rejected) = (responses[chosen], responses[rejected]);
            add(0, self.pair_loss(chosen, rejected).loss);
            add(1, self.reward(chosen));
            add(2, self.reward(rejected));
            add(3, f64::from(u8::from(self.reward(chosen) > self.reward(rejected))));
            add(4, chosen.policy);
            add(5, rejected.policy);
            add(6, -chosen.mean());
        }
        if self.loss.is_unpaired() {
            for (&response, &is_wanted) in responses.iter().zip(&pack.verdicts) {
                add(0, kto::loss(self, response, is_wanted).0);
                add(if is_wanted { 1 } else { 2 }, self.reward(response));
                let is_right = (self.reward(response) > self.beta * self.kto_baseline) == is_wanted;
                add(3, f64::from(u8::from(is_right)));
                add(if is_wanted { 4 } else { 5 }, response.policy);
                if is_wanted {
                    add(6, -response.mean());
                }
            }
        }
        for (&weight, &entropy) in weights.iter().zip(&output.tokens.entropies) {
            sums[7].numerator += f64::from(weight) * f64::from(entropy);
            sums[7].denominator += f64::from(weight);
        }
        sums
    }

    fn loss(&self, means: &BTreeMap<String, f64>) -> f64 {
        means.get("loss").copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests;
