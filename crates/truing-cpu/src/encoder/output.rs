//! The output layer: `y = x W^T + b` on pooled vectors. They are few, so sums run in f64, as in the decoder's score head.

use truing_model::EngineError;
use truing_model::encoder::OUTPUT_LAYER;

use crate::parameters::Parameters;
use crate::scores::{scores, scores_backward};

/// Indices of the layer's parameters.
#[derive(Debug)]
pub(crate) struct OutputLayer {
    weight: usize,
    bias: usize,
}

impl OutputLayer {
    pub(crate) fn find(parameters: &Parameters) -> Result<Self, EngineError> {
        let find = |part: &str| parameters.require(&format!("{OUTPUT_LAYER}.linear.{part}"));
        Ok(Self { weight: find("weight")?, bias: find("bias")? })
    }

    /// Outputs `[n_sequences, n_outputs]` of `pooled` `[n_sequences, width]`.
    pub(crate) fn forward(&self, parameters: &Parameters, pooled: &[f32], width: usize) -> Vec<f32> {
        let bias = &parameters.values[self.bias];
        let mut outputs = scores(pooled, &parameters.values[self.weight], width);
        for row in outputs.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        outputs
    }

    /// Adds the parameters' gradients; hands back that at the pooled vectors `[n_sequences, width]`.
    pub(crate) fn backward(
        &self,
        parameters: &mut Parameters,
        pooled: &[f32],
        width: usize,
        d_outputs: &[f32],
    ) -> Vec<f32> {
        let n_outputs = parameters.values[self.bias].len();
        if let Some(d_bias) = parameters.gradient(self.bias) {
            for row in d_outputs.chunks_exact(n_outputs) {
                d_bias.iter_mut().zip(row).for_each(|(d, y)| *d += y);
            }
        }
        let mut d_pooled = vec![0.0; pooled.len()];
        let d_weight = &mut parameters.gradients[self.weight];
        let d_weight = if d_weight.is_empty() { None } else { Some(&mut d_weight[..]) };
        scores_backward(pooled, &parameters.values[self.weight], width, d_outputs, &mut d_pooled, d_weight);
        d_pooled
    }
}
