//! The only door to a language model: the policy in this process, a teacher, a judge, an outside server.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::{Conversation, TokenId};

/// How tokens are drawn.
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
            seed: 0,
            stop: Vec::new(),
        }
    }
}

/// What is asked of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The conversation so far; the model writes the next assistant turn.
    pub conversation: Conversation,
    /// How to draw it.
    pub sampling: SamplingOptions,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn.
    EndOfTurn,
    /// A stop text appeared.
    StopText,
    /// `max_new_tokens` was reached.
    Length,
    /// The caller broke off.
    Cancelled,
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatReply {
    /// The text of the turn, without end-of-turn or stop text.
    pub text: String,
    /// The tokens as drawn; empty where a remote model does not tell.
    pub tokens: Vec<TokenId>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt; 0 where a remote model does not tell.
    pub n_prompt_tokens: usize,
    /// Tokens of the reply, the end token included; 0 where a remote model does not tell.
    pub n_completion_tokens: usize,
}

/// A model that could not answer. A judge that fails is `Unscored`, never 0, so this is a value to be kept.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The request itself cannot be served.
    #[error("the request cannot be served: {0}")]
    BadRequest(String),
    /// The caller broke off before this request was asked.
    #[error("broken off before it was asked")]
    BrokenOff,
    /// The model failed.
    #[error("the model failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Anything that continues a conversation.
pub trait ChatModel {
    /// Writes the next assistant turn. `on_text` gets each piece of text as it appears and may break off.
    ///
    /// # Errors
    /// When the request is unusable or the model fails.
    fn chat(
        &mut self,
        request: &ChatRequest,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError>;

    /// Asks many requests: one result for each, in their order. A result depends on its request alone, not on what is
    /// asked beside it, so a model may answer several at a time; here it is one after the other.
    ///
    /// `on_result` gets each result as it arrives, in any order, with the place of its request. Once it breaks off,
    /// requests that were not yet asked are [`ChatError::BrokenOff`].
    fn chat_all(
        &mut self,
        requests: &[ChatRequest],
        on_result: &mut dyn FnMut(usize, &ChatResult) -> ControlFlow<()>,
    ) -> Vec<ChatResult> {
        let mut flow = ControlFlow::Continue(());
        let ask = |(place, request)| {
            if flow.is_break() {
                return Err(ChatError::BrokenOff);
            }
            let result = self.chat(request, &mut |_| ControlFlow::Continue(()));
            flow = on_result(place, &result);
            result
        };
        requests.iter().enumerate().map(ask).collect()
    }
}

/// A reply, or why there is none.
pub type ChatResult = Result<ChatReply, ChatError>;
