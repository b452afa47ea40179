//! Attention over packed sequences, grouped heads, no mask tensor: inside each sequence
//!
//! ```text
//! s = scale · q kᵀ,  p = softmax(s) over the visible keys,  out = p v,  log_sum_exp = log Σ e^s
//! d_v = pᵀ d_out,  d_p = d_out vᵀ,  d_s = p (d_p - Σ d_out · out),  d_q = scale · d_s k,  d_k = scale · d_sᵀ q
//! ```
//!
//! With a soft cap c the scores are `c tanh(s / c)` (Gemma 2), and d_s is multiplied by the cap's slope.
//!
//! Forward is the tiled online softmax of Dao et al., "FlashAttention" (arXiv 2205.14135) and "FlashAttention-2"
//! (2307.08691); backward recomputes p of a tile from `log_sum_exp`. Scores exist for six queries and [`KEYS`] keys at
//! a time (a block of queries, backward). Tiles that no query may see are skipped, and on the diagonal so are the
//! vectors. A tile never holds two sequences.
//!
//! Keys and values are packed once for all heads and queries that read them (the scale goes into the keys). The items
//! of the threads are blocks of queries of one head forward; backward, ranges of queries of one group of heads. A
//! range sums its part of d_k and d_v over its heads and queries in order, and the parts of a sequence's ranges, whose
//! borders depend on its length alone, are added in order: no bit depends on the number of threads.
//!
//! Sums run in f32.

#![allow(unsafe_code, reason = "heads written by several threads, and the tile kernels")]

use crate::matmul::Write;
use crate::micro_kernel::{MicroKernel, TILE_ROWS, Tile};
use crate::pack::{pack_columns, pack_rows, padded, panels};
use crate::parallel::{Disjoint, for_each_item};
use crate::scratch::{Scratch, Stock, with_scratch};
use crate::simd::{MAX_LANES, SimdLevel, lanes, simd_fn};
use crate::soft_cap::{cap_row, capped, slope};
use std::cell::Cell;
use std::ops::Range;

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
    /// beginning with itself); `w` is at least 1.
    pub sliding_window: Option<usize>,
    /// With `Some(c)` scores become `c tanh(score / c)`.
    pub soft_cap: Option<f32>,
}

impl AttentionShape {
    /// The positions that position `i` of a sequence of `len` sees. Both ends grow with `i`.
    #[inline(always)]
    pub(crate) fn visible(&self, i: usize, len: usize) -> Range<usize> {
        let window = self.sliding_window.unwrap_or(len).min(len);
        let start = (i + 1).saturating_sub(window);
        match self.causality {
            Causality::Causal => start..i + 1,
            Causality::Full => start..(i + window).min(len),
        }
    }

    #[inline(always)]
    pub(crate) fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    pub(crate) fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    pub(crate) fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Panics where the heads cannot be grouped or the window is empty.
    pub(crate) fn check(&self) {
        assert!(self.head_dim > 0 && self.n_kv_heads > 0, "attention: heads are not empty");
        assert!(self.n_heads.is_multiple_of(self.n_kv_heads), "attention: n_kv_heads divides n_heads");
        assert!(self.sliding_window != Some(0), "attention: a token sees itself");
    }
}

/// Keys in a block.
const KEYS: usize = 64;
/// Queries in an item, forward, and in a block of scores, backward; whole tiles.
const QUERIES: usize = 16 * TILE_ROWS;
/// Fewest queries in a backward range, and the most ranges a sequence is cut into.
const RANGE_QUERIES: usize = 2 * QUERIES;
const MAX_RANGES: usize = 8;

static PACKED: Stock = Stock::new();

thread_local! {
    static WORK: Cell<Scratch> = const { Cell::new(Scratch::new()) };
}

/// Where a sequence lies: its queries are the last of its keys' positions.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) queries: Range<usize>,
    pub(crate) keys: Range<usize>,
    /// Number of key blocks before it.
    pub(crate) first_block: usize,
}

impl Sequence {
    /// What query `i` sees of the sequence's keys.
    #[inline(always)]
    fn visible(&self, shape: &AttentionShape, i: usize) -> Range<usize> {
        shape.visible(self.keys.len() - self.queries.len() + i, self.keys.len())
    }

    fn n_blocks(&self) -> usize {
        self.keys.len().div_ceil(KEYS)
    }
}

/// Where a sequence's queries lie among the queries, and its keys among the keys. The queries stand at the last of the
/// keys' positions: where there are more keys than queries, the first keys are those of a prefix, which other spans may
/// hold copies of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionSpan {
    /// Rows of `q`.
    pub queries: Range<usize>,
    /// Rows of `k` and `v`.
    pub keys: Range<usize>,
}

