//! The bytes this engine needs, from the specification alone: the planner asks before anything is loaded.
//! Each line names the buffers of `layer.rs` or `engine.rs` that it counts.

use truing_kernels::linear_log_probs_workspace_bytes;
use truing_model::engine::EngineMemory;
use truing_model::{DecoderSpec, EncoderSpec, ParameterSpec, TrainableSpec};

use crate::compressed::compressed_bytes;

const FLOAT_BYTES: u64 = 4;

/// Packing buffers that the matrix product keeps between calls.
const KERNEL_BYTES: u64 = 16 << 20;

pub(crate) fn engine_memory(spec: &DecoderSpec, trainable: &TrainableSpec) -> EngineMemory {
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
    let kept = 2 * hidden + 2 * q + 2 * kv + heads + 2 * inner;
    // The backward holds d_x throughout, and at its widest either
    // activation (then normed and d_normed in its place) in the feed-forward, or
    // d_attention, d_q, d_k, d_v, two per-query-head copies of d_k and d_v inside the kernel, beside attention.
    let raw_heads = if spec.qk_norm { q + kv } else { 0 };
    let feed_forward = inner.max(2 * hidden) + 2 * hidden;
    let attention = 2 * q + 2 * kv + 2 * q + raw_heads;
    let workspace = hidden + feed_forward.max(attention);
    EngineMemory {
        parameter_bytes,
        gradient_bytes,
        optimizer_bytes: 2 * gradient_bytes,
        segment_input_bytes_per_token: hidden * FLOAT_BYTES,
        // attention; log_sum_exp
        attention_bytes_per_token: (q + heads) * FLOAT_BYTES,
        layer_bytes_per_token: kept * FLOAT_BYTES,
        workspace_bytes_per_token: workspace * FLOAT_BYTES,
        // hidden, target rows, normed rows, d_rows, d_hidden
        head_bytes_per_token: 5 * hidden * FLOAT_BYTES,
        head_fixed_bytes: linear_log_probs_workspace_bytes(spec.vocab_size, spec.hidden_size) as u64,
        compressed_bytes: compressed_bytes(spec, &parameters),
        fixed_bytes: KERNEL_BYTES,
    }
}

pub(crate) fn encoder_memory(spec: &EncoderSpec, trainable: &TrainableSpec) -> EngineMemory {
    let parameters = spec.parameters();
    let bytes = |chosen: &dyn Fn(&ParameterSpec) -> bool| {
        parameters.iter().filter(|p| chosen(p)).map(|p| p.n_elements() as u64).sum::<u64>() * FLOAT_BYTES
    };
    let gradient_bytes = bytes(&|p| trainable.is_trainable(p));
    let (hidden, inner, heads) =
        (spec.hidden_size as u64, spec.intermediate_size as u64, spec.n_heads as u64);
    EngineMemory {
        compressed_bytes: 0,
        parameter_bytes: bytes(&|_| true),
        gradient_bytes,
        optimizer_bytes: 2 * gradient_bytes,
        segment_input_bytes_per_token: hidden * FLOAT_BYTES,
        // attention; log_sum_exp
        attention_bytes_per_token: (hidden + heads) * FLOAT_BYTES,
        // x, x_mid; q, k, v, attention; log_sum_exp; up
        layer_bytes_per_token: (6 * hidden + heads + inner) * FLOAT_BYTES,
        // Either d_y, normed, d_up; or d_mid, d_attention, d_q, d_k, d_v and the kernel's copies of the last two.
        workspace_bytes_per_token: (2 * hidden + inner).max(7 * hidden) * FLOAT_BYTES,
        // output, normed
        head_bytes_per_token: 2 * hidden * FLOAT_BYTES,
        head_fixed_bytes: 0,
        fixed_bytes: KERNEL_BYTES,
    }
}
