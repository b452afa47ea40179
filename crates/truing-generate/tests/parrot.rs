//! An engine without weights: its logits are a function of the tokens so far, and it counts what it reads.

use std::borrow::Cow;
use std::ops::Range;

use truing_model::spec::ParameterSpec;
use truing_model::{
    Adapters, ComputeDtype, DecoderSpec, DecodingWeights, Engine, EngineError, EngineMemory, EngineOptions,
    Guarantees, HeadGradient, HeadOutput, HeadRequest, ModelSpec, OptimizerStep, ParameterStore,
    ParameterTensor, SampleStep, SampledToken, SaveActivations, TopLogProbs, TrainableSpec, WeightSource,
};
use truing_types::{ExcludedTokens, Groups, PackedBatch, TokenId};

/// Logits `[vocab]` after the tokens so far.
type NextLogits = dyn Fn(&[TokenId]) -> Vec<f32> + Send;

/// Says what `next` says, and remembers every token that it had to read.
pub(crate) struct Parrot {
    spec: ModelSpec,
    trainable: TrainableSpec,
    next: Box<NextLogits>,
    pub(crate) n_read: usize,
}

impl Parrot {
    pub(crate) fn new(context_length: usize, next: impl Fn(&[TokenId]) -> Vec<f32> + Send + 'static) -> Self {
        let spec = DecoderSpec {
            architecture: "Parrot".into(),
            vocab_size: 400,
            hidden_size: 1,
            intermediate_size: 1,
            n_layers: 1,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 1,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: None,
            max_position_embeddings: context_length,
            head: truing_model::HeadKind::LanguageModel,
            tie_word_embeddings: true,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            sliding_windows: vec![None],
            variant: truing_model::DecoderVariant::default(),
            bos_token_id: None,
            eos_token_ids: vec![0],
        };
        Self { spec: spec.into(), trainable: TrainableSpec::default(), next: Box::new(next), n_read: 0 }
    }

    /// The same with a head of another number of rows, which is what `next` has to return.
    pub(crate) fn with_rows(mut self, n_rows: usize) -> Self {
        if let ModelSpec::Decoder(spec) = &mut self.spec {
            spec.vocab_size = n_rows;
        }
        self
    }

    /// Says these tokens after a prompt of any content, one after the other, then token 0.
    pub(crate) fn saying(context_length: usize, n_prompt: usize, tokens: Vec<TokenId>) -> Self {
        Self::new(context_length, move |so_far| {
            // A prompt may be read in pieces.
            let said = so_far.len().checked_sub(n_prompt).and_then(|at| tokens.get(at));
            one_hot(said.copied().unwrap_or(0))
        })
    }
}

/// Logits that leave no doubt.
pub(crate) fn one_hot(token: TokenId) -> Vec<f32> {
    let mut logits = vec![0.0; 400];
    logits[token as usize] = 20.0;
    logits
}

impl ParameterStore for Parrot {
    fn trainable(&self) -> &TrainableSpec {
        &self.trainable
    }

    fn parameters(&self) -> &[ParameterSpec] {
        &[]
    }

    fn zero_gradients(&mut self) -> Result<(), EngineError> {
        unreachable!("decoding trains nothing")
    }

    fn reduce_gradients(&mut self) -> Result<(), EngineError> {
        unreachable!("decoding trains nothing")
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        unreachable!("decoding trains nothing")
    }

    fn optimizer_step(&mut self, _: &OptimizerStep) -> Result<(), EngineError> {
        unreachable!("decoding trains nothing")
    }

    fn read(&self, _: usize, _: ParameterTensor) -> Result<Cow<'_, [f32]>, EngineError> {
        unreachable!("decoding trains nothing")
    }

    fn write(&mut self, _: usize, _: ParameterTensor, _: &[f32]) -> Result<(), EngineError> {
        unreachable!("decoding trains nothing")
    }
}

impl Engine for Parrot {
    const NAME: &'static str = "parrot";

    type Batch = ();
    type Hidden = ();
    type Saved = ();
    type Cache = Vec<TokenId>;
    /// One row for each token, of a prompt for its last.
    type Logits = Vec<Vec<f32>>;

