//! Weights of 16 bits: bf16 numbers, rounded to nearest with ties to even, in the order of the matrix. Products of many
//! rows ([`bf16_matmul`](crate::bf16_matmul())) and of few ([`multiply_rows`](crate::multiply_rows)) read the same
//! copy.

#![allow(unsafe_code, reason = "words seen as halves, and rows written by several threads")]

use crate::memory::zeroed;
use crate::parallel::{Disjoint, ELEMENTS_PER_ITEM, for_each_item};
use crate::simd::{Simd, SimdLevel, bf16_bits, bf16_value, simd_fn};

/// A matrix `[n_out, n_in]` of bf16 numbers, each row padded with a 0 to whole pairs.
#[derive(Clone, Debug)]
pub struct Bf16Matrix {
    /// Pairs of numbers `[n_out, n_in / 2]`, rounded up.
    words: Vec<f32>,
    n_out: usize,
    n_in: usize,
}

impl Bf16Matrix {
    /// Zeros.
    #[must_use]
    pub fn new(n_out: usize, n_in: usize) -> Self {
        Self { words: zeroed(n_out * n_in.div_ceil(2)), n_out, n_in }
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
        n_out * n_in.div_ceil(2) * size_of::<f32>()
    }

    /// Takes other weights of the same shape, each rounded to the nearest bf16 number, ties to even. NaN stays NaN;
    /// what is larger than bf16 holds, 3.39e38, becomes infinity.
    ///
    /// Panics when `weight` is not `[n_out, n_in]`.
    pub fn round(&mut self, weight: &[f32]) {
        assert_eq!(weight.len(), self.n_out * self.n_in, "a bf16 matrix is [n_out, n_in]");
        if weight.is_empty() {
            return;
        }
        let level = SimdLevel::current();
        let rows_per_item = (ELEMENTS_PER_ITEM / self.n_in).max(1);
        let stride = self.stride();
        let words = Disjoint::new(&mut self.words);
        let parts: Vec<&[f32]> = weight.chunks(rows_per_item * self.n_in).collect();
        for_each_item(parts.len(), |item| {
            let n_rows = parts[item].len() / self.n_in;
            // SAFETY: an item writes only its own rows.
            let words = unsafe { words.part(item * rows_per_item * stride, n_rows * stride) };
            round_rows(level, parts[item], self.n_in, words);
        });
    }

    /// The numbers, `[n_out, n_in]`.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let rows = self.halves().chunks_exact((2 * self.stride()).max(1));
        rows.flat_map(|row| row[..self.n_in].iter().map(|&half| bf16_value(half))).collect()
    }

    /// Words of a row.
    pub(crate) fn stride(&self) -> usize {
        self.n_in.div_ceil(2)
    }

    /// Pairs of numbers `[n_out, stride]`.
    pub(crate) fn words(&self) -> &[f32] {
        &self.words
    }

    /// Numbers `[n_out, 2 stride]`.
    pub(crate) fn halves(&self) -> &[u16] {
        halves_of(&self.words)
    }
}

/// Words as the halves that they hold.
pub(crate) fn halves_of(words: &[f32]) -> &[u16] {
    // SAFETY: the same memory, of an alignment that suffices; any bits are a `u16`.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 2 * words.len()) }
}

simd_fn! {
    /// Rows of floats as rows of pairs of bf16 numbers.
    pub(crate) fn round_rows<S>(simd, weight: &[f32], n_in: usize, words: &mut [f32]) {
        for (row, words) in weight.chunks_exact(n_in).zip(words.chunks_exact_mut(n_in.div_ceil(2))) {
            round_row(simd, row, words);
        }
    }
}

/// Rounds a row of floats to pairs of bf16 numbers, the last with a 0 where it is half of one. Panics where `words` has
/// another length.
#[inline(always)]
pub(crate) fn round_row<S: Simd>(simd: S, row: &[f32], words: &mut [f32]) {
    assert_eq!(words.len(), row.len().div_ceil(2));
    let halves = words.as_mut_ptr().cast::<u16>();
    let whole = row.len() / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: LANES floats of the row, and as many halves of its words.
        unsafe {
            let rounded = simd.round_to_bf16(simd.load_ptr(row.as_ptr().add(at)));
            simd.store_bf16_ptr(halves.add(at), rounded);
        }
    }
    let rest = row[whole..].iter().map(|&x| bf16_bits(x)).chain(std::iter::once(0));
    for (at, half) in (whole..2 * words.len()).zip(rest) {
        // SAFETY: a half of the words.
        unsafe { *halves.add(at) = half };
    }
}
