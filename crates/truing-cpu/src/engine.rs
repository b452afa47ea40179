//! [`CpuEngine`]: the [`Engine`] on this machine's processor.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use truing_model::engine::PutWeight;
use truing_model::engine::checks::{
    check_batch, check_excluded, check_gradient, check_language_model, check_tokens,
};
use truing_model::{
    Adapters, ComputeDtype, DecodingWeights, Engine, EngineError, EngineMemory, EngineOptions, Guarantees,
    HeadGradient, HeadOutput, HeadRequest, ModelSpec, OptimizerStep, ParameterSpec, ParameterStore,
    ParameterTensor, SampleStep, SampledToken, SaveActivations, TopLogProbs, TrainableSpec, WeightSource,
    initial_values,
};
use truing_types::{Communicator, ExcludedTokens, Groups, PackedBatch, TokenId};

use crate::batch::DeviceBatch;
use crate::buffers::BufferPool;
use crate::cache::KvCache;
use crate::decoder::Decoder;
use crate::encoder::{self, Encoder};
use crate::inner::{Body, Inner};
use crate::layer;
use crate::memory::engine_memory;
use crate::parameters::Parameters;
use crate::segment::{self, SavedSegment};

/// Hidden states `[n_tokens, hidden]`, or a gradient of that shape.
#[derive(Debug)]
pub struct Hidden(Vec<f32>);

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

/// A model on the CPU.
pub struct CpuEngine {
    threads: rayon::ThreadPool,
    /// Ranks with other data: gradients are summed over them.
    communicator: Arc<dyn Communicator>,
    inner: Inner,
}

impl std::fmt::Debug for CpuEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuEngine")
            .field("spec", &self.inner.spec)
            .field("n_threads", &self.n_threads())
            .finish_non_exhaustive()
    }
}

impl CpuEngine {
    /// Threads in use.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.threads.current_num_threads()
    }
}

