//! Low-rank adapters: they start as the identity, learn alone, and can be left out of a pass.

use truing_types::PackedBatch;

use super::support::assert_refused;
use super::support::{
    Pass, SAVING, adamw, all_logits, assert_same_bits, assert_same_gradients, assert_same_logits,
    assert_slopes, decoders, distance, first_and_last_projection, gradients, loss_gradient, mean_loss,
    mean_loss_backward, packed, projections, raise_adapters, read, run_blocks, sequences,
};
use truing_model::{
    Adapters, Engine, EngineError, LoraSpec, ParameterRole, ParameterTensor, SaveActivations, TrainableSpec,
};

fn lora(targets: &[String]) -> TrainableSpec {
    let targets = targets.to_vec();
    TrainableSpec { lora: Some(LoraSpec { rank: 2, alpha: 3.0, targets }), frozen: Vec::new() }
}

/// Logits of every token, with or without adapters.
fn logits_with<E: Engine>(engine: &mut E, batch: &PackedBatch, adapters: Adapters) -> Vec<f32> {
    let (_, hidden, _) = run_blocks(engine, batch, SaveActivations::Nothing, adapters);
    let rows: Vec<u32> = (0..batch.n_tokens() as u32).collect();
    engine.logits(&hidden, &rows).unwrap()
}

/// New adapters change no result; steps change adapters alone, and the loss falls.
pub fn adapters_start_as_the_identity_and_only_they_learn<E: Engine>() {
    for case in decoders::<E>() {
        let mut plain: E = case.load();
        let mut adapted: E = case.load_with(&lora(&first_and_last_projection(&case.spec)));
        let guarantees = plain.guarantees();
        let batch = packed(&sequences());
        let (expected, found) = (all_logits(&mut plain, &batch), all_logits(&mut adapted, &batch));
        let tolerance = 2.0 * guarantees.log_prob_tolerance;
        assert_same_logits(&found, &expected, case.spec.vocab_size, false, tolerance, &case.name);
        let before = mean_loss(&mut adapted, &batch);
        let n_base = plain.parameters().len();
        assert_eq!(adapted.parameters()[..n_base], *plain.parameters());
        for step in 1..=20 {
            let pass = Pass { layers_per_segment: 1, n_whole: 0, save: SaveActivations::Input };
            mean_loss_backward(&mut adapted, &batch, &pass);
            adapted.optimizer_step(&adamw(step, 1e-2)).unwrap();
        }
        let after = mean_loss(&mut adapted, &batch);
        assert!(after < 0.95 * before, "{}: loss {before}, after 20 steps {after}", case.name);
        for idx in 0..n_base {
            let [found, expected] = [&adapted, &plain].map(|e| read(e, idx, ParameterTensor::Value));
            assert_same_bits(&found, &expected, format_args!("{}: frozen parameter {idx}", case.name));
            assert_refused!(adapted.read(idx, ParameterTensor::Gradient), EngineError::Frozen { .. });
        }
    }
}

/// Along each adapter's gradient the loss has the gradient's norm as slope.
pub fn gradients_of_adapters_are_slopes<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load_with(&lora(&projections(&case.spec)));
        raise_adapters(&mut engine);
        let batch = packed(&sequences());
        mean_loss_backward(&mut engine, &batch, &Pass::WHOLE);
        let gradients = gradients(&engine);
        assert_eq!(gradients.len(), 2 * projections(&case.spec).len() * case.spec.n_layers, "{}", case.name);
        let noise = engine.guarantees().log_prob_tolerance;
        assert_slopes(&mut engine, &gradients, noise, &case.name, |engine| mean_loss(engine, &batch));
    }
}

/// Without its adapters a model is its base model, also after passes with them.
pub fn disabled_adapters_leave_the_base_model<E: Engine>() {
    for case in decoders::<E>() {
        let mut plain: E = case.load();
        let mut adapted: E = case.load_with(&lora(&projections(&case.spec)));
        raise_adapters(&mut adapted);
        let guarantees = plain.guarantees();
        let batch = packed(&sequences());
        let expected = all_logits(&mut plain, &batch);
        let with = logits_with(&mut adapted, &batch, Adapters::Enabled);
        let change = distance(&with, &expected);
        assert!(change > 1.0, "{}: the adapters change logits by {change}", case.name);
        let tolerance = 2.0 * guarantees.log_prob_tolerance;
        let (is_exact, vocab_size) = (guarantees.is_deterministic, case.spec.vocab_size);
        let without = logits_with(&mut adapted, &batch, Adapters::Disabled);
        assert_same_logits(&without, &expected, vocab_size, is_exact, tolerance, &case.name);
        let again = logits_with(&mut adapted, &batch, Adapters::Enabled);
        assert_same_logits(&again, &with, vocab_size, is_exact, tolerance, &case.name);
    }
}

