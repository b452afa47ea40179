//! A block of C from its packed operands: what products in f32 and in bf16 share. A step of k is one number in f32 and
//! a pair of numbers in bf16.

#![allow(unsafe_code, reason = "blocks of C written by several threads, and the tile kernels")]

use crate::gelu::gelu;
use crate::micro_kernel::{MAX_TILE_COLUMNS, MicroKernel, Product, TILE_ROWS, Tile, Write};
use crate::pack::{padded, panels};
use crate::parallel::{Disjoint, for_each_item};
use crate::simd::{Simd, SimdLevel, simd_fn};
use std::ops::{Range, RangeInclusive};

/// Floats of packed B that should stay in a second level cache: 5/8 of 1 MiB.
const BLOCK_FLOATS: usize = 160 * 1024;
/// Items a block of C is cut into where it is large enough: threads end together, and taking an item costs nothing.
const ITEMS: usize = 48;
/// Tiles in an item.
const TILES_PER_ITEM: RangeInclusive<usize> = 4..=24;
/// Items the weights are cut into where few rows stream them, and the columns in one.
const STREAM_ITEMS: usize = 16;
const STREAM_COLUMNS: RangeInclusive<usize> = 24..=120;

/// A as the tile kernels read it: tile `t` begins at `t · tile`, and its element (i, p) lies at `i · row + p · step`.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) tile: usize,
    pub(crate) row: usize,
    pub(crate) step: usize,
}

/// B as the tile kernels read it: panel `t` begins at `t · panel`, and its rows are `step` apart, or as wide as the
/// panel in whole vectors.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) panel: usize,
    pub(crate) step: Option<usize>,
}

/// What is done to a block of C as soon as it is made, while it is in the first level cache: for a large C, passes of its
/// own would go through memory again.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// Nothing.
    Nothing,
    /// This is added to every row `[b.cols]`.
    Bias(&'a [f32]),
    /// The same, then [GELU](crate::gelu_forward).
    BiasGelu(&'a [f32]),
}

/// A block of C and its operands.
pub(crate) struct Block<'a> {
    /// Steps of k.
    pub(crate) k: usize,
    pub(crate) a: Tiles<'a>,
    pub(crate) b: Panels<'a>,
    /// Of C.
    pub(crate) rows: Range<usize>,
    pub(crate) columns: Range<usize>,
    /// Columns of all of C.
    pub(crate) n: usize,
    pub(crate) write: Write,
    pub(crate) epilogue: Epilogue<'a>,
    pub(crate) product: Product,
}

simd_fn! {
    /// Columns of a full tile of a level.
    pub(crate) fn tile_columns<S>(_simd) -> usize {
        S::TILE_COLUMNS
    }
}

impl Block<'_> {
    /// Writes the block, by all threads.
    pub(crate) fn multiply(&self, level: SimdLevel, c: Disjoint<f32>) {
        let tile_columns = tile_columns(level);
        let n_row_tiles = self.rows.len().div_ceil(TILE_ROWS);
        let n_panels = self.columns.len().div_ceil(tile_columns);
        let panels_per_block =
            n_panels.div_ceil(n_panels.div_ceil((BLOCK_FLOATS / (self.k * tile_columns)).max(1)));
        let n_blocks = n_panels.div_ceil(panels_per_block);
        let tiles_per_item =
            (n_row_tiles * n_panels / ITEMS).clamp(*TILES_PER_ITEM.start(), *TILES_PER_ITEM.end());
        let row_tiles_per_item = tiles_per_item.div_ceil(panels_per_block);
        let n_row_items = n_row_tiles.div_ceil(row_tiles_per_item);
        // Rows change fastest, so a thread stays with a block of B while the rows of A pass.
        for_each_item(n_blocks * n_row_items, |item| {
            let (block, row_item) = (item / n_row_items, item % n_row_items);
            let panels = block * panels_per_block..n_panels.min((block + 1) * panels_per_block);
            let row_tiles =
                row_item * row_tiles_per_item..n_row_tiles.min((row_item + 1) * row_tiles_per_item);
            multiply_block(level, self, row_tiles, panels, c);
        });
    }
}

/// # Safety
/// As [`MicroKernel::tile`]; the machine must have the instructions of the product.
#[inline(always)]
unsafe fn multiply_tile<S: MicroKernel>(simd: S, product: Product, rows: usize, vectors: usize, tile: &Tile) {
    // SAFETY: passed on to the caller.
    unsafe {
        match product {
            Product::F32 => simd.tile(rows, vectors, tile),
            Product::Bf16(products) => simd.pair_tile(products, rows, vectors, tile),
        }
    }
}

