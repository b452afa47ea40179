//! One sampled completion with everything that was computed about it, as it is kept on disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{FinishReason, Message, RowOrigin, TokenId};

/// One completion of one prompt. A line of a run's `rollouts/*.jsonl.zst`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// The optimiser step that it was sampled for, counted from 1.
    pub step: u64,
    /// Place of the prompt in the step, and of the completion in its group.
    pub prompt_idx: usize,
    /// Place of the completion in its group.
    pub sample_idx: usize,
    /// The row that the prompt came from.
    pub origin: RowOrigin,
    /// The prompt as messages.
    pub prompt: Vec<Message>,
    /// The prompt as the model saw it.
    pub prompt_tokens: Vec<TokenId>,
    /// The completion as sampled, an end token included.
    pub tokens: Vec<TokenId>,
    /// The completion as text, without the end token.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Log-probability of each token under the model at temperature 1 `[n_tokens]`; empty where a server did not give
    /// it.
    pub log_probs: Vec<f32>,
    /// Log-probability of each token under the distribution it was sampled from (temperature and cuts)
    /// `[n_tokens]`; empty where a server did not give it.
    pub sampling_log_probs: Vec<f32>,
    /// Where a server sampled it: the number of optimiser steps behind the weights that it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_version: Option<u64>,
    /// Each part of the reward that could be computed.
    pub rewards: BTreeMap<String, f64>,
    /// Each part that could not, with its reason.
    pub unscored: BTreeMap<String, String>,
    /// The reward as a whole; `None` when it is unscored.
    pub reward: Option<f64>,
    /// Advantage, the mean over the completion's tokens; `None` when the group was dropped.
    pub advantage: Option<f64>,
    /// KL divergence from the reference, summed over the tokens; `None` where none was computed.
    pub kl: Option<f64>,
}
