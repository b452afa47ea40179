//! One block of the decoder, forward and backward:
//!
//! ```text
//! x_mid = x + o(attention(rotary(q(norm1 x)), rotary(k(norm1 x)), v(norm1 x)))
//! y     = x_mid + down(silu(gate(norm2 x_mid)) * up(norm2 x_mid))
//! ```
//!
//! Gemma has a norm after `o` and after `down` too, before each is added, and a GELU for the SiLU. What such a norm is
//! given is saved as well.
//!
//! Norms and the feed-forward's activation are cheap and are computed again in the backward; the results of
//! matrix products are saved. So a saved layer holds `x, q, k, v, attention, x_mid, gate, up` and the
//! attention's row normalisers, and nothing else.
//!
//! In a sequence group every rank has some rows of the pack, and of `q, k, v`, attention and row normalisers it saves
//! all rows of its heads instead (see `ulysses.rs`), and the attention's results by rows as well.

use truing_kernels::{
    AttentionShape, Causality, RotaryTable, Write, add_assign, geglu_backward_in_place, geglu_forward,
    rotary_backward, rotary_forward, swiglu_backward_in_place, swiglu_forward,
};
use truing_model::{Activation, DecoderSpec, EngineError, SaveActivations, TrainableSpec};

use crate::attention::{AttentionInputs, OwnAttention};
use crate::batch::DeviceBatch;
use crate::buffers::BufferPool;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::parameters::Parameters;
use crate::projections::Projections;
use crate::segment::{SavedAttention, SavedBlock};
use crate::ulysses::{HeadExchange, Heads, SequenceGroup};

/// Indices and options of one block.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) input_norm: Norm,
    pub(crate) feed_forward_norm: Norm,
    /// Norms of what attention and feed-forward add to the stream, where the family has them.
    post_norms: Option<[Norm; 2]>,
    /// Norms of the query and key heads, where the family has them.
    pub(crate) qk_norms: Option<(Norm, Norm)>,
    pub(crate) qkv: Projections<3>,
    pub(crate) o: Linear,
    pub(crate) gate_up: Projections<2>,
    pub(crate) down: Linear,
    activation: Activation,
    pub(crate) attention: AttentionShape,
    own_attention: OwnAttention,
    pub(crate) exchange: HeadExchange,
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
}

/// What a block adds to the residual stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Branch {
    Attention,
    FeedForward,
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
    /// What the norms after attention and feed-forward are given, where there are such.
    branches: [Option<Vec<f32>>; 2],
}

