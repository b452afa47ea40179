//! The narrow door between encoders and devices: texts in, one vector or one row of outputs each out, and the gradient
//! back.

use truing_types::PackedBatch;

use super::EncoderSpec;
use crate::engine::{EngineError, EngineMemory, Keep, ParameterStore};
use crate::spec::TrainableSpec;

/// Runs an encoder, forward and backward.
///
/// One optimiser step is: [`zero_gradients`](ParameterStore::zero_gradients); for each pack: `upload`, `encode`,
/// `backward`; then `reduce_gradients`, `gradient_norm`, `optimizer_step`. Gradients accumulate.
pub trait EncoderEngine: ParameterStore {
    /// Tokens, positions and cumulative lengths where the engine wants them.
    type Batch;
    /// What a forward pass left behind.
    type Kept;

    /// The bytes this engine would need, known before anything is loaded. There is no head; a segment is a layer.
    fn memory(spec: &EncoderSpec, trainable: &TrainableSpec) -> EngineMemory
    where
        Self: Sized;

    /// The model.
    fn spec(&self) -> &EncoderSpec;

    /// Hands a batch to the engine.
    ///
    /// # Errors
    /// When a token lies outside the vocabulary, a text is longer than the positions go, or a sequence goes on from
    /// another.
    fn upload(&mut self, batch: &PackedBatch) -> Result<Self::Batch, EngineError>;

    /// The vector of every sequence, or its outputs where the encoder has an output layer `[n_sequences, width]`
    /// ([`EncoderSpec::width`]), on the host. `keep` says what each layer leaves behind for
    /// [`backward`](Self::backward).
    ///
    /// # Errors
    /// As the device fails.
    fn encode(&mut self, batch: &Self::Batch, keep: Keep) -> Result<(Vec<f32>, Self::Kept), EngineError>;

    /// Adds the gradient of every parameter, from that with respect to what was encoded
    /// `[n_sequences, width]`.
    ///
    /// # Errors
    /// When nothing was kept, or the gradient is of another size.
    fn backward(
        &mut self,
        batch: &Self::Batch,
        kept: Self::Kept,
        d_vectors: &[f32],
    ) -> Result<(), EngineError>;
}
