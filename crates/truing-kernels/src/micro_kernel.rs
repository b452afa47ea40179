//! The innermost product: a tile of C held in registers while k runs.
//!
//! A tile is up to [`TILE_ROWS`] rows by `TILE_VECTORS` vectors: 6 x 64 in 24 of AVX-512's 32 registers, 6 x 16 in 12
//! of AVX2's 16. A step of k loads a row of B (4 vectors), broadcasts 6 elements of A and makes 24 fused multiply-adds.
//! Every element of C is one chain of additions in the order of k, for any tile.

#![allow(unsafe_code, reason = "raw pointers into blocks whose bounds the callers keep")]

#[cfg(target_arch = "x86_64")]
use crate::bf16_products::Dot;
use crate::bf16_products::{Bf16Products, PairDot, Widen};
use crate::int8_rows::{Int8Block, int8_block};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{MAX_LANES, Portable, Simd};

/// Rows of a full tile.
pub(crate) const TILE_ROWS: usize = 6;

/// Columns of a full tile at the widest level.
pub(crate) const MAX_TILE_COLUMNS: usize = 64;

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    /// Floats.
    F32,
    /// Pairs of bf16 numbers.
    Bf16(Bf16Products),
}

/// What becomes of the numbers an output holds already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// They are replaced and never read.
    Overwrite,
    /// The result is added to them.
    Add,
}

/// `C[i, j] = or += Σ_p A[i, p] B[p, j]` for a tile; all strides in floats.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Terms of the sum.
    pub(crate) k: usize,
    /// Element (i, p) of A is at `a + i · a_row + p · a_step`.
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    pub(crate) a_step: usize,
    /// Row p of B is at `b + p · b_step`.
    pub(crate) b: *const f32,
    pub(crate) b_step: usize,
    /// Row i of C is at `c + i · c_row`.
    pub(crate) c: *mut f32,
    pub(crate) c_row: usize,
    pub(crate) write: Write,
}

/// The tile, of floats ([`Floats`]) or of pairs of bf16 numbers, which k counts then.
#[inline(always)]
unsafe fn tile<S: Simd, D: PairDot<S>, const ROWS: usize, const VECTORS: usize>(simd: S, dot: D, t: &Tile) {
    let Tile { k, a, a_row, a_step, b, b_step, c, c_row, write } = *t;
    let mut sums = [[simd.splat(0.0); VECTORS]; ROWS];
    if write == Write::Add {
        // The tile of C comes from memory while the sums are made.
        for i in 0..ROWS {
            for v in 0..VECTORS {
                simd.prefetch(c.wrapping_add(i * c_row + v * S::LANES));
            }
        }
    }
    let (mut a_column, mut b_row) = (a, b);
    for _ in 0..k {
        // SAFETY: the caller vouches for ROWS rows of A and k rows of VECTORS vectors of B.
        unsafe { dot.step::<ROWS, VECTORS>(simd, (a_column, a_row), b_row, &mut sums) };
        // The last step would leave the block, by less than a row; the pointers are not read there.
        a_column = a_column.wrapping_add(a_step);
        b_row = b_row.wrapping_add(b_step);
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (v, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller vouches for ROWS rows of VECTORS vectors of C.
            unsafe {
                let to = c.add(i * c_row + v * S::LANES);
                match write {
                    Write::Overwrite => simd.store_ptr(to, sum),
                    Write::Add => simd.store_ptr(to, simd.add(simd.load_ptr(to), sum)),
                }
            }
        }
    }
}

/// Chains of additions in a dot product: enough to hide the latency of one, and the same for every number of rows.
const DOT_CHAINS: usize = 4;

/// Most rows of any level's [`MicroKernel::dots`].
pub(crate) const MAX_DOT_ROWS: usize = 4;

/// `ROWS` rows of A against one row of B, all contiguous in k.
#[inline(always)]
unsafe fn dots<S: Simd, const ROWS: usize>(
    simd: S,
    k: usize,
    a: *const f32,
    a_row: usize,
    b: *const f32,
    out: &mut [f32; MAX_DOT_ROWS],
) {
    let mut sums = [[simd.splat(0.0); DOT_CHAINS]; ROWS];
    let step = DOT_CHAINS * S::LANES;
    let mut p = 0;
    // SAFETY: the caller vouches for ROWS rows of A and the row of B, each of k floats.
    unsafe {
        while p + step <= k {
            for chain in 0..DOT_CHAINS {
                let at = p + chain * S::LANES;
                let vector = simd.load_ptr(b.add(at));
                for (i, sums) in sums.iter_mut().enumerate() {
                    sums[chain] = simd.fma(simd.load_ptr(a.add(i * a_row + at)), vector, sums[chain]);
                }
            }
            p += step;
        }
        while p < k {
            let rest = |start: *const f32| simd.load_or(std::slice::from_raw_parts(start.add(p), k - p), 0.0);
            let vector = rest(b);
            for (i, sums) in sums.iter_mut().enumerate() {
                sums[0] = simd.fma(rest(a.add(i * a_row)), vector, sums[0]);
            }
            p += S::LANES;
        }
    }
    for (out, [c0, c1, c2, c3]) in out.iter_mut().zip(sums) {
        *out = simd.sum(simd.add(simd.add(c0, c1), simd.add(c2, c3)));
    }
}

