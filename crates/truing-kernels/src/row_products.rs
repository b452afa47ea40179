//! Products of a few rows with weights, `y = x Wᵀ`: decoding, where the weights stream once from memory.
//!
//! Every element of `y` is one sum in an order that depends on the depth alone: lane `l` of a vector adds the products
//! at `l`, `l + LANES`, ... one after the other, and the lanes are added at the end. So the bits of a row of `y` do not
//! depend on how many rows there are, which is what lets sequences be decoded side by side or alone.
//!
//! Weights are read where they lie, a few rows at a time, and meet a few rows of `x` in registers; the next weights are
//! asked for meanwhile. Several weights that share `x` are one piece of work, for waking threads costs as much as a small
//! product. Weights of 8 bits ([`Int8Matrix`]) are a quarter of the stream and give the bits that their numbers in `f32`
//! would give. Weights of 16 bits ([`Bf16Matrix`]) are half of it; their products have factors in bf16 and sums in f32,
//! as those of [`bf16_matmul`](crate::bf16_matmul()), so `x` is rounded too, and lanes hold pairs.

#![allow(unsafe_code, reason = "rows read through pointers, columns of y written by several threads")]

use crate::bf16_matrix::{Bf16Matrix, round_rows};
use crate::bf16_products::Bf16Products;
use crate::int8_rows::{Int8Matrix, multiply_int8_columns};
use crate::micro_kernel::{BLOCK_COLUMNS, FEW_ROWS, Product, RowBlock, Write};
use crate::parallel::{Disjoint, ELEMENTS_PER_ITEM, for_each_item};
use crate::scratch::{Scratch, with_scratch};
use crate::simd::{SimdLevel, simd_fn};
use std::cell::Cell;
use std::ops::Range;

/// Weights `[n_out, n_in]` as they are stored.
#[derive(Clone, Copy, Debug)]
pub enum RowWeight<'a> {
    /// Row-major.
    F32(&'a [f32]),
    /// Numbers of 16 bits; the rows of `x` are rounded to 16 bits as well.
    Bf16(&'a Bf16Matrix),
    /// Blocks of 8-bit numbers.
    Int8(&'a Int8Matrix),
}

/// Weights that meet rows of `x`, and where the result goes.
#[derive(Debug)]
pub struct RowProduct<'a> {
    /// `[n_out, n_in]`.
    pub weight: RowWeight<'a>,
    /// `[n_rows, n_out]`.
    pub y: &'a mut [f32],
    /// Whether `y` is replaced or added to.
    pub write: Write,
}

/// Bytes of weights in an item: memory delivers a long stream faster than several short ones, and the second level
/// cache holds it while the rows pass.
const ITEM_BYTES: usize = 256 * 1024;
/// The same of 16-bit weights.
const BF16_ITEM_BYTES: usize = 128 * 1024;
/// The same of 8-bit weights: a matrix has a quarter of the bytes and should still be several items.
const INT8_ITEM_BYTES: usize = 64 * 1024;
/// Floats of `x` up to which rows of weights are taken one by one: more would not stay in the first level cache.
const FEW_FLOATS: usize = 3072;

thread_local! {
    static WORDS: Cell<Scratch> = const { Cell::new(Scratch::new()) };
    static SUMS: Cell<Scratch> = const { Cell::new(Scratch::new()) };
}

/// The part of a product that an item works on.
struct Columns<'a> {
    weight: RowWeight<'a>,
    y: Disjoint<'a, f32>,
    write: Write,
    n_out: usize,
}

