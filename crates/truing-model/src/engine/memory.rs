//! The bytes that an engine needs.

use crate::DecoderSpec;

/// The bytes an engine needs, as a linear model of the batch. Multiply-out is the planner's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineMemory {
    /// All weights, adapters included.
    pub parameter_bytes: u64,
    /// Gradients of what learns.
    pub gradient_bytes: u64,
    /// Optimiser state of what learns.
    pub optimizer_bytes: u64,
    /// A segment's saved input, per token.
    pub segment_input_bytes_per_token: u64,
    /// One layer's attention results, per token.
    pub attention_bytes_per_token: u64,
    /// One layer's saved activations, per token (its input included).
    pub layer_bytes_per_token: u64,
    /// Live beside the saved activations while one layer runs forward or backward, per token.
    pub workspace_bytes_per_token: u64,
    /// Live while layers run forward and nothing is saved, per token, but for what is counted by key.
    pub forward_bytes_per_token: u64,
    /// The same, per key: copies of keys and values, and what attention packs.
    pub forward_bytes_per_key: u64,
    /// Most tokens of a prompt that decoding reads at once.
    pub tokens_per_prompt_piece: u64,
    /// Live while the head runs, per token of the batch.
    pub head_bytes_per_token: u64,
    /// What the head works in, for a batch of any size; kept once it has run.
    pub head_fixed_bytes: u64,
    /// Keys and values of one token of a running sequence, over all layers.
    pub cache_bytes_per_token: u64,
    /// The 8-bit copy of the weights, where decoding uses one; not part of any other line. 0 where the engine makes
    /// none: it then refuses [`DecodingWeights::Int8`](super::DecodingWeights::Int8).
    pub quantized_bytes: u64,
    /// What else the engine holds, such as packing buffers of its threads.
    pub fixed_bytes: u64,
}

/// Bytes of an activation: engines that divide packs keep them in single precision.
const ACTIVATION_BYTES: u64 = 4;

impl EngineMemory {
    /// The same for each of `size` ranks that divide packs between them, by token of a rank: what the exchange of heads
    /// needs is added. With more ranks than key heads these are copied.
    #[must_use]
    pub fn in_sequence_group(mut self, spec: &DecoderSpec, size: usize) -> Self {
        if size <= 1 {
            return self;
        }
        let n_key_heads = ((spec.n_kv_heads / size).max(1) * size).max(spec.n_kv_heads);
        let queries = spec.q_width() as u64;
        let keys = spec.kv_width() as u64;
        let keys_with_copies = (n_key_heads * spec.head_dim) as u64;
        let of_copies = 2 * (keys_with_copies - keys);
        // What is sent and what is received.
        let exchanged = 2 * (queries + 2 * keys_with_copies);
        // The attention's results by rows; keys and values of copied heads.
        let kept = queries + of_copies;
        self.layer_bytes_per_token += kept * ACTIVATION_BYTES;
        self.forward_bytes_per_token += (kept + exchanged) * ACTIVATION_BYTES;
        // A rank has the keys of all rows, of its own heads.
        self.forward_bytes_per_key = self.forward_bytes_per_key * keys_with_copies / keys;
        // Gradients of queries, keys and values by heads beside those by rows; copies of keys for prefixes.
        let gradients = queries + 2 * keys_with_copies + 2 * of_copies;
        self.workspace_bytes_per_token += (gradients + exchanged) * ACTIVATION_BYTES;
        self
    }

    /// What is held through all of a run: everything that does not follow from tokens.
    #[must_use]
    pub fn lasting_bytes(&self) -> u64 {
        self.parameter_bytes
            + self.gradient_bytes
            + self.optimizer_bytes
            + self.fixed_bytes
            + self.head_fixed_bytes
    }
}
