//! Norms over the last axis, forward beside backward, always in single precision.

use truing_model::{DecoderSpec, EngineError};

use crate::error::TorchError;
use crate::ffi::{Dtype, Tensor};
use crate::parameters::Parameters;

/// The root-mean-square norm (Zhang and Sennrich 2019, arXiv 1910.07467), `y = x r w` with
/// `r = 1 / sqrt(mean x^2 + eps)`; where the family says so, w is 1 and the weight (Gemma):
///
/// ```text
/// d_x = r (w d_y - x r mean(w d_y x r)),   d_w = sum over rows of d_y x r
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) struct RmsNorm {
    pub(crate) weight: usize,
    pub(crate) eps: f32,
    adds_one: bool,
}

impl RmsNorm {
    /// The norm called `name` (without `.weight`).
    pub(crate) fn find(spec: &DecoderSpec, parameters: &Parameters, name: &str) -> Result<Self, EngineError> {
        let weight = parameters.require(&format!("{name}.weight"))?;
        Ok(Self { weight, eps: spec.rms_norm_eps, adds_one: spec.variant.norms_add_one })
    }

    /// What rows are multiplied by.
    fn factors(&self, parameters: &Parameters) -> Result<Tensor, TorchError> {
        let weight = parameters.value(self.weight);
        if self.adds_one { weight.add(&Tensor::scalar(weight.torch(), 1.0)?) } else { weight.alias() }
    }

    /// Rows divided by their root mean square, and its inverse `[n_rows, 1]`.
    fn normalize(&self, x: &Tensor) -> Result<(Tensor, Tensor), TorchError> {
        let x = x.to(Dtype::F32)?;
        let eps = Tensor::scalar(x.torch(), self.eps)?;
        let inverse = x.mul(&x)?.mean_of_rows()?.add(&eps)?.rsqrt()?;
        Ok((x.mul(&inverse)?, inverse))
    }

    /// `x` `[n_rows, width]`, in the format that is computed in.
    pub(crate) fn forward(&self, parameters: &Parameters, x: &Tensor) -> Result<Tensor, TorchError> {
        let (normal, _) = self.normalize(x)?;
        normal.mul(&self.factors(parameters)?)?.to(parameters.dtype)
    }

    /// Adds the weight's gradient; the gradient at `x` in single precision.
    pub(crate) fn backward(
        &self,
        parameters: &Parameters,
        x: &Tensor,
        d_y: &Tensor,
    ) -> Result<Tensor, TorchError> {
        let (normal, inverse) = self.normalize(x)?;
        let d_y = d_y.to(Dtype::F32)?;
        if parameters.has_gradient(self.weight) {
            parameters.add_gradient(self.weight, &d_y.mul(&normal)?.sum(0, false)?)?;
        }
        let d_normal = d_y.mul(&self.factors(parameters)?)?;
        let along = d_normal.mul(&normal)?.mean_of_rows()?;
        d_normal.sub(&normal.mul(&along)?)?.mul(&inverse)
    }
}

/// The layer norm (Ba et al. 2016, arXiv 1607.06450), by libtorch's own pair of operators.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerNorm {
    weight: usize,
    bias: usize,
    eps: f32,
}

impl LayerNorm {
    pub(crate) fn find(parameters: &Parameters, name: &str, eps: f32) -> Result<Self, EngineError> {
        Ok(Self {
            weight: parameters.require(&format!("{name}.weight"))?,
            bias: parameters.require(&format!("{name}.bias"))?,
            eps,
        })
    }

    /// `x` `[n_rows, width]`, in single precision.
    pub(crate) fn forward(&self, parameters: &Parameters, x: &Tensor) -> Result<Tensor, TorchError> {
        let (weight, bias) = (parameters.value(self.weight), parameters.value(self.bias));
        let [y, _, _] = x.layer_norm(weight, bias, self.eps)?;
        Ok(y)
    }

    /// Adds the gradients of weight and bias; the gradient at `x`.
    pub(crate) fn backward(
        &self,
        parameters: &Parameters,
        x: &Tensor,
        d_y: &Tensor,
    ) -> Result<Tensor, TorchError> {
        let (weight, bias) = (parameters.value(self.weight), parameters.value(self.bias));
        let [_, mean, inverse] = x.layer_norm(weight, bias, self.eps)?;
        let d_y = d_y.to(Dtype::F32)?;
        let [d_x, d_weight, d_bias] = x.layer_norm_backward(&d_y, &mean, &inverse, weight, bias)?;
        parameters.add_gradient(self.weight, &d_weight)?;
        parameters.add_gradient(self.bias, &d_bias)?;
        Ok(d_x)
    }
}
