//! What preference alignment learns from: ranked or scored responses, single verdicts, and bare prompts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Conversation, Message};

/// One response to a prompt, with what people or judges said of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RankedResponse {
    /// The turns that follow the prompt; the last is the assistant's.
    pub messages: Vec<Message>,
    /// Absolute score in the source's own unit, where there is one (the report's r-hat before normalisation).
    pub score: Option<f64>,
    /// Scores by aspect.
    pub aspects: BTreeMap<String, f64>,
}

/// A prompt with responses from best to worst. Two responses are a preference pair.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PreferenceRow {
    /// The conversation before the responses.
    pub prompt: Conversation,
    /// At least two. `ranks[i] < ranks[j]`: response `i` is preferred; equal ranks are a tie.
    pub responses: Vec<RankedResponse>,
    /// Rank of each response, 0 the best `[n_responses]`.
    pub ranks: Vec<u32>,
    /// How much better the best is than the worst, where the row says so; the `m` of a margin loss.
    pub margin: Option<f64>,
}

/// A completion with a single verdict, as KTO learns from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct UnpairedRow {
    /// The conversation before the completion.
    pub prompt: Conversation,
    /// The turns that follow; the last is the assistant's.
    pub completion: Vec<Message>,
    /// Whether it is wanted.
    pub is_desirable: bool,
}

/// A prompt to be answered by the policy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PromptRow {
    /// The conversation up to the assistant's turn.
    pub prompt: Conversation,
    /// Every field of the row, for rewards that need a reference: `answer`, `instruction_id_list`, tests.
    pub columns: Map<String, Value>,
}
