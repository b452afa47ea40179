//! The accuracy of a reward model's scores: written by the stage after each evaluation, read by the report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use truing_statistics::ShareInterval;

use crate::interval::interval_or_half_width;

/// A source in numbers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SourceDiagnostics {
    /// Prompts.
    pub n_prompts: u64,
    /// Pairs with an order.
    pub n_pairs: u64,
    /// Pairs without one.
    pub n_ties: u64,
    /// Share of pairs in the right order; half for equal rewards.
    pub accuracy: Option<f64>,
    /// The accuracy's 95 % interval (Wilson, pairs as independent trials).
    #[serde(default, deserialize_with = "interval_or_half_width")]
    pub accuracy_interval: Option<ShareInterval>,
    /// Mean lead of the better response.
    pub margin: Option<f64>,
    /// Mean absolute difference of pairs with an order.
    pub spread_of_pairs: Option<f64>,
    /// Mean absolute difference of pairs without one: a good model keeps it small.
    pub spread_of_ties: Option<f64>,
    /// Pearson's correlation of reward and number of tokens over all responses.
    pub length_correlation: Option<f64>,
    /// Share of pairs in which the longer response gets the higher reward.
    pub prefers_longer: Option<f64>,
    /// Pearson's correlation of reward and absolute score.
    pub score_correlation: Option<f64>,
    /// Spearman's.
    pub score_rank_correlation: Option<f64>,
    /// Root of the mean squared error to absolute scores, in their unit.
    pub score_rmse: Option<f64>,
}

/// Pairs whose predicted probability falls between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// Mean of `sigma(r_a - r_b)`, taken so that it is at least one half.
    pub predicted: f64,
    /// Share of the pairs in which the response with the higher reward is the better one.
    pub observed: f64,
    /// Pairs in it.
    pub n: u64,
}

/// One response's length and reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LengthAndReward {
    /// Its source.
    pub source: String,
    /// Tokens of the response.
    pub n_tokens: u64,
    /// Its reward.
    pub reward: f64,
}

/// All sources.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RewardDiagnostics {
    /// All together.
    pub all: SourceDiagnostics,
    /// One by one.
    pub by_source: BTreeMap<String, SourceDiagnostics>,
    /// Predicted against observed order.
    pub calibration: Vec<CalibrationBin>,
    /// Mean distance of predicted and observed, weighted by pairs.
    pub calibration_error: Option<f64>,
    /// Responses with a score by tenths of their reward: mean reward in the score's unit, mean score.
    pub score_calibration: Vec<(f64, f64)>,
    /// Mean reward of all responses: how far the scale has drifted from 0.
    pub mean_reward: f64,
    /// Deviation of the rewards.
    pub reward_deviation: f64,
    /// Responses.
    pub n_responses: u64,
    /// Some of them, evenly spread over the data.
    pub length_sample: Vec<LengthAndReward>,
}

impl RewardDiagnostics {
    /// Name of the file in a run's folder: one [`RewardEvaluation`] a line.
    pub const FILE_NAME: &'static str = "diagnostics.jsonl";

    /// As metrics by name.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let mut metrics = BTreeMap::new();
        let mut put = |name: String, value: Option<f64>| {
            if let Some(value) = value {
                metrics.insert(name, value);
            }
        };
        put("accuracy".into(), self.all.accuracy);
        put("length_correlation".into(), self.all.length_correlation);
        put("prefers_longer".into(), self.all.prefers_longer);
        put("score_correlation".into(), self.all.score_correlation);
        put("score_rmse".into(), self.all.score_rmse);
        put("spread_of_pairs".into(), self.all.spread_of_pairs);
        put("spread_of_ties".into(), self.all.spread_of_ties);
        put("calibration_error".into(), self.calibration_error);
        put("mean_reward".into(), Some(self.mean_reward));
        put("reward_deviation".into(), Some(self.reward_deviation));
        if self.by_source.len() > 1 {
            for (name, source) in &self.by_source {
                put(format!("accuracy/{name}"), source.accuracy);
            }
        }
        metrics
    }
}

/// The diagnostics of a model at one step of its training.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RewardEvaluation {
    /// Optimiser steps taken.
    pub step: u64,
    /// What was found.
    #[serde(flatten)]
    pub diagnostics: RewardDiagnostics,
}
