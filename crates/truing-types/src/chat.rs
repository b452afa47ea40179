//! The one interface to language models that write text: the policy in this process, a teacher, a judge, a server.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Conversation, TokenId};

/// How tokens are sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// Most tokens to be produced.
    pub max_new_tokens: usize,
    /// 0 picks the most likely token.
    pub temperature: f32,
    /// Keep only the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep only tokens whose probability is at least this share of the most likely one's; 0 keeps all.
    pub min_p: f32,
    /// Logits of tokens that have occurred are divided by this where positive, multiplied where negative; 1 does
    /// nothing (Keskar et al. 2019, arXiv 1909.05858).
    pub repetition_penalty: f32,
    /// Subtracted from the logit of each token that the reply already has; 0 does nothing (OpenAI's
    /// `presence_penalty`).
    #[serde(skip_serializing_if = "is_zero")]
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once for each time that the reply already has it; 0 does nothing (OpenAI's
    /// `frequency_penalty`).
    #[serde(skip_serializing_if = "is_zero")]
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<TokenId, f32>,
    /// Same seed, same tokens.
    pub seed: u64,
    /// Texts that end the reply; they are not part of it.
    pub stop: Vec<String>,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 512,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
            stop: Vec::new(),
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

/// A chat request.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The conversation so far; the model writes the next assistant turn.
    pub conversation: Conversation,
    /// How to sample it.
    pub sampling: SamplingOptions,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn.
    #[default]
    EndOfTurn,
    /// A stop text appeared.
    StopText,
    /// `max_new_tokens` was reached.
    Length,
    /// The server's filter withheld the reply, or the rest of it.
    ContentFilter,
    /// The model declined to answer.
    Refusal,
    /// The model calls tools instead of answering.
    ToolCalls,
    /// The request was cancelled by the caller.
    Cancelled,
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ChatReply {
    /// The answer, without end-of-turn or stop text, and without the reasoning before it. Empty where the reasoning was
    /// never closed.
    pub text: String,
    /// The reasoning before the answer; `None` where there is none.
    pub reasoning: Option<String>,
    /// Calls of tools in OpenAI's shape (`id`, `type`, `function` with `name` and `arguments` as JSON text), as
    /// [`Message::tool_calls`](crate::Message::tool_calls) takes them back. Empty where none are made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// The tokens as sampled; empty where a remote model does not return them.
    pub tokens: Vec<TokenId>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt; 0 where a remote model does not report it.
    pub n_prompt_tokens: usize,
    /// Tokens of the reply, the end token included; 0 where a remote model does not report it.
    pub n_completion_tokens: usize,
}

/// A model that could not answer. A judge that fails is `Unscored`, never 0, so this is a value to be kept.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The request itself cannot be served, for instance because a message has [parts](crate::Message::parts) that the
    /// model does not read.
    #[error("the request cannot be served: {0}")]
    BadRequest(String),
    /// The request was cancelled before the model was called.
    #[error("interrupted before the call")]
    BrokenOff,
    /// The model failed. Another request, or the same one later, may be answered.
    #[error("the model failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No request will be answered, now or later: the key, the account, the model's name or every request is refused.
    #[error("the model refuses every request: {0}")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Not sent, because an earlier request was [`ChatError::Refused`]; with its reason.
    #[error("not called after an earlier refusal: {0}")]
    NotAsked(String),
}

impl ChatError {
    /// Whether every further request would fail too.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::NotAsked(_))
    }

    /// Why, in the words of the model or server.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::BadRequest(reason) | Self::NotAsked(reason) => reason.clone(),
            Self::BrokenOff => self.to_string(),
            Self::Failed(error) | Self::Refused(error) => error.to_string(),
        }
    }

    /// The same error again, for equal requests that were sent once.
    #[must_use]
    pub fn repeated(&self) -> Self {
        match self {
            Self::BadRequest(reason) => Self::BadRequest(reason.clone()),
            Self::BrokenOff => Self::BrokenOff,
            Self::Failed(error) => Self::Failed(error.to_string().into()),
            Self::Refused(error) => Self::Refused(error.to_string().into()),
            Self::NotAsked(reason) => Self::NotAsked(reason.clone()),
        }
    }
}

