//! One block of the decoder, forward and backward:
//!
//! ```text
//! x_mid = x + o(attention(rotary(q(norm1 x)), rotary(k(norm1 x)), v(norm1 x)))
//! y     = x_mid + down(silu(gate(norm2 x_mid)) * up(norm2 x_mid))
//! ```
//!
//! Norms and the feed-forward's activation are cheap and are computed again in the backward; the results of matrix
//! products are saved. The residual stream is in single precision, what projections make in the format that is
//! computed in.

use truing_model::{DecoderSpec, EngineError, SaveActivations, TrainableSpec};

use crate::attention::{Attended, AttentionShape};
use crate::batch::DeviceBatch;
use crate::error::TorchError;
use crate::ffi::{Dtype, Tensor};
use crate::linear::Linear;
use crate::norm::RmsNorm;
use crate::parameters::Parameters;
use crate::rotary::Angles;
use crate::segment::SavedBlock;

/// Indices and options of one block.
#[derive(Debug)]
pub(crate) struct Layer {
    input_norm: RmsNorm,
    post_attention_norm: RmsNorm,
    /// Norms of the query and key heads, where the family has them.
    qk_norms: Option<[RmsNorm; 2]>,
    q: Linear,
    k: Linear,
    v: Linear,
    pub(crate) o: Linear,
    gate: Linear,
    up: Linear,
    down: Linear,
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
}

impl Layer {
    pub(crate) fn find(
        spec: &DecoderSpec,
        trainable: &TrainableSpec,
        parameters: &Parameters,
        layer: usize,
    ) -> Result<Self, EngineError> {
        let alpha = trainable.lora.as_ref().map(|lora| lora.alpha);
        let norm = |name: &str| {
            let weight = parameters.require(&format!("model.layers.{layer}.{name}.weight"))?;
            Ok::<_, EngineError>(RmsNorm { weight, eps: spec.rms_norm_eps })
        };
        let linear = |name: &str| {
            let name = format!("model.layers.{layer}.{name}");
            let missing = || EngineError::MissingParameter { name: name.clone() };
            Linear::find(parameters, &name, alpha).ok_or_else(missing)
        };
        let qk_norms =
            if spec.qk_norm { Some([norm("self_attn.q_norm")?, norm("self_attn.k_norm")?]) } else { None };
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            post_attention_norm: norm("post_attention_layernorm")?,
            qk_norms,
            q: linear("self_attn.q_proj")?,
            k: linear("self_attn.k_proj")?,
            v: linear("self_attn.v_proj")?,
            o: linear("self_attn.o_proj")?,
            gate: linear("mlp.gate_proj")?,
            up: linear("mlp.up_proj")?,
            down: linear("mlp.down_proj")?,
            attention: AttentionShape {
                n_heads: spec.n_heads,
                n_kv_heads: spec.n_kv_heads,
                head_dim: spec.head_dim,
                is_causal: true,
                window: spec.sliding_windows.get(layer).copied().flatten(),
            },
        })
    }

    /// Queries, keys and values, not rotated yet.
    pub(crate) fn project(&self, parameters: &Parameters, x: &Tensor) -> Result<[Tensor; 3], TorchError> {
        let normed = self.input_norm.forward(parameters, x)?;
        let of = |projection: &Linear| projection.forward(parameters, &normed);
        Ok([of(&self.q)?, of(&self.k)?, of(&self.v)?])
    }

    /// Queries and keys, normed by head where the family does, and rotated.
    pub(crate) fn turned(
        &self,
        parameters: &Parameters,
        angles: &Angles,
        [q, k]: [&Tensor; 2],
    ) -> Result<[Tensor; 2], TorchError> {
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

    /// The feed-forward's two products of the normed `x_mid`.
    fn gate_and_up(&self, parameters: &Parameters, x_mid: &Tensor) -> Result<[Tensor; 2], TorchError> {
        let normed = self.post_attention_norm.forward(parameters, x_mid)?;
        Ok([self.gate.forward(parameters, &normed)?, self.up.forward(parameters, &normed)?])
    }

    /// `x_mid + down(silu(gate) * up)`, and the two products.
    pub(crate) fn feed_forward(
        &self,
        parameters: &Parameters,
        x_mid: &Tensor,
    ) -> Result<(Tensor, [Tensor; 2]), TorchError> {
        let [gate, up] = self.gate_and_up(parameters, x_mid)?;
        let activation = gate.silu()?.mul(&up)?;
        let y = x_mid.add(&self.down.forward(parameters, &activation)?)?;
        Ok((y, [gate, up]))
    }

    /// `x` `[n_tokens, hidden]` to the block's output, and what `save` asks for. Attention that is `given` is not
    /// computed again.
    pub(crate) fn forward(
        &self,
        parameters: &Parameters,
        batch: &DeviceBatch,
        angles: &Angles,
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
        let x_mid = x.add(&self.o.forward(parameters, &attended.output)?)?;
        let (y, [gate, up]) = self.feed_forward(parameters, &x_mid)?;
        let saved = match save {
            SaveActivations::Everything => {
                let [q, k] = if self.qk_norms.is_some() { [raw_q, raw_k] } else { [q, k] };
                SavedBlock::Everything(SavedLayer { x, q, k, v, attended, x_mid, gate, up })
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
        angles: &Angles,
        saved: SavedLayer,
        d_output: Tensor,
    ) -> Result<Tensor, TorchError> {
        let SavedLayer { x, q, k, v, attended, x_mid, gate, up } = saved;
        let d_mid = self.feed_forward_backward(parameters, &x_mid, &gate, &up, d_output)?;
        drop((x_mid, gate, up));

        let d_o = d_mid.to(parameters.dtype)?;
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
        let mut d_normed = x.zeros_like(&x.shape())?;
        for (projection, d_y) in [(&self.q, &d_q), (&self.k, &d_k), (&self.v, &d_v)] {
            d_normed = d_normed.add(&projection.backward_input(parameters, d_y)?)?;
            projection.backward_parameters(parameters, &normed, d_y)?;
        }
        d_mid.add(&self.input_norm.backward(parameters, &x, &d_normed)?)
    }

    /// The gradients at queries and keys before their norm and rotation.
    fn turned_backward(
        &self,
        parameters: &Parameters,
        angles: &Angles,
        raw: &[Tensor; 2],
        [d_q, d_k]: [&Tensor; 2],
    ) -> Result<[Tensor; 2], TorchError> {
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
        gate: &Tensor,
        up: &Tensor,
        d_output: Tensor,
    ) -> Result<Tensor, TorchError> {
        let d_y = d_output.to(parameters.dtype)?;
        let d_activation = self.down.backward_input(parameters, &d_y)?;
        let gated = gate.silu()?;
        self.down.backward_parameters(parameters, &gated.mul(up)?, &d_y)?;
        let d_up = d_activation.mul(&gated)?;
        let d_gate = gate.silu_backward(&d_activation.mul(up)?)?;
        let normed = self.post_attention_norm.forward(parameters, x_mid)?;
        let d_normed = self.gate.backward_input(parameters, &d_gate)?.to(Dtype::F32)?;
        let d_normed = d_normed.add(&self.up.backward_input(parameters, &d_up)?)?;
        self.gate.backward_parameters(parameters, &normed, &d_gate)?;
        self.up.backward_parameters(parameters, &normed, &d_up)?;
        d_output.add(&self.post_attention_norm.backward(parameters, x_mid, &d_normed)?)
    }
}
