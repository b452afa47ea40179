//! One block of the encoder, forward and backward. BERT's norms come after its sums; a block here begins with the norm
//! of what comes before it, and ends before its own:
//!
//! ```text
//! n     = norm_before x
//! x_mid = n + o(attention(q n, k n, v n))
//! m     = norm_attention x_mid
//! y     = m + down(gelu(up m))
//! ```
//!
//! So every norm's input is saved and its output, which is cheap, is computed again. A saved block holds `x, q, k, v,
//! attention, x_mid`, `up` before its activation and the attention's row normalisers, and nothing else.

use truing_kernels::{
    AttentionShape, Causality, Write, gelu_backward_in_place, gelu_forward, layer_norm_backward,
    layer_norm_forward, span_attention_backward, span_attention_forward,
};
use truing_model::{EncoderSpec, EngineError, SaveActivations};

use crate::batch::DeviceBatch;
use crate::buffers::BufferPool;
use crate::linear::Linear;
use crate::parameters::Parameters;
use crate::segment::{SavedAttention, SavedBlock};

/// Indices of a layer norm's two parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm {
    weight: usize,
    bias: usize,
    eps: f32,
}

impl Norm {
    fn find(parameters: &Parameters, name: &str, eps: f32) -> Result<Self, EngineError> {
        Ok(Self {
            weight: parameters.require(&format!("{name}.weight"))?,
            bias: parameters.require(&format!("{name}.bias"))?,
            eps,
        })
    }

    /// The norm of what goes into a block: the embeddings' before the first, the output norm of the one before it
    /// otherwise.
    pub(crate) fn before_layer(
        spec: &EncoderSpec,
        parameters: &Parameters,
        layer: usize,
    ) -> Result<Self, EngineError> {
        let name = match layer.checked_sub(1) {
            None => "embeddings.LayerNorm".to_owned(),
            Some(before) => format!("encoder.layer.{before}.output.LayerNorm"),
        };
        Self::find(parameters, &name, spec.layer_norm_eps)
    }

    pub(crate) fn indices(&self) -> [usize; 2] {
        [self.weight, self.bias]
    }

    pub(crate) fn forward(&self, parameters: &Parameters, x: &[f32], out: &mut [f32]) {
        let values = &parameters.values;
        layer_norm_forward(x, &values[self.weight], &values[self.bias], self.eps, out);
    }

    /// Overwrites `d_x`.
    pub(crate) fn backward(&self, parameters: &mut Parameters, x: &[f32], d_out: &[f32], d_x: &mut [f32]) {
        let weight = &parameters.values[self.weight];
        // The two indices differ: a parameter has one name.
        let d_parameters = match parameters.gradients.get_disjoint_mut([self.weight, self.bias]) {
            Ok(both) => both.map(|d| if d.is_empty() { None } else { Some(&mut d[..]) }),
            Err(_) => [None, None],
        };
        layer_norm_backward(x, weight, self.eps, d_out, d_x, d_parameters);
    }
}

/// Indices and sizes of one block.
#[derive(Debug)]
pub(crate) struct EncoderLayer {
    pub(super) norm_before: Norm,
    norm_attention: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    up: Linear,
    down: Linear,
    attention: AttentionShape,
    hidden: usize,
    inner: usize,
}

/// Everything a block's backward needs, all `[n_tokens, ...]`.
#[derive(Debug)]
pub(crate) struct SavedLayer {
    x: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attention: Vec<f32>,
    log_sum_exp: Vec<f32>,
    x_mid: Vec<f32>,
    /// Before the activation.
    up: Vec<f32>,
}

