//! Parameters by name: their tensors, the optimiser's state, and what a checkpoint needs.

use super::support::{
    Case, Pass, adamw, assert_refused, assert_same_bits, assert_same_gradients, bert, cases, decoders,
    first_and_last_projection, gradients, mean_loss_backward, packed, read, sequences,
};
use truing_model::{DecoderSpec, Engine, EngineError, LoraSpec, ParameterTensor, TrainableSpec};

/// Fixed numbers that differ by parameter and tensor.
fn some_values(n: usize, parameter_idx: usize, tensor_idx: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + parameter_idx * 11 + tensor_idx * 5) as f32).sin() / 3.0).collect()
}

fn tensors<E: Engine>(engine: &E) -> Vec<ParameterTensor> {
    let states = engine.optimizer_state_names().iter().map(|name| ParameterTensor::OptimizerState(name));
    [ParameterTensor::Value].into_iter().chain(states).collect()
}

/// Weights and the optimiser's state are read as they were written, bit for bit; a gradient too, but for its number
/// format.
pub fn tensors_are_read_as_they_were_written<E: Engine>() {
    let lora = |spec: &DecoderSpec| {
        let lora = LoraSpec { rank: 2, alpha: 1.0, targets: first_and_last_projection(spec) };
        TrainableSpec { lora: Some(lora), frozen: Vec::new() }
    };
    let decoders = decoders::<E>().into_iter().map(|case| case.load_with::<E>(&lora(&case.spec)));
    let encoders = cases::<E, _>(&[("bert", bert())]);
    for mut engine in decoders.chain(encoders.iter().map(Case::load)) {
        let parameters = engine.parameters().to_vec();
        assert_eq!(parameters, engine.spec().parameters_with(engine.trainable()).unwrap());
        let trainable = engine.trainable().clone();
        let (tensors, learns) = (tensors(&engine), |idx: usize| trainable.is_trainable(&parameters[idx]));
        assert!(tensors.len() > 1, "an optimiser without state");
        let has = |idx: usize, tensor: ParameterTensor| tensor == ParameterTensor::Value || learns(idx);
        let mut learning = (0..parameters.len()).filter(|&idx| learns(idx));
        // Until the first step there are gradients and states of 0.
        let first = learning.next().unwrap();
        for &tensor in tensors[1..].iter().chain(&[ParameterTensor::Gradient]) {
            assert!(read(&engine, first, tensor).iter().all(|&x| x == 0.0), "{tensor:?}");
        }
        // All are written before any is read.
        let each = || {
            let all = (0..parameters.len())
                .flat_map(|idx| tensors.iter().enumerate().map(move |(t, &x)| (idx, t, x)));
            all.filter(|&(idx, _, tensor)| has(idx, tensor))
        };
        for (idx, tensor_idx, tensor) in each() {
            let values = some_values(parameters[idx].n_elements(), idx, tensor_idx);
            engine.write(idx, tensor, &values).unwrap();
        }
        for (idx, tensor_idx, tensor) in each() {
            let expected = some_values(parameters[idx].n_elements(), idx, tensor_idx);
            let what = format!("{}, {tensor:?}", parameters[idx].name);
            assert_same_bits(&read(&engine, idx, tensor), &expected, what);
            let too_few = &expected[1..];
            assert_refused!(engine.write(idx, tensor, too_few), EngineError::ShapeMismatch { .. });
            assert_same_bits(&read(&engine, idx, tensor), &expected, "after a refusal");
        }
        engine.zero_gradients().unwrap();
        let values = some_values(parameters[first].n_elements(), first, 9);
        engine.write(first, ParameterTensor::Gradient, &values).unwrap();
        let found = read(&engine, first, ParameterTensor::Gradient);
        let norm = engine.gradient_norm().unwrap();
        assert!((norm / super::support::norm(&found) - 1.0).abs() < 1e-6, "the norm is {norm}");
        let off = super::support::distance(&found, &values) / super::support::norm(&values);
        // Half of the last place of bfloat16.
        assert!(off <= 1.0 / 256.0, "a gradient is {off} off");
        engine.zero_gradients().unwrap();
        assert_eq!(engine.gradient_norm().unwrap(), 0.0);
        let unknown = ParameterTensor::OptimizerState("third_moment");
        assert_refused!(
            engine.read(first, unknown),
            EngineError::UnknownOptimizerState { name: "third_moment" }
        );
        assert_refused!(
            engine.write(first, unknown, &values),
            EngineError::UnknownOptimizerState { name: "third_moment" }
        );
    }
}

