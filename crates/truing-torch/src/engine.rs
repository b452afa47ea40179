//! [`TorchEngine`]: the [`Engine`] on one of libtorch's devices.

use std::borrow::Cow;
use std::fmt;
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
use truing_types::{Communicator, ExcludedTokens, Groups, PackedBatch, TokenId};

use crate::batch::DeviceBatch;
use crate::cache::KvCache;
use crate::decode::LogitRows;
use crate::decoder::Decoder;
use crate::device::Device;
use crate::encoder::{self, Encoder};
use crate::ffi::{Dtype, Tensor, TorchLib};
use crate::inner::{Body, Inner};
use crate::layer;
use crate::memory::engine_memory;
use crate::parameters::Loading;
use crate::segment::{self, SavedSegment};

/// A kind of device.
pub trait DeviceKind: fmt::Debug + Send + 'static {
    /// The engine's name in content keys.
    const ENGINE_NAME: &'static str;
    /// The number formats that are computed in.
    const DTYPES: &'static [ComputeDtype];
    /// The device with a number.
    ///
    /// # Errors
    /// When there is no such device.
    fn device(idx: usize) -> Result<Device, EngineError>;
}

/// libtorch on the processor. It is slower than `truing-cpu`, and there to test the engine where there is no GPU.
#[derive(Debug)]
pub struct OnCpu;

/// libtorch on an NVIDIA GPU.
#[derive(Debug)]
pub struct OnCuda;

impl DeviceKind for OnCpu {
    const ENGINE_NAME: &'static str = "libtorch cpu";
    const DTYPES: &'static [ComputeDtype] = &[ComputeDtype::F32];

    fn device(idx: usize) -> Result<Device, EngineError> {
        match idx {
            0 => Ok(Device::Cpu),
            _ => Err(EngineError::Device(format!("there is no processor {idx}; libtorch has device 0"))),
        }
    }
}

impl DeviceKind for OnCuda {
    const ENGINE_NAME: &'static str = "libtorch cuda";
    const DTYPES: &'static [ComputeDtype] = &[ComputeDtype::F32, ComputeDtype::Bf16];

    fn device(idx: usize) -> Result<Device, EngineError> {
        let number = u16::try_from(idx).map_err(|_| EngineError::Device(format!("there is no GPU {idx}")))?;
        Ok(Device::Cuda(number))
    }
}

/// Hidden states `[n_tokens, hidden]` in single precision, or a gradient of that shape.
#[derive(Debug)]
pub struct Hidden(Tensor);

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
    Encoder(SavedSegment<encoder::SavedLayer>),
}

/// Logits `[n_rows, vocab]`.
#[derive(Debug)]
pub struct Logits(Tensor);

/// A model on one of libtorch's devices. [`TorchLib::find`] has to be called before one is loaded.
pub struct TorchEngine<D> {
    /// Ranks with other data: gradients are summed over them.
    communicator: Arc<dyn Communicator>,
    inner: Inner,
    kind: PhantomData<D>,
}

impl<D> fmt::Debug for TorchEngine<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TorchEngine")
            .field("spec", &self.inner.spec)
            .field("device", &self.inner.parameters.device)
            .finish_non_exhaustive()
    }
}

impl<D: DeviceKind> ParameterStore for TorchEngine<D> {
    fn trainable(&self) -> &TrainableSpec {
        &self.inner.parameters.trainable
    }

    fn parameters(&self) -> &[ParameterSpec] {
        &self.inner.parameters.specs
    }

    fn zero_gradients(&mut self) -> Result<(), EngineError> {
        Ok(self.inner.parameters.zero_gradients()?)
    }

    fn reduce_gradients(&mut self) -> Result<(), EngineError> {
        self.inner.parameters.reduce_gradients(&*self.communicator)
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        Ok(self.inner.parameters.gradient_norm()?)
    }

    fn optimizer_step(&mut self, step: &OptimizerStep) -> Result<(), EngineError> {
        Ok(self.inner.parameters.optimizer_step(step)?)
    }

