//! The narrow door between methods and devices. Above it nothing knows a device; below it nothing knows a
//! method. Hidden states and what a segment keeps are handles that stay where the engine put them.

use std::borrow::Cow;
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::{CommunicationError, Communicator, ExcludedTokens, PackedBatch, TargetTokens, TokenId};

use crate::encoder::Pooling;
use crate::spec::{DecoderSpec, HeadKind, ParameterSpec, TrainableSpec};

/// What a segment's forward pass leaves behind for its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: there will be no backward.
    Nothing,
    /// The segment's input; the inside is computed again in the backward (activation checkpointing).
    Input,
    /// The segment's input and each layer's attention results: of the inside only the products are computed
    /// again. For long sequences, where attention is most of a layer's work and little of its memory.
    InputAndAttention,
    /// Everything the backward needs; no second forward.
    Activations,
}

/// Per-target results of the language-model head, on the host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenLogProbs {
    /// Natural logarithm of each target's probability `[n_targets]`.
    pub log_probs: Vec<f32>,
    /// Entropy of the distribution that each target was drawn from, in nats `[n_targets]`.
    pub entropies: Vec<f32>,
    /// Whether the target was the most likely token `[n_targets]`.
    pub is_argmax: Vec<bool>,
}

impl TokenLogProbs {
    /// Room for `n_targets` results.
    #[must_use]
    pub fn with_len(n_targets: usize) -> Self {
        Self {
            log_probs: vec![0.0; n_targets],
            entropies: vec![0.0; n_targets],
            is_argmax: vec![false; n_targets],
        }
    }
}

/// The most likely tokens of a distribution at some rows, renormalised over themselves: what the report's exact
/// KL is taken over (report 2.1: the reference model's top 500).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TopLogProbs {
    /// Tokens a row holds; at most the vocabulary.
    pub k: usize,
    /// Tokens by falling logit, the lower id first among equals `[n_rows, k]`.
    pub tokens: Vec<TokenId>,
    /// Their log-probabilities, summing to 1 over the row `[n_rows, k]`.
    pub log_probs: Vec<f32>,
}

/// What the head is asked about the hidden states of a batch.
#[derive(Debug, Clone)]
pub enum HeadRequest<'a> {
    /// The language-model head: log-probabilities of targets, with logits divided by a temperature.
    LogProbs {
        /// The targets. A row may predict several.
        targets: Cow<'a, TargetTokens>,
        /// Divides the logits; 1 is the model itself.
        temperature: f32,
        /// Rows of the head that take no part: the distribution, its entropy, KL and gradients are over all others.
        excluded: ExcludedTokens,
        /// Asks for the KL divergence from this reference at each target's row as well `[n_targets, k]`:
        /// both distributions renormalised over the reference's tokens, `sum p (log p - log q)`.
        reference: Option<&'a TopLogProbs>,
    },
    /// The head of a reward model or a classifier.
    Scores {
        /// Rows to score, usually each sequence's last.
        rows: Cow<'a, [u32]>,
    },
}

impl<'a> HeadRequest<'a> {
    /// Log-probabilities under the model itself: over every row of the head, at temperature 1.
    #[must_use]
    pub fn log_probs(targets: &'a TargetTokens) -> Self {
        Self::LogProbs {
            targets: Cow::Borrowed(targets),
            temperature: 1.0,
            excluded: ExcludedTokens::none(),
            reference: None,
        }
    }

    /// Rows of the hidden states that are asked about; one result each.
    #[must_use]
    pub fn rows(&self) -> &[u32] {
        match self {
            Self::LogProbs { targets, .. } => &targets.rows,
            Self::Scores { rows } => rows,
        }
    }

    /// The targets; `None` of a score head.
    #[must_use]
    pub fn targets(&self) -> Option<&TargetTokens> {
        match self {
            Self::LogProbs { targets, .. } => Some(targets),
            Self::Scores { .. } => None,
        }
    }
}

