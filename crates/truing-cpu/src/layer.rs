//! One block of the decoder, forward and backward:
//!
//! ```text
//! x_mid = x + o(attention(rotary(q(norm1 x)), rotary(k(norm1 x)), v(norm1 x)))
//! y     = x_mid + down(silu(gate(norm2 x_mid)) * up(norm2 x_mid))
//! ```
//!
//! Norms and the feed-forward's activation are cheap and are computed again in the backward; the results of
//! matrix products are saved. So a saved layer holds `x, q, k, v, attention, x_mid, gate, up` and the
//! attention's row normalisers, and nothing else.
//!
//! In a sequence group every rank has some rows of the pack, and of `q, k, v`, attention and row normalisers it saves
//! all rows of its heads instead (see `ulysses.rs`), and the attention's results by rows as well.

use truing_kernels::{
    AttentionShape, Causality, RotaryTable, Write, rms_norm_backward, rms_norm_forward, rotary_backward,
    rotary_forward, swiglu_backward_in_place, swiglu_forward,
};
use truing_model::{DecoderSpec, EngineError, SaveActivations, TrainableSpec};

use crate::attention::AttentionInputs;
use crate::batch::DeviceBatch;
use crate::buffers::BufferPool;
use crate::linear::Linear;
use crate::parameters::Parameters;
use crate::segment::{SavedAttention, SavedBlock};
use crate::ulysses::{HeadExchange, Heads, SequenceGroup};

/// Indices and options of one block.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) input_norm: usize,
    pub(crate) post_attention_norm: usize,
    /// Norm weights of the query and key heads, where the family has them.
    pub(crate) qk_norms: Option<(usize, usize)>,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) attention: AttentionShape,
    /// The attention of this rank's heads.
    pub(crate) own_attention: AttentionShape,
    pub(crate) exchange: HeadExchange,
    pub(crate) eps: f32,
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
}

