//! Weights of 8 bits for [`multiply_rows`](crate::multiply_rows): blocks of 32 along a row with one scale each,
//! `w ≈ q s`, `s = max |w| / 127`, `q` a whole number in -127..=127 (symmetric, as GGUF's Q8_0; its 16-bit scales are
//! 32 here). 9 bits a weight, an error of at most `s / 2`.
//!
//! Weights alone are quantized: the rows of `x` and all sums stay `f32`. A product has, bit for bit, the result that
//! `f32(q s)` would have in an `f32` weight, so all that holds of those products holds here. Quantising `x` as well
//! would save arithmetic where many rows meet the weights, at the price of a second error.
//!
//! Four rows of weights lie interleaved, block by block, so that a thread reads one stream:
//! `numbers [n_out / 4, n_in / 32, 4, 32]`, `scales [n_out / 4, n_in / 32, 4]`, both padded with zeros.

#![allow(unsafe_code, reason = "blocks read through pointers, and written by several threads")]

use crate::memory::{zeroed, zeroed_bytes};
use crate::micro_kernel::{BLOCK_COLUMNS, BlockSums, FEW_ROWS, Product, RowBlock};
use crate::parallel::{Disjoint, for_each_item};
use crate::simd::{MAX_LANES, Simd, SimdLevel, simd_fn};
use std::ops::Range;

/// Weights of a block.
const BLOCK: usize = 32;
/// Numbers of a block of four rows.
const QUAD: usize = BLOCK_COLUMNS * BLOCK;
/// Largest magnitude of a number.
const LARGEST: f32 = 127.0;
/// Bytes that weights are asked for ahead.
const AHEAD_BYTES: usize = 8192;
/// Rows of weights in an item of compressing.
const ROWS_PER_ITEM: usize = 16 * BLOCK_COLUMNS;

/// A matrix `[n_out, n_in]` in 8-bit blocks.
#[derive(Clone, Debug)]
pub struct Int8Matrix {
    numbers: Vec<i8>,
    scales: Vec<f32>,
    n_out: usize,
    n_in: usize,
}

impl Int8Matrix {
    /// Zeros.
    #[must_use]
    pub fn new(n_out: usize, n_in: usize) -> Self {
        let n_quads = n_out.div_ceil(BLOCK_COLUMNS) * n_in.div_ceil(BLOCK);
        let (numbers, scales) = (zeroed_bytes(n_quads * QUAD), zeroed(n_quads * BLOCK_COLUMNS));
        Self { numbers, scales, n_out, n_in }
    }

    /// Rows.
    #[must_use]
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Columns.
    #[must_use]
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Bytes that a matrix `[n_out, n_in]` takes.
    #[must_use]
    pub fn bytes(n_out: usize, n_in: usize) -> usize {
        n_out.div_ceil(BLOCK_COLUMNS) * n_in.div_ceil(BLOCK) * (QUAD + BLOCK_COLUMNS * size_of::<f32>())
    }

    /// Floats that four rows take, padded to whole blocks.
    pub(crate) fn unpacked_floats(&self) -> usize {
        self.n_in.div_ceil(BLOCK) * QUAD
    }

    /// Takes other weights of the same shape. A block that holds NaN or infinity becomes NaN.
    ///
    /// Panics when `weight` is not `[n_out, n_in]`.
    pub fn compress(&mut self, weight: &[f32]) {
        assert_eq!(weight.len(), self.n_out * self.n_in, "an 8-bit matrix is [n_out, n_in]");
        if weight.is_empty() {
            return;
        }
        let level = SimdLevel::current();
        let n_blocks = self.n_in.div_ceil(BLOCK);
        let (numbers, scales) = (Disjoint::new(&mut self.numbers), Disjoint::new(&mut self.scales));
        let rows: Vec<&[f32]> = weight.chunks(ROWS_PER_ITEM * self.n_in).collect();
        for_each_item(rows.len(), |item| {
            let n_quads = rows[item].len().div_ceil(BLOCK_COLUMNS * self.n_in) * n_blocks;
            let start = item * ROWS_PER_ITEM / BLOCK_COLUMNS * n_blocks;
            // SAFETY: an item writes only its own rows.
            let numbers = unsafe { numbers.part(start * QUAD, n_quads * QUAD) };
            // SAFETY: as above.
            let scales = unsafe { scales.part(start * BLOCK_COLUMNS, n_quads * BLOCK_COLUMNS) };
            compress_rows(level, rows[item], self.n_in, numbers, scales);
        });
    }