/// Anything that continues a conversation. It can be shared by several threads: a model that does one thing at a time,
/// as an engine does, lets the others wait.
pub trait ChatModel: Send + Sync {
    /// Writes the next assistant turn. `on_text` gets each piece of text as it appears and may cancel the request.
    ///
    /// # Errors
    /// When the request is unusable or the model fails.
    fn chat(
        &self,
        request: &ChatRequest,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError>;

    /// Sends many requests: one result for each, in their order. A result depends on its request alone, not on the
    /// others, so a model may answer several at a time; here it is one after the other.
    ///
    /// `on_result` gets each result as it arrives, in any order, with the place of its request. Once it stops, requests
    /// that were not yet sent are [`ChatError::BrokenOff`]. After a permanent failure they are
    /// [`ChatError::NotAsked`].
    fn chat_all(
        &self,
        requests: &[ChatRequest],
        on_result: &mut dyn FnMut(usize, &ChatResult) -> ControlFlow<()>,
    ) -> Vec<ChatResult> {
        let mut flow = ControlFlow::Continue(());
        let mut refusal: Option<String> = None;
        let ask = |(place, request)| {
            if flow.is_break() {
                return Err(ChatError::BrokenOff);
            }
            let result = match &refusal {
                Some(reason) => Err(ChatError::NotAsked(reason.clone())),
                None => self.chat(request, &mut |_| ControlFlow::Continue(())),
            };
            if let Err(error) = &result
                && error.is_permanent()
            {
                refusal.get_or_insert_with(|| error.reason());
            }
            flow = on_result(place, &result);
            result
        };
        requests.iter().enumerate().map(ask).collect()
    }

    /// The most likely tokens at each place of some texts, as a teacher gives them for distillation; one result for
    /// each text.
    ///
    /// # Errors
    /// [`ChatError::BadRequest`] where the model cannot give them.
    fn prompt_log_probs_all(
        &self,
        texts: &[Vec<TokenId>],
        _k: usize,
    ) -> Vec<Result<PromptLogProbs, ChatError>> {
        let cannot = |_: &Vec<TokenId>| {
            Err(ChatError::BadRequest(
                "this model gives no log-probabilities of the tokens of a prompt".into(),
            ))
        };
        texts.iter().map(cannot).collect()
    }

    /// Posts JSON to endpoints of the model's server beside its chat completions, several side by side, for instance to
    /// sample token ids or to have weights loaded again; the reply to each, in their order. `on_result` is as in
    /// [`chat_all`](Self::chat_all).
    ///
    /// # Errors
    /// [`ChatError::BadRequest`] where the model is not on a server.
    fn post_all(
        &self,
        requests: &[EndpointRequest],
        _on_result: &mut dyn FnMut(usize, &EndpointResult) -> ControlFlow<()>,
    ) -> Vec<EndpointResult> {
        let cannot = |_: &EndpointRequest| Err(ChatError::BadRequest("this model is not on a server".into()));
        requests.iter().map(cannot).collect()
    }
}

/// A request to an endpoint of a model's server.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointRequest {
    /// The path below the server's address (`base_url` without a `/v1` at its end), for instance
    /// `/inference/v1/generate`.
    pub path: String,
    /// The body.
    pub body: Value,
    /// Timeout of an attempt in seconds. Default: the server's.
    pub timeout_secs: Option<f64>,
}

/// The reply of an endpoint: a JSON object, or any other JSON. Nothing where it has no body.
pub type EndpointResult = Result<Value, ChatError>;

/// Of a text of n tokens, n - 1 lists: the most likely tokens in place of the second, third, ... token with their
/// log-probabilities at temperature 1, by falling log-probability.
pub type PromptLogProbs = Vec<Vec<(TokenId, f32)>>;

/// A reply, or why there is none.
pub type ChatResult = Result<ChatReply, ChatError>;
