//! The engine against itself: finite differences, isolation, segments, threads, decoding, adapters.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod compressed;
mod encoder;
mod families;
mod support;

use support::{Pass, backward_pass, gradients, packed, tiny_engine, tiny_spec};
use truing_cpu::CpuEngine;
use truing_model::engine::{OptimizerStep, ParameterTensor};
use truing_model::{
    DecoderSpec, DecodingWeights, Engine, EngineError, HeadGradient, HeadKind, HeadRequest, Keep, LoraSpec,
    ParameterStore, TrainableSpec,
};
use truing_types::{PackedBatch, RowOrigin, TokenId};

fn sequences() -> Vec<Vec<TokenId>> {
    vec![vec![3, 1, 4, 1, 5, 9, 2, 6], vec![7], vec![5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6], vec![2, 6]]
}

#[test]
fn gradients_match_finite_differences() {
    for (name, spec) in tiny_spec::all() {
        let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 2);
        let batch = packed(&sequences());
        engine.zero_gradients();
        backward_pass(&mut engine, &batch, &Pass::whole(&spec));
        let analytic = gradients(&engine);
        let mut checked = 0;
        for (parameter_idx, gradient) in analytic.iter().enumerate() {
            // The largest entry of each parameter stands out of single precision's noise.
            let largest =
                (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()));
            let Some(element) = largest else { continue };
            let original = engine.read(parameter_idx, ParameterTensor::Value).unwrap().into_owned();
            let step = 3e-3_f32;
            let mut loss_at = |offset: f32| {
                let mut moved = original.clone();
                moved[element] += offset;
                engine.write(parameter_idx, ParameterTensor::Value, &moved).unwrap();
                support::loss(&mut engine, &batch)
            };
            let numeric = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
            engine.write(parameter_idx, ParameterTensor::Value, &original).unwrap();
            let found = f64::from(gradient[element]);
            let parameter = &engine.parameters()[parameter_idx].name;
            assert!(
                (found - numeric).abs() < 2e-3 + 0.02 * numeric.abs(),
                "{name}: {parameter}[{element}]: backward {found}, finite differences {numeric}"
            );
            checked += usize::from(found.abs() > 1e-2);
        }
        assert!(checked > analytic.len() / 2, "{name}: the gradients are too small to be checked");
    }
}

/// A head of numbers: along a parameter's gradient the slope of the weighted sum of scores is the gradient's norm.
#[test]
fn gradients_of_a_score_head_are_slopes() {
    for n_outputs in [1, 3] {
        let (_, spec) = tiny_spec::all().into_iter().next().unwrap();
        let spec = DecoderSpec { head: HeadKind::Score { n_outputs }, ..spec };
        let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 2);
        let batch = engine.upload(&packed(&sequences())).unwrap();
        let request = HeadRequest::Scores { rows: vec![7, 8, 21, 23].into() };
        let d_scores: Vec<f32> = (0..4 * n_outputs).map(|i| ((i * 31 + 7) as f32).cos()).collect();
        let forward = |engine: &mut CpuEngine, keep| {
            let hidden = engine.embed(&batch).unwrap();
            engine.segment_forward(&batch, 0..spec.n_layers, hidden, keep).unwrap()
        };
        engine.zero_gradients();
        let (hidden, kept) = forward(&mut engine, Keep::Activations);
        let alone = engine.head(&hidden, &request).unwrap().scores;
        let gradient = HeadGradient { scores: d_scores.clone(), ..HeadGradient::default() };
        let (output, d_hidden) = engine.head_backward(hidden, &request, &gradient).unwrap();
        assert_eq!((output.scores.len(), output.scores), (4 * n_outputs, alone));
        let d_hidden = engine.segment_backward(&batch, kept, d_hidden).unwrap();
        engine.embed_backward(&batch, d_hidden).unwrap();
        for (idx, gradient) in gradients(&engine).iter().enumerate() {
            let name = engine.parameters()[idx].name.clone();
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            if norm < 1e-3 {
                continue;
            }
            let start = engine.read(idx, ParameterTensor::Value).unwrap().into_owned();
            let mut sum_at = |step: f64| {
                let moved: Vec<f32> = start
                    .iter()
                    .zip(gradient)
                    .map(|(&v, &g)| (f64::from(v) + step * f64::from(g) / norm) as f32)
                    .collect();
                engine.write(idx, ParameterTensor::Value, &moved).unwrap();
                let (hidden, _) = forward(&mut engine, Keep::Nothing);
                let scores = engine.head(&hidden, &request).unwrap().scores;
                scores.iter().zip(&d_scores).map(|(&s, &d)| f64::from(s) * f64::from(d)).sum::<f64>()
            };
            let step = 4e-3;
            let slope = (sum_at(step) - sum_at(-step)) / (2.0 * step);
            engine.write(idx, ParameterTensor::Value, &start).unwrap();
            assert!((slope / norm - 1.0).abs() < 2e-2, "{n_outputs}: {name}: slope {slope}, norm {norm}");
        }
    }
}

