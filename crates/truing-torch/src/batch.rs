//! [`DeviceBatch`]: tokens, positions and sequences of a pack as the layers read them.

use truing_types::PackedBatch;

use crate::attention::Spans;
use crate::device::Device;
use crate::error::TorchError;
use crate::ffi::{Tensor, TorchLib};
use crate::rotary::AllAngles;

/// A batch on the device.
#[derive(Debug)]
pub struct DeviceBatch {
    /// `[n_tokens]`.
    pub(crate) tokens: Tensor,
    /// `[n_tokens]`.
    pub(crate) positions: Tensor,
    pub(crate) n_tokens: usize,
    pub(crate) spans: Spans,
    /// Where sequences continue others: the token behind each key, every prefix before each of its continuations.
    key_tokens: Option<Tensor>,
    /// Of decoders.
    pub(crate) angles: Option<AllAngles>,
}

impl DeviceBatch {
    pub(crate) fn new(
        torch: &'static TorchLib,
        device: Device,
        batch: &PackedBatch,
        angles: Option<AllAngles>,
    ) -> Result<Self, TorchError> {
        let indices = |numbers: &[u32]| {
            let numbers: Vec<i64> = numbers.iter().map(|&number| i64::from(number)).collect();
            Tensor::from_i64(torch, &numbers, &[numbers.len()], device)
        };
        let sequences = batch.prefixes().iter().enumerate().map(|(idx, prefix)| {
            let prefix = prefix.map(|prefix| batch.sequence_range(prefix as usize)).unwrap_or_default();
            (batch.sequence_range(idx), prefix)
        });
        let lengths = sequences.clone().map(|(own, prefix)| (own.len(), prefix.len() + own.len()));
        let has_prefixes = batch.prefixes().iter().any(Option::is_some);
        let key_tokens: Vec<u32> =
            sequences.flat_map(|(own, prefix)| prefix.chain(own)).map(|token| token as u32).collect();
        Ok(Self {
            tokens: indices(batch.tokens())?,
            positions: indices(batch.positions())?,
            n_tokens: batch.n_tokens(),
            spans: Spans::new(torch, device, lengths)?,
            key_tokens: has_prefixes.then(|| indices(&key_tokens)).transpose()?,
            angles,
        })
    }

    /// Keys or values of the tokens, as the sequences see them: prefixes are copied before each continuation.
    pub(crate) fn keys(&self, of_tokens: &Tensor) -> Result<Tensor, TorchError> {
        self.key_tokens.as_ref().map_or_else(|| of_tokens.alias(), |tokens| of_tokens.select(0, tokens))
    }

    /// The gradient at the tokens' keys or values: a prefix's is the sum over its copies.
    pub(crate) fn keys_backward(&self, d_keys: Tensor) -> Result<Tensor, TorchError> {
        let Some(tokens) = &self.key_tokens else { return Ok(d_keys) };
        let summed = d_keys.to(crate::ffi::Dtype::F32)?.scatter_rows(tokens, self.n_tokens)?;
        d_keys.dtype().map_or_else(|| summed.alias(), |dtype| summed.to(dtype))
    }
}