    fn read(&self, parameter_idx: usize, tensor: ParameterTensor) -> Result<Cow<'_, [f32]>, EngineError> {
        self.inner.parameters.read(parameter_idx, tensor).map(Cow::Owned)
    }

    fn write(
        &mut self,
        parameter_idx: usize,
        tensor: ParameterTensor,
        values: &[f32],
    ) -> Result<(), EngineError> {
        self.inner.parameters.write(parameter_idx, tensor, values)
    }
}

impl<D: DeviceKind> Engine for TorchEngine<D> {
    const NAME: &'static str = D::ENGINE_NAME;

    type Batch = DeviceBatch;
    type Hidden = Hidden;
    type Saved = SavedActivations;
    type Cache = KvCache;
    type Logits = Logits;

    fn memory(spec: &ModelSpec, trainable: &TrainableSpec, dtype: ComputeDtype) -> EngineMemory {
        engine_memory(spec, trainable, dtype)
    }

    fn load(
        spec: ModelSpec,
        trainable: TrainableSpec,
        options: &EngineOptions,
        groups: &Groups,
        weights: &mut dyn WeightSource,
    ) -> Result<Self, EngineError> {
        if !D::DTYPES.contains(&options.dtype) {
            return Err(EngineError::UnsupportedDtype { dtype: options.dtype });
        }
        refuse_divided_work(options, groups)?;
        let dtype = match options.dtype {
            ComputeDtype::F32 => Dtype::F32,
            ComputeDtype::Bf16 => Dtype::Bf16,
        };
        let device = D::device(options.device_idx)?;
        let torch = TorchLib::loaded()?;
        torch.check_device(device)?;
        torch.set_threads(options.n_threads);
        let mut loading = Loading::new(torch, device, spec.parameters_with(&trainable)?);
        let put: &mut PutWeight<'_> = &mut |name, shape, values| loading.put(name, shape, &values);
        weights.read_into(put)?;
        let initial = |parameter: &ParameterSpec, idx: usize| initial_values(parameter, idx, options.seed);
        let parameters = loading.finish(&spec, trainable, dtype, initial)?;
        let body = match &spec {
            ModelSpec::Decoder(decoder) => {
                let decoder = Decoder::find(decoder.clone(), &parameters.trainable, &parameters)?;
                Body::Decoder(Box::new(decoder))
            }
            ModelSpec::Encoder(encoder) => Body::Encoder(Box::new(Encoder::find(encoder, &parameters)?)),
        };
        let inner = Inner { spec, parameters, body, n_threads: options.n_threads };
        Ok(Self { communicator: Arc::clone(&groups.data), inner, kind: PhantomData })
    }

    /// libtorch chooses the order of sums by size and by the number of threads, so no bits are guaranteed.
    /// bfloat16 has 8 significant bits: logits of size 10 are right to some hundredths. The limits are those of the
    /// suite's models; docs/gpu.md has the errors of models that are less exact.
    fn guarantees(&self) -> Guarantees {
        let of = |decoding: f64, log_prob: f64, gradient: f64, vector: f64| Guarantees {
            is_deterministic: false,
            is_batch_invariant: false,
            decoding_log_prob_tolerance: decoding,
            log_prob_tolerance: log_prob,
            gradient_tolerance: gradient,
            vector_tolerance: vector,
        };
        match self.inner.parameters.dtype {
            Dtype::Bf16 => of(0.3, 0.15, 0.06, 0.02),
            _ => of(2e-5, 1e-5, 1e-5, 2e-6),
        }
    }

    fn spec(&self) -> &ModelSpec {
        &self.inner.spec
    }

    fn upload(&mut self, batch: &PackedBatch) -> Result<DeviceBatch, EngineError> {
        let Inner { spec, parameters, body, n_threads } = &mut self.inner;
        check_batch(spec, batch)?;
        parameters.torch.set_threads(*n_threads);
        let (torch, device) = (parameters.torch, parameters.device);
        let angles = match body {
            Body::Decoder(decoder) => Some(decoder.rotary.angles(torch, device, batch.positions())?),
            Body::Encoder(_) => None,
        };
        Ok(DeviceBatch::new(torch, device, batch, angles)?)
    }

