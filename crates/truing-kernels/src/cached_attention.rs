//! Attention of new tokens against a cache of keys and values: generation.
//!
//! The formula is that of [`varlen_attention_forward`](crate::varlen_attention_forward), causal. A prompt of many
//! tokens takes the same tiled path. A few tokens (decoding) would gain nothing from packing the cache: there the
//! cache streams by once, in chunks of [`KEYS_PER_ITEM`] keys whose maxima, sums and outputs are combined in order.

#![allow(unsafe_code, reason = "chunks written by several threads, and the tile kernels")]

use crate::matmul::Write;
use crate::micro_kernel::{MAX_DOT_ROWS, Tile};
use crate::pack::panels;
use crate::parallel::{Disjoint, for_each_item};
use crate::simd::{SimdLevel, simd_fn};
use crate::varlen_attention::{AttentionShape, Causality, Forward, Sequence};
use std::ops::Range;

/// Keys that one item reads; fixed, so that the order of the sums is.
const KEYS_PER_ITEM: usize = 256;

/// From this many new tokens on, packing the cache pays.
const TILED_FROM: usize = 12;

/// Attention of `n_new` queries against a cache that already holds their keys: query `i` stands at position
/// `len - n_new + i` and sees what came before it, within the sliding window. `q`, `out: [n_new, n_heads, head_dim]`,
/// `k_cache`, `v_cache: [len, n_kv_heads, head_dim]`; `shape.causality` is taken to be causal.
///
/// Panics when a size does not fit or there are more queries than keys.
pub fn cached_attention(
    shape: &AttentionShape,
    q: &[f32],
    k_cache: &[f32],
    v_cache: &[f32],
    out: &mut [f32],
) {
    shape.check();
    let n_new = q.len() / shape.q_width();
    let len = k_cache.len() / shape.kv_width();
    assert!(
        q.len() == n_new * shape.q_width() && out.len() == q.len(),
        "attention: q, out are [n_new, n_heads, head_dim]"
    );
    assert!(k_cache.len() == len * shape.kv_width(), "attention: k_cache is [len, n_kv_heads, head_dim]");
    assert!(v_cache.len() == k_cache.len(), "attention: v_cache is as k_cache");
    assert!(n_new <= len, "attention: {n_new} new tokens, {len} in the cache");
    let shape = AttentionShape { causality: Causality::Causal, ..*shape };
    if n_new >= TILED_FROM {
        let sequences = [Sequence { queries: 0..n_new, keys: 0..len, first_block: 0 }];
        Forward { shape, sequences: &sequences, q, k: k_cache, v: v_cache }.run(out, None);
        return;
    }
    for (i, (q, out)) in
        q.chunks_exact(shape.q_width()).zip(out.chunks_exact_mut(shape.q_width())).enumerate()
    {
        decode(&shape, q, k_cache, v_cache, shape.visible(len - n_new + i, len), out);
    }
}

/// Statistics of a head over a chunk: `[output (head_dim), largest score, Σ e^(score - largest)]`.
fn stats_floats(head_dim: usize) -> usize {
    head_dim + 2
}

fn decode(shape: &AttentionShape, q: &[f32], k: &[f32], v: &[f32], visible: Range<usize>, out: &mut [f32]) {
    let level = SimdLevel::current();
    let (d, group) = (shape.head_dim, shape.group());
    let n_chunks = visible.len().div_ceil(KEYS_PER_ITEM);
    let stats_len = group * stats_floats(d);
    let mut stats = vec![0.0; n_chunks * shape.n_kv_heads * stats_len];
    let parts = Disjoint::new(&mut stats);
    for_each_item(n_chunks * shape.n_kv_heads, |item| {
        let (chunk, kv_head) = (item / shape.n_kv_heads, item % shape.n_kv_heads);
        let start = visible.start + chunk * KEYS_PER_ITEM;
        let keys = start..visible.end.min(start + KEYS_PER_ITEM);
        // SAFETY: an item writes only its own statistics.
        let stats = unsafe { parts.part(item * stats_len, stats_len) };
        decode_chunk(level, shape, &q[kv_head * group * d..], (k, v), kv_head, keys, stats);
    });
    for (head, out) in out.chunks_exact_mut(d).enumerate() {
        let chunks = || stats.chunks_exact(stats_floats(d)).skip(head).step_by(shape.n_heads);
        let largest = chunks().map(|stats| stats[d]).fold(f32::NEG_INFINITY, f32::max);
        let weight = |stats: &[f32]| (stats[d] - largest).exp();
        let sum: f32 = chunks().map(|stats| weight(stats) * stats[d + 1]).sum();
        out.fill(0.0);
        for stats in chunks() {
            let weight = weight(stats) / sum;
            out.iter_mut().zip(stats).for_each(|(out, part)| *out += weight * part);
        }
    }
}

