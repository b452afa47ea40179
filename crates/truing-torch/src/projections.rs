//! Projections of one input: queries, keys and values, or gate and up. A family stores each as a matrix of its own, or
//! all as the rows of one (Phi-3's `qkv_proj` and `gate_up_proj`, Baichuan's `W_pack`).

use truing_model::EngineError;

use crate::error::TorchError;
use crate::ffi::{Dtype, Tensor};
use crate::linear::Linear;
use crate::parameters::Parameters;

/// `N` projections of one input.
#[derive(Debug)]
pub(crate) enum Projections<const N: usize> {
    /// A matrix each.
    Separate([Linear; N]),
    /// One matrix with the rows of all, in order.
    Fused {
        /// The matrix.
        linear: Linear,
        /// Rows of each.
        widths: [usize; N],
    },
}

/// Exactly `N` tensors.
fn all_of<const N: usize>(tensors: Vec<Tensor>) -> Result<[Tensor; N], TorchError> {
    let reason = |found: Vec<Tensor>| format!("{} tensors, expected {N}", found.len());
    tensors
        .try_into()
        .map_err(|found| TorchError::Arguments { operator: "projections", reason: reason(found) })
}

impl<const N: usize> Projections<N> {
    /// The projections called `names`, or the one called `fused` whose parts have `widths` rows.
    pub(crate) fn find(
        linear: impl Fn(&str) -> Result<Linear, EngineError>,
        names: [&str; N],
        fused: Option<&str>,
        widths: [usize; N],
    ) -> Result<Self, EngineError> {
        if let Some(name) = fused {
            return Ok(Self::Fused { linear: linear(name)?, widths });
        }
        let all: Vec<Linear> = names.into_iter().map(linear).collect::<Result<_, _>>()?;
        let all = all.try_into().map_err(|_| EngineError::Unsupported("a projection is missing".into()))?;
        Ok(Self::Separate(all))
    }

    /// The products `[n_rows, width]` of `x` `[n_rows, n_in]` with each.
    pub(crate) fn forward(&self, parameters: &Parameters, x: &Tensor) -> Result<[Tensor; N], TorchError> {
        match self {
            Self::Separate(all) => {
                let products = all.iter().map(|projection| projection.forward(parameters, x));
                all_of(products.collect::<Result<_, _>>()?)
            }
            Self::Fused { linear, widths } => {
                let y = linear.forward(parameters, x)?;
                let mut start = 0;
                let mut parts = Vec::with_capacity(N);
                for &width in widths {
                    parts.push(y.narrow(1, start, width)?.contiguous()?);
                    start += width;
                }
                all_of(parts)
            }
        }
    }

    /// Adds the gradients of the parameters, from those at the outputs; the gradient at the input in single precision.
    /// `x` is what forward had.
    pub(crate) fn backward(
        &self,
        parameters: &Parameters,
        x: &Tensor,
        d_outputs: [&Tensor; N],
    ) -> Result<Tensor, TorchError> {
        match self {
            Self::Separate(all) => {
                let mut sum: Option<Tensor> = None;
                for (projection, d_y) in all.iter().zip(d_outputs) {
                    let d_x = projection.backward_input(parameters, d_y)?;
                    sum = Some(match sum {
                        None => d_x.to(Dtype::F32)?,
                        Some(sum) => sum.add(&d_x)?,
                    });
                    projection.backward_parameters(parameters, x, d_y)?;
                }
                let reason = || TorchError::Arguments { operator: "projections", reason: "none".into() };
                sum.ok_or_else(reason)
            }
            Self::Fused { linear, .. } => {
                let d_y = Tensor::cat(&d_outputs, 1)?;
                let d_x = linear.backward_input(parameters, &d_y)?.to(Dtype::F32)?;
                linear.backward_parameters(parameters, x, &d_y)?;
                Ok(d_x)
            }
        }
    }
}