/// Spans of packed sequences that see themselves alone. Panics when the lengths fall.
pub fn spans_of(cumulative_lengths: &[u32]) -> Vec<AttentionSpan> {
    let spans = cumulative_lengths.windows(2).map(|span| {
        assert!(span[0] <= span[1], "attention: cumulative lengths do not fall");
        let tokens = span[0] as usize..span[1] as usize;
        AttentionSpan { queries: tokens.clone(), keys: tokens }
    });
    spans.collect()
}

fn sequences(spans: &[AttentionSpan], n_queries: usize, n_keys: usize) -> Vec<Sequence> {
    let (mut next_query, mut next_key, mut first_block) = (0, 0, 0);
    let sequences = spans.iter().map(|AttentionSpan { queries, keys }| {
        assert!(queries.start == next_query && keys.start == next_key, "attention: spans follow one another");
        assert!(
            queries.start <= queries.end && queries.len() <= keys.len() && keys.start <= keys.end,
            "attention: a span has a key for every query"
        );
        (next_query, next_key) = (queries.end, keys.end);
        let sequence = Sequence { queries: queries.clone(), keys: keys.clone(), first_block };
        first_block += sequence.n_blocks();
        sequence
    });
    let sequences = sequences.collect();
    assert!(
        next_query == n_queries && next_key == n_keys,
        "attention: cumulative lengths end at {next_query} of {n_queries} tokens and {next_key} of {n_keys} keys"
    );
    sequences
}

/// `range` seen from `start`, cut to `0..len`.
#[inline(always)]
fn clip(range: &Range<usize>, start: usize, len: usize) -> Range<usize> {
    range.start.saturating_sub(start).min(len)..range.end.saturating_sub(start).min(len)
}

/// Floats of a packed block of one head, in either layout.
fn block_floats(head_dim: usize) -> usize {
    KEYS * head_dim.next_multiple_of(MAX_LANES)
}

/// Keys or values in blocks of [`KEYS`], per head: `[n_kv_heads, blocks, block_floats]`.
#[derive(Clone, Copy)]
struct Blocks<'a> {
    data: &'a [f32],
    n_blocks: usize,
    block_floats: usize,
}

impl<'a> Blocks<'a> {
    #[inline(always)]
    fn block(&self, kv_head: usize, block: usize) -> &'a [f32] {
        &self.data[(kv_head * self.n_blocks + block) * self.block_floats..][..self.block_floats]
    }
}

simd_fn! {
    /// A block turned: panels of keys, rows of a panel are components.
    fn pack_turned<S>(simd, from: &[f32], stride: usize, n_keys: usize, head_dim: usize, factor: f32, to: &mut [f32]) {
        for first in (0..n_keys).step_by(S::TILE_COLUMNS) {
            let width = S::TILE_COLUMNS.min(n_keys - first);
            let to = &mut to[first * head_dim..][..S::TILE_COLUMNS * head_dim];
            pack_columns(simd, &from[first * stride..], stride, (head_dim, width), to, S::TILE_COLUMNS);
            for to in to.chunks_exact_mut(S::LANES) {
                let scaled = simd.mul(simd.load(to), simd.splat(factor));
                simd.store(to, scaled);
            }
        }
    }
}

simd_fn! {
    /// Rows as they are: panels of components, rows of a panel are tokens; a panel has room for `n_slots` tokens.
    fn pack_straight<S>(
        simd, from: &[f32], stride: usize, n_rows: usize, n_slots: usize, head_dim: usize, factor: f32,
        to: &mut [f32],
    ) {
        for (first, width) in panels::<S>(head_dim) {
            let size = (n_rows, width.min(head_dim - first));
            pack_rows(simd, &from[first..], stride, size, factor, &mut to[first * n_slots..], width);
        }
    }
}

/// The layouts a block of keys or values is packed in.
#[derive(Clone, Copy)]
enum Layout {
    /// For products along the components: scores.
    Turned,
    /// For products along the keys.
    Straight,
}

