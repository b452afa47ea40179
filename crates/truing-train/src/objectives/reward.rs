//! The reward model's objective (report Eq. 1): Bradley-Terry on pairs plus a squared error to absolute scores, on
//! the same scalar head.
//!
//! ```text
//! L = mean_pairs -log sigma(r_w - r_l - m)
//!     + alpha mean_pairs ((r_w - rhat_w)^2 + (r_l - rhat_l)^2)
//!     + c mean_pairs (r_w + r_l)^2
//! ```
//!
//! A response in several pairs of a ranking counts in each of them ([`MseDenominator::AllPairs`]), or once
//! ([`MseDenominator::Scored`]). The squared error is taken only of responses that have a score (`alpha = 0` is plain
//! Bradley-Terry, bit for bit); centring keeps the scale from drifting (Eisenstein et al. 2023, arXiv 2312.09244).
//! Bradley and Terry 1952.

use std::borrow::Cow;
use std::collections::BTreeMap;

use truing_model::{HeadGradient, HeadOutput, HeadRequest};
use truing_types::PackedBatch;

use super::{Objective, TrainingPack, WeightedSum};

/// Two responses of which one is better, as places among a pack's responses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RewardPair {
    /// The better one.
    pub chosen: usize,
    /// The worse one.
    pub rejected: usize,
    /// By how much the better one's score should lead, at least (`m`).
    pub margin: f32,
}

/// Responses and what is known of them. Both sides of a pair lie in the same pack.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardPack {
    /// The tokens.
    pub batch: PackedBatch,
    /// Sequence that ends with each response; its last row is scored `[n_responses]`.
    pub sequences: Vec<usize>,
    /// Who is better than whom.
    pub pairs: Vec<RewardPair>,
    /// Normalised absolute score of each response, where it has one `[n_responses]`.
    pub scores: Vec<Option<f32>>,
}

impl TrainingPack for RewardPack {
    fn batch(&self) -> &PackedBatch {
        &self.batch
    }
}

/// What the squared error is a mean over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MseDenominator {
    /// All pairs, as Eq. 1 is written: the errors of both responses are summed over pairs, so that a response of a
    /// ranking counts in each of its pairs. Sources without scores weaken the term.
    #[default]
    AllPairs,
    /// The responses that have a score, each once.
    Scored,
}

/// The objective.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Reward {
    /// Weight of the squared error (alpha of the report, which states no value).
    pub mse_coefficient: f64,
    /// Weight of the centring term; about 0.01 where it is used.
    pub centring_coefficient: f64,
    /// What the squared error is a mean over.
    pub mse_denominator: MseDenominator,
}

