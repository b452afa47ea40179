//! A small random model and random sequences, the same on every machine.

use std::ops::ControlFlow;

use rand_chacha::rand_core::Rng;
use truing_cpu::CpuEngine;
use truing_model::engine::PutWeight;
use truing_model::{
    DecoderSpec, Engine, EngineOptions, LoraSpec, ParameterRole, ParameterStore, ParameterTensor,
    TrainableSpec, ZeroStage,
};
use truing_parallel::Solo;
use truing_train::{Measures, OptimizerConfig, Schedule, ScheduleKind, SegmentPlan, Sft, Trainer};
use truing_types::{Communicator, Groups, PackedBatch, RowOrigin, Seed, TokenizedSample};

pub(crate) const N_LAYERS: usize = 5;
const VOCAB: usize = 61;

pub(crate) fn spec() -> DecoderSpec {
    DecoderSpec {
        architecture: "Qwen3ForCausalLM".into(),
        vocab_size: VOCAB,
        hidden_size: 24,
        intermediate_size: 40,
        n_layers: N_LAYERS,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: None,
        max_position_embeddings: 128,
        head: truing_model::HeadKind::LanguageModel,
        tie_word_embeddings: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: true,
        sliding_windows: vec![None; N_LAYERS],
        variant: truing_model::DecoderVariant::default(),
        bos_token_id: None,
        eos_token_ids: vec![0],
    }
}

pub(crate) fn lora() -> TrainableSpec {
    let targets = ["q_proj", "down_proj"].map(String::from).to_vec();
    TrainableSpec { lora: Some(LoraSpec { rank: 4, alpha: 8.0, targets }), frozen: Vec::new() }
}

/// Uniform in -1..1.
fn uniform(generator: &mut impl Rng) -> f32 {
    (generator.next_u32() >> 8) as f32 / (1_u32 << 23) as f32 - 1.0
}

pub(crate) fn engine(trainable: TrainableSpec) -> CpuEngine {
    engine_of(&spec(), trainable)
}

pub(crate) fn engine_of(spec: &DecoderSpec, trainable: TrainableSpec) -> CpuEngine {
    engine_on(spec, trainable, &Solo::groups())
}

pub(crate) fn engine_on(spec: &DecoderSpec, trainable: TrainableSpec, groups: &Groups) -> CpuEngine {
    engine_with(spec, trainable, groups, ZeroStage::Replicated)
}

pub(crate) fn engine_sharded(trainable: TrainableSpec, groups: &Groups, stage: ZeroStage) -> CpuEngine {
    engine_with(&spec(), trainable, groups, stage)
}

fn engine_with(
    spec: &DecoderSpec,
    trainable: TrainableSpec,
    groups: &Groups,
    zero_stage: ZeroStage,
) -> CpuEngine {
    let options = EngineOptions { n_threads: 2, seed: Seed(3), zero_stage, ..EngineOptions::default() };
    let mut weights = |put: &mut PutWeight<'_>| {
        spec.parameters().iter().enumerate().try_for_each(|(idx, parameter)| {
            let mut generator = Seed(7).generator("weights", &[idx as u64]);
            let scale = if parameter.role == ParameterRole::Norm { 0.1 } else { 0.3 };
            let centre = if parameter.role == ParameterRole::Norm { 1.0 } else { 0.0 };
            let values = (0..parameter.n_elements()).map(|_| centre + scale * uniform(&mut generator));
            put(&parameter.name, &parameter.shape, values.collect())
        })
    };
    CpuEngine::load(spec.clone().into(), trainable, &options, groups, &mut weights).unwrap()
}

/// Sequences of 1 to 17 tokens; about two thirds of the tokens carry loss, some of them half.
pub(crate) fn samples(n_samples: u64) -> Vec<TokenizedSample> {
    (0..n_samples)
        .map(|line| {
            let mut generator = Seed(11).generator("samples", &[line]);
            let length = 1 + generator.next_u32() as usize % 17;
            let tokens = (0..length).map(|_| generator.next_u32() % VOCAB as u32).collect();
            let loss_weights = (0..length).map(|_| (generator.next_u32() % 3) as f32 / 2.0).collect();
            TokenizedSample { tokens, loss_weights, origin: RowOrigin { source: "samples".into(), line } }
        })
        .collect()
}

pub(crate) fn pack(samples: &[TokenizedSample], sequences_per_pack: usize) -> Vec<PackedBatch> {
    samples.chunks(sequences_per_pack).map(|chunk| PackedBatch::from_samples(chunk).unwrap()).collect()
}

pub(crate) fn trainer(trainable: TrainableSpec, segments: SegmentPlan) -> Trainer<CpuEngine> {
    trainer_of(engine(trainable), segments)
}

pub(crate) fn trainer_of(engine: CpuEngine, segments: SegmentPlan) -> Trainer<CpuEngine> {
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        peak: 1e-2,
        min_ratio: 0.1,
        warmup_steps: 2,
        decay_steps: 0,
        total_steps: 8,
    };
    let optimizer = OptimizerConfig { weight_decay: 0.1, ..OptimizerConfig::default() };
    Trainer::new(engine, segments, optimizer, schedule).unwrap()
}

pub(crate) fn read_all(engine: &CpuEngine, tensor: ParameterTensor) -> Vec<Vec<f32>> {
    let learning = engine.parameters().iter().enumerate();
    let learning = learning.filter(|(_, p)| engine.trainable().is_trainable(p));
    learning.map(|(idx, _)| engine.read(idx, tensor).unwrap().into_owned()).collect()
}

/// Gradients of one step, and what was measured.
pub(crate) fn gradients(
    engine: &mut CpuEngine,
    segments: &SegmentPlan,
    packs: &[PackedBatch],
    communicator: &dyn Communicator,
) -> (Vec<Vec<f32>>, Measures) {
    let on_pack = &mut |_: &PackedBatch| ControlFlow::Continue(());
    let measures =
        truing_train::accumulate_gradients(engine, segments, packs, &Sft, communicator, on_pack).unwrap();
    (read_all(engine, ParameterTensor::Gradient), measures)
}

/// The largest difference relative to the largest value.
pub(crate) fn deviation(left: &[Vec<f32>], right: &[Vec<f32>]) -> f32 {
    let pairs = left.iter().flatten().zip(right.iter().flatten());
    let difference = pairs.map(|(l, r)| (l - r).abs()).fold(0.0, f32::max);
    difference / left.iter().flatten().fold(0.0, |max: f32, value| max.max(value.abs()))
}
