//! A text encoder's blocks, embeddings and output: what of the engine is BERT's alone.
//!
//! BERT's norms come after its sums; a block here begins with the norm of what comes before it, and ends before its
//! own:
//!
//! ```text
//! n     = norm_before x
//! x_mid = n + o(attention(q n, k n, v n))
//! m     = norm_attention x_mid
//! y     = m + down(gelu(up m))
//! ```

use truing_model::encoder::OUTPUT_LAYER;
use truing_model::{EncoderSpec, EngineError, SaveActivations};

use crate::attention::{Attended, AttentionShape};
use crate::batch::DeviceBatch;
use crate::error::TorchError;
use crate::ffi::Tensor;
use crate::linear::Linear;
use crate::norm::LayerNorm;
use crate::parameters::Parameters;
use crate::segment::{Blocks, SavedBlock};

/// Everything of an encoder but its parameters.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// Indices of the tables of words, positions and token types.
    tables: [usize; 3],
    layers: Vec<EncoderLayer>,
    /// The last block's output norm; the embeddings' where there is no block.
    pub(crate) final_norm: LayerNorm,
    pub(crate) output: Option<Linear>,
}

/// Indices and sizes of one block.
#[derive(Debug)]
struct EncoderLayer {
    norm_before: LayerNorm,
    norm_attention: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    up: Linear,
    down: Linear,
    attention: AttentionShape,
}

/// Everything a block's backward needs, all `[n_tokens, ...]`.
#[derive(Debug)]
pub(crate) struct SavedLayer {
    x: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Attended,
    x_mid: Tensor,
    /// Before the activation.
    up: Tensor,
}

/// The norm of what goes into a block: the embeddings' before the first, the output norm of the one before it
/// otherwise.
fn norm_before(spec: &EncoderSpec, parameters: &Parameters, layer: usize) -> Result<LayerNorm, EngineError> {
    let name = match layer.checked_sub(1) {
        None => "embeddings.LayerNorm".to_owned(),
        Some(before) => format!("encoder.layer.{before}.output.LayerNorm"),
    };
    LayerNorm::find(parameters, &name, spec.layer_norm_eps)
}

fn linear(parameters: &Parameters, name: String) -> Result<Linear, EngineError> {
    Linear::find(parameters, &name, None).ok_or(EngineError::MissingParameter { name })
}

impl Encoder {
    pub(crate) fn find(spec: &EncoderSpec, parameters: &Parameters) -> Result<Self, EngineError> {
        let layers = (0..spec.n_layers)
            .map(|layer| EncoderLayer::find(spec, parameters, layer))
            .collect::<Result<_, _>>()?;
        let table = |name: &str| parameters.require(&format!("embeddings.{name}_embeddings.weight"));
        let output = spec.n_outputs.map(|_| linear(parameters, format!("{OUTPUT_LAYER}.linear")));
        Ok(Self {
            tables: [table("word")?, table("position")?, table("token_type")?],
            layers,
            final_norm: norm_before(spec, parameters, spec.n_layers)?,
            output: output.transpose()?,
        })
    }

    /// The sum of the three embeddings, before its norm.
    pub(crate) fn embed(&self, parameters: &Parameters, batch: &DeviceBatch) -> Result<Tensor, TorchError> {
        let [words, positions, types] = self.tables.map(|idx| parameters.value(idx));
        let sum = words.select(0, &batch.tokens)?.add(&positions.select(0, &batch.positions)?)?;
        sum.add(&types.rows(0..1)?)
    }

    pub(crate) fn embed_backward(
        &self,
        parameters: &Parameters,
        batch: &DeviceBatch,
        d_sum: &Tensor,
    ) -> Result<(), TorchError> {
        let [words, positions, types] = self.tables;
        for (table, indices) in [(words, &batch.tokens), (positions, &batch.positions)] {
            if parameters.has_gradient(table) {
                let n_rows = parameters.value(table).size(0);
                parameters.add_gradient(table, &d_sum.scatter_rows(indices, n_rows)?)?;
            }
        }
        if parameters.has_gradient(types) {
            let d_types = d_sum.zeros_like(&parameters.specs[types].shape)?;
            d_types.rows(0..1)?.copy_from(&d_sum.sum(0, true)?)?;
            parameters.add_gradient(types, &d_types)?;
        }
        Ok(())
    }
}