/// What the head answers, on the host. Lists that were not asked for are empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeadOutput {
    /// Per target.
    pub tokens: TokenLogProbs,
    /// KL divergence from the reference at each target's row, in nats, never negative `[n_targets]`.
    pub kl: Vec<f32>,
    /// The score head `[n_rows, n_outputs]`; a reward model has one output.
    pub scores: Vec<f32>,
}

/// The gradient of a loss with respect to a [`HeadOutput`]. An empty list is a gradient of zero.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeadGradient {
    /// With respect to each log-probability `[n_targets]`.
    pub log_probs: Vec<f32>,
    /// With respect to each KL divergence `[n_targets]`.
    pub kl: Vec<f32>,
    /// With respect to each score `[n_rows, n_outputs]`.
    pub scores: Vec<f32>,
}

/// One AdamW step (Loshchilov and Hutter 2019, arXiv 1711.05101), decoupled decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerStep {
    /// Step number counted from 1, for the bias corrections.
    pub step: u64,
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay; norms and biases are spared.
    pub weight_decay: f32,
    /// Every gradient is multiplied by this first (clipping).
    pub gradient_scale: f32,
}

/// Which of a parameter's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParameterTensor {
    /// The weights.
    Value,
    /// The accumulated gradient.
    Gradient,
    /// Adam's first moment.
    FirstMoment,
    /// Adam's second moment.
    SecondMoment,
}

/// The weights that decoding multiplies with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecodingWeights {
    /// The weights themselves.
    #[default]
    F32,
    /// A copy in 8 bits: another model, near the first, that is decoded faster. Adapters are added in full.
    Int8,
}

