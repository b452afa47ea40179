//! The operations on plain slices, forward and backward side by side.
//!
//! One file per operation: formula, source, shapes, forward, backward. Under them [`matmul()`] and the tile kernels it
//! shares with attention; under those one trait over the instruction sets, chosen at run time.
//!
//! - Threads are those of rayon's current pool, which the caller installs. No bit of a result depends on their number:
//!   work is cut by sizes alone, and every sum has one order.
//! - Results of different [`SimdLevel`]s differ by rounding, and so do those of the two ways to multiply in bf16
//!   ([`Bf16Products`]).
//! - NaN and infinity in an input reach what depends on it, and nothing else.
//! - Sizes that do not fit are the caller's error and panic; a model's shapes are checked where it is loaded.

mod adamw;
mod bf16_matmul;
mod bf16_matrix;
mod bf16_products;
mod blocks;
mod cached_attention;
mod geglu;
mod gelu;
mod int8_rows;
mod layer_norm;
mod lcs;
mod linear_head;
mod linear_log_probs;
mod matmul;
mod memory;
mod micro_kernel;
mod pack;
mod parallel;
mod rate;
mod rms_norm;
mod rotary;
mod row_products;
mod scratch;
mod simd;
mod soft_cap;
mod swiglu;
mod varlen_attention;
mod vector;
mod weight;

pub use adamw::{AdamwStep, adamw};
pub use bf16_matmul::{Bf16Operand, bf16_matmul, bf16_matmul_with_epilogue, bf16_matmul_workspace_bytes};
pub use bf16_matrix::Bf16Matrix;
pub use bf16_products::{Bf16Products, with_bf16_products};
pub use blocks::Epilogue;
pub use cached_attention::{CACHE_BLOCK, CacheBlock, CachedSequence, cached_attention, decode_attention};
pub use geglu::{geglu_backward_in_place, geglu_forward};
pub use gelu::{gelu_backward_in_place, gelu_forward, gelu_forward_in_place};
pub use int8_rows::Int8Matrix;
pub use layer_norm::{layer_norm_backward, layer_norm_forward};
pub use lcs::{LCS_LANES, LcsPatterns};
pub use linear_head::{LinearHead, inverse_row_norms};
pub use linear_log_probs::{
    Divergence, DivergenceKind, LogProbRows, ReferenceRows, kept_logits_workspace_bytes,
    linear_log_probs_backward, linear_log_probs_divergence_backward, linear_log_probs_divergence_forward,
    linear_log_probs_forward, linear_log_probs_of, linear_log_probs_workspace_bytes, linear_top_log_probs,
};
pub use matmul::{MatrixRef, add_bias, bias_backward, matmul, matmul_with_epilogue, matmul_workspace_bytes};
pub use memory::{return_freed_memory, return_large_buffers_when_freed, zeroed};
pub use micro_kernel::Write;
pub use rate::{
    measure_bf16_matmul_gflops, measure_bf16_peak_gflops, measure_matmul_gflops, measure_peak_gflops,
    measure_read_bandwidth,
};
pub use rms_norm::{rms_norm_backward, rms_norm_forward};
pub use rotary::{RotaryTable, rotary_backward, rotary_forward};
pub use row_products::{RowProduct, RowWeight, multiply_rows};
pub use simd::{SimdLevel, with_simd_level};
pub use soft_cap::{soft_cap_backward_in_place, soft_cap_forward_in_place};
pub use swiglu::{swiglu_backward, swiglu_backward_in_place, swiglu_forward};
pub use varlen_attention::{
    AttentionShape, AttentionSpan, Causality, attention_workspace_bytes_per_key, release_attention_workspace,
    span_attention_backward, span_attention_forward, spans_of, varlen_attention_backward,
    varlen_attention_forward,
};
pub use vector::{
    add_assign, all_finite, copy, fill, gather_add_rows, gather_rows, scale, scatter_add_rows, sum_of_squares,
};
pub use weight::Weight;
