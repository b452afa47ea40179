//! Attention on the processor: each sequence is a call, with every key head once for each query head that reads it.

use std::ops::Range;

use super::{Attended, AttentionShape, Span, Spans};
use crate::device::Device;
use crate::error::TorchError;
use crate::ffi::{Argument, Tensor};
use crate::operators::{CPU_ATTENTION, CPU_ATTENTION_BACKWARD, exactly};
use Argument::{Bool, Float, None as Nothing, Tensor as Of};

impl AttentionShape {
    /// A sequence's rows of `[n, heads, head_dim]` as the processor's kernel takes them:
    /// `[1, heads, n_rows, head_dim]`.
    fn sequence(&self, x: &Tensor, rows: &Range<usize>) -> Result<Tensor, TorchError> {
        let rows = x.rows(rows.clone())?;
        rows.reshape(&[1, rows.size(0), rows.size(1), self.head_dim])?.transpose(1, 2)
    }

    /// Whether the processor's own causal mask is the right one, and the mask to give otherwise.
    fn mask(&self, span: &Span, like: &Tensor) -> Result<(bool, Option<Tensor>), TorchError> {
        let (n_queries, n_keys) = (span.queries.len(), span.keys.len());
        if !self.is_causal {
            return Ok((false, None));
        }
        let window = self.window.filter(|&window| window < n_keys);
        match window {
            None if n_queries == n_keys => return Ok((true, None)),
            None if n_queries == 1 => return Ok((false, None)),
            _ => {}
        }
        let mut mask = vec![f32::NEG_INFINITY; n_queries * n_keys];
        for query in 0..n_queries {
            let end = n_keys - n_queries + query + 1;
            let start = window.map_or(0, |window| end.saturating_sub(window));
            mask[query * n_keys + start..query * n_keys + end].fill(0.0);
        }
        let mask = Tensor::from_f32(like.torch(), &mask, &[n_queries, n_keys], Device::Cpu)?;
        Ok((false, Some(like.dtype().map_or_else(|| mask.alias(), |dtype| mask.to(dtype))?)))
    }

    pub(super) fn forward_on_cpu(
        &self,
        spans: &Spans,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Attended, TorchError> {
        let (q, k, v) = (self.heads(q)?, self.repeated(k)?, self.repeated(v)?);
        let output = q.empty_like(&q.shape())?;
        let mut state = Vec::with_capacity(spans.all.len());
        for span in &spans.all {
            let (is_causal, mask) = self.mask(span, &q)?;
            let results = CPU_ATTENTION.call(
                q.torch(),
                &[
                    Of(&self.sequence(&q, &span.queries)?),
                    Of(&self.sequence(&k, &span.keys)?),
                    Of(&self.sequence(&v, &span.keys)?),
                    Float(0.0),
                    Bool(is_causal),
                    mask.as_ref().map_or(Nothing, Of),
                    Float(self.scale()),
                ],
            )?;
            let [of_sequence, log_sum_exp] = exactly(&CPU_ATTENTION, results)?;
            self.sequence(&output, &span.queries)?.copy_from(&of_sequence)?;
            state.push(log_sum_exp);
        }
        Ok(Attended { output: Self::flat(&output)?, state })
    }

    pub(super) fn backward_on_cpu(
        &self,
        spans: &Spans,
        [q, k, v]: [&Tensor; 3],
        attended: &Attended,
        d_output: &Tensor,
    ) -> Result<[Tensor; 3], TorchError> {
        let (q, k, v) = (self.heads(q)?, self.repeated(k)?, self.repeated(v)?);
        let (output, d_output) = (self.heads(&attended.output)?, self.heads(d_output)?);
        let [d_q, d_k, d_v] =
            [q.empty_like(&q.shape())?, k.empty_like(&k.shape())?, v.empty_like(&v.shape())?];
        for (span, log_sum_exp) in spans.all.iter().zip(&attended.state) {
            let (is_causal, mask) = self.mask(span, &q)?;
            let results = CPU_ATTENTION_BACKWARD.call(
                q.torch(),
                &[
                    Of(&self.sequence(&d_output, &span.queries)?),
                    Of(&self.sequence(&q, &span.queries)?),
                    Of(&self.sequence(&k, &span.keys)?),
                    Of(&self.sequence(&v, &span.keys)?),
                    Of(&self.sequence(&output, &span.queries)?),
                    Of(log_sum_exp),
                    Float(0.0),
                    Bool(is_causal),
                    mask.as_ref().map_or(Nothing, Of),
                    Float(self.scale()),
                ],
            )?;
            let of_sequence: [Tensor; 3] = exactly(&CPU_ATTENTION_BACKWARD, results)?;
            for ((d, rows), found) in
                [(&d_q, &span.queries), (&d_k, &span.keys), (&d_v, &span.keys)].into_iter().zip(&of_sequence)
            {
                self.sequence(d, rows)?.copy_from(found)?;
            }
        }
        Ok([Self::flat(&d_q)?, self.summed(&d_k)?, self.summed(&d_v)?])
    }
}