impl ParameterStore for CpuEngine {
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
        self.inner.parameters.reduce_gradients(&*self.communicator)
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        let parameters = &self.inner.parameters;
        Ok(self.threads.install(|| parameters.gradient_norm()))
    }

    fn optimizer_step(&mut self, step: &OptimizerStep) -> Result<(), EngineError> {
        let parameters = &mut self.inner.parameters;
        self.threads.install(|| parameters.optimizer_step(step));
        Ok(())
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

impl Engine for CpuEngine {
    const NAME: &'static str = "cpu f32";

    type Batch = DeviceBatch;
    type Hidden = Hidden;
    type Saved = SavedActivations;
    type Cache = KvCache;
    type Logits = Logits;

    fn memory(spec: &ModelSpec, trainable: &TrainableSpec, _dtype: ComputeDtype) -> EngineMemory {
        engine_memory(spec, trainable)
    }

    fn load(
        spec: ModelSpec,
        trainable: TrainableSpec,
        options: &EngineOptions,
        groups: &Groups,
        weights: &mut dyn WeightSource,
    ) -> Result<Self, EngineError> {
        if options.dtype != ComputeDtype::F32 {
            return Err(EngineError::UnsupportedDtype { dtype: options.dtype });
        }
        if options.device_idx != 0 {
            let reason = format!("there is no processor {}; the CPU engine is device 0", options.device_idx);
            return Err(EngineError::Device(reason));
        }
        let mut parameters = Parameters::new(spec.parameters_with(&trainable)?, trainable);
        let put: &mut PutWeight<'_> = &mut |name, shape, values| parameters.put(name, shape, values);
        weights.read_into(put)?;
        for idx in 0..parameters.specs.len() {
            if parameters.values[idx].is_empty() {
                let parameter = &parameters.specs[idx];
                let missing = || EngineError::MissingParameter { name: parameter.name.clone() };
                parameters.values[idx] = initial_values(parameter, idx, options.seed).ok_or_else(missing)?;
            }
        }
        let body = match &spec {
            ModelSpec::Decoder(decoder) => {
                let decoder = Decoder::find(decoder.clone(), &parameters.trainable, &parameters)?;
                Body::Decoder(Box::new(decoder))
            }
            ModelSpec::Encoder(encoder) => {
                Body::Encoder(Box::new(Encoder::find(encoder.clone(), &parameters)?))
            }
        };
        let threads = rayon::ThreadPoolBuilder::new().num_threads(options.n_threads).build();
        let threads =
            threads.map_err(|error| EngineError::Device(format!("threads cannot be started: {error}")))?;
        let inner =
            Inner { spec, parameters, body, pool: BufferPool::default(), free_blocks: Arc::default() };
        Ok(Self { threads, communicator: Arc::clone(&groups.data), inner })
    }

    /// Single precision, and sums in an order that depends on sizes alone: neither the number of threads nor other
    /// sequences change a bit.
    fn guarantees(&self) -> Guarantees {
        Guarantees {
            is_deterministic: true,
            is_batch_invariant: true,
            decoding_log_prob_tolerance: 2e-5,
            log_prob_tolerance: 1e-5,
            gradient_tolerance: 1e-5,
            vector_tolerance: 2e-6,
        }
    }

    fn spec(&self) -> &ModelSpec {
        &self.inner.spec
    }

    fn upload(&mut self, batch: &PackedBatch) -> Result<DeviceBatch, EngineError> {
        let inner = &mut self.inner;
        check_batch(&inner.spec, batch)?;
        inner.pool.prepare(batch.n_tokens());
        if let Body::Decoder(decoder) = &mut inner.body {
            decoder.ensure_positions(batch.longest_sequence());
        }
        Ok(DeviceBatch::of(batch))
    }

    fn embed(&mut self, batch: &DeviceBatch) -> Result<Hidden, EngineError> {
        let Inner { parameters, body, pool, .. } = &mut self.inner;
        Ok(Hidden(self.threads.install(|| match body {
            Body::Decoder(decoder) => decoder.embed(parameters, pool, &batch.tokens),
            Body::Encoder(encoder) => encoder.embed(parameters, pool, batch),
        })))
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
        let (x, of_segment) = (input.0, layers.clone());
        let (output, saved) = self.threads.install(|| match body {
            Body::Decoder(decoder) => {
                let (y, saved) =
                    segment::forward(&**decoder, parameters, pool, batch, of_segment, x, save, Vec::new());
                (y, SavedBody::Decoder(saved))
            }
            Body::Encoder(encoder) => {
                let (y, saved) =
                    segment::forward(&**encoder, parameters, pool, batch, of_segment, x, save, Vec::new());
                (y, SavedBody::Encoder(saved))
            }
        });
        Ok((Hidden(output), SavedActivations { layers, adapters, saved }))
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
        let d_x = self.threads.install(|| match (body, saved) {
            (Body::Decoder(decoder), SavedBody::Decoder(saved)) => {
                segment::backward(&**decoder, parameters, pool, batch, layers, saved, d_output.0)
            }
            (Body::Encoder(encoder), SavedBody::Encoder(saved)) => {
                segment::backward(&**encoder, parameters, pool, batch, layers, saved, d_output.0)
            }
            _ => Err(EngineError::Unsupported("the saved activations are those of another model".into())),
        });
        d_x.map(Hidden)
    }

    fn embed_backward(&mut self, batch: &DeviceBatch, d_hidden: Hidden) -> Result<(), EngineError> {
        let Inner { parameters, body, pool, .. } = &mut self.inner;
        self.threads.install(|| {
            match body {
                Body::Decoder(decoder) => decoder.embed_backward(parameters, batch, &d_hidden.0),
                Body::Encoder(encoder) => encoder.embed_backward(parameters, batch, &d_hidden.0),
            }
            pool.give(d_hidden.0);
        });
        Ok(())
    }

    fn head(&mut self, hidden: &Hidden, request: &HeadRequest<'_>) -> Result<HeadOutput, EngineError> {
        self.inner.check_request(request)?;
        let inner = &mut self.inner;
        self.threads.install(|| inner.head(&hidden.0, request))
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
        let (output, d_hidden) = self.threads.install(|| inner.head_backward(hidden.0, request, gradient))?;
        Ok((output, Hidden(d_hidden)))
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
        let inner = &mut self.inner;
        self.threads.install(|| inner.top_log_probs(&hidden.0, rows, temperature, excluded, k))
    }

    fn log_probs_of(
        &mut self,
        hidden: &Hidden,
        rows: &[u32],
        temperature: f32,
        tokens: &TopLogProbs,
    ) -> Result<TopLogProbs, EngineError> {
        check_language_model(&self.inner.body.decoder()?.spec)?;
        let inner = &mut self.inner;
        self.threads.install(|| inner.log_probs_of(&hidden.0, rows, temperature, tokens))
    }

    fn logits(&mut self, hidden: &Hidden, rows: &[u32]) -> Result<Vec<f32>, EngineError> {
        let Inner { parameters, body, pool, .. } = &mut self.inner;
        let decoder = body.decoder()?;
        check_language_model(&decoder.spec)?;
        Ok(self.threads.install(|| decoder.logits(parameters, pool, &hidden.0, rows)))
    }

    fn release_working_memory(&mut self) {
        self.inner.pool = BufferPool::default();
        self.inner.free_blocks.clear();
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
        match tokens {
            [] => return Err(EngineError::Unsupported("a sequence is extended by no token".into())),
            [_] => return self.extend_each(&mut [cache], tokens, weights),
            _ => {}
        }
        let needed = cache.n_cached + tokens.len();
        if needed > cache.capacity {
            return Err(EngineError::CacheFull { capacity: cache.capacity, needed });
        }
        let Inner { parameters, body, pool, .. } = &mut self.inner;
        let decoder = body.decoder_mut()?;
        check_language_model(&decoder.spec)?;
        check_tokens(tokens, decoder.spec.vocab_size)?;
        parameters.adapters = Adapters::Enabled;
        let values = self.threads.install(|| decoder.read_prompt(parameters, pool, cache, tokens));
        Ok(Logits { values, vocab_size: decoder.spec.vocab_size })
    }

    fn extend_each(
        &mut self,
        caches: &mut [&mut KvCache],
        tokens: &[TokenId],
        weights: DecodingWeights,
    ) -> Result<Logits, EngineError> {
        if caches.len() != tokens.len() {
            let reason = format!("{} tokens for {} sequences", tokens.len(), caches.len());
            return Err(EngineError::Unsupported(reason));
        }
        if let Some(full) = caches.iter().find(|cache| cache.n_cached + 1 > cache.capacity) {
            return Err(EngineError::CacheFull { capacity: full.capacity, needed: full.n_cached + 1 });
        }
        let Inner { parameters, body, pool, .. } = &mut self.inner;
        let decoder = body.decoder_mut()?;
        check_language_model(&decoder.spec)?;
        check_tokens(tokens, decoder.spec.vocab_size)?;
        parameters.adapters = Adapters::Enabled;
        let values = self.threads.install(|| decoder.extend_each(parameters, pool, caches, tokens, weights));
        Ok(Logits { values, vocab_size: decoder.spec.vocab_size })
    }

    fn sample(
        &mut self,
        logits: &Logits,
        excluded: &ExcludedTokens,
        steps: &mut [SampleStep<'_>],
    ) -> Result<Vec<Option<SampledToken>>, EngineError> {
        let vocab_size = logits.vocab_size;
        if let Some(step) = steps.iter().find(|step| (step.row + 1) * vocab_size > logits.values.len()) {
            let n_rows = logits.values.len() / vocab_size.max(1);
            let reason = format!("row {} of logits with {n_rows} rows", step.row);
            return Err(EngineError::Unsupported(reason));
        }
        let sample = |step: &mut SampleStep<'_>| {
            let row = &logits.values[step.row * vocab_size..(step.row + 1) * vocab_size];
            if excluded.is_empty() {
                return step.sampler.sample_after(row, step.history, step.allowed);
            }
            let mut row = row.to_vec();
            excluded.mask(&mut row);
            step.sampler.sample_after(&row, step.history, step.allowed)
        };
        Ok(self.threads.install(|| steps.par_iter_mut().map(sample).collect()))
    }

    fn read_logits(&mut self, logits: &Logits) -> Result<Vec<f32>, EngineError> {
        Ok(logits.values.clone())
    }
}
