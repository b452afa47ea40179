//! The outputs and their `log_sum_exp`: the online softmax, block of keys by block of keys.

#![allow(unsafe_code, reason = "heads written by several threads, and the tile kernels")]

use super::key_blocks::{Blocks, Layout, add_product, clip, pack_blocks, packed_floats, scores};
use super::{
    AttentionShape, AttentionSpan, KEYS, PACKED, QUERIES, Sequence, WORK, check_sizes, sequences, spans_of,
};
use crate::micro_kernel::TILE_ROWS;
use crate::pack::padded;
use crate::parallel::{Disjoint, for_each_item};
use crate::scratch::with_scratch;
use crate::simd::{MAX_LANES, SimdLevel, simd_fn};
use crate::soft_cap::cap_row;

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