impl EncoderLayer {
    fn find(spec: &EncoderSpec, parameters: &Parameters, layer: usize) -> Result<Self, EngineError> {
        let linear = |name: &str| linear(parameters, format!("encoder.layer.{layer}.{name}"));
        let norm_attention = format!("encoder.layer.{layer}.attention.output.LayerNorm");
        Ok(Self {
            norm_before: norm_before(spec, parameters, layer)?,
            norm_attention: LayerNorm::find(parameters, &norm_attention, spec.layer_norm_eps)?,
            q: linear("attention.self.query")?,
            k: linear("attention.self.key")?,
            v: linear("attention.self.value")?,
            o: linear("attention.output.dense")?,
            up: linear("intermediate.dense")?,
            down: linear("output.dense")?,
            attention: AttentionShape {
                n_heads: spec.n_heads,
                n_kv_heads: spec.n_heads,
                head_dim: spec.head_dim(),
                is_causal: false,
                window: None,
                given_scale: None,
                soft_cap: None,
            },
        })
    }
}

impl Blocks for Encoder {
    type Layer = SavedLayer;

    /// `x` `[n_tokens, hidden]`, not normed yet, to the block's sum.
    fn forward(
        &self,
        layer: usize,
        parameters: &Parameters,
        batch: &DeviceBatch,
        x: Tensor,
        save: SaveActivations,
        given: Option<Attended>,
    ) -> Result<(Tensor, SavedBlock<SavedLayer>), TorchError> {
        let layer = &self.layers[layer];
        let normed = layer.norm_before.forward(parameters, &x)?;
        let input = normed.to(parameters.dtype)?;
        let of = |projection: &Linear| projection.forward(parameters, &input);
        let [q, k, v] = [of(&layer.q)?, of(&layer.k)?, of(&layer.v)?];
        let attended = match given {
            Some(attended) => attended,
            None => layer.attention.forward(&batch.spans, &q, &k, &v)?,
        };
        let x_mid = normed.add(&layer.o.forward(parameters, &attended.output)?)?;
        let normed = layer.norm_attention.forward(parameters, &x_mid)?;
        let up = layer.up.forward(parameters, &normed.to(parameters.dtype)?)?;
        let y = normed.add(&layer.down.forward(parameters, &up.gelu()?)?)?;
        let saved = match save {
            SaveActivations::Everything => {
                SavedBlock::Everything(SavedLayer { x, q, k, v, attended, x_mid, up })
            }
            SaveActivations::InputAndAttention => SavedBlock::Attention(attended),
            SaveActivations::Nothing | SaveActivations::Input => SavedBlock::Nothing,
        };
        Ok((y, saved))
    }

    fn backward(
        &self,
        layer: usize,
        parameters: &Parameters,
        batch: &DeviceBatch,
        saved: SavedLayer,
        d_output: Tensor,
    ) -> Result<Tensor, TorchError> {
        let layer = &self.layers[layer];
        let SavedLayer { x, q, k, v, attended, x_mid, up } = saved;
        let d_mid = layer.feed_forward_backward(parameters, &x_mid, &up, &d_output)?;
        let d_o = d_mid.to(parameters.dtype)?;
        let d_attention = layer.o.backward_input(parameters, &d_o)?;
        layer.o.backward_parameters(parameters, &attended.output, &d_o)?;
        let d = layer.attention.backward(&batch.spans, [&q, &k, &v], &attended, &d_attention)?;

        let normed = layer.norm_before.forward(parameters, &x)?.to(parameters.dtype)?;
        let mut d_normed = d_mid;
        for (projection, d) in [&layer.q, &layer.k, &layer.v].into_iter().zip(&d) {
            d_normed = d_normed.add(&projection.backward_input(parameters, d)?)?;
            projection.backward_parameters(parameters, &normed, d)?;
        }
        layer.norm_before.backward(parameters, &x, &d_normed)
    }
}

impl EncoderLayer {
    /// The gradient at `x_mid`, from that at the block's sum.
    fn feed_forward_backward(
        &self,
        parameters: &Parameters,
        x_mid: &Tensor,
        up: &Tensor,
        d_output: &Tensor,
    ) -> Result<Tensor, TorchError> {
        let d_y = d_output.to(parameters.dtype)?;
        let d_up = up.gelu_backward(&self.down.backward_input(parameters, &d_y)?)?;
        self.down.backward_parameters(parameters, &up.gelu()?, &d_y)?;
        let normed = self.norm_attention.forward(parameters, x_mid)?.to(parameters.dtype)?;
        self.up.backward_parameters(parameters, &normed, &d_up)?;
        let d_normed = d_output.add(&self.up.backward_input(parameters, &d_up)?)?;
        self.norm_attention.backward(parameters, x_mid, &d_normed)
    }
}