/// The bytes an engine needs, as a linear model of the batch. Multiply-out is the planner's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineMemory {
    /// All weights, adapters included.
    pub parameter_bytes: u64,
    /// Gradients of what learns.
    pub gradient_bytes: u64,
    /// Both moments of what learns.
    pub optimizer_bytes: u64,
    /// A segment's saved input, per token.
    pub segment_input_bytes_per_token: u64,
    /// One layer's attention results, per token.
    pub attention_bytes_per_token: u64,
    /// One layer's kept activations, per token (its input included).
    pub layer_bytes_per_token: u64,
    /// Live beside the kept activations while one layer runs forward or backward, per token.
    pub workspace_bytes_per_token: u64,
    /// Live while the head runs, per token of the batch.
    pub head_bytes_per_token: u64,
    /// What the head works in, whatever the batch; kept once it has run.
    pub head_fixed_bytes: u64,
    /// The 8-bit copy of the weights, where decoding uses one; not part of any other line.
    pub compressed_bytes: u64,
    /// Whatever else the engine holds, such as packing buffers of its threads.
    pub fixed_bytes: u64,
}

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
    /// A text longer than an encoder's positions go.
    #[error("a sequence of {n_tokens} tokens, the model has {n_positions} positions")]
    SequenceTooLong {
        /// Its tokens.
        n_tokens: usize,
        /// Rows of the position embedding.
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
    /// A specification that this engine cannot compute.
    #[error("the engine cannot run this model: {0}")]
    Unsupported(String),
    /// A collective failed.
    #[error(transparent)]
    Communication(#[from] CommunicationError),
}

/// Named parameters with their gradients and moments, wherever they lie: what an optimiser and a checkpoint need to
/// know of a model, whatever it computes.
pub trait ParameterStore {
    /// What learns.
    fn trainable(&self) -> &TrainableSpec;
    /// Every parameter in a fixed order: the specification's, then LoRA's.
    fn parameters(&self) -> &[ParameterSpec];

    /// Sets every gradient to zero.
    fn zero_gradients(&mut self);
    /// Sums every gradient over the ranks.
    ///
    /// # Errors
    /// When the collective fails.
    fn reduce_gradients(&mut self, communicator: &dyn Communicator) -> Result<(), EngineError>;
    /// Euclidean norm of all gradients, accumulated in double precision in a fixed order.
    fn gradient_norm(&mut self) -> f64;
    /// AdamW over everything that learns.
    fn optimizer_step(&mut self, step: &OptimizerStep);

    /// Reads one tensor of the parameter at `parameter_idx`.
    ///
    /// # Errors
    /// When a frozen parameter has no such tensor.
    fn read(&self, parameter_idx: usize, tensor: ParameterTensor) -> Result<Cow<'_, [f32]>, EngineError>;
    /// Overwrites one tensor of the parameter at `parameter_idx`.
    ///
    /// # Errors
    /// When a frozen parameter has no such tensor, or the length differs.
    fn write(
        &mut self,
        parameter_idx: usize,
        tensor: ParameterTensor,
        values: &[f32],
    ) -> Result<(), EngineError>;
}

/// Runs a decoder, forward and backward, segment by segment.
///
/// One optimiser step is: [`zero_gradients`](ParameterStore::zero_gradients); for each pack: `upload`, `embed`,
/// `segment_forward` for each segment, `head_backward`, `segment_backward` for each segment in reverse,
/// `embed_backward`; then `reduce_gradients`, `gradient_norm`, `optimizer_step`. Gradients accumulate.
pub trait Engine: ParameterStore {
    /// Tokens, positions and cumulative lengths where the engine wants them.
    type Batch;
    /// Hidden states `[total, hidden]`.
    type Hidden;
    /// What a segment left behind.
    type Kept;
    /// Keys and values of one running sequence.
    type Cache;

    /// The bytes this engine would need, known before anything is loaded.
    fn memory(spec: &DecoderSpec, trainable: &TrainableSpec) -> EngineMemory
    where
        Self: Sized;

    /// The model.
    fn spec(&self) -> &DecoderSpec;
    /// Hands a batch to the engine.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary.
    fn upload(&mut self, batch: &PackedBatch) -> Result<Self::Batch, EngineError>;
    /// Rows of the embedding, `[total, hidden]`.
    ///
    /// # Errors
    /// As the device fails.
    fn embed(&mut self, batch: &Self::Batch) -> Result<Self::Hidden, EngineError>;
    /// Runs the blocks `layers`.
    ///
    /// # Errors
    /// As the device fails.
    fn segment_forward(
        &mut self,
        batch: &Self::Batch,
        layers: Range<usize>,
        input: Self::Hidden,
        keep: Keep,
    ) -> Result<(Self::Hidden, Self::Kept), EngineError>;
    /// Adds the gradients of a segment's parameters and returns the gradient at its input.
    ///
    /// # Errors
    /// As the device fails.
    fn segment_backward(
        &mut self,
        batch: &Self::Batch,
        kept: Self::Kept,
        d_output: Self::Hidden,
    ) -> Result<Self::Hidden, EngineError>;
    /// Adds the embedding's gradient.
    ///
    /// # Errors
    /// As the device fails.
    fn embed_backward(&mut self, batch: &Self::Batch, d_hidden: Self::Hidden) -> Result<(), EngineError>;

    /// Final norm and head: what the request asks for.
    ///
    /// # Errors
    /// When the model has no such head, a token lies outside the vocabulary, or as the device fails.
    fn head(&mut self, hidden: &Self::Hidden, request: &HeadRequest<'_>) -> Result<HeadOutput, EngineError>;
    /// The same, and the backward pass: adds the gradients of head and final norm, returns the gradient at the
    /// hidden states.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    fn head_backward(
        &mut self,
        hidden: Self::Hidden,
        request: &HeadRequest<'_>,
        gradient: &HeadGradient,
    ) -> Result<(HeadOutput, Self::Hidden), EngineError>;
    /// The `k` most likely tokens at some rows, of those that are not excluded; fewer where there are fewer.
    ///
    /// # Errors
    /// When the model has no language-model head, or as the device fails.
    fn top_log_probs(
        &mut self,
        hidden: &Self::Hidden,
        rows: &[u32],
        temperature: f32,
        excluded: &ExcludedTokens,
        k: usize,
    ) -> Result<TopLogProbs, EngineError>;
    /// [`head`](Self::head) for log-probabilities alone.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    fn log_probs(
        &mut self,
        hidden: &Self::Hidden,
        targets: &TargetTokens,
    ) -> Result<TokenLogProbs, EngineError> {
        Ok(self.head(hidden, &HeadRequest::log_probs(targets))?.tokens)
    }
    /// [`head_backward`](Self::head_backward) for log-probabilities alone, `d_log_probs` `[n_targets]`.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    fn log_probs_backward(
        &mut self,
        hidden: Self::Hidden,
        targets: &TargetTokens,
        d_log_probs: &[f32],
    ) -> Result<(TokenLogProbs, Self::Hidden), EngineError> {
        let gradient = HeadGradient { log_probs: d_log_probs.to_vec(), ..HeadGradient::default() };
        let (output, d_hidden) = self.head_backward(hidden, &HeadRequest::log_probs(targets), &gradient)?;
        Ok((output.tokens, d_hidden))
    }
    /// Final norm and head in full for some rows: `[rows, vocab]` on the host. For proofs and tests.
    ///
    /// # Errors
    /// As the device fails.
    fn logits(&mut self, hidden: &Self::Hidden, rows: &[u32]) -> Result<Vec<f32>, EngineError>;

    /// Final norm and pooling: one vector for every sequence `[n_sequences, hidden]`, on the host. The embedding that
    /// any decoder gives.
    ///
    /// # Errors
    /// When the engine has none, or the device fails.
    fn pool(
        &mut self,
        _batch: &Self::Batch,
        _hidden: Self::Hidden,
        _pooling: Pooling,
    ) -> Result<Vec<f32>, EngineError> {
        Err(EngineError::Unsupported("this engine does not pool hidden states".into()))
    }

    /// Gives back what is kept from batch to batch only to save time: before a phase that needs the memory otherwise.
    fn release_working_memory(&mut self) {}

    /// Switches the adapters off or on again: with them off a LoRA policy is its own reference model.
    fn enable_adapters(&mut self, are_enabled: bool);

    /// Chooses the weights that decoding multiplies with: [`extend_each`](Self::extend_each), and
    /// [`extend`](Self::extend) by a single token. Several tokens at once (a prompt) are read with the weights
    /// themselves, and nothing else sees the copy. It is made here and follows every change of the weights.
    fn set_decoding_weights(&mut self, weights: DecodingWeights);
    /// Room for a sequence of at most `capacity` tokens.
    fn new_cache(&self, capacity: usize) -> Self::Cache;
    /// Number of tokens that a cache holds.
    fn cache_len(&self, cache: &Self::Cache) -> usize;
    /// Forgets all tokens of a cache after the first `n_tokens`, so that a shared beginning is not read twice.
    fn truncate_cache(&self, cache: &mut Self::Cache, n_tokens: usize);
    /// A second sequence that goes on from all that this one holds: the completions of a group share one reading
    /// of their prompt.
    fn fork_cache(&self, cache: &Self::Cache) -> Self::Cache;
    /// Appends one token to each of several running sequences and returns the logits after each
    /// `[n_sequences, vocab]`. A sequence's logits do not depend, in any bit, on which others run beside it.
    ///
    /// # Errors
    /// When a cache is full or a token lies outside the vocabulary; no cache is changed then.
    fn extend_each(
        &mut self,
        caches: &mut [&mut Self::Cache],
        tokens: &[TokenId],
    ) -> Result<Vec<f32>, EngineError>;
    /// Appends tokens to a running sequence and returns the logits after the last one, `[vocab]`.
    ///
    /// # Errors
    /// When the cache is full or a token lies outside the vocabulary.
    fn extend(&mut self, cache: &mut Self::Cache, tokens: &[TokenId]) -> Result<Vec<f32>, EngineError>;
}