    fn embed(&mut self, batch: &DeviceBatch) -> Result<Hidden, EngineError> {
        let Inner { parameters, body, .. } = &self.inner;
        Ok(Hidden(match body {
            Body::Decoder(decoder) => decoder.embed(parameters, &batch.tokens)?,
            Body::Encoder(encoder) => encoder.embed(parameters, batch)?,
        }))
    }

    fn segment_forward(
        &mut self,
        batch: &DeviceBatch,
        layers: Range<usize>,
        input: Hidden,
        save: SaveActivations,
        adapters: Adapters,
    ) -> Result<(Hidden, SavedActivations), EngineError> {
        let Inner { parameters, body, .. } = &mut self.inner;
        parameters.adapters = adapters;
        let (x, of_segment) = (input.0, layers.clone());
        let (output, saved) = match body {
            Body::Decoder(decoder) => {
                let (y, saved) =
                    segment::forward(&**decoder, parameters, batch, of_segment, x, save, Vec::new())?;
                (y, SavedBody::Decoder(saved))
            }
            Body::Encoder(encoder) => {
                let (y, saved) =
                    segment::forward(&**encoder, parameters, batch, of_segment, x, save, Vec::new())?;
                (y, SavedBody::Encoder(saved))
            }
        };
        Ok((Hidden(output), SavedActivations { layers, adapters, saved }))
    }

    fn segment_backward(
        &mut self,
        batch: &DeviceBatch,
        saved: SavedActivations,
        d_output: Hidden,
    ) -> Result<Hidden, EngineError> {
        let SavedActivations { layers, adapters, saved } = saved;
        let Inner { parameters, body, .. } = &mut self.inner;
        parameters.adapters = adapters;
        let d_x = match (body, saved) {
            (Body::Decoder(decoder), SavedBody::Decoder(saved)) => {
                segment::backward(&**decoder, parameters, batch, layers, saved, d_output.0)
            }
            (Body::Encoder(encoder), SavedBody::Encoder(saved)) => {
                segment::backward(&**encoder, parameters, batch, layers, saved, d_output.0)
            }
            _ => Err(EngineError::Unsupported("the saved activations are those of another model".into())),
        };
        d_x.map(Hidden)
    }

    fn embed_backward(&mut self, batch: &DeviceBatch, d_hidden: Hidden) -> Result<(), EngineError> {
        let Inner { parameters, body, .. } = &self.inner;
        match body {
            Body::Decoder(decoder) => decoder.embed_backward(parameters, batch, &d_hidden.0)?,
            Body::Encoder(encoder) => encoder.embed_backward(parameters, batch, &d_hidden.0)?,
        }
        Ok(())
    }

    fn head(&mut self, hidden: &Hidden, request: &HeadRequest<'_>) -> Result<HeadOutput, EngineError> {
        self.inner.check_request(request)?;
        self.inner.head(&hidden.0, request)
    }

    fn head_backward(
        &mut self,
        hidden: Hidden,
        request: &HeadRequest<'_>,
        gradient: &HeadGradient,
    ) -> Result<(HeadOutput, Hidden), EngineError> {
        self.inner.check_request(request)?;
        check_gradient(&self.inner.spec, request, gradient)?;
        let (output, d_hidden) = self.inner.head_backward(&hidden.0, request, gradient)?;
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
        let spec = self.inner.spec.decoder()?;
        check_language_model(spec)?;
        check_excluded(excluded, spec.vocab_size)?;
        self.inner.top_log_probs(&hidden.0, rows, temperature, excluded, k)
    }

    fn log_probs_of(
        &mut self,
        hidden: &Hidden,
        rows: &[u32],
        temperature: f32,
        tokens: &TopLogProbs,
    ) -> Result<TopLogProbs, EngineError> {
        check_language_model(self.inner.spec.decoder()?)?;
        self.inner.log_probs_of(&hidden.0, rows, temperature, tokens)
    }

