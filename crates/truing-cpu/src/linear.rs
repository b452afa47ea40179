//! A projection `y = x W^T + b + (alpha / rank) (x A^T) B^T`, the adapter part where there is one
//! (LoRA, arXiv 2106.09685).
//!
//! The product with `W` and its two backward products are in the number format of the engine; the adapter's are in
//! single precision.

use truing_kernels::{
    Epilogue, MatrixRef, RowProduct, RowWeight, Write, add_bias, bias_backward, gelu_forward_in_place,
    matmul, matmul_with_epilogue, multiply_rows, scale,
};
use truing_model::Adapters;

use crate::buffers::BufferPool;
use crate::parameters::Parameters;

/// Indices of a projection's parameters.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: usize,
    bias: Option<usize>,
    adapter: Option<Adapter>,
    n_out: usize,
    n_in: usize,
}

#[derive(Debug, Clone)]
struct Adapter {
    a: usize,
    b: usize,
    rank: usize,
    scale: f32,
}

impl Linear {
    /// The projection called `name` (without `.weight`), `[n_out, n_in]`.
    pub(crate) fn find(parameters: &Parameters, name: &str, lora_alpha: Option<f32>) -> Option<Self> {
        let weight = parameters.find(&format!("{name}.weight"))?;
        let adapter = lora_alpha.and_then(|alpha| {
            let a = parameters.find(&format!("{name}.lora_A.weight"))?;
            let b = parameters.find(&format!("{name}.lora_B.weight"))?;
            let rank = parameters.specs[a].shape[0];
            Some(Adapter { a, b, rank, scale: alpha / rank as f32 })
        });
        let shape = &parameters.specs[weight].shape;
        Some(Self {
            weight,
            bias: parameters.find(&format!("{name}.bias")),
            adapter,
            n_out: shape[0],
            n_in: shape[1],
        })
    }

    /// Rows of the weight.
    pub(crate) fn n_out(&self) -> usize {
        self.n_out
    }

    /// The adapter, where there is one and the pass that runs uses it, forward or backward.
    fn active_adapter(&self, parameters: &Parameters) -> Option<&Adapter> {
        self.adapter.as_ref().filter(|_| parameters.adapters == Adapters::Enabled)
    }

    /// Writes or adds `[n_rows, n_out]` from `x` `[n_rows, n_in]`.
    pub(crate) fn forward(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        x: &[f32],
        y: &mut [f32],
        write: Write,
    ) {
        let n_rows = x.len() / self.n_in;
        let x = MatrixRef::new(x, n_rows, self.n_in);
        let weight = parameters.weight(self.weight);
        let bias = self.bias.map(|bias| &parameters.values[bias][..]);
        let Some(adapter) = self.active_adapter(parameters) else {
            let epilogue = bias.map_or(Epilogue::Nothing, Epilogue::Bias);
            return weight.forward(x, y, write, epilogue);
        };
        weight.forward(x, y, write, Epilogue::Nothing);
        let reduced = adapter.reduce(parameters, pool, x, n_rows, self.n_in);
        let b = MatrixRef::new(&parameters.values[adapter.b], self.n_out, adapter.rank);
        let epilogue = bias.map_or(Epilogue::Nothing, Epilogue::Bias);
        let reduced_matrix = MatrixRef::new(&reduced, n_rows, adapter.rank);
        matmul_with_epilogue(reduced_matrix, b.transposed(), y, Write::Add, epilogue);
        pool.give(reduced);
    }

    /// The projection with a GELU over it, where nothing before the activation is wanted. Overwrites `y`.
    pub(crate) fn forward_gelu(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        x: &[f32],
        y: &mut [f32],
    ) {
        match (self.bias, &self.adapter) {
            (Some(bias), None) => {
                let x = MatrixRef::new(x, x.len() / self.n_in, self.n_in);
                let epilogue = Epilogue::BiasGelu(&parameters.values[bias]);
                parameters.weight(self.weight).forward(x, y, Write::Overwrite, epilogue);
            }
            _ => {
                self.forward(parameters, pool, x, y, Write::Overwrite);
                gelu_forward_in_place(y);
            }
        }
    }

