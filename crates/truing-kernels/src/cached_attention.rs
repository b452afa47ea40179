//! Attention of new tokens against a cache of keys and values: generation.
//!
//! The formula is that of [`varlen_attention_forward`](crate::varlen_attention_forward), causal. A prompt of many
//! tokens takes the same tiled path. A few tokens (decoding) would gain nothing from packing the cache: there the
//! cache streams by once, in [`CacheBlock`]s whose maxima, sums and outputs are combined in order. A block holds keys
//! with their tokens side by side, so that scores are made a vector of keys at a time, without sums over lanes.

#![allow(unsafe_code, reason = "chunks written by several threads, and the tile kernels")]

use crate::micro_kernel::{TILE_ROWS, Tile, Write};
use crate::pack::panels;
use crate::parallel::{Disjoint, ELEMENTS_PER_ITEM, for_each_item};
use crate::scratch::{Scratch, with_scratch};
use crate::simd::{SimdLevel, simd_fn};
use crate::soft_cap::capped;
use crate::varlen_attention::{AttentionShape, Causality, Forward, Sequence};
use std::cell::Cell;
use std::ops::Range;

/// Tokens of a block of a cache: whole vectors at every level.
pub const CACHE_BLOCK: usize = 64;

/// Attention of queries against keys and values in one piece: query `i` is at position `len - n_new + i` and sees
/// what came before it, within the sliding window. `q`, `out: [n_new, n_heads, head_dim]`, `k`,
/// `v: [len, n_kv_heads, head_dim]`; `shape.causality` is taken to be causal.
///
/// Panics when a size does not fit or there are more queries than keys.
pub fn cached_attention(shape: &AttentionShape, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    shape.check();
    let n_new = q.len() / shape.q_width();
    let len = k.len() / shape.kv_width();
    assert!(
        q.len() == n_new * shape.q_width() && out.len() == q.len(),
        "attention: q, out are [n_new, n_heads, head_dim]"
    );
    assert!(k.len() == len * shape.kv_width(), "attention: k is [len, n_kv_heads, head_dim]");
    assert!(v.len() == k.len(), "attention: v is as k");
    assert!(n_new <= len, "attention: {n_new} new tokens, {len} in the cache");
    let shape = AttentionShape { causality: Causality::Causal, ..*shape };
    let sequences = [Sequence { queries: 0..n_new, keys: 0..len, first_block: 0 }];
    Forward { shape, sequences: &sequences, q, k, v }.run(out, None);
}

/// Keys and values of up to [`CACHE_BLOCK`] tokens.
#[derive(Debug, Clone)]
pub struct CacheBlock {
    /// `[n_kv_heads, head_dim, CACHE_BLOCK]`.
    keys: Vec<f32>,
    /// `[n_kv_heads, CACHE_BLOCK, head_dim]`.
    values: Vec<f32>,
    head_dim: usize,
}

impl CacheBlock {
    /// Room for keys and values of `kv_width = n_kv_heads · head_dim` floats a token.
    #[must_use]
    pub fn new(kv_width: usize, head_dim: usize) -> Self {
        assert!(head_dim > 0 && kv_width.is_multiple_of(head_dim), "a cache's rows are whole heads");
        let zeros = || vec![0.0; CACHE_BLOCK * kv_width];
        Self { keys: zeros(), values: zeros(), head_dim }
    }

    /// Writes one token's key and value `[n_kv_heads, head_dim]`.
    pub fn write(&mut self, token: usize, key: &[f32], value: &[f32]) {
        assert!(
            token < CACHE_BLOCK && key.len() == value.len() && key.len() * CACHE_BLOCK == self.keys.len()
        );
        for (keys, &x) in self.keys.chunks_exact_mut(CACHE_BLOCK).zip(key) {
            keys[token] = x;
        }
        let d = self.head_dim;
        for (values, value) in self.values.chunks_exact_mut(CACHE_BLOCK * d).zip(value.chunks_exact(d)) {
            values[token * d..(token + 1) * d].copy_from_slice(value);
        }
    }

    /// Takes over all of another block of the same shape.
    pub fn copy_from(&mut self, other: &Self) {
        self.keys.copy_from_slice(&other.keys);
        self.values.copy_from_slice(&other.values);
    }

    /// Reads the first tokens' keys and values `[n, n_kv_heads, head_dim]`, as many as fit into `keys`.
    pub fn read(&self, keys: &mut [f32], values: &mut [f32]) {
        let (d, kv_width) = (self.head_dim, self.keys.len() / CACHE_BLOCK);
        let rows = keys.chunks_exact_mut(kv_width).zip(values.chunks_exact_mut(kv_width));
        for (token, (key, value)) in rows.enumerate() {
            for (x, keys) in key.iter_mut().zip(self.keys.chunks_exact(CACHE_BLOCK)) {
                *x = keys[token];
            }
            for (value, values) in value.chunks_exact_mut(d).zip(self.values.chunks_exact(CACHE_BLOCK * d)) {
                value.copy_from_slice(&values[token * d..(token + 1) * d]);
            }
        }
    }
}

