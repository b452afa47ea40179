//! Attention of packed sequences, forward beside backward: one function with a body for each kind of device.
//!
//! On a GPU one call computes all sequences, by their cumulative lengths: FlashAttention in bfloat16 (Dao 2023, arXiv
//! 2307.08691), the memory-efficient kernels in single precision. On the processor libtorch has no such kernel; each
//! sequence is a call of its own. Where a sequence has fewer queries than keys, its last query sees its last key. The
//! causal masks of the GPU's kernels are aligned so; that of the processor's is aligned at the first key, so such
//! sequences get a mask as a tensor there. Scores with a soft cap are computed by formulas on both (`capped.rs`).

mod capped;
mod cpu;
mod cuda;

use std::ops::Range;

use crate::device::Device;
use crate::error::TorchError;
use crate::ffi::{Dtype, Tensor, TorchLib};

/// Sizes and mask of a layer's attention.
#[derive(Debug, Clone)]
pub(crate) struct AttentionShape {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) is_causal: bool,
    /// A token sees this many tokens, itself included.
    pub(crate) window: Option<usize>,
    /// Factor on the scores, where it is not `1 / sqrt(head_dim)`.
    pub(crate) given_scale: Option<f32>,
    /// Scores become `cap tanh(score / cap)`.
    pub(crate) soft_cap: Option<f32>,
}

/// A sequence: its queries among the rows of the queries, its keys among those of the keys.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) queries: Range<usize>,
    pub(crate) keys: Range<usize>,
}

/// The sequences of a pack, one after another.
#[derive(Debug)]
pub(crate) struct Spans {
    all: Vec<Span>,
    longest: [usize; 2],
    /// Where queries and keys of each sequence begin, and where the last ones end; on a GPU.
    cumulative: Option<[Tensor; 2]>,
}

/// What attention computes.
#[derive(Debug)]
pub(crate) struct Attended {
    /// `[n_queries, n_heads * head_dim]`.
    pub(crate) output: Tensor,
    /// What the backward pass needs besides: row normalisers, and the kernels' own.
    state: Vec<Tensor>,
}

impl Spans {
    pub(crate) fn new(
        torch: &'static TorchLib,
        device: Device,
        lengths: impl IntoIterator<Item = (usize, usize)>,
    ) -> Result<Self, TorchError> {
        let (mut all, mut longest) = (Vec::new(), [0, 0]);
        let (mut query, mut key) = (0, 0);
        for (n_queries, n_keys) in lengths {
            all.push(Span { queries: query..query + n_queries, keys: key..key + n_keys });
            longest = [longest[0].max(n_queries), longest[1].max(n_keys)];
            (query, key) = (query + n_queries, key + n_keys);
        }
        let cumulative = match device {
            Device::Cpu => None,
            Device::Cuda(_) => {
                let of = |end: fn(&Span) -> usize| {
                    let ends = all.iter().map(|span| end(span) as i32);
                    let ends: Vec<i32> = std::iter::once(0).chain(ends).collect();
                    Tensor::from_i32(torch, &ends, &[ends.len()], device)
                };
                Some([of(|span| span.queries.end)?, of(|span| span.keys.end)?])
            }
        };
        Ok(Self { all, longest, cumulative })
    }
}

impl AttentionShape {
    fn scale(&self) -> f64 {
        self.given_scale.map_or_else(|| 1.0 / (self.head_dim as f64).sqrt(), f64::from)
    }

    /// `q` `[n_queries, n_heads * head_dim]`, `k` and `v` `[n_keys, n_kv_heads * head_dim]`.
    pub(crate) fn forward(
        &self,
        spans: &Spans,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Attended, TorchError> {
        if let Some(cap) = self.soft_cap {
            return self.forward_capped(spans, [q, k, v], cap);
        }
        match &spans.cumulative {
            None => self.forward_on_cpu(spans, q, k, v),
            Some(cumulative) if q.dtype() == Some(Dtype::F32) => {
                self.forward_efficient(spans, cumulative, q, k, v)
            }
            Some(cumulative) => self.forward_flash(spans, cumulative, q, k, v),
        }
    }

    /// The gradients at `q`, `k` and `v`, from that at the output.
    pub(crate) fn backward(
        &self,
        spans: &Spans,
        [q, k, v]: [&Tensor; 3],
        attended: &Attended,
        d_output: &Tensor,
    ) -> Result<[Tensor; 3], TorchError> {
        if let Some(cap) = self.soft_cap {
            return self.backward_capped(spans, [q, k, v], d_output, cap);
        }
        match &spans.cumulative {
            None => self.backward_on_cpu(spans, [q, k, v], attended, d_output),
            Some(cumulative) if q.dtype() == Some(Dtype::F32) => {
                self.backward_efficient(spans, cumulative, [q, k, v], attended, d_output)
            }
            Some(cumulative) => self.backward_flash(spans, cumulative, [q, k, v], attended, d_output),
        }
    }

    /// `[n, heads * head_dim]` to `[n, heads, head_dim]`.
    fn heads(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        x.reshape(&[x.size(0), x.size(1) / self.head_dim, self.head_dim])
    }

    /// `[n, heads, head_dim]` to `[n, heads * head_dim]`.
    fn flat(x: &Tensor) -> Result<Tensor, TorchError> {
        x.reshape(&[x.size(0), x.size(1) * x.size(2)])
    }

    /// Every key head once for each query head that reads it: `[n_keys, n_heads, head_dim]`.
    fn repeated(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        let n = x.size(0);
        let n_each = self.n_heads / self.n_kv_heads;
        if n_each == 1 {
            return self.heads(x);
        }
        let grouped = x.reshape(&[n, self.n_kv_heads, 1, self.head_dim])?.expand(2, n_each)?;
        grouped.reshape(&[n, self.n_heads, self.head_dim])
    }

    /// The gradient of a key head is the sum over those of its copies: `[n_keys, n_kv_heads * head_dim]`.
    fn summed(&self, d: &Tensor) -> Result<Tensor, TorchError> {
        let (n, n_each) = (d.size(0), self.n_heads / self.n_kv_heads);
        if n_each == 1 {
            return Self::flat(d);
        }
        let grouped = d.reshape(&[n, self.n_kv_heads, n_each, self.head_dim])?;
        Self::flat(&grouped.sum(2, false)?)
    }
}
