//! The bytes this engine needs, from the specification alone: the planner asks before anything is loaded.

use truing_model::{
    ComputeDtype, DecoderSpec, EncoderSpec, EngineMemory, ModelSpec, ParameterSpec, TrainableSpec,
};

use crate::decode::PREFILL_TOKENS;
use crate::head::LOGITS_AT_ONCE;
use crate::parameters::has_copy;

const FLOAT_BYTES: u64 = 4;

/// What libtorch itself holds: its code and its tables, and on a GPU the context and the libraries' workspaces.
const LIBRARY_BYTES: u64 = 1 << 30;

pub(crate) fn engine_memory(
    spec: &ModelSpec,
    trainable: &TrainableSpec,
    dtype: ComputeDtype,
) -> EngineMemory {
    let number_bytes = match dtype {
        ComputeDtype::F32 => FLOAT_BYTES,
        ComputeDtype::Bf16 => 2,
    };
    let mut parameters = spec.parameters();
    if let (Some(lora), ModelSpec::Decoder(decoder)) = (&trainable.lora, spec) {
        parameters.extend(decoder.lora_parameters(lora));
    }
    let elements = |chosen: &dyn Fn(&ParameterSpec) -> bool| {
        parameters.iter().filter(|p| chosen(p)).map(|p| p.n_elements() as u64).sum::<u64>()
    };
    let copies = match dtype {
        ComputeDtype::F32 => 0,
        ComputeDtype::Bf16 => number_bytes * elements(&|p| has_copy(spec, p)),
    };
    let gradient_bytes = FLOAT_BYTES * elements(&|p| trainable.is_trainable(p));
    let of_parameters = EngineMemory {
        parameter_bytes: FLOAT_BYTES * elements(&|_| true) + copies,
        gradient_bytes,
        optimizer_bytes: 2 * gradient_bytes,
        segment_input_bytes_per_token: spec.hidden_size() as u64 * FLOAT_BYTES,
        fixed_bytes: LIBRARY_BYTES,
        ..EngineMemory::default()
    };
    match spec {
        ModelSpec::Decoder(spec) => decoder_memory(spec, number_bytes, of_parameters),
        ModelSpec::Encoder(spec) => encoder_memory(spec, number_bytes, of_parameters),
    }
}

fn decoder_memory(spec: &DecoderSpec, number_bytes: u64, of_parameters: EngineMemory) -> EngineMemory {
    let hidden = spec.hidden_size as u64 * FLOAT_BYTES;
    let inner = spec.intermediate_size as u64 * number_bytes;
    let (q, kv) = (spec.q_width() as u64 * number_bytes, spec.kv_width() as u64 * number_bytes);
    let row_normalisers = spec.n_heads as u64 * FLOAT_BYTES;
    // What the norms after attention and feed-forward are given.
    let branches = if spec.variant.has_post_norms { 2 * spec.hidden_size as u64 * number_bytes } else { 0 };
    // Of the embedding's gradient there are, for a moment, the sum so far, this pack's, and both together.
    let embedding = (spec.vocab_size * spec.hidden_size) as u64 * FLOAT_BYTES;
    EngineMemory {
        attention_bytes_per_token: q + row_normalisers,
        // x, x_mid; q, attention; k, v; gate, up
        layer_bytes_per_token: 2 * hidden + 2 * q + 2 * kv + row_normalisers + 2 * inner + branches,
        // The stream's gradient, the norm's operands and their gradients in single precision; the feed-forward's
        // activation and three gradients; queries, keys and values repeated for every head, their gradients and what
        // the rotation makes.
        workspace_bytes_per_token: 6 * hidden + 5 * inner + 8 * q + 4 * kv + branches,
        forward_bytes_per_token: 5 * hidden + 5 * q + 3 * inner + row_normalisers,
        forward_bytes_per_key: 2 * kv + 2 * q,
        tokens_per_prompt_piece: PREFILL_TOKENS as u64,
        // Rows, normed rows and their gradients; hidden states and their gradient.
        head_bytes_per_token: 6 * hidden,
        // Logits, log-probabilities, probabilities and their gradient.
        head_fixed_bytes: 5 * LOGITS_AT_ONCE.max(spec.vocab_size) as u64 * FLOAT_BYTES + 2 * embedding,
        cache_bytes_per_token: 2 * kv * spec.n_layers as u64,
        quantized_bytes: 0,
        ..of_parameters
    }
}

fn encoder_memory(spec: &EncoderSpec, number_bytes: u64, of_parameters: EngineMemory) -> EngineMemory {
    let hidden = spec.hidden_size as u64 * FLOAT_BYTES;
    let (projected, inner) =
        (spec.hidden_size as u64 * number_bytes, spec.intermediate_size as u64 * number_bytes);
    let row_normalisers = spec.n_heads as u64 * FLOAT_BYTES;
    EngineMemory {
        attention_bytes_per_token: projected + row_normalisers,
        // x, x_mid; q, k, v, attention; up
        layer_bytes_per_token: 2 * hidden + 4 * projected + row_normalisers + inner,
        workspace_bytes_per_token: 6 * hidden + 8 * projected + 3 * inner,
        forward_bytes_per_token: 5 * hidden + 5 * projected + 2 * inner + row_normalisers,
        forward_bytes_per_key: 2 * projected,
        head_bytes_per_token: 4 * hidden,
        ..of_parameters
    }
}
