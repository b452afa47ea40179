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
//! Norms and the feed-forward's activation are cheap and are computed again in the backward; the results of matrix
//! products are saved. The residual stream is in single precision, what projections make in the format that is
//! computed in.

use truing_model::{Activation, DecoderSpec, EngineError, SaveActivations, TrainableSpec};

use crate::attention::{Attended, AttentionShape};
use crate::batch::DeviceBatch;
use crate::error::TorchError;
use crate::ffi::Tensor;
use crate::linear::Linear;
use crate::norm::RmsNorm;
use crate::parameters::Parameters;
use crate::projections::Projections;
use crate::rotary::AllAngles;
use crate::segment::SavedBlock;

/// Indices and options of one block.
#[derive(Debug)]
pub(crate) struct Layer {
    input_norm: RmsNorm,
    feed_forward_norm: RmsNorm,
    /// Norms of what attention and feed-forward add to the stream, where the family has them.
    post_norms: Option<[RmsNorm; 2]>,
    /// Norms of the query and key heads, where the family has them.
    qk_norms: Option<[RmsNorm; 2]>,
    qkv: Projections<3>,
    o: Linear,
    gate_up: Projections<2>,
    down: Linear,
    activation: Activation,
    pub(crate) attention: AttentionShape,
}

/// What one layer saves for its backward, all `[n_tokens, ...]`.
#[derive(Debug)]
pub(crate) struct SavedLayer {
    x: Tensor,
    /// Before the head norm and the rotation where there is a head norm (both are computed again), after the
    /// rotation otherwise.
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Attended,
    x_mid: Tensor,
    gate: Tensor,
    up: Tensor,
    /// What the norms after attention and feed-forward are given, where there are such.
    branches: [Option<Tensor>; 2],
}

/// What a feed-forward saves: its two products, and what the norm after it is given, where there is one.
#[derive(Debug)]
pub(crate) struct FeedForward {
    gate: Tensor,
    up: Tensor,
    branch: Option<Tensor>,
}

