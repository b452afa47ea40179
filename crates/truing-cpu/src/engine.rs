//! [`CpuEngine`]: the [`Engine`] on this machine's processor. In bf16 the products of projections and of the
//! language-model head have factors in bf16 and sums in f32; everything else is in f32.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use truing_model::engine::checks::{
    check_batch, check_excluded, check_extensions, check_gradient, check_language_model,
};
use truing_model::engine::{PutWeight, sample_rows};
use truing_model::{
    Adapters, ComputeDtype, DecodingWeights, Engine, EngineError, EngineMemory, EngineOptions, Guarantees,
    HeadGradient, HeadOutput, HeadRequest, ModelSpec, OptimizerStep, ParameterSpec, ParameterStore,
    ParameterTensor, SampleStep, SampledToken, SaveActivations, TopLogProbs, TrainableSpec, WeightSource,
    ZeroStage, initial_values,
};
use truing_types::{ExcludedTokens, Groups, PackedBatch, TokenId};

use crate::batch::DeviceBatch;
use crate::buffers::BufferPool;
use crate::cache::KvCache;
use crate::decoder::Decoder;
use crate::encoder::{self, Encoder};
use crate::inner::{Body, Inner};
use crate::layer;
use crate::memory::engine_memory;
use crate::parameters::{Parameters, StateBytes, Unit};
use crate::segment::{self, SavedSegment};
use crate::shards::Shards;
use crate::ulysses::{PackRows, SequenceGroup};

/// Hidden states `[n_tokens, hidden]`, or a gradient of that shape, of this rank's rows of a pack.
#[derive(Debug)]
pub struct Hidden {
    pub(crate) values: Vec<f32>,
    pub(crate) rows: PackRows,
}

/// What a segment saved for its backward.
#[derive(Debug)]
pub struct SavedActivations {
    layers: Range<usize>,
    adapters: Adapters,
    saved: SavedBody,
}

#[derive(Debug)]
enum SavedBody {
    Decoder(SavedSegment<layer::SavedLayer>),
    Encoder(SavedSegment<Box<encoder::SavedLayer>>),
}

/// Logits `[n_rows, vocab]`.
#[derive(Debug)]
pub struct Logits {
    values: Vec<f32>,
    vocab_size: usize,
}

/// Which number format an engine computes in: that of its options, or one that a program has chosen for all its models.
pub trait FormatChoice: std::fmt::Debug + Send + Sync + 'static {
    /// The format, where the options ask for `asked`.
    fn dtype(asked: ComputeDtype) -> ComputeDtype;
}

/// The format that the options ask for.
#[derive(Debug)]
pub struct AsAsked;

impl FormatChoice for AsAsked {
    fn dtype(asked: ComputeDtype) -> ComputeDtype {
        asked
    }
}

/// The engine on this machine's processor, in the number format that its options ask for.
pub type CpuEngine = CpuEngineIn<AsAsked>;

/// A model on the CPU.
pub struct CpuEngineIn<F> {
    threads: rayon::ThreadPool,
    inner: Inner,
    dtype: ComputeDtype,
    format: PhantomData<F>,
}

impl<F> std::fmt::Debug for CpuEngineIn<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuEngine")
            .field("spec", &self.inner.spec)
            .field("dtype", &self.dtype)
            .field("n_threads", &self.n_threads())
            .finish_non_exhaustive()
    }
}

impl<F> CpuEngineIn<F> {
    /// Threads in use.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Bytes of the states that this rank holds now: with sharded states (ZeRO) its part of them.
    #[must_use]
    pub fn state_bytes(&self) -> StateBytes {
        self.inner.parameters.state_bytes()
    }

    /// Runs something of the head, without a backward pass.
    fn with_head<T: Send>(
        &mut self,
        work: impl FnOnce(&mut Inner) -> Result<T, EngineError> + Send,
    ) -> Result<T, EngineError> {
        let inner = &mut self.inner;
        inner.parameters.gather(Unit::Head)?;
        let result = self.threads.install(|| {
            inner.parameters.round_weights(Unit::Head);
            work(inner)
        });
        self.inner.parameters.release(Unit::Head);
        result
    }
}

impl<F: FormatChoice> ParameterStore for CpuEngineIn<F> {
    fn trainable(&self) -> &TrainableSpec {
        &self.inner.parameters.trainable
    }

    fn parameters(&self) -> &[ParameterSpec] {
        &self.inner.parameters.specs
    }

    fn zero_gradients(&mut self) -> Result<(), EngineError> {
        let parameters = &mut self.inner.parameters;
        self.threads.install(|| parameters.zero_gradients());
        Ok(())
    }

    fn reduce_gradients(&mut self) -> Result<(), EngineError> {
        self.inner.parameters.reduce_gradients()
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        let parameters = &self.inner.parameters;
        parameters.norm(self.threads.install(|| parameters.sum_of_squares()))
    }

