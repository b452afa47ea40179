//! The bytes this engine needs, from the specification alone: the planner asks before anything is loaded.
//! Each line names the buffers of `layer.rs` or `engine.rs` that it counts.

use truing_kernels::{
    attention_workspace_bytes_per_key, bf16_matmul_workspace_bytes, kept_logits_workspace_bytes,
    linear_log_probs_workspace_bytes, matmul_workspace_bytes,
};
use truing_model::{
    ComputeDtype, DecoderSpec, EncoderSpec, EngineMemory, ModelSpec, ParameterSpec, TrainableSpec,
};

use crate::decoder::PREFILL_TOKENS;
use crate::quantized::quantized_bytes;
use crate::rounded::rounded_bytes;

const FLOAT_BYTES: u64 = 4;

pub(crate) fn engine_memory(
    spec: &ModelSpec,
    trainable: &TrainableSpec,
    dtype: ComputeDtype,
) -> EngineMemory {
    let mut memory = match spec {
        ModelSpec::Decoder(spec) => decoder_memory(spec, trainable),
        ModelSpec::Encoder(spec) => encoder_memory(spec, trainable),
    };
    if dtype == ComputeDtype::Bf16 {
        // The copy that products read. Activations and gradients are in single precision, and rounded as they are
        // packed.
        memory.parameter_bytes += rounded_bytes(spec, &spec.parameters());
        memory.fixed_bytes = bf16_matmul_workspace_bytes() as u64;
    }
    memory
}

fn decoder_memory(spec: &DecoderSpec, trainable: &TrainableSpec) -> EngineMemory {
    let mut parameters = spec.parameters();
    if let Some(lora) = &trainable.lora {
        parameters.extend(spec.lora_parameters(lora));
    }
    let bytes = |chosen: &dyn Fn(&ParameterSpec) -> bool| {
        parameters.iter().filter(|p| chosen(p)).map(|p| p.n_elements() as u64).sum::<u64>() * FLOAT_BYTES
    };
    let parameter_bytes = bytes(&|_| true);
    let gradient_bytes = bytes(&|p| trainable.is_trainable(p));

    let hidden = spec.hidden_size as u64;
    let inner = spec.intermediate_size as u64;
    let (q, kv, heads) = (spec.q_width() as u64, spec.kv_width() as u64, spec.n_heads as u64);
    // x, x_mid; q, attention; k, v; log_sum_exp; gate, up
    let variant = &spec.variant;
    // What the norms after attention and feed-forward are given.
    let branches = if variant.has_post_norms { 2 * hidden } else { 0 };
    let kept = 2 * hidden + 2 * q + 2 * kv + heads + 2 * inner + branches;
    // The results of one matrix for several projections, before they are divided.
    let fused_qkv = if variant.qkv_layout.fused_name().is_some() { q + 2 * kv } else { 0 };
    let fused = fused_qkv + if variant.has_fused_gate_up { 2 * inner } else { 0 };
    // The pool never gives a buffer back while packs do not grow, and buffers of one width serve no other: what counts is the
    // most of each width that is ever in use beside what is kept.
    // hidden: the stream (or its gradient) and, in the head, target rows, normed rows, d_rows; a layer needs no more
    // (d_x, normed, d_normed). Inner: the activation. Query width: d_attention, d_q, with head norms the rotated copy and a
    // norm's result too; of the width of the hidden states these are the same buffers as normed, d_normed and x_mid, but for
    // the head norms'. Key width: d_k, d_v; where keys are copied the copies and their gradients; with head norms two more.
    let own_width = if q == hidden { 0 } else { 2 * q };
    let head_norms = if spec.qk_norm { 2 * q + 2 * kv } else { 0 };
    let key_copies = 4 * kv;
    // The gradient of a branch; the scaled copy of the embedding's gradient.
    let extra = branches / 2 + if variant.embedding_scale.is_some() { hidden } else { 0 };
    let pooled = 4 * hidden + inner + own_width + 2 * kv + key_copies + head_norms + fused + extra;
    // x, x_mid, y; q, attention, with head norms a norm's result; k, v, with head norms one more; log_sum_exp; gate, up,
    // activation. The norms are over before y is made.
    let norm_result = if spec.qk_norm { q + kv } else { 0 };
    let forward = 3 * hidden + 2 * q + 2 * kv + norm_result + heads + 3 * inner + branches + fused;
    // What the attention's kernel packs, for at most as many keys at a time as there are tokens.
    let packed = attention_workspace_bytes_per_key(spec.n_kv_heads, spec.head_dim) as u64;
    // Backward keeps the logits before their cap or division.
    let kept_logits = match (variant.logit_soft_cap, variant.has_normalized_head) {
        (None, false) => 0,
        _ => kept_logits_workspace_bytes(spec.vocab_size),
    };
    let widest = spec.hidden_size.max(spec.intermediate_size).max(spec.q_width()).max(spec.vocab_size);
    EngineMemory {
        parameter_bytes,
        gradient_bytes,
        optimizer_bytes: 2 * gradient_bytes,
        segment_input_bytes_per_token: hidden * FLOAT_BYTES,
        // attention; log_sum_exp
        attention_bytes_per_token: (q + heads) * FLOAT_BYTES,
        layer_bytes_per_token: kept * FLOAT_BYTES,
        workspace_bytes_per_token: pooled * FLOAT_BYTES + packed,
        forward_bytes_per_token: forward * FLOAT_BYTES,
        // Copies of keys and values; keys and values packed.
        forward_bytes_per_key: 4 * kv * FLOAT_BYTES,
        tokens_per_prompt_piece: PREFILL_TOKENS as u64,
        // hidden (then d_hidden), target rows, normed rows (then their gradient), d_rows
        head_bytes_per_token: 4 * hidden * FLOAT_BYTES,
        head_fixed_bytes: (linear_log_probs_workspace_bytes(spec.vocab_size, spec.hidden_size) + kept_logits)
            as u64,
        cache_bytes_per_token: 2 * kv * spec.n_layers as u64 * FLOAT_BYTES,
        quantized_bytes: quantized_bytes(spec, &parameters),
        fixed_bytes: matmul_workspace_bytes(widest) as u64,
    }
}