    /// The weights that the blocks stand for, `[n_out, n_in]`.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let n_blocks = self.n_in.div_ceil(BLOCK);
        let mut weight = Vec::with_capacity(self.n_out * self.n_in);
        for row in 0..self.n_out {
            weight.extend((0..self.n_in).map(|column| {
                let quad = row / BLOCK_COLUMNS * n_blocks + column / BLOCK;
                let number = self.numbers[quad * QUAD + row % BLOCK_COLUMNS * BLOCK + column % BLOCK];
                f32::from(number) * self.scales[quad * BLOCK_COLUMNS + row % BLOCK_COLUMNS]
            }));
        }
        weight
    }
}

simd_fn! {
    /// Rows of weights into blocks. The body is plain Rust, which the compiler turns into the level's instructions.
    fn compress_rows<S>(simd, weight: &[f32], n_in: usize, numbers: &mut [i8], scales: &mut [f32]) {
        // Adding 1.5 · 2^23 leaves the nearest whole number, in two's complement, in the lowest bits.
        const MAGIC: f32 = 12_582_912.0;
        let (n_blocks, _) = (n_in.div_ceil(BLOCK), simd);
        for (row, weight) in weight.chunks_exact(n_in).enumerate() {
            for (block, weight) in weight.chunks(BLOCK).enumerate() {
                let quad = row / BLOCK_COLUMNS * n_blocks + block;
                let numbers = &mut numbers[quad * QUAD + row % BLOCK_COLUMNS * BLOCK..][..weight.len()];
                // Magnitudes are ordered as their bits, infinity and NaN above all numbers.
                let magnitude = |w: &f32| w.to_bits() & 0x7fff_ffff;
                let largest = f32::from_bits(weight.iter().fold(0, |most, w| most.max(magnitude(w))));
                let is_regular = largest.is_finite() && largest >= LARGEST * f32::MIN_POSITIVE;
                let inverse = if is_regular { LARGEST / largest } else { 0.0 };
                for (number, w) in numbers.iter_mut().zip(weight) {
                    *number = if is_regular { (w * inverse + MAGIC).to_bits() as i8 } else { 0 };
                }
                let scale = if largest.is_finite() { largest / LARGEST } else { f32::NAN };
                scales[quad * BLOCK_COLUMNS + row % BLOCK_COLUMNS] = scale;
            }
        }
    }
}

/// Rows of `x` and four rows of weights.
#[derive(Clone, Copy)]
pub(crate) struct Int8Block {
    /// Terms of a sum.
    k: usize,
    /// Row i of x is at `x + i · k`.
    x: *const f32,
    /// `[k / 32, 4, 32]`, padded.
    numbers: *const i8,
    /// `[k / 32, 4]`.
    scales: *const f32,
    /// Where the weights are left behind as floats, `[4, k padded to whole blocks]`, if at all.
    floats: Option<*mut f32>,
}

impl Int8Block {
    /// Whether the weights are left behind.
    pub(crate) fn keeps(&self) -> bool {
        self.floats.is_some()
    }

    /// The vectors of four rows of weights at `p`, a multiple of the lanes.
    ///
    /// # Safety
    /// `p` must be below `k`.
    #[inline(always)]
    unsafe fn weights<S: Simd>(&self, simd: S, p: usize) -> [S::V; BLOCK_COLUMNS] {
        let mut vectors = [simd.splat(0.0); BLOCK_COLUMNS];
        for (column, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: inside the block that holds `p`.
            *vector = unsafe {
                let numbers = self.numbers.add(p / BLOCK * QUAD + column * BLOCK + p % BLOCK);
                let scale = *self.scales.add(p / BLOCK * BLOCK_COLUMNS + column);
                simd.mul(simd.load_i8_ptr(numbers), simd.splat(scale))
            };
        }
        vectors
    }
}