/// Packs all blocks of `from: [total, n_kv_heads, head_dim]`.
fn pack_blocks<'a>(
    shape: &AttentionShape,
    sequences: &[Sequence],
    from: &[f32],
    factor: f32,
    layout: Layout,
    to: &'a mut [f32],
) -> Blocks<'a> {
    let level = SimdLevel::current();
    let n_blocks: usize = sequences.iter().map(Sequence::n_blocks).sum();
    let (d, stride) = (shape.head_dim, shape.kv_width());
    let block_floats = block_floats(d);
    let places: Vec<(usize, usize)> = sequences
        .iter()
        .flat_map(|sequence| {
            sequence.keys.clone().step_by(KEYS).map(|start| (start, KEYS.min(sequence.keys.end - start)))
        })
        .collect();
    let out = Disjoint::new(to);
    for_each_item(n_blocks, |block| {
        let (start, n_keys) = places[block];
        for kv_head in 0..shape.n_kv_heads {
            // SAFETY: an item writes only its own block of each head.
            let to = unsafe { out.part((kv_head * n_blocks + block) * block_floats, block_floats) };
            let from = &from[start * stride + kv_head * d..];
            match layout {
                Layout::Turned => pack_turned(level, from, stride, n_keys, d, factor, to),
                Layout::Straight => pack_straight(level, from, stride, n_keys, KEYS, d, factor, to),
            }
        }
    });
    Blocks { data: to, n_blocks, block_floats }
}

/// Frees what attention keeps for the next call. It is as large as the largest batch so far, and made anew when needed.
pub fn release_attention_workspace() {
    PACKED.clear();
}

/// Most bytes that [`span_attention_forward`] and [`span_attention_backward`] use beside their arguments, for each key of
/// sequences whose lengths are whole blocks of keys; they are kept for the next call. Backward needs more: keys (twice) and
/// values packed, and the parts of their gradients that each range of queries makes. Of the ranges of a causal sequence,
/// `MAX_RANGES` at most, a key is seen by half on the average.
pub fn attention_workspace_bytes_per_key(n_kv_heads: usize, head_dim: usize) -> usize {
    let key_bytes = n_kv_heads * head_dim.next_multiple_of(MAX_LANES) * size_of::<f32>();
    // 3 packed; parts of d_k and d_v, (ranges + 1) / 2 each.
    3 * key_bytes + (MAX_RANGES + 1) * key_bytes
}

fn packed_floats(shape: &AttentionShape, sequences: &[Sequence]) -> usize {
    let n_blocks: usize = sequences.iter().map(Sequence::n_blocks).sum();
    shape.n_kv_heads * n_blocks * block_floats(shape.head_dim)
}

/// Products of `rows` rows at `a` (`a_row` apart, `head_dim` long) with a turned block: `rows` x `width` scores.
///
/// # Safety
/// The rows must be readable and `to` must have room for `rows` rows of [`KEYS`] floats.
#[inline(always)]
unsafe fn scores<S: MicroKernel>(
    simd: S,
    (rows, width, head_dim): (usize, usize, usize),
    (a, a_row): (*const f32, usize),
    turned: &[f32],
    to: *mut f32,
) {
    for first in (0..width).step_by(S::TILE_COLUMNS) {
        let vectors = (width - first).min(S::TILE_COLUMNS).div_ceil(S::LANES);
        let b = turned[first * head_dim..][..S::TILE_COLUMNS * head_dim].as_ptr();
        // SAFETY: columns `first..` are inside the row of scores, for a row is whole panels.
        let c = unsafe { to.add(first) };
        let b_step = S::TILE_COLUMNS;
        let tile =
            Tile { k: head_dim, a, a_row, a_step: 1, b, b_step, c, c_row: KEYS, write: Write::Overwrite };
        // SAFETY: the caller vouches for A and C, the slice above for B.
        unsafe { simd.tile(rows, vectors, &tile) };
    }
}

/// `C += A · B` for `rows` rows of A, `k` rows of straight panels from row `first_row`, C `padded` wide.
///
/// # Safety
/// `a` must be readable at its strides for `rows` by `k` elements.
#[inline(always)]
unsafe fn add_product<S: MicroKernel>(
    simd: S,
    (rows, k, head_dim): (usize, usize, usize),
    (a, a_row, a_step): (*const f32, usize, usize),
    (straight, n_slots, first_row): (&[f32], usize, usize),
    c: &mut [f32],
) {
    let c_row = padded::<S>(head_dim);
    assert!(c.len() >= rows * c_row && first_row + k <= n_slots);
    for (first, width) in panels::<S>(head_dim) {
        let b = straight[first * n_slots + first_row * width..][..k * width].as_ptr();
        // SAFETY: inside C, whose length was checked.
        let c = unsafe { c.as_mut_ptr().add(first) };
        let tile = Tile { k, a, a_row, a_step, b, b_step: width, c, c_row, write: Write::Add };
        // SAFETY: the caller vouches for A, the slice above for B, the assertion for C.
        unsafe { simd.tile(rows, width / S::LANES, &tile) };
    }
}