impl Layer {
    pub(crate) fn find(
        spec: &DecoderSpec,
        trainable: &TrainableSpec,
        parameters: &Parameters,
        layer: usize,
    ) -> Result<Self, EngineError> {
        let alpha = trainable.lora.as_ref().map(|lora| lora.alpha);
        let norm = |name: &str| RmsNorm::find(spec, parameters, &format!("model.layers.{layer}.{name}"));
        let linear = |name: &str| {
            let name = format!("model.layers.{layer}.{name}");
            let missing = || EngineError::MissingParameter { name: name.clone() };
            Linear::find(parameters, &name, alpha).ok_or_else(missing)
        };
        let qk_norms =
            if spec.qk_norm { Some([norm("self_attn.q_norm")?, norm("self_attn.k_norm")?]) } else { None };
        let variant = &spec.variant;
        let (feed_forward_norm, post_norms) = if variant.has_post_norms {
            let post = [norm("post_attention_layernorm")?, norm("post_feedforward_layernorm")?];
            (norm("pre_feedforward_layernorm")?, Some(post))
        } else {
            (norm("post_attention_layernorm")?, None)
        };
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            feed_forward_norm,
            post_norms,
            qk_norms,
            qkv: Projections::find(
                linear,
                ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                variant.qkv_layout.fused_name(),
                [spec.q_width(), spec.kv_width(), spec.kv_width()],
            )?,
            o: linear("self_attn.o_proj")?,
            gate_up: Projections::find(
                linear,
                ["mlp.gate_proj", "mlp.up_proj"],
                variant.has_fused_gate_up.then_some("mlp.gate_up_proj"),
                [spec.intermediate_size; 2],
            )?,
            down: linear("mlp.down_proj")?,
            activation: variant.activation,
            attention: AttentionShape {
                n_heads: spec.n_heads,
                n_kv_heads: spec.n_kv_heads,
                head_dim: spec.head_dim,
                is_causal: true,
                window: spec.sliding_windows.get(layer).copied().flatten(),
                given_scale: variant.attention_scale,
                soft_cap: variant.attention_soft_cap,
            },
        })
    }

    /// Queries, keys and values, not rotated yet.
    pub(crate) fn project(&self, parameters: &Parameters, x: &Tensor) -> Result<[Tensor; 3], TorchError> {
        let normed = self.input_norm.forward(parameters, x)?;
        self.qkv.forward(parameters, &normed)
    }

    /// Queries and keys, normed by head where the family does, and rotated.
    pub(crate) fn turned(
        &self,
        parameters: &Parameters,
        angles: &AllAngles,
        [q, k]: [&Tensor; 2],
    ) -> Result<[Tensor; 2], TorchError> {
        let angles = angles.of(self.attention.window.is_some());
        match &self.qk_norms {
            None => Ok([angles.turn(q)?, angles.turn(k)?]),
            Some([q_norm, k_norm]) => {
                let normed = |norm: &RmsNorm, x: &Tensor| {
                    norm.forward(parameters, &self.by_head(x)?)?.reshape(&x.shape())
                };
                Ok([angles.turn(&normed(q_norm, q)?)?, angles.turn(&normed(k_norm, k)?)?])
            }
        }
    }

    /// `[n, heads * head_dim]` to `[n * heads, head_dim]`.
    fn by_head(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        let head_dim = self.attention.head_dim;
        x.reshape(&[x.n_elements() / head_dim, head_dim])
    }

    /// The gate's function.
    fn gated(&self, gate: &Tensor) -> Result<Tensor, TorchError> {
        match self.activation {
            Activation::Silu => gate.silu(),
            Activation::GeluTanh => gate.gelu_tanh(),
        }
    }

    /// The gradient at the gate, from that at its function.
    fn gated_backward(&self, gate: &Tensor, d_gated: &Tensor) -> Result<Tensor, TorchError> {
        match self.activation {
            Activation::Silu => gate.silu_backward(d_gated),
            Activation::GeluTanh => gate.gelu_tanh_backward(d_gated),
        }
    }

    /// The stream and what a branch adds to it; also what the branch's norm was given, where there is one.
    fn add_branch(
        parameters: &Parameters,
        norm: Option<&RmsNorm>,
        stream: &Tensor,
        branch: Tensor,
    ) -> Result<(Tensor, Option<Tensor>), TorchError> {
        match norm {
            None => Ok((stream.add(&branch)?, None)),
            Some(norm) => Ok((stream.add(&norm.forward(parameters, &branch)?)?, Some(branch))),
        }
    }

    /// The gradient at a branch's last projection, in the format that is computed in.
    fn branch_backward(
        parameters: &Parameters,
        norm: Option<&RmsNorm>,
        branch: Option<&Tensor>,
        d_stream: &Tensor,
    ) -> Result<Tensor, TorchError> {
        match norm.zip(branch) {
            None => d_stream.to(parameters.dtype),
            Some((norm, branch)) => norm.backward(parameters, branch, d_stream)?.to(parameters.dtype),
        }
    }

    /// `x` and the projection of the attention's results.
    pub(crate) fn add_attention(
        &self,
        parameters: &Parameters,
        x: &Tensor,
        attention: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>), TorchError> {
        let norm = self.post_norms.as_ref().map(|[attention, _]| attention);
        Self::add_branch(parameters, norm, x, self.o.forward(parameters, attention)?)
    }

    /// `x_mid + down(silu(gate) * up)`, and what is saved of it.
    pub(crate) fn feed_forward(
        &self,
        parameters: &Parameters,
        x_mid: &Tensor,
    ) -> Result<(Tensor, FeedForward), TorchError> {
        let normed = self.feed_forward_norm.forward(parameters, x_mid)?;
        let [gate, up] = self.gate_up.forward(parameters, &normed)?;
        let activation = self.gated(&gate)?.mul(&up)?;
        let norm = self.post_norms.as_ref().map(|[_, feed_forward]| feed_forward);
        let branch = self.down.forward(parameters, &activation)?;
        let (y, branch) = Self::add_branch(parameters, norm, x_mid, branch)?;
        Ok((y, FeedForward { gate, up, branch }))
    }

    /// `x` `[n_tokens, hidden]` to the block's output, and what `save` asks for. Attention that is `given` is not
    /// computed again.
    pub(crate) fn forward(
        &self,
        parameters: &Parameters,
        batch: &DeviceBatch,
        angles: &AllAngles,
        x: Tensor,
        save: SaveActivations,
        given: Option<Attended>,
    ) -> Result<(Tensor, SavedBlock<SavedLayer>), TorchError> {
        let [raw_q, raw_k, v] = self.project(parameters, &x)?;
        let [q, k] = self.turned(parameters, angles, [&raw_q, &raw_k])?;
        let attended = match given {
            Some(attended) => attended,
            None => self.attention.forward(&batch.spans, &q, &batch.keys(&k)?, &batch.keys(&v)?)?,
        };
        let (x_mid, of_attention) = self.add_attention(parameters, &x, &attended.output)?;
        let (y, FeedForward { gate, up, branch }) = self.feed_forward(parameters, &x_mid)?;
        let saved = match save {
            SaveActivations::Everything => {
                let [q, k] = if self.qk_norms.is_some() { [raw_q, raw_k] } else { [q, k] };
                let branches = [of_attention, branch];
                SavedBlock::Everything(SavedLayer { x, q, k, v, attended, x_mid, gate, up, branches })
            }
            SaveActivations::InputAndAttention => SavedBlock::Attention(attended),
            SaveActivations::Nothing | SaveActivations::Input => SavedBlock::Nothing,
        };
        Ok((y, saved))
    }

    /// Adds the block's gradients; turns the gradient at its output into the one at its input.
    pub(crate) fn backward(
        &self,
        parameters: &Parameters,
        batch: &DeviceBatch,
        angles: &AllAngles,
        saved: SavedLayer,
        d_output: Tensor,
    ) -> Result<Tensor, TorchError> {
        let SavedLayer { x, q, k, v, attended, x_mid, gate, up, branches: [of_attention, branch] } = saved;
        let feed_forward = FeedForward { gate, up, branch };
        let d_mid = self.feed_forward_backward(parameters, &x_mid, &feed_forward, d_output)?;
        drop((x_mid, feed_forward));

        let norm = self.post_norms.as_ref().map(|[attention, _]| attention);
        let d_o = Self::branch_backward(parameters, norm, of_attention.as_ref(), &d_mid)?;
        let d_attention = self.o.backward_input(parameters, &d_o)?;
        self.o.backward_parameters(parameters, &attended.output, &d_o)?;
        let raw = [q, k];
        let [q, k] = match self.qk_norms {
            Some(_) => self.turned(parameters, angles, [&raw[0], &raw[1]])?,
            None => [raw[0].alias()?, raw[1].alias()?],
        };
        let inputs = [&q, &batch.keys(&k)?, &batch.keys(&v)?];
        let [d_q, d_k, d_v] = self.attention.backward(&batch.spans, inputs, &attended, &d_attention)?;
        let (d_k, d_v) = (batch.keys_backward(d_k)?, batch.keys_backward(d_v)?);
        let [d_q, d_k] = self.turned_backward(parameters, angles, &raw, [&d_q, &d_k])?;

        let normed = self.input_norm.forward(parameters, &x)?;
        let d_normed = self.qkv.backward(parameters, &normed, [&d_q, &d_k, &d_v])?;
        d_mid.add(&self.input_norm.backward(parameters, &x, &d_normed)?)
    }

    /// The gradients at queries and keys before their norm and rotation.
    fn turned_backward(
        &self,
        parameters: &Parameters,
        angles: &AllAngles,
        raw: &[Tensor; 2],
        [d_q, d_k]: [&Tensor; 2],
    ) -> Result<[Tensor; 2], TorchError> {
        let angles = angles.of(self.attention.window.is_some());
        let [d_q, d_k] = [angles.turn_back(d_q)?, angles.turn_back(d_k)?];
        let Some([q_norm, k_norm]) = &self.qk_norms else { return Ok([d_q, d_k]) };
        let back = |norm: &RmsNorm, raw: &Tensor, d: &Tensor| {
            let d_raw = norm.backward(parameters, &self.by_head(raw)?, &self.by_head(d)?)?;
            d_raw.reshape(&raw.shape())?.to(parameters.dtype)
        };
        Ok([back(q_norm, &raw[0], &d_q)?, back(k_norm, &raw[1], &d_k)?])
    }

    /// The gradient at `x_mid`, from that at the block's output.
    fn feed_forward_backward(
        &self,
        parameters: &Parameters,
        x_mid: &Tensor,
        FeedForward { gate, up, branch }: &FeedForward,
        d_output: Tensor,
    ) -> Result<Tensor, TorchError> {
        let norm = self.post_norms.as_ref().map(|[_, feed_forward]| feed_forward);
        let d_y = Self::branch_backward(parameters, norm, branch.as_ref(), &d_output)?;
        let d_activation = self.down.backward_input(parameters, &d_y)?;
        let gated = self.gated(gate)?;
        self.down.backward_parameters(parameters, &gated.mul(up)?, &d_y)?;
        let d_up = d_activation.mul(&gated)?;
        let d_gate = self.gated_backward(gate, &d_activation.mul(up)?)?;
        let normed = self.feed_forward_norm.forward(parameters, x_mid)?;
        let d_normed = self.gate_up.backward(parameters, &normed, [&d_gate, &d_up])?;
        d_output.add(&self.feed_forward_norm.backward(parameters, x_mid, &d_normed)?)
    }
}
