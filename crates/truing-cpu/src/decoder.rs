//! A decoder's blocks, embedding and rotary table: what of the engine is not the encoder's.

use truing_kernels::{
    Epilogue, LinearHead, MatrixRef, RotaryTable, RowProduct, RowWeight, Write, gather_rows, multiply_rows,
    scatter_add_rows,
};
use truing_model::{
    DecoderSpec, DecodingWeights, EngineError, HeadKind, ParameterSpec, SaveActivations, TrainableSpec,
};
use truing_types::TokenId;

use crate::batch::DeviceBatch;
use crate::buffers::BufferPool;
use crate::cache::KvCache;
use crate::layer::{Layer, SavedLayer};
use crate::norm::Norm;
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
    final_norm: Norm,
    rotary: Rotary,
    /// The rotary embedding of layers with a sliding window, where it is another one.
    local_rotary: Option<Rotary>,
    n_rotary_positions: usize,
}

/// A rotary embedding, as a table that grows.
#[derive(Debug)]
struct Rotary {
    inverse_frequencies: Vec<f32>,
    attention_factor: f32,
    head_dim: usize,
    table: RotaryTable,
}

impl Rotary {
    fn new(inverse_frequencies: Vec<f32>, attention_factor: f32, head_dim: usize) -> Self {
        let table = RotaryTable::new(&inverse_frequencies, 0, attention_factor).for_heads_of(head_dim);
        Self { inverse_frequencies, attention_factor, head_dim, table }
    }

    fn grow(&mut self, n_positions: usize) {
        let table = RotaryTable::new(&self.inverse_frequencies, n_positions, self.attention_factor);
        self.table = table.for_heads_of(self.head_dim);
    }
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
        let final_norm = Norm::find(&spec, parameters, "model.norm")?;
        let (inverse_frequencies, attention_factor) = spec.rotary_inverse_frequencies();
        let rotary = Rotary::new(inverse_frequencies, attention_factor, spec.head_dim);
        let local = spec.local_rotary_inverse_frequencies();
        let local_rotary = local.map(|frequencies| Rotary::new(frequencies, 1.0, spec.head_dim));
        Ok(Self { spec, layers, embedding, head, final_norm, rotary, local_rotary, n_rotary_positions: 0 })
    }

    /// The rotary table of a layer.
    fn rotary_of(&self, layer: usize) -> &RotaryTable {
        let is_local = self.spec.sliding_windows.get(layer).copied().flatten().is_some();
        let local = self.local_rotary.as_ref().filter(|_| is_local);
        &local.unwrap_or(&self.rotary).table
    }

    /// The parameters that each part of a pass uses.
    pub(crate) fn units(&self, specs: &[ParameterSpec]) -> Units {
        let of_layer = |layer| (0..specs.len()).filter(|&idx| specs[idx].layer == layer).collect();
        Units {
            embeddings: vec![self.embedding],
            blocks: (0..self.spec.n_layers).map(|layer| of_layer(Some(layer))).collect(),
            head: vec![self.final_norm.weight, self.head],
        }
    }

    pub(crate) fn ensure_positions(&mut self, n_positions: usize) {
        if n_positions > self.n_rotary_positions {
            self.n_rotary_positions = n_positions.next_power_of_two();
            for rotary in std::iter::once(&mut self.rotary).chain(&mut self.local_rotary) {
                rotary.grow(self.n_rotary_positions);
            }
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
        if let Some(scale) = self.spec.variant.embedding_scale {
            truing_kernels::scale(&mut hidden, scale);
        }
        hidden
    }

    pub(crate) fn embed_backward(&self, parameters: &mut Parameters, batch: &DeviceBatch, d_hidden: &[f32]) {
        let Some(d_embedding) = parameters.gradient(self.embedding) else { return };
        let Some(scale) = self.spec.variant.embedding_scale else {
            return scatter_add_rows(d_hidden, self.spec.hidden_size, &batch.tokens, d_embedding);
        };
        let mut d_rows = d_hidden.to_vec();
        truing_kernels::scale(&mut d_rows, scale);
        scatter_add_rows(&d_rows, self.spec.hidden_size, &batch.tokens, d_embedding);
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
        self.final_norm.forward(parameters, &chosen, &mut normed);
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
        self.final_norm.forward(parameters, hidden, &mut normed);
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
        self.final_norm.backward(parameters, rows, d_normed, d_rows, Write::Overwrite);
    }

    /// The language-model head, for final norms that are divided by `temperature`. Its inverse norms are those that
    /// [`prepare_head`](Self::prepare_head) has left in the parameters.
    pub(crate) fn linear_head<'a>(&self, parameters: &'a Parameters, temperature: f32) -> LinearHead<'a> {
        LinearHead {
            weight: parameters.weight(self.head),
            inverse_norms: self.has_normalized_head().then(|| parameters.inverse_norms()),
            // Of z / temperature: the cap of the whole is divided too.
            soft_cap: self.spec.variant.logit_soft_cap.map(|cap| cap / temperature),
        }
    }

    fn has_normalized_head(&self) -> bool {
        self.spec.variant.has_normalized_head && self.spec.head == HeadKind::LanguageModel
    }

    /// Computes what the head needs of its weights, where they have changed.
    pub(crate) fn prepare_head(&self, parameters: &mut Parameters) {
        if self.has_normalized_head() {
            parameters.refresh_inverse_norms(self.head, self.spec.hidden_size);
        }
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
        self.linear_head(parameters, 1.0).finish_rows(&mut logits);
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
        self.prepare_head(parameters);
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
            layer.extend(parameters, pool, self.rotary_of(idx), &positions, &mut hidden, cache, idx);
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
        self.prepare_head(parameters);
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
                self.rotary_of(idx),
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
        self.final_norm.forward(parameters, hidden, &mut normed);
        let mut logits = vec![0.0; n_rows * self.spec.vocab_size];
        multiply_rows(&normed, width, &mut [RowProduct { weight, y: &mut logits, write: Write::Overwrite }]);
        self.linear_head(parameters, 1.0).finish_rows(&mut logits);
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
        self.layers[layer].forward(parameters, pool, self.rotary_of(layer), batch, x, save, attention)
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
        self.layers[layer].backward(parameters, pool, self.rotary_of(layer), batch, saved, &mut d_output)?;
        Ok(d_output)
    }
}
