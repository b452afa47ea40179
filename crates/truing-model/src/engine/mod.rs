//! The interface between methods and devices. Above it nothing knows a device; below it nothing knows a
//! method. Hidden states, saved activations, caches and logits are handles that stay where the engine put them.

mod body;
pub mod checks;
mod error;
mod memory;
mod options;
mod request;
mod sample;
mod zero;

use std::borrow::Cow;
use std::ops::Range;

use truing_types::{AllowedTokens, ExcludedTokens, Groups, PackedBatch, TargetTokens, TokenId};

use crate::sampling::{SampledToken, Sampler};
use crate::{ModelSpec, ParameterSpec, TrainableSpec};

pub use body::Body;
pub use error::EngineError;
pub use memory::EngineMemory;
pub use options::{
    ADAMW_STATE_NAMES, AdamWStep, Adapters, ComputeDtype, DecodingWeights, EngineOptions, Guarantees,
    OptimizerStep, ParameterTensor, adamw_state_idx,
};
pub use request::{
    DeviceTopLogProbs, Divergence, HeadGradient, HeadOutput, HeadRequest, HostTopLogProbs, Reference,
    TokenLogProbs, TopLogProbs,
};
pub use sample::sample_rows;
pub use zero::{ZeroStage, owned_range};

/// What a segment's forward pass saves for its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveActivations {
    /// Nothing: there will be no backward.
    Nothing,
    /// The segment's input; the inside is computed again in the backward (activation checkpointing).
    Input,
    /// The segment's input and each layer's attention results: of the inside only the products are computed
    /// again. For long sequences, where attention is most of a layer's work and little of its memory.
    InputAndAttention,
    /// Everything the backward needs; no second forward.
    Everything,
}

/// Takes a parameter by its name, with its shape and its values, row-major.
pub type PutWeight<'a> = dyn FnMut(&str, &[usize], Vec<f32>) -> Result<(), EngineError> + 'a;

