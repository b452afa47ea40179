//! Matrix products with factors in bf16 and sums in f32: [`matmul`](crate::matmul()) with half the bits and, where the
//! processor multiplies pairs of bf16 numbers, twice the arithmetic in an instruction.
//!
//! The blocking is that of `matmul.rs`, with pairs of neighbours in k in place of floats. Factors that are floats are
//! rounded to bf16 (to nearest, ties to even) as they are packed; a [`Bf16Matrix`] is rounded already, and is read
//! where it lies as A. A chunk of k is at most [`MAX_K_CHUNK`] pairs, and every element is one chain of pairs within a
//! chunk: no bit depends on anything but its row of A, its column of B and k. In particular, a row has the same bits in
//! products of few rows and of many.

#![allow(unsafe_code, reason = "packed parts written by several threads")]

use crate::bf16_matrix::{Bf16Matrix, round_row};
use crate::bf16_products::Bf16Products;
use crate::blocks::{Block, Epilogue, Panels, Tiles, Turned, tile_columns};
use crate::gelu::gelu_forward_in_place;
use crate::matmul::{
    MAX_K_CHUNK, MAX_TURNED_ROWS, MatrixRef, PACK_DEPTH, PACK_FLOATS, PACKED, add_bias, equal_parts,
};
use crate::micro_kernel::{MAX_TILE_COLUMNS, MicroKernel, Product, TILE_ROWS, Write};
use crate::pack::{pack_columns, padded, panels};
use crate::parallel::{Disjoint, for_each_item};
use crate::scratch::{Scratch, with_scratch};
use crate::simd::{MAX_LANES, Simd, SimdLevel, bf16_bits, simd_fn};
use std::cell::Cell;
use std::ops::Range;

/// Rows that are rounded in an item.
const ROWS_PER_ITEM: usize = 32;

thread_local! {
    static LINES: Cell<Scratch> = const { Cell::new(Scratch::new()) };
}

/// A factor of a product: floats that are rounded to bf16 on their way, or a matrix that is rounded already.
#[derive(Clone, Copy, Debug)]
pub struct Bf16Operand<'a> {
    numbers: Numbers<'a>,
    /// Of the factor.
    rows: usize,
    cols: usize,
    /// Whether it is the transpose of what is stored.
    is_transposed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Numbers<'a> {
    /// Rows of this length.
    F32(&'a [f32], usize),
    Bf16(&'a Bf16Matrix),
}

impl<'a> From<MatrixRef<'a>> for Bf16Operand<'a> {
    fn from(matrix: MatrixRef<'a>) -> Self {
        let MatrixRef { data, rows, cols, .. } = matrix;
        let is_transposed = !matrix.is_row_major();
        let stride = if is_transposed { rows } else { cols };
        Bf16Operand { numbers: Numbers::F32(data, stride), rows, cols, is_transposed }
    }
}

impl<'a> From<&'a Bf16Matrix> for Bf16Operand<'a> {
    fn from(matrix: &'a Bf16Matrix) -> Self {
        let (rows, cols) = (matrix.n_out(), matrix.n_in());
        Bf16Operand { numbers: Numbers::Bf16(matrix), rows, cols, is_transposed: false }
    }
}

impl Bf16Operand<'_> {
    /// The same numbers with rows and columns exchanged; nothing is copied.
    #[must_use]
    pub fn transposed(self) -> Self {
        Bf16Operand { rows: self.cols, cols: self.rows, is_transposed: !self.is_transposed, ..self }
    }
}

/// Bytes that [`bf16_matmul`] and [`bf16_matmul_with_epilogue`] use at most beside their arguments; they are kept for
/// the next call, and shared with [`matmul`](crate::matmul()).
pub fn bf16_matmul_workspace_bytes() -> usize {
    2 * PACK_FLOATS * size_of::<f32>()
}

/// `C = A · B` or `C += A · B`, the factors rounded to bf16 and the sums in f32; `c: [a.rows, b.cols]`, row-major and
/// contiguous.
///
/// Sums run in an order fixed by k. Panics when sizes do not fit.
pub fn bf16_matmul<'a>(
    a: impl Into<Bf16Operand<'a>>,
    b: impl Into<Bf16Operand<'a>>,
    c: &mut [f32],
    write: Write,
) {
    bf16_matmul_with_epilogue(a, b, c, write, Epilogue::Nothing);
}