/// `ROWS` rows of `x` against four rows of weights, in the order of `row_block`.
#[inline(always)]
pub(crate) unsafe fn int8_block<S: Simd, const ROWS: usize, const KEEPS: bool>(
    simd: S,
    block: &Int8Block,
    out: &mut BlockSums,
) {
    let Int8Block { k, x, numbers, floats, .. } = *block;
    let stride = k.next_multiple_of(BLOCK);
    let floats = floats.unwrap_or(std::ptr::null_mut());
    let whole = k / S::LANES * S::LANES;
    let mut x_rest = [[0.0; MAX_LANES]; ROWS];
    if whole < k {
        for (i, rest) in x_rest.iter_mut().enumerate() {
            // SAFETY: the caller vouches for ROWS rows of k floats.
            unsafe { x.add(i * k + whole).copy_to_nonoverlapping(rest.as_mut_ptr(), k - whole) };
        }
    }
    let mut sums = [[simd.splat(0.0); BLOCK_COLUMNS]; ROWS];
    let mut p = 0;
    while p < whole {
        if p % BLOCK == 0 {
            let ahead = numbers.wrapping_add(p / BLOCK * QUAD + AHEAD_BYTES).cast::<f32>();
            simd.prefetch_stream(ahead);
            simd.prefetch_stream(ahead.wrapping_add(QUAD / 2 / size_of::<f32>()));
        }
        // SAFETY: the caller vouches for four rows of weights.
        let vectors = unsafe { block.weights(simd, p) };
        if KEEPS {
            for (column, &vector) in vectors.iter().enumerate() {
                // SAFETY: the caller vouches for room for four rows, where something is kept.
                unsafe { simd.store_ptr(floats.add(column * stride + p), vector) };
            }
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: a whole vector of a row that the caller vouches for.
            let x = unsafe { simd.load_ptr(x.add(i * k + p)) };
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = simd.fma(x, vector, *sum);
            }
        }
        p += S::LANES;
    }
    if whole < k {
        // SAFETY: as above; they are padded to whole blocks.
        let vectors = unsafe { block.weights(simd, whole) };
        if KEEPS {
            for (column, &vector) in vectors.iter().enumerate() {
                // SAFETY: as above.
                unsafe { simd.store_ptr(floats.add(column * stride + whole), vector) };
            }
        }
        for (x, sums) in x_rest.iter().zip(&mut sums) {
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = simd.fma(simd.load(x), vector, *sum);
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = simd.sum_four(sums);
    }
}

simd_fn! {
    /// Columns `range` (from a multiple of four on) of a product, `sums` `[n_rows, range]`; `floats` has room for
    /// [`Int8Matrix::unpacked_floats`].
    pub(crate) fn multiply_int8_columns<S>(
        simd, x: &[f32], weight: &Int8Matrix, range: Range<usize>, sums: &mut [f32], floats: &mut [f32],
    ) {
        let (k, width) = (weight.n_in, range.len());
        let n_rows = x.len() / k;
        let n_parts = n_rows.div_ceil(S::ROW_BLOCK);
        let n_blocks = k.div_ceil(BLOCK);
        let stride = n_blocks * BLOCK;
        for at in (0..width).step_by(BLOCK_COLUMNS) {
            let quad = (range.start + at) / BLOCK_COLUMNS * n_blocks;
            let numbers = &weight.numbers[quad * QUAD..(quad + n_blocks) * QUAD];
            let scales = &weight.scales[quad * BLOCK_COLUMNS..(quad + n_blocks) * BLOCK_COLUMNS];
            let n_columns = BLOCK_COLUMNS.min(width - at);
            for part in 0..n_parts {
                let rows = part * n_rows / n_parts..(part + 1) * n_rows / n_parts;
                let x = x[rows.start * k..rows.end * k].as_ptr();
                let mut block = [[0.0; BLOCK_COLUMNS]; FEW_ROWS];
                if part == 0 {
                    // The first rows turn the weights into floats on their way, for the rows that follow.
                    let floats = (n_parts > 1).then(|| floats[..BLOCK_COLUMNS * stride].as_mut_ptr());
                    let (numbers, scales) = (numbers.as_ptr(), scales.as_ptr());
                    let int8_block = Int8Block { k, x, numbers, scales, floats };
                    // SAFETY: the rows of x, and four rows of weights padded to whole blocks, were sliced.
                    unsafe { simd.int8_block(rows.len(), &int8_block, &mut block) };
                } else {
                    let weights = floats.as_ptr();
                    let (product, next) = (Product::F32, [weights; 2]);
                    let row_block = RowBlock { k, x, weights, weight_stride: stride, product, next };
                    // SAFETY: the rows of x were sliced, and four rows of weights were left behind.
                    unsafe { simd.row_block(rows.len(), BLOCK_COLUMNS, &row_block, &mut block) };
                }
                for (row, block) in rows.zip(&block) {
                    sums[row * width + at..][..n_columns].copy_from_slice(&block[..n_columns]);
                }
            }
        }
    }
}