    fn has_finite_gradients(&self) -> Result<bool, EngineError> {
        let parameters = &self.inner.parameters;
        Ok(self.threads.install(|| parameters.has_finite_gradients()))
    }

    fn optimizer_step(&mut self, step: &OptimizerStep) -> Result<(), EngineError> {
        let parameters = &mut self.inner.parameters;
        self.threads.install(|| parameters.optimizer_step(step));
        parameters.gather_stepped()
    }

    fn zero_stage(&self) -> ZeroStage {
        self.inner.parameters.zero_stage()
    }

    fn join_others(&mut self) -> Result<(), EngineError> {
        self.inner.parameters.join_others()
    }

    fn serve_reads(&self) -> Result<(), EngineError> {
        self.inner.parameters.serve_reads()
    }

    fn finish_reads(&self) -> Result<(), EngineError> {
        self.inner.parameters.finish_reads()
    }

    fn read(&self, parameter_idx: usize, tensor: ParameterTensor) -> Result<Cow<'_, [f32]>, EngineError> {
        self.inner.parameters.read(parameter_idx, tensor)
    }

    fn write(
        &mut self,
        parameter_idx: usize,
        tensor: ParameterTensor,
        values: &[f32],
    ) -> Result<(), EngineError> {
        self.inner.parameters.set(parameter_idx, tensor, values.to_vec())
    }
}

impl<F: FormatChoice> Engine for CpuEngineIn<F> {
    const NAME: &'static str = "cpu f32";

    type Batch = DeviceBatch;
    type Hidden = Hidden;
    type Saved = SavedActivations;
    type Cache = KvCache;
    type Logits = Logits;

