//! Every operation against a float64 oracle and central finite differences, at every SIMD level of the machine,
//! with 1 to 4 threads. Tests named `small_` are quick enough to run under valgrind (`scripts/valgrind.sh`).

mod bf16;
mod divergence;
mod elementwise;
mod int8_rows;
mod lcs;
mod linear_head;
mod linear_log_probs;
mod matmul;
mod support;
mod varlen_attention;
