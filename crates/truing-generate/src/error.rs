//! What can go wrong while tokens are sampled.

use truing_model::{EngineError, SamplingError};
use truing_text::TextError;

/// A reply that could not be sampled.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A sampling option outside its range.
    #[error(transparent)]
    BadOption(#[from] SamplingError),
    /// A prompt without tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A prompt that leaves no room for a reply.
    #[error("the prompt has {n_prompt_tokens} tokens, but the model's context holds {context_length}")]
    ContextOverflow {
        /// Tokens of the prompt.
        n_prompt_tokens: usize,
        /// Tokens that the model was made for.
        context_length: usize,
    },
    /// Logits that nothing can be sampled from.
    #[error("the model's output after token {position} is not a number")]
    NotANumber {
        /// Place in the sequence of the last token read, counted from 0.
        position: usize,
    },
    /// A grammar that cannot be compiled or followed.
    #[error("the grammar cannot be used: {0}")]
    Grammar(String),
    /// The engine failed while several completions were on their way; this is what it said.
    #[error("{0}")]
    Failed(String),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The conversation cannot be rendered, or tokens not turned into text.
    #[error(transparent)]
    Text(#[from] TextError),
}

impl GenerateError {
    /// Whether the request is at fault, and not the model.
    #[must_use]
    pub fn is_bad_request(&self) -> bool {
        !matches!(self, Self::Engine(_) | Self::Failed(_) | Self::NotANumber { .. })
    }
}
