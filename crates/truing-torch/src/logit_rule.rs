//! What is made of the products of hidden states with the head's rows: logits whose rows have norm 1 (Baichuan 2), or a
//! soft cap (Gemma 2). With `s_v` the inverse norm of row `w_v`, `y_v = s_v (w_v · hidden)` and the cap c:
//!
//! ```text
//! z_v = c tanh(y_v / c),   d_y_v = d_z_v (1 - (z_v / c)²)
//! d_w_v = sum over rows of d_y_v s_v hidden - s_v² w_v sum over rows of d_y_v y_v
//! ```
//!
//! No family has both, and [`Decoder::find`] refuses both: the second line takes `z_v` for `y_v`.

use truing_model::HeadKind;

use crate::decoder::Decoder;
use crate::error::TorchError;
use crate::ffi::Tensor;
use crate::parameters::Parameters;

/// Squares of norms below this count as this, as in PyTorch's `normalize`.
const SMALLEST_SQUARE: f32 = 1e-24;

/// How logits are made of products.
#[derive(Debug)]
pub(crate) struct LogitRule {
    /// The inverse norms of the rows `[1, vocab]`.
    inverse_norms: Option<Tensor>,
    /// Of logits divided by the temperature.
    soft_cap: Option<f32>,
}

impl LogitRule {
    /// For final norms that are divided by `temperature`.
    pub(crate) fn new(
        parameters: &Parameters,
        decoder: &Decoder,
        temperature: f32,
    ) -> Result<Self, TorchError> {
        let (spec, variant) = (&decoder.spec, &decoder.spec.variant);
        let is_normalized = variant.has_normalized_head && spec.head == HeadKind::LanguageModel;
        let inverse_norms = if is_normalized {
            let weight = parameters.value(decoder.head);
            let smallest = Tensor::scalar(weight.torch(), SMALLEST_SQUARE)?;
            let squares = weight.mul(weight)?.sum(1, false)?.maximum(&smallest)?;
            Some(squares.rsqrt()?.reshape(&[1, spec.vocab_size])?)
        } else {
            None
        };
        Ok(Self { inverse_norms, soft_cap: variant.logit_soft_cap.map(|cap| cap / temperature) })
    }

    /// Logits of products `[n_rows, vocab]` in single precision.
    pub(crate) fn forward(&self, products: Tensor) -> Result<Tensor, TorchError> {
        let scaled = match &self.inverse_norms {
            Some(norms) => products.mul(norms)?,
            None => products,
        };
        match self.soft_cap {
            Some(cap) => scaled.scaled(cap.recip())?.tanh()?.scaled(cap),
            None => Ok(scaled),
        }
    }

    /// The gradient at the products, from that at the logits; with rows of norm 1 also what is taken off the gradient
    /// of each row, times the row `[vocab, 1]`. `excluded` `[1, vocab]` are tokens whose logits are minus infinity.
    pub(crate) fn backward(
        &self,
        logits: &Tensor,
        d_logits: Tensor,
        excluded: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Tensor>), TorchError> {
        let without_excluded = |x: Tensor| {
            if let Some(excluded) = excluded {
                // 0 times minus infinity.
                x.fill_where(excluded, 0.0)?;
            }
            Ok::<_, TorchError>(x)
        };
        let mut d = d_logits;
        if let Some(cap) = self.soft_cap {
            let tangents = without_excluded(logits.scaled(cap.recip())?)?;
            let one = Tensor::scalar(logits.torch(), 1.0)?;
            d = d.mul(&tangents.mul(&tangents)?.neg()?.add(&one)?)?;
        }
        let Some(norms) = &self.inverse_norms else { return Ok((d, None)) };
        let products = without_excluded(d.mul(logits)?)?;
        let along = products.sum(0, true)?.mul(norms)?.mul(norms)?;
        let vocab_size = along.size(1);
        Ok((d.mul(norms)?, Some(along.reshape(&[vocab_size, 1])?)))
    }
}