/// [`bf16_matmul`], then `epilogue` on all of C: the same bits as if [`add_bias`] and the activation were called after
/// it.
pub fn bf16_matmul_with_epilogue<'a>(
    a: impl Into<Bf16Operand<'a>>,
    b: impl Into<Bf16Operand<'a>>,
    c: &mut [f32],
    write: Write,
    epilogue: Epilogue<'_>,
) {
    let (a, b): (Bf16Operand<'_>, Bf16Operand<'_>) = (a.into(), b.into());
    assert_eq!(a.cols, b.rows, "bf16_matmul: a is {} x {}, b is {} x {}", a.rows, a.cols, b.rows, b.cols);
    assert_eq!(c.len(), a.rows * b.cols, "bf16_matmul: c is [a.rows, b.cols]");
    if let Epilogue::Bias(bias) | Epilogue::BiasGelu(bias) = epilogue {
        assert_eq!(bias.len(), b.cols, "bf16_matmul: bias is [b.cols]");
    }
    if c.is_empty() {
        return;
    }
    let (level, products) = (SimdLevel::current(), Bf16Products::current());
    let k = a.cols;
    let (a, b) = (Side::rows_of(a), Side::columns_of(b));
    let few_rows = (a.n_lines <= MAX_TURNED_ROWS && a.is_along).then(|| b.words_in_place()).flatten();
    if k > 0 && few_rows.is_none() {
        let multiply = |scratch: &mut Scratch| {
            multiply_by_tiles(level, products, (a, b), k, Disjoint::new(c), write, epilogue, scratch);
        };
        return PACKED.with(multiply);
    }
    match few_rows {
        Some(weights) if k > 0 => {
            let c = Disjoint::new(c);
            let n = b.n_lines;
            PACKED.with(|scratch| multiply_turned(level, products, a, (weights, n), k, c, write, scratch));
        }
        _ if write == Write::Overwrite => c.fill(0.0),
        _ => {}
    }
    if let Epilogue::Bias(bias) | Epilogue::BiasGelu(bias) = epilogue {
        add_bias(c, bias);
    }
    if let Epilogue::BiasGelu(_) = epilogue {
        gelu_forward_in_place(c);
    }
}

/// A factor seen from k: `n_lines` lines, rows of A or columns of B.
#[derive(Clone, Copy)]
struct Side<'a> {
    numbers: Numbers<'a>,
    n_lines: usize,
    /// Whether a line is a stored row, so that k runs along it. Otherwise stored row p holds number p of every line.
    is_along: bool,
}

impl<'a> Side<'a> {
    fn rows_of(a: Bf16Operand<'a>) -> Self {
        Side { numbers: a.numbers, n_lines: a.rows, is_along: !a.is_transposed }
    }

    fn columns_of(b: Bf16Operand<'a>) -> Self {
        Side { numbers: b.numbers, n_lines: b.cols, is_along: b.is_transposed }
    }

    /// Pairs of all lines, one line after the other, and the words of a line, where they are stored like that.
    fn words_in_place(&self) -> Option<(&'a [f32], usize)> {
        match self.numbers {
            Numbers::Bf16(matrix) if self.is_along => Some((matrix.words(), matrix.stride())),
            _ => None,
        }
    }

    /// Part of a stored row: of a line where k runs along lines, else of all lines' numbers at one place of k.
    #[inline(always)]
    fn row(&self, row: usize, part: Range<usize>) -> Row<'a> {
        match self.numbers {
            Numbers::F32(data, stride) => Row::F32(&data[row * stride..][part]),
            Numbers::Bf16(matrix) => Row::Bf16(&matrix.halves()[row * 2 * matrix.stride()..][part]),
        }
    }
}

/// A part of a stored row.
#[derive(Clone, Copy)]
enum Row<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

impl Row<'_> {
    /// `LANES` rounded numbers from `at` on.
    #[inline(always)]
    fn vector<S: Simd>(self, simd: S, at: usize) -> S::V {
        match self {
            Row::F32(row) => simd.round_to_bf16(simd.load(&row[at..])),
            Row::Bf16(row) => {
                let part = &row[at..at + S::LANES];
                // SAFETY: LANES halves.
                unsafe { simd.load_bf16_ptr(part.as_ptr()) }
            }
        }
    }

    #[inline(always)]
    fn bits(self, at: usize) -> u32 {
        u32::from(match self {
            Row::F32(row) => bf16_bits(row[at]),
            Row::Bf16(row) => row[at],
        })
    }
}

