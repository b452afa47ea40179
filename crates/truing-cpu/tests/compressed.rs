//! The 8-bit copy that decoding reads: what it is, who sees it, and that it follows the weights.

use truing_cpu::CpuEngine;
use truing_kernels::Int8Matrix;
use truing_model::engine::{OptimizerStep, ParameterTensor};
use truing_model::{DecodingWeights, Engine, LoraSpec, ParameterRole, ParameterStore, TrainableSpec};
use truing_types::TokenId;

use crate::support::{self, Pass, backward_pass, packed, tiny_engine, tiny_spec};

const TOKENS: [TokenId; 7] = [3, 1, 4, 1, 5, 9, 2];

/// The logits after each token, one token at a time.
fn decoded(engine: &mut CpuEngine, weights: DecodingWeights) -> Vec<f32> {
    engine.set_decoding_weights(weights);
    let mut cache = engine.new_cache(TOKENS.len());
    TOKENS.iter().flat_map(|&token| engine.extend(&mut cache, &[token]).unwrap()).collect()
}

/// Puts into every matrix the numbers that its 8-bit blocks stand for.
fn round_weights(engine: &mut CpuEngine) {
    for (idx, parameter) in engine.parameters().to_vec().into_iter().enumerate() {
        if matches!(parameter.role, ParameterRole::Matrix | ParameterRole::Head) {
            let mut matrix = Int8Matrix::new(parameter.shape[0], parameter.shape[1]);
            matrix.compress(&engine.read(idx, ParameterTensor::Value).unwrap());
            engine.write(idx, ParameterTensor::Value, &matrix.to_f32()).unwrap();
        }
    }
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

fn learn(engine: &mut CpuEngine, learning_rate: f32) {
    engine.zero_gradients();
    let spec = engine.spec().clone();
    backward_pass(engine, &packed(&[TOKENS.to_vec()]), &Pass::whole(&spec));
    engine.optimizer_step(&OptimizerStep {
        step: 1,
        learning_rate,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        gradient_scale: 1.0,
    });
}

#[test]
fn decoding_with_8_bits_is_decoding_with_the_rounded_weights() {
    let spec = tiny_spec::untied_with_biases();
    let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 2);
    let plain = decoded(&mut engine, DecodingWeights::F32);
    let found = decoded(&mut engine, DecodingWeights::Int8);
    assert_eq!(decoded(&mut engine, DecodingWeights::F32), plain, "and back again");
    let mut rounded = tiny_engine(&spec, &TrainableSpec::default(), 1);
    round_weights(&mut rounded);
    assert_eq!(found, decoded(&mut rounded, DecodingWeights::F32));
    for (name, spec) in tiny_spec::all() {
        let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 2);
        let plain = decoded(&mut engine, DecodingWeights::F32);
        let off = distance(&plain, &decoded(&mut engine, DecodingWeights::Int8));
        assert!(off > 1e-4 && off < 0.2, "{name}: {off}");
    }
}

#[test]
fn prompts_and_training_do_not_see_the_copy() {
    for (name, spec) in tiny_spec::all() {
        let both = [DecodingWeights::F32, DecodingWeights::Int8].map(|weights| {
            let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 2);
            engine.set_decoding_weights(weights);
            let mut cache = engine.new_cache(TOKENS.len());
            let read = engine.extend(&mut cache, &TOKENS).unwrap();
            engine.zero_gradients();
            let batch = packed(&[TOKENS.to_vec()]);
            backward_pass(&mut engine, &batch, &Pass::whole(&spec));
            (read, support::all_logits(&mut engine, &batch), support::gradients(&engine))
        });
        assert!(both[0] == both[1], "{name}");
    }
}

#[test]
fn the_copy_follows_every_change_of_the_weights() {
    let spec = tiny_spec::untied_with_biases();
    let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 2);
    let before = decoded(&mut engine, DecodingWeights::Int8);
    learn(&mut engine, 1e-2);
    let mut cache = engine.new_cache(1);
    // Without being asked for again.
    let after = engine.extend(&mut cache, &TOKENS[..1]).unwrap();
    assert!(distance(&before[..after.len()], &after) > 1e-3);
    let mut fresh = tiny_engine(&spec, &TrainableSpec::default(), 2);
    for idx in 0..engine.parameters().len() {
        let values = engine.read(idx, ParameterTensor::Value).unwrap().into_owned();
        fresh.write(idx, ParameterTensor::Value, &values).unwrap();
    }
    let expected = decoded(&mut fresh, DecodingWeights::Int8);
    assert_eq!(decoded(&mut engine, DecodingWeights::Int8), expected);
    // Written weights as well, and weights that changed while the copy was out of use.
    let original = tiny_engine(&spec, &TrainableSpec::default(), 2);
    engine.set_decoding_weights(DecodingWeights::F32);
    for idx in 0..engine.parameters().len() {
        let values = original.read(idx, ParameterTensor::Value).unwrap().into_owned();
        engine.write(idx, ParameterTensor::Value, &values).unwrap();
    }
    assert_eq!(decoded(&mut engine, DecodingWeights::Int8), before);
}

#[test]
fn adapters_stay_whole_on_top_of_8_bits() {
    let spec = tiny_spec::untied_with_biases();
    let lora = LoraSpec { rank: 2, alpha: 8.0, targets: vec!["q_proj".into(), "down_proj".into()] };
    let trainable = TrainableSpec { lora: Some(lora), frozen: Vec::new() };
    let mut engine = tiny_engine(&spec, &trainable, 2);
    let without = decoded(&mut engine, DecodingWeights::Int8);
    learn(&mut engine, 3e-2);
    let with = decoded(&mut engine, DecodingWeights::Int8);
    assert!(distance(&with, &without) > 1e-3);
    engine.enable_adapters(false);
    assert_eq!(decoded(&mut engine, DecodingWeights::Int8), without);
    engine.enable_adapters(true);
    round_weights(&mut engine);
    assert_eq!(decoded(&mut engine, DecodingWeights::F32), with);
}

#[test]
fn its_bytes_are_known_before() {
    let spec = tiny_spec::llama();
    let memory = CpuEngine::memory(&spec, &TrainableSpec::default());
    // One block a row of 12 or 20, of 4 rows 128 numbers and 4 scales: head 6 fours of rows, then three layers of
    // q 6, k 2, v 2, o 3, gate 5, up 5, down 3.
    assert_eq!(memory.compressed_bytes, (6 + 3 * 26) * (128 + 16));
}
