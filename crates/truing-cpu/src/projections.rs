//! Projections of one input: queries, keys and values, or gate and up. A family stores each as a matrix of its own, or
//! all as the rows of one (Phi-3's `qkv_proj` and `gate_up_proj`, Baichuan's `W_pack`).

use rayon::prelude::*;
use truing_kernels::Write;
use truing_model::EngineError;

use crate::buffers::BufferPool;
use crate::linear::Linear;
use crate::parameters::Parameters;

/// `N` projections of one input.
#[derive(Debug)]
pub(crate) enum Projections<const N: usize> {
    /// A matrix each.
    Separate([Linear; N]),
    /// One matrix with the rows of all, in order.
    Fused {
        /// The matrix.
        linear: Linear,
        /// Rows of each.
        widths: [usize; N],
    },
}

/// Copies some columns of `from` `[n_rows, width]` to `to` `[n_rows, n_columns]`.
fn take_columns(from: &[f32], width: usize, start: usize, to: &mut [f32], n_columns: usize) {
    let rows = to.par_chunks_exact_mut(n_columns).zip(from.par_chunks_exact(width));
    rows.for_each(|(to, from)| to.copy_from_slice(&from[start..start + n_columns]));
}

/// The other way.
fn put_columns(from: &[f32], n_columns: usize, to: &mut [f32], width: usize, start: usize) {
    let rows = to.par_chunks_exact_mut(width).zip(from.par_chunks_exact(n_columns));
    rows.for_each(|(to, from)| to[start..start + n_columns].copy_from_slice(from));
}

/// Where each part begins.
fn starts<const N: usize>(widths: &[usize; N]) -> [usize; N] {
    std::array::from_fn(|i| widths[..i].iter().sum())
}

impl<const N: usize> Projections<N> {
    /// The projections called `names`, or the one called `fused` whose parts have `widths` rows.
    pub(crate) fn find(
        linear: impl Fn(&str) -> Result<Linear, EngineError>,
        names: [&str; N],
        fused: Option<&str>,
        widths: [usize; N],
    ) -> Result<Self, EngineError> {
        if let Some(name) = fused {
            return Ok(Self::Fused { linear: linear(name)?, widths });
        }
        let all: Vec<Linear> = names.into_iter().map(linear).collect::<Result<_, _>>()?;
        let all = all.try_into().map_err(|_| EngineError::Unsupported("a projection is missing".into()))?;
        Ok(Self::Separate(all))
    }

    /// The products `[n_rows, width]` of `x` `[n_rows, n_in]` with each.
    pub(crate) fn forward(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        x: &[f32],
        n_rows: usize,
    ) -> [Vec<f32>; N] {
        match self {
            Self::Separate(all) => all.each_ref().map(|projection| {
                let mut y = pool.take(n_rows, projection.n_out());
                projection.forward(parameters, pool, x, &mut y, Write::Overwrite);
                y
            }),
            Self::Fused { linear, widths } => {
                let mut y = pool.take(n_rows, linear.n_out());
                linear.forward(parameters, pool, x, &mut y, Write::Overwrite);
                Self::split(pool, y, n_rows, widths)
            }
        }
    }

    /// The same with the weights that decoding reads. No bit of a row depends on the others.
    pub(crate) fn forward_rows(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        x: &[f32],
        n_rows: usize,
    ) -> [Vec<f32>; N] {
        match self {
            Self::Separate(all) => {
                let mut outputs = all.each_ref().map(|projection| pool.take(n_rows, projection.n_out()));
                let to = outputs.each_mut().map(Vec::as_mut_slice);
                Linear::forward_rows(all.each_ref(), parameters, pool, x, to, Write::Overwrite);
                outputs
            }
            Self::Fused { linear, widths } => {
                let mut y = pool.take(n_rows, linear.n_out());
                Linear::forward_rows([linear], parameters, pool, x, [&mut y[..]], Write::Overwrite);
                Self::split(pool, y, n_rows, widths)
            }
        }
    }

    /// The parts of `y` `[n_rows, all widths]`.
    fn split(pool: &mut BufferPool, y: Vec<f32>, n_rows: usize, widths: &[usize; N]) -> [Vec<f32>; N] {
        let (width, starts) = (widths.iter().sum(), starts(widths));
        let parts = std::array::from_fn(|i| {
            let mut part = pool.take(n_rows, widths[i]);
            take_columns(&y, width, starts[i], &mut part, widths[i]);
            part
        });
        pool.give(y);
        parts
    }

    /// Writes the gradient at the input, `d_x` `[n_rows, n_in]`, from the gradients at the outputs, and adds those of
    /// the parameters; `x` is what forward had.
    pub(crate) fn backward(
        &self,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        x: &[f32],
        d_outputs: [&[f32]; N],
        d_x: &mut [f32],
    ) {
        match self {
            Self::Separate(all) => {
                for (i, (projection, d_y)) in all.iter().zip(d_outputs).enumerate() {
                    let write = if i == 0 { Write::Overwrite } else { Write::Add };
                    projection.backward_input(parameters, pool, d_y, d_x, write);
                    projection.backward_parameters(parameters, pool, x, d_y);
                }
            }
            Self::Fused { linear, widths } => {
                let (width, starts) = (linear.n_out(), starts(widths));
                let mut d_y = pool.take(d_outputs[0].len() / widths[0], width);
                for ((part, n_columns), start) in d_outputs.into_iter().zip(widths).zip(starts) {
                    put_columns(part, *n_columns, &mut d_y, width, start);
                }
                linear.backward_input(parameters, pool, &d_y, d_x, Write::Overwrite);
                linear.backward_parameters(parameters, pool, x, &d_y);
                pool.give(d_y);
            }
        }
    }
}