/// What one layer saves for its backward, all `[n_tokens, ...]`; what is by heads `[n_pack, ...]`.
#[derive(Debug)]
pub(crate) struct SavedLayer {
    x: Vec<f32>,
    /// Before the head norm and the rotation where there is a head norm (both are computed again), by rows; after the
    /// rotation otherwise, by heads.
    q: Vec<f32>,
    k: Vec<f32>,
    /// By heads.
    v: Vec<f32>,
    /// By heads.
    attention: SavedAttention,
    /// The attention's results by rows, where the rank is not alone.
    attention_by_rows: Option<Vec<f32>>,
    x_mid: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl SavedLayer {
    fn release_all_but_attention(self, pool: &mut BufferPool) -> SavedAttention {
        let Self { x, q, k, v, attention, attention_by_rows, x_mid, gate, up } = self;
        for buffer in [x, q, k, v, x_mid, gate, up].into_iter().chain(attention_by_rows) {
            pool.give(buffer);
        }
        attention
    }
}

impl Layer {
    pub(crate) fn find(
        spec: &DecoderSpec,
        trainable: &TrainableSpec,
        parameters: &Parameters,
        group: &SequenceGroup,
        layer: usize,
    ) -> Result<Self, EngineError> {
        let attention = AttentionShape {
            n_heads: spec.n_heads,
            n_kv_heads: spec.n_kv_heads,
            head_dim: spec.head_dim,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
            causality: Causality::Causal,
            sliding_window: spec.sliding_windows.get(layer).copied().flatten(),
        };
        let exchange = HeadExchange::new(group, &attention);
        let alpha = trainable.lora.as_ref().map(|lora| lora.alpha);
        let missing = |name: &str| EngineError::MissingParameter { name: name.to_owned() };
        let norm = |name: &str| {
            let name = format!("model.layers.{layer}.{name}.weight");
            parameters.find(&name).ok_or_else(|| missing(&name))
        };
        let linear = |name: &str| {
            let name = format!("model.layers.{layer}.{name}");
            Linear::find(parameters, &name, alpha).ok_or_else(|| missing(&name))
        };
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            post_attention_norm: norm("post_attention_layernorm")?,
            qk_norms: if spec.qk_norm {
                Some((norm("self_attn.q_norm")?, norm("self_attn.k_norm")?))
            } else {
                None
            },
            q: linear("self_attn.q_proj")?,
            k: linear("self_attn.k_proj")?,
            v: linear("self_attn.v_proj")?,
            o: linear("self_attn.o_proj")?,
            gate: linear("mlp.gate_proj")?,
            up: linear("mlp.up_proj")?,
            down: linear("mlp.down_proj")?,
            own_attention: exchange.own_shape(&attention),
            attention,
            exchange,
            eps: spec.rms_norm_eps,
            hidden: spec.hidden_size,
            inner: spec.intermediate_size,
        })
    }

    pub(crate) fn q_width(&self) -> usize {
        self.attention.n_heads * self.attention.head_dim
    }

    pub(crate) fn kv_width(&self) -> usize {
        self.attention.n_kv_heads * self.attention.head_dim
    }

    /// `x` `[n_tokens, hidden]` to the block's output, and what `save` asks for ([`SaveActivations::Input`] is
    /// the segment's work and saves nothing here). Attention that is `given` is not computed again.
    pub(crate) fn forward(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        rotary: &RotaryTable,
        batch: &DeviceBatch,
        x: Vec<f32>,
        save: SaveActivations,
        given: Option<SavedAttention>,
    ) -> Result<(Vec<f32>, SavedBlock<SavedLayer>), EngineError> {
        let n_tokens = batch.n_tokens();
        let [mut q, mut k, v] = self.project(parameters, pool, &x);
        let raw = match (self.qk_norms.is_some(), save) {
            (true, SaveActivations::Everything) => {
                Some((pool.copy(&q, self.q_width()), pool.copy(&k, self.kv_width())))
            }
            _ => None,
        };
        self.norm_heads(parameters, pool, &mut q, &mut k);
        rotary_forward(rotary, &batch.positions, &mut q, self.attention.n_heads);
        rotary_forward(rotary, &batch.positions, &mut k, self.attention.n_kv_heads);

        let tensors = [(q, Heads::Queries), (k, Heads::Keys), (v, Heads::Keys)];
        let [mut q, mut k, v] = self.exchange.to_heads(pool, &batch.rows, tensors)?;
        let attention =
            given.unwrap_or_else(|| self.attend(pool, batch, AttentionInputs { q: &q, k: &k, v: &v }));
        let attention_by_rows = self.attention_by_rows(pool, batch, &attention)?;
        let mut x_mid = pool.copy(&x, self.hidden);
        let by_rows = attention_by_rows.as_ref().unwrap_or(&attention.attention);
        self.o.forward(parameters, pool, by_rows, &mut x_mid, Write::Add);

        let [gate, up] = self.gate_and_up(parameters, pool, &x_mid);
        let mut y = pool.copy(&x_mid, self.hidden);
        let mut activation = pool.take(n_tokens, self.inner);
        swiglu_forward(&gate, &up, &mut activation);
        self.down.forward(parameters, pool, &activation, &mut y, Write::Add);
        pool.give(activation);

        if let Some((raw_q, raw_k)) = raw {
            pool.give(std::mem::replace(&mut q, raw_q));
            pool.give(std::mem::replace(&mut k, raw_k));
        }
        let saved = SavedLayer { x, q, k, v, attention, attention_by_rows, x_mid, gate, up };
        let left = if save == SaveActivations::Everything {
            SavedBlock::Everything(saved)
        } else {
            let saved = saved.release_all_but_attention(pool);
            if save == SaveActivations::InputAndAttention {
                SavedBlock::Attention(saved)
            } else {
                saved.release(pool);
                SavedBlock::Nothing
            }
        };
        Ok((y, left))
    }

    /// The attention's results by rows, where the rank is not alone.
    fn attention_by_rows(
        &self,
        pool: &mut BufferPool,
        batch: &DeviceBatch,
        attention: &SavedAttention,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        if self.exchange.group.is_alone() {
            return Ok(None);
        }
        let tensors = [(&attention.attention[..], Heads::Queries)];
        let [by_rows] = self.exchange.to_rows(pool, &batch.rows, tensors)?;
        Ok(Some(by_rows))
    }

    /// Adds the block's gradients; turns the gradient at its output into the one at its input, in place.
    pub(crate) fn backward(
        &self,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        rotary: &RotaryTable,
        batch: &DeviceBatch,
        saved: SavedLayer,
        d_x: &mut [f32],
    ) -> Result<(), EngineError> {
        let SavedLayer { x, q, k, v, attention, attention_by_rows, x_mid, gate, up } = saved;
        self.feed_forward_backward(parameters, pool, &x_mid, gate, up, d_x);
        pool.give(x_mid);

        let n_tokens = batch.n_tokens();
        let mut d_attention = pool.take(n_tokens, self.q_width());
        self.o.backward_input(parameters, pool, d_x, &mut d_attention, Write::Overwrite);
        let by_rows = attention_by_rows.as_ref().unwrap_or(&attention.attention);
        self.o.backward_parameters(parameters, pool, by_rows, d_x);
        if let Some(by_rows) = attention_by_rows {
            pool.give(by_rows);
        }
        let d_attention = [(d_attention, Heads::Queries)];
        let [d_attention] = self.exchange.to_heads(pool, &batch.rows, d_attention)?;

        let (rotated, raw) = if self.qk_norms.is_some() {
            let (mut rotated_q, mut rotated_k) =
                (pool.copy(&q, self.q_width()), pool.copy(&k, self.kv_width()));
            self.norm_heads(parameters, pool, &mut rotated_q, &mut rotated_k);
            rotary_forward(rotary, &batch.positions, &mut rotated_q, self.attention.n_heads);
            rotary_forward(rotary, &batch.positions, &mut rotated_k, self.attention.n_kv_heads);
            let rotated = [(rotated_q, Heads::Queries), (rotated_k, Heads::Keys)];
            (self.exchange.to_heads(pool, &batch.rows, rotated)?, Some((q, k)))
        } else {
            ([q, k], None)
        };
        let inputs = AttentionInputs { q: &rotated[0], k: &rotated[1], v: &v };
        let [d_q, d_k, d_v] = self.attend_backward(pool, batch, inputs, &attention, &d_attention);
        attention.release(pool);
        for buffer in rotated.into_iter().chain([v, d_attention]) {
            pool.give(buffer);
        }
        let gradients = [(d_q, Heads::Queries), (d_k, Heads::Keys), (d_v, Heads::Keys)];
        let [mut d_q, mut d_k, d_v] = self.exchange.back_to_rows(pool, &batch.rows, gradients)?;
        rotary_backward(rotary, &batch.positions, &mut d_q, self.attention.n_heads);
        rotary_backward(rotary, &batch.positions, &mut d_k, self.attention.n_kv_heads);
        if let Some((raw_q, raw_k)) = raw {
            self.norm_heads_backward(parameters, pool, raw_q, raw_k, &mut d_q, &mut d_k);
        }

        let mut normed = pool.take(n_tokens, self.hidden);
        rms_norm_forward(&x, &parameters.values[self.input_norm], self.eps, &mut normed);
        let mut d_normed = pool.take(n_tokens, self.hidden);
        for (projection, d_y, write) in
            [(&self.q, &d_q, Write::Overwrite), (&self.k, &d_k, Write::Add), (&self.v, &d_v, Write::Add)]
        {
            projection.backward_input(parameters, pool, d_y, &mut d_normed, write);
            projection.backward_parameters(parameters, pool, &normed, d_y);
        }
        self.norm_backward(parameters, self.input_norm, &x, &d_normed, d_x);
        for buffer in [x, d_q, d_k, d_v, normed, d_normed] {
            pool.give(buffer);
        }
        Ok(())
    }

    pub(crate) fn project(&self, parameters: &Parameters, pool: &mut BufferPool, x: &[f32]) -> [Vec<f32>; 3] {
        let n_tokens = x.len() / self.hidden;
        let mut normed = pool.take(n_tokens, self.hidden);
        rms_norm_forward(x, &parameters.values[self.input_norm], self.eps, &mut normed);
        let outputs = [(&self.q, self.q_width()), (&self.k, self.kv_width()), (&self.v, self.kv_width())]
            .map(|(projection, width)| {
                let mut y = pool.take(n_tokens, width);
                projection.forward(parameters, pool, &normed, &mut y, Write::Overwrite);
                y
            });
        pool.give(normed);
        outputs
    }

    pub(crate) fn gate_and_up(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        x_mid: &[f32],
    ) -> [Vec<f32>; 2] {
        let n_tokens = x_mid.len() / self.hidden;
        let mut normed = pool.take(n_tokens, self.hidden);
        rms_norm_forward(x_mid, &parameters.values[self.post_attention_norm], self.eps, &mut normed);
        let outputs = [&self.gate, &self.up].map(|projection| {
            let mut y = pool.take(n_tokens, self.inner);
            projection.forward(parameters, pool, &normed, &mut y, Write::Overwrite);
            y
        });
        pool.give(normed);
        outputs
    }

    fn feed_forward_backward(
        &self,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        x_mid: &[f32],
        mut gate: Vec<f32>,
        mut up: Vec<f32>,
        d_x: &mut [f32],
    ) {
        let n_tokens = d_x.len() / self.hidden;
        let mut activation = pool.take(n_tokens, self.inner);
        self.down.backward_input(parameters, pool, d_x, &mut activation, Write::Overwrite);
        swiglu_backward_in_place(&mut gate, &mut up, &mut activation);
        let (d_gate, d_up) = (gate, up);
        self.down.backward_parameters(parameters, pool, &activation, d_x);
        pool.give(activation);

        let mut normed = pool.take(n_tokens, self.hidden);
        rms_norm_forward(x_mid, &parameters.values[self.post_attention_norm], self.eps, &mut normed);
        let mut d_normed = pool.take(n_tokens, self.hidden);
        self.gate.backward_input(parameters, pool, &d_gate, &mut d_normed, Write::Overwrite);
        self.gate.backward_parameters(parameters, pool, &normed, &d_gate);
        self.up.backward_input(parameters, pool, &d_up, &mut d_normed, Write::Add);
        self.up.backward_parameters(parameters, pool, &normed, &d_up);
        self.norm_backward(parameters, self.post_attention_norm, x_mid, &d_normed, d_x);
        for buffer in [d_gate, d_up, normed, d_normed] {
            pool.give(buffer);
        }
    }

    /// Adds a norm's gradient at its input to the residual stream's gradient `d_x`.
    fn norm_backward(
        &self,
        parameters: &mut Parameters,
        norm: usize,
        x: &[f32],
        d_normed: &[f32],
        d_x: &mut [f32],
    ) {
        let d_weight = &mut parameters.gradients[norm];
        let d_weight = if d_weight.is_empty() { None } else { Some(&mut d_weight[..]) };
        rms_norm_backward(x, &parameters.values[norm], self.eps, d_normed, d_x, Write::Add, d_weight);
    }

    /// Normalises every query and key head in place, where the family does.
    pub(crate) fn norm_heads(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        q: &mut Vec<f32>,
        k: &mut Vec<f32>,
    ) {
        let Some((q_norm, k_norm)) = self.qk_norms else { return };
        for (heads, norm, width) in [(q, q_norm, self.q_width()), (k, k_norm, self.kv_width())] {
            let mut normed = pool.take(heads.len() / width, width);
            rms_norm_forward(heads, &parameters.values[norm], self.eps, &mut normed);
            pool.give(std::mem::replace(heads, normed));
        }
    }

    fn norm_heads_backward(
        &self,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        raw_q: Vec<f32>,
        raw_k: Vec<f32>,
        d_q: &mut Vec<f32>,
        d_k: &mut Vec<f32>,
    ) {
        let Some((q_norm, k_norm)) = self.qk_norms else { return };
        for (raw, d_heads, norm, width) in
            [(raw_q, d_q, q_norm, self.q_width()), (raw_k, d_k, k_norm, self.kv_width())]
        {
            let mut d_raw = pool.take(raw.len() / width, width);
            let d_weight = &mut parameters.gradients[norm];
            let d_weight = if d_weight.is_empty() { None } else { Some(&mut d_weight[..]) };
            let weight = &parameters.values[norm];
            rms_norm_backward(&raw, weight, self.eps, d_heads, &mut d_raw, Write::Overwrite, d_weight);
            pool.give(std::mem::replace(d_heads, d_raw));
            pool.give(raw);
        }
    }
}
