//! A decoder's root-mean-square norms, forward and backward.

use std::borrow::Cow;

use truing_kernels::{Write, rms_norm_backward, rms_norm_forward};
use truing_model::{DecoderSpec, EngineError};

use crate::parameters::Parameters;

/// A norm with its weight, or with `1 + weight` where the family says so (Gemma). The weight that is stored, saved and
/// learned is the same either way: the gradient does not depend on the 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) weight: usize,
    eps: f32,
    adds_one: bool,
}

impl Norm {
    /// The norm called `name` (without `.weight`).
    pub(crate) fn find(spec: &DecoderSpec, parameters: &Parameters, name: &str) -> Result<Self, EngineError> {
        let weight = parameters.require(&format!("{name}.weight"))?;
        Ok(Self { weight, eps: spec.rms_norm_eps, adds_one: spec.variant.norms_add_one })
    }

    fn factors<'a>(&self, weight: &'a [f32]) -> Cow<'a, [f32]> {
        if self.adds_one { weight.iter().map(|w| 1.0 + w).collect() } else { Cow::Borrowed(weight) }
    }

    /// Normalises the rows of `x`, which are as long as the weight, into `out`.
    pub(crate) fn forward(&self, parameters: &Parameters, x: &[f32], out: &mut [f32]) {
        rms_norm_forward(x, &self.factors(&parameters.values[self.weight]), self.eps, out);
    }

    /// Adds the weight's gradient; writes or adds that at `x`.
    pub(crate) fn backward(
        &self,
        parameters: &mut Parameters,
        x: &[f32],
        d_out: &[f32],
        d_x: &mut [f32],
        write: Write,
    ) {
        let factors = self.factors(&parameters.values[self.weight]);
        let d_weight = &mut parameters.gradients[self.weight];
        let d_weight = if d_weight.is_empty() { None } else { Some(&mut d_weight[..]) };
        rms_norm_backward(x, &factors, self.eps, d_out, d_x, write, d_weight);
    }
}
