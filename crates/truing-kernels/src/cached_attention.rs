//! Attention of new tokens against a cache of keys and values: generation.
//!
//! The formula is that of [`varlen_attention_forward`](crate::varlen_attention_forward), causal. A prompt of many
//! tokens takes the same tiled path. A few tokens (decoding) would gain nothing from packing the cache: there the
//! cache streams by once, in blocks of [`CACHE_BLOCK`] keys whose maxima, sums and outputs are combined in order.

#![allow(unsafe_code, reason = "chunks written by several threads, and the tile kernels")]

use crate::matmul::Write;
use crate::micro_kernel::{BLOCK_COLUMNS, FEW_ROWS, RowBlock, TILE_ROWS, Tile};
use crate::pack::panels;
use crate::parallel::{Disjoint, ELEMENTS_PER_ITEM, for_each_item};
use crate::scratch::{Scratch, with_scratch};
use crate::simd::{SimdLevel, simd_fn};
use crate::varlen_attention::{AttentionShape, Causality, Forward, Sequence};
use std::cell::Cell;
use std::ops::Range;

/// Keys of a block of a cache. Maxima, sums and outputs are made block by block, so that the order of the sums is fixed.
pub const CACHE_BLOCK: usize = 64;

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
    let block = CACHE_BLOCK * shape.kv_width();
    let mut cache =
        CachedSequence { blocks: k_cache.chunks(block).zip(v_cache.chunks(block)).collect(), len };
    for i in (0..n_new).rev() {
        cache.len = len - n_new + i + 1;
        cache.blocks.truncate(cache.len.div_ceil(CACHE_BLOCK));
        let own = i * shape.q_width()..(i + 1) * shape.q_width();
        decode_attention(&shape, std::slice::from_ref(&cache), &q[own.clone()], &mut out[own]);
    }
}

/// Keys and values of a running sequence, `[len, n_kv_heads, head_dim]` each, in blocks of [`CACHE_BLOCK`] tokens.
#[derive(Debug, Clone)]
pub struct CachedSequence<'a> {
    /// `(keys, values)` of each block, `[CACHE_BLOCK, n_kv_heads, head_dim]`; the last may be longer than is used.
    pub blocks: Vec<(&'a [f32], &'a [f32])>,
    /// Tokens in use.
    pub len: usize,
}