fn encoder_memory(spec: &EncoderSpec, trainable: &TrainableSpec) -> EngineMemory {
    let parameters = spec.parameters();
    let bytes = |chosen: &dyn Fn(&ParameterSpec) -> bool| {
        parameters.iter().filter(|p| chosen(p)).map(|p| p.n_elements() as u64).sum::<u64>() * FLOAT_BYTES
    };
    let gradient_bytes = bytes(&|p| trainable.is_trainable(p));
    let (hidden, inner, heads) =
        (spec.hidden_size as u64, spec.intermediate_size as u64, spec.n_heads as u64);
    EngineMemory {
        cache_bytes_per_token: 0,
        quantized_bytes: 0,
        // x, x_mid, y; q, k, v, attention; log_sum_exp; up
        forward_bytes_per_token: (7 * hidden + heads + inner) * FLOAT_BYTES,
        // Keys and values packed.
        forward_bytes_per_key: 2 * hidden * FLOAT_BYTES,
        tokens_per_prompt_piece: 0,
        parameter_bytes: bytes(&|_| true),
        gradient_bytes,
        optimizer_bytes: 2 * gradient_bytes,
        segment_input_bytes_per_token: hidden * FLOAT_BYTES,
        // attention; log_sum_exp
        attention_bytes_per_token: (hidden + heads) * FLOAT_BYTES,
        // x, x_mid; q, k, v, attention; log_sum_exp; up
        layer_bytes_per_token: (6 * hidden + heads + inner) * FLOAT_BYTES,
        // d_mid, d_attention, d_q, d_k, d_v, of which one is x_mid's; d_up; what the kernel packs.
        workspace_bytes_per_token: (4 * hidden + inner) * FLOAT_BYTES
            + attention_workspace_bytes_per_key(spec.n_heads, spec.hidden_size / spec.n_heads) as u64,
        // output, normed
        head_bytes_per_token: 2 * hidden * FLOAT_BYTES,
        head_fixed_bytes: 0,
        fixed_bytes: matmul_workspace_bytes(spec.hidden_size.max(spec.intermediate_size)) as u64,
    }
}
