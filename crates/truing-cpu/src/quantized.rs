//! A copy of the weights in 8 bits, for decoding: projections and the language-model head, a quarter of the bytes that
//! every new token streams from memory. Embeddings, norms, biases and adapters stay as they are, and so does everything that
//! reads a prompt or learns: none of it ever sees the copy.

use truing_kernels::Int8Matrix;
use truing_model::{DecoderSpec, ParameterSpec};

use crate::rounded::is_multiplied;

/// The copy, by parameter.
#[derive(Debug)]
pub(crate) struct QuantizedWeights {
    /// `None` where the parameter is not quantized.
    matrices: Vec<Option<Int8Matrix>>,
    /// Whether a parameter has changed since it was quantized.
    is_stale: Vec<bool>,
}

/// Bytes of the copy of a model.
pub(crate) fn quantized_bytes(spec: &DecoderSpec, parameters: &[ParameterSpec]) -> u64 {
    let quantized = parameters.iter().filter(|parameter| is_multiplied(Some(spec), parameter));
    quantized.map(|parameter| Int8Matrix::bytes(parameter.shape[0], parameter.shape[1]) as u64).sum()
}

impl QuantizedWeights {
    /// Room for the copy; every matrix is stale.
    pub(crate) fn new(spec: &DecoderSpec, parameters: &[ParameterSpec]) -> Self {
        let matrix = |parameter: &ParameterSpec| {
            is_multiplied(Some(spec), parameter)
                .then(|| Int8Matrix::new(parameter.shape[0], parameter.shape[1]))
        };
        Self { matrices: parameters.iter().map(matrix).collect(), is_stale: vec![true; parameters.len()] }
    }

    pub(crate) fn matrix(&self, parameter_idx: usize) -> Option<&Int8Matrix> {
        self.matrices[parameter_idx].as_ref()
    }

    /// Marks a parameter as changed.
    pub(crate) fn invalidate(&mut self, parameter_idx: usize) {
        self.is_stale[parameter_idx] = true;
    }

    /// Compresses what has changed.
    pub(crate) fn refresh(&mut self, values: &[Vec<f32>]) {
        for ((matrix, is_stale), values) in self.matrices.iter_mut().zip(&mut self.is_stale).zip(values) {
            if let Some(matrix) = matrix
                && *is_stale
            {
                matrix.compress(values);
            }
            *is_stale = false;
        }
    }
}
