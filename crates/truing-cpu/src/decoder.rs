//! A decoder's blocks, embedding and rotary table: what of the engine is not the encoder's.

use truing_kernels::{
    Epilogue, MatrixRef, RotaryTable, RowProduct, RowWeight, Write, gather_rows, multiply_rows,
    rms_norm_backward, rms_norm_forward, scatter_add_rows,
};
use truing_model::{
    DecoderSpec, DecodingWeights, EngineError, HeadKind, ParameterSpec, SaveActivations, TrainableSpec,
};
use truing_types::TokenId;

use crate::batch::DeviceBatch;
use crate::buffers::BufferPool;
use crate::cache::KvCache;
use crate::layer::{Layer, SavedLayer};
use crate::parameters::{Parameters, Units};
use crate::segment::{Blocks, SavedAttention, SavedBlock};
use crate::ulysses::SequenceGroup;

/// Longest piece of a prompt that is read at once; bounds the memory of a long prompt.
pub(crate) const PREFILL_TOKENS: usize = 512;

/// Everything of a decoder but its parameters.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) spec: DecoderSpec,
    layers: Vec<Layer>,
    embedding: usize,
    pub(crate) head: usize,
    final_norm: usize,
    inverse_frequencies: Vec<f32>,
    attention_factor: f32,
    rotary: RotaryTable,
    n_rotary_positions: usize,
}

impl Decoder {
    pub(crate) fn find(
        spec: DecoderSpec,
        trainable: &TrainableSpec,
        parameters: &Parameters,
        group: &SequenceGroup,
    ) -> Result<Self, EngineError> {
        let layers = (0..spec.n_layers)
            .map(|layer| Layer::find(&spec, trainable, parameters, group, layer))
            .collect::<Result<_, _>>()?;
        let find = |name: &str| parameters.require(name);
        let embedding = find("model.embed_tokens.weight")?;
        let head = match spec.head {
            HeadKind::Score { .. } => find("score.weight")?,
            HeadKind::LanguageModel if spec.tie_word_embeddings => embedding,
            HeadKind::LanguageModel => find("lm_head.weight")?,
        };
        let final_norm = find("model.norm.weight")?;
        let (inverse_frequencies, attention_factor) = spec.rotary_inverse_frequencies();
        let rotary = RotaryTable::new(&inverse_frequencies, 0, attention_factor);
        Ok(Self {
            spec,
            layers,
            embedding,
            head,
            final_norm,
            inverse_frequencies,
            attention_factor,
            rotary,
            n_rotary_positions: 0,
        })
    }

    /// The parameters that each part of a pass uses.
    pub(crate) fn units(&self, specs: &[ParameterSpec]) -> Units {
        let of_layer = |layer| (0..specs.len()).filter(|&idx| specs[idx].layer == layer).collect();
        Units {
            embeddings: vec![self.embedding],
            blocks: (0..self.spec.n_layers).map(|layer| of_layer(Some(layer))).collect(),
            head: vec![self.final_norm, self.head],
        }
    }

    pub(crate) fn ensure_positions(&mut self, n_positions: usize) {
        if n_positions > self.n_rotary_positions {
            self.n_rotary_positions = n_positions.next_power_of_two();
            self.rotary =
                RotaryTable::new(&self.inverse_frequencies, self.n_rotary_positions, self.attention_factor);
        }
    }

    pub(crate) fn embed(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        tokens: &[TokenId],
    ) -> Vec<f32> {
        let width = self.spec.hidden_size;
        let mut hidden = pool.take(tokens.len(), width);
        gather_rows(&parameters.values[self.embedding], width, tokens, &mut hidden);
        hidden
    }

    pub(crate) fn embed_backward(&self, parameters: &mut Parameters, batch: &DeviceBatch, d_hidden: &[f32]) {
        if let Some(d_embedding) = parameters.gradient(self.embedding) {
            scatter_add_rows(d_hidden, self.spec.hidden_size, &batch.tokens, d_embedding);
        }
    }

    /// Final norm of the chosen rows: the rows themselves and their norm, `[n_rows, hidden]` each.
    pub(crate) fn normed_rows(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        hidden: &[f32],
        rows: &[u32],
    ) -> (Vec<f32>, Vec<f32>) {
        let width = self.spec.hidden_size;
        let mut chosen = pool.take(rows.len(), width);
        gather_rows(hidden, width, rows, &mut chosen);
        let mut normed = pool.take(rows.len(), width);
        let norm = &parameters.values[self.final_norm];
        rms_norm_forward(&chosen, norm, self.spec.rms_norm_eps, &mut normed);
        (chosen, normed)
    }

    /// The final norm of every row `[n_tokens, hidden]`.
    pub(crate) fn final_norm(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        hidden: &[f32],
    ) -> Vec<f32> {
        let width = self.spec.hidden_size;
        let mut normed = pool.take(hidden.len() / width, width);
        let norm = &parameters.values[self.final_norm];
        rms_norm_forward(hidden, norm, self.spec.rms_norm_eps, &mut normed);
        normed
    }