/// A segment that ran without adapters is computed again and differentiated without them: its adapters get no
/// gradient, and what lies below gets the base model's.
pub fn disabled_adapters_take_no_part_in_a_backward_pass<E: Engine>() {
    for case in decoders::<E>() {
        let batch = packed(&sequences());
        let targets = batch.targets();
        let d_log_probs = loss_gradient(&targets, targets.weights.iter().sum());
        // The first block with its adapters, the others as given.
        let run = |engine: &mut E, upper: Adapters, save: SaveActivations| {
            engine.zero_gradients().unwrap();
            let n_layers = case.spec.n_layers;
            let device = engine.upload(&batch).unwrap();
            let x = engine.embed(&device).unwrap();
            let (x, lower_saved) = engine
                .segment_forward(&device, 0..1, x, SaveActivations::Everything, Adapters::Enabled)
                .unwrap();
            let (x, upper_saved) = engine.segment_forward(&device, 1..n_layers, x, save, upper).unwrap();
            let (output, d_x) = engine.log_probs_backward(x, &targets, &d_log_probs).unwrap();
            // A pass in between does not change how the segment is computed again.
            for adapters in [Adapters::Enabled, Adapters::Disabled] {
                if adapters != upper {
                    logits_with(engine, &batch, adapters);
                }
            }
            let d_x = engine.segment_backward(&device, upper_saved, d_x).unwrap();
            let d_x = engine.segment_backward(&device, lower_saved, d_x).unwrap();
            engine.embed_backward(&device, d_x).unwrap();
            (output.log_probs, gradients(engine))
        };
        let mut engine: E = case.load_with(&lora(&projections(&case.spec)));
        raise_adapters(&mut engine);
        let guarantees = engine.guarantees();
        let (is_exact, tolerance) = (guarantees.is_deterministic, 2.0 * guarantees.gradient_tolerance);
        let (log_probs, gradients) = run(&mut engine, Adapters::Disabled, SaveActivations::Everything);
        for save in SAVING {
            let (_, found) = run(&mut engine, Adapters::Disabled, save);
            assert_same_gradients(
                &found,
                &gradients,
                is_exact,
                tolerance,
                format!("{}: {save:?}", case.name),
            );
            let (_, with) = run(&mut engine, Adapters::Enabled, save);
            let is_upper = |idx: usize| engine.parameters()[idx].layer != Some(0);
            let learns = with.iter().any(|(idx, g)| is_upper(*idx) && g.iter().any(|&x| x != 0.0));
            assert!(learns, "{}: enabled adapters have a gradient", case.name);
        }
        for (idx, gradient) in &gradients {
            let parameter = &engine.parameters()[*idx];
            let is_zero = gradient.iter().all(|&x| x == 0.0);
            assert_eq!(is_zero, parameter.layer != Some(0), "{}: {}", case.name, parameter.name);
        }
        // The same function with adapters of 0 in the upper blocks.
        for (idx, parameter) in engine.parameters().to_vec().iter().enumerate() {
            if parameter.role == ParameterRole::LoraB && parameter.layer != Some(0) {
                engine.write(idx, ParameterTensor::Value, &vec![0.0; parameter.n_elements()]).unwrap();
            }
        }
        let (expected_log_probs, expected) = run(&mut engine, Adapters::Enabled, SaveActivations::Everything);
        for (&found, &expected) in log_probs.iter().zip(&expected_log_probs) {
            let off = f64::from((found - expected).abs());
            assert!(off <= 2.0 * guarantees.log_prob_tolerance, "{}: {found} and {expected}", case.name);
        }
        let lower = |gradients: &[(usize, Vec<f32>)]| -> Vec<_> {
            let is_lower = |(idx, _): &&(usize, Vec<f32>)| engine.parameters()[*idx].layer == Some(0);
            gradients.iter().filter(is_lower).cloned().collect()
        };
        assert_same_gradients(&lower(&gradients), &lower(&expected), false, tolerance, &case.name);
    }
}