#[test]
fn gradients_do_not_depend_on_segments() {
    for (name, spec) in tiny_spec::all() {
        let batch = packed(&sequences());
        let mut reference = None;
        for (layers_per_segment, n_kept) in [(3, 1), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)] {
            for keeps_attention in [false, true] {
                let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 2);
                engine.zero_gradients();
                let pass = Pass { layers_per_segment, n_kept, keeps_attention };
                backward_pass(&mut engine, &batch, &pass);
                let found = gradients(&engine);
                let reference = reference.get_or_insert_with(|| found.clone());
                assert_eq!(&found, reference, "{name}: k = {layers_per_segment}, {n_kept} kept");
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let spec = tiny_spec::qwen3();
    let batch = packed(&sequences());
    let found: Vec<_> = [1, 2, 3]
        .map(|n_threads| {
            let mut engine = tiny_engine(&spec, &TrainableSpec::default(), n_threads);
            engine.zero_gradients();
            backward_pass(
                &mut engine,
                &batch,
                &Pass { layers_per_segment: 2, n_kept: 0, keeps_attention: false },
            );
            (gradients(&engine), support::all_logits(&mut engine, &batch))
        })
        .into();
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0], found[2]);
}

#[test]
fn one_sequence_of_a_pack_cannot_be_seen_by_another() {
    for (name, spec) in tiny_spec::all() {
        let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 2);
        let vocab = spec.vocab_size;
        let original = sequences();
        let logits = support::all_logits(&mut engine, &packed(&original));
        let mut start = 0;
        for perturbed_idx in 0..original.len() {
            let mut changed = original.clone();
            for token in &mut changed[perturbed_idx] {
                *token = (*token + 3) % vocab as u32;
            }
            let found = support::all_logits(&mut engine, &packed(&changed));
            let own = start * vocab..(start + original[perturbed_idx].len()) * vocab;
            start += original[perturbed_idx].len();
            for i in 0..logits.len() {
                let is_same = logits[i].to_bits() == found[i].to_bits();
                assert!(is_same || own.contains(&i), "{name}: logit {i} saw sequence {perturbed_idx}");
            }
            assert_ne!(logits[own.clone()], found[own]);
        }
    }
}

#[test]
fn decoding_gives_the_logits_of_the_packed_forward() {
    for (name, spec) in tiny_spec::all() {
        let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 2);
        let tokens = sequences()[2].clone();
        let expected = support::all_logits(&mut engine, &packed(std::slice::from_ref(&tokens)));
        let row = |i: usize| &expected[i * spec.vocab_size..(i + 1) * spec.vocab_size];
        for n_prompt in [1, 4, tokens.len()] {
            let mut cache = engine.new_cache(tokens.len());
            let mut found = engine.extend(&mut cache, &tokens[..n_prompt]).unwrap();
            for n in n_prompt..=tokens.len() {
                for (a, b) in found.iter().zip(row(n - 1)) {
                    assert!((a - b).abs() < 1e-5, "{name}: after {n} tokens: {a} against {b}");
                }
                if n < tokens.len() {
                    found = engine.extend(&mut cache, &tokens[n..=n]).unwrap();
                }
            }
            engine.truncate_cache(&mut cache, 2);
            assert_eq!(engine.cache_len(&cache), 2);
            let again = engine.extend(&mut cache, &tokens[2..5]).unwrap();
            for (a, b) in again.iter().zip(row(4)) {
                assert!((a - b).abs() < 1e-5, "{name}: after forgetting: {a} against {b}");
            }
        }
    }
}