/// Rows of weights that a row block of many rows reads together. Few rows meet them one by one: one stream a thread is
/// what memory delivers fastest.
pub(crate) const BLOCK_COLUMNS: usize = 4;

/// Most rows that meet one row of weights at a time, at any level.
pub(crate) const FEW_ROWS: usize = 8;

/// Results of a block: `[row][column]`.
pub(crate) type BlockSums = [[f32; BLOCK_COLUMNS]; FEW_ROWS];

/// Rows of `x` and rows of weights, all contiguous in k: floats, or pairs of bf16 numbers, which k and strides count
/// then.
#[derive(Clone, Copy)]
pub(crate) struct RowBlock {
    /// Terms of the sum.
    pub(crate) k: usize,
    /// Row i of x is at `x + i · k`.
    pub(crate) x: *const f32,
    /// Row c of the weights is at `weights + c · weight_stride`.
    pub(crate) weights: *const f32,
    pub(crate) weight_stride: usize,
    /// What is multiplied.
    pub(crate) product: Product,
    /// Two rows that will be read soon and are asked for meanwhile; they need not be valid.
    pub(crate) next: [*const f32; 2],
}

/// Floats instead of pairs: one product and a sum.
#[derive(Clone, Copy)]
struct Floats;

impl<S: Simd> PairDot<S> for Floats {
    #[inline(always)]
    fn dot(self, simd: S, a: S::V, b: S::V, sum: S::V) -> S::V {
        simd.fma(a, b, sum)
    }
}

/// `ROWS` rows of `x` against `COLUMNS` rows of weights, all contiguous in k: each sum is one chain of vectors, then
/// its lanes, for any block.
#[inline(always)]
unsafe fn row_block<S: Simd, D: PairDot<S>, const ROWS: usize, const COLUMNS: usize>(
    simd: S,
    dot: D,
    block: &RowBlock,
    out: &mut BlockSums,
) {
    let RowBlock { k, x, weights, weight_stride, next, product: _ } = *block;
    let whole = k / S::LANES * S::LANES;
    // What does not fill a vector is copied before there are sums: a call of a copying routine would spill them.
    let (mut x_rest, mut weights_rest) = ([[0.0; MAX_LANES]; ROWS], [[0.0; MAX_LANES]; COLUMNS]);
    if whole < k {
        // SAFETY: the caller vouches for ROWS rows of x and COLUMNS of weights, each of k floats.
        unsafe {
            for (i, rest) in x_rest.iter_mut().enumerate() {
                x.add(i * k + whole).copy_to_nonoverlapping(rest.as_mut_ptr(), k - whole);
            }
            for (c, rest) in weights_rest.iter_mut().enumerate() {
                weights.add(c * weight_stride + whole).copy_to_nonoverlapping(rest.as_mut_ptr(), k - whole);
            }
        }
    }
    let mut sums = [[simd.splat(0.0); COLUMNS]; ROWS];
    let mut p = 0;
    while p < whole {
        let mut vectors = [simd.splat(0.0); COLUMNS];
        for (c, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: a whole vector of a row that the caller vouches for.
            *vector = unsafe { simd.load_ptr(weights.add(c * weight_stride + p)) };
        }
        if COLUMNS > 1 {
            simd.prefetch_stream(next[0].wrapping_add(p));
            simd.prefetch_stream(next[1].wrapping_add(p));
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let x = unsafe { simd.load_ptr(x.add(i * k + p)) };
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = dot.dot(simd, x, vector, *sum);
            }
        }
        p += S::LANES;
    }
    if whole < k {
        for (x, sums) in x_rest.iter().zip(&mut sums) {
            for (sum, weight) in sums.iter_mut().zip(&weights_rest) {
                *sum = dot.dot(simd, simd.load(x), simd.load(weight), *sum);
            }
        }
    }
    if COLUMNS == BLOCK_COLUMNS {
        for (out, sums) in out.iter_mut().zip(sums) {
            *out = simd.sum_four([sums[0], sums[1 % COLUMNS], sums[2 % COLUMNS], sums[3 % COLUMNS]]);
        }
    } else {
        for i in (0..ROWS).step_by(4) {
            let at = |j: usize| if i + j < ROWS { i + j } else { ROWS - 1 };
            let four = simd.sum_four([sums[at(0)][0], sums[at(1)][0], sums[at(2)][0], sums[at(3)][0]]);
            for (out, sum) in out[i..].iter_mut().zip(four) {
                out[0] = sum;
            }
        }
    }
}

