//! Attention of packed sequences, forward beside backward: one function with a body for each kind of device.
//!
//! On a GPU one call computes all sequences, by their cumulative lengths: FlashAttention in bfloat16 (Dao 2023, arXiv
//! 2307.08691), the memory-efficient kernels in single precision. On the processor libtorch has no such kernel; each
//! sequence is a call of its own. Where a sequence has fewer queries than keys, its last query sees its last key: so
//! on a GPU, while the processor's causal mask begins at the first, and takes a mask instead.

use std::ops::Range;

use crate::device::Device;
use crate::error::TorchError;
use crate::ffi::{Argument, Dtype, Tensor, TorchLib};
use crate::operators::{
    CPU_ATTENTION, CPU_ATTENTION_BACKWARD, EFFICIENT_ATTENTION, EFFICIENT_ATTENTION_BACKWARD,
    FLASH_ATTENTION, FLASH_ATTENTION_BACKWARD, exactly,
};
use Argument::{Bool, Float, Int, None as Nothing, Tensor as Of};

/// `custom_mask_type` of the memory-efficient kernels.
const MASK_NONE: i64 = 0;
const MASK_CAUSAL_FROM_BOTTOM_RIGHT: i64 = 2;

/// Sizes and mask of a layer's attention.
#[derive(Debug, Clone)]
pub(crate) struct AttentionShape {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) is_causal: bool,
    /// A token sees this many tokens, itself included.
    pub(crate) window: Option<usize>,
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
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// `q` `[n_queries, n_heads * head_dim]`, `k` and `v` `[n_keys, n_kv_heads * head_dim]`.
    pub(crate) fn forward(
        &self,
        spans: &Spans,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Attended, TorchError> {
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

    /// A sequence's rows of `[n, heads, head_dim]` as the processor's kernel wants them:
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

    fn forward_on_cpu(
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

    fn backward_on_cpu(
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

    /// FlashAttention's window: keys to the left and to the right of a query's own; none is `None`.
    fn flash_window(&self) -> [Argument<'static>; 2] {
        match self.window {
            Some(window) => [Int(window as i64 - 1), Int(0)],
            None => [Nothing, Nothing],
        }
    }

    fn forward_flash(
        &self,
        spans: &Spans,
        cumulative: &[Tensor; 2],
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Attended, TorchError> {
        let [left, right] = self.flash_window();
        let results = FLASH_ATTENTION.call(
            q.torch(),
            &[
                Of(&self.heads(q)?),
                Of(&self.heads(k)?),
                Of(&self.heads(v)?),
                Of(&cumulative[0]),
                Of(&cumulative[1]),
                Int(spans.longest[0] as i64),
                Int(spans.longest[1] as i64),
                Float(0.0),
                Bool(self.is_causal),
                Bool(false),
                Float(self.scale()),
                left,
                right,
                Nothing,
                Nothing,
            ],
        )?;
        let [output, log_sum_exp, generator, unused, _] = exactly(&FLASH_ATTENTION, results)?;
        Ok(Attended { output: Self::flat(&output)?, state: vec![log_sum_exp, generator, unused] })
    }

    fn backward_flash(
        &self,
        spans: &Spans,
        cumulative: &[Tensor; 2],
        [q, k, v]: [&Tensor; 3],
        attended: &Attended,
        d_output: &Tensor,
    ) -> Result<[Tensor; 3], TorchError> {
        let [log_sum_exp, generator, unused] = &attended.state[..] else {
            return Err(FLASH_ATTENTION_BACKWARD.refuse("the forward pass was another kernel's"));
        };
        let [left, right] = self.flash_window();
        let results = FLASH_ATTENTION_BACKWARD.call(
            q.torch(),
            &[
                Of(&self.heads(d_output)?),
                Of(&self.heads(q)?),
                Of(&self.heads(k)?),
                Of(&self.heads(v)?),
                Of(&self.heads(&attended.output)?),
                Of(log_sum_exp),
                Of(&cumulative[0]),
                Of(&cumulative[1]),
                Int(spans.longest[0] as i64),
                Int(spans.longest[1] as i64),
                Float(0.0),
                Bool(self.is_causal),
                Of(generator),
                Of(unused),
                Float(self.scale()),
                left,
                right,
            ],
        )?;
        let [d_q, d_k, d_v]: [Tensor; 3] = exactly(&FLASH_ATTENTION_BACKWARD, results)?;
        Ok([Self::flat(&d_q)?, Self::flat(&d_k)?, Self::flat(&d_v)?])
    }

    /// `[n, heads, head_dim]` as a batch of one.
    fn batch_of_one(x: &Tensor) -> Result<Tensor, TorchError> {
        x.reshape(&[1, x.size(0), x.size(1), x.size(2)])
    }

    /// A batch of one as `[n, heads, head_dim]`.
    fn only(x: &Tensor) -> Result<Tensor, TorchError> {
        x.reshape(&[x.size(1), x.size(2), x.size(3)])
    }

    fn efficient_mask(&self) -> (i64, Argument<'static>) {
        let kind = if self.is_causal { MASK_CAUSAL_FROM_BOTTOM_RIGHT } else { MASK_NONE };
        (kind, self.window.map_or(Nothing, |window| Int(window as i64)))
    }

    fn forward_efficient(
        &self,
        spans: &Spans,
        cumulative: &[Tensor; 2],
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Attended, TorchError> {
        let (mask, window) = self.efficient_mask();
        let results = EFFICIENT_ATTENTION.call(
            q.torch(),
            &[
                Of(&Self::batch_of_one(&self.heads(q)?)?),
                Of(&Self::batch_of_one(&self.repeated(k)?)?),
                Of(&Self::batch_of_one(&self.repeated(v)?)?),
                Nothing,
                Of(&cumulative[0]),
                Of(&cumulative[1]),
                Int(spans.longest[0] as i64),
                Int(spans.longest[1] as i64),
                Float(0.0),
                Int(mask),
                Bool(true),
                Float(self.scale()),
                Nothing,
                window,
            ],
        )?;
        let [output, log_sum_exp, seed, offset] = exactly(&EFFICIENT_ATTENTION, results)?;
        let output = Self::flat(&Self::only(&output)?)?;
        Ok(Attended { output, state: vec![log_sum_exp, seed, offset] })
    }

    fn backward_efficient(
        &self,
        spans: &Spans,
        cumulative: &[Tensor; 2],
        [q, k, v]: [&Tensor; 3],
        attended: &Attended,
        d_output: &Tensor,
    ) -> Result<[Tensor; 3], TorchError> {
        let [log_sum_exp, seed, offset] = &attended.state[..] else {
            return Err(EFFICIENT_ATTENTION_BACKWARD.refuse("the forward pass was another kernel's"));
        };
        let (mask, window) = self.efficient_mask();
        let results = EFFICIENT_ATTENTION_BACKWARD.call(
            q.torch(),
            &[
                Of(&Self::batch_of_one(&self.heads(d_output)?)?),
                Of(&Self::batch_of_one(&self.heads(q)?)?),
                Of(&Self::batch_of_one(&self.repeated(k)?)?),
                Of(&Self::batch_of_one(&self.repeated(v)?)?),
                Nothing,
                Of(&Self::batch_of_one(&self.heads(&attended.output)?)?),
                Of(&cumulative[0]),
                Of(&cumulative[1]),
                Int(spans.longest[0] as i64),
                Int(spans.longest[1] as i64),
                Of(log_sum_exp),
                Float(0.0),
                Of(seed),
                Of(offset),
                Int(mask),
                Bool(false),
                Float(self.scale()),
                Nothing,
                window,
                Bool(false),
            ],
        )?;
        let [d_q, d_k, d_v, _] = exactly(&EFFICIENT_ATTENTION_BACKWARD, results)?;
        let (d_q, d_k, d_v) = (Self::only(&d_q)?, Self::only(&d_k)?, Self::only(&d_v)?);
        Ok([Self::flat(&d_q)?, self.summed(&d_k)?, self.summed(&d_v)?])
    }
}
