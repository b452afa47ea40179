//! Copies of matrix blocks in the order the tile kernels read them: a panel is the rows of B, each a few whole
//! vectors, one after another.

#![allow(unsafe_code, reason = "block transposes through pointers")]

use crate::micro_kernel::MicroKernel;
use crate::simd::Simd;

/// `len` rounded up to whole vectors.
#[inline(always)]
pub(crate) fn padded<S: Simd>(len: usize) -> usize {
    len.next_multiple_of(S::LANES)
}

/// The panels of a matrix with `width` columns: (first column, columns in whole vectors).
#[inline(always)]
pub(crate) fn panels<S: MicroKernel>(width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..width)
        .step_by(S::TILE_COLUMNS)
        .map(move |start| (start, padded::<S>(width - start).min(S::TILE_COLUMNS)))
}

/// `to[p · to_stride + j] = factor · from[p · stride + j]` for `j < width`, and 0 up to `to_stride`.
#[inline(always)]
pub(crate) fn pack_rows<S: Simd>(
    simd: S,
    from: &[f32],
    stride: usize,
    (n_rows, width): (usize, usize),
    factor: f32,
    to: &mut [f32],
    to_stride: usize,
) {
    let factor_lanes = simd.splat(factor);
    for (p, row) in to.chunks_exact_mut(to_stride).take(n_rows).enumerate() {
        let from = &from[p * stride..p * stride + width];
        for (from, to) in from.chunks(S::LANES).zip(row.chunks_mut(S::LANES)) {
            if from.len() < S::LANES || to.len() < S::LANES {
                to.fill(0.0);
                to.iter_mut().zip(from).for_each(|(to, from)| *to = factor * from);
            } else {
                simd.store(to, simd.mul(simd.load(from), factor_lanes));
            }
        }
        if padded::<S>(width) < to_stride {
            row[padded::<S>(width)..].fill(0.0);
        }
    }
}

/// `to[p · to_stride + j] = from[j · stride + p]` for `j < width`, and 0 up to `to_stride`; `p < k`.
#[inline(always)]
pub(crate) fn pack_columns<S: Simd>(
    simd: S,
    from: &[f32],
    stride: usize,
    (k, width): (usize, usize),
    to: &mut [f32],
    to_stride: usize,
) {
    assert!(to_stride >= width && (k == 0 || to.len() >= k * to_stride));
    assert!(k == 0 || width == 0 || from.len() >= (width - 1) * stride + k);
    let whole_columns = width / S::LANES * S::LANES;
    let whole_k = k / S::LANES * S::LANES;
    for j in (0..whole_columns).step_by(S::LANES) {
        for p in (0..whole_k).step_by(S::LANES) {
            // SAFETY: whole blocks inside the sizes checked above.
            unsafe {
                let from = from.as_ptr().add(j * stride + p);
                simd.transpose(from, stride, to.as_mut_ptr().add(p * to_stride + j), to_stride);
            }
        }
        for jj in j..j + S::LANES {
            for p in whole_k..k {
                to[p * to_stride + jj] = from[jj * stride + p];
            }
        }
    }
    for p in 0..k {
        for j in whole_columns..width {
            to[p * to_stride + j] = from[j * stride + p];
        }
        to[p * to_stride + width..(p + 1) * to_stride].fill(0.0);
    }
}