/// The tile kernels of a level.
pub(crate) trait MicroKernel: Simd {
    /// Vectors across a full tile.
    const TILE_VECTORS: usize;
    /// Columns of a full tile.
    const TILE_COLUMNS: usize = Self::TILE_VECTORS * Self::LANES;
    /// Most rows of A that [`MicroKernel::dots`] takes at once.
    const DOT_ROWS: usize;
    /// Most rows that [`MicroKernel::row_block`] takes at once.
    const ROW_BLOCK: usize;

    /// A tile of `rows` (1..=TILE_ROWS) by `vectors` (1..=TILE_VECTORS).
    ///
    /// # Safety
    /// What [`Tile`] describes must be readable and writable for that many rows and vectors.
    unsafe fn tile(self, rows: usize, vectors: usize, tile: &Tile);

    /// The same where A and B hold pairs of bf16 numbers, and k counts pairs.
    ///
    /// # Safety
    /// As [`tile`](MicroKernel::tile), and the machine must have the instructions of `products`.
    unsafe fn pair_tile(self, products: Bf16Products, rows: usize, vectors: usize, tile: &Tile);

    /// `out[i] = Σ_p a[i · a_row + p] b[p]` for `rows` (1..=DOT_ROWS).
    ///
    /// # Safety
    /// `rows` rows of `a`, and `b`, each of `k` floats, must be readable.
    unsafe fn dots(
        self,
        rows: usize,
        k: usize,
        a: (*const f32, usize),
        b: *const f32,
        out: &mut [f32; MAX_DOT_ROWS],
    );

    /// `out[i][c] = Σ_p x[i, p] weights[c, p]` for `rows` (1..=ROW_BLOCK) against [`BLOCK_COLUMNS`] rows of
    /// weights, or (1..=FEW_ROWS) against one; each sum in an order that depends on k alone.
    ///
    /// # Safety
    /// That many rows of `x` and of weights, each of `k` floats, must be readable, and the machine must have the
    /// instructions of the block's product.
    unsafe fn row_block(self, rows: usize, columns: usize, block: &RowBlock, out: &mut BlockSums);

    /// The same for `rows` (1..=ROW_BLOCK) against [`BLOCK_COLUMNS`] rows of 8-bit weights, in the same order.
    ///
    /// # Safety
    /// What [`Int8Block`] describes must be readable for that many rows.
    unsafe fn int8_block(self, rows: usize, block: &Int8Block, out: &mut BlockSums);
}

