//! Sums, gathers and checks on whole slices.

use crate::parallel::{Disjoint, ELEMENTS_PER_ITEM, for_each_item};
use crate::simd::{SimdLevel, simd_fn};
use rayon::prelude::*;

simd_fn! {
    fn add_chunk<S>(simd, a: &mut [f32], b: &[f32]) {
        for (a, b) in a.chunks_mut(S::LANES).zip(b.chunks(S::LANES)) {
            let sum = simd.add(simd.load_or(a, 0.0), simd.load_or(b, 0.0));
            simd.store_some(a, sum);
        }
    }
}

/// `a += b`. Panics when the lengths differ.
pub fn add_assign(a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "add_assign: both sides have one length");
    let level = SimdLevel::current();
    if a.len() <= ELEMENTS_PER_ITEM {
        return add_chunk(level, a, b);
    }
    a.par_chunks_mut(ELEMENTS_PER_ITEM)
        .zip(b.par_chunks(ELEMENTS_PER_ITEM))
        .for_each(|(a, b)| add_chunk(level, a, b));
}

/// `a = b`. Panics when the lengths differ.
pub fn copy(a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "copy: both sides have one length");
    if a.len() <= ELEMENTS_PER_ITEM {
        return a.copy_from_slice(b);
    }
    a.par_chunks_mut(ELEMENTS_PER_ITEM)
        .zip(b.par_chunks(ELEMENTS_PER_ITEM))
        .for_each(|(a, b)| a.copy_from_slice(b));
}

/// Every element becomes `value`.
pub fn fill(a: &mut [f32], value: f32) {
    if a.len() <= ELEMENTS_PER_ITEM {
        return a.fill(value);
    }
    a.par_chunks_mut(ELEMENTS_PER_ITEM).for_each(|a| a.fill(value));
}

/// `a *= factor`.
pub fn scale(a: &mut [f32], factor: f32) {
    let scale_chunk = |a: &mut [f32]| a.iter_mut().for_each(|a| *a *= factor);
    if a.len() <= ELEMENTS_PER_ITEM {
        return scale_chunk(a);
    }
    a.par_chunks_mut(ELEMENTS_PER_ITEM).for_each(scale_chunk);
}

/// Σ x², accumulated in f64: lanes of a fixed chunk first, then the chunks in order.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    const LANES: usize = 16;
    fn chunk_sum(x: &[f32]) -> f64 {
        let mut lanes = [0.0f64; LANES];
        let mut groups = x.chunks_exact(LANES);
        for group in &mut groups {
            for (lane, &x) in lanes.iter_mut().zip(group) {
                *lane += f64::from(x) * f64::from(x);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(groups.remainder()) {
            *lane += f64::from(x) * f64::from(x);
        }
        lanes.iter().sum()
    }
    if x.len() <= ELEMENTS_PER_ITEM {
        return chunk_sum(x);
    }
    let sums: Vec<f64> = x.par_chunks(ELEMENTS_PER_ITEM).map(chunk_sum).collect();
    sums.iter().sum()
}

/// Whether no element is NaN or infinite.
pub fn all_finite(x: &[f32]) -> bool {
    // x · 0 is 0 for a finite x and NaN otherwise; without an early exit the compiler vectorises the sum.
    fn chunk(x: &[f32]) -> bool {
        x.chunks(1024).all(|x| x.iter().fold(true, |fine, x| fine & x.is_finite()))
    }
    if x.len() <= ELEMENTS_PER_ITEM {
        return chunk(x);
    }
    x.par_chunks(ELEMENTS_PER_ITEM).all(chunk)
}

/// `out[i] = table[ids[i]]`: the embedding. `table: [n, width]`, `out: [ids.len(), width]`.
///
/// Panics when an id is not below `n` or a length does not fit.
pub fn gather_rows(table: &[f32], width: usize, ids: &[u32], out: &mut [f32]) {
    assert_eq!(out.len(), ids.len() * width, "gather_rows: out is [ids, width]");
    for (out, &id) in out.chunks_exact_mut(width.max(1)).zip(ids) {
        let start = id as usize * width;
        out.copy_from_slice(&table[start..start + width]);
    }
}

/// `out[i] += table[ids[i]]`, shapes as in [`gather_rows`]: an embedding on top of another.
///
/// Panics when an id is not below `n` or a length does not fit.
pub fn gather_add_rows(table: &[f32], width: usize, ids: &[u32], out: &mut [f32]) {
    assert_eq!(out.len(), ids.len() * width, "gather_add_rows: out is [ids, width]");
    for (out, &id) in out.chunks_exact_mut(width.max(1)).zip(ids) {
        let start = id as usize * width;
        out.iter_mut().zip(&table[start..start + width]).for_each(|(out, x)| *out += x);
    }
}

/// `d_table[ids[i]] += d_out[i]`, in the order of `i`: the backward pass of [`gather_rows`].
///
/// Threads share the columns, not the rows, so a repeated id is summed in the same order however many there are.
#[allow(unsafe_code, reason = "column blocks of one table written by several threads")]
pub fn scatter_add_rows(d_out: &[f32], width: usize, ids: &[u32], d_table: &mut [f32]) {
    const COLUMNS: usize = 128;
    assert_eq!(d_out.len(), ids.len() * width, "scatter_add_rows: d_out is [ids, width]");
    let d_table = Disjoint::new(d_table);
    let add_columns = |block: usize| {
        let start = block * COLUMNS;
        let n_columns = COLUMNS.min(width - start);
        for (row, &id) in ids.iter().enumerate() {
            // SAFETY: an item touches only its own block of columns.
            let to = unsafe { d_table.part(id as usize * width + start, n_columns) };
            for (to, from) in to.iter_mut().zip(&d_out[row * width + start..]) {
                *to += from;
            }
        }
    };
    let n_blocks = width.div_ceil(COLUMNS);
    if d_out.len() <= ELEMENTS_PER_ITEM {
        (0..n_blocks).for_each(add_columns);
    } else {
        for_each_item(n_blocks, add_columns);
    }
}