/// What the items of the forward pass read and write.
pub(crate) struct Forward<'a> {
    pub(crate) shape: AttentionShape,
    pub(crate) sequences: &'a [Sequence],
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
}

impl Forward<'_> {
    /// Fills `out` and, where it is wanted, `log_sum_exp: [n_heads, total]`.
    pub(crate) fn run(&self, out: &mut [f32], log_sum_exp: Option<&mut [f32]>) {
        let shape = &self.shape;
        let level = SimdLevel::current();
        let mut items: Vec<(usize, usize)> = (0..self.sequences.len())
            .flat_map(|s| (0..self.sequences[s].queries.len()).step_by(QUERIES).map(move |first| (s, first)))
            .collect();
        // The largest first, so that threads end together; late queries see more.
        items.sort_by_key(|&(s, first)| std::cmp::Reverse(self.sequences[s].visible(shape, first).len()));
        let (out, log_sum_exp) = (Disjoint::new(out), log_sum_exp.map(Disjoint::new));
        let packed_len = packed_floats(shape, self.sequences);
        PACKED.with(|scratch| {
            let (turned_keys, values) = scratch.floats(2 * packed_len).split_at_mut(packed_len);
            let keys = pack_blocks(shape, self.sequences, self.k, shape.scale, Layout::Turned, turned_keys);
            let values = pack_blocks(shape, self.sequences, self.v, 1.0, Layout::Straight, values);
            for_each_item(items.len() * shape.n_heads, |item| {
                let (s, first) = items[item / shape.n_heads];
                let head = item % shape.n_heads;
                with_scratch(&WORK, |scratch| {
                    let work = scratch.floats(forward_work_floats(shape.head_dim));
                    forward_queries(level, self, s, head, first, (keys, values), (out, log_sum_exp), work);
                });
            });
        });
    }
}

fn forward_work_floats(head_dim: usize) -> usize {
    QUERIES * (head_dim.next_multiple_of(MAX_LANES) + MAX_LANES + 1) + TILE_ROWS * KEYS
}

simd_fn! {
    /// One head of up to [`QUERIES`] queries.
    fn forward_queries<S>(
        simd, job: &Forward<'_>, sequence: usize, head: usize, first: usize, packed: (Blocks<'_>, Blocks<'_>),
        results: (Disjoint<'_, f32>, Option<Disjoint<'_, f32>>), work: &mut [f32],
    ) {
        let (shape, sequence) = (&job.shape, &job.sequences[sequence]);
        let (keys, values) = packed;
        let (d, d_padded) = (shape.head_dim, padded::<S>(shape.head_dim));
        let n = QUERIES.min(sequence.queries.len() - first);
        let (probabilities, work) = work.split_at_mut(TILE_ROWS * KEYS);
        let (out, work) = work.split_at_mut(QUERIES * d_padded);
        let (lane_sums, work) = work.split_at_mut(QUERIES * S::LANES);
        let maxima = &mut work[..QUERIES];
        out.fill(0.0);
        lane_sums.fill(0.0);
        maxima.fill(f32::NEG_INFINITY);
        let q_width = shape.q_width();
        let q = &job.q[(sequence.queries.start + first) * q_width + head * d..][..(n - 1) * q_width + d];
        let kv_head = head / shape.group();

        let seen = sequence.visible(shape, first).start..sequence.visible(shape, first + n - 1).end;
        for block in seen.start / KEYS..seen.end.div_ceil(KEYS) {
            let turned = keys.block(kv_head, sequence.first_block + block);
            let straight = values.block(kv_head, sequence.first_block + block);
            let start = block * KEYS;
            for tile in (0..n).step_by(TILE_ROWS) {
                let rows = TILE_ROWS.min(n - tile);
                let visible = |i: usize| clip(&sequence.visible(shape, first + tile + i), start, KEYS);
                let width = visible(rows - 1).end;
                if width == 0 || visible(0).start == KEYS {
                    continue;
                }
                let a = q[tile * q_width..].as_ptr();
                // SAFETY: `q` holds these rows, and the probabilities have room for a tile.
                unsafe { scores(simd, (rows, width, d), (a, q_width), turned, probabilities.as_mut_ptr()) };
                for i in 0..rows {
                    let row = &mut probabilities[i * KEYS..i * KEYS + padded::<S>(width)];
                    if let Some(cap) = shape.soft_cap {
                        cap_row(simd, row, cap);
                    }
                    let visible = visible(i);
                    row[..visible.start].fill(f32::NEG_INFINITY);
                    row[visible.end..].fill(f32::NEG_INFINITY);
                    let mut largest = simd.splat(f32::NEG_INFINITY);
                    for s in row.chunks_exact(S::LANES) {
                        largest = simd.max(simd.load(s), largest);
                    }
                    let before = maxima[tile + i];
                    let largest = before.max(simd.largest(largest));
                    // Where nothing is visible yet any finite number will do.
                    let reference = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
                    let lane_sum = &mut lane_sums[(tile + i) * S::LANES..(tile + i + 1) * S::LANES];
                    if largest > before {
                        maxima[tile + i] = largest;
                        let factor = simd.exp(simd.splat(before - reference));
                        let scaled = simd.mul(simd.load(lane_sum), factor);
                        simd.store(lane_sum, scaled);
                        for out in out[(tile + i) * d_padded..(tile + i + 1) * d_padded].chunks_exact_mut(S::LANES) {
                            let scaled = simd.mul(simd.load(out), factor);
                            simd.store(out, scaled);
                        }
                    }
                    let mut sum = simd.load(lane_sum);
                    for s in row.chunks_exact_mut(S::LANES) {
                        let p = simd.exp(simd.sub(simd.load(s), simd.splat(reference)));
                        sum = simd.add(sum, p);
                        simd.store(s, p);
                    }
                    simd.store(lane_sum, sum);
                }
                let a = (probabilities.as_ptr(), KEYS, 1);
                // SAFETY: the probabilities hold `rows` rows of at least `width`.
                unsafe { add_product(simd, (rows, width, d), a, (straight, KEYS, 0), &mut out[tile * d_padded..]) };
            }
        }

        for i in 0..n {
            let token = sequence.queries.start + first + i;
            let sum = simd.sum(simd.load(&lane_sums[i * S::LANES..]));
            // SAFETY: an item writes only its own queries of its own head.
            let to = unsafe { results.0.part(token * q_width + head * d, d) };
            for (to, from) in to.chunks_mut(S::LANES).zip(out[i * d_padded..].chunks(S::LANES)) {
                simd.store_some(to, simd.div(simd.load(from), simd.splat(sum)));
            }
            if let Some(log_sum_exp) = results.1 {
                let total = job.q.len() / q_width;
                // SAFETY: as above.
                let to = unsafe { log_sum_exp.part(head * total + token, 1) };
                to[0] = maxima[i] + sum.ln();
            }
        }
    }
}

