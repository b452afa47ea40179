//! A sampled response and its prompt at work, with what became of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use truing_types::FinishReason;

/// What became of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is in `responses.jsonl`.
    Accepted,
    /// It can be used, but others are better, or it is below `min_score`.
    NotSelected,
    /// Its score could not be computed.
    Unscored,
    /// Its prompt is answered well already (`max_prompt_score`).
    AnsweredWell,
    /// It is a refusal beyond `max_refusal_share`.
    SurplusRefusal,
    /// It is beyond `accept`.
    Surplus,
    /// It is nearly an earlier response to the same prompt.
    NearDuplicate,
    /// It was cut at `max_new_tokens`.
    Cut,
    /// The model said nothing, or nothing after its reasoning.
    Empty,
    /// The server's content filter withheld it.
    Filtered,
    /// The model called a tool instead of answering.
    ToolCalls,
    /// The model could not be asked.
    Failed,
    /// The budget was reached before it was requested.
    NotSampled,
}

/// What became of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptFate {
    /// At least one response is accepted.
    Accepted,
    /// There are responses that can be used, and none is accepted.
    NoneSelected,
    /// None of the responses that can be used could be scored.
    Unscored,
    /// All scored responses reach `max_prompt_score`.
    AnsweredWell,
    /// No response can be used: each failed, was cut, is empty or was withheld.
    NoResponse,
    /// Not sampled: `accept`, `max_candidates` or `budget` was reached before.
    NotSampled,
    /// Not sampled: the same prompt is in an earlier row.
    Repeated,
}

/// One response of `candidates.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// What the model said, without its reasoning.
    pub content: String,
    /// Its reasoning, where there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The model's name in the recipe.
    pub model: String,
    /// The name of the decoding setting.
    pub decoding: String,
    /// The seed it was requested with.
    pub seed: u64,
    /// Why it ended; `None` where there is no reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// Its tokens, reasoning included; 0 where the server does not tell.
    pub n_tokens: usize,
    /// The weighted sum of its rewards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Its rewards, by name, before their weights.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rewards: BTreeMap<String, f64>,
    /// Why it has no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unscored: Option<String>,
    /// Whether the model refuses to answer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_refusal: bool,
    /// What became of it.
    pub fate: Fate,
    /// Why, where the fate does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of a near-duplicate the place of the response that is kept, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_of: Option<usize>,
    /// ROUGE-L F1 with that response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rouge_l: Option<f64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Candidate {
    /// Whether it may be selected: it is whole, and no filter has dropped it. From sampling until its selection the
    /// fate of such a response is [`Fate::NotSelected`].
    pub(super) fn is_usable(&self) -> bool {
        self.fate == Fate::NotSelected
    }
}

/// A prompt at work.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PromptWork {
    /// In the order of sampling: by model, decoding setting and sample.
    pub(super) candidates: Vec<Candidate>,
    pub(super) fate: PromptFate,
    /// Share of the scored responses that pass; `None` where none is scored or samples are missing.
    pub(super) pass_rate: Option<f64>,
}

impl PromptWork {
    /// With what was sampled.
    pub(super) fn new(candidates: Vec<Candidate>) -> Self {
        Self { candidates, fate: PromptFate::NoneSelected, pass_rate: None }
    }

    /// Of a prompt that is not sampled, and why.
    pub(super) fn without_samples(fate: PromptFate) -> Self {
        Self { candidates: Vec::new(), fate, pass_rate: None }
    }

    /// Whether the budget ended between its samples. What is there is then no whole sample of responses: it has no pass
    /// rate, and does not show that the prompt is answered well.
    pub(super) fn is_partial(&self) -> bool {
        let is_missing = |candidate: &Candidate| candidate.fate == Fate::NotSampled;
        self.candidates.iter().any(is_missing) && !self.candidates.iter().all(is_missing)
    }

    /// The scores that are known, in the order of sampling.
    pub(super) fn scores(&self) -> impl Iterator<Item = f64> {
        self.candidates.iter().filter_map(|candidate| candidate.score)
    }
}

/// A response that can be used, for tests.
#[cfg(test)]
pub(super) fn usable(content: &str, score: Option<f64>) -> Candidate {
    Candidate {
        content: content.to_owned(),
        reasoning: None,
        model: "m".into(),
        decoding: "0".into(),
        seed: 0,
        finish_reason: Some(FinishReason::EndOfTurn),
        n_tokens: 1,
        score,
        rewards: BTreeMap::new(),
        unscored: None,
        is_refusal: false,
        fate: Fate::NotSelected,
        reason: None,
        duplicate_of: None,
        rouge_l: None,
    }
}