/// Keys and values of a running sequence.
#[derive(Debug, Clone)]
pub struct CachedSequence<'a> {
    /// All blocks of `len` tokens.
    pub blocks: Vec<&'a CacheBlock>,
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
    for CachedSequence { blocks, len } in sequences {
        let n_blocks = blocks.len();
        assert!(
            n_blocks > 0 && n_blocks == len.div_ceil(CACHE_BLOCK),
            "attention: {n_blocks} blocks of a cache of {len} tokens"
        );
        let fits = |block: &&CacheBlock| {
            block.head_dim == shape.head_dim && block.keys.len() == CACHE_BLOCK * shape.kv_width()
        };
        assert!(blocks.iter().all(fits), "attention: blocks of another shape");
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
            decode_block(level, shape, q, cache.blocks[block], kv_head, keys, stats);
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
    /// The heads of one group, `q: [group, head_dim]`, against the tokens `visible` of one block.
    fn decode_block<S>(
        simd, shape: &AttentionShape, q: &[f32], block: &CacheBlock, kv_head: usize, visible: Range<usize>,
        stats: &mut [f32],
    ) {
        let d = shape.head_dim;
        let head = kv_head * CACHE_BLOCK * d..(kv_head + 1) * CACHE_BLOCK * d;
        let (keys, values) = (&block.keys[head.clone()], &block.values[head]);
        let heads = shape.group();
        // Scores of whole vectors of keys; of those, the visible ones are used.
        let before = visible.start / S::LANES * S::LANES;
        for first in (0..heads).step_by(TILE_ROWS) {
            let rows = TILE_ROWS.min(heads - first);
            let mut scores = [[0.0; CACHE_BLOCK]; TILE_ROWS];
            for (column, width) in panels::<S>(visible.end - before) {
                let tile = Tile {
                    k: d,
                    a: q[first * d..(first + rows) * d].as_ptr(),
                    a_row: d,
                    a_step: 1,
                    b: keys[before + column..].as_ptr(),
                    b_step: CACHE_BLOCK,
                    c: scores[0][before + column..].as_mut_ptr(),
                    c_row: CACHE_BLOCK,
                    write: Write::Overwrite,
                };
                // SAFETY: the rows of q were sliced; a row of keys and one of scores hold whole vectors up to the
                // block's end.
                unsafe { simd.tile(rows, width / S::LANES, &tile) };
            }
            let stats = &mut stats[first * stats_floats(d)..(first + rows) * stats_floats(d)];
            let scale = simd.splat(shape.scale);
            for (scores, stats) in scores.iter_mut().zip(stats.chunks_exact_mut(stats_floats(d))) {
                let scores = &mut scores[visible.clone()];
                let mut largest = simd.splat(f32::NEG_INFINITY);
                for s in scores.chunks_mut(S::LANES) {
                    // Filling of -infinity, -cap after a cap, is never above a score, and adds nothing to the sum.
                    let scaled = simd.mul(simd.load_or(s, f32::NEG_INFINITY), scale);
                    let scaled = match shape.soft_cap {
                        Some(cap) => capped(simd, scaled, cap).0,
                        None => scaled,
                    };
                    largest = simd.max(largest, scaled);
                    simd.store_some(s, scaled);
                }
                let largest = simd.largest(largest);
                let reference = simd.splat(if largest == f32::NEG_INFINITY { 0.0 } else { largest });
                let mut sum = simd.splat(0.0);
                for s in scores.chunks_mut(S::LANES) {
                    let p = simd.exp(simd.sub(simd.load_or(s, f32::NEG_INFINITY), reference));
                    sum = simd.add(sum, p);
                    simd.store_some(s, p);
                }
                stats[d] = largest;
                stats[d + 1] = simd.sum(sum);
            }
            let values = &values[visible.start * d..visible.end * d];
            if d.is_multiple_of(S::LANES) {
                for (column, width) in panels::<S>(d) {
                    let tile = Tile {
                        k: visible.len(),
                        a: scores[0][visible.start..].as_ptr(),
                        a_row: CACHE_BLOCK,
                        a_step: 1,
                        b: values[column..].as_ptr(),
                        b_step: d,
                        c: stats[column..].as_mut_ptr(),
                        c_row: stats_floats(d),
                        write: Write::Overwrite,
                    };
                    // SAFETY: `rows` heads have scores and statistics, and a row of values holds whole vectors.
                    unsafe { simd.tile(rows, width / S::LANES, &tile) };
                }
            } else {
                for (scores, stats) in scores.iter().zip(stats.chunks_exact_mut(stats_floats(d))) {
                    stats[..d].fill(0.0);
                    for (&p, value) in scores[visible.clone()].iter().zip(values.chunks_exact(d)) {
                        stats[..d].iter_mut().zip(value).for_each(|(out, v)| *out += p * v);
                    }
                }
            }
        }
    }
}
