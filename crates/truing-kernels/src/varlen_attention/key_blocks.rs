//! Keys and values packed in blocks, and the products of a few rows with a block.

#![allow(unsafe_code, reason = "heads written by several threads, and the tile kernels")]

use super::{AttentionShape, KEYS, Sequence};
use crate::micro_kernel::{MicroKernel, Tile, Write};
use crate::pack::{pack_columns, pack_rows, padded, panels};
use crate::parallel::{Disjoint, for_each_item};
use crate::simd::{MAX_LANES, SimdLevel, simd_fn};
use std::ops::Range;

/// `range` seen from `start`, cut to `0..len`.
#[inline(always)]
pub(super) fn clip(range: &Range<usize>, start: usize, len: usize) -> Range<usize> {
    range.start.saturating_sub(start).min(len)..range.end.saturating_sub(start).min(len)
}

/// Floats of a packed block of one head, in either layout.
fn block_floats(head_dim: usize) -> usize {
    KEYS * head_dim.next_multiple_of(MAX_LANES)
}

/// Keys or values in blocks of [`KEYS`], per head: `[n_kv_heads, blocks, block_floats]`.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    data: &'a [f32],
    n_blocks: usize,
    block_floats: usize,
}

impl<'a> Blocks<'a> {
    #[inline(always)]
    pub(super) fn block(&self, kv_head: usize, block: usize) -> &'a [f32] {
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
pub(super) enum Layout {
    /// For products along the components: scores.
    Turned,
    /// For products along the keys.
    Straight,
}

/// Packs all blocks of `from: [total, n_kv_heads, head_dim]`.
pub(super) fn pack_blocks<'a>(
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

pub(super) fn packed_floats(shape: &AttentionShape, sequences: &[Sequence]) -> usize {
    let n_blocks: usize = sequences.iter().map(Sequence::n_blocks).sum();
    shape.n_kv_heads * n_blocks * block_floats(shape.head_dim)
}

/// Products of `rows` rows at `a` (`a_row` apart, `head_dim` long) with a turned block: `rows` x `width` scores.
///
/// # Safety
/// The rows must be readable and `to` must have room for `rows` rows of [`KEYS`] floats.
#[inline(always)]
pub(super) unsafe fn scores<S: MicroKernel>(
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
pub(super) unsafe fn add_product<S: MicroKernel>(
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
