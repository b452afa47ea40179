//! Attention over packed sequences: softmax(scale · q kᵀ) v inside each sequence, grouped heads, no mask tensor.

use crate::parallel::{Disjoint, for_each_item};

/// Which tokens of its sequence a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Causality {
    /// Itself and what came before.
    Causal,
    /// All.
    Full,
}

/// What attention needs to know besides the numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; query head `i` reads head `i / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Which tokens of its sequence a token sees.
    pub causality: Causality,
    /// With `Some(w)` a token sees the `w` tokens ending with itself (and, with [`Causality::Full`], the `w`
    /// beginning with itself).
    pub sliding_window: Option<usize>,
}

impl AttentionShape {
    /// The positions that position `i` of a sequence of `len` sees.
    fn visible(&self, i: usize, len: usize) -> std::ops::Range<usize> {
        let window = self.sliding_window.unwrap_or(len).min(len);
        let start = (i + 1).saturating_sub(window);
        match self.causality {
            Causality::Causal => start..i + 1,
            Causality::Full => start..(i + window).min(len),
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn axpy(scale: f32, from: &[f32], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += scale * from);
}

/// One query against the keys it sees; returns log Σ exp.
fn attend(
    shape: &AttentionShape,
    q: &[f32],
    kv_head: usize,
    k: &[f32],
    v: &[f32],
    visible: std::ops::Range<usize>,
    out: &mut [f32],
) -> f32 {
    let (d, stride) = (shape.head_dim, shape.n_kv_heads * shape.head_dim);
    let row = |j: usize| j * stride + kv_head * d..j * stride + (kv_head + 1) * d;
    let mut scores: Vec<f32> = visible.clone().map(|j| shape.scale * dot(q, &k[row(j)])).collect();
    let largest =
        scores.iter().fold(f32::NEG_INFINITY, |best, &s| if s > best || s.is_nan() { s } else { best });
    scores.iter_mut().for_each(|s| *s = (*s - largest).exp());
    let sum: f32 = scores.iter().sum();
    out.fill(0.0);
    for (j, score) in visible.zip(&scores) {
        axpy(score / sum, &v[row(j)], out);
    }
    largest + sum.ln()
}

/// Attention of packed sequences. `cumulative_lengths: [n_sequences + 1]`, `q`, `out: [total, n_heads, head_dim]`,
/// `k`, `v: [total, n_kv_heads, head_dim]`, `log_sum_exp: [n_heads, total]`. Panics when a size does not fit.
#[allow(unsafe_code, reason = "heads written by several threads")]
pub fn varlen_attention_forward(
    shape: &AttentionShape,
    cumulative_lengths: &[u32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    log_sum_exp: &mut [f32],
) {
    let d = shape.head_dim;
    let total = q.len() / (shape.n_heads * d);
    let (out, lse) = (Disjoint::new(out), Disjoint::new(log_sum_exp));
    let group = shape.n_heads / shape.n_kv_heads;
    let kv_width = shape.n_kv_heads * d;
    for_each_item(shape.n_heads, |head| {
        for span in cumulative_lengths.windows(2) {
            let (start, end) = (span[0] as usize, span[1] as usize);
            let (k, v) = (&k[start * kv_width..end * kv_width], &v[start * kv_width..end * kv_width]);
            for i in 0..end - start {
                let at = ((start + i) * shape.n_heads + head) * d;
                // SAFETY: an item writes only its own head.
                let (out, lse) = unsafe { (out.part(at, d), lse.part(head * total + start + i, 1)) };
                lse[0] =
                    attend(shape, &q[at..at + d], head / group, k, v, shape.visible(i, end - start), out);
            }
        }
    });
}

/// Gradients of [`varlen_attention_forward`], overwriting `d_q`, `d_k`, `d_v`. Panics when a size does not fit.
#[allow(unsafe_code, reason = "heads written by several threads")]
pub fn varlen_attention_backward(
    shape: &AttentionShape,
    cumulative_lengths: &[u32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    log_sum_exp: &[f32],
    d_out: &[f32],
    d_q: &mut [f32],
    d_k: &mut [f32],
    d_v: &mut [f32],
) {
    let d = shape.head_dim;
    let total = q.len() / (shape.n_heads * d);
    let group = shape.n_heads / shape.n_kv_heads;
    d_q.fill(0.0);
    d_k.fill(0.0);
    d_v.fill(0.0);
    let (d_q, d_k, d_v) = (Disjoint::new(d_q), Disjoint::new(d_k), Disjoint::new(d_v));
    for_each_item(shape.n_kv_heads, |kv_head| {
        for span in cumulative_lengths.windows(2) {
            let (start, end) = (span[0] as usize, span[1] as usize);
            for head in kv_head * group..(kv_head + 1) * group {
                for i in 0..end - start {
                    let at = ((start + i) * shape.n_heads + head) * d;
                    let (q, d_out) = (&q[at..at + d], &d_out[at..at + d]);
                    // SAFETY: an item writes only its own heads.
                    let d_q = unsafe { d_q.part(at, d) };
                    let delta = dot(d_out, &out[at..at + d]);
                    let lse = log_sum_exp[head * total + start + i];
                    for j in shape.visible(i, end - start) {
                        let at = ((start + j) * shape.n_kv_heads + kv_head) * d;
                        // SAFETY: as above.
                        let (d_k, d_v) = unsafe { (d_k.part(at, d), d_v.part(at, d)) };
                        let p = (shape.scale * dot(q, &k[at..at + d]) - lse).exp();
                        let d_score = p * (dot(d_out, &v[at..at + d]) - delta) * shape.scale;
                        axpy(p, d_out, d_v);
                        axpy(d_score, q, d_k);
                        axpy(d_score, &k[at..at + d], d_q);
                    }
                }
            }
        }
    });
}

/// Attention of `n_new` queries against a cache that already holds their keys: query `i` stands at position
/// `len - n_new + i` and sees what came before it. `q`, `out: [n_new, n_heads, head_dim]`,
/// `k_cache`, `v_cache: [len, n_kv_heads, head_dim]`. Panics when a size does not fit.
#[allow(unsafe_code, reason = "heads written by several threads")]
pub fn cached_attention(
    shape: &AttentionShape,
    q: &[f32],
    k_cache: &[f32],
    v_cache: &[f32],
    out: &mut [f32],
) {
    let d = shape.head_dim;
    let n_new = q.len() / (shape.n_heads * d);
    let len = k_cache.len() / (shape.n_kv_heads * d);
    let group = shape.n_heads / shape.n_kv_heads;
    let causal = AttentionShape { causality: Causality::Causal, ..*shape };
    let out = Disjoint::new(out);
    for_each_item(shape.n_heads, |head| {
        for i in 0..n_new {
            let at = (i * shape.n_heads + head) * d;
            // SAFETY: an item writes only its own head.
            let out = unsafe { out.part(at, d) };
            let visible = causal.visible(len - n_new + i, len);
            attend(&causal, &q[at..at + d], head / group, k_cache, v_cache, visible, out);
        }
    });
}
