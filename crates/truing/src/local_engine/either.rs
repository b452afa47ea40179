//! [`EitherEngine`]: the program's own engine, or libtorch's, by the choice of the process. Everything above sees one
//! type.

use std::borrow::Cow;
use std::ops::Range;

use truing_model::{
    Adapters, ComputeDtype, DecodingWeights, Engine, EngineError, EngineMemory, EngineOptions, Guarantees,
    HeadGradient, HeadOutput, HeadRequest, ModelSpec, OptimizerStep, ParameterSpec, ParameterStore,
    ParameterTensor, SampleStep, SampledToken, SaveActivations, TopLogProbs, TrainableSpec, WeightSource,
    ZeroStage,
};
use truing_torch::TorchEngine;
use truing_types::{ExcludedTokens, Groups, PackedBatch, TokenId};

use super::OwnEngine;
use super::libtorch::{self, Chosen};

type Torch = TorchEngine<Chosen>;

/// Something of the one engine, or of the other.
#[derive(Debug)]
pub(crate) enum Either<A, B> {
    Own(A),
    Torch(B),
}

/// The engine of this process.
#[derive(Debug)]
pub(crate) enum EitherEngine {
    Own(Box<OwnEngine>),
    Torch(Box<Torch>),
}

/// Calls a method of whichever engine it is.
macro_rules! each {
    ($engine:expr, $name:ident => $call:expr) => {
        match $engine {
            EitherEngine::Own($name) => $call,
            EitherEngine::Torch($name) => $call,
        }
    };
}

/// Calls a method with something that the same engine has made, and wraps the result.
macro_rules! with {
    ($engine:expr, $made:expr, |$name:ident, $of:ident| $call:expr, $wrap:ty) => {
        match ($engine, $made) {
            (EitherEngine::Own($name), Either::Own($of)) => $call.map(<$wrap>::own),
            (EitherEngine::Torch($name), Either::Torch($of)) => $call.map(<$wrap>::torch),
            _ => Err(of_the_other()),
        }
    };
}

fn of_the_other() -> EngineError {
    EngineError::Unsupported("it was made by an engine on another device".into())
}

impl<A, B> Either<A, B> {
    fn own(of: A) -> Self {
        Self::Own(of)
    }

    fn torch(of: B) -> Self {
        Self::Torch(of)
    }
}

/// A result that needs no wrapping.
struct Plain;

impl Plain {
    fn own<T>(of: T) -> T {
        of
    }

    fn torch<T>(of: T) -> T {
        of
    }
}

impl ParameterStore for EitherEngine {
    fn trainable(&self) -> &TrainableSpec {
        each!(self, engine => engine.trainable())
    }

    fn parameters(&self) -> &[ParameterSpec] {
        each!(self, engine => engine.parameters())
    }

    fn zero_gradients(&mut self) -> Result<(), EngineError> {
        each!(self, engine => engine.zero_gradients())
    }

    fn reduce_gradients(&mut self) -> Result<(), EngineError> {
        each!(self, engine => engine.reduce_gradients())
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        each!(self, engine => engine.gradient_norm())
    }

    fn has_finite_gradients(&self) -> Result<bool, EngineError> {
        each!(self, engine => engine.has_finite_gradients())
    }

    fn optimizer_step(&mut self, step: &OptimizerStep) -> Result<(), EngineError> {
        each!(self, engine => engine.optimizer_step(step))
    }

    fn zero_stage(&self) -> ZeroStage {
        each!(self, engine => engine.zero_stage())
    }

    fn join_others(&mut self) -> Result<(), EngineError> {
        each!(self, engine => engine.join_others())
    }

    fn serve_reads(&self) -> Result<(), EngineError> {
        each!(self, engine => engine.serve_reads())
    }

    fn finish_reads(&self) -> Result<(), EngineError> {
        each!(self, engine => engine.finish_reads())
    }

    fn read(&self, parameter_idx: usize, tensor: ParameterTensor) -> Result<Cow<'_, [f32]>, EngineError> {
        each!(self, engine => engine.read(parameter_idx, tensor))
    }

    fn write(
        &mut self,
        parameter_idx: usize,
        tensor: ParameterTensor,
        values: &[f32],
    ) -> Result<(), EngineError> {
        each!(self, engine => engine.write(parameter_idx, tensor, values))
    }
}

impl Engine for EitherEngine {
    const NAME: &'static str = OwnEngine::NAME;