    fn memory(_: &ModelSpec, _: &TrainableSpec, _: ComputeDtype) -> EngineMemory {
        EngineMemory::default()
    }
    fn load(
        _: ModelSpec,
        _: TrainableSpec,
        _: &EngineOptions,
        _: &Groups,
        _: &mut dyn WeightSource,
    ) -> Result<Self, EngineError> {
        unreachable!("a parrot has no weights")
    }
    fn guarantees(&self) -> Guarantees {
        unreachable!("nothing is proven of a parrot")
    }
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }
    fn new_cache(&mut self, _: usize) -> Result<Vec<TokenId>, EngineError> {
        Ok(Vec::new())
    }
    fn cache_len(&self, cache: &Vec<TokenId>) -> usize {
        cache.len()
    }
    fn truncate_cache(&mut self, cache: &mut Vec<TokenId>, n_tokens: usize) -> Result<(), EngineError> {
        cache.truncate(n_tokens);
        Ok(())
    }
    fn fork_cache(&mut self, cache: &Vec<TokenId>) -> Result<Vec<TokenId>, EngineError> {
        Ok(cache.clone())
    }
    fn extend_each_by(
        &mut self,
        caches: &mut [&mut Vec<TokenId>],
        tokens: &[&[TokenId]],
        weights: DecodingWeights,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let mut logits = Vec::new();
        for (cache, new) in caches.iter_mut().zip(tokens) {
            for token in *new {
                logits.extend(self.extend(cache, &[*token], weights)?);
            }
        }
        Ok(logits)
    }
    fn extend(
        &mut self,
        cache: &mut Vec<TokenId>,
        tokens: &[TokenId],
        _: DecodingWeights,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let vocab_size = self.spec.vocab_size();
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(EngineError::TokenOutOfRange { token, vocab_size });
        }
        self.n_read += tokens.len();
        cache.extend_from_slice(tokens);
        Ok(vec![(self.next)(cache)])
    }
    fn sample(
        &mut self,
        logits: &Vec<Vec<f32>>,
        excluded: &ExcludedTokens,
        steps: &mut [SampleStep<'_>],
    ) -> Result<Vec<Option<SampledToken>>, EngineError> {
        let sample = |step: &mut SampleStep<'_>| {
            let mut row = logits[step.row].clone();
            excluded.mask(&mut row);
            step.sampler.sample_after(&row, step.history, step.allowed)
        };
        Ok(steps.iter_mut().map(sample).collect())
    }
    fn read_logits(&mut self, logits: &Vec<Vec<f32>>) -> Result<Vec<f32>, EngineError> {
        Ok(logits.concat())
    }

    fn upload(&mut self, _: &PackedBatch) -> Result<(), EngineError> {
        unreachable!("decoding trains nothing")
    }
    fn embed(&mut self, (): &()) -> Result<(), EngineError> {
        unreachable!("decoding trains nothing")
    }
    fn segment_forward(
        &mut self,
        (): &(),
        _: Range<usize>,
        (): (),
        _: SaveActivations,
        _: Adapters,
    ) -> Result<((), ()), EngineError> {
        unreachable!("decoding trains nothing")
    }
    fn segment_backward(&mut self, (): &(), (): (), (): ()) -> Result<(), EngineError> {
        unreachable!("decoding trains nothing")
    }
    fn embed_backward(&mut self, (): &(), (): ()) -> Result<(), EngineError> {
        unreachable!("decoding trains nothing")
    }
    fn head(&mut self, (): &(), _: &HeadRequest<'_>) -> Result<HeadOutput, EngineError> {
        unreachable!("decoding trains nothing")
    }
    fn head_backward(
        &mut self,
        (): (),
        _: &HeadRequest<'_>,
        _: &HeadGradient,
    ) -> Result<(HeadOutput, ()), EngineError> {
        unreachable!("decoding trains nothing")
    }
    fn top_log_probs(
        &mut self,
        (): &(),
        _: &[u32],
        _: f32,
        _: &ExcludedTokens,
        _: usize,
    ) -> Result<TopLogProbs, EngineError> {
        unreachable!("decoding trains nothing")
    }
    fn log_probs_of(
        &mut self,
        (): &(),
        _: &[u32],
        _: f32,
        _: &TopLogProbs,
    ) -> Result<TopLogProbs, EngineError> {
        unreachable!("decoding trains nothing")
    }
    fn logits(&mut self, (): &(), _: &[u32]) -> Result<Vec<f32>, EngineError> {
        unreachable!("decoding trains nothing")
    }
}