/// `words[j]` is the pair of number j of the one row and of the other; 0 where there is no other.
#[inline(always)]
fn pair_rows<S: Simd>(simd: S, low: Row<'_>, high: Option<Row<'_>>, words: &mut [f32]) {
    let whole = words.len() / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        let low = low.vector(simd, at);
        let high = match high {
            Some(high) => high.vector(simd, at),
            None => simd.splat(0.0),
        };
        simd.store(&mut words[at..], simd.pair(low, high));
    }
    for (at, word) in words.iter_mut().enumerate().skip(whole) {
        let high = high.map_or(0, |high| high.bits(at));
        *word = f32::from_bits(low.bits(at) | high << 16);
    }
}

fn multiply_by_tiles(
    level: SimdLevel,
    products: Bf16Products,
    (a, b): (Side<'_>, Side<'_>),
    k: usize,
    c: Disjoint<f32>,
    write: Write,
    epilogue: Epilogue<'_>,
    scratch: &mut Scratch,
) {
    let n_pairs = k.div_ceil(2);
    let longest_chunk = n_pairs.min(MAX_K_CHUNK);
    let most_columns = (PACK_FLOATS / longest_chunk).next_multiple_of(MAX_TILE_COLUMNS);
    let most_rows = match a.words_in_place() {
        Some(_) => a.n_lines,
        None => (PACK_FLOATS / longest_chunk).next_multiple_of(TILE_ROWS),
    };
    for columns in equal_parts(b.n_lines, most_columns, MAX_TILE_COLUMNS) {
        for rows in equal_parts(a.n_lines, most_rows, TILE_ROWS) {
            for (chunk, pairs) in equal_parts(n_pairs, MAX_K_CHUNK, 8).enumerate() {
                let write = if chunk == 0 { write } else { Write::Add };
                let epilogue = if pairs.end == n_pairs { epilogue } else { Epilogue::Nothing };
                let (rows, columns) = (rows.clone(), columns.clone());
                let region = Region { a, b, k, rows, columns, pairs };
                region.multiply(level, products, c, write, epilogue, scratch);
            }
        }
    }
}

/// A block of C and a chunk of k.
struct Region<'a> {
    a: Side<'a>,
    b: Side<'a>,
    /// Of the whole product.
    k: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    /// The chunk, in pairs.
    pairs: Range<usize>,
}

impl Region<'_> {
    fn multiply(
        &self,
        level: SimdLevel,
        products: Bf16Products,
        c: Disjoint<f32>,
        write: Write,
        epilogue: Epilogue<'_>,
        scratch: &mut Scratch,
    ) {
        let n_pairs = self.pairs.len();
        let tile_columns = tile_columns(level);
        let n_panels = self.columns.len().div_ceil(tile_columns);
        let in_place = self.a.words_in_place();
        let b_len = n_pairs * n_panels * tile_columns;
        let a_len =
            if in_place.is_some() { 0 } else { n_pairs * self.rows.len().next_multiple_of(TILE_ROWS) };
        let (packed_b, packed_a) = scratch.floats(b_len + a_len).split_at_mut(b_len);
        let (to_b, to_a) = (Disjoint::new(packed_b), Disjoint::new(packed_a));
        // Lines that k runs along are cut into lines, others into parts of k, so that stored rows are read as they lie.
        let parts: Vec<Range<usize>> = equal_parts(n_pairs, PACK_DEPTH, MAX_LANES).collect();
        let n_b_items = if self.b.is_along { n_panels } else { parts.len() };
        let n_a_items = match (in_place, self.a.is_along) {
            (Some(_), _) => 0,
            (None, true) => self.rows.len().div_ceil(ROWS_PER_ITEM),
            (None, false) => parts.len(),
        };
        for_each_item(n_b_items + n_a_items, |item| match item.checked_sub(n_b_items) {
            None if self.b.is_along => with_scratch(&LINES, |scratch| {
                pack_panel(level, self, item, to_b, scratch.floats(n_pairs * tile_columns));
            }),
            None => pack_across_panels(level, self, parts[item].clone(), to_b),
            Some(item) if self.a.is_along => round_lines(level, self, item, to_a),
            Some(item) => with_scratch(&LINES, |scratch| {
                let line = scratch.floats(self.rows.len());
                pack_across_tiles(level, self, parts[item].clone(), to_a, line);
            }),
        });
        let a = match in_place {
            Some((words, stride)) => Tiles {
                data: &words[self.rows.start * stride + self.pairs.start..],
                tile: TILE_ROWS * stride,
                row: stride,
                step: 1,
            },
            None if self.a.is_along => {
                Tiles { data: packed_a, tile: TILE_ROWS * n_pairs, row: n_pairs, step: 1 }
            }
            None => Tiles { data: packed_a, tile: TILE_ROWS * n_pairs, row: 1, step: TILE_ROWS },
        };
        let block = Block {
            k: n_pairs,
            a,
            b: Panels { data: packed_b, panel: n_pairs * tile_columns, step: None },
            rows: self.rows.clone(),
            columns: self.columns.clone(),
            n: self.b.n_lines,
            write,
            epilogue,
            product: Product::Bf16(products),
        };
        block.multiply(level, c);
    }

    /// The numbers of the chunk.
    fn numbers(&self) -> Range<usize> {
        2 * self.pairs.start..self.k.min(2 * self.pairs.end)
    }

    /// Rows of numbers that pair `p` of the chunk is made of, where k runs across the lines.
    #[inline(always)]
    fn pair_across<'a>(&self, side: &Side<'a>, p: usize, lines: Range<usize>) -> (Row<'a>, Option<Row<'a>>) {
        let first = 2 * (self.pairs.start + p);
        let second = (first + 1 < self.k).then(|| side.row(first + 1, lines.clone()));
        (side.row(first, lines), second)
    }
}