    type Batch = Either<<OwnEngine as Engine>::Batch, <Torch as Engine>::Batch>;
    type Hidden = Either<<OwnEngine as Engine>::Hidden, <Torch as Engine>::Hidden>;
    type Saved = Either<<OwnEngine as Engine>::Saved, <Torch as Engine>::Saved>;
    type Cache = Either<<OwnEngine as Engine>::Cache, <Torch as Engine>::Cache>;
    type Logits = Either<<OwnEngine as Engine>::Logits, <Torch as Engine>::Logits>;

    fn name() -> &'static str {
        libtorch::engine_name().unwrap_or_else(OwnEngine::name)
    }

    /// The number format is part of the choice.
    fn memory(spec: &ModelSpec, trainable: &TrainableSpec, dtype: ComputeDtype) -> EngineMemory {
        match libtorch::chosen() {
            Some((_, chosen)) => Torch::memory(spec, trainable, chosen),
            None => OwnEngine::memory(spec, trainable, dtype),
        }
    }

    fn load(
        spec: ModelSpec,
        trainable: TrainableSpec,
        options: &EngineOptions,
        groups: &Groups,
        weights: &mut dyn WeightSource,
    ) -> Result<Self, EngineError> {
        let Some((_, dtype)) = libtorch::chosen() else {
            let engine = OwnEngine::load(spec, trainable, options, groups, weights)?;
            return Ok(Self::Own(Box::new(engine)));
        };
        let options = EngineOptions { dtype, ..*options };
        Ok(Self::Torch(Box::new(Torch::load(spec, trainable, &options, groups, weights)?)))
    }

    fn guarantees(&self) -> Guarantees {
        each!(self, engine => engine.guarantees())
    }

    fn spec(&self) -> &ModelSpec {
        each!(self, engine => engine.spec())
    }

    fn upload(&mut self, batch: &PackedBatch) -> Result<Self::Batch, EngineError> {
        match self {
            Self::Own(engine) => engine.upload(batch).map(Either::Own),
            Self::Torch(engine) => engine.upload(batch).map(Either::Torch),
        }
    }

    fn embed(&mut self, batch: &Self::Batch) -> Result<Self::Hidden, EngineError> {
        with!(self, batch, |engine, batch| engine.embed(batch), Self::Hidden)
    }

    fn segment_forward(
        &mut self,
        batch: &Self::Batch,
        layers: Range<usize>,
        input: Self::Hidden,
        save: SaveActivations,
        adapters: Adapters,
    ) -> Result<(Self::Hidden, Self::Saved), EngineError> {
        match (self, batch, input) {
            (Self::Own(engine), Either::Own(batch), Either::Own(input)) => {
                let (output, saved) = engine.segment_forward(batch, layers, input, save, adapters)?;
                Ok((Either::Own(output), Either::Own(saved)))
            }
            (Self::Torch(engine), Either::Torch(batch), Either::Torch(input)) => {
                let (output, saved) = engine.segment_forward(batch, layers, input, save, adapters)?;
                Ok((Either::Torch(output), Either::Torch(saved)))
            }
            _ => Err(of_the_other()),
        }
    }

    fn segment_backward(
        &mut self,
        batch: &Self::Batch,
        saved: Self::Saved,
        d_output: Self::Hidden,
    ) -> Result<Self::Hidden, EngineError> {
        match (self, batch, saved, d_output) {
            (Self::Own(engine), Either::Own(batch), Either::Own(saved), Either::Own(d_output)) => {
                engine.segment_backward(batch, saved, d_output).map(Either::Own)
            }
            (Self::Torch(engine), Either::Torch(batch), Either::Torch(saved), Either::Torch(d_output)) => {
                engine.segment_backward(batch, saved, d_output).map(Either::Torch)
            }
            _ => Err(of_the_other()),
        }
    }

    fn embed_backward(&mut self, batch: &Self::Batch, d_hidden: Self::Hidden) -> Result<(), EngineError> {
        match (self, batch, d_hidden) {
            (Self::Own(engine), Either::Own(batch), Either::Own(d)) => engine.embed_backward(batch, d),
            (Self::Torch(engine), Either::Torch(batch), Either::Torch(d)) => engine.embed_backward(batch, d),
            _ => Err(of_the_other()),
        }
    }

    fn head(&mut self, hidden: &Self::Hidden, request: &HeadRequest<'_>) -> Result<HeadOutput, EngineError> {
        with!(self, hidden, |engine, hidden| engine.head(hidden, request), Plain)
    }

    fn head_backward(
        &mut self,
        hidden: Self::Hidden,
        request: &HeadRequest<'_>,
        gradient: &HeadGradient,
    ) -> Result<(HeadOutput, Self::Hidden), EngineError> {
        match (self, hidden) {
            (Self::Own(engine), Either::Own(hidden)) => {
                let (output, d_hidden) = engine.head_backward(hidden, request, gradient)?;
                Ok((output, Either::Own(d_hidden)))
            }
            (Self::Torch(engine), Either::Torch(hidden)) => {
                let (output, d_hidden) = engine.head_backward(hidden, request, gradient)?;
                Ok((output, Either::Torch(d_hidden)))
            }
            _ => Err(of_the_other()),
        }
    }

    fn top_log_probs(
        &mut self,
        hidden: &Self::Hidden,
        rows: &[u32],
        temperature: f32,
        excluded: &ExcludedTokens,
        k: usize,
    ) -> Result<TopLogProbs, EngineError> {
        with!(
            self,
            hidden,
            |engine, hidden| engine.top_log_probs(hidden, rows, temperature, excluded, k),
            Plain
        )
    }

    fn log_probs_of(
        &mut self,
        hidden: &Self::Hidden,
        rows: &[u32],
        temperature: f32,
        tokens: &TopLogProbs,
    ) -> Result<TopLogProbs, EngineError> {
        with!(self, hidden, |engine, hidden| engine.log_probs_of(hidden, rows, temperature, tokens), Plain)
    }

    fn logits(&mut self, hidden: &Self::Hidden, rows: &[u32]) -> Result<Vec<f32>, EngineError> {
        with!(self, hidden, |engine, hidden| engine.logits(hidden, rows), Plain)
    }

    fn release_working_memory(&mut self) {
        each!(self, engine => engine.release_working_memory());
    }

    fn new_cache(&mut self, capacity: usize) -> Result<Self::Cache, EngineError> {
        match self {
            Self::Own(engine) => engine.new_cache(capacity).map(Either::Own),
            Self::Torch(engine) => engine.new_cache(capacity).map(Either::Torch),
        }
    }

    fn cache_len(&self, cache: &Self::Cache) -> usize {
        match (self, cache) {
            (Self::Own(engine), Either::Own(cache)) => engine.cache_len(cache),
            (Self::Torch(engine), Either::Torch(cache)) => engine.cache_len(cache),
            _ => 0,
        }
    }

    fn truncate_cache(&mut self, cache: &mut Self::Cache, n_tokens: usize) -> Result<(), EngineError> {
        with!(self, cache, |engine, cache| engine.truncate_cache(cache, n_tokens), Plain)
    }

    fn fork_cache(&mut self, cache: &Self::Cache) -> Result<Self::Cache, EngineError> {
        with!(self, cache, |engine, cache| engine.fork_cache(cache), Self::Cache)
    }

    fn extend(
        &mut self,
        cache: &mut Self::Cache,
        tokens: &[TokenId],
        weights: DecodingWeights,
    ) -> Result<Self::Logits, EngineError> {
        with!(self, cache, |engine, cache| engine.extend(cache, tokens, weights), Self::Logits)
    }

    fn extend_each_by(
        &mut self,
        caches: &mut [&mut Self::Cache],
        tokens: &[&[TokenId]],
        weights: DecodingWeights,
    ) -> Result<Self::Logits, EngineError> {
        match self {
            Self::Own(engine) => {
                let n_caches = caches.len();
                let mut own: Vec<_> = caches.iter_mut().filter_map(|cache| cache.as_own()).collect();
                if own.len() != n_caches {
                    return Err(of_the_other());
                }
                engine.extend_each_by(&mut own, tokens, weights).map(Either::Own)
            }
            Self::Torch(engine) => {
                let n_caches = caches.len();
                let mut own: Vec<_> = caches.iter_mut().filter_map(|cache| cache.as_torch()).collect();
                if own.len() != n_caches {
                    return Err(of_the_other());
                }
                engine.extend_each_by(&mut own, tokens, weights).map(Either::Torch)
            }
        }
    }

    fn sample(
        &mut self,
        logits: &Self::Logits,
        excluded: &ExcludedTokens,
        steps: &mut [SampleStep<'_>],
    ) -> Result<Vec<Option<SampledToken>>, EngineError> {
        with!(self, logits, |engine, logits| engine.sample(logits, excluded, steps), Plain)
    }

    fn read_logits(&mut self, logits: &Self::Logits) -> Result<Vec<f32>, EngineError> {
        with!(self, logits, |engine, logits| engine.read_logits(logits), Plain)
    }
}

impl<A, B> Either<A, B> {
    fn as_own(&mut self) -> Option<&mut A> {
        match self {
            Self::Own(of) => Some(of),
            Self::Torch(_) => None,
        }
    }

    fn as_torch(&mut self) -> Option<&mut B> {
        match self {
            Self::Own(_) => None,
            Self::Torch(of) => Some(of),
        }
    }
}
