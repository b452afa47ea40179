//! The weights of a projection in either number format, and its three products.

use crate::bf16_matmul::{Bf16Operand, bf16_matmul, bf16_matmul_with_epilogue};
use crate::bf16_matrix::Bf16Matrix;
use crate::blocks::Epilogue;
use crate::matmul::{MatrixRef, matmul, matmul_with_epilogue};
use crate::micro_kernel::Write;

/// Weights `[n_out, n_in]`, and with them the number format of all products that they take part in.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// Row-major; products in f32.
    F32(&'a [f32]),
    /// Products with factors in bf16 and sums in f32.
    Bf16(&'a Bf16Matrix),
}

impl<'a, T: AsRef<[f32]> + ?Sized> From<&'a T> for Weight<'a> {
    fn from(weight: &'a T) -> Self {
        Weight::F32(weight.as_ref())
    }
}

impl<'a> From<&'a Bf16Matrix> for Weight<'a> {
    fn from(weight: &'a Bf16Matrix) -> Self {
        Weight::Bf16(weight)
    }
}

impl<'a> Weight<'a> {
    /// Elements, `n_out · n_in`.
    pub(crate) fn n_elements(self) -> usize {
        match self {
            Weight::F32(weight) => weight.len(),
            Weight::Bf16(weight) => weight.n_out() * weight.n_in(),
        }
    }

    /// Floats as a matrix of rows `[_, n_in]`.
    fn matrix(weight: &'a [f32], n_in: usize) -> MatrixRef<'a> {
        MatrixRef::new(weight, weight.len() / n_in.max(1), n_in)
    }

    /// `y = x Wᵀ` or `y += x Wᵀ`, then `epilogue` on all of `y` `[n_rows, n_out]`; `x: [n_rows, n_in]`.
    ///
    /// Panics when sizes do not fit.
    pub fn forward(self, x: MatrixRef<'_>, y: &mut [f32], write: Write, epilogue: Epilogue<'_>) {
        match self {
            Weight::F32(weight) => {
                matmul_with_epilogue(x, Self::matrix(weight, x.cols).transposed(), y, write, epilogue);
            }
            Weight::Bf16(weight) => bf16_matmul_with_epilogue(x, transposed(weight), y, write, epilogue),
        }
    }

    /// `y = W xᵀ`: the forward product turned round, `y: [n_out, n_rows]`, `x: [n_rows, n_in]`.
    ///
    /// Panics when sizes do not fit.
    pub fn forward_transposed(self, x: MatrixRef<'_>, y: &mut [f32]) {
        match self {
            Weight::F32(weight) => matmul(Self::matrix(weight, x.cols), x.transposed(), y, Write::Overwrite),
            Weight::Bf16(weight) => bf16_matmul(weight, x.transposed(), y, Write::Overwrite),
        }
    }

    /// `d_x = d_y W` or `d_x += d_y W`, `d_x: [n_rows, n_in]`, `d_y: [n_rows, n_out]`.
    ///
    /// Panics when sizes do not fit.
    pub fn backward_input(self, d_y: MatrixRef<'_>, d_x: &mut [f32], write: Write) {
        match self {
            Weight::F32(weight) => {
                let n_in = weight.len() / d_y.cols.max(1);
                matmul(d_y, Self::matrix(weight, n_in), d_x, write);
            }
            Weight::Bf16(weight) => bf16_matmul(d_y, weight, d_x, write),
        }
    }

    /// `d_W += d_yᵀ x`, `d_W: [n_out, n_in]` in f32, `d_y: [n_rows, n_out]`, `x: [n_rows, n_in]`: in the number format
    /// of these weights, whose values take no part in it.
    ///
    /// Panics when sizes do not fit.
    pub fn add_gradient(self, d_y: MatrixRef<'_>, x: MatrixRef<'_>, d_weight: &mut [f32]) {
        match self {
            Weight::F32(_) => matmul(d_y.transposed(), x, d_weight, Write::Add),
            Weight::Bf16(_) => bf16_matmul(d_y.transposed(), x, d_weight, Write::Add),
        }
    }
}

fn transposed(weight: &Bf16Matrix) -> Bf16Operand<'_> {
    Bf16Operand::from(weight).transposed()
}
