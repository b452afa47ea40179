//! Packs: who sees whom, and what does not change a result.

use truing_types::{PackedBatch, TokenId};

use super::support::backward_pass;
use super::support::{
    Pass, SAVING, all_logits, assert_same_gradients, assert_same_logits, decoders, distance, doubles,
    gradients, largest_difference, loss_gradient, mean_loss_backward, origin, packed, run_blocks, sequences,
};
use truing_model::{Adapters, Engine, EngineOptions, SaveActivations};

/// Other tokens in one sequence of a pack change nothing of the others.
pub fn a_sequence_cannot_see_another_one_of_its_pack<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        let guarantees = engine.guarantees();
        let (vocab_size, name) = (case.spec.vocab_size, &case.name);
        let original = sequences();
        let logits = all_logits(&mut engine, &packed(&original));
        let mut start = 0;
        for changed_idx in 0..original.len() {
            let mut changed = original.clone();
            for token in &mut changed[changed_idx] {
                *token = (*token + 3) % vocab_size as TokenId;
            }
            let found = all_logits(&mut engine, &packed(&changed));
            let end = start + original[changed_idx].len() * vocab_size;
            for others in [0..start, end..logits.len()] {
                let tolerance = 2.0 * guarantees.log_prob_tolerance;
                let what = format!("{name}: rows that cannot see sequence {changed_idx}");
                let (found, logits) = (&found[others.clone()], &logits[others]);
                assert_same_logits(found, logits, vocab_size, guarantees.is_batch_invariant, tolerance, what);
            }
            let change = distance(&found[start..end], &logits[start..end]);
            assert!(change > 0.1, "{name}: sequence {changed_idx} changed its own logits by {change}");
            start = end;
        }
    }
}

/// A sequence's results in a pack are those that it has alone, to the tolerance: products of other sizes may be
/// summed in another order. Gradients add up.
pub fn packed_equals_unpacked<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        let guarantees = engine.guarantees();
        let name = &case.name;
        let batch = packed(&sequences());
        let together = all_logits(&mut engine, &batch);
        engine.zero_gradients().unwrap();
        backward_pass(&mut engine, &batch, &Pass::WHOLE, &loss_gradient(&batch.targets(), 1.0));
        let expected = gradients(&engine);
        engine.zero_gradients().unwrap();
        let mut alone = Vec::new();
        for sequence in sequences() {
            let batch = packed(&[sequence]);
            alone.extend(all_logits(&mut engine, &batch));
            let targets = batch.targets();
            if !targets.rows.is_empty() {
                backward_pass(&mut engine, &batch, &Pass::WHOLE, &loss_gradient(&targets, 1.0));
            }
        }
        let tolerance = 2.0 * guarantees.log_prob_tolerance;
        let vocab_size = case.spec.vocab_size;
        assert_same_logits(&alone, &together, vocab_size, false, tolerance, name);
        let tolerance = 2.0 * guarantees.gradient_tolerance;
        assert_same_gradients(&gradients(&engine), &expected, false, tolerance, name);
    }
}

/// The same calls give the same results, on one thread or several.
pub fn the_same_calls_give_the_same_results_on_any_number_of_threads<E: Engine>() {
    for case in decoders::<E>() {
        let batch = packed(&sequences());
        let mut results = [1, 2, 3, 1, 2].map(|n_threads| {
            let mut case = case.clone();
            case.options = EngineOptions { n_threads, ..case.options };
            let mut engine: E = case.load();
            let pass = Pass { layers_per_segment: 2, n_whole: 0, save: SaveActivations::Input };
            mean_loss_backward(&mut engine, &batch, &pass);
            (gradients(&engine), all_logits(&mut engine, &batch), engine.guarantees())
        });
        let [(expected, expected_logits, guarantees), others @ ..] = &mut results;
        let is_exact = guarantees.is_deterministic;
        for (gradients, logits, _) in others {
            let tolerance = 2.0 * guarantees.gradient_tolerance;
            assert_same_gradients(gradients, expected, is_exact, tolerance, &case.name);
            let (tolerance, vocab_size) = (2.0 * guarantees.log_prob_tolerance, case.spec.vocab_size);
            assert_same_logits(logits, expected_logits, vocab_size, is_exact, tolerance, &case.name);
        }
    }
}

/// A prompt computed once for several completions gives what each of them written out gives.
pub fn a_shared_prefix_equals_sequences_written_out<E: Engine>() {
    for case in decoders::<E>() {
        let mut engine: E = case.load();
        let guarantees = engine.guarantees();
        let all = sequences();
        let (prompt, other) = (&all[2][..4], &all[1][..1]);
        let answers: [&[TokenId]; 3] = [&all[2][4..7], &all[0][..2], &all[2][5..6]];
        let (zeros, ones) = ([0.0; 8], [1.0; 8]);
        let shared = PackedBatch::with_prefixes([
            (other, &zeros[..1], origin(), None),
            (prompt, &zeros[..4], origin(), None),
            (answers[0], &ones[..answers[0].len()], origin(), Some(1)),
            (answers[1], &ones[..answers[1].len()], origin(), Some(1)),
            (answers[2], &ones[..answers[2].len()], origin(), Some(1)),
        ])
        .unwrap();
        let written = answers.map(|answer| {
            let tokens = [prompt, answer].concat();
            let weights: Vec<f32> = (0..tokens.len()).map(|t| f32::from(t >= prompt.len())).collect();
            (tokens, weights)
        });
        let written = PackedBatch::new(written.iter().map(|(t, w)| (&t[..], &w[..], origin()))).unwrap();
        let mut run = |batch: &PackedBatch, save: SaveActivations| {
            engine.zero_gradients().unwrap();
            let targets = batch.targets();
            let (device, hidden, saved) = run_blocks(&mut engine, batch, save, Adapters::Enabled);
            let d: Vec<f32> = (0..targets.rows.len()).map(|i| 0.5 - i as f32 / 7.0).collect();
            let (found, d_hidden) = engine.log_probs_backward(hidden, &targets, &d).unwrap();
            let d_input = engine.segment_backward(&device, saved, d_hidden).unwrap();
            engine.embed_backward(&device, d_input).unwrap();
            (doubles(&found.log_probs), gradients(&engine))
        };
        let (expected, expected_gradients) = run(&written, SaveActivations::Everything);
        for save in SAVING {
            let (found, gradients) = run(&shared, save);
            let off = largest_difference(&found, &expected);
            assert!(
                off <= 2.0 * guarantees.log_prob_tolerance,
                "{}: a log-probability is {off:.2e} off",
                case.name
            );
            let tolerance = 2.0 * guarantees.gradient_tolerance;
            assert_same_gradients(&gradients, &expected_gradients, false, tolerance, &case.name);
        }
    }
}
