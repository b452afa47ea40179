//! Products in bf16: the copy of the weights that they read, its numbers and its bytes. The conformance suite runs in bf16
//! as in f32.

use truing_cpu::CpuEngine;
use truing_kernels::Bf16Matrix;
use truing_model::{
    AdamWStep, Adapters, ComputeDtype, DecoderSpec, DecodingWeights, EncoderSpec, Engine, HeadKind,
    ModelSpec, OptimizerStep, ParameterRole, ParameterStore, ParameterTensor, Pooling, SaveActivations,
    TrainableSpec,
};
use truing_types::{PackedBatch, RowOrigin};

use crate::quantized::{decoded, engine_in, spec};

fn engine(dtype: ComputeDtype) -> CpuEngine {
    engine_in(dtype, &spec(), &TrainableSpec::default())
}

/// Puts into every matrix the bf16 numbers nearest to its weights.
fn round_weights(engine: &mut CpuEngine) {
    for (idx, parameter) in engine.parameters().to_vec().into_iter().enumerate() {
        if matches!(parameter.role, ParameterRole::Matrix | ParameterRole::Head) {
            let mut matrix = Bf16Matrix::new(parameter.shape[0], parameter.shape[1]);
            matrix.round(&engine.read(idx, ParameterTensor::Value).unwrap());
            engine.write(idx, ParameterTensor::Value, &matrix.to_f32()).unwrap();
        }
    }
}

/// Adds the gradients of a batch's log-probabilities, and takes an optimiser step.
fn step(engine: &mut CpuEngine, number: u64) {
    let origin = RowOrigin { source: "bf16".into(), line: 1 };
    let batch = PackedBatch::new([(&[5, 6, 7, 8, 2][..], &[1.0; 5][..], origin)]).unwrap();
    engine.zero_gradients().unwrap();
    let device = engine.upload(&batch).unwrap();
    let hidden = engine.embed(&device).unwrap();
    let save = SaveActivations::Everything;
    let (hidden, saved) = engine.segment_forward(&device, 0..3, hidden, save, Adapters::Enabled).unwrap();
    let (_, d_hidden) = engine.log_probs_backward(hidden, &batch.targets(), &[-0.3; 4]).unwrap();
    let d_hidden = engine.segment_backward(&device, saved, d_hidden).unwrap();
    engine.embed_backward(&device, d_hidden).unwrap();
    let step = AdamWStep {
        step: number,
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        gradient_scale: 1.0,
    };
    engine.optimizer_step(&OptimizerStep::AdamW(step)).unwrap();
}

/// Decoding multiplies with the rounded weights: weights that are rounded before give the same bits.
#[test]
fn decoding_in_bf16_is_decoding_with_the_rounded_weights() {
    let mut bf16 = engine(ComputeDtype::Bf16);
    let found = decoded(&mut bf16, DecodingWeights::F32);
    let in_f32 = decoded(&mut engine(ComputeDtype::F32), DecodingWeights::F32);
    let furthest = found.iter().zip(&in_f32).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(furthest > 1e-4 && furthest < 0.1, "{furthest}");
    let mut rounded = engine(ComputeDtype::Bf16);
    round_weights(&mut rounded);
    assert_eq!(found, decoded(&mut rounded, DecodingWeights::F32));
    // The 8-bit copy is made of the weights themselves.
    let int8 = decoded(&mut bf16, DecodingWeights::Int8);
    assert_eq!(int8, decoded(&mut engine(ComputeDtype::F32), DecodingWeights::Int8));
}

/// The copy follows steps and writes, whichever pass is next; the weights themselves are never rounded, so that steps far
/// below bf16's resolution add up.
#[test]
fn the_copy_follows_the_weights() {
    let mut trained = engine(ComputeDtype::Bf16);
    let before = decoded(&mut trained, DecodingWeights::F32);
    for number in 1..=3 {
        step(&mut trained, number);
    }
    let after = decoded(&mut trained, DecodingWeights::F32);
    assert_ne!(before, after);
    let mut fresh = engine(ComputeDtype::Bf16);
    for idx in 0..trained.parameters().len() {
        let values = trained.read(idx, ParameterTensor::Value).unwrap().into_owned();
        fresh.write(idx, ParameterTensor::Value, &values).unwrap();
    }
    assert_eq!(decoded(&mut fresh, DecodingWeights::F32), after);
    let idx = trained.parameters().iter().position(|p| p.role == ParameterRole::Matrix).unwrap();
    let start = vec![1.0; trained.parameters()[idx].n_elements()];
    trained.write(idx, ParameterTensor::Value, &start).unwrap();
    let small: Vec<f32> = start.iter().map(|w| w + 1e-6).collect();
    trained.write(idx, ParameterTensor::Value, &small).unwrap();
    assert_eq!(trained.read(idx, ParameterTensor::Value).unwrap(), small);
}

fn parameter_bytes(spec: impl Into<ModelSpec>, trainable: &TrainableSpec) -> [u64; 2] {
    let spec = spec.into();
    [ComputeDtype::F32, ComputeDtype::Bf16]
        .map(|dtype| CpuEngine::memory(&spec, trainable, dtype).parameter_bytes)
}

/// Two bytes for each weight of a matrix beside its four.
#[test]
fn the_bytes_of_the_copy_are_known_before() {
    let trainable = TrainableSpec::default();
    let size = |parameters: &[truing_model::ParameterSpec], roles: &[ParameterRole]| -> u64 {
        let counted = parameters.iter().filter(|p| roles.contains(&p.role));
        counted.map(|p| p.n_elements() as u64).sum()
    };
    let (matrix, head, embedding) = (ParameterRole::Matrix, ParameterRole::Head, ParameterRole::Embedding);
    let tied = DecoderSpec { tie_word_embeddings: true, ..spec() };
    let scores = DecoderSpec { head: HeadKind::Score { n_outputs: 1 }, ..tied.clone() };
    for (spec, roles) in [(spec(), [matrix, head]), (tied, [matrix, embedding]), (scores, [matrix, head])] {
        let copied = 2 * size(&spec.parameters(), &roles);
        let [f32, bf16] = parameter_bytes(spec, &trainable);
        assert_eq!(bf16 - f32, copied);
    }
    let encoder = EncoderSpec {
        vocab_size: 40,
        hidden_size: 12,
        intermediate_size: 20,
        n_layers: 2,
        n_heads: 3,
        max_position_embeddings: 32,
        n_token_types: 2,
        layer_norm_eps: 1e-5,
        pooling: Pooling::Mean,
        is_normalized: true,
        max_sequence_length: 32,
        is_lower_cased: false,
        n_outputs: Some(3),
    };
    let copied = 2 * size(&encoder.parameters(), &[matrix]);
    let [f32, bf16] = parameter_bytes(encoder, &trainable);
    assert_eq!(bf16 - f32, copied);
}