    fn logits(&mut self, hidden: &Hidden, rows: &[u32]) -> Result<Vec<f32>, EngineError> {
        check_language_model(self.inner.spec.decoder()?)?;
        self.inner.logits(&hidden.0, rows)
    }

    fn new_cache(&mut self, capacity: usize) -> Result<KvCache, EngineError> {
        let parameters = &self.inner.parameters;
        let spec = &self.inner.body.decoder()?.spec;
        let (torch, device, dtype) = (parameters.torch, parameters.device, parameters.dtype);
        Ok(KvCache::new(torch, device, dtype, spec.n_layers, spec.kv_width(), capacity)?)
    }

    fn cache_len(&self, cache: &KvCache) -> usize {
        cache.n_cached
    }

    fn truncate_cache(&mut self, cache: &mut KvCache, n_tokens: usize) -> Result<(), EngineError> {
        cache.n_cached = cache.n_cached.min(n_tokens);
        Ok(())
    }

    fn fork_cache(&mut self, cache: &KvCache) -> Result<KvCache, EngineError> {
        Ok(cache.fork()?)
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
        let caches = [(cache.n_cached, cache.capacity)].into_iter();
        let Inner { parameters, body, .. } = self.inner.decoding(caches, &[tokens], weights)?;
        Ok(Logits(body.decoder_mut()?.read_prompt(parameters, cache, tokens)?))
    }

    fn extend_each_by(
        &mut self,
        caches: &mut [&mut KvCache],
        tokens: &[&[TokenId]],
        weights: DecodingWeights,
    ) -> Result<Logits, EngineError> {
        let sizes = caches.iter().map(|cache| (cache.n_cached, cache.capacity));
        let Inner { parameters, body, .. } = self.inner.decoding(sizes, tokens, weights)?;
        Ok(Logits(body.decoder_mut()?.extend(parameters, caches, tokens, LogitRows::All)?))
    }

    /// On the host, by the reference itself.
    fn sample(
        &mut self,
        logits: &Logits,
        excluded: &ExcludedTokens,
        steps: &mut [SampleStep<'_>],
    ) -> Result<Vec<Option<SampledToken>>, EngineError> {
        sample_rows(&logits.0.to_f32()?, logits.0.size(1), excluded, steps)
    }

    fn read_logits(&mut self, logits: &Logits) -> Result<Vec<f32>, EngineError> {
        Ok(logits.0.to_f32()?)
    }
}

/// This engine's ranks hold whole models and whole packs.
fn refuse_divided_work(options: &EngineOptions, groups: &Groups) -> Result<(), EngineError> {
    if groups.sequence.world_size() > 1 {
        let reason =
            "libtorch's engine does not divide packs over ranks; expected `sequence_parallel_size = 1`";
        return Err(EngineError::Unsupported(reason.into()));
    }
    if groups.world.world_size() > 1 && options.zero_stage != ZeroStage::Replicated {
        let reason = "libtorch's engine does not shard states over ranks; expected `zero_stage = 0`";
        return Err(EngineError::Unsupported(reason.into()));
    }
    Ok(())
}

impl Inner {
    /// Checks of decoding, with the length and the capacity of each cache; afterwards adapters take part.
    fn decoding(
        &mut self,
        caches: impl ExactSizeIterator<Item = (usize, usize)>,
        tokens: &[&[TokenId]],
        weights: DecodingWeights,
    ) -> Result<&mut Self, EngineError> {
        check_extensions(self.spec.decoder()?, caches, tokens)?;
        if weights == DecodingWeights::Int8 {
            return Err(EngineError::Unsupported(
                "libtorch's engine makes no copy of the weights in 8 bits".into(),
            ));
        }
        self.parameters.torch.set_threads(self.n_threads);
        self.parameters.adapters = Adapters::Enabled;
        Ok(self)
    }
}