/// Attention of one new token of each of several sequences, whose key is the last of its cache: `q`,
/// `out: [n_sequences, n_heads, head_dim]`; `shape.causality` is taken to be causal. No bit of a sequence's result
/// depends on the others.
///
/// Panics when a size does not fit or a cache is empty.
pub fn decode_attention(
    shape: &AttentionShape,
    sequences: &[CachedSequence<'_>],
    q: &[f32],
    out: &mut [f32],
) {
    shape.check();
    assert!(
        q.len() == sequences.len() * shape.q_width() && out.len() == q.len(),
        "attention: q, out are [n_sequences, n_heads, head_dim]"
    );
    for sequence in sequences {
        let is_long = |block: &[f32], n: usize| block.len() >= n * shape.kv_width();
        let n_last = sequence.len.saturating_sub(1) % CACHE_BLOCK + 1;
        let n_blocks = sequence.blocks.len();
        assert!(
            n_blocks > 0 && n_blocks == sequence.len.div_ceil(CACHE_BLOCK),
            "attention: {n_blocks} blocks of a cache of {} tokens",
            sequence.len
        );
        let n_of = |idx: usize| if idx + 1 == n_blocks { n_last } else { CACHE_BLOCK };
        let fits =
            sequence.blocks.iter().enumerate().all(|(i, (k, v))| is_long(k, n_of(i)) && is_long(v, n_of(i)));
        assert!(fits, "attention: blocks are [CACHE_BLOCK, n_kv_heads, head_dim]");
    }
    let level = SimdLevel::current();
    let shape = AttentionShape { causality: Causality::Causal, ..*shape };
    let group_width = shape.group() * shape.head_dim;
    let parts = Disjoint::new(out);
    let work = |item: usize| {
        let (sequence, kv_head) = (item / shape.n_kv_heads, item % shape.n_kv_heads);
        let start = sequence * shape.q_width() + kv_head * group_width;
        // SAFETY: an item writes only its own heads.
        let out = unsafe { parts.part(start, group_width) };
        decode(level, &shape, &q[start..start + group_width], &sequences[sequence], kv_head, out);
    };
    let n_items = sequences.len() * shape.n_kv_heads;
    let n_keys: usize = sequences.iter().map(|sequence| sequence.len).sum();
    if n_keys * shape.q_width() <= 4 * ELEMENTS_PER_ITEM {
        (0..n_items).for_each(work);
    } else {
        for_each_item(n_items, work);
    }
}

thread_local! {
    static STATS: Cell<Scratch> = const { Cell::new(Scratch::new()) };
}

/// Statistics of a head over a block: `[output (head_dim), largest score, Σ e^(score - largest)]`.
fn stats_floats(head_dim: usize) -> usize {
    head_dim + 2
}

/// The heads of one group, `q`, `out: [group, head_dim]`.
fn decode(
    level: SimdLevel,
    shape: &AttentionShape,
    q: &[f32],
    cache: &CachedSequence<'_>,
    kv_head: usize,
    out: &mut [f32],
) {
    let visible = shape.visible(cache.len - 1, cache.len);
    let (d, group) = (shape.head_dim, shape.group());
    let blocks = visible.start / CACHE_BLOCK..visible.end.div_ceil(CACHE_BLOCK);
    let stats_len = group * stats_floats(d);
    with_scratch(&STATS, |scratch| {
        let all = scratch.floats(blocks.len() * stats_len);
        for (block, stats) in blocks.clone().zip(all.chunks_exact_mut(stats_len)) {
            let start = block * CACHE_BLOCK;
            let keys = visible.start.max(start) - start..visible.end.min(start + CACHE_BLOCK) - start;
            decode_chunk(level, shape, q, cache.blocks[block], kv_head, keys, stats);
        }
        for (head, out) in out.chunks_exact_mut(d).enumerate() {
            let blocks = || all.chunks_exact(stats_floats(d)).skip(head).step_by(group);
            let largest = blocks().map(|stats| stats[d]).fold(f32::NEG_INFINITY, f32::max);
            let weight = |stats: &[f32]| (stats[d] - largest).exp();
            let sum: f32 = blocks().map(|stats| weight(stats) * stats[d + 1]).sum();
            out.fill(0.0);
            for stats in blocks() {
                let weight = weight(stats) / sum;
                out.iter_mut().zip(stats).for_each(|(out, part)| *out += weight * part);
            }
        }
    });
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
        let heads_at_once = S::ROW_BLOCK.min(TILE_ROWS);
        for first in (0..heads).step_by(heads_at_once) {
            let rows = heads_at_once.min(heads - first);
            let mut scores = [[0.0; CACHE_BLOCK]; TILE_ROWS];
            let x = q[first * d..(first + rows) * d].as_ptr();
            let mut j = 0;
            while j < n {
                let n_keys = if n - j >= BLOCK_COLUMNS { BLOCK_COLUMNS } else { 1 };
                let keys = k[j * stride..(j + n_keys - 1) * stride + d].as_ptr();
                let block = RowBlock { k: d, x, weights: keys, weight_stride: stride, next: [keys; 2] };
                let mut sums = [[0.0; BLOCK_COLUMNS]; FEW_ROWS];
                // SAFETY: the rows of q and the keys were sliced.
                unsafe { simd.row_block(rows, n_keys, &block, &mut sums) };
                for (scores, sums) in scores.iter_mut().zip(&sums) {
                    scores[j..j + n_keys].copy_from_slice(&sums[..n_keys]);
                }
                j += n_keys;
            }
            let stats = &mut stats[first * stats_floats(d)..(first + rows) * stats_floats(d)];
            let scale = simd.splat(shape.scale);
            for (scores, stats) in scores.iter_mut().zip(stats.chunks_exact_mut(stats_floats(d))) {
                let mut largest = simd.splat(f32::NEG_INFINITY);
                for s in scores[..n].chunks_mut(S::LANES) {
                    // Filling of -infinity is never the largest and adds nothing to the sum.
                    let scaled = simd.mul(simd.load_or(s, f32::NEG_INFINITY), scale);
                    largest = simd.max(largest, scaled);
                    simd.store_some(s, scaled);
                }
                let largest = simd.largest(largest);
                let reference = simd.splat(if largest == f32::NEG_INFINITY { 0.0 } else { largest });
                let mut sum = simd.splat(0.0);
                for s in scores[..n].chunks_mut(S::LANES) {
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
                        a_row: CACHE_BLOCK,
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
                    stats[..d].fill(0.0);
                    for (&p, v) in scores[..n].iter().zip(v.chunks(stride)) {
                        stats[..d].iter_mut().zip(v).for_each(|(out, v)| *out += p * v);
                    }
                }
            }
        }
    }
}