/// Attention of packed sequences. `cumulative_lengths: [n_sequences + 1]` (`cu_seqlens` in FlashAttention),
/// `q`, `out: [total, n_heads, head_dim]`, `k`, `v: [total, n_kv_heads, head_dim]`, `log_sum_exp: [n_heads, total]`.
///
/// Panics when a size does not fit.
pub fn varlen_attention_forward(
    shape: &AttentionShape,
    cumulative_lengths: &[u32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    log_sum_exp: &mut [f32],
) {
    span_attention_forward(shape, &spans_of(cumulative_lengths), q, k, v, out, log_sum_exp);
}

/// The same with spans: `q`, `out: [n_queries, n_heads, head_dim]`, `k`, `v: [n_keys, n_kv_heads, head_dim]`,
/// `log_sum_exp: [n_heads, n_queries]`.
///
/// Panics when a size does not fit.
pub fn span_attention_forward(
    shape: &AttentionShape,
    spans: &[AttentionSpan],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    log_sum_exp: &mut [f32],
) {
    let (total, n_keys) = check_sizes(shape, q, k, v);
    assert!(out.len() == q.len(), "attention: out is as q");
    assert!(log_sum_exp.len() == shape.n_heads * total, "attention: log_sum_exp is [n_heads, total]");
    let sequences = sequences(spans, total, n_keys);
    Forward { shape: *shape, sequences: &sequences, q, k, v }.run(out, Some(log_sum_exp));
}

/// Numbers of queries and keys.
fn check_sizes(shape: &AttentionShape, q: &[f32], k: &[f32], v: &[f32]) -> (usize, usize) {
    shape.check();
    let (n_queries, n_keys) = (q.len() / shape.q_width(), k.len() / shape.kv_width());
    assert!(q.len() == n_queries * shape.q_width(), "attention: q is [total, n_heads, head_dim]");
    assert!(k.len() == n_keys * shape.kv_width(), "attention: k is [total, n_kv_heads, head_dim]");
    assert!(v.len() == k.len(), "attention: v is as k");
    (n_queries, n_keys)
}

/// Queries of one sequence that are one item of the backward pass, and the key blocks they see.
struct QueryRange {
    sequence: usize,
    queries: Range<usize>,
    blocks: Range<usize>,
    /// Number of key blocks of the ranges before it.
    first_part: usize,
}

fn query_ranges(shape: &AttentionShape, sequences: &[Sequence]) -> Vec<QueryRange> {
    let mut first_part = 0;
    let mut ranges = vec![];
    for (s, sequence) in sequences.iter().enumerate() {
        let n = sequence.queries.len();
        let step = n.div_ceil(MAX_RANGES).max(RANGE_QUERIES).next_multiple_of(QUERIES);
        for start in (0..n).step_by(step) {
            let queries = start..n.min(start + step);
            let seen = sequence.visible(shape, start).start..sequence.visible(shape, queries.end - 1).end;
            let blocks = seen.start / KEYS..seen.end.div_ceil(KEYS);
            ranges.push(QueryRange { sequence: s, queries, blocks: blocks.clone(), first_part });
            first_part += blocks.len();
        }
    }
    ranges
}

/// What the items of the backward pass read.
struct Backward<'a> {
    shape: AttentionShape,
    sequences: &'a [Sequence],
    q: &'a [f32],
    out: &'a [f32],
    log_sum_exp: &'a [f32],
    d_out: &'a [f32],
    turned_keys: Blocks<'a>,
    straight_keys: Blocks<'a>,
    turned_values: Blocks<'a>,
}

