//! The one place a matrix product is made: `C = A · B` or `C += A · B`.

use crate::parallel::{Disjoint, for_each_item};
use crate::simd::{SimdLevel, simd_fn};
use crate::vector::add_assign;

/// A matrix in a slice: element (i, j) is `data[i · row_stride + j · col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRef<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
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
}

/// What becomes of the numbers an output holds already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// They are replaced and never read.
    Overwrite,
    /// The result is added to them.
    Add,
}

simd_fn! {
    fn axpy_row<S>(simd, scale: f32, from: &[f32], to: &mut [f32]) {
        let scale = simd.splat(scale);
        for (from, to) in from.chunks(S::LANES).zip(to.chunks_mut(S::LANES)) {
            let sum = simd.fma(scale, simd.load_or(from, 0.0), simd.load_or(to, 0.0));
            simd.store_some(to, sum);
        }
    }
}

/// `C = A · B` or `C += A · B`; `c: [a.rows, b.cols]`, row-major and contiguous. Panics when sizes do not fit.
#[allow(unsafe_code, reason = "rows written by several threads")]
pub fn matmul(a: MatrixRef, b: MatrixRef, c: &mut [f32], write: Write) {
    assert_eq!(a.cols, b.rows, "matmul: inner sizes");
    assert_eq!(c.len(), a.rows * b.cols, "matmul: c is [a.rows, b.cols]");
    let level = SimdLevel::current();
    let (n, k) = (b.cols, a.cols);
    let copy: Vec<f32>;
    let b_rows = if b.col_stride == 1 {
        b.data
    } else {
        copy = (0..k * n).map(|i| b.data[i / n * b.row_stride + i % n * b.col_stride]).collect();
        &copy
    };
    let c = Disjoint::new(c);
    for_each_item(a.rows, |i| {
        // SAFETY: an item writes only its own row.
        let row = unsafe { c.part(i * n, n) };
        if write == Write::Overwrite {
            row.fill(0.0);
        }
        for p in 0..k {
            let scale = a.data[i * a.row_stride + p * a.col_stride];
            axpy_row(level, scale, &b_rows[p * n..(p + 1) * n], row);
        }
    });
}

/// Adds `bias` to every row of `rows: [_, bias.len()]`. Panics when the length does not fit.
pub fn add_bias(rows: &mut [f32], bias: &[f32]) {
    assert!(!bias.is_empty() && rows.len() % bias.len() == 0, "add_bias: rows is [rows, bias]");
    rows.chunks_exact_mut(bias.len()).for_each(|row| add_assign(row, bias));
}

/// Adds the column sums of `d_rows: [_, d_bias.len()]` to `d_bias`, rows in order. Panics when the length does not
/// fit.
pub fn bias_backward(d_rows: &[f32], d_bias: &mut [f32]) {
    assert!(!d_bias.is_empty() && d_rows.len() % d_bias.len() == 0, "bias_backward: d_rows is [rows, bias]");
    d_rows.chunks_exact(d_bias.len()).for_each(|row| add_assign(d_bias, row));
}
