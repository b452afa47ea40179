//! Encoding and a training step of an encoder of MiniLM-L6's shape with made-up weights, as shares of the peak.
//!
//! `cargo bench -p truing-cpu --bench encoder -- [SEQUENCE] [REPEATS] [STEP_TOKENS]` (sequences of 55 tokens, best of 5,
//! training steps of 4192 tokens).

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reports and stops at the first fault"
)]

use std::time::Instant;

use truing_cpu::{CpuEngine, DeviceBatch, Hidden, SavedActivations};
use truing_kernels::measure_peak_gflops;
use truing_model::{
    AdamWStep, Adapters, EncoderSpec, Engine, EngineOptions, HeadGradient, HeadRequest, OptimizerStep,
    ParameterRole, ParameterStore, Pooling, PutWeight, SaveActivations, TrainableSpec,
};
use truing_parallel::Solo;
use truing_types::{PackedBatch, RowOrigin};

fn spec() -> EncoderSpec {
    EncoderSpec {
        vocab_size: 30_522,
        hidden_size: 384,
        intermediate_size: 1536,
        n_layers: 6,
        n_heads: 12,
        max_position_embeddings: 512,
        n_token_types: 2,
        layer_norm_eps: 1e-12,
        pooling: Pooling::Mean,
        is_normalized: true,
        max_sequence_length: 256,
        is_lower_cased: false,
        n_outputs: None,
    }
}

fn encoder() -> CpuEngine {
    let mut weights = |put: &mut PutWeight<'_>| {
        let mut state = 1_u32;
        spec().parameters().iter().try_for_each(|parameter| {
            let values = (0..parameter.n_elements()).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let unit = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
                if parameter.role == ParameterRole::Norm { 1.0 } else { 0.1 * unit }
            });
            put(&parameter.name, &parameter.shape, values.collect())
        })
    };
    let (trainable, options) = (TrainableSpec::default(), EngineOptions::default());
    CpuEngine::load(spec().into(), trainable, &options, &Solo::groups(), &mut weights).unwrap()
}

fn batch(n_tokens: usize, sequence: usize) -> PackedBatch {
    let tokens: Vec<u32> = (0..n_tokens).map(|i| (i * 7919 % 30_522) as u32).collect();
    let weights = vec![0.0; n_tokens];
    PackedBatch::new(
        tokens
            .chunks(sequence)
            .map(|tokens| (tokens, &weights[..tokens.len()], RowOrigin { source: "bench".into(), line: 1 })),
    )
    .unwrap()
}

/// Multiplications and additions of a forward pass.
fn forward_flops(n_tokens: usize, sequence: usize) -> f64 {
    let spec = spec();
    let (hidden, inner) = (spec.hidden_size as f64, spec.intermediate_size as f64);
    let projections = 2.0 * (4.0 * hidden * hidden + 2.0 * hidden * inner);
    let attention = 4.0 * sequence as f64 * hidden;
    n_tokens as f64 * spec.n_layers as f64 * (projections + attention)
}

fn best_seconds(n_repeats: usize, mut work: impl FnMut()) -> f64 {
    work();
    (0..n_repeats)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let argument = |idx: usize, default: usize| arguments.get(idx).copied().unwrap_or(default);
    let (sequence, n_repeats, step_tokens) = (argument(0, 55), argument(1, 5), argument(2, 4192));
    let (mut encoder, spec) = (encoder(), spec());
    let peak = measure_peak_gflops();
    println!("peak {peak:.0} GFLOP/s, {} threads, sequences of {sequence} tokens", encoder.n_threads());
    for n_tokens in [256, 512, 1024, 2048, 4096, 8192] {
        let batch = batch(n_tokens, sequence);
        let device = encoder.upload(&batch).unwrap();
        let request = HeadRequest::vectors(&batch, &spec);
        let seconds = best_seconds(n_repeats, || {
            let (hidden, _) = run_blocks(&mut encoder, &device, SaveActivations::Nothing);
            encoder.head(&hidden, &request).unwrap();
        });
        let rate = forward_flops(n_tokens, sequence) / seconds / 1e9;
        println!(
            "encode {n_tokens:>5} tokens: {:>7.1} ms, {:>6.0} tokens/s, {rate:>5.0} GFLOP/s, {:>4.1} % of peak",
            1e3 * seconds,
            n_tokens as f64 / seconds,
            100.0 * rate / peak
        );
    }
    let batch = batch(step_tokens, 87);
    let device = encoder.upload(&batch).unwrap();
    let request = HeadRequest::vectors(&batch, &spec);
    let vectors = vec![1e-3; batch.n_sequences() * spec.width()];
    let gradient = HeadGradient { vectors, ..HeadGradient::default() };
    for save in [SaveActivations::Everything, SaveActivations::Input] {
        let mut parts = [0.0_f64; 4];
        let seconds = best_seconds(n_repeats, || {
            let mut marks = vec![Instant::now()];
            encoder.zero_gradients().unwrap();
            marks.push(Instant::now());
            let (hidden, saved) = run_blocks(&mut encoder, &device, save);
            marks.push(Instant::now());
            let (_, d_hidden) = encoder.head_backward(hidden, &request, &gradient).unwrap();
            let d_input = encoder.segment_backward(&device, saved, d_hidden).unwrap();
            encoder.embed_backward(&device, d_input).unwrap();
            marks.push(Instant::now());
            let norm = encoder.gradient_norm().unwrap();
            let step = AdamWStep {
                step: 1,
                learning_rate: 1e-6,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.0,
                gradient_scale: (1.0 / norm) as f32,
            };
            encoder.optimizer_step(&OptimizerStep::AdamW(step)).unwrap();
            marks.push(Instant::now());
            for (part, pair) in parts.iter_mut().zip(marks.windows(2)) {
                *part = (pair[1] - pair[0]).as_secs_f64();
            }
        });
        let passes = if save == SaveActivations::Everything { 3.0 } else { 4.0 };
        let rate = passes * forward_flops(step_tokens, 87) / seconds / 1e9;
        println!(
            "step of {step_tokens} tokens, {save:?}: {:.0} ms, {rate:.0} GFLOP/s, {:.1} % of peak (last: zero {:.0}, \
             forward {:.0}, backward {:.0}, norm and optimiser {:.0} ms)",
            1e3 * seconds,
            100.0 * rate / peak,
            1e3 * parts[0],
            1e3 * parts[1],
            1e3 * parts[2],
            1e3 * parts[3]
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|l| l.starts_with("VmHWM")) {
        println!("{line}");
    }
}

fn run_blocks(
    encoder: &mut CpuEngine,
    device: &DeviceBatch,
    save: SaveActivations,
) -> (Hidden, SavedActivations) {
    let hidden = encoder.embed(device).unwrap();
    let n_layers = encoder.spec().n_layers();
    encoder.segment_forward(device, 0..n_layers, hidden, save, Adapters::Enabled).unwrap()
}