/// Where an engine gets its weights from.
pub trait WeightSource {
    /// Passes every stored parameter to the engine, one at a time, so that the model is never in memory twice.
    ///
    /// # Errors
    /// When a tensor cannot be read ([`EngineError::Weights`]), or `put` fails.
    fn read_into(&mut self, put: &mut PutWeight<'_>) -> Result<(), EngineError>;
}

/// A function that reads weights is a source.
impl<F> WeightSource for F
where
    F: FnMut(&mut PutWeight<'_>) -> Result<(), EngineError>,
{
    fn read_into(&mut self, put: &mut PutWeight<'_>) -> Result<(), EngineError> {
        self(put)
    }
}

/// Named parameters with their gradients and optimiser state, in the memory of the engine: what an optimiser and a
/// checkpoint need to know of a model, independent of what it computes.
pub trait ParameterStore {
    /// What learns.
    fn trainable(&self) -> &TrainableSpec;
    /// Every parameter in a fixed order: the specification's, then LoRA's.
    fn parameters(&self) -> &[ParameterSpec];
    /// The tensors that the optimiser keeps for each parameter that learns.
    fn optimizer_state_names(&self) -> &'static [&'static str] {
        &ADAMW_STATE_NAMES
    }

    /// Sets every gradient to zero.
    ///
    /// # Errors
    /// When the device has no room for them, or fails.
    fn zero_gradients(&mut self) -> Result<(), EngineError>;
    /// Sums every gradient over the ranks that the engine was loaded with. Where states are sharded
    /// ([`zero_stage`](Self::zero_stage)), each rank has the sums of what it owns alone.
    ///
    /// # Errors
    /// When the collective fails.
    fn reduce_gradients(&mut self) -> Result<(), EngineError>;
    /// Euclidean norm of all gradients, accumulated in double precision in a fixed order: that of the ranks, each with
    /// the elements that it owns ([`owned_range`]), whether states are sharded or not. A collective where they are.
    ///
    /// # Errors
    /// When the device or the collective fails.
    fn gradient_norm(&mut self) -> Result<f64, EngineError>;
    /// Whether the gradients that this rank has computed since [`zero_gradients`](Self::zero_gradients) are finite. Not
    /// a collective.
    ///
    /// # Errors
    /// When the device fails.
    fn has_finite_gradients(&self) -> Result<bool, EngineError> {
        for (idx, parameter) in self.parameters().iter().enumerate() {
            if self.trainable().is_trainable(parameter)
                && !self.read(idx, ParameterTensor::Gradient)?.iter().all(|x| x.is_finite())
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
    /// One step over everything that learns. Where states are sharded, each rank steps what it owns, and gets the new
    /// values of the others.
    ///
    /// # Errors
    /// When the device has no room for the optimiser's state, or fails, or the collective fails.
    fn optimizer_step(&mut self, step: &OptimizerStep) -> Result<(), EngineError>;

    /// What of the states is sharded over the ranks that the engine was loaded with ([`EngineOptions::zero_stage`]). A
    /// world of one shards nothing.
    fn zero_stage(&self) -> ZeroStage {
        ZeroStage::Replicated
    }
    /// Takes part in what other ranks still gather and reduce for passes of their own, until all ranks have called
    /// this. Where gradients or parameters are sharded, every rank calls it after passes whose number may differ
    /// between ranks, before any other collective; else it does nothing. What decoding has gathered on some ranks is
    /// freed, so that the ranks of a sequence group make the same exchanges in the passes that follow.
    ///
    /// # Errors
    /// When the collective fails.
    fn join_others(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
    /// Sends this rank's parts of the tensors that the first rank reads, until that calls
    /// [`finish_reads`](Self::finish_reads). Every rank but the first calls it where the first reads; where nothing is
    /// sharded it returns at once.
    ///
    /// # Errors
    /// When the collective fails.
    fn serve_reads(&self) -> Result<(), EngineError> {
        Ok(())
    }
    /// Called by the first rank (rank 0 of the world) after its last [`read`](Self::read): the others return from
    /// [`serve_reads`](Self::serve_reads).
    ///
    /// # Errors
    /// When the collective fails.
    fn finish_reads(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Reads one tensor of the parameter at `parameter_idx`. Weights are the master weights, gradients those that
    /// [`reduce_gradients`](Self::reduce_gradients) has left. A tensor that is sharded can be read by the first rank
    /// alone, while all others are in [`serve_reads`](Self::serve_reads); their parts are gathered for this tensor
    /// only.
    ///
    /// # Errors
    /// When a frozen parameter has no such tensor, the optimiser has no such state, another rank than the first reads a
    /// sharded tensor, or the collective fails.
    fn read(&self, parameter_idx: usize, tensor: ParameterTensor) -> Result<Cow<'_, [f32]>, EngineError>;
    /// Overwrites one tensor of the parameter at `parameter_idx`, given in whole. Of a sharded one a rank takes what it
    /// owns.
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

/// One sequence to sample a token for.
#[derive(Debug)]
pub struct SampleStep<'a> {
    /// The row of the logits.
    pub row: usize,
    /// Options and random numbers of this sequence.
    pub sampler: &'a mut Sampler,
    /// All tokens of the sequence so far, for the repetition penalty.
    pub history: &'a [TokenId],
    /// The only tokens that may be sampled; all where there is none.
    pub allowed: Option<&'a AllowedTokens>,
}

/// Runs a model, forward and backward, segment by segment.
///
/// One optimiser step is: [`zero_gradients`](ParameterStore::zero_gradients); for each pack: `upload`, `embed`,
/// `segment_forward` for each segment, `head_backward`, `segment_backward` for each segment in reverse,
/// `embed_backward`; then `reduce_gradients`, `gradient_norm`, `optimizer_step`. Gradients accumulate.
///
/// An engine may queue its work; it synchronises where a value is handed to the host. It can be moved to another
/// thread, as a server does.
pub trait Engine: ParameterStore + Send + Sized {
    /// Device and number format, as content keys name them. Another name means that equal results are not promised.
    const NAME: &'static str;
    /// The same for an engine that wraps several and chooses one at run time: the name of the one that was chosen.
    #[must_use]
    fn name() -> &'static str {
        Self::NAME
    }

    /// Tokens, positions and cumulative lengths where the engine wants them.
    type Batch;
    /// Hidden states `[total, hidden]`.
    type Hidden;
    /// What a segment saved for its backward.
    type Saved;
    /// Keys and values of one running sequence.
    type Cache: Send;
    /// Logits `[n_rows, vocab]`.
    type Logits;

    /// The bytes this engine would need, known before anything is loaded.
    fn memory(spec: &ModelSpec, trainable: &TrainableSpec, dtype: ComputeDtype) -> EngineMemory;
    /// Loads a model. What no file holds starts as [`initial_values`](crate::initial_values) says.
    ///
    /// # Errors
    /// When the engine does not compute such a model, the device, the number format or the ZeRO stage is not available,
    /// a parameter is missing or has another shape, a LoRA target is not a projection of the model, or the weights
    /// cannot be read.
    fn load(
        spec: ModelSpec,
        trainable: TrainableSpec,
        options: &EngineOptions,
        groups: &Groups,
        weights: &mut dyn WeightSource,
    ) -> Result<Self, EngineError>;
    /// What the engine states of its results.
    fn guarantees(&self) -> Guarantees;

    /// The model.
    fn spec(&self) -> &ModelSpec;
    /// Hands a batch to the engine.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary; of an encoder also when a text is longer than its positions, or a
    /// sequence continues another one.
    fn upload(&mut self, batch: &PackedBatch) -> Result<Self::Batch, EngineError>;
    /// Rows of the embedding, `[total, hidden]`.
    ///
    /// # Errors
    /// When the device fails.
    fn embed(&mut self, batch: &Self::Batch) -> Result<Self::Hidden, EngineError>;
    /// Runs the blocks `layers`.
    ///
    /// # Errors
    /// When the device fails.
    fn segment_forward(
        &mut self,
        batch: &Self::Batch,
        layers: Range<usize>,
        input: Self::Hidden,
        save: SaveActivations,
        adapters: Adapters,
    ) -> Result<(Self::Hidden, Self::Saved), EngineError>;
    /// Adds the gradients of a segment's parameters and returns the gradient at its input. Adapters take part as they
    /// did in the segment's forward pass; without, they get no gradient.
    ///
    /// # Errors
    /// When nothing was saved, or the device fails.
    fn segment_backward(
        &mut self,
        batch: &Self::Batch,
        saved: Self::Saved,
        d_output: Self::Hidden,
    ) -> Result<Self::Hidden, EngineError>;
    /// Adds the embedding's gradient.
    ///
    /// # Errors
    /// When the device fails.
    fn embed_backward(&mut self, batch: &Self::Batch, d_hidden: Self::Hidden) -> Result<(), EngineError>;

    /// Final norm and head: what the request asks for.
    ///
    /// # Errors
    /// When the model has no such head, a token lies outside the vocabulary, or the device fails.
    fn head(&mut self, hidden: &Self::Hidden, request: &HeadRequest<'_>) -> Result<HeadOutput, EngineError>;
    /// The same, and the backward pass: adds the gradients of head and final norm, returns the gradient at the
    /// hidden states.
    ///
    /// # Errors
    /// As [`head`](Self::head), and when the gradient is of another size.
    fn head_backward(
        &mut self,
        hidden: Self::Hidden,
        request: &HeadRequest<'_>,
        gradient: &HeadGradient,
    ) -> Result<(HeadOutput, Self::Hidden), EngineError>;
    /// The `k` most likely tokens at some rows, of those that are not excluded; fewer where there are fewer.
    ///
    /// # Errors
    /// When the model has no language-model head, or the device fails.
    fn top_log_probs(
        &mut self,
        hidden: &Self::Hidden,
        rows: &[u32],
        temperature: f32,
        excluded: &ExcludedTokens,
        k: usize,
    ) -> Result<TopLogProbs, EngineError>;
    /// The log-probabilities of the same tokens at the same rows under this model, renormalised over the tokens of each
    /// row, in the order of `tokens`.
    ///
    /// # Errors
    /// When the model has no language-model head, a token lies outside the vocabulary, there are other rows than
    /// `tokens` has, `tokens` is on another device, or the device fails.
    fn log_probs_of(
        &mut self,
        hidden: &Self::Hidden,
        rows: &[u32],
        temperature: f32,
        tokens: &TopLogProbs,
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
    /// Final norm and head in full for some rows: `[rows, vocab]` on the host. For checks and tests.
    ///
    /// # Errors
    /// When the model has no language-model head, or the device fails.
    fn logits(&mut self, hidden: &Self::Hidden, rows: &[u32]) -> Result<Vec<f32>, EngineError>;

    /// Gives back what is kept from batch to batch, or from one sequence's cache for the next, only to save time:
    /// before a phase that needs the memory otherwise.
    fn release_working_memory(&mut self) {}

    /// Room for a sequence of at most `capacity` tokens.
    ///
    /// # Errors
    /// When the model does not decode, or the device has no room.
    fn new_cache(&mut self, capacity: usize) -> Result<Self::Cache, EngineError>;
    /// Number of tokens that a cache holds.
    fn cache_len(&self, cache: &Self::Cache) -> usize;
    /// Forgets all tokens of a cache after the first `n_tokens`, so that a shared beginning is not read twice.
    ///
    /// # Errors
    /// When the device fails.
    fn truncate_cache(&mut self, cache: &mut Self::Cache, n_tokens: usize) -> Result<(), EngineError>;
    /// A second sequence that continues all that this one holds: the completions of a group share one reading
    /// of their prompt.
    ///
    /// # Errors
    /// When the device has no room.
    fn fork_cache(&mut self, cache: &Self::Cache) -> Result<Self::Cache, EngineError>;
    /// Appends tokens to a running sequence and returns the logits after the last one, one row. A single token is
    /// multiplied with `weights`; several at once (a prompt) are always read with the weights themselves.
    ///
    /// # Errors
    /// When there is no token, the cache is full, a token lies outside the vocabulary, or the engine has no such
    /// weights; the cache is not changed then.
    fn extend(
        &mut self,
        cache: &mut Self::Cache,
        tokens: &[TokenId],
        weights: DecodingWeights,
    ) -> Result<Self::Logits, EngineError>;
    /// Appends one token to each of several running sequences and returns the logits after each
    /// `[n_sequences, vocab]`. Where the engine guarantees it, a sequence's logits do not depend, in any bit, on which
    /// others run beside it. A copy of the weights in 8 bits is made when first asked for, and follows every change of
    /// the weights.
    ///
    /// # Errors
    /// When there are more or fewer tokens than caches, a cache is full, a token lies outside the vocabulary, or the
    /// engine has no such weights; no cache is changed then.
    fn extend_each(
        &mut self,
        caches: &mut [&mut Self::Cache],
        tokens: &[TokenId],
        weights: DecodingWeights,
    ) -> Result<Self::Logits, EngineError> {
        let tokens: Vec<&[TokenId]> = tokens.chunks(1).collect();
        self.extend_each_by(caches, &tokens, weights)
    }
    /// Appends some tokens to each of several running sequences and returns the logits after every one of them,
    /// sequence by sequence `[n_tokens, vocab]`. They are what [`extend_each`](Self::extend_each) returns for one token
    /// after the other: the same bits where the engine guarantees that no bit depends on what runs beside. So drafted
    /// tokens are verified in one pass (speculative decoding).
    ///
    /// # Errors
    /// As [`extend_each`](Self::extend_each), and when there is no token for a sequence.
    fn extend_each_by(
        &mut self,
        caches: &mut [&mut Self::Cache],
        tokens: &[&[TokenId]],
        weights: DecodingWeights,
    ) -> Result<Self::Logits, EngineError>;
    /// Samples one token for each of some sequences, of those that are not excluded. A token depends on its row,
    /// history and sampler alone. `None` where the logits are not a distribution.
    ///
    /// # Errors
    /// When there is no such row, or the device fails.
    fn sample(
        &mut self,
        logits: &Self::Logits,
        excluded: &ExcludedTokens,
        steps: &mut [SampleStep<'_>],
    ) -> Result<Vec<Option<SampledToken>>, EngineError>;
    /// Logits on the host `[n_rows, vocab]`. For checks and tests.
    ///
    /// # Errors
    /// When the device fails.
    fn read_logits(&mut self, logits: &Self::Logits) -> Result<Vec<f32>, EngineError>;
}
