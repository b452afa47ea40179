//! The operations on plain slices, forward and backward side by side.

mod adamw;
mod cached_attention;
mod linear_log_probs;
mod matmul;
mod memory;
mod micro_kernel;
mod pack;
mod parallel;
mod rate;
mod rms_norm;
mod rotary;
mod scratch;
mod simd;
mod swiglu;
mod varlen_attention;
mod vector;

pub use adamw::{AdamwStep, adamw};
pub use cached_attention::cached_attention;
pub use linear_log_probs::{
    LogProbRows, linear_log_probs_backward, linear_log_probs_forward, linear_log_probs_workspace_bytes,
};
pub use matmul::{MatrixRef, Write, add_bias, bias_backward, matmul};
pub use memory::zeroed;
pub use rate::{measure_matmul_gflops, measure_peak_gflops};
pub use rms_norm::{rms_norm_backward, rms_norm_forward};
pub use rotary::{RotaryTable, rotary_backward, rotary_forward};
pub use simd::{SimdLevel, with_simd_level};
pub use swiglu::{swiglu_backward, swiglu_backward_in_place, swiglu_forward};
pub use varlen_attention::{AttentionShape, Causality, varlen_attention_backward, varlen_attention_forward};
pub use vector::{add_assign, all_finite, copy, fill, gather_rows, scale, scatter_add_rows, sum_of_squares};