/// A prompt computed once for several completions gives what each of them written out gives.
#[test]
fn a_shared_prefix_is_the_same_as_sequences_written_out() {
    for (name, spec) in tiny_spec::all() {
        let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 2);
        let origin = |line| RowOrigin { source: "t".into(), line };
        let all = sequences();
        let (prompt, other) = (&all[2][..4], &all[1][..1]);
        let answers: [&[u32]; 3] = [&all[2][4..7], &all[0][..2], &all[2][5..6]];
        let zeros = [0.0; 8];
        let ones = [1.0; 8];
        let shared = PackedBatch::with_prefixes([
            (other, &zeros[..1], origin(1), None),
            (prompt, &zeros[..4], origin(2), None),
            (answers[0], &ones[..answers[0].len()], origin(2), Some(1)),
            (answers[1], &ones[..answers[1].len()], origin(2), Some(1)),
            (answers[2], &ones[..answers[2].len()], origin(2), Some(1)),
        ])
        .unwrap();
        let written: Vec<(Vec<u32>, Vec<f32>)> = answers
            .iter()
            .map(|answer| {
                let tokens = [prompt, answer].concat();
                let weights = (0..tokens.len()).map(|t| if t < prompt.len() { 0.0 } else { 1.0 }).collect();
                (tokens, weights)
            })
            .collect();
        let written = PackedBatch::new(written.iter().map(|(t, w)| (&t[..], &w[..], origin(2)))).unwrap();
        let n_layers = spec.n_layers;
        let mut run = |batch: &PackedBatch, keep: Keep| {
            engine.zero_gradients();
            let targets = batch.targets();
            let device = engine.upload(batch).unwrap();
            let hidden = engine.embed(&device).unwrap();
            let (hidden, kept) = engine.segment_forward(&device, 0..n_layers, hidden, keep).unwrap();
            let d: Vec<f32> = (0..targets.rows.len()).map(|i| 0.5 - i as f32 / 7.0).collect();
            let (found, d_hidden) = engine.log_probs_backward(hidden, &targets, &d).unwrap();
            let d_input = engine.segment_backward(&device, kept, d_hidden).unwrap();
            engine.embed_backward(&device, d_input).unwrap();
            let gradients: Vec<f32> = (0..engine.parameters().len())
                .flat_map(|idx| engine.read(idx, ParameterTensor::Gradient).unwrap().into_owned())
                .collect();
            (found.log_probs, gradients)
        };
        let (expected, expected_gradients) = run(&written, Keep::Activations);
        let scale = expected_gradients.iter().fold(0.0_f32, |m, g| m.max(g.abs()));
        for keep in [Keep::Activations, Keep::Input, Keep::InputAndAttention] {
            let (found, gradients) = run(&shared, keep);
            assert_eq!(found.len(), expected.len());
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-5, "{name}: {a} against {b}");
            }
            for (i, (a, b)) in gradients.iter().zip(&expected_gradients).enumerate() {
                assert!((a - b).abs() < 1e-5 * (1.0 + scale), "{name}: gradient {i}: {a} against {b}");
            }
        }
    }
}

#[test]
fn a_decoded_row_does_not_depend_on_the_others_in_any_bit() {
    let kinds = [DecodingWeights::F32, DecodingWeights::Int8];
    for ((name, spec), weights) in tiny_spec::all().into_iter().flat_map(|s| kinds.map(|w| (s.clone(), w))) {
        let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 2);
        engine.set_decoding_weights(weights);
        let tokens = sequences()[2].clone();
        let mut prompts = Vec::new();
        for n in 0..40 {
            let mut cache = engine.new_cache(tokens.len());
            engine.extend(&mut cache, &tokens[..1 + n % 4]).unwrap();
            prompts.push(cache);
        }
        let mut logits_of = |n: usize, first: usize| {
            let mut caches: Vec<_> =
                prompts[first..first + n].iter().map(|cache| engine.fork_cache(cache)).collect();
            let news: Vec<u32> = (first..first + n).map(|i| tokens[i % tokens.len()]).collect();
            let mut both = Vec::new();
            for _ in 0..2 {
                let mut borrowed: Vec<_> = caches.iter_mut().collect();
                both.push(engine.extend_each(&mut borrowed, &news).unwrap());
            }
            both
        };
        let all = logits_of(40, 0);
        for (n, first) in [(1, 0), (1, 17), (2, 5), (4, 30), (5, 2), (8, 11), (33, 7)] {
            let some = logits_of(n, first);
            for (all, some) in all.iter().zip(&some) {
                let same = &all[first * spec.vocab_size..(first + n) * spec.vocab_size];
                assert!(
                    same.iter().zip(some).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{name}, {weights:?}: {n} from {first}"
                );
            }
        }
    }
}

#[test]
fn log_probs_with_and_without_backward_agree() {
    let spec = tiny_spec::llama();
    let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 2);
    let batch = packed(&sequences());
    let targets = batch.targets();
    let device = engine.upload(&batch).unwrap();
    let hidden = engine.embed(&device).unwrap();
    let (hidden, _) = engine.segment_forward(&device, 0..spec.n_layers, hidden, Keep::Nothing).unwrap();
    let forward = engine.log_probs(&hidden, &targets).unwrap();
    engine.zero_gradients();
    let d_log_probs = vec![1.0; targets.rows.len()];
    let (again, _) = engine.log_probs_backward(hidden, &targets, &d_log_probs).unwrap();
    assert_eq!(forward, again);
    assert!(forward.entropies.iter().all(|&entropy| entropy > 0.0));
}

