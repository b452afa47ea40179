//! The gradients: ranges of queries make their parts of `d_k` and `d_v`, which are then added in order.

#![allow(unsafe_code, reason = "heads written by several threads, and the tile kernels")]

use super::key_blocks::{Blocks, Layout, add_product, clip, pack_blocks, packed_floats, scores};
use super::{
    AttentionShape, AttentionSpan, KEYS, MAX_RANGES, PACKED, QUERIES, RANGE_QUERIES, Sequence, WORK,
    check_sizes, sequences, spans_of,
};
use crate::micro_kernel::{MicroKernel, TILE_ROWS};
use crate::pack::{pack_rows, padded, panels};
use crate::parallel::{Disjoint, for_each_item};
use crate::scratch::with_scratch;
use crate::simd::{MAX_LANES, SimdLevel, lanes, simd_fn};
use crate::soft_cap::{capped, slope};
use std::ops::Range;

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

/// Gradients of [`varlen_attention_forward`](crate::varlen_attention_forward), overwriting `d_q` (as `q`) and `d_k`,
/// `d_v` (as `k`).
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