simd_fn! {
    fn multiply_block<S>(
        simd, block: &Block<'_>, row_tiles: Range<usize>, panels: Range<usize>, c: Disjoint<'_, f32>,
    ) {
        let Block { k, a, b, n, write, product, .. } = *block;
        for row_tile in row_tiles {
            let row = block.rows.start + row_tile * TILE_ROWS;
            let n_rows = TILE_ROWS.min(block.rows.end - row);
            let a_data = a.data[row_tile * a.tile..].as_ptr();
            for panel in panels.clone() {
                let column = block.columns.start + panel * S::TILE_COLUMNS;
                let width = S::TILE_COLUMNS.min(block.columns.end - column);
                let vectors = padded::<S>(width) / S::LANES;
                let tile = |c: *mut f32, c_row: usize, write: Write| Tile {
                    k,
                    a: a_data,
                    a_row: a.row,
                    a_step: a.step,
                    b: b.data[panel * b.panel..].as_ptr(),
                    b_step: b.step.unwrap_or(vectors * S::LANES),
                    c,
                    c_row,
                    write,
                };
                if width == vectors * S::LANES {
                    // SAFETY: the tile lies inside C, and no other item touches it.
                    let to = unsafe { c.pointer(row * n + column, (n_rows - 1) * n + width) };
                    // SAFETY: A has these rows, B k rows of whole vectors, C the tile.
                    unsafe { multiply_tile(simd, product, n_rows, vectors, &tile(to, n, write)) };
                } else {
                    let mut sums = [0.0; TILE_ROWS * MAX_TILE_COLUMNS];
                    let tile = tile(sums.as_mut_ptr(), MAX_TILE_COLUMNS, Write::Overwrite);
                    // SAFETY: as above, and the sums have room for a full tile.
                    unsafe { multiply_tile(simd, product, n_rows, vectors, &tile) };
                    for (i, sums) in sums.chunks_exact(MAX_TILE_COLUMNS).take(n_rows).enumerate() {
                        // SAFETY: inside the tile, which no other item touches.
                        let to = unsafe { c.part((row + i) * n + column, width) };
                        write_row(write, sums, to);
                    }
                }
                if let Epilogue::Bias(bias) | Epilogue::BiasGelu(bias) = block.epilogue {
                    let bias = &bias[column..column + width];
                    for i in 0..n_rows {
                        // SAFETY: inside the tile, which no other item touches.
                        let row = unsafe { c.part((row + i) * n + column, width) };
                        epilogue_row(simd, row, bias, matches!(block.epilogue, Epilogue::BiasGelu(_)));
                    }
                }
            }
        }
    }
}

/// `row += bias`, then GELU where it is wanted.
#[inline(always)]
fn epilogue_row<S: Simd>(simd: S, row: &mut [f32], bias: &[f32], has_gelu: bool) {
    for (row, bias) in row.chunks_mut(S::LANES).zip(bias.chunks(S::LANES)) {
        let sum = simd.add(simd.load_or(row, 0.0), simd.load_or(bias, 0.0));
        simd.store_some(row, if has_gelu { gelu(simd, sum) } else { sum });
    }
}

#[inline(always)]
pub(crate) fn write_row(write: Write, sums: &[f32], to: &mut [f32]) {
    for (to, &sum) in to.iter_mut().zip(sums) {
        *to = match write {
            Write::Overwrite => sum,
            Write::Add => *to + sum,
        };
    }
}

/// Columns of C in an item of the streaming products, in whole tiles.
pub(crate) fn stream_columns(n: usize) -> usize {
    (n / STREAM_ITEMS).clamp(*STREAM_COLUMNS.start(), *STREAM_COLUMNS.end()) / TILE_ROWS * TILE_ROWS
}

/// Few rows against weights stored by rows: tiles of the transposed product, six rows of weights, read where they lie,
/// against all of the few rows.
pub(crate) struct Turned<'a> {
    /// Steps of k.
    pub(crate) k: usize,
    /// The few rows.
    pub(crate) m: usize,
    /// They, as panels of [`panels`].
    pub(crate) packed: &'a [f32],
    /// Row j of the weights is at `j · weight_row`.
    pub(crate) weights: &'a [f32],
    pub(crate) weight_row: usize,
    /// Rows of weights, and columns of C.
    pub(crate) n: usize,
    pub(crate) write: Write,
    pub(crate) product: Product,
}

impl Turned<'_> {
    /// Writes C `[m, n]`, by all threads.
    pub(crate) fn multiply(&self, level: SimdLevel, c: Disjoint<f32>) {
        let columns_per_item = stream_columns(self.n);
        for_each_item(self.n.div_ceil(columns_per_item), |item| {
            let start = item * columns_per_item;
            turned_columns(level, self, start..self.n.min(start + columns_per_item), c);
        });
    }
}

simd_fn! {
    fn turned_columns<S>(simd, turned: &Turned<'_>, columns: Range<usize>, c: Disjoint<'_, f32>) {
        let Turned { k, m, packed, weights, weight_row, n, write, product } = *turned;
        for column in columns.clone().step_by(TILE_ROWS) {
            let width = TILE_ROWS.min(columns.end - column);
            for (first, padded) in panels::<S>(m) {
                let mut sums = [0.0; TILE_ROWS * MAX_TILE_COLUMNS];
                let tile = Tile {
                    k,
                    a: weights[column * weight_row..].as_ptr(),
                    a_row: weight_row,
                    a_step: 1,
                    b: packed[first * k..][..k * padded].as_ptr(),
                    b_step: padded,
                    c: sums.as_mut_ptr(),
                    c_row: MAX_TILE_COLUMNS,
                    write: Write::Overwrite,
                };
                // SAFETY: these rows of weights exist, the panel was sliced, and the sums have room for a full tile.
                unsafe { multiply_tile(simd, product, width, padded / S::LANES, &tile) };
                for i in 0..padded.min(m - first) {
                    // SAFETY: an item writes only its own columns.
                    let to = unsafe { c.part((first + i) * n + column, width) };
                    for (j, to) in to.iter_mut().enumerate() {
                        let sum = sums[j * MAX_TILE_COLUMNS + i];
                        *to = if write == Write::Add { *to + sum } else { sum };
                    }
                }
            }
        }
    }
}