    /// Several projections of a few rows: `outputs[i]` `[n_rows, n_out]` is written or added to from `x`
    /// `[n_rows, n_in]`, with the weights that decoding reads. No bit of a row depends on the others.
    pub(crate) fn forward_rows<const N: usize>(
        projections: [&Self; N],
        parameters: &Parameters,
        pool: &mut BufferPool,
        x: &[f32],
        mut outputs: [&mut [f32]; N],
        write: Write,
    ) {
        let n_in = projections[0].n_in;
        let n_rows = x.len() / n_in;
        let mut products: Vec<RowProduct<'_>> = projections
            .iter()
            .zip(&mut outputs)
            .map(|(projection, y)| RowProduct { weight: parameters.row_weight(projection.weight), y, write })
            .collect();
        multiply_rows(x, n_in, &mut products);
        for (projection, y) in projections.into_iter().zip(outputs) {
            if let Some(adapter) = projection.active_adapter(parameters) {
                let mut reduced = pool.take(n_rows, adapter.rank);
                let weight = RowWeight::F32(&parameters.values[adapter.a]);
                multiply_rows(
                    x,
                    n_in,
                    &mut [RowProduct { weight, y: &mut reduced, write: Write::Overwrite }],
                );
                scale(&mut reduced, adapter.scale);
                let weight = RowWeight::F32(&parameters.values[adapter.b]);
                multiply_rows(
                    &reduced,
                    adapter.rank,
                    &mut [RowProduct { weight, y: &mut *y, write: Write::Add }],
                );
                pool.give(reduced);
            }
            if let Some(bias) = projection.bias {
                add_bias(y, &parameters.values[bias]);
            }
        }
    }

    /// Writes or adds the gradient at the input, `d_x` `[n_rows, n_in]`, from the gradient at the output, `d_y`
    /// `[n_rows, n_out]`: `d_x = d_y W + (alpha / rank) d_y B A`.
    pub(crate) fn backward_input(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        d_y: &[f32],
        d_x: &mut [f32],
        write: Write,
    ) {
        let n_rows = d_y.len() / self.n_out;
        let d_y = MatrixRef::new(d_y, n_rows, self.n_out);
        parameters.weight(self.weight).backward_input(d_y, d_x, write);
        if let Some(adapter) = self.active_adapter(parameters) {
            let d_reduced = adapter.reduce_gradient(parameters, pool, d_y, n_rows, self.n_out);
            let a = MatrixRef::new(&parameters.values[adapter.a], adapter.rank, self.n_in);
            matmul(MatrixRef::new(&d_reduced, n_rows, adapter.rank), a, d_x, Write::Add);
            pool.give(d_reduced);
        }
    }

    /// Adds the gradients of the trainable tensors, from the input `x` `[n_rows, n_in]` and the gradient at the output:
    /// `d_W += d_y^T x`, `d_b += sum d_y`, and the same for the adapter's two matrices.
    pub(crate) fn backward_parameters(
        &self,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        x: &[f32],
        d_y: &[f32],
    ) {
        let n_rows = x.len() / self.n_in;
        let x = MatrixRef::new(x, n_rows, self.n_in);
        if let Some(bias) = self.bias
            && let Some(d_bias) = parameters.gradient(bias)
        {
            bias_backward(d_y, d_bias);
        }
        let d_y = MatrixRef::new(d_y, n_rows, self.n_out);
        if let (weight, Some(d_weight)) = parameters.weight_and_gradient(self.weight) {
            weight.add_gradient(d_y, x, d_weight);
        }
        let Some(adapter) = self.active_adapter(parameters) else { return };
        if !parameters.gradients[adapter.b].is_empty() {
            let reduced = adapter.reduce(parameters, pool, x, n_rows, self.n_in);
            let reduced_matrix = MatrixRef::new(&reduced, n_rows, adapter.rank);
            matmul(d_y.transposed(), reduced_matrix, &mut parameters.gradients[adapter.b], Write::Add);
            pool.give(reduced);
        }
        if !parameters.gradients[adapter.a].is_empty() {
            let d_reduced = adapter.reduce_gradient(parameters, pool, d_y, n_rows, self.n_out);
            let d_reduced_matrix = MatrixRef::new(&d_reduced, n_rows, adapter.rank);
            matmul(d_reduced_matrix.transposed(), x, &mut parameters.gradients[adapter.a], Write::Add);
            pool.give(d_reduced);
        }
    }
}

impl Adapter {
    /// `(alpha / rank) x A^T`, `[n_rows, rank]`.
    fn reduce(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        x: MatrixRef<'_>,
        n_rows: usize,
        n_in: usize,
    ) -> Vec<f32> {
        let mut reduced = pool.take(n_rows, self.rank);
        let a = MatrixRef::new(&parameters.values[self.a], self.rank, n_in);
        matmul(x, a.transposed(), &mut reduced, Write::Overwrite);
        scale(&mut reduced, self.scale);
        reduced
    }

    /// `(alpha / rank) d_y B`, `[n_rows, rank]`.
    fn reduce_gradient(
        &self,
        parameters: &Parameters,
        pool: &mut BufferPool,
        d_y: MatrixRef<'_>,
        n_rows: usize,
        n_out: usize,
    ) -> Vec<f32> {
        let mut d_reduced = pool.take(n_rows, self.rank);
        let b = MatrixRef::new(&parameters.values[self.b], n_out, self.rank);
        matmul(d_y, b, &mut d_reduced, Write::Overwrite);
        scale(&mut d_reduced, self.scale);
        d_reduced
    }
}