    fn name() -> &'static str {
        match F::dtype(ComputeDtype::F32) {
            ComputeDtype::F32 => Self::NAME,
            ComputeDtype::Bf16 => "cpu bf16",
        }
    }

    fn memory(spec: &ModelSpec, trainable: &TrainableSpec, dtype: ComputeDtype) -> EngineMemory {
        engine_memory(spec, trainable, F::dtype(dtype))
    }

    fn load(
        spec: ModelSpec,
        trainable: TrainableSpec,
        options: &EngineOptions,
        groups: &Groups,
        weights: &mut dyn WeightSource,
    ) -> Result<Self, EngineError> {
        if options.device_idx != 0 {
            let reason = format!("there is no processor {}; the CPU engine is device 0", options.device_idx);
            return Err(EngineError::Device(reason));
        }
        let group = SequenceGroup::new(Arc::clone(&groups.sequence));
        spec.check_sequence_parallel_size(group.size())?;
        let shards = Shards::new(groups, options.zero_stage);
        let dtype = F::dtype(options.dtype);
        let mut parameters = Parameters::new(spec.parameters_with(&trainable)?, trainable, shards);
        if dtype == ComputeDtype::Bf16 {
            parameters.multiply_in_bf16(&spec);
        }
        let put: &mut PutWeight<'_> = &mut |name, shape, values| parameters.put(name, shape, values);
        weights.read_into(put)?;
        for idx in 0..parameters.specs.len() {
            if !parameters.is_given(idx) {
                let parameter = &parameters.specs[idx];
                let missing = || EngineError::MissingParameter { name: parameter.name.clone() };
                let values = initial_values(parameter, idx, options.seed).ok_or_else(missing)?;
                parameters.set(idx, ParameterTensor::Value, values)?;
            }
        }
        let body = match &spec {
            ModelSpec::Decoder(decoder) => {
                let decoder = Decoder::find(decoder.clone(), &parameters.trainable, &parameters, &group)?;
                parameters.set_units(decoder.units(&parameters.specs));
                Body::Decoder(Box::new(decoder))
            }
            ModelSpec::Encoder(encoder) => {
                let encoder = Encoder::find(encoder.clone(), &parameters)?;
                parameters.set_units(encoder.units(&parameters.specs));
                Body::Encoder(Box::new(encoder))
            }
        };
        let threads = rayon::ThreadPoolBuilder::new().num_threads(options.n_threads).build();
        let threads =
            threads.map_err(|error| EngineError::Device(format!("threads cannot be started: {error}")))?;
        let (pool, free_blocks) = (BufferPool::default(), Arc::default());
        let inner = Inner { spec, parameters, body, pool, free_blocks, group };
        Ok(Self { threads, inner, dtype, format: PhantomData })
    }

    /// Sums run in single precision, in an order that depends on sizes alone: neither the number of threads nor other
    /// sequences change a bit. In bfloat16 factors have 8 significant bits: logits of size 10 are right to some
    /// hundredths.
    fn guarantees(&self) -> Guarantees {
        let of = |decoding: f64, log_prob: f64, gradient: f64, vector: f64| Guarantees {
            is_deterministic: true,
            is_batch_invariant: true,
            decoding_log_prob_tolerance: decoding,
            log_prob_tolerance: log_prob,
            gradient_tolerance: gradient,
            vector_tolerance: vector,
        };
        match self.dtype {
            ComputeDtype::F32 => of(2e-5, 1e-5, 1e-5, 2e-6),
            // Decoding rounds the same numbers as a forward pass, but where sums in another order fall on another side.
            ComputeDtype::Bf16 => of(0.02, 0.15, 0.06, 0.02),
        }
    }

    fn spec(&self) -> &ModelSpec {
        &self.inner.spec
    }

    fn upload(&mut self, batch: &PackedBatch) -> Result<DeviceBatch, EngineError> {
        let inner = &mut self.inner;
        check_batch(&inner.spec, batch)?;
        // Of the rank with the most rows.
        inner.pool.prepare(batch.n_tokens().div_ceil(inner.group.size()));
        if let Body::Decoder(decoder) = &mut inner.body {
            decoder.ensure_positions(batch.longest_sequence());
        }
        Ok(DeviceBatch::of(batch, &inner.group))
    }

    fn embed(&mut self, batch: &DeviceBatch) -> Result<Hidden, EngineError> {
        let Inner { parameters, body, pool, .. } = &mut self.inner;
        parameters.gather(Unit::Embeddings)?;
        let values = self.threads.install(|| match body {
            Body::Decoder(decoder) => decoder.embed(parameters, pool, &batch.tokens),
            Body::Encoder(encoder) => encoder.embed(parameters, pool, batch),
        });
        parameters.release(Unit::Embeddings);
        Ok(Hidden { values, rows: batch.rows.clone() })
    }

    fn segment_forward(
        &mut self,
        batch: &DeviceBatch,
        layers: Range<usize>,
        input: Hidden,
        save: SaveActivations,
        adapters: Adapters,
    ) -> Result<(Hidden, SavedActivations), EngineError> {
        let Inner { parameters, body, pool, .. } = &mut self.inner;
        parameters.adapters = adapters;
        let (Hidden { values: x, rows }, of_segment) = (input, layers.clone());
        let forward = || match body {
            Body::Decoder(decoder) => {
                segment::forward(&**decoder, parameters, pool, batch, of_segment, x, save, Vec::new())
                    .map(|(y, saved)| (y, SavedBody::Decoder(saved)))
            }
            Body::Encoder(encoder) => {
                segment::forward(&**encoder, parameters, pool, batch, of_segment, x, save, Vec::new())
                    .map(|(y, saved)| (y, SavedBody::Encoder(saved)))
            }
        };
        let (values, saved) = self.threads.install(forward)?;
        Ok((Hidden { values, rows }, SavedActivations { layers, adapters, saved }))
    }

    fn segment_backward(
        &mut self,
        batch: &DeviceBatch,
        saved: SavedActivations,
        d_output: Hidden,
    ) -> Result<Hidden, EngineError> {
        let SavedActivations { layers, adapters, saved } = saved;
        let Inner { parameters, body, pool, .. } = &mut self.inner;
        parameters.adapters = adapters;
        let Hidden { values: d_output, rows } = d_output;
        let d_x = self.threads.install(|| match (body, saved) {
            (Body::Decoder(decoder), SavedBody::Decoder(saved)) => {
                segment::backward(&**decoder, parameters, pool, batch, layers, saved, d_output)
            }
            (Body::Encoder(encoder), SavedBody::Encoder(saved)) => {
                segment::backward(&**encoder, parameters, pool, batch, layers, saved, d_output)
            }
            _ => Err(EngineError::Unsupported("the saved activations are those of another model".into())),
        });
        Ok(Hidden { values: d_x?, rows })
    }

    fn embed_backward(&mut self, batch: &DeviceBatch, d_hidden: Hidden) -> Result<(), EngineError> {
        let Inner { parameters, body, pool, .. } = &mut self.inner;
        parameters.begin_backward(Unit::Embeddings)?;
        self.threads.install(|| {
            match body {
                Body::Decoder(decoder) => decoder.embed_backward(parameters, batch, &d_hidden.values),
                Body::Encoder(encoder) => encoder.embed_backward(parameters, batch, &d_hidden.values),
            }
            pool.give(d_hidden.values);
        });
        parameters.end_backward(Unit::Embeddings)
    }

    fn head(&mut self, hidden: &Hidden, request: &HeadRequest<'_>) -> Result<HeadOutput, EngineError> {
        self.inner.check_request(request)?;
        self.with_head(|inner| inner.head_on_ranks(hidden, request))
    }

    fn head_backward(
        &mut self,
        hidden: Hidden,
        request: &HeadRequest<'_>,
        gradient: &HeadGradient,
    ) -> Result<(HeadOutput, Hidden), EngineError> {
        self.inner.check_request(request)?;
        check_gradient(&self.inner.spec, request, gradient)?;
        let inner = &mut self.inner;
        let Hidden { values, rows } = hidden;
        inner.parameters.begin_backward(Unit::Head)?;
        let backward = || {
            inner.parameters.round_weights(Unit::Head);
            inner.head_backward_on_ranks(values, &rows, request, gradient)
        };
        let (output, values) = self.threads.install(backward)?;
        self.inner.parameters.end_backward(Unit::Head)?;
        Ok((output, Hidden { values, rows }))
    }

    fn top_log_probs(
        &mut self,
        hidden: &Hidden,
        rows: &[u32],
        temperature: f32,
        excluded: &ExcludedTokens,
        k: usize,
    ) -> Result<TopLogProbs, EngineError> {
        let decoder = self.inner.body.decoder()?;
        check_language_model(&decoder.spec)?;
        check_excluded(excluded, decoder.spec.vocab_size)?;
        self.with_head(|inner| inner.top_log_probs_on_ranks(hidden, rows, temperature, excluded, k))
    }

    fn log_probs_of(
        &mut self,
        hidden: &Hidden,
        rows: &[u32],
        temperature: f32,
        tokens: &TopLogProbs,
    ) -> Result<TopLogProbs, EngineError> {
        check_language_model(&self.inner.body.decoder()?.spec)?;
        self.with_head(|inner| inner.log_probs_of_on_ranks(hidden, rows, temperature, tokens))
    }

    fn logits(&mut self, hidden: &Hidden, rows: &[u32]) -> Result<Vec<f32>, EngineError> {
        check_language_model(&self.inner.body.decoder()?.spec)?;
        self.with_head(|inner| inner.logits_on_ranks(hidden, rows))
    }

    fn release_working_memory(&mut self) {
        self.inner.pool = BufferPool::default();
        self.inner.free_blocks.clear();
        self.inner.parameters.release_gathered();
        truing_kernels::release_attention_workspace();
        truing_kernels::return_freed_memory();
    }

    fn new_cache(&mut self, capacity: usize) -> Result<KvCache, EngineError> {
        let Inner { body, free_blocks, .. } = &self.inner;
        let spec = &body.decoder()?.spec;
        Ok(KvCache::new(spec.n_layers, spec.kv_width(), spec.head_dim, capacity, Arc::clone(free_blocks)))
    }

    fn cache_len(&self, cache: &KvCache) -> usize {
        cache.n_cached
    }

    fn truncate_cache(&mut self, cache: &mut KvCache, n_tokens: usize) -> Result<(), EngineError> {
        cache.truncate(n_tokens);
        Ok(())
    }

    fn fork_cache(&mut self, cache: &KvCache) -> Result<KvCache, EngineError> {
        Ok(cache.clone())
    }

    fn extend(
        &mut self,
        cache: &mut KvCache,
        tokens: &[TokenId],
        weights: DecodingWeights,
    ) -> Result<Logits, EngineError> {
        if tokens.len() == 1 {
            return self.extend_each(&mut [cache], tokens, weights);
        }
        let Inner { parameters, body, pool, .. } = &mut self.inner;
        let decoder = body.decoder_mut()?;
        check_extensions(&decoder.spec, [(cache.n_cached, cache.capacity)].into_iter(), &[tokens])?;
        parameters.adapters = Adapters::Enabled;
        parameters.gather_all()?;
        let values = self.threads.install(|| decoder.read_prompt(parameters, pool, cache, tokens));
        Ok(Logits { values, vocab_size: decoder.spec.vocab_size })
    }

    fn extend_each_by(
        &mut self,
        caches: &mut [&mut KvCache],
        tokens: &[&[TokenId]],
        weights: DecodingWeights,
    ) -> Result<Logits, EngineError> {
        let Inner { parameters, body, pool, .. } = &mut self.inner;
        let decoder = body.decoder_mut()?;
        let sizes = caches.iter().map(|cache| (cache.n_cached, cache.capacity));
        check_extensions(&decoder.spec, sizes, tokens)?;
        parameters.adapters = Adapters::Enabled;
        parameters.gather_all()?;
        let values =
            self.threads.install(|| decoder.extend_each_by(parameters, pool, caches, tokens, weights));
        Ok(Logits { values, vocab_size: decoder.spec.vocab_size })
    }

    fn sample(
        &mut self,
        logits: &Logits,
        excluded: &ExcludedTokens,
        steps: &mut [SampleStep<'_>],
    ) -> Result<Vec<Option<SampledToken>>, EngineError> {
        self.threads.install(|| sample_rows(&logits.values, logits.vocab_size, excluded, steps))
    }

    fn read_logits(&mut self, logits: &Logits) -> Result<Vec<f32>, EngineError> {
        Ok(logits.values.clone())
    }
}
