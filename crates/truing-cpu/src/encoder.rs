//! [`CpuEncoder`]: the [`EncoderEngine`] on this machine's processor. Parameters, projections, buffers and attention are
//! the decoder engine's; what is BERT's alone is in the files below.

mod layer;
mod output;
mod pooling;

use std::borrow::Cow;
use std::sync::Arc;

use truing_kernels::{add_bias, bias_backward, gather_add_rows, gather_rows, scatter_add_rows};
use truing_model::encoder::{EncoderEngine, EncoderSpec, in_output_layer};
use truing_model::engine::{EngineMemory, OptimizerStep, ParameterStore, ParameterTensor};
use truing_model::{EngineError, Keep, ParameterRole, ParameterSpec, TrainableSpec};
use truing_types::{Communicator, PackedBatch};

use crate::buffers::BufferPool;
use crate::engine::{CpuOptions, DeviceBatch};
use crate::memory::encoder_memory;
use crate::parameters::Parameters;
use layer::{EncoderLayer, LeftBehind, Norm};
use output::OutputLayer;
pub(crate) use pooling::pool;

/// An encoder on the CPU.
#[derive(Debug)]
pub struct CpuEncoder {
    threads: Arc<rayon::ThreadPool>,
    inner: Inner,
}

#[derive(Debug)]
struct Inner {
    spec: EncoderSpec,
    parameters: Parameters,
    embeddings: Embeddings,
    layers: Vec<EncoderLayer>,
    /// The last block's output norm; the embeddings' where there is no block.
    final_norm: Norm,
    output: Option<OutputLayer>,
    pool: BufferPool,
}

/// Indices of the three tables.
#[derive(Debug)]
struct Embeddings {
    word: usize,
    position: usize,
    token_type: usize,
}

/// What a forward pass left behind for its backward.
#[derive(Debug)]
pub struct KeptEncoding {
    layers: Vec<LeftBehind>,
    /// The last block's sum, before its norm `[n_tokens, hidden]`; empty where nothing was to be kept.
    output: Vec<f32>,
    /// Vectors before they were divided by their norms, or went through the output layer `[n_sequences, hidden]`.
    pooled: Vec<f32>,
}

/// Takes an encoder's weights tensor by tensor, so that the model is never in memory twice.
#[derive(Debug)]
pub struct EncoderLoader {
    spec: EncoderSpec,
    options: CpuOptions,
    parameters: Parameters,
}

impl EncoderLoader {
    /// Starts loading an encoder.
    ///
    /// # Errors
    /// When adapters are asked for, which encoders do not have here.
    pub fn new(
        spec: EncoderSpec,
        trainable: TrainableSpec,
        options: CpuOptions,
    ) -> Result<Self, EngineError> {
        if trainable.lora.is_some() {
            return Err(EngineError::Unsupported("an encoder has no adapters here".into()));
        }
        let parameters = Parameters::new(spec.parameters(), trainable);
        Ok(Self { spec, options, parameters })
    }

