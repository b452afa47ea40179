//! The one place a matrix product is made: `C = A · B` or `C += A · B`, in any mix of transposes.
//!
//! The blocking is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), with
//! the parts of A and B exchanged to suit wide registers:
//!
//! - k is cut into equal chunks of at most [`MAX_K_CHUNK`], by k alone. Each chunk's sum is one chain in the order of
//!   k, and the chunks are added to C in order: that order, and so every bit, depends on nothing but k.
//! - A block of B, a few panels one tile wide, stays in a core's second level cache while the rows of A pass by it.
//!   Where B is transposed its chunk is packed into panels, once, by all threads; where it is stored by rows it is read
//!   where it lies. Of A, six rows are in the first level cache; it is packed where it is transposed.
//! - Blocks of C are the items the threads take; a block is written by one thread.
//!
//! With few rows (decoding) packing the weights would cost more than it gains: they should stream once from memory. Up
//! to [`MAX_DOT_PRODUCT_ROWS`], each result is a dot product of two rows. Up to [`MAX_TURNED_ROWS`], the transposed
//! product is made, whose A are the weights, read where they lie, and whose packed B are the few rows.

#![allow(unsafe_code, reason = "blocks of C written by several threads, and the tile kernels")]

use crate::blocks::{Block, Epilogue, Panels, Tiles, Turned, stream_columns, tile_columns, write_row};
use crate::gelu::gelu_forward_in_place;
use crate::micro_kernel::{MAX_DOT_ROWS, MAX_TILE_COLUMNS, Product, TILE_ROWS, Write};
use crate::pack::{pack_columns, pack_rows, padded, panels};
use crate::parallel::{Disjoint, ELEMENTS_PER_ITEM, for_each_item};
use crate::scratch::{Scratch, Stock};
use crate::simd::{MAX_LANES, SimdLevel, lanes, simd_fn};
use crate::vector::add_assign;
use rayon::prelude::*;
use std::ops::Range;

