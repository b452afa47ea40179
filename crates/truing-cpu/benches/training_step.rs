//! One training step of a model of SmolLM2-135M's shape with made-up weights, part by part.
//!
//! `cargo bench -p truing-cpu --bench training_step -- [TOKENS] [LAYERS_PER_SEGMENT] [WHOLE] [SEQUENCE] [LOSS_SHARE] [STEPS] [bf16]`
//! (1024 tokens, all layers in one segment, sequences of 170 tokens, 60 % of tokens with loss; products in f32).

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reports and stops at the first fault"
)]

use std::time::Instant;

use truing_cpu::CpuEngine;
use truing_model::{
    AdamWStep, Adapters, ComputeDtype, DecoderSpec, Engine, EngineOptions, OptimizerStep, ParameterRole,
    ParameterStore, PutWeight, SaveActivations, TrainableSpec,
};
use truing_parallel::Solo;
use truing_types::{PackedBatch, RowOrigin};

fn spec() -> DecoderSpec {
    DecoderSpec {
        architecture: "LlamaForCausalLM".into(),
        vocab_size: 49_152,
        hidden_size: 576,
        intermediate_size: 1536,
        n_layers: 30,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 100_000.0,
        rope_scaling: None,
        max_position_embeddings: 8192,
        head: truing_model::HeadKind::LanguageModel,
        tie_word_embeddings: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        sliding_windows: vec![None; 30],
        variant: truing_model::DecoderVariant::default(),
        bos_token_id: None,
        eos_token_ids: vec![],
    }
}

fn engine(dtype: ComputeDtype) -> CpuEngine {
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
    let (trainable, options) =
        (TrainableSpec::default(), EngineOptions { dtype, ..EngineOptions::default() });
    CpuEngine::load(spec().into(), trainable, &options, &Solo::groups(), &mut weights).unwrap()
}

fn main() {
    let arguments: Vec<f64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let argument = |idx: usize, default: f64| arguments.get(idx).copied().unwrap_or(default);
    let n_tokens = argument(0, 1024.0) as usize;
    let layers_per_segment = argument(1, 30.0) as usize;
    let n_whole = argument(2, 1.0) as usize;
    let sequence = argument(3, 170.0) as usize;
    let loss_share = argument(4, 0.6);
    let n_steps = argument(5, 4.0) as u64;

    let is_bf16 = std::env::args().any(|argument| argument == "bf16");
    let mut engine = engine(if is_bf16 { ComputeDtype::Bf16 } else { ComputeDtype::F32 });
    let lengths: Vec<usize> =
        (0..n_tokens).step_by(sequence).map(|start| sequence.min(n_tokens - start)).collect();
    let tokens: Vec<u32> = (0..n_tokens).map(|i| (i * 7919 % 49_152) as u32).collect();
    let weights: Vec<f32> = (0..n_tokens)
        .map(|i| f32::from(u8::from((i % sequence) as f64 >= (1.0 - loss_share) * sequence as f64)))
        .collect();
    let mut start = 0;
    let batch = PackedBatch::new(lengths.iter().map(|&length| {
        let range = start..start + length;
        start += length;
        (&tokens[range.clone()], &weights[range], RowOrigin { source: "bench".into(), line: 1 })
    }))
    .unwrap();
    let targets = batch.targets();
    let d_log_probs = vec![-1.0 / targets.rows.len() as f32; targets.rows.len()];
    let segments: Vec<_> =
        (0..30).step_by(layers_per_segment).map(|s| s..(s + layers_per_segment).min(30)).collect();

    for step in 1..=n_steps {
        let mut marks = vec![("start", Instant::now())];
        engine.zero_gradients().unwrap();
        marks.push(("zero gradients", Instant::now()));
        let device = engine.upload(&batch).unwrap();
        let mut hidden = engine.embed(&device).unwrap();
        let mut all_saved = Vec::new();
        for (idx, layers) in segments.iter().enumerate() {
            let is_whole = idx + n_whole >= segments.len();
            let save = if is_whole { SaveActivations::Everything } else { SaveActivations::Input };
            let (output, saved) =
                engine.segment_forward(&device, layers.clone(), hidden, save, Adapters::Enabled).unwrap();
            hidden = output;
            all_saved.push(saved);
        }
        marks.push(("layers forward", Instant::now()));
        let (_, mut d_hidden) = engine.log_probs_backward(hidden, &targets, &d_log_probs).unwrap();
        marks.push(("head forward and backward", Instant::now()));
        for saved in all_saved.into_iter().rev() {
            d_hidden = engine.segment_backward(&device, saved, d_hidden).unwrap();
        }
        marks.push(("layers backward", Instant::now()));
        engine.embed_backward(&device, d_hidden).unwrap();
        let norm = engine.gradient_norm().unwrap();
        marks.push(("norm", Instant::now()));
        let step_of_adamw = AdamWStep {
            step,
            learning_rate: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            gradient_scale: (1.0 / norm) as f32,
        };
        engine.optimizer_step(&OptimizerStep::AdamW(step_of_adamw)).unwrap();
        marks.push(("optimiser", Instant::now()));

        let seconds = |a: usize, b: usize| (marks[b].1 - marks[a].1).as_secs_f64();
        let total = seconds(0, marks.len() - 1);
        let layer_flops = 2.0 * (spec().n_parameters() - 49_152 * 576) as f64 * n_tokens as f64;
        let head_flops = 2.0 * (49_152 * 576) as f64 * targets.rows.len() as f64;
        let n_again = segments.iter().rev().skip(n_whole).map(|s| s.len()).sum::<usize>() as f64 / 30.0;
        let attention_flops = lengths.iter().map(|&l| 2.0 * (l * l) as f64 * 576.0 * 30.0).sum::<f64>();
        let flops = (3.0 + n_again) * layer_flops + 3.0 * head_flops + (3.5 + n_again) * attention_flops;
        println!(
            "step {step}: {total:.2} s, {:.0} tok/s, {:.0} GFLOP/s",
            n_tokens as f64 / total,
            flops / total / 1e9
        );
        for pair in marks.windows(2) {
            println!("  {:28} {:.3} s", pair[1].0, (pair[1].1 - pair[0].1).as_secs_f64());
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS")) {
        println!("{line}");
    }
}