    /// Takes the parameter called `name`, row-major.
    ///
    /// # Errors
    /// When the model has no such parameter or its shape differs.
    pub fn put(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<(), EngineError> {
        self.parameters.put(name, shape, values)
    }

    /// The engine, once every parameter is there. An output layer that was not loaded starts anew: its weight normal with
    /// deviation 0.02, as transformers draws a classifier, its bias zero.
    ///
    /// # Errors
    /// When a parameter is missing or the threads cannot be started.
    pub fn finish(self) -> Result<CpuEncoder, EngineError> {
        let Self { spec, options, mut parameters } = self;
        let in_layer = |parameter: &ParameterSpec| in_output_layer(&parameter.name).is_some();
        for idx in (0..parameters.specs.len()).filter(|&idx| in_layer(&parameters.specs[idx])) {
            if parameters.values[idx].is_empty() {
                let n = parameters.specs[idx].n_elements();
                parameters.values[idx] = match parameters.specs[idx].role {
                    ParameterRole::Score => options.seed.normals("score", n, 0.02),
                    _ => vec![0.0; n],
                };
            }
        }
        if let Some(name) = parameters.first_without_values() {
            return Err(EngineError::MissingParameter { name: name.to_owned() });
        }
        let layers = (0..spec.n_layers)
            .map(|layer| EncoderLayer::find(&spec, &parameters, layer))
            .collect::<Result<_, _>>()?;
        let table = |name: &str| parameters.require(&format!("embeddings.{name}_embeddings.weight"));
        let inner = Inner {
            embeddings: Embeddings {
                word: table("word")?,
                position: table("position")?,
                token_type: table("token_type")?,
            },
            layers,
            final_norm: Norm::before_layer(&spec, &parameters, spec.n_layers)?,
            output: spec.n_outputs.map(|_| OutputLayer::find(&parameters)).transpose()?,
            spec,
            parameters,
            pool: BufferPool::default(),
        };
        Ok(CpuEncoder { threads: options.start_threads()?, inner })
    }
}

impl CpuEncoder {
    /// Threads in use.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.threads.current_num_threads()
    }
}

impl Inner {
    /// The sum of the three embeddings, before its norm.
    fn embed(&mut self, batch: &DeviceBatch) -> Vec<f32> {
        let width = self.spec.hidden_size;
        let mut sum = self.pool.take(batch.n_tokens(), width);
        let values = &self.parameters.values;
        gather_rows(&values[self.embeddings.word], width, &batch.tokens, &mut sum);
        gather_add_rows(&values[self.embeddings.position], width, &batch.positions, &mut sum);
        add_bias(&mut sum, &values[self.embeddings.token_type][..width]);
        sum
    }

    fn embed_backward(&mut self, batch: &DeviceBatch, d_sum: &[f32]) {
        let width = self.spec.hidden_size;
        if let Some(d_words) = self.parameters.gradient(self.embeddings.word) {
            scatter_add_rows(d_sum, width, &batch.tokens, d_words);
        }
        if let Some(d_positions) = self.parameters.gradient(self.embeddings.position) {
            scatter_add_rows(d_sum, width, &batch.positions, d_positions);
        }
        if let Some(d_types) = self.parameters.gradient(self.embeddings.token_type) {
            bias_backward(d_sum, &mut d_types[..width]);
        }
    }

    fn encode(&mut self, batch: &DeviceBatch, keep: Keep) -> (Vec<f32>, KeptEncoding) {
        let width = self.spec.hidden_size;
        let mut x = self.embed(batch);
        let mut layers = Vec::new();
        for layer in &self.layers {
            let (y, left) = layer.forward(&self.parameters, &mut self.pool, batch, x, keep);
            x = y;
            layers.push(left);
        }
        let mut normed = self.pool.take(batch.n_tokens(), width);
        self.final_norm.forward(&self.parameters, &x, &mut normed);
        let pooled = pool(&normed, &batch.spans, width, self.spec.pooling);
        self.pool.give(normed);
        let mut vectors = match &self.output {
            Some(output) => output.forward(&self.parameters, &pooled, width),
            None => pooled.clone(),
        };
        if self.spec.is_normalized {
            pooling::normalize(&mut vectors, width);
        }
        let output = if keep == Keep::Nothing {
            self.pool.give(x);
            Vec::new()
        } else {
            x
        };
        (vectors, KeptEncoding { layers, output, pooled })
    }

