//! Ranks with different data, as threads of one process.

use truing_types::{Groups, TokenId};

use super::support::{
    Pass, adamw, all_options, assert_same_bits, assert_same_gradients, backward_pass, bert, decoders,
    distance, gradients, hidden, llama, load, loss_gradient, on_ranks, packed, put_all, qwen3, read,
    run_blocks, sequences, some_gradient, untied_with_biases,
};
use truing_model::{
    AdamWStep, Adapters, DecodingWeights, EncoderSpec, Engine, EngineError, EngineOptions, HeadGradient,
    HeadRequest, LoraSpec, ModelSpec, OptimizerStep, ParameterTensor, Pooling, PutWeight, SaveActivations,
    TrainableSpec, ZeroStage,
};

/// Two ranks with half of the sequences each have, after the reduction, the gradients of one engine with all of them;
/// both the same, and the same weights after a step.
pub fn ranks_sum_their_gradients<E: Engine>() {
    for case in decoders::<E>() {
        let add_gradients = |engine: &mut E, rank: Option<usize>| {
            engine.zero_gradients().unwrap();
            let mine = |(idx, sequence)| rank.is_none_or(|rank| idx % 2 == rank).then_some(sequence);
            // The sequence of one token has no target.
            let all: Vec<_> = sequences().into_iter().filter(|s| s.len() > 1).collect();
            let batch = packed(&all.into_iter().enumerate().filter_map(mine).collect::<Vec<_>>());
            backward_pass(engine, &batch, &Pass::WHOLE, &loss_gradient(&batch.targets(), 1.0));
            engine.reduce_gradients().unwrap();
        };
        let mut whole: E = case.load();
        add_gradients(&mut whole, None);
        let guarantees = whole.guarantees();
        let ranks = on_ranks(2, 1, |groups| {
            let mut engine: E = load(case.spec.clone(), &TrainableSpec::default(), &case.options, groups);
            add_gradients(&mut engine, Some(groups.world.rank().0));
            let norm = engine.gradient_norm().unwrap();
            let gradients = gradients(&engine);
            engine.optimizer_step(&adamw(1, 1e-2)).unwrap();
            let weights: Vec<_> = (0..engine.parameters().len())
                .flat_map(|idx| read(&engine, idx, ParameterTensor::Value))
                .collect();
            (gradients, norm, weights)
        });
        let tolerance = 2.0 * guarantees.gradient_tolerance;
        let norm = whole.gradient_norm().unwrap();
        for (found, found_norm, _) in &ranks {
            assert_same_gradients(found, &gradients(&whole), false, tolerance, &case.name);
            assert!((found_norm / norm - 1.0).abs() <= tolerance, "{}: norm {found_norm}, {norm}", case.name);
        }
        // The ranks compute their parts in any way, but all hold the same sum.
        assert_same_gradients(&ranks[0].0, &ranks[1].0, true, 0.0, &case.name);
        assert_same_bits(&ranks[0].2, &ranks[1].2, &case.name);
    }
}

/// The engine of one rank, or `None` where it refuses the ZeRO stage.
pub(super) fn load_sharded<E: Engine>(
    spec: &ModelSpec,
    trainable: &TrainableSpec,
    options: &EngineOptions,
    stage: ZeroStage,
    groups: &Groups,
) -> Option<E> {
    let options = EngineOptions { zero_stage: stage, ..*options };
    let parameters = spec.parameters();
    let mut weights = |put: &mut PutWeight<'_>| put_all(&parameters, put);
    match E::load(spec.clone(), trainable.clone(), &options, groups, &mut weights) {
        Ok(engine) => Some(engine),
        Err(EngineError::Unsupported(_)) => None,
        Err(error) => panic!("{stage:?} is neither loaded nor refused: {error}"),
    }
}

/// Weights and the optimiser's state of all parameters, on the first rank.
fn read_states<E: Engine>(engine: &E, groups: &Groups) -> Option<States> {
    if groups.world.rank().0 > 0 {
        engine.serve_reads().unwrap();
        return None;
    }
    let found = states_of(engine).map(|(idx, tensor)| (idx, tensor, read(engine, idx, tensor))).collect();
    engine.finish_reads().unwrap();
    Some(found)
}

/// One tensor of a parameter.
type State = (usize, ParameterTensor, Vec<f32>);
type States = Vec<State>;

/// What the first rank found, with the states that it has read; `None` where the engine refused to load.
fn of_first_rank(found: Vec<Option<(bool, Option<States>)>>) -> Option<(bool, States)> {
    let (is_deterministic, states) = found.into_iter().next().flatten()?;
    Some((is_deterministic, states.unwrap()))
}

