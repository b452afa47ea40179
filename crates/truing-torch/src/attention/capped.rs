//! Attention with a soft cap on the scores (Gemma 2), which none of libtorch's kernels has: by explicit formulas, each
//! head of each sequence in turn. Scores of one head and sequence are in memory at once, computed again in the backward
//! pass.
//!
//! ```text
//! s = scale q kᵀ,  t = tanh(s / c),  p = softmax(c t) over the visible keys,  out = p v
//! d_v = pᵀ d_out,  d_p = d_out vᵀ,  d_s = p (d_p - Σ d_p p) (1 - t²),  d_q = scale d_s k,  d_k = scale d_sᵀ q
//! ```

use super::{Attended, AttentionShape, Span, Spans};
use crate::error::TorchError;
use crate::ffi::{Dtype, Tensor};

/// One head of one sequence.
struct HeadScores {
    /// `tanh(s / c)` `[n_queries, n_keys]`.
    tangents: Tensor,
    /// The same shape.
    probabilities: Tensor,
}

impl AttentionShape {
    /// What each query of a sequence sees: 0 there and minus infinity elsewhere `[n_queries, n_keys]`.
    fn visible(&self, span: &Span, like: &Tensor) -> Result<Tensor, TorchError> {
        let (n_queries, n_keys) = (span.queries.len(), span.keys.len());
        let mut mask = vec![f32::NEG_INFINITY; n_queries * n_keys];
        for query in 0..n_queries {
            let end = if self.is_causal { n_keys - n_queries + query + 1 } else { n_keys };
            let start = self.window.map_or(0, |window| end.saturating_sub(window));
            mask[query * n_keys + start..query * n_keys + end].fill(0.0);
        }
        Tensor::from_f32(like.torch(), &mask, &[n_queries, n_keys], like.device())
    }

    /// One head of rows `[n, heads, head_dim]`, in single precision `[n, head_dim]`.
    fn head_of(&self, x: &Tensor, rows: &std::ops::Range<usize>, head: usize) -> Result<Tensor, TorchError> {
        let of_head = x.rows(rows.clone())?.narrow(1, head, 1)?;
        of_head.reshape(&[rows.len(), self.head_dim])?.to(Dtype::F32)
    }

    fn capped_scores(
        &self,
        q: &Tensor,
        k: &Tensor,
        mask: &Tensor,
        cap: f32,
    ) -> Result<HeadScores, TorchError> {
        let scale = self.scale() as f32 / cap;
        let tangents = q.mm(&k.t()?)?.scaled(scale)?.tanh()?;
        let probabilities = tangents.scaled(cap)?.add(mask)?.log_softmax()?.exp()?;
        Ok(HeadScores { tangents, probabilities })
    }

    pub(super) fn forward_capped(
        &self,
        spans: &Spans,
        [q, k, v]: [&Tensor; 3],
        cap: f32,
    ) -> Result<Attended, TorchError> {
        let (q, k, v) = (self.heads(q)?, self.heads(k)?, self.heads(v)?);
        let output = q.empty_like(&q.shape())?;
        for span in &spans.all {
            let mask = self.visible(span, &q)?;
            for head in 0..self.n_heads {
                let key_head = head / (self.n_heads / self.n_kv_heads);
                let of_keys = |x: &Tensor| self.head_of(x, &span.keys, key_head);
                let of_queries = self.head_of(&q, &span.queries, head)?;
                let scores = self.capped_scores(&of_queries, &of_keys(&k)?, &mask, cap)?;
                let of_head = scores.probabilities.mm(&of_keys(&v)?)?;
                let to = output.rows(span.queries.clone())?.narrow(1, head, 1)?;
                to.copy_from(&of_head.reshape(&[span.queries.len(), 1, self.head_dim])?)?;
            }
        }
        Ok(Attended { output: Self::flat(&output)?, state: Vec::new() })
    }

    pub(super) fn backward_capped(
        &self,
        spans: &Spans,
        [q, k, v]: [&Tensor; 3],
        d_output: &Tensor,
        cap: f32,
    ) -> Result<[Tensor; 3], TorchError> {
        let (heads_q, heads_k, heads_v) = (self.heads(q)?, self.heads(k)?, self.heads(v)?);
        let d_output = self.heads(d_output)?;
        let d_q = heads_q.to(Dtype::F32)?.zeros_like(&heads_q.shape())?;
        let [d_k, d_v] = [d_q.zeros_like(&heads_k.shape())?, d_q.zeros_like(&heads_v.shape())?];
        let add = |to: &Tensor, rows: &std::ops::Range<usize>, head: usize, part: &Tensor| {
            let to = to.rows(rows.clone())?.narrow(1, head, 1)?;
            to.copy_from(&to.add(&part.reshape(&[rows.len(), 1, self.head_dim])?)?)
        };
        let one = Tensor::scalar(q.torch(), 1.0)?;
        for span in &spans.all {
            let mask = self.visible(span, &heads_q)?;
            for head in 0..self.n_heads {
                let key_head = head / (self.n_heads / self.n_kv_heads);
                let of_queries = self.head_of(&heads_q, &span.queries, head)?;
                let keys = self.head_of(&heads_k, &span.keys, key_head)?;
                let values = self.head_of(&heads_v, &span.keys, key_head)?;
                let d = self.head_of(&d_output, &span.queries, head)?;
                let HeadScores { tangents, probabilities } =
                    self.capped_scores(&of_queries, &keys, &mask, cap)?;
                add(&d_v, &span.keys, key_head, &probabilities.t()?.contiguous()?.mm(&d)?)?;
                let d_probabilities = d.mm(&values.t()?)?;
                let along = d_probabilities.mul(&probabilities)?.sum(1, true)?;
                let slopes = tangents.mul(&tangents)?.neg()?.add(&one)?;
                let d_scores = d_probabilities.sub(&along)?.mul(&probabilities)?.mul(&slopes)?;
                let d_scores = d_scores.scaled(self.scale() as f32)?;
                add(&d_q, &span.queries, head, &d_scores.mm(&keys)?)?;
                add(&d_k, &span.keys, key_head, &d_scores.t()?.contiguous()?.mm(&of_queries)?)?;
            }
        }
        let as_given = |d: &Tensor, like: &Tensor| {
            let flat = Self::flat(d)?;
            like.dtype().map_or_else(|| flat.alias(), |dtype| flat.to(dtype))
        };
        Ok([as_given(&d_q, q)?, as_given(&d_k, k)?, as_given(&d_v, v)?])
    }
}