    fn backward(&mut self, batch: &DeviceBatch, kept: KeptEncoding, d_vectors: &[f32]) {
        let width = self.spec.hidden_size;
        let mut d_pooled = match &self.output {
            Some(output) => output.backward(&mut self.parameters, &kept.pooled, width, d_vectors),
            None => d_vectors.to_vec(),
        };
        if self.spec.is_normalized {
            pooling::normalize_backward(&kept.pooled, width, &mut d_pooled);
        }
        let mut d_normed = self.pool.take(batch.n_tokens(), width);
        pooling::pool_backward(&d_pooled, &batch.spans, width, self.spec.pooling, &mut d_normed);
        let mut d_x = self.pool.take(batch.n_tokens(), width);
        self.final_norm.backward(&mut self.parameters, &kept.output, &d_normed, &mut d_x);
        self.pool.give(d_normed);
        self.pool.give(kept.output);
        for (layer, left) in self.layers.iter().zip(kept.layers).rev() {
            let kept = layer.everything(&self.parameters, &mut self.pool, batch, left);
            d_x = layer.backward(&mut self.parameters, &mut self.pool, batch, kept, d_x);
        }
        self.embed_backward(batch, &d_x);
        self.pool.give(d_x);
    }
}

impl ParameterStore for CpuEncoder {
    fn trainable(&self) -> &TrainableSpec {
        &self.inner.parameters.trainable
    }

    fn parameters(&self) -> &[ParameterSpec] {
        &self.inner.parameters.specs
    }

    fn zero_gradients(&mut self) {
        let parameters = &mut self.inner.parameters;
        self.threads.install(|| parameters.zero_gradients());
    }

    fn reduce_gradients(&mut self, communicator: &dyn Communicator) -> Result<(), EngineError> {
        self.inner.parameters.reduce_gradients(communicator)
    }

    fn gradient_norm(&mut self) -> f64 {
        let parameters = &self.inner.parameters;
        self.threads.install(|| parameters.gradient_norm())
    }

    fn optimizer_step(&mut self, step: &OptimizerStep) {
        let parameters = &mut self.inner.parameters;
        self.threads.install(|| parameters.optimizer_step(step));
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

impl EncoderEngine for CpuEncoder {
    type Batch = DeviceBatch;
    type Kept = KeptEncoding;

    fn memory(spec: &EncoderSpec, trainable: &TrainableSpec) -> EngineMemory {
        encoder_memory(spec, trainable)
    }

    fn spec(&self) -> &EncoderSpec {
        &self.inner.spec
    }

    fn upload(&mut self, batch: &PackedBatch) -> Result<DeviceBatch, EngineError> {
        let spec = &self.inner.spec;
        let vocab_size = spec.vocab_size;
        if let Some(&token) = batch.tokens().iter().find(|&&token| token as usize >= vocab_size) {
            return Err(EngineError::TokenOutOfRange { token, vocab_size });
        }
        let (n_tokens, n_positions) = (batch.longest_sequence(), spec.max_position_embeddings);
        if n_tokens > n_positions {
            return Err(EngineError::SequenceTooLong { n_tokens, n_positions });
        }
        if batch.prefixes().iter().any(Option::is_some) {
            return Err(EngineError::Unsupported("an encoder's sequence cannot continue another one".into()));
        }
        self.inner.pool.prepare(batch.n_tokens());
        Ok(DeviceBatch::of(batch))
    }

    fn encode(&mut self, batch: &DeviceBatch, keep: Keep) -> Result<(Vec<f32>, KeptEncoding), EngineError> {
        let inner = &mut self.inner;
        Ok(self.threads.install(|| inner.encode(batch, keep)))
    }

    fn backward(
        &mut self,
        batch: &DeviceBatch,
        kept: KeptEncoding,
        d_vectors: &[f32],
    ) -> Result<(), EngineError> {
        if kept.output.is_empty() {
            return Err(EngineError::Unsupported("a pass run with Keep::Nothing has no backward".into()));
        }
        if d_vectors.len() != batch.spans.len() * self.inner.spec.width() {
            return Err(EngineError::ShapeMismatch {
                name: "the gradient of the vectors".into(),
                expected: vec![batch.spans.len(), self.inner.spec.width()],
                found: vec![d_vectors.len()],
            });
        }
        let inner = &mut self.inner;
        self.threads.install(|| inner.backward(batch, kept, d_vectors));
        Ok(())
    }
}