macro_rules! micro_kernel {
    ($level:ident, $vectors:literal, $dot_rows:literal, $features:meta,
     tiles [$(($rows:literal, $width:literal))*], dots [$($dots:literal)*],
     row_blocks [$most_rows:literal: $($block:literal)*], few [$($few:literal)*],
     by_instruction [$pair_tile:ident $pair_block:ident]) => {
        impl MicroKernel for $level {
            const TILE_VECTORS: usize = $vectors;
            const DOT_ROWS: usize = $dot_rows;
            const ROW_BLOCK: usize = $most_rows;

            #[inline(always)]
            unsafe fn tile(self, rows: usize, vectors: usize, t: &Tile) {
                #[$features]
                unsafe fn compiled<const ROWS: usize, const VECTORS: usize>(simd: $level, t: &Tile) {
                    // SAFETY: passed on to the caller.
                    unsafe { tile::<$level, Floats, ROWS, VECTORS>(simd, Floats, t) }
                }
                match (rows, vectors) {
                    // SAFETY: `self` proves the instructions, the caller the memory.
                    $(($rows, $width) => unsafe { compiled::<$rows, $width>(self, t) },)*
                    _ => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                }
            }

            #[inline(always)]
            unsafe fn pair_tile(self, products: Bf16Products, rows: usize, vectors: usize, t: &Tile) {
                #[$features]
                unsafe fn compiled<const ROWS: usize, const VECTORS: usize>(simd: $level, t: &Tile) {
                    // SAFETY: passed on to the caller.
                    unsafe { tile::<$level, Widen, ROWS, VECTORS>(simd, Widen, t) }
                }
                if products == Bf16Products::DotProducts {
                    // SAFETY: passed on to the caller.
                    return unsafe { $pair_tile(self, rows, vectors, t) };
                }
                match (rows, vectors) {
                    // SAFETY: `self` proves the instructions, the caller the memory.
                    $(($rows, $width) => unsafe { compiled::<$rows, $width>(self, t) },)*
                    _ => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                }
            }

            #[inline(always)]
            unsafe fn dots(
                self,
                rows: usize,
                k: usize,
                (a, a_row): (*const f32, usize),
                b: *const f32,
                out: &mut [f32; MAX_DOT_ROWS],
            ) {
                #[$features]
                unsafe fn compiled<const ROWS: usize>(
                    simd: $level, k: usize, a: *const f32, a_row: usize, b: *const f32,
                    out: &mut [f32; MAX_DOT_ROWS],
                ) {
                    // SAFETY: passed on to the caller.
                    unsafe { dots::<$level, ROWS>(simd, k, a, a_row, b, out) }
                }
                match rows {
                    // SAFETY: `self` proves the instructions, the caller the memory.
                    $($dots => unsafe { compiled::<$dots>(self, k, a, a_row, b, out) },)*
                    _ => unreachable!("dot products of {rows} rows"),
                }
            }

            #[inline(always)]
            unsafe fn row_block(
                self,
                rows: usize,
                columns: usize,
                block: &RowBlock,
                out: &mut BlockSums,
            ) {
                // Kept apart from each other and from the caller, so that each has all registers for its sums.
                #[inline(never)]
                #[$features]
                unsafe fn compiled<D: PairDot<$level>, const ROWS: usize, const COLUMNS: usize>(
                    simd: $level, dot: D, block: &RowBlock, out: &mut BlockSums,
                ) {
                    // SAFETY: passed on to the caller.
                    unsafe { row_block::<$level, D, ROWS, COLUMNS>(simd, dot, block, out) }
                }
                let is_bf16 = match block.product {
                    Product::F32 => false,
                    Product::Bf16(Bf16Products::Widened) => true,
                    // SAFETY: passed on to the caller.
                    Product::Bf16(Bf16Products::DotProducts) => unsafe {
                        return $pair_block(self, rows, columns, block, out);
                    },
                };
                match (rows, columns, is_bf16) {
                    // SAFETY: `self` proves the instructions, the caller the memory.
                    $(($block, BLOCK_COLUMNS, false) => unsafe {
                        compiled::<Floats, $block, BLOCK_COLUMNS>(self, Floats, block, out)
                    },)*
                    // SAFETY: as above.
                    $(($block, BLOCK_COLUMNS, true) => unsafe {
                        compiled::<Widen, $block, BLOCK_COLUMNS>(self, Widen, block, out)
                    },)*
                    // SAFETY: as above.
                    $(($few, 1, false) => unsafe { compiled::<Floats, $few, 1>(self, Floats, block, out) },)*
                    // SAFETY: as above.
                    $(($few, 1, true) => unsafe { compiled::<Widen, $few, 1>(self, Widen, block, out) },)*
                    _ => unreachable!("a block of {rows} rows and {columns} columns"),
                }
            }

            #[inline(always)]
            unsafe fn int8_block(self, rows: usize, block: &Int8Block, out: &mut BlockSums) {
                #[inline(never)]
                #[$features]
                unsafe fn compiled<const ROWS: usize, const KEEPS: bool>(
                    simd: $level, block: &Int8Block, out: &mut BlockSums,
                ) {
                    // SAFETY: passed on to the caller.
                    unsafe { int8_block::<$level, ROWS, KEEPS>(simd, block, out) }
                }
                match (rows, block.keeps()) {
                    // SAFETY: `self` proves the instructions, the caller the memory.
                    $(($block, false) => unsafe { compiled::<$block, false>(self, block, out) },)*
                    // SAFETY: as above.
                    $(($block, true) => unsafe { compiled::<$block, true>(self, block, out) },)*
                    _ => unreachable!("a block of {rows} rows"),
                }
            }
        }
    };
}

micro_kernel!(Portable, 2, 2, allow(clippy::inline_always),
    tiles [(1, 1) (2, 1) (3, 1) (4, 1) (5, 1) (6, 1) (1, 2) (2, 2) (3, 2) (4, 2) (5, 2) (6, 2)],
    dots [1 2], row_blocks [2: 1 2], few [1 2 3 4 5 6 7 8], by_instruction [no_pair_tile no_pair_block]);