impl EncoderLayer {
    pub(crate) fn find(
        spec: &EncoderSpec,
        parameters: &Parameters,
        layer: usize,
    ) -> Result<Self, EngineError> {
        let linear = |name: &str| {
            let name = format!("encoder.layer.{layer}.{name}");
            Linear::find(parameters, &name, None).ok_or(EngineError::MissingParameter { name })
        };
        let norm = format!("encoder.layer.{layer}.attention.output.LayerNorm");
        Ok(Self {
            norm_before: Norm::before_layer(spec, parameters, layer)?,
            norm_attention: Norm::find(parameters, &norm, spec.layer_norm_eps)?,
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
                scale: 1.0 / (spec.head_dim() as f32).sqrt(),
                causality: Causality::Full,
                sliding_window: None,
                soft_cap: None,
            },
            hidden: spec.hidden_size,
            inner: spec.intermediate_size,
        })
    }

    /// `x` `[n_tokens, hidden]`, not normed yet, to the block's sum, and what `save` asks for. Attention that is
    /// `given` is not computed again.
    pub(crate) fn forward(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        batch: &DeviceBatch,
        x: Vec<f32>,
        save: SaveActivations,
        given: Option<SavedAttention>,
    ) -> (Vec<f32>, SavedBlock<Box<SavedLayer>>) {
        let saves_all = save == SaveActivations::Everything;
        let (y, layer) = self.run(parameters, pool, batch, x, saves_all, given);
        if saves_all {
            return (y, SavedBlock::Everything(Box::new(layer)));
        }
        let SavedLayer { x, q, k, v, attention, log_sum_exp, x_mid, up } = layer;
        [x, q, k, v, x_mid, up].into_iter().for_each(|buffer| pool.give(buffer));
        let results = SavedAttention { attention, log_sum_exp };
        if save == SaveActivations::InputAndAttention {
            return (y, SavedBlock::Attention(results));
        }
        results.release(pool);
        (y, SavedBlock::Nothing)
    }

    /// The block. Without `saves_up` the activation is made in place, and what is handed back as `up` is of no use.
    fn run(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        batch: &DeviceBatch,
        x: Vec<f32>,
        saves_up: bool,
        given: Option<SavedAttention>,
    ) -> (Vec<f32>, SavedLayer) {
        let n_tokens = batch.n_tokens();
        let mut normed = pool.take(n_tokens, self.hidden);
        self.norm_before.forward(parameters, &x, &mut normed);
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|projection| {
            let mut y = pool.take(n_tokens, self.hidden);
            projection.forward(parameters, pool, &normed, &mut y, Write::Overwrite);
            y
        });
        let SavedAttention { attention, log_sum_exp } = given.unwrap_or_else(|| {
            let mut attention = pool.take(n_tokens, self.hidden);
            let mut log_sum_exp = pool.take(n_tokens, self.attention.n_heads);
            let (shape, spans) = (&self.attention, &batch.spans);
            span_attention_forward(shape, spans, &q, &k, &v, &mut attention, &mut log_sum_exp);
            SavedAttention { attention, log_sum_exp }
        });
        let mut x_mid = normed;
        self.o.forward(parameters, pool, &attention, &mut x_mid, Write::Add);

        let mut y = pool.take(n_tokens, self.hidden);
        self.norm_attention.forward(parameters, &x_mid, &mut y);
        let mut up = pool.take(n_tokens, self.inner);
        if saves_up {
            self.up.forward(parameters, pool, &y, &mut up, Write::Overwrite);
            let mut activation = pool.take(n_tokens, self.inner);
            gelu_forward(&up, &mut activation);
            self.down.forward(parameters, pool, &activation, &mut y, Write::Add);
            pool.give(activation);
        } else {
            self.up.forward_gelu(parameters, pool, &y, &mut up);
            self.down.forward(parameters, pool, &up, &mut y, Write::Add);
        }
        (y, SavedLayer { x, q, k, v, attention, log_sum_exp, x_mid, up })
    }

    /// Adds the block's gradients; turns the gradient at its sum into the one at its input.
    pub(crate) fn backward(
        &self,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        batch: &DeviceBatch,
        saved: SavedLayer,
        d_y: Vec<f32>,
    ) -> Vec<f32> {
        let SavedLayer { x, q, k, v, attention, log_sum_exp, x_mid, up } = saved;
        let n_tokens = batch.n_tokens();
        let d_mid = self.feed_forward_backward(parameters, pool, x_mid, up, d_y);

        let mut d_attention = pool.take(n_tokens, self.hidden);
        self.o.backward_input(parameters, pool, &d_mid, &mut d_attention, Write::Overwrite);
        self.o.backward_parameters(parameters, pool, &attention, &d_mid);
        let mut d_q = pool.take(n_tokens, self.hidden);
        let mut d_k = pool.take(n_tokens, self.hidden);
        let mut d_v = pool.take(n_tokens, self.hidden);
        span_attention_backward(
            &self.attention,
            &batch.spans,
            &q,
            &k,
            &v,
            &attention,
            &log_sum_exp,
            &d_attention,
            &mut d_q,
            &mut d_k,
            &mut d_v,
        );
        [q, k, v, attention, log_sum_exp].into_iter().for_each(|buffer| pool.give(buffer));

        let mut normed = d_attention;
        self.norm_before.forward(parameters, &x, &mut normed);
        let mut d_normed = d_mid;
        for (projection, d) in [(&self.q, d_q), (&self.k, d_k), (&self.v, d_v)] {
            projection.backward_input(parameters, pool, &d, &mut d_normed, Write::Add);
            projection.backward_parameters(parameters, pool, &normed, &d);
            pool.give(d);
        }
        let mut d_x = normed;
        self.norm_before.backward(parameters, &x, &d_normed, &mut d_x);
        pool.give(x);
        pool.give(d_normed);
        d_x
    }

    /// The gradient at `x_mid`, from that at the block's sum.
    fn feed_forward_backward(
        &self,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        x_mid: Vec<f32>,
        up: Vec<f32>,
        d_y: Vec<f32>,
    ) -> Vec<f32> {
        let n_tokens = d_y.len() / self.hidden;
        let (mut activation, mut d_up) = (up, pool.take(n_tokens, self.inner));
        self.down.backward_input(parameters, pool, &d_y, &mut d_up, Write::Overwrite);
        gelu_backward_in_place(&mut activation, &mut d_up);
        self.down.backward_parameters(parameters, pool, &activation, &d_y);
        pool.give(activation);

        let mut normed = pool.take(n_tokens, self.hidden);
        self.norm_attention.forward(parameters, &x_mid, &mut normed);
        self.up.backward_parameters(parameters, pool, &normed, &d_up);
        let mut d_normed = d_y;
        self.up.backward_input(parameters, pool, &d_up, &mut d_normed, Write::Add);
        pool.give(d_up);
        let mut d_mid = normed;
        self.norm_attention.backward(parameters, &x_mid, &d_normed, &mut d_mid);
        pool.give(x_mid);
        pool.give(d_normed);
        d_mid
    }
}
