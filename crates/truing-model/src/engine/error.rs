//! What an engine can refuse or fail at.

use truing_types::{CommunicationError, TokenId, alternatives};

use super::{ComputeDtype, ParameterTensor};
use crate::{HeadKind, ModelError};

/// An engine that could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A token outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: TokenId,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// A parameter that the weights do not hold.
    #[error("the weights hold no `{name}`")]
    MissingParameter {
        /// Its name.
        name: String,
    },
    /// A parameter of another shape than the specification says.
    #[error("`{name}` has shape {found:?}, expected {expected:?}")]
    ShapeMismatch {
        /// Its name.
        name: String,
        /// The specification's shape.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
    },
    /// A tensor that this parameter does not have, because it is frozen.
    #[error("`{name}` is frozen and has no {tensor:?}")]
    Frozen {
        /// Its name.
        name: String,
        /// What was asked for.
        tensor: ParameterTensor,
    },
    /// A tensor that the optimiser does not have.
    #[error("the optimiser has no state called `{name}`")]
    UnknownOptimizerState {
        /// The name asked for.
        name: &'static str,
    },
    /// A text longer than an encoder's positions go, or than a decoder's rotary frequencies are computed for.
    #[error("a sequence of {n_tokens} tokens, the model has {n_positions} positions")]
    SequenceTooLong {
        /// Its tokens.
        n_tokens: usize,
        /// Rows of the position embedding, or the longest sequence of a decoder.
        n_positions: usize,
    },
    /// More tokens than the cache was made for.
    #[error("the cache holds {capacity} tokens, {needed} are needed")]
    CacheFull {
        /// Tokens it was made for.
        capacity: usize,
        /// Tokens needed.
        needed: usize,
    },
    /// LoRA targets that no projection is called.
    #[error("no projection of the model is called `{target}`")]
    UnknownLoraTarget {
        /// The name given.
        target: String,
    },
    /// Asked for logits of a reward model, or for scores of a language model.
    #[error("the model's head is {head:?}, which cannot answer this")]
    WrongHead {
        /// Its head.
        head: HeadKind,
    },
    /// A decoder where an encoder is needed, or the other way round.
    #[error("the model is {found}, which cannot {needed}")]
    WrongKind {
        /// What it is.
        found: &'static str,
        /// What was asked for.
        needed: &'static str,
    },
    /// A number format that the engine does not compute in.
    #[error("the engine does not compute in {dtype}")]
    UnsupportedDtype {
        /// The format asked for.
        dtype: ComputeDtype,
    },
    /// A specification that this engine cannot compute, or a request that it does not know.
    #[error("the engine cannot run this model: {0}")]
    Unsupported(String),
    /// A size of sequence groups that the heads do not allow.
    #[error(
        "a model of {n_heads} attention heads and {n_kv_heads} key heads cannot be divided over {size} ranks: {} works",
        alternatives(working)
    )]
    SequenceParallelSize {
        /// Ranks of a sequence group.
        size: usize,
        /// Query heads.
        n_heads: usize,
        /// Key heads.
        n_kv_heads: usize,
        /// The sizes that work.
        working: Vec<usize>,
    },
    /// The device has not enough memory left.
    #[error("the device has no room for {requested_bytes} bytes more")]
    OutOfMemory {
        /// What was asked for.
        requested_bytes: u64,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// The weights could not be read.
    #[error(transparent)]
    Weights(Box<dyn std::error::Error + Send + Sync>),
    /// A collective failed.
    #[error(transparent)]
    Communication(#[from] CommunicationError),
}

impl EngineError {
    /// Of an encoder, which has no language-model or score head.
    pub(crate) fn needs_decoder() -> Self {
        Self::WrongKind { found: "an encoder", needed: "predict or score tokens" }
    }
}

impl From<ModelError> for EngineError {
    fn from(error: ModelError) -> Self {
        Self::Weights(Box::new(error))
    }
}
