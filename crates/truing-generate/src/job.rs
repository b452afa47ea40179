//! Sampling jobs and their completions.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use truing_model::Sampler;
use truing_types::{FinishReason, SamplingOptions, TokenId};

use crate::{DraftCounts, GenerateError, Grammar};

/// A prompt, and how its completions are sampled.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// The prompt as the model sees it.
    pub prompt: Vec<TokenId>,
    /// Completions wanted.
    pub n_samples: usize,
    /// How they are sampled.
    pub options: Arc<SamplingOptions>,
    /// Of one of many completions: with the options' seed and its index in the group these decide what is sampled.
    /// Without them the seed decides alone.
    pub seed_indices: Option<Vec<u64>>,
    /// Index in the group of the first completion: a group may be sampled in several jobs.
    pub first_sample_idx: u64,
    /// How many of the most likely tokens are wanted at each position, with their log-probabilities.
    pub n_top_log_probs: usize,
    /// What the text has to match.
    pub grammar: Option<Arc<Grammar>>,
    /// Tokens that end a completion, ascending, instead of the loop's.
    pub end: Option<Arc<[TokenId]>>,
    /// Special tokens stay in the text.
    pub keeps_special_tokens: bool,
}

impl Job {
    pub(crate) fn sampler(&self, sample_idx: usize) -> Result<Sampler, GenerateError> {
        Ok(match &self.seed_indices {
            Some(indices) => {
                // A server takes the first index from a request.
                let sample_idx = self.first_sample_idx.wrapping_add(sample_idx as u64);
                Sampler::keyed(&self.options, &[indices, &[sample_idx][..]].concat())?
            }
            None => Sampler::new(&self.options)?,
        })
    }

    /// Tokens that a cache must hold.
    pub(crate) fn capacity(&self, context_length: usize) -> usize {
        (self.prompt.len() + self.options.max_new_tokens).min(context_length)
    }
}

/// One completion.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SampledCompletion {
    /// The tokens as sampled, an end token included.
    pub tokens: Vec<TokenId>,
    /// The text without end token, and up to a stop text.
    pub text: String,
    /// Log-probability of each token under the model: temperature 1, nothing cut off `[n_tokens]`.
    pub log_probs: Vec<f32>,
    /// The same under the distribution it was sampled from `[n_tokens]`.
    pub sampling_log_probs: Vec<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Why the tokens could not be turned into text, where that is so. The completion then ends with the token that
    /// could not ([`FinishReason::Cancelled`]), and `text` is what came before it.
    pub text_error: Option<String>,
    /// What was drafted for it.
    #[serde(default)]
    pub drafts: DraftCounts,
    /// Optimiser steps that the weights had taken, where a server sampled it.
    pub weights_version: Option<u64>,
}