impl SavedLayer {
    fn release_all_but_attention(self, pool: &mut BufferPool) -> SavedAttention {
        let Self { x, q, k, v, attention, attention_by_rows, x_mid, gate, up, branches } = self;
        let optional = attention_by_rows.into_iter().chain(branches.into_iter().flatten());
        for buffer in [x, q, k, v, x_mid, gate, up].into_iter().chain(optional) {
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
            scale: spec.variant.attention_scale.unwrap_or(1.0 / (spec.head_dim as f32).sqrt()),
            causality: Causality::Causal,
            sliding_window: spec.sliding_windows.get(layer).copied().flatten(),
            soft_cap: spec.variant.attention_soft_cap,
        };
        let exchange = HeadExchange::new(group, &attention);
        let alpha = trainable.lora.as_ref().map(|lora| lora.alpha);
        let missing = |name: &str| EngineError::MissingParameter { name: name.to_owned() };
        let norm = |name: &str| Norm::find(spec, parameters, &format!("model.layers.{layer}.{name}"));
        let linear = |name: &str| {
            let name = format!("model.layers.{layer}.{name}");
            Linear::find(parameters, &name, alpha).ok_or_else(|| missing(&name))
        };
        let variant = &spec.variant;
        let (feed_forward_norm, post_norms) = if variant.has_post_norms {
            let post = [norm("post_attention_layernorm")?, norm("post_feedforward_layernorm")?];
            (norm("pre_feedforward_layernorm")?, Some(post))
        } else {
            (norm("post_attention_layernorm")?, None)
        };
        let qkv = Projections::find(
            linear,
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            variant.qkv_layout.fused_name(),
            [spec.q_width(), spec.kv_width(), spec.kv_width()],
        )?;
        let gate_up = Projections::find(
            linear,
            ["mlp.gate_proj", "mlp.up_proj"],
            variant.has_fused_gate_up.then_some("mlp.gate_up_proj"),
            [spec.intermediate_size; 2],
        )?;
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            feed_forward_norm,
            post_norms,
            qk_norms: if spec.qk_norm {
                Some((norm("self_attn.q_norm")?, norm("self_attn.k_norm")?))
            } else {
                None
            },
            qkv,
            o: linear("self_attn.o_proj")?,
            gate_up,
            down: linear("mlp.down_proj")?,
            activation: variant.activation,
            own_attention: OwnAttention::new(exchange.own_shape(&attention), group),
            attention,
            exchange,
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
        let inputs = AttentionInputs { q: &q, k: &k, v: &v };
        let attention = given.unwrap_or_else(|| self.own_attention.forward(pool, batch, inputs));
        let attention_by_rows = self.attention_by_rows(pool, batch, &attention)?;
        let mut x_mid = pool.copy(&x, self.hidden);
        let by_rows = attention_by_rows.as_ref().unwrap_or(&attention.attention);
        let of_attention = self.add_branch(parameters, pool, Branch::Attention, by_rows, &mut x_mid);

        let [gate, up] = self.gate_and_up(parameters, pool, &x_mid);
        let mut y = pool.copy(&x_mid, self.hidden);
        let mut activation = pool.take(n_tokens, self.inner);
        self.activate(&gate, &up, &mut activation);
        let of_feed_forward = self.add_branch(parameters, pool, Branch::FeedForward, &activation, &mut y);
        pool.give(activation);

        if let Some((raw_q, raw_k)) = raw {
            pool.give(std::mem::replace(&mut q, raw_q));
            pool.give(std::mem::replace(&mut k, raw_k));
        }
        let branches = [of_attention, of_feed_forward];
        let saved = SavedLayer { x, q, k, v, attention, attention_by_rows, x_mid, gate, up, branches };
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

    /// The gate's function, and the product with `up`.
    pub(crate) fn activate(&self, gate: &[f32], up: &[f32], activation: &mut [f32]) {
        match self.activation {
            Activation::Silu => swiglu_forward(gate, up, activation),
            Activation::GeluTanh => geglu_forward(gate, up, activation),
        }
    }

    fn post_norm(&self, branch: Branch) -> Option<Norm> {
        self.post_norms.map(|[attention, feed_forward]| match branch {
            Branch::Attention => attention,
            Branch::FeedForward => feed_forward,
        })
    }

    /// Adds a branch's last projection of `input` to the residual stream; returns what its norm was given, where there
    /// is one.
    pub(crate) fn add_branch(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        branch: Branch,
        input: &[f32],
        stream: &mut [f32],
    ) -> Option<Vec<f32>> {
        let projection = self.last_projection(branch);
        let Some(norm) = self.post_norm(branch) else {
            projection.forward(parameters, pool, input, stream, Write::Add);
            return None;
        };
        let mut output = pool.take(stream.len() / self.hidden, self.hidden);
        projection.forward(parameters, pool, input, &mut output, Write::Overwrite);
        self.add_normed(parameters, pool, norm, &output, stream);
        Some(output)
    }

    /// The same with the weights that decoding reads; nothing is kept.
    pub(crate) fn add_branch_rows(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        branch: Branch,
        input: &[f32],
        stream: &mut [f32],
    ) {
        let projection = [self.last_projection(branch)];
        let Some(norm) = self.post_norm(branch) else {
            return Linear::forward_rows(projection, parameters, pool, input, [stream], Write::Add);
        };
        let mut output = pool.take(stream.len() / self.hidden, self.hidden);
        Linear::forward_rows(projection, parameters, pool, input, [&mut output[..]], Write::Overwrite);
        self.add_normed(parameters, pool, norm, &output, stream);
        pool.give(output);
    }

    fn last_projection(&self, branch: Branch) -> &Linear {
        match branch {
            Branch::Attention => &self.o,
            Branch::FeedForward => &self.down,
        }
    }

    fn add_normed(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        norm: Norm,
        output: &[f32],
        stream: &mut [f32],
    ) {
        let mut normed = pool.take(output.len() / self.hidden, self.hidden);
        norm.forward(parameters, output, &mut normed);
        add_assign(stream, &normed);
        pool.give(normed);
    }

    /// The gradient at a branch's last projection, where it is not that at the stream; `output` is what the norm was
    /// given.
    fn branch_backward(
        &self,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        branch: Branch,
        output: Option<Vec<f32>>,
        d_stream: &[f32],
    ) -> Option<Vec<f32>> {
        let (norm, output) = (self.post_norm(branch)?, output?);
        let mut d_output = pool.take(output.len() / self.hidden, self.hidden);
        norm.backward(parameters, &output, d_stream, &mut d_output, Write::Overwrite);
        pool.give(output);
        Some(d_output)
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
        let SavedLayer { x, q, k, v, attention, attention_by_rows, x_mid, gate, up, branches } = saved;
        let [of_attention, of_feed_forward] = branches;
        self.feed_forward_backward(parameters, pool, &x_mid, [gate, up], of_feed_forward, d_x);
        pool.give(x_mid);

        let n_tokens = batch.n_tokens();
        let d_branch = self.branch_backward(parameters, pool, Branch::Attention, of_attention, d_x);
        let d_o = d_branch.as_deref().unwrap_or(d_x);
        let mut d_attention = pool.take(n_tokens, self.q_width());
        self.o.backward_input(parameters, pool, d_o, &mut d_attention, Write::Overwrite);
        let by_rows = attention_by_rows.as_ref().unwrap_or(&attention.attention);
        self.o.backward_parameters(parameters, pool, by_rows, d_o);
        if let Some(d_branch) = d_branch {
            pool.give(d_branch);
        }
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
        let [d_q, d_k, d_v] = self.own_attention.backward(pool, batch, inputs, &attention, &d_attention);
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
        self.input_norm.forward(parameters, &x, &mut normed);
        let mut d_normed = pool.take(n_tokens, self.hidden);
        self.qkv.backward(parameters, pool, &normed, [&d_q, &d_k, &d_v], &mut d_normed);
        self.input_norm.backward(parameters, &x, &d_normed, d_x, Write::Add);
        for buffer in [x, d_q, d_k, d_v, normed, d_normed] {
            pool.give(buffer);
        }
        Ok(())
    }

    pub(crate) fn project(&self, parameters: &Parameters, pool: &mut BufferPool, x: &[f32]) -> [Vec<f32>; 3] {
        let n_tokens = x.len() / self.hidden;
        let mut normed = pool.take(n_tokens, self.hidden);
        self.input_norm.forward(parameters, x, &mut normed);
        let outputs = self.qkv.forward(parameters, pool, &normed, n_tokens);
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
        self.feed_forward_norm.forward(parameters, x_mid, &mut normed);
        let outputs = self.gate_up.forward(parameters, pool, &normed, n_tokens);
        pool.give(normed);
        outputs
    }

    /// `output` is what the norm after the feed-forward was given, where there is one.
    fn feed_forward_backward(
        &self,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        x_mid: &[f32],
        [mut gate, mut up]: [Vec<f32>; 2],
        output: Option<Vec<f32>>,
        d_x: &mut [f32],
    ) {
        let n_tokens = d_x.len() / self.hidden;
        let d_branch = self.branch_backward(parameters, pool, Branch::FeedForward, output, d_x);
        let d_down = d_branch.as_deref().unwrap_or(d_x);
        let mut activation = pool.take(n_tokens, self.inner);
        self.down.backward_input(parameters, pool, d_down, &mut activation, Write::Overwrite);
        match self.activation {
            Activation::Silu => swiglu_backward_in_place(&mut gate, &mut up, &mut activation),
            Activation::GeluTanh => geglu_backward_in_place(&mut gate, &mut up, &mut activation),
        }
        let (d_gate, d_up) = (gate, up);
        self.down.backward_parameters(parameters, pool, &activation, d_down);
        pool.give(activation);
        if let Some(d_branch) = d_branch {
            pool.give(d_branch);
        }

        let mut normed = pool.take(n_tokens, self.hidden);
        self.feed_forward_norm.forward(parameters, x_mid, &mut normed);
        let mut d_normed = pool.take(n_tokens, self.hidden);
        self.gate_up.backward(parameters, pool, &normed, [&d_gate, &d_up], &mut d_normed);
        self.feed_forward_norm.backward(parameters, x_mid, &d_normed, d_x, Write::Add);
        for buffer in [d_gate, d_up, normed, d_normed] {
            pool.give(buffer);
        }
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
            norm.forward(parameters, heads, &mut normed);
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
            norm.backward(parameters, &raw, d_heads, &mut d_raw, Write::Overwrite);
            pool.give(std::mem::replace(d_heads, d_raw));
            pool.give(raw);
        }
    }
}
