//! One vector for every sequence: the final norm, pooling, the encoder's output layer, division by the norm; and back.

use truing_model::{EngineError, HeadOutput, HeadRequest, Pooling};

use crate::error::TorchError;
use crate::ffi::{Dtype, Tensor};
use crate::inner::{Body, Inner};
use crate::linear::Linear;
use crate::parameters::Parameters;

/// Vectors shorter than this are divided by it instead of by their norm, as in PyTorch.
const SHORTEST: f32 = 1e-12;

/// A [`HeadRequest::Vectors`] on the device.
pub(crate) struct VectorRequest {
    is_normalized: bool,
    n_sequences: usize,
    /// For a mean the sequence of each row, otherwise the row of each sequence.
    indices: Tensor,
    /// For a mean, 1 over the length of each sequence `[n_sequences, 1]`.
    shares: Option<Tensor>,
}

/// Vectors and what their backward pass needs.
pub(crate) struct Vectors {
    /// What is answered `[n_sequences, width]`.
    pub(crate) answer: Tensor,
    /// Before the output layer and the normalisation `[n_sequences, hidden]`.
    pooled: Tensor,
    /// The Euclidean norms `[n_sequences, 1]`, where vectors are divided by them.
    norms: Option<Tensor>,
}

impl Inner {
    /// The layer behind the pooling, which some encoders have.
    fn output_layer(&self) -> Option<&Linear> {
        self.body.encoder().and_then(|encoder| encoder.output.as_ref())
    }

    pub(crate) fn vector_request(
        &self,
        request: &HeadRequest<'_>,
    ) -> Result<Option<VectorRequest>, TorchError> {
        let HeadRequest::Vectors { cumulative_lengths, pooling, is_normalized } = request else {
            return Ok(None);
        };
        let Parameters { torch, device, .. } = self.parameters;
        let bounds = || cumulative_lengths.windows(2).map(|pair| (i64::from(pair[0]), i64::from(pair[1])));
        let indices: Vec<i64> = match pooling {
            Pooling::Cls => bounds().map(|(start, _)| start).collect(),
            Pooling::LastToken => bounds().map(|(_, end)| end - 1).collect(),
            Pooling::Mean => {
                (0..).zip(bounds()).flat_map(|(i, (start, end))| (start..end).map(move |_| i)).collect()
            }
        };
        let n_sequences = bounds().count();
        let shares = if *pooling == Pooling::Mean {
            let shares: Vec<f32> = bounds().map(|(start, end)| 1.0 / (end - start) as f32).collect();
            Some(Tensor::from_f32(torch, &shares, &[n_sequences, 1], device)?)
        } else {
            None
        };
        Ok(Some(VectorRequest {
            is_normalized: *is_normalized,
            n_sequences,
            indices: Tensor::from_i64(torch, &indices, &[indices.len()], device)?,
            shares,
        }))
    }

    pub(crate) fn vectors(&self, hidden: &Tensor, request: &VectorRequest) -> Result<Vectors, TorchError> {
        let normed = match &self.body {
            Body::Encoder(encoder) => encoder.final_norm.forward(&self.parameters, hidden)?,
            Body::Decoder(decoder) => decoder.final_norm.forward(&self.parameters, hidden)?,
        };
        let pooled = request.pool(&normed.to(Dtype::F32)?)?;
        let outputs = match self.output_layer() {
            Some(output) => output.forward(&self.parameters, &pooled)?,
            None => pooled.alias()?,
        };
        if !request.is_normalized {
            return Ok(Vectors { answer: outputs, pooled, norms: None });
        }
        let norms = outputs.mul(&outputs)?.sum(1, true)?.sqrt()?;
        let divisors = norms.maximum(&Tensor::scalar(norms.torch(), SHORTEST)?)?;
        Ok(Vectors { answer: outputs.div(&divisors)?, pooled, norms: Some(norms) })
    }

    pub(crate) fn vectors_backward(
        &self,
        hidden: &Tensor,
        request: &VectorRequest,
        d_vectors: &[f32],
    ) -> Result<(HeadOutput, Tensor), EngineError> {
        let vectors = self.vectors(hidden, request)?;
        let output = HeadOutput { vectors: vectors.answer.to_f32()?, ..HeadOutput::default() };
        if d_vectors.is_empty() {
            return Ok((output, hidden.zeros_like(&hidden.shape())?));
        }
        let Parameters { torch, device, .. } = self.parameters;
        let d = Tensor::from_f32(torch, d_vectors, &vectors.answer.shape(), device)?;
        let d = vectors.normalize_backward(d)?;
        let d_pooled = match self.output_layer() {
            Some(output) => {
                output.backward_parameters(&self.parameters, &vectors.pooled, &d)?;
                output.backward_input(&self.parameters, &d)?
            }
            None => d,
        };
        let d_normed = request.pool_backward(&d_pooled, hidden.size(0))?;
        let d_hidden = match &self.body {
            Body::Encoder(encoder) => encoder.final_norm.backward(&self.parameters, hidden, &d_normed)?,
            Body::Decoder(decoder) => decoder.final_norm.backward(&self.parameters, hidden, &d_normed)?,
        };
        Ok((output, d_hidden))
    }
}

impl VectorRequest {
    /// The rows of each sequence as one.
    fn pool(&self, rows: &Tensor) -> Result<Tensor, TorchError> {
        match &self.shares {
            Some(shares) => rows.scatter_rows(&self.indices, self.n_sequences)?.mul(shares),
            None => rows.select(0, &self.indices),
        }
    }

    fn pool_backward(&self, d_pooled: &Tensor, n_rows: usize) -> Result<Tensor, TorchError> {
        match &self.shares {
            Some(shares) => d_pooled.mul(shares)?.select(0, &self.indices),
            None => d_pooled.scatter_rows(&self.indices, n_rows),
        }
    }
}

impl Vectors {
    /// With `e = v / |v|` and `d` the gradient at e: `(d - e (e · d)) / |v|`, the gradient at v. A vector that is
    /// divided by a constant has no pull towards its own direction.
    fn normalize_backward(&self, d: Tensor) -> Result<Tensor, TorchError> {
        let Some(norms) = &self.norms else { return Ok(d) };
        let shortest = Tensor::scalar(norms.torch(), SHORTEST)?;
        let has_direction = norms.greater(&shortest)?.to(Dtype::F32)?;
        let pull = self.answer.mul(&d)?.sum(1, true)?.mul(&has_direction)?;
        d.sub(&self.answer.mul(&pull)?)?.div(&norms.maximum(&shortest)?)
    }
}