/// `-log sigma(x)` without overflow.
fn negative_log_sigmoid(x: f64) -> f64 {
    (-x).max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

const PAIRS: usize = 0;
const SCORED: usize = 1;

impl Reward {
    fn mse_denominator(&self, denominators: &[f64]) -> f64 {
        match self.mse_denominator {
            // A step of scores alone is a regression.
            MseDenominator::AllPairs if denominators[PAIRS] > 0.0 => denominators[PAIRS],
            _ => denominators[SCORED],
        }
    }
}

fn scored<'a>(pack: &'a RewardPack, output: &'a HeadOutput) -> impl Iterator<Item = (usize, f64, f64)> + 'a {
    let known = pack.scores.iter().enumerate().filter_map(|(i, score)| Some((i, (*score)?)));
    known.map(|(i, score)| (i, f64::from(output.scores[i]), f64::from(score)))
}

/// In how many pairs each response is, but at least 1: Eq. 1 sums the squared errors of both responses over pairs, and
/// a response without a pair counts once.
fn times_in_pairs(pack: &RewardPack) -> Vec<f64> {
    let mut times = vec![0.0_f64; pack.scores.len()];
    for pair in &pack.pairs {
        times[pair.chosen] += 1.0;
        times[pair.rejected] += 1.0;
    }
    times.iter().map(|times| times.max(1.0)).collect()
}

impl Objective for Reward {
    type Pack = RewardPack;

    fn request<'a>(&self, pack: &'a RewardPack) -> HeadRequest<'a> {
        let last_row = |&sequence: &usize| (pack.batch.sequence_range(sequence).end - 1) as u32;
        HeadRequest::Scores { rows: Cow::Owned(pack.sequences.iter().map(last_row).collect()) }
    }

    fn denominators(&self, pack: &RewardPack, _request: &HeadRequest<'_>) -> Vec<f64> {
        let n_scored = if self.mse_coefficient == 0.0 { 0 } else { pack.scores.iter().flatten().count() };
        vec![pack.pairs.len() as f64, n_scored as f64]
    }

    fn gradient(
        &self,
        pack: &RewardPack,
        _request: &HeadRequest<'_>,
        output: &HeadOutput,
        denominators: &[f64],
    ) -> HeadGradient {
        let mut gradient = vec![0.0_f64; output.scores.len()];
        let reward = |i: usize| f64::from(output.scores[i]);
        for &RewardPair { chosen, rejected, margin } in &pack.pairs {
            let lead = reward(chosen) - reward(rejected) - f64::from(margin);
            let d_lead = -sigmoid(-lead) / denominators[PAIRS];
            gradient[chosen] += d_lead;
            gradient[rejected] -= d_lead;
            if self.centring_coefficient != 0.0 {
                let sum = reward(chosen) + reward(rejected);
                let d_sum = 2.0 * self.centring_coefficient * sum / denominators[PAIRS];
                gradient[chosen] += d_sum;
                gradient[rejected] += d_sum;
            }
        }
        if self.mse_coefficient != 0.0 {
            let weight = 2.0 * self.mse_coefficient / self.mse_denominator(denominators);
            let times = match self.mse_denominator {
                MseDenominator::AllPairs if denominators[PAIRS] > 0.0 => times_in_pairs(pack),
                _ => vec![1.0; output.scores.len()],
            };
            for (i, reward, score) in scored(pack, output) {
                gradient[i] += weight * times[i] * (reward - score);
            }
        }
        let scores = gradient.into_iter().map(|d| d as f32).collect();
        HeadGradient { scores, ..HeadGradient::default() }
    }

    fn metric_names(&self) -> Vec<&str> {
        vec!["bt_loss", "centring", "mse", "accuracy", "margin", "mean_reward", "squared_error_per_pair"]
    }

    fn measure(
        &self,
        pack: &RewardPack,
        _request: &HeadRequest<'_>,
        output: &HeadOutput,
    ) -> Vec<WeightedSum> {
        let n_pairs = pack.pairs.len() as f64;
        let reward = |i: usize| f64::from(output.scores[i]);
        let over_pairs = |value: &dyn Fn(&RewardPair) -> f64| WeightedSum {
            numerator: pack.pairs.iter().map(value).sum(),
            denominator: n_pairs,
        };
        let lead = |pair: &RewardPair| reward(pair.chosen) - reward(pair.rejected);
        let squared_error: f64 = scored(pack, output).map(|(_, r, score)| (r - score).powi(2)).sum();
        let times = times_in_pairs(pack);
        let squared_error_of_pairs: f64 =
            scored(pack, output).map(|(i, r, score)| times[i] * (r - score).powi(2)).sum();
        let n_scored = pack.scores.iter().flatten().count() as f64;
        vec![
            over_pairs(&|pair| negative_log_sigmoid(lead(pair) - f64::from(pair.margin))),
            over_pairs(&|pair| (reward(pair.chosen) + reward(pair.rejected)).powi(2)),
            WeightedSum { numerator: squared_error, denominator: n_scored },
            over_pairs(&|pair| f64::from(u8::from(lead(pair) > 0.0))),
            over_pairs(&lead),
            WeightedSum {
                numerator: output.scores.iter().map(|&score| f64::from(score)).sum(),
                denominator: output.scores.len() as f64,
            },
            WeightedSum { numerator: squared_error_of_pairs, denominator: n_pairs },
        ]
    }

    fn loss(&self, means: &BTreeMap<String, f64>) -> f64 {
        // A term that nothing of the step has a share in is 0 / 0.
        let mean = |name: &str| means.get(name).copied().filter(|mean| !mean.is_nan());
        let has_pairs = mean("bt_loss").is_some();
        let mse = match self.mse_denominator {
            MseDenominator::AllPairs if has_pairs => mean("squared_error_per_pair"),
            _ => mean("mse"),
        };
        let terms = [
            (1.0, mean("bt_loss")),
            (self.centring_coefficient, mean("centring")),
            (self.mse_coefficient, mse),
        ];
        let known = terms.iter().filter(|(weight, _)| *weight != 0.0).filter_map(|(w, m)| Some(w * (*m)?));
        known.reduce(|a, b| a + b).unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_types::RowOrigin;

    fn example() -> (RewardPack, HeadOutput) {
        let origin = |line| RowOrigin { source: "t".into(), line };
        let tokens = [1_u32, 2];
        let sequences = (1..=5).map(|line| (&tokens[..], &[0.0, 0.0][..], origin(line)));
        let pair = |chosen, rejected, margin| RewardPair { chosen, rejected, margin };
        let pack = RewardPack {
            batch: PackedBatch::new(sequences).unwrap(),
            sequences: (0..5).collect(),
            pairs: vec![pair(0, 1, 0.0), pair(2, 1, 0.5), pair(3, 4, 0.0)],
            scores: vec![Some(1.0), Some(-0.5), None, None, Some(0.25)],
        };
        let output = HeadOutput { scores: vec![0.3, -0.7, 1.9, -1.1, 0.4], ..HeadOutput::default() };
        (pack, output)
    }

    fn loss(objective: &Reward, pack: &RewardPack, output: &HeadOutput) -> f64 {
        let measured = objective.measure(pack, &objective.request(pack), output);
        let means = measured.iter().map(|sum| sum.numerator / sum.denominator);
        objective.loss(&objective.metric_names().iter().map(ToString::to_string).zip(means).collect())
    }

    #[test]
    fn the_gradient_equals_finite_differences() {
        for objective in [
            Reward::default(),
            Reward { mse_coefficient: 0.3, ..Reward::default() },
            Reward {
                mse_coefficient: 0.7,
                centring_coefficient: 0.01,
                mse_denominator: MseDenominator::Scored,
            },
        ] {
            let (pack, output) = example();
            let request = objective.request(&pack);
            let denominators = objective.denominators(&pack, &request);
            let gradient = objective.gradient(&pack, &request, &output, &denominators).scores;
            for (i, &closed_form) in gradient.iter().enumerate() {
                let moved = |by: f32| {
                    let mut output = output.clone();
                    output.scores[i] += by;
                    loss(&objective, &pack, &output)
                };
                let step = 1.0 / 256.0;
                let difference = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
                assert!((f64::from(closed_form) - difference).abs() < 1e-4, "{objective:?} {i}");
            }
        }
    }

    #[test]
    fn alpha_zero_is_plain_bradley_terry_bit_for_bit() {
        let (pack, output) = example();
        let without_scores = RewardPack { scores: vec![None; 5], ..pack.clone() };
        let plain = Reward::default();
        let [a, b] = [&pack, &without_scores].map(|pack| {
            let request = plain.request(pack);
            let denominators = plain.denominators(pack, &request);
            let bits =
                |gradient: HeadGradient| gradient.scores.iter().map(|d| d.to_bits()).collect::<Vec<_>>();
            (
                bits(plain.gradient(pack, &request, &output, &denominators)),
                loss(&plain, pack, &output).to_bits(),
            )
        });
        assert_eq!(a, b);
    }

    #[test]
    fn the_value_is_that_of_equation_1() {
        let (mut pack, output) = example();
        pack.pairs.truncate(1);
        let objective = Reward { mse_coefficient: 2.0, ..Reward::default() };
        let expected = (1.0 + (-1.0_f64).exp()).ln() + 2.0 * (0.49 + 0.04 + 0.0225);
        assert!((loss(&objective, &pack, &output) - expected).abs() < 1e-6);
    }

    #[test]
    fn a_response_counts_in_each_of_its_pairs() {
        let (pack, output) = example();
        // Response 1 is in two pairs. 2 and 3 have no score, and 4 is in one pair.
        let objective = Reward { mse_coefficient: 1.0, ..Reward::default() };
        let plain = loss(&Reward::default(), &pack, &output);
        let expected = (0.49 + 2.0 * 0.04 + 0.0225) / 3.0;
        assert!((loss(&objective, &pack, &output) - plain - expected).abs() < 1e-6);
        let scored = Reward { mse_denominator: MseDenominator::Scored, ..objective };
        assert!((loss(&scored, &pack, &output) - plain - (0.49 + 0.04 + 0.0225) / 3.0).abs() < 1e-6);
    }

    #[test]
    fn scores_alone_are_a_regression() {
        let (mut pack, output) = example();
        pack.pairs.clear();
        let objective = Reward { mse_coefficient: 1.0, ..Reward::default() };
        assert!((loss(&objective, &pack, &output) - (0.49 + 0.04 + 0.0225) / 3.0).abs() < 1e-6);
        assert_eq!(objective.denominators(&pack, &objective.request(&pack)), [0.0, 3.0]);
    }
}