#[test]
fn adapters_start_as_identity_and_only_they_learn() {
    let spec = tiny_spec::llama();
    let lora = LoraSpec { rank: 3, alpha: 6.0, targets: vec!["q_proj".into(), "down_proj".into()] };
    let trainable = TrainableSpec { lora: Some(lora), frozen: Vec::new() };
    let mut plain = tiny_engine(&spec, &TrainableSpec::default(), 2);
    let mut adapted = tiny_engine(&spec, &trainable, 2);
    let batch = packed(&sequences());
    let before = support::loss(&mut plain, &batch);
    assert_eq!(before.to_bits(), support::loss(&mut adapted, &batch).to_bits());

    let frozen_before = adapted.read(0, ParameterTensor::Value).unwrap().into_owned();
    for step in 1..=20 {
        adapted.zero_gradients();
        backward_pass(
            &mut adapted,
            &batch,
            &Pass { layers_per_segment: 1, n_kept: 0, keeps_attention: false },
        );
        adapted.optimizer_step(&OptimizerStep {
            step,
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            gradient_scale: 1.0,
        });
    }
    assert!(support::loss(&mut adapted, &batch) < 0.95 * before);
    assert_eq!(adapted.read(0, ParameterTensor::Value).unwrap(), frozen_before);
    assert!(matches!(adapted.read(0, ParameterTensor::Gradient), Err(EngineError::Frozen { .. })));
}

#[test]
fn adapter_gradients_match_finite_differences() {
    let spec = tiny_spec::qwen3();
    let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let lora = LoraSpec { rank: 2, alpha: 3.0, targets: targets.map(String::from).into() };
    let mut engine = tiny_engine(&spec, &TrainableSpec { lora: Some(lora), frozen: Vec::new() }, 2);
    for (idx, parameter) in engine.parameters().to_vec().iter().enumerate() {
        if parameter.name.contains("lora_B") {
            let values: Vec<f32> =
                (0..parameter.n_elements()).map(|i| 0.1 * ((i as f32) * 0.7).sin()).collect();
            engine.write(idx, ParameterTensor::Value, &values).unwrap();
        }
    }
    let batch = packed(&sequences());
    engine.zero_gradients();
    backward_pass(&mut engine, &batch, &Pass::whole(&spec));
    for (idx, parameter) in engine.parameters().to_vec().iter().enumerate() {
        if !parameter.name.contains("lora_") {
            continue;
        }
        let gradient = engine.read(idx, ParameterTensor::Gradient).unwrap().into_owned();
        let element =
            (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
        let original = engine.read(idx, ParameterTensor::Value).unwrap().into_owned();
        let mut loss_at = |offset: f32| {
            let mut moved = original.clone();
            moved[element] += offset;
            engine.write(idx, ParameterTensor::Value, &moved).unwrap();
            support::loss(&mut engine, &batch)
        };
        let numeric = (loss_at(3e-3) - loss_at(-3e-3)) / 6e-3;
        engine.write(idx, ParameterTensor::Value, &original).unwrap();
        let found = f64::from(gradient[element]);
        assert!(
            (found - numeric).abs() < 2e-3 + 0.02 * numeric.abs(),
            "{}: backward {found}, finite differences {numeric}",
            parameter.name
        );
    }
}

#[test]
fn bad_requests_are_errors() {
    let spec = tiny_spec::llama();
    let mut engine = tiny_engine(&spec, &TrainableSpec::default(), 1);
    let beyond = packed(&[vec![1, spec.vocab_size as u32]]);
    assert!(matches!(
        engine.upload(&beyond),
        Err(EngineError::TokenOutOfRange { token: 24, vocab_size: 24 })
    ));
    let mut cache = engine.new_cache(3);
    assert!(matches!(
        engine.extend(&mut cache, &[1, 2, 3, 4]),
        Err(EngineError::CacheFull { capacity: 3, needed: 4 })
    ));
    let lora = LoraSpec { rank: 2, alpha: 1.0, targets: vec!["query".into()] };
    let trainable = TrainableSpec { lora: Some(lora), frozen: Vec::new() };
    let refused = truing_cpu::Loader::new(spec.clone(), trainable, Default::default());
    assert!(matches!(refused, Err(EngineError::UnknownLoraTarget { .. })));
    let mut loader = truing_cpu::Loader::new(spec, TrainableSpec::default(), Default::default()).unwrap();
    assert!(matches!(
        loader.put("model.norm.weight", &[3], vec![0.0; 3]),
        Err(EngineError::ShapeMismatch { .. })
    ));
    assert!(matches!(
        loader.put("model.nose.weight", &[3], vec![0.0; 3]),
        Err(EngineError::MissingParameter { .. })
    ));
    assert!(matches!(loader.finish(), Err(EngineError::MissingParameter { .. })));
}