/// Asserts that states are the same: in every bit where `is_exact`.
fn assert_same_states(found: &[State], expected: &[State], is_exact: bool, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for ((idx, tensor, expected), (_, _, found)) in expected.iter().zip(found) {
        let what = format!("{what}: {idx}, {tensor:?}");
        if is_exact {
            assert_same_bits(found, expected, what);
        } else {
            let off = distance(found, expected);
            assert!(off <= 1e-4, "{what}: {off} off");
        }
    }
}

/// Parameters with the tensors that a checkpoint has of them.
fn states_of<E: Engine>(engine: &E) -> impl Iterator<Item = (usize, ParameterTensor)> + '_ {
    let names = engine.optimizer_state_names();
    engine.parameters().iter().enumerate().flat_map(move |(idx, parameter)| {
        let states = names.iter().map(|name| ParameterTensor::OptimizerState(name));
        let learns = engine.trainable().is_trainable(parameter);
        let states = states.filter(move |_| learns).map(move |state| (idx, state));
        std::iter::once((idx, ParameterTensor::Value)).chain(states)
    })
}

/// Takes optimiser steps in which each rank has `n_packs(rank, step)` packs, and gives the states at their end. The
/// norm of the gradient goes into the step, as clipping does.
fn train<E: Engine>(
    engine: &mut E,
    groups: &Groups,
    n_steps: u64,
    n_packs: impl Fn(usize, u64) -> usize,
) -> Option<States> {
    let rank = groups.world.rank().0;
    for step in 1..=n_steps {
        engine.zero_gradients().unwrap();
        for pack_idx in 0..n_packs(rank, step) {
            let token = |i: usize| ((i * 5 + rank * 3 + pack_idx * 7 + step as usize) % 24) as TokenId;
            let batch = packed(&[(0..6 + rank).map(token).collect(), (2..7).map(token).collect()]);
            backward_pass(engine, &batch, &Pass::WHOLE, &loss_gradient(&batch.targets(), 20.0));
        }
        engine.join_others().unwrap();
        engine.reduce_gradients().unwrap();
        assert!(engine.has_finite_gradients().unwrap());
        let norm = engine.gradient_norm().unwrap();
        let OptimizerStep::AdamW(adamw) = adamw(step, 1e-2);
        engine
            .optimizer_step(&OptimizerStep::AdamW(AdamWStep {
                // Where a gradient is rounding, so would be the step.
                epsilon: 1e-3,
                weight_decay: 0.1,
                gradient_scale: (1.0 / norm).min(1.0) as f32,
                ..adamw
            }))
            .unwrap();
    }
    read_states(engine, groups)
}

/// Whatever is sharded, ten steps on several ranks give the weights and the states of replicated states: with ZeRO-1 in
/// every bit, with ZeRO-2 and 3 too where each rank adds to a gradient once a step. Ranks may have no pack, or more
/// than others.
pub fn sharded_states_are_those_of_replicated_ones<E: Engine>() {
    let lora = LoraSpec { rank: 2, alpha: 4.0, targets: vec!["q_proj".into(), "down_proj".into()] };
    let lora = TrainableSpec { lora: Some(lora), frozen: Vec::new() };
    let frozen = TrainableSpec { lora: None, frozen: vec!["model.layers.1.".into()] };
    let once: fn(usize, u64) -> usize = |_, _| 1;
    let unevenly: fn(usize, u64) -> usize = |rank, step| (rank + step as usize) % 3;
    for (name, spec, trainable, n_packs) in [
        ("tied", llama(), TrainableSpec::default(), unevenly),
        ("untied", untied_with_biases(), frozen, once),
        ("adapters", qwen3(), lora, unevenly),
    ] {
        let (is_once, spec) = (n_packs(0, 2) == n_packs(1, 2), ModelSpec::from(spec));
        for options in all_options::<E>() {
            for n_ranks in [2, 3, 4] {
                let run = |stage| {
                    let states = on_ranks(n_ranks, 1, |groups| {
                        let mut engine: E = load_sharded(&spec, &trainable, &options, stage, groups)?;
                        let states = train(&mut engine, groups, 10, n_packs);
                        Some((engine.guarantees().is_deterministic, states))
                    });
                    of_first_rank(states)
                };
                let (is_deterministic, expected) = run(ZeroStage::Replicated).unwrap();
                for stage in &ZeroStage::ALL[1..] {
                    let Some((_, found)) = run(*stage) else { continue };
                    let is_exact = is_deterministic && (is_once || *stage == ZeroStage::Optimizer);
                    let what = format!("{name}, {stage:?}, {n_ranks} ranks");
                    assert_same_states(&found, &expected, is_exact, &what);
                }
            }
        }
    }
}