simd_fn! {
    /// The heads of one group, `q: [group, head_dim]`, against one chunk of keys.
    fn decode_chunk<S>(
        simd, shape: &AttentionShape, q: &[f32], cache: (&[f32], &[f32]), kv_head: usize, keys: Range<usize>,
        stats: &mut [f32],
    ) {
        let (d, stride, n) = (shape.head_dim, shape.kv_width(), keys.len());
        let place = keys.start * stride + kv_head * d;
        let end = place + (n - 1) * stride + d;
        let (k, v) = (&cache.0[place..end], &cache.1[place..end]);
        let heads = shape.group();
        for first in (0..heads).step_by(S::DOT_ROWS) {
            let rows = S::DOT_ROWS.min(heads - first);
            let mut scores = [[0.0; KEYS_PER_ITEM]; MAX_DOT_ROWS];
            let a = (q[first * d..(first + rows) * d].as_ptr(), d);
            for j in 0..n {
                let mut sums = [0.0; MAX_DOT_ROWS];
                // SAFETY: the rows of q and the key were sliced.
                unsafe { simd.dots(rows, d, a, k[j * stride..j * stride + d].as_ptr(), &mut sums) };
                scores.iter_mut().zip(sums).for_each(|(scores, sum)| scores[j] = sum);
            }
            let stats = &mut stats[first * stats_floats(d)..(first + rows) * stats_floats(d)];
            for (scores, stats) in scores.iter_mut().zip(stats.chunks_exact_mut(stats_floats(d))) {
                scores[..n].iter_mut().for_each(|s| *s *= shape.scale);
                let largest = scores[..n].iter().fold(f32::NEG_INFINITY, |largest, &s| largest.max(s));
                let reference = simd.splat(if largest == f32::NEG_INFINITY { 0.0 } else { largest });
                let mut sum = simd.splat(0.0);
                for s in scores[..n].chunks_mut(S::LANES) {
                    // Filling of -infinity adds nothing to the sum.
                    let p = simd.exp(simd.sub(simd.load_or(s, f32::NEG_INFINITY), reference));
                    sum = simd.add(sum, p);
                    simd.store_some(s, p);
                }
                stats[d] = largest;
                stats[d + 1] = simd.sum(sum);
            }
            if d % S::LANES == 0 {
                for (column, width) in panels::<S>(d) {
                    let tile = Tile {
                        k: n,
                        a: scores[0].as_ptr(),
                        a_row: KEYS_PER_ITEM,
                        a_step: 1,
                        b: v[column..].as_ptr(),
                        b_step: stride,
                        c: stats[column..].as_mut_ptr(),
                        c_row: stats_floats(d),
                        write: Write::Overwrite,
                    };
                    // SAFETY: `rows` heads have scores and statistics, and a row of `v` holds `d` whole vectors.
                    unsafe { simd.tile(rows, width / S::LANES, &tile) };
                }
            } else {
                for (scores, stats) in scores.iter().zip(stats.chunks_exact_mut(stats_floats(d))) {
                    for (&p, v) in scores[..n].iter().zip(v.chunks(stride)) {
                        stats[..d].iter_mut().zip(v).for_each(|(out, v)| *out += p * v);
                    }
                }
            }
        }
    }
}