simd_fn! {
    /// Some rows of A, pair after pair: `to[row][p]`.
    fn round_lines<S>(simd, region: &Region<'_>, item: usize, to: Disjoint<'_, f32>) {
        let n_pairs = region.pairs.len();
        let first = item * ROWS_PER_ITEM;
        let n_rows = ROWS_PER_ITEM.min(region.rows.len() - first);
        // SAFETY: an item writes only its own rows.
        let to = unsafe { to.part(first * n_pairs, n_rows * n_pairs) };
        for (row, words) in to.chunks_exact_mut(n_pairs).enumerate() {
            copy_line(simd, region.a.row(region.rows.start + first + row, region.numbers()), words);
        }
    }
}

/// A line's numbers as pairs.
#[inline(always)]
fn copy_line<S: Simd>(simd: S, line: Row<'_>, words: &mut [f32]) {
    match line {
        Row::F32(numbers) => round_row(simd, numbers, words),
        Row::Bf16(numbers) => {
            for (at, word) in words.iter_mut().enumerate() {
                let high = numbers.get(2 * at + 1).copied().map_or(0, u32::from);
                *word = f32::from_bits(u32::from(numbers[2 * at]) | high << 16);
            }
        }
    }
}

simd_fn! {
    /// Part of the depth of all tiles of six rows of A, where k runs across them: `to[tile][p · 6 + i]`. `words` is
    /// room for a pair of every row.
    fn pack_across_tiles<S>(
        simd, region: &Region<'_>, part: Range<usize>, to: Disjoint<'_, f32>, words: &mut [f32],
    ) {
        let n_pairs = region.pairs.len();
        for p in part {
            let (low, high) = region.pair_across(&region.a, p, region.rows.clone());
            pair_rows(simd, low, high, words);
            let mut at = p * TILE_ROWS;
            let mut sixes = words.chunks_exact(TILE_ROWS);
            for six in &mut sixes {
                // SAFETY: an item writes only its own depths.
                unsafe { to.part(at, TILE_ROWS) }.copy_from_slice(six);
                at += n_pairs * TILE_ROWS;
            }
            let rest = sixes.remainder();
            if !rest.is_empty() {
                // SAFETY: as above.
                unsafe { to.part(at, rest.len()) }.copy_from_slice(rest);
            }
        }
    }
}