/// States that were read whole continue on any other number of ranks, sharded in another way, in the same bits.
pub fn states_move_to_other_numbers_of_ranks<E: Engine>() {
    let spec = ModelSpec::from(untied_with_biases());
    for options in all_options::<E>() {
        let mut states: Option<States> = None;
        for (n_ranks, stage) in [
            (2, ZeroStage::Optimizer),
            (4, ZeroStage::Parameters),
            (1, ZeroStage::Gradients),
            (3, ZeroStage::Gradients),
            (2, ZeroStage::Replicated),
        ] {
            let given = states.clone();
            let found = on_ranks(n_ranks, 1, |groups| {
                let mut engine: E = load_sharded(&spec, &TrainableSpec::default(), &options, stage, groups)?;
                for (idx, tensor, values) in given.iter().flatten() {
                    engine.write(*idx, *tensor, values).unwrap();
                }
                let before = read_states(&engine, groups);
                Some((before, train(&mut engine, groups, 1, |_, _| 1)))
            });
            let Some((before, after)) = found.into_iter().next().flatten() else { continue };
            let (before, after) = (before.unwrap(), after.unwrap());
            if let Some(given) = &given {
                assert_same_states(&before, given, true, &format!("{n_ranks} ranks, {stage:?}"));
            }
            states = Some(after);
        }
        assert!(states.is_some_and(|states| !states.is_empty()));
    }
}

/// Ranks may read texts of different lengths, decode different numbers of tokens, or none: with any states sharded.
pub fn ranks_with_different_passes_do_not_wait_for_ever<E: Engine>() {
    let spec = ModelSpec::from(llama());
    for options in all_options::<E>() {
        let run = |n_ranks: usize, stage| {
            on_ranks(n_ranks, 1, |groups| {
                let trainable = TrainableSpec::default();
                let mut engine: E = load_sharded(&spec, &trainable, &options, stage, groups)?;
                let rank = groups.world.rank().0;
                let mut found = Vec::new();
                for _ in 0..rank {
                    let batch = packed(&sequences());
                    let hidden = hidden(&mut engine, &batch);
                    found.extend(engine.log_probs(&hidden, &batch.targets()).unwrap().log_probs);
                }
                engine.join_others().unwrap();
                if rank != 1 {
                    let mut cache = engine.new_cache(8).unwrap();
                    for tokens in [&[3, 1, 4][..], &[1], &[5]].iter().take(rank + 1) {
                        let logits = engine.extend(&mut cache, tokens, DecodingWeights::F32).unwrap();
                        found.extend(engine.read_logits(&logits).unwrap());
                    }
                }
                engine.join_others().unwrap();
                engine.release_working_memory();
                Some((engine.guarantees().is_deterministic, found))
            })
        };
        let expected = run(3, ZeroStage::Replicated);
        for stage in &ZeroStage::ALL[1..] {
            for (found, expected) in run(3, *stage).iter().zip(&expected) {
                let (Some((is_deterministic, expected)), Some((_, found))) = (expected, found) else {
                    continue;
                };
                if *is_deterministic {
                    assert_same_bits(found, expected, format!("{stage:?}"));
                }
                assert_eq!(found.len(), expected.len(), "{stage:?}");
            }
        }
    }
}

/// An encoder's states are sharded as a decoder's are.
pub fn sharded_states_of_an_encoder_are_those_of_replicated_ones<E: Engine>() {
    let spec = ModelSpec::from(EncoderSpec { n_outputs: Some(3), is_normalized: false, ..bert() });
    for options in all_options::<E>() {
        let run = |stage| {
            let found = on_ranks(3, 1, |groups| {
                let mut engine: E = load_sharded(&spec, &TrainableSpec::default(), &options, stage, groups)?;
                let rank = groups.world.rank().0;
                for step in 1..=4 {
                    engine.zero_gradients().unwrap();
                    let token = |i: usize| ((i * 5 + rank * 3 + step as usize) % 40) as TokenId;
                    let batch = packed(&[(0..6 + rank).map(token).collect(), (2..7).map(token).collect()]);
                    let (device, hidden, saved) =
                        run_blocks(&mut engine, &batch, SaveActivations::Input, Adapters::Enabled);
                    let request = HeadRequest::pooled(&batch, Pooling::Mean, false);
                    let gradient = HeadGradient { vectors: some_gradient(6), ..HeadGradient::default() };
                    let (_, d_hidden) = engine.head_backward(hidden, &request, &gradient).unwrap();
                    let d_hidden = engine.segment_backward(&device, saved, d_hidden).unwrap();
                    engine.embed_backward(&device, d_hidden).unwrap();
                    engine.join_others().unwrap();
                    engine.reduce_gradients().unwrap();
                    engine.optimizer_step(&adamw(step, 1e-2)).unwrap();
                }
                Some((engine.guarantees().is_deterministic, read_states(&engine, groups)))
            });
            of_first_rank(found)
        };
        let (is_deterministic, expected) = run(ZeroStage::Replicated).unwrap();
        for stage in &ZeroStage::ALL[1..] {
            let Some((_, found)) = run(*stage) else { continue };
            assert_same_states(&found, &expected, is_deterministic, &format!("{stage:?}"));
        }
    }
}
