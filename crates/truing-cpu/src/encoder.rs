//! A text encoder's blocks, embeddings and output: what of the engine is BERT's alone.

mod layer;
mod output;
pub(crate) mod pooling;

use truing_kernels::{add_bias, bias_backward, gather_add_rows, gather_rows, scatter_add_rows};
use truing_model::{EncoderSpec, EngineError, ParameterSpec, SaveActivations};

use crate::batch::DeviceBatch;
use crate::buffers::BufferPool;
use crate::parameters::{Parameters, Units};
use crate::segment::{Blocks, SavedAttention, SavedBlock};
use layer::{EncoderLayer, Norm};

pub(crate) use layer::SavedLayer;
use output::OutputLayer;

/// Everything of an encoder but its parameters.
#[derive(Debug)]
pub(crate) struct Encoder {
    pub(crate) spec: EncoderSpec,
    embeddings: Embeddings,
    layers: Vec<EncoderLayer>,
    /// The last block's output norm; the embeddings' where there is no block.
    final_norm: Norm,
    pub(crate) output: Option<OutputLayer>,
}

/// Indices of the three tables.
#[derive(Debug)]
struct Embeddings {
    word: usize,
    position: usize,
    token_type: usize,
}

impl Encoder {
    pub(crate) fn find(spec: EncoderSpec, parameters: &Parameters) -> Result<Self, EngineError> {
        let layers = (0..spec.n_layers)
            .map(|layer| EncoderLayer::find(&spec, parameters, layer))
            .collect::<Result<_, _>>()?;
        let table = |name: &str| parameters.require(&format!("embeddings.{name}_embeddings.weight"));
        Ok(Self {
            embeddings: Embeddings {
                word: table("word")?,
                position: table("position")?,
                token_type: table("token_type")?,
            },
            layers,
            final_norm: Norm::before_layer(&spec, parameters, spec.n_layers)?,
            output: spec.n_outputs.map(|_| OutputLayer::find(parameters)).transpose()?,
            spec,
        })
    }

    /// The parameters that each part of a pass uses. A block begins with the norm of what comes before it.
    pub(crate) fn units(&self, specs: &[ParameterSpec]) -> Units {
        let Embeddings { word, position, token_type } = self.embeddings;
        let embeddings = vec![word, position, token_type];
        let norms: Vec<[usize; 2]> = self
            .layers
            .iter()
            .map(|layer| layer.norm_before.indices())
            .chain([self.final_norm.indices()])
            .collect();
        let is_other = |idx: &usize| !norms.as_flattened().contains(idx) && !embeddings.contains(idx);
        let others = |layer: Option<usize>| {
            (0..specs.len()).filter(move |&idx| specs[idx].layer == layer).filter(is_other)
        };
        Units {
            blocks: (0..self.layers.len())
                .map(|layer| others(Some(layer)).chain(norms[layer]).collect())
                .collect(),
            head: others(None).chain(self.final_norm.indices()).collect(),
            embeddings,
        }
    }

    /// The sum of the three embeddings, before its norm.
    pub(crate) fn embed(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        batch: &DeviceBatch,
    ) -> Vec<f32> {
        let width = self.spec.hidden_size;
        let mut sum = pool.take(batch.n_tokens(), width);
        let values = &parameters.values;
        gather_rows(&values[self.embeddings.word], width, &batch.tokens, &mut sum);
        gather_add_rows(&values[self.embeddings.position], width, &batch.positions, &mut sum);
        add_bias(&mut sum, &values[self.embeddings.token_type][..width]);
        sum
    }

    pub(crate) fn embed_backward(&self, parameters: &mut Parameters, batch: &DeviceBatch, d_sum: &[f32]) {
        let width = self.spec.hidden_size;
        if let Some(d_words) = parameters.gradient(self.embeddings.word) {
            scatter_add_rows(d_sum, width, &batch.tokens, d_words);
        }
        if let Some(d_positions) = parameters.gradient(self.embeddings.position) {
            scatter_add_rows(d_sum, width, &batch.positions, d_positions);
        }
        if let Some(d_types) = parameters.gradient(self.embeddings.token_type) {
            bias_backward(d_sum, &mut d_types[..width]);
        }
    }

    /// The norm of the last block's sum `[n_tokens, hidden]`.
    pub(crate) fn final_norm(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        hidden: &[f32],
    ) -> Vec<f32> {
        let width = self.spec.hidden_size;
        let mut normed = pool.take(hidden.len() / width, width);
        self.final_norm.forward(parameters, hidden, &mut normed);
        normed
    }

    /// Adds the norm's gradients; returns the gradient at its input.
    pub(crate) fn final_norm_backward(
        &self,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        hidden: &[f32],
        d_normed: &[f32],
    ) -> Vec<f32> {
        let width = self.spec.hidden_size;
        let mut d_hidden = pool.take(hidden.len() / width, width);
        self.final_norm.backward(parameters, hidden, d_normed, &mut d_hidden);
        d_hidden
    }
}

impl Blocks for Encoder {
    type Layer = Box<SavedLayer>;

    fn width(&self) -> usize {
        self.spec.hidden_size
    }

    fn forward(
        &self,
        layer: usize,
        parameters: &Parameters,
        pool: &mut BufferPool,
        batch: &DeviceBatch,
        x: Vec<f32>,
        save: SaveActivations,
        attention: Option<SavedAttention>,
    ) -> Result<(Vec<f32>, SavedBlock<Box<SavedLayer>>), EngineError> {
        Ok(self.layers[layer].forward(parameters, pool, batch, x, save, attention))
    }

    fn backward(
        &self,
        layer: usize,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        batch: &DeviceBatch,
        saved: Box<SavedLayer>,
        d_output: Vec<f32>,
    ) -> Result<Vec<f32>, EngineError> {
        Ok(self.layers[layer].backward(parameters, pool, batch, *saved, d_output))
    }
}