/// A score after the soft cap, where there is one, and the cap's slope there.
#[inline(always)]
fn capped_with_slope<S: MicroKernel>(simd: S, score: S::V, soft_cap: Option<f32>) -> (S::V, Option<S::V>) {
    match soft_cap {
        None => (score, None),
        Some(cap) => {
            let (score, tangent) = capped(simd, score, cap);
            (score, Some(slope(simd, tangent)))
        }
    }
}

fn backward_work_floats(n_queries: usize, head_dim: usize) -> usize {
    n_queries * (3 * head_dim.next_multiple_of(MAX_LANES) + 1) + 2 * QUERIES * KEYS
}

simd_fn! {
    /// The heads of one group for a range of queries: writes their `d_q`, and `d_k` and `d_v: [blocks, KEYS, padded]`
    /// as far as these queries make them.
    fn backward_range<S>(
        simd, job: &Backward<'_>, range: &QueryRange, kv_head: usize, d_q: Disjoint<'_, f32>, d_k: &mut [f32],
        d_v: &mut [f32], work: &mut [f32],
    ) {
        let (shape, sequence) = (&job.shape, &job.sequences[range.sequence]);
        let (d, d_padded, q_width) = (shape.head_dim, padded::<S>(shape.head_dim), shape.q_width());
        let n = range.queries.len();
        let first_token = sequence.queries.start + range.queries.start;
        let (p, work) = work.split_at_mut(QUERIES * KEYS);
        let (d_s, work) = work.split_at_mut(QUERIES * KEYS);
        let (q_rows, work) = work.split_at_mut(n * d_padded);
        let (d_out_rows, work) = work.split_at_mut(n * d_padded);
        let (d_q_rows, work) = work.split_at_mut(n * d_padded);
        let delta = &mut work[..n];
        d_k.fill(0.0);
        d_v.fill(0.0);

        for head in kv_head * shape.group()..(kv_head + 1) * shape.group() {
            let from = first_token * q_width + head * d;
            let (q, d_out, out) = (&job.q[from..], &job.d_out[from..], &job.out[from..]);
            for (first, width) in panels::<S>(d) {
                let size = (n, width.min(d - first));
                pack_rows(simd, &q[first..], q_width, size, 1.0, &mut q_rows[first * n..], width);
                pack_rows(simd, &d_out[first..], q_width, size, 1.0, &mut d_out_rows[first * n..], width);
            }
            for (i, delta) in delta.iter_mut().enumerate() {
                let (d_out, out) = (&d_out[i * q_width..][..d], &out[i * q_width..][..d]);
                let mut sum = simd.splat(0.0);
                for (d_out, out) in d_out.chunks(S::LANES).zip(out.chunks(S::LANES)) {
                    sum = simd.fma(simd.load_or(d_out, 0.0), simd.load_or(out, 0.0), sum);
                }
                *delta = simd.sum(sum);
            }
            d_q_rows.fill(0.0);
            let log_sum_exp = &job.log_sum_exp[head * (job.q.len() / q_width) + first_token..][..n];

            for block in range.blocks.clone() {
                let start = block * KEYS;
                let n_keys = KEYS.min(sequence.keys.len() - start);
                let turned_keys = job.turned_keys.block(kv_head, sequence.first_block + block);
                let straight_keys = job.straight_keys.block(kv_head, sequence.first_block + block);
                let turned_values = job.turned_values.block(kv_head, sequence.first_block + block);
                let visible = |i: usize| clip(&sequence.visible(shape, range.queries.start + i), start, n_keys);
                let part = (block - range.blocks.start) * KEYS * d_padded;

                for queries in (0..n).step_by(QUERIES) {
                    // Only the tiles in which some query sees some key of the block.
                    let end = n.min(queries + QUERIES);
                    let sees = |tile: usize| {
                        visible(end.min(tile + TILE_ROWS) - 1).end > 0 && visible(tile).start < n_keys
                    };
                    let mut tiles = (queries..end).step_by(TILE_ROWS).filter(|&tile| sees(tile));
                    let Some(first) = tiles.next() else { continue };
                    let last = tiles.next_back().unwrap_or(first);
                    let end = end.min(last + TILE_ROWS);

                    for tile in (first..end).step_by(TILE_ROWS) {
                        let rows = TILE_ROWS.min(end - tile);
                        let width = visible(tile + rows - 1).end;
                        let at = (tile - first) * KEYS;
                        let size = (rows, width, d);
                        let (q, d_out) = (q[tile * q_width..].as_ptr(), d_out[tile * q_width..].as_ptr());
                        let (p, d_s) = (&mut p[at..at + rows * KEYS], &mut d_s[at..at + rows * KEYS]);
                        // SAFETY: the range's rows exist, and a tile of scores has room.
                        unsafe {
                            scores(simd, size, (q, q_width), turned_keys, p.as_mut_ptr());
                            scores(simd, size, (d_out, q_width), turned_values, d_s.as_mut_ptr());
                        }
                        for (i, (p, d_s)) in p.chunks_exact_mut(KEYS).zip(d_s.chunks_exact_mut(KEYS)).enumerate() {
                            let log_sum_exp = simd.splat(log_sum_exp[tile + i]);
                            let delta = simd.splat(delta[tile + i]);
                            let vectors = padded::<S>(width);
                            let pairs = p[..vectors].chunks_exact_mut(S::LANES);
                            for (p, d_s) in pairs.zip(d_s[..vectors].chunks_exact_mut(S::LANES)) {
                                let (score, slope) = capped_with_slope(simd, simd.load(p), shape.soft_cap);
                                let probability = simd.exp(simd.sub(score, log_sum_exp));
                                let d_score = simd.mul(probability, simd.sub(simd.load(d_s), delta));
                                let d_score = match slope {
                                    Some(slope) => simd.mul(d_score, slope),
                                    None => d_score,
                                };
                                simd.store(p, probability);
                                simd.store(d_s, d_score);
                            }
                            let visible = visible(tile + i);
                            for scores in [p, d_s] {
                                scores[..visible.start].fill(0.0);
                                scores[visible.end..].fill(0.0);
                            }
                        }
                        let a = (d_s.as_ptr(), KEYS, 1);
                        let d_q = &mut d_q_rows[tile * d_padded..];
                        // SAFETY: `d_s` holds `rows` rows.
                        unsafe { add_product(simd, (rows, width, d), a, (straight_keys, KEYS, 0), d_q) };
                    }
                    let k = end - first;
                    for key in (0..n_keys).step_by(TILE_ROWS) {
                        let size = (TILE_ROWS.min(n_keys - key), k, d);
                        let to = part + key * d_padded;
                        // SAFETY: `p` and `d_s` hold `k` rows of KEYS, of which columns `key..` are read.
                        unsafe {
                            let (p, d_s) = (p[key..].as_ptr(), d_s[key..].as_ptr());
                            add_product(simd, size, (p, 1, KEYS), (d_out_rows, n, first), &mut d_v[to..]);
                            add_product(simd, size, (d_s, 1, KEYS), (q_rows, n, first), &mut d_k[to..]);
                        }
                    }
                }
            }
            for (i, from) in d_q_rows.chunks_exact(d_padded).enumerate() {
                // SAFETY: an item writes only its own queries of its own heads.
                let to = unsafe { d_q.part((first_token + i) * q_width + head * d, d) };
                to.copy_from_slice(&from[..d]);
            }
        }
    }
}