simd_fn! {
    /// Part of the depth of all panels of B, where k runs across its columns.
    fn pack_across_panels<S>(simd, region: &Region<'_>, part: Range<usize>, to: Disjoint<'_, f32>) {
        let n_pairs = region.pairs.len();
        for p in part {
            for (first, stride) in panels::<S>(region.columns.len()) {
                let width = stride.min(region.columns.len() - first);
                let start = region.columns.start + first;
                let (low, high) = region.pair_across(&region.b, p, start..start + width);
                // SAFETY: an item writes only its own depths.
                let words = unsafe { to.part(first * n_pairs + p * stride, stride) };
                pair_rows(simd, low, high, &mut words[..width]);
                words[width..].fill(0.0);
            }
        }
    }
}

simd_fn! {
    /// A panel of B, where k runs along its columns. `words` is room for the pairs of its columns.
    fn pack_panel<S>(
        simd, region: &Region<'_>, panel: usize, to: Disjoint<'_, f32>, words: &mut [f32],
    ) {
        let n_pairs = region.pairs.len();
        let first = panel * S::TILE_COLUMNS;
        let width = S::TILE_COLUMNS.min(region.columns.len() - first);
        let start = region.columns.start + first;
        let stride = padded::<S>(width);
        // SAFETY: an item writes only its own panel.
        let to = unsafe { to.part(first * n_pairs, n_pairs * stride) };
        pack_lines(simd, &region.b, start..start + width, region, to, words);
    }
}

/// Lines that k runs along, as a panel: `to[p · stride + j]`. `words` is room for their pairs.
#[inline(always)]
fn pack_lines<S: MicroKernel>(
    simd: S,
    side: &Side<'_>,
    lines: Range<usize>,
    region: &Region<'_>,
    to: &mut [f32],
    words: &mut [f32],
) {
    let size = (region.pairs.len(), lines.len());
    let stride = padded::<S>(lines.len());
    if let Some((words, line)) = side.words_in_place() {
        let from = &words[lines.start * line + region.pairs.start..];
        return pack_columns(simd, from, line, size, to, stride);
    }
    for (line, words) in lines.zip(words.chunks_exact_mut(size.0)) {
        copy_line(simd, side.row(line, region.numbers()), words);
    }
    pack_columns(simd, words, size.0, size, to, stride);
}

/// Few rows that k runs along against weights that it runs along too: `Cᵀ = weights · Aᵀ`.
fn multiply_turned(
    level: SimdLevel,
    products: Bf16Products,
    a: Side<'_>,
    ((weights, weight_row), n): ((&[f32], usize), usize),
    k: usize,
    c: Disjoint<f32>,
    write: Write,
    scratch: &mut Scratch,
) {
    for (chunk, pairs) in equal_parts(k.div_ceil(2), MAX_K_CHUNK, 8).enumerate() {
        let write = if chunk == 0 { write } else { Write::Add };
        let packed = scratch.floats(pairs.len() * a.n_lines.next_multiple_of(MAX_TILE_COLUMNS));
        let region = Region { a, b: a, k, rows: 0..a.n_lines, columns: 0..a.n_lines, pairs: pairs.clone() };
        with_scratch(&LINES, |lines| {
            pack_turned_rows(level, &region, packed, lines.floats(pairs.len() * MAX_TILE_COLUMNS));
        });
        let turned = Turned {
            k: pairs.len(),
            m: a.n_lines,
            packed,
            weights: &weights[pairs.start..],
            weight_row,
            n,
            write,
            product: Product::Bf16(products),
        };
        turned.multiply(level, c);
    }
}

simd_fn! {
    fn pack_turned_rows<S>(simd, region: &Region<'_>, packed: &mut [f32], words: &mut [f32]) {
        let n_pairs = region.pairs.len();
        for (first, stride) in panels::<S>(region.rows.len()) {
            let lines = first..region.rows.len().min(first + stride);
            let to = &mut packed[first * n_pairs..][..n_pairs * stride];
            pack_lines(simd, &region.a, lines, region, to, words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bf16_matrix::halves_of;

    #[test]
    fn small_words_hold_the_first_number_in_their_lower_half() {
        let mut words = [0.0; 2];
        copy_line(crate::simd::Portable, Row::F32(&[1.0, 2.0, -3.0]), &mut words);
        assert_eq!(halves_of(&words), [0x3f80, 0x4000, 0xc040, 0]);
        pair_rows(crate::simd::Portable, Row::Bf16(&[0x3f80]), Some(Row::F32(&[2.0])), &mut words[..1]);
        assert_eq!(words[0].to_bits(), 0x4000_3f80);
    }
}
