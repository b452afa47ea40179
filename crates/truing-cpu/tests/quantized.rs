//! The 8-bit copy of this engine: its numbers, bit for bit, and its bytes.

pub(crate) use truing_conformance::engine::decoding::decoded;
pub(crate) use truing_conformance::engine::models::untied_with_biases as spec;
use truing_cpu::CpuEngine;
use truing_kernels::Int8Matrix;
use truing_model::{
    ComputeDtype, DecoderSpec, DecodingWeights, Engine, EngineOptions, LoraSpec, ParameterRole,
    ParameterStore, ParameterTensor, PutWeight, TrainableSpec,
};
use truing_parallel::Solo;

/// An engine whose weights are a fixed function of index and place.
pub(crate) fn engine(spec: &DecoderSpec, trainable: &TrainableSpec) -> CpuEngine {
    engine_in(ComputeDtype::F32, spec, trainable)
}

/// The same in another number format.
pub(crate) fn engine_in(dtype: ComputeDtype, spec: &DecoderSpec, trainable: &TrainableSpec) -> CpuEngine {
    let parameters = spec.parameters();
    let mut weights = |put: &mut PutWeight<'_>| {
        parameters.iter().enumerate().try_for_each(|(idx, parameter)| {
            let wave = |i: usize| ((i * 7919 + idx * 104_729 + 13) as f32 * 0.618).sin();
            let values = (0..parameter.n_elements()).map(|i| match parameter.role {
                ParameterRole::Norm => 1.0 + 0.2 * wave(i),
                _ => 0.5 * wave(i),
            });
            put(&parameter.name, &parameter.shape, values.collect())
        })
    };
    let options = EngineOptions { n_threads: 2, dtype, ..EngineOptions::default() };
    CpuEngine::load(spec.clone().into(), trainable.clone(), &options, &Solo::groups(), &mut weights).unwrap()
}

/// Puts into every matrix the numbers that its 8-bit blocks encode.
fn round_weights(engine: &mut CpuEngine) {
    for (idx, parameter) in engine.parameters().to_vec().into_iter().enumerate() {
        if matches!(parameter.role, ParameterRole::Matrix | ParameterRole::Head) {
            let mut matrix = Int8Matrix::new(parameter.shape[0], parameter.shape[1]);
            matrix.compress(&engine.read(idx, ParameterTensor::Value).unwrap());
            engine.write(idx, ParameterTensor::Value, &matrix.to_f32()).unwrap();
        }
    }
}

#[test]
fn decoding_with_8_bits_is_decoding_with_the_rounded_weights() {
    let mut whole = engine(&spec(), &TrainableSpec::default());
    let found = decoded(&mut whole, DecodingWeights::Int8);
    assert_ne!(found, decoded(&mut whole, DecodingWeights::F32));
    let mut rounded = engine(&spec(), &TrainableSpec::default());
    round_weights(&mut rounded);
    assert_eq!(found, decoded(&mut rounded, DecodingWeights::F32));
}

#[test]
fn adapters_stay_whole_on_top_of_8_bits() {
    let lora = LoraSpec { rank: 2, alpha: 8.0, targets: vec!["q_proj".into(), "down_proj".into()] };
    let mut engine = engine(&spec(), &TrainableSpec { lora: Some(lora), frozen: Vec::new() });
    let without = decoded(&mut engine, DecodingWeights::Int8);
    for (idx, parameter) in engine.parameters().to_vec().iter().enumerate() {
        if parameter.role == ParameterRole::LoraB {
            let values: Vec<f32> = (0..parameter.n_elements()).map(|i| (i as f32 * 0.7).sin()).collect();
            engine.write(idx, ParameterTensor::Value, &values).unwrap();
        }
    }
    let with = decoded(&mut engine, DecodingWeights::Int8);
    assert_ne!(with, without);
    round_weights(&mut engine);
    assert_eq!(decoded(&mut engine, DecodingWeights::F32), with);
}

#[test]
fn its_bytes_are_known_before() {
    let spec = DecoderSpec { tie_word_embeddings: true, ..spec() };
    let memory = CpuEngine::memory(&spec.into(), &TrainableSpec::default(), ComputeDtype::F32);
    // One block a row of 12 or 20, of 4 rows 128 numbers and 4 scales: head 6 fours of rows, then three layers of
    // q 6, k 2, v 2, o 3, gate 5, up 5, down 3.
    assert_eq!(memory.quantized_bytes, (6 + 3 * 26) * (128 + 16));
}