/// A matrix in a slice: element (i, j) is `data[i · row_stride + j · col_stride]`, and one of the strides is 1.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRef<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> MatrixRef<'a> {
    /// A contiguous row-major matrix. Panics when `data` is not `rows · cols` long.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix");
        MatrixRef { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The same numbers with rows and columns exchanged; nothing is copied.
    pub fn transposed(self) -> Self {
        MatrixRef {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    /// Whether rows, rather than columns, are contiguous.
    pub(crate) fn is_row_major(&self) -> bool {
        self.col_stride == 1
    }

    fn pointer(&self, i: usize, j: usize) -> *const f32 {
        // One past the end at most, for an empty range.
        self.data.as_ptr().wrapping_add(i * self.row_stride + j * self.col_stride)
    }
}

/// Longest chain of additions before the sum goes to C: six rows of A this long fit a first level cache of 32 KiB.
pub(crate) const MAX_K_CHUNK: usize = 640;
/// Most floats of B, and of A, packed at a time: 8 MiB each, for the third level cache.
pub(crate) const PACK_FLOATS: usize = 2 * 1024 * 1024;
/// Up to this many rows of A, products with a transposed B are made of dot products; up to the next, of tiles of the
/// transposed product.
const MAX_DOT_PRODUCT_ROWS: usize = 4;
pub(crate) const MAX_TURNED_ROWS: usize = 64;
/// Longest part of the depth of A in an item of packing.
pub(crate) const PACK_DEPTH: usize = 64;
pub(crate) static PACKED: Stock = Stock::new();

/// Most bytes that [`matmul`] and [`matmul_with_epilogue`] use beside their arguments where no matrix has more than `widest` rows or
/// columns; they are kept for the next call.
pub fn matmul_workspace_bytes(widest: usize) -> usize {
    // A and B, packed.
    2 * PACK_FLOATS.min(MAX_K_CHUNK * widest.next_multiple_of(MAX_TILE_COLUMNS)) * size_of::<f32>()
}

/// `C = A · B` or `C += A · B`; `c: [a.rows, b.cols]`, row-major and contiguous.
///
/// Sums run in f32 in an order fixed by k. Panics when sizes do not fit.
pub fn matmul(a: MatrixRef, b: MatrixRef, c: &mut [f32], write: Write) {
    matmul_with_epilogue(a, b, c, write, Epilogue::Nothing);
}

/// [`matmul`], then `epilogue` on all of C: the same bits as if [`add_bias`] and the activation were called after it.
pub fn matmul_with_epilogue(a: MatrixRef, b: MatrixRef, c: &mut [f32], write: Write, epilogue: Epilogue<'_>) {
    assert_eq!(a.cols, b.rows, "matmul: a is {} x {}, b is {} x {}", a.rows, a.cols, b.rows, b.cols);
    assert_eq!(c.len(), a.rows * b.cols, "matmul: c is [a.rows, b.cols]");
    if let Epilogue::Bias(bias) | Epilogue::BiasGelu(bias) = epilogue {
        assert_eq!(bias.len(), b.cols, "matmul: bias is [b.cols]");
    }
    if c.is_empty() {
        return;
    }
    let level = SimdLevel::current();
    let streams_b = a.is_row_major() && !b.is_row_major();
    if a.cols > 0 && !(streams_b && a.rows <= MAX_TURNED_ROWS) {
        let c = Disjoint::new(c);
        return PACKED.with(|scratch| matmul_by_tiles(level, a, b, c, write, epilogue, scratch));
    }
    if a.cols == 0 {
        if write == Write::Overwrite {
            c.fill(0.0);
        }
    } else if a.rows <= MAX_DOT_PRODUCT_ROWS {
        matmul_by_dot_products(level, a, b, Disjoint::new(c), write);
    } else {
        let c = Disjoint::new(c);
        PACKED.with(|scratch| matmul_by_turned_tiles(level, a, b, c, write, scratch));
    }
    if let Epilogue::Bias(bias) | Epilogue::BiasGelu(bias) = epilogue {
        add_bias(c, bias);
    }
    if let Epilogue::BiasGelu(_) = epilogue {
        gelu_forward_in_place(c);
    }
}

/// `0..len` in equal parts of a multiple of `step`, none over `most`.
pub(crate) fn equal_parts(len: usize, most: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    let n_parts = len.div_ceil(most).max(1);
    let part = len.div_ceil(n_parts).next_multiple_of(step).max(1);
    (0..len).step_by(part).map(move |start| start..len.min(start + part))
}

fn matmul_by_tiles(
    level: SimdLevel,
    a: MatrixRef,
    b: MatrixRef,
    c: Disjoint<f32>,
    write: Write,
    epilogue: Epilogue<'_>,
    scratch: &mut Scratch,
) {
    let longest_chunk = a.cols.min(MAX_K_CHUNK);
    let pack_a = !a.is_row_major();
    let most_columns = (PACK_FLOATS / longest_chunk).next_multiple_of(MAX_TILE_COLUMNS);
    let most_rows = if pack_a { (PACK_FLOATS / longest_chunk).next_multiple_of(TILE_ROWS) } else { a.rows };
    for columns in equal_parts(b.cols, most_columns, MAX_TILE_COLUMNS) {
        for rows in equal_parts(a.rows, most_rows, TILE_ROWS) {
            for (chunk, depth) in equal_parts(a.cols, MAX_K_CHUNK, 8).enumerate() {
                let write = if chunk == 0 { write } else { Write::Add };
                let epilogue = if depth.end == a.cols { epilogue } else { Epilogue::Nothing };
                let (rows, columns) = (rows.clone(), columns.clone());
                let region = Region { a, b, rows, columns, depth, write, epilogue };
                region.multiply(level, c, scratch);
            }
        }
    }
}

/// A block of C and a chunk of k.
#[derive(Clone)]
struct Region<'a> {
    a: MatrixRef<'a>,
    b: MatrixRef<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    depth: Range<usize>,
    write: Write,
    epilogue: Epilogue<'a>,
}

impl Region<'_> {
    fn multiply(&self, level: SimdLevel, c: Disjoint<f32>, scratch: &mut Scratch) {
        let k = self.depth.len();
        let tile_columns = tile_columns(level);
        let n_row_tiles = self.rows.len().div_ceil(TILE_ROWS);
        let n_panels = self.columns.len().div_ceil(tile_columns);
        let pack_a = !self.a.is_row_major();
        let pack_b = !(self.b.is_row_major() && self.b.cols.is_multiple_of(lanes(level)));

        let b_len = if pack_b { k * n_panels * tile_columns } else { 0 };
        let a_len = if pack_a { k * n_row_tiles * TILE_ROWS } else { 0 };
        let (packed_b, packed_a) = scratch.floats(b_len + a_len).split_at_mut(b_len);
        let (to_b, to_a) = (Disjoint::new(packed_b), Disjoint::new(packed_a));
        let parts: Vec<Range<usize>> = equal_parts(k, PACK_DEPTH, MAX_LANES).collect();
        let n_b_items = if pack_b { n_panels } else { 0 };
        let n_a_items = if pack_a { parts.len() } else { 0 };
        for_each_item(n_b_items + n_a_items, |item| {
            if item < n_b_items {
                pack_b_panel(level, self, item, to_b);
            } else {
                self.pack_a_tiles(parts[item - n_b_items].clone(), to_a);
            }
        });

        let (a, b) = (&self.a, &self.b);
        let a = match pack_a {
            true => Tiles { data: packed_a, tile: k * TILE_ROWS, row: 1, step: TILE_ROWS },
            false => Tiles {
                data: &a.data[self.rows.start * a.row_stride + self.depth.start..],
                tile: TILE_ROWS * a.row_stride,
                row: a.row_stride,
                step: 1,
            },
        };
        let b = match pack_b {
            true => Panels { data: packed_b, panel: k * tile_columns, step: None },
            false => Panels {
                data: &b.data[self.depth.start * b.row_stride + self.columns.start..],
                panel: tile_columns,
                step: Some(b.row_stride),
            },
        };
        let Self { rows, columns, write, epilogue, .. } = self.clone();
        let block = Block { k, a, b, rows, columns, n: self.b.cols, write, epilogue, product: Product::F32 };
        block.multiply(level, c);
    }

    /// Part of the depth of all tiles of six rows of a transposed A: `to[tile][p · 6 + i]`.
    fn pack_a_tiles(&self, part: Range<usize>, to: Disjoint<f32>) {
        let k = self.depth.len();
        for p in part {
            let start = self.rows.start + (self.depth.start + p) * self.a.col_stride;
            let mut sixes = self.a.data[start..start + self.rows.len()].chunks_exact(TILE_ROWS);
            let mut at = p * TILE_ROWS;
            for six in &mut sixes {
                // SAFETY: an item writes only its own depths.
                unsafe { to.part(at, TILE_ROWS) }.copy_from_slice(six);
                at += k * TILE_ROWS;
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
    /// A panel of B, each row as many whole vectors as the panel's columns need.
    fn pack_b_panel<S>(simd, region: &Region<'_>, panel: usize, to: Disjoint<'_, f32>) {
        let (b, k) = (region.b, region.depth.len());
        let column = region.columns.start + panel * S::TILE_COLUMNS;
        let width = S::TILE_COLUMNS.min(region.columns.end - column);
        let stride = padded::<S>(width);
        // SAFETY: an item writes only its own panel.
        let to = unsafe { to.part(panel * k * S::TILE_COLUMNS, k * stride) };
        let from = &b.data[region.depth.start * b.row_stride + column * b.col_stride..];
        if b.is_row_major() {
            pack_rows(simd, from, b.row_stride, (k, width), 1.0, to, stride);
        } else {
            pack_columns(simd, from, b.col_stride, (k, width), to, stride);
        }
    }
}

/// `a` stored by rows, `b` transposed: each element is the dot product of two contiguous rows.
fn matmul_by_dot_products(level: SimdLevel, a: MatrixRef, b: MatrixRef, c: Disjoint<f32>, write: Write) {
    let columns_per_item = stream_columns(b.cols);
    let work = |item: usize| {
        let start = item * columns_per_item;
        dot_product_columns(level, a, b, start..b.cols.min(start + columns_per_item), c, write);
    };
    let n_items = b.cols.div_ceil(columns_per_item);
    if a.rows * b.cols * a.cols <= 4 * ELEMENTS_PER_ITEM {
        (0..n_items).for_each(work);
    } else {
        for_each_item(n_items, work);
    }
}

/// `a` stored by rows, `b` transposed: tiles of `Cᵀ = Bᵀ · Aᵀ`, six rows of `Bᵀ` against all of `a`.
fn matmul_by_turned_tiles(
    level: SimdLevel,
    a: MatrixRef,
    b: MatrixRef,
    c: Disjoint<f32>,
    write: Write,
    scratch: &mut Scratch,
) {
    for (chunk, depth) in equal_parts(a.cols, MAX_K_CHUNK, 8).enumerate() {
        let write = if chunk == 0 { write } else { Write::Add };
        let packed = scratch.floats(depth.len() * a.rows.next_multiple_of(MAX_TILE_COLUMNS));
        pack_turned_rows(level, a, depth.clone(), packed);
        let turned = Turned {
            k: depth.len(),
            m: a.rows,
            packed,
            weights: &b.data[depth.start..],
            weight_row: b.col_stride,
            n: b.cols,
            write,
            product: Product::F32,
        };
        turned.multiply(level, c);
    }
}

simd_fn! {
    fn pack_turned_rows<S>(simd, a: MatrixRef<'_>, depth: Range<usize>, packed: &mut [f32]) {
        let k = depth.len();
        for (first, width) in panels::<S>(a.rows) {
            let from = &a.data[first * a.row_stride + depth.start..];
            let size = (k, width.min(a.rows - first));
            pack_columns(simd, from, a.row_stride, size, &mut packed[first * k..], width);
        }
    }
}

simd_fn! {
    fn dot_product_columns<S>(
        simd, a: MatrixRef<'_>, b: MatrixRef<'_>, columns: Range<usize>, c: Disjoint<'_, f32>, write: Write,
    ) {
        for column in columns {
            for row in (0..a.rows).step_by(S::DOT_ROWS) {
                let n_rows = S::DOT_ROWS.min(a.rows - row);
                let mut sums = [0.0; MAX_DOT_ROWS];
                // SAFETY: these rows of A and this column of B exist, each a.cols floats in one piece.
                unsafe { simd.dots(n_rows, a.cols, (a.pointer(row, 0), a.row_stride), b.pointer(0, column), &mut sums) };
                for (i, sum) in sums[..n_rows].iter().enumerate() {
                    // SAFETY: an item writes only its own columns.
                    let to = unsafe { c.part((row + i) * b.cols + column, 1) };
                    write_row(write, std::slice::from_ref(sum), to);
                }
            }
        }
    }
}

/// Adds `bias` to every row of `rows: [_, bias.len()]`. Panics when the length does not fit.
pub fn add_bias(rows: &mut [f32], bias: &[f32]) {
    assert!(!bias.is_empty() && rows.len().is_multiple_of(bias.len()), "add_bias: rows is [rows, bias]");
    let rows_per_item = (ELEMENTS_PER_ITEM / bias.len()).max(1);
    if rows.len() <= ELEMENTS_PER_ITEM {
        return rows.chunks_exact_mut(bias.len()).for_each(|row| add_assign(row, bias));
    }
    rows.par_chunks_mut(rows_per_item * bias.len())
        .for_each(|rows| rows.chunks_exact_mut(bias.len()).for_each(|row| add_assign(row, bias)));
}

/// Adds the column sums of `d_rows: [_, d_bias.len()]` to `d_bias`.
///
/// Each column is summed in the order of the rows; threads share the columns. Panics when the length does not fit.
pub fn bias_backward(d_rows: &[f32], d_bias: &mut [f32]) {
    const COLUMNS: usize = 128;
    let width = d_bias.len();
    assert!(width > 0 && d_rows.len().is_multiple_of(width), "bias_backward: d_rows is [rows, bias]");
    let d_bias = Disjoint::new(d_bias);
    let add_columns = |block: usize| {
        let start = block * COLUMNS;
        let n_columns = COLUMNS.min(width - start);
        let mut sums = [0.0; COLUMNS];
        for row in d_rows.chunks_exact(width) {
            sums.iter_mut().zip(&row[start..start + n_columns]).for_each(|(sum, x)| *sum += x);
        }
        // SAFETY: an item writes only its own block of columns.
        let to = unsafe { d_bias.part(start, n_columns) };
        to.iter_mut().zip(&sums).for_each(|(to, sum)| *to += sum);
    };
    let n_blocks = width.div_ceil(COLUMNS);
    if d_rows.len() <= ELEMENTS_PER_ITEM {
        (0..n_blocks).for_each(add_columns);
    } else {
        for_each_item(n_blocks, add_columns);
    }
}