#[cfg(target_arch = "x86_64")]
micro_kernel!(Avx2, 2, 2, target_feature(enable = "avx2,fma"),
    tiles [(1, 1) (2, 1) (3, 1) (4, 1) (5, 1) (6, 1) (1, 2) (2, 2) (3, 2) (4, 2) (5, 2) (6, 2)],
    dots [1 2], row_blocks [3: 1 2 3], few [1 2 3 4 5 6 7 8], by_instruction [no_pair_tile no_pair_block]);
#[cfg(target_arch = "x86_64")]
micro_kernel!(Avx512, 4, 4, target_feature(enable = "avx2,fma,avx512f"),
    tiles [(1, 1) (2, 1) (3, 1) (4, 1) (5, 1) (6, 1) (1, 2) (2, 2) (3, 2) (4, 2) (5, 2) (6, 2)
           (1, 3) (2, 3) (3, 3) (4, 3) (5, 3) (6, 3) (1, 4) (2, 4) (3, 4) (4, 4) (5, 4) (6, 4)],
    dots [1 2 3 4], row_blocks [6: 1 2 3 4 5 6], few [1 2 3 4 5 6 7 8],
    by_instruction [avx512_pair_tile avx512_pair_block]);

/// The instruction for dot products of pairs, at a level that has none.
unsafe fn no_pair_tile<S>(_simd: S, rows: usize, vectors: usize, _tile: &Tile) {
    unreachable!("a tile of {rows} rows and {vectors} vectors by dot products, which this level has not")
}

/// As [`no_pair_tile`].
unsafe fn no_pair_block<S>(_simd: S, rows: usize, columns: usize, _block: &RowBlock, _out: &mut BlockSums) {
    unreachable!("a block of {rows} rows and {columns} columns by dot products, which this level has not")
}

/// Calls the function compiled for one of some sizes.
#[cfg(target_arch = "x86_64")]
macro_rules! for_size {
    ($sizes:expr, $compiled:ident, $arguments:tt, [$(($rows:literal, $width:literal))*]) => {
        match $sizes {
            // SAFETY: passed on to the caller.
            $(($rows, $width) => unsafe { $compiled::<$rows, $width> $arguments },)*
            (rows, width) => unreachable!("a block of {rows} rows and {width} vectors or columns"),
        }
    };
}

/// [`MicroKernel::pair_tile`] by AVX-512-BF16.
///
/// # Safety
/// As there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn avx512_pair_tile(simd: Avx512, rows: usize, vectors: usize, t: &Tile) {
    #[target_feature(enable = "avx2,fma,avx512f,avx512bf16")]
    unsafe fn compiled<const ROWS: usize, const VECTORS: usize>(simd: Avx512, t: &Tile) {
        // SAFETY: the caller vouches for the instructions and the memory.
        unsafe { tile::<Avx512, Dot, ROWS, VECTORS>(simd, Dot::assume(), t) }
    }
    for_size!(
        (rows, vectors),
        compiled,
        (simd, t),
        [(1, 1)(2, 1)(3, 1)(4, 1)(5, 1)(6, 1)(1, 2)(2, 2)(3, 2)(4, 2)(5, 2)(6, 2)(1, 3)(2, 3)(3, 3)(4, 3)(
            5, 3
        )(6, 3)(1, 4)(2, 4)(3, 4)(4, 4)(5, 4)(6, 4)]
    );
}

/// [`MicroKernel::row_block`] by AVX-512-BF16.
///
/// # Safety
/// As there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn avx512_pair_block(
    simd: Avx512,
    rows: usize,
    columns: usize,
    block: &RowBlock,
    out: &mut BlockSums,
) {
    #[inline(never)]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bf16")]
    unsafe fn compiled<const ROWS: usize, const COLUMNS: usize>(
        simd: Avx512,
        block: &RowBlock,
        out: &mut BlockSums,
    ) {
        // SAFETY: the caller vouches for the instructions and the memory.
        unsafe { row_block::<Avx512, Dot, ROWS, COLUMNS>(simd, Dot::assume(), block, out) }
    }
    for_size!(
        (rows, columns),
        compiled,
        (simd, block, out),
        [(1, 1)(2, 1)(3, 1)(4, 1)(5, 1)(6, 1)(7, 1)(8, 1)(1, 4)(2, 4)(3, 4)(4, 4)(5, 4)(6, 4)]
    );
}