/// A parameter that does not learn has neither gradient nor state, and a step does not change it. A model in which
/// nothing learns still runs.
pub fn frozen_parameters_have_values_alone<E: Engine>() {
    for case in decoders::<E>() {
        let frozen = "model.layers.0.";
        let mut engine: E = case.load_with(&TrainableSpec { lora: None, frozen: vec![frozen.into()] });
        let before: Vec<_> =
            (0..engine.parameters().len()).map(|idx| read(&engine, idx, ParameterTensor::Value)).collect();
        mean_loss_backward(&mut engine, &packed(&sequences()), &Pass::WHOLE);
        engine.optimizer_step(&adamw(1, 1e-2)).unwrap();
        for (idx, before) in before.iter().enumerate() {
            let name = engine.parameters()[idx].name.clone();
            let is_same = read(&engine, idx, ParameterTensor::Value) == *before;
            assert_eq!(is_same, name.starts_with(frozen), "{}: {name}", case.name);
            if name.starts_with(frozen) {
                let of_learning = tensors(&engine)[1..]
                    .iter()
                    .copied()
                    .chain([ParameterTensor::Gradient])
                    .collect::<Vec<_>>();
                for tensor in of_learning {
                    assert_refused!(engine.read(idx, tensor), EngineError::Frozen { .. });
                    assert_refused!(engine.write(idx, tensor, before), EngineError::Frozen { .. });
                }
            }
        }
        let mut all_frozen: E = case.load_with(&TrainableSpec::frozen());
        mean_loss_backward(&mut all_frozen, &packed(&sequences()), &Pass::WHOLE);
        assert_eq!(all_frozen.gradient_norm().unwrap(), 0.0, "{}", case.name);
        all_frozen.optimizer_step(&adamw(1, 1e-2)).unwrap();
        let found = (0..before.len()).map(|idx| read(&all_frozen, idx, ParameterTensor::Value));
        assert!(found.zip(&before).all(|(found, before)| found == *before), "{}", case.name);
    }
}

/// Weights and state, read by name and written into a new engine, continue as if the run had never stopped: in every
/// bit where the engine is deterministic.
pub fn a_resumed_run_equals_one_that_was_never_stopped<E: Engine>() {
    for case in decoders::<E>() {
        let batch = packed(&sequences());
        let step = |engine: &mut E, step: u64| {
            mean_loss_backward(engine, &batch, &Pass::WHOLE);
            engine.optimizer_step(&adamw(step, 1e-2)).unwrap();
        };
        let mut engine: E = case.load();
        step(&mut engine, 1);
        step(&mut engine, 2);
        let mut resumed: E = case.load();
        for idx in 0..engine.parameters().len() {
            for tensor in tensors(&engine) {
                let values = read(&engine, idx, tensor);
                resumed.write(idx, tensor, &values).unwrap();
            }
        }
        step(&mut engine, 3);
        step(&mut resumed, 3);
        let guarantees = engine.guarantees();
        assert_same_gradients(
            &gradients(&resumed),
            &gradients(&engine),
            guarantees.is_deterministic,
            2.0 * guarantees.gradient_tolerance,
            &case.name,
        );
        for (idx, tensor) in
            (0..engine.parameters().len()).flat_map(|idx| tensors(&engine).into_iter().map(move |t| (idx, t)))
        {
            let [found, expected] = [&resumed, &engine].map(|engine| read(engine, idx, tensor));
            let what = format!("{}: {}, {tensor:?}", case.name, engine.parameters()[idx].name);
            if guarantees.is_deterministic {
                assert_same_bits(&found, &expected, what);
            } else if tensor == ParameterTensor::Value {
                // A step moves a weight by at most a few times the learning rate.
                let furthest = found.iter().zip(&expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
                assert!(furthest <= 0.04, "{what}: {furthest} off");
            }
        }
    }
}