/// Makes the products of `x` `[n_rows, n_in]` with several weights.
///
/// The bits of a row of a result depend on that row of `x` and on the weights, and on nothing else. Panics when sizes do
/// not fit.
pub fn multiply_rows(x: &[f32], n_in: usize, products: &mut [RowProduct<'_>]) {
    assert!(n_in > 0 && x.len().is_multiple_of(n_in), "multiply_rows: x is [n_rows, n_in]");
    let n_rows = x.len() / n_in;
    let level = SimdLevel::current();
    let mut parts = Vec::with_capacity(products.len());
    let mut items = Vec::new();
    for (idx, product) in products.iter_mut().enumerate() {
        let (n_out, columns_per_item) = match product.weight {
            RowWeight::F32(weight) => {
                assert!(weight.len().is_multiple_of(n_in), "multiply_rows: a weight is [n_out, n_in]");
                (weight.len() / n_in, ITEM_BYTES / (n_in * size_of::<f32>()))
            }
            RowWeight::Bf16(weight) => {
                assert_eq!(weight.n_in(), n_in, "multiply_rows: a weight is [n_out, n_in]");
                (weight.n_out(), BF16_ITEM_BYTES / (n_in * size_of::<u16>()))
            }
            RowWeight::Int8(weight) => {
                assert_eq!(weight.n_in(), n_in, "multiply_rows: a weight is [n_out, n_in]");
                (weight.n_out(), INT8_ITEM_BYTES / n_in)
            }
        };
        let step = columns_per_item.max(1).next_multiple_of(BLOCK_COLUMNS);
        assert_eq!(product.y.len(), n_rows * n_out, "multiply_rows: y is [n_rows, n_out]");
        items.extend((0..n_out).step_by(step).map(|start| (idx, start..n_out.min(start + step))));
        let (y, write) = (Disjoint::new(product.y), product.write);
        parts.push(Columns { weight: product.weight, y, write, n_out });
    }
    let rounds = parts.iter().any(|part| matches!(part.weight, RowWeight::Bf16(_)));
    with_scratch(&WORDS, |words| {
        let n_words = n_in.div_ceil(2);
        let x_words = words.floats(if rounds { n_rows * n_words } else { 0 });
        if rounds {
            round_rows(level, x, n_in, x_words);
        }
        multiply_parts(level, (x, &*x_words), n_in, &parts, &items);
    });
}

/// Makes the items of the products; `x_words` are the rows of `x` as pairs of bf16 numbers, where a weight is in bf16.
fn multiply_parts(
    level: SimdLevel,
    (x, x_words): (&[f32], &[f32]),
    n_in: usize,
    parts: &[Columns<'_>],
    items: &[(usize, Range<usize>)],
) {
    let n_rows = x.len() / n_in;
    let product = Product::Bf16(Bf16Products::current());
    let work = |item: usize| {
        let (part, range) = &items[item];
        let part = &parts[*part];
        with_scratch(&SUMS, |scratch| {
            // Rows of `y` may lie a multiple of a page apart, where writing a few elements to each in turn would drive
            // each other out of the cache: they are collected first.
            let n_sums = n_rows * range.len();
            match part.weight {
                RowWeight::F32(weight) => {
                    let sums = scratch.floats(n_sums);
                    multiply_columns(level, x, n_in, weight, Product::F32, range.clone(), sums);
                    part.write(range, sums);
                }
                RowWeight::Bf16(weight) => {
                    let sums = scratch.floats(n_sums);
                    let (words, n_words) = (weight.words(), weight.stride());
                    multiply_columns(level, x_words, n_words, words, product, range.clone(), sums);
                    part.write(range, sums);
                }
                RowWeight::Int8(weight) => {
                    let n_floats = weight.unpacked_floats();
                    let (floats, sums) = scratch.floats(n_floats + n_sums).split_at_mut(n_floats);
                    multiply_int8_columns(level, x, weight, range.clone(), sums, floats);
                    part.write(range, sums);
                }
            }
        });
    };
    let n_products: usize = parts.iter().map(|part| part.n_out * n_in * n_rows).sum();
    if n_products <= 4 * ELEMENTS_PER_ITEM {
        (0..items.len()).for_each(work);
    } else {
        for_each_item(items.len(), work);
    }
}

impl Columns<'_> {
    /// Hands over `sums` `[n_rows, range]`.
    fn write(&self, range: &Range<usize>, sums: &[f32]) {
        for (row, sums) in sums.chunks_exact(range.len()).enumerate() {
            // SAFETY: an item writes only its own columns.
            let y = unsafe { self.y.part(row * self.n_out + range.start, range.len()) };
            match self.write {
                Write::Overwrite => y.copy_from_slice(sums),
                Write::Add => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum),
            }
        }
    }
}

simd_fn! {
    /// Columns `range` of a result, `sums` `[n_rows, range]`.
    fn multiply_columns<S>(
        simd, x: &[f32], n_in: usize, weight: &[f32], product: Product, range: Range<usize>, sums: &mut [f32],
    ) {
        let (n_rows, width) = (x.len() / n_in, range.len());
        let is_few = n_rows == 1 || (n_rows <= FEW_ROWS && x.len() <= FEW_FLOATS);
        let n_parts = n_rows.div_ceil(if is_few { FEW_ROWS } else { S::ROW_BLOCK });
        let mut at = 0;
        while at < width {
            let n_columns = if !is_few && width - at >= BLOCK_COLUMNS { BLOCK_COLUMNS } else { 1 };
            let weight = &weight[(range.start + at) * n_in..(range.start + at + n_columns) * n_in];
            for x_part in 0..n_parts {
                // Equal parts: 8 rows are better 4 and 4 than 6 and 2.
                let rows = x_part * n_rows / n_parts..(x_part + 1) * n_rows / n_parts;
                let x = &x[rows.start * n_in..rows.end * n_in];
                // Each part asks for some of the next rows of weights, so that memory is never idle.
                let asked = if n_parts < BLOCK_COLUMNS { [2 * x_part, 2 * x_part + 1] } else { [x_part; 2] };
                let next = asked.map(|row: usize| {
                    let row = if row < BLOCK_COLUMNS { n_columns + row } else { 0 };
                    weight.as_ptr().wrapping_add(row * n_in)
                });
                let (x, weights) = (x.as_ptr(), weight.as_ptr());
                let row_block = RowBlock { k: n_in, x, weights, weight_stride: n_in, product, next };
                let mut block = [[0.0; BLOCK_COLUMNS]; FEW_ROWS];
                // SAFETY: rows of `x` and of the weights were sliced, each `n_in` long.
                unsafe { simd.row_block(rows.len(), n_columns, &row_block, &mut block) };
                for (row, block) in rows.zip(&block) {
                    sums[row * width + at..][..n_columns].copy_from_slice(&block[..n_columns]);
                }
            }
            at += n_columns;
        }
    }
}