    /// Adds the final norm's gradient; overwrites `d_rows` by the gradient at its input `rows`.
    pub(crate) fn final_norm_backward(
        &self,
        parameters: &mut Parameters,
        rows: &[f32],
        d_normed: &[f32],
        d_rows: &mut [f32],
    ) {
        let d_weight = &mut parameters.gradients[self.final_norm];
        rms_norm_backward(
            rows,
            &parameters.values[self.final_norm],
            self.spec.rms_norm_eps,
            d_normed,
            d_rows,
            Write::Overwrite,
            if d_weight.is_empty() { None } else { Some(d_weight) },
        );
    }

    pub(crate) fn logits(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        hidden: &[f32],
        rows: &[u32],
    ) -> Vec<f32> {
        let (width, vocab) = (self.spec.hidden_size, self.spec.vocab_size);
        let (chosen, normed) = self.normed_rows(parameters, pool, hidden, rows);
        let mut logits = vec![0.0; rows.len() * vocab];
        let normed_matrix = MatrixRef::new(&normed, rows.len(), width);
        parameters.weight(self.head).forward(normed_matrix, &mut logits, Write::Overwrite, Epilogue::Nothing);
        pool.give(chosen);
        pool.give(normed);
        logits
    }

    /// Several new tokens of one sequence, piece by piece; the logits after the last one.
    pub(crate) fn read_prompt(
        &mut self,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        cache: &mut KvCache,
        tokens: &[TokenId],
    ) -> Vec<f32> {
        parameters.round_all_weights();
        let mut logits = Vec::new();
        for piece in tokens.chunks(PREFILL_TOKENS) {
            logits = match piece {
                [_] => self.extend_each_by(parameters, pool, &mut [cache], &[piece], DecodingWeights::F32),
                _ => self.read_piece(parameters, pool, cache, piece),
            };
        }
        logits
    }

    fn read_piece(
        &mut self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        cache: &mut KvCache,
        tokens: &[TokenId],
    ) -> Vec<f32> {
        let n_after = cache.n_cached + tokens.len();
        pool.prepare(n_after);
        self.ensure_positions(n_after);
        let positions: Vec<u32> = (cache.n_cached as u32..n_after as u32).collect();
        let mut hidden = self.embed(parameters, pool, tokens);
        for (idx, layer) in self.layers.iter().enumerate() {
            layer.extend(parameters, pool, &self.rotary, &positions, &mut hidden, cache, idx);
        }
        cache.n_cached = n_after;
        let last = hidden.len() - self.spec.hidden_size;
        let head = parameters.unquantized_row_weight(self.head);
        let logits = self.logits_of_rows(parameters, pool, &hidden[last..], head);
        pool.give(hidden);
        logits
    }

    /// Some new tokens for each cache; the logits after each of them, none of which depends on the others in any bit.
    pub(crate) fn extend_each_by(
        &mut self,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        caches: &mut [&mut KvCache],
        tokens: &[&[TokenId]],
        weights: DecodingWeights,
    ) -> Vec<f32> {
        parameters.round_all_weights();
        parameters.choose_decoding_weights(&self.spec, weights);
        let parameters = &*parameters;
        let n_new: Vec<usize> = tokens.iter().map(|new| new.len()).collect();
        let tokens = tokens.concat();
        let longest = caches.iter().zip(&n_new).map(|(cache, n_new)| cache.n_cached + n_new).max();
        pool.prepare(tokens.len());
        self.ensure_positions(longest.unwrap_or(0));
        let positions: Vec<u32> = caches
            .iter()
            .zip(&n_new)
            .flat_map(|(cache, n_new)| cache.n_cached as u32..(cache.n_cached + n_new) as u32)
            .collect();
        let mut hidden = self.embed(parameters, pool, &tokens);
        for (idx, layer) in self.layers.iter().enumerate() {
            layer.extend_each_by(
                parameters,
                pool,
                &self.rotary,
                &positions,
                &mut hidden,
                caches,
                &n_new,
                idx,
            );
        }
        caches.iter_mut().zip(&n_new).for_each(|(cache, n_new)| cache.n_cached += n_new);
        let head = parameters.row_weight(self.head);
        let logits = self.logits_of_rows(parameters, pool, &hidden, head);
        pool.give(hidden);
        logits
    }

    /// The head for a few rows `[n_rows, hidden]`, none of which depends on the others in any bit.
    fn logits_of_rows(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        hidden: &[f32],
        weight: RowWeight<'_>,
    ) -> Vec<f32> {
        let width = self.spec.hidden_size;
        let n_rows = hidden.len() / width;
        let mut normed = pool.take(n_rows, width);
        let norm = &parameters.values[self.final_norm];
        rms_norm_forward(hidden, norm, self.spec.rms_norm_eps, &mut normed);
        let mut logits = vec![0.0; n_rows * self.spec.vocab_size];
        multiply_rows(&normed, width, &mut [RowProduct { weight, y: &mut logits, write: Write::Overwrite }]);
        pool.give(normed);
        logits
    }
}

impl Blocks for Decoder {
    type Layer = SavedLayer;

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
    ) -> Result<(Vec<f32>, SavedBlock<SavedLayer>), EngineError> {
        self.layers[layer].forward(parameters, pool, &self.rotary, batch, x, save, attention)
    }

    fn backward(
        &self,
        layer: usize,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        batch: &DeviceBatch,
        saved: SavedLayer,
        mut d_output: Vec<f32>,
    ) -> Result<Vec<f32>, EngineError> {
        self.layers[layer].backward(parameters, pool, &self.rotary, batch, saved, &mut d_output)?;
        Ok(d_output)
    }
}
