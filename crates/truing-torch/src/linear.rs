//! A projection `y = x W^T + b + (alpha / rank) (x A^T) B^T`, the adapter part where there is one
//! (LoRA, arXiv 2106.09685).

use truing_model::Adapters;

use crate::error::TorchError;
use crate::ffi::Tensor;
use crate::parameters::Parameters;

/// Indices of a projection's parameters.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: usize,
    bias: Option<usize>,
    adapter: Option<Adapter>,
}

#[derive(Debug, Clone)]
struct Adapter {
    a: usize,
    b: usize,
    scale: f32,
}

impl Linear {
    /// The projection called `name` (without `.weight`), `[n_out, n_in]`.
    pub(crate) fn find(parameters: &Parameters, name: &str, lora_alpha: Option<f32>) -> Option<Self> {
        let adapter = lora_alpha.and_then(|alpha| {
            let a = parameters.find(&format!("{name}.lora_A.weight"))?;
            let b = parameters.find(&format!("{name}.lora_B.weight"))?;
            Some(Adapter { a, b, scale: alpha / parameters.specs[a].shape[0] as f32 })
        });
        Some(Self {
            weight: parameters.find(&format!("{name}.weight"))?,
            bias: parameters.find(&format!("{name}.bias")),
            adapter,
        })
    }

    /// The adapter, where there is one and the pass that runs uses it, forward or backward.
    fn active_adapter(&self, parameters: &Parameters) -> Option<&Adapter> {
        self.adapter.as_ref().filter(|_| parameters.adapters == Adapters::Enabled)
    }

    /// `x` `[n_rows, n_in]` to `[n_rows, n_out]`.
    pub(crate) fn forward(&self, parameters: &Parameters, x: &Tensor) -> Result<Tensor, TorchError> {
        let y = x.mm(&parameters.weight(self.weight).t()?)?;
        if let Some(adapter) = self.active_adapter(parameters) {
            let reduced = adapter.reduce(parameters, x)?;
            y.add_product(&reduced, &parameters.weight(adapter.b).t()?)?;
        }
        match self.bias {
            Some(bias) => y.add(parameters.weight(bias)),
            None => Ok(y),
        }
    }

    /// The gradient at the input `[n_rows, n_in]`, from the gradient at the output `[n_rows, n_out]`:
    /// `d_x = d_y W + (alpha / rank) d_y B A`.
    pub(crate) fn backward_input(&self, parameters: &Parameters, d_y: &Tensor) -> Result<Tensor, TorchError> {
        let d_x = d_y.mm(parameters.weight(self.weight))?;
        if let Some(adapter) = self.active_adapter(parameters) {
            let d_reduced = adapter.reduce_gradient(parameters, d_y)?;
            d_x.add_product(&d_reduced, parameters.weight(adapter.a))?;
        }
        Ok(d_x)
    }

    /// Adds the gradients of the trainable tensors, from the input `x` `[n_rows, n_in]` and the gradient at the
    /// output: `d_W += d_y^T x`, `d_b += sum d_y`, and the same for the adapter's two matrices.
    pub(crate) fn backward_parameters(
        &self,
        parameters: &Parameters,
        x: &Tensor,
        d_y: &Tensor,
    ) -> Result<(), TorchError> {
        if let Some(bias) = self.bias
            && parameters.has_gradient(bias)
        {
            parameters.add_gradient(bias, &d_y.sum(0, false)?)?;
        }
        parameters.add_gradient_product(self.weight, &d_y.t()?, x)?;
        let Some(adapter) = self.active_adapter(parameters) else { return Ok(()) };
        if parameters.has_gradient(adapter.b) {
            let reduced = adapter.reduce(parameters, x)?;
            parameters.add_gradient_product(adapter.b, &d_y.t()?, &reduced)?;
        }
        if parameters.has_gradient(adapter.a) {
            let d_reduced = adapter.reduce_gradient(parameters, d_y)?;
            parameters.add_gradient_product(adapter.a, &d_reduced.t()?, x)?;
        }
        Ok(())
    }
}

impl Adapter {
    /// `(alpha / rank) x A^T`, `[n_rows, rank]`.
    fn reduce(&self, parameters: &Parameters, x: &Tensor) -> Result<Tensor, TorchError> {
        x.mm(&parameters.weight(self.a).t()?)?.scaled(self.scale)
    }

    /// `(alpha / rank) d_y B`, `[n_rows, rank]`.
    fn reduce_gradient(&self, parameters: &Parameters, d_y: &Tensor) -> Result<Tensor, TorchError> {
        d_y.mm(parameters.weight(self.b))?.scaled(self.scale)
    }
}
