//! Loading: what is refused, what is drawn, and how much memory is needed.

use truing_parallel::Solo;
use truing_types::Seed;

use super::support::{
    all_options, assert_refused, assert_same_bits, bert, index_of, llama, load_from, put_all, read, refusal,
    reward_model,
};
use truing_model::{
    ComputeDtype, EncoderSpec, Engine, EngineError, EngineMemory, EngineOptions, LoraSpec, ModelSpec,
    ParameterSpec, ParameterTensor, PutWeight, TrainableSpec, initial_values,
};

/// Loads the small Llama from `weights`.
fn load_llama<E: Engine>(
    options: &EngineOptions,
    mut weights: impl FnMut(&mut PutWeight<'_>) -> Result<(), EngineError>,
) -> Result<E, EngineError> {
    E::load(llama().into(), TrainableSpec::default(), options, &Solo::groups(), &mut weights)
}

/// A source of weights that fails.
#[derive(Debug, thiserror::Error)]
#[error("the disk is gone")]
struct DiskGone;

/// Parameters that are missing, have another shape or are not the model's, targets that no projection is called, and
/// sources that fail, are errors that name what is wrong.
pub fn bad_weights_are_refused<E: Engine>() {
    for options in all_options::<E>() {
        let parameters = llama().parameters();
        let last = parameters.len() - 1;
        let missing = load_llama::<E>(&options, |put| put_all(&parameters[..last], put));
        assert_refused!(missing, EngineError::MissingParameter { name } if *name == parameters[last].name);
        let none = load_llama::<E>(&options, |_| Ok(()));
        assert_refused!(none, EngineError::MissingParameter { .. });
        let wrong_shape = load_llama::<E>(&options, |put| put("model.norm.weight", &[3], vec![0.0; 3]));
        assert_refused!(
            wrong_shape,
            EngineError::ShapeMismatch { name, expected, found }
                if name == "model.norm.weight" && *expected == [12] && *found == [3]
        );
        let too_few = load_llama::<E>(&options, |put| put("model.norm.weight", &[12], vec![0.0; 11]));
        assert_refused!(too_few, EngineError::ShapeMismatch { .. });
        let unknown = load_llama::<E>(&options, |put| put("model.nose.weight", &[3], vec![0.0; 3]));
        assert_refused!(unknown, EngineError::MissingParameter { name } if name == "model.nose.weight");
        let fails = load_llama::<E>(&options, |put| {
            put_all(&parameters[..2], put)?;
            Err(EngineError::Weights(Box::new(DiskGone)))
        });
        match refusal(fails, "a source that fails") {
            EngineError::Weights(error) => assert!(error.is::<DiskGone>(), "{error}"),
            error => panic!("a source that fails gives {error:?}"),
        }
        let lora = LoraSpec { rank: 2, alpha: 1.0, targets: vec!["q_proj".into(), "query".into()] };
        let trainable = TrainableSpec { lora: Some(lora), frozen: Vec::new() };
        let mut weights = |put: &mut PutWeight<'_>| put_all(&parameters, put);
        let no_such_target =
            E::load(llama().into(), trainable.clone(), &options, &Solo::groups(), &mut weights);
        assert_refused!(no_such_target, EngineError::UnknownLoraTarget { target } if target == "query");
        let mut weights = |put: &mut PutWeight<'_>| put_all(&bert().parameters(), put);
        let encoder = E::load(bert().into(), trainable, &options, &Solo::groups(), &mut weights);
        assert_refused!(encoder, EngineError::Unsupported(_));
    }
}

/// A device that is not there, and a number format that the engine does not compute in.
pub fn unknown_devices_and_formats_are_refused<E: Engine>() {
    let loaded: Vec<ComputeDtype> = all_options::<E>().iter().map(|options| options.dtype).collect();
    let parameters = llama().parameters();
    for dtype in [ComputeDtype::F32, ComputeDtype::Bf16] {
        let options = EngineOptions { dtype, ..EngineOptions::default() };
        if !loaded.contains(&dtype) {
            let result = load_llama::<E>(&options, |put| put_all(&parameters, put));
            assert_refused!(result, EngineError::UnsupportedDtype { dtype: found } if *found == dtype);
        } else {
            let options = EngineOptions { device_idx: 1_000_000, ..options };
            let result = load_llama::<E>(&options, |put| put_all(&parameters, put));
            assert_refused!(result, EngineError::Device(_));
        }
    }
}

/// What no file holds starts as [`initial_values`] says: the same on every engine. A parameter that a file holds is
/// not drawn.
pub fn new_parameters_are_drawn_by_seed<E: Engine>() {
    let lora = LoraSpec { rank: 2, alpha: 1.0, targets: vec!["v_proj".into()] };
    let trainable = TrainableSpec { lora: Some(lora), frozen: Vec::new() };
    let models: [(ModelSpec, &TrainableSpec); 3] = [
        (reward_model(3).into(), &trainable),
        (llama().into(), &trainable),
        (EncoderSpec { n_outputs: Some(4), ..bert() }.into(), &TrainableSpec::default()),
    ];
    for options in all_options::<E>() {
        for (spec, trainable) in &models {
            for seed in [Seed(1), Seed(2)] {
                let options = EngineOptions { seed, ..options };
                let is_new = |p: &ParameterSpec| p.name.starts_with("score") || p.name.starts_with("2_Dense");
                let mut held = spec.parameters();
                held.retain(|p| !is_new(p));
                let mut weights = |put: &mut PutWeight<'_>| put_all(&held, put);
                let engine: E = load_from(spec.clone(), trainable, &options, &Solo::groups(), &mut weights);
                let mut n_drawn = 0;
                for (idx, parameter) in engine.parameters().iter().enumerate() {
                    if held.iter().all(|p| p.name != parameter.name) {
                        let expected = initial_values(parameter, idx, seed).unwrap();
                        let found = read(&engine, idx, ParameterTensor::Value);
                        assert_same_bits(&found, &expected, &parameter.name);
                        n_drawn += 1;
                    }
                }
                assert!(n_drawn >= 2, "{spec:?}");
            }
        }
        let spec: ModelSpec = reward_model(2).into();
        let mut weights = |put: &mut PutWeight<'_>| put_all(&spec.parameters(), put);
        let trainable = TrainableSpec::default();
        let engine: E = load_from(spec.clone(), &trainable, &options, &Solo::groups(), &mut weights);
        let idx = index_of(&engine, "score.weight");
        let drawn = initial_values(&engine.parameters()[idx], idx, options.seed).unwrap();
        assert_ne!(read(&engine, idx, ParameterTensor::Value), drawn);
    }
}

/// The bytes are known without loading, and follow what learns.
pub fn memory_is_known_before_loading<E: Engine>() {
    for options in all_options::<E>() {
        let memory = |spec: &ModelSpec, trainable: &TrainableSpec| E::memory(spec, trainable, options.dtype);
        let lora = LoraSpec { rank: 1, alpha: 1.0, targets: vec!["q_proj".into()] };
        let lora = TrainableSpec { lora: Some(lora), frozen: Vec::new() };
        for spec in [ModelSpec::from(llama()), bert().into()] {
            let n_bytes: usize = spec.parameters().iter().map(|p| 2 * p.n_elements()).sum();
            let whole = memory(&spec, &TrainableSpec::default());
            let frozen = memory(&spec, &TrainableSpec::frozen());
            for memory in [&whole, &frozen] {
                assert!(memory.parameter_bytes >= n_bytes as u64, "{spec:?}: {memory:?}");
                let EngineMemory { segment_input_bytes_per_token, layer_bytes_per_token, .. } = *memory;
                assert!(0 < segment_input_bytes_per_token, "{spec:?}: {memory:?}");
                assert!(segment_input_bytes_per_token < layer_bytes_per_token, "{spec:?}: {memory:?}");
                let has_cache = memory.cache_bytes_per_token > 0;
                assert_eq!(has_cache, spec.decoder().is_ok(), "{spec:?}: {memory:?}");
            }
            assert!(whole.gradient_bytes > 0 && whole.optimizer_bytes > 0, "{spec:?}: {whole:?}");
            assert_eq!((frozen.gradient_bytes, frozen.optimizer_bytes), (0, 0), "{spec:?}");
            if spec.decoder().is_ok() {
                let adapted = memory(&spec, &lora);
                assert!(0 < adapted.gradient_bytes && adapted.gradient_bytes < whole.gradient_bytes);
                assert!(adapted.parameter_bytes > frozen.parameter_bytes);
            }
        }
    }
}
