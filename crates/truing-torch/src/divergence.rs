//! Divergences of the model's distribution from a reference at each row, over the tokens of the reference, and their
//! gradients at the logits.
//!
//! With `p` the model's and `q` the reference's probabilities, both renormalised over the same tokens, and `z` the
//! logits:
//!
//! ```text
//! KL(p, q):  d/dz = p (log p/q - KL)
//! KL(q, p):  d/dz = p - q
//! beta KL(q, m) + (1 - beta) KL(p, m), m = beta q + (1 - beta) p:
//!            d/dz = p (g - sum p g),  g = (1 - beta) log p/m
//! ```
//!
//! The last is the generalised Jensen-Shannon divergence of GKD (arXiv 2306.13649).

use truing_model::Divergence;

use crate::error::TorchError;
use crate::ffi::Tensor;

/// Divergences at some rows.
#[derive(Debug)]
pub(crate) struct Compared {
    /// The tokens of the reference `[n_rows, k]`.
    pub(crate) tokens: Tensor,
    /// In nats `[n_rows, 1]`.
    pub(crate) values: Tensor,
    /// With respect to the logits of the tokens `[n_rows, k]`.
    pub(crate) gradient: Tensor,
}

impl Compared {
    /// `logits` `[n_rows, vocab]`, the reference's `tokens` and their log-probabilities `[n_rows, k]`.
    pub(crate) fn new(
        divergence: Divergence,
        logits: &Tensor,
        tokens: Tensor,
        log_q: &Tensor,
    ) -> Result<Self, TorchError> {
        let log_p = logits.gather_columns(&tokens)?.log_softmax()?;
        let (p, q) = (log_p.exp()?, log_q.exp()?);
        let expected = |weights: &Tensor, values: &Tensor| weights.mul(values)?.sum(1, true);
        let (values, gradient) = match divergence {
            Divergence::ReverseKl => {
                let ratio = log_p.sub(log_q)?;
                let kl = expected(&p, &ratio)?;
                let gradient = p.mul(&ratio.sub(&kl)?)?;
                (kl, gradient)
            }
            Divergence::ForwardKl => (expected(&q, &log_q.sub(&log_p)?)?, p.sub(&q)?),
            Divergence::JensenShannon { beta } => {
                let log_m = p.scaled((1.0 - beta) as f32)?.add_scaled(&q, beta)?.log()?;
                let ratio = log_p.sub(&log_m)?;
                let of_model = expected(&p, &ratio)?;
                let of_reference = expected(&q, &log_q.sub(&log_m)?)?;
                let values = of_model.scaled((1.0 - beta) as f32)?.add_scaled(&of_reference, beta)?;
                (values, p.mul(&ratio.sub(&of_model)?)?.scaled((1.0 - beta) as f32)?)
            }
        };
        Ok(Self { tokens, values, gradient })
    }
}