/// Gradients of [`varlen_attention_forward`], overwriting `d_q` (as `q`) and `d_k`, `d_v` (as `k`).
///
/// `out` and `log_sum_exp` are what forward gave. Panics when a size does not fit.
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
    let spans = spans_of(cumulative_lengths);
    span_attention_backward(shape, &spans, q, k, v, out, log_sum_exp, d_out, d_q, d_k, d_v);
}

/// The same with spans. The gradients of keys that are copies of a prefix are those of the copies.
///
/// Panics when a size does not fit.
pub fn span_attention_backward(
    shape: &AttentionShape,
    spans: &[AttentionSpan],
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
    let (total, n_keys) = check_sizes(shape, q, k, v);
    assert!(
        out.len() == q.len() && d_out.len() == q.len() && d_q.len() == q.len(),
        "attention: out, d_out, d_q as q"
    );
    assert!(d_k.len() == k.len() && d_v.len() == k.len(), "attention: d_k and d_v are as k");
    assert!(log_sum_exp.len() == shape.n_heads * total, "attention: log_sum_exp is [n_heads, total]");
    let sequences = sequences(spans, total, n_keys);
    let ranges = query_ranges(shape, &sequences);
    let level = SimdLevel::current();
    let (d, n_kv_heads) = (shape.head_dim, shape.n_kv_heads);
    let d_padded = d.next_multiple_of(lanes(level));
    let packed_len = packed_floats(shape, &sequences);
    let part_len = KEYS * d_padded;
    let n_parts = ranges.iter().map(|range| range.blocks.len()).sum::<usize>();
    let parts_len = n_kv_heads * n_parts * part_len;
    let longest_range = ranges.iter().map(|range| range.queries.len()).max().unwrap_or(0);
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(ranges[i].blocks.len() * ranges[i].queries.len()));

    PACKED.with(|scratch| {
        let (turned_keys, rest) = scratch.floats(3 * packed_len + 2 * parts_len).split_at_mut(packed_len);
        let (straight_keys, rest) = rest.split_at_mut(packed_len);
        let (turned_values, rest) = rest.split_at_mut(packed_len);
        let (k_parts, v_parts) = rest.split_at_mut(parts_len);
        let job = Backward {
            shape: *shape,
            sequences: &sequences,
            q,
            out,
            log_sum_exp,
            d_out,
            turned_keys: pack_blocks(shape, &sequences, k, shape.scale, Layout::Turned, turned_keys),
            straight_keys: pack_blocks(shape, &sequences, k, shape.scale, Layout::Straight, straight_keys),
            turned_values: pack_blocks(shape, &sequences, v, 1.0, Layout::Turned, turned_values),
        };
        let d_q = Disjoint::new(d_q);
        let (to_k, to_v) = (Disjoint::new(k_parts), Disjoint::new(v_parts));
        for_each_item(order.len() * n_kv_heads, |item| {
            let range = &ranges[order[item / n_kv_heads]];
            let kv_head = item % n_kv_heads;
            let (offset, len) =
                ((kv_head * n_parts + range.first_part) * part_len, range.blocks.len() * part_len);
            // SAFETY: an item writes only the parts of its own range and head.
            let (d_k, d_v) = unsafe { (to_k.part(offset, len), to_v.part(offset, len)) };
            with_scratch(&WORK, |scratch| {
                let work = scratch.floats(backward_work_floats(longest_range, d));
                backward_range(level, &job, range, kv_head, d_q, d_k, d_v, work);
            });
        });

        let (k_parts, v_parts) = (&*k_parts, &*v_parts);
        let (d_k, d_v) = (Disjoint::new(d_k), Disjoint::new(d_v));
        let n_blocks: usize = sequences.iter().map(Sequence::n_blocks).sum();
        let sequence_of: Vec<usize> = sequences
            .iter()
            .enumerate()
            .flat_map(|(s, sequence)| (0..sequence.n_blocks()).map(move |_| s))
            .collect();
        for_each_item(n_blocks, |item| {
            let s = sequence_of[item];
            let block = item - sequences[s].first_block;
            let start = sequences[s].keys.start + block * KEYS;
            let n_keys = KEYS.min(sequences[s].keys.end - start);
            let seen_by = |range: &&QueryRange| range.sequence == s && range.blocks.contains(&block);
            for kv_head in 0..n_kv_heads {
                for key in 0..n_keys {
                    // SAFETY: an item writes only its own keys.
                    let (d_k, d_v) = unsafe {
                        let offset = ((start + key) * n_kv_heads + kv_head) * d;
                        (d_k.part(offset, d), d_v.part(offset, d))
                    };
                    d_k.fill(0.0);
                    d_v.fill(0.0);
                    for range in ranges.iter().filter(seen_by) {
                        let part = kv_head * n_parts + range.first_part + block - range.blocks.start;
                        let from = part * part_len + key * d_padded;
                        d_k.iter_mut()
                            .zip(&k_parts[from..])
                            .for_each(|(d_k, part)| *d_k += shape.scale * part);
                        d_v.iter_mut().zip(&v_parts[from..]).for_each(|(d_v, part)| *d_v += part);
                    }
                }
            }
        });
    });
}
