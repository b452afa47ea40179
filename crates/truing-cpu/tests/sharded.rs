//! Sharded states (ZeRO): every stage is loaded, and the buffers of a rank have the bytes that the formulas say.

use std::sync::Arc;

use truing_cpu::{CpuEngine, StateBytes};
use truing_model::{
    AdamWStep, Adapters, ComputeDtype, DecoderSpec, DecodingWeights, Engine, EngineOptions, HeadGradient,
    HeadRequest, OptimizerStep, ParameterStore, PutWeight, SaveActivations, TrainableSpec, ZeroStage,
};
use truing_parallel::run_thread_world;
use truing_types::{Groups, PackedBatch, RowOrigin};

use crate::quantized;

/// 119,478 parameters, of which ranks cannot divide all evenly.
fn spec() -> DecoderSpec {
    DecoderSpec { vocab_size: 601, hidden_size: 48, intermediate_size: 97, head_dim: 8, ..quantized::spec() }
}

fn load(groups: &Groups, stage: ZeroStage) -> CpuEngine {
    let spec = spec();
    let parameters = spec.parameters();
    let mut weights = |put: &mut PutWeight<'_>| {
        parameters.iter().try_for_each(|p| put(&p.name, &p.shape, vec![0.02; p.n_elements()]))
    };
    let options = EngineOptions { n_threads: 1, zero_stage: stage, ..EngineOptions::default() };
    CpuEngine::load(spec.into(), TrainableSpec::default(), &options, groups, &mut weights).unwrap()
}

/// The states of every rank after an optimiser step.
fn after_a_step(n_ranks: usize, stage: ZeroStage) -> Vec<StateBytes> {
    run_thread_world(n_ranks, |world| {
        let groups = Groups::new(Arc::new(world), 1).unwrap();
        let mut engine = load(&groups, stage);
        assert_eq!(engine.zero_stage(), if n_ranks == 1 { ZeroStage::Replicated } else { stage });
        engine.zero_gradients().unwrap();
        let origin = RowOrigin { source: "sharded".into(), line: 1 };
        let tokens = [5, 6, 7, 8];
        let batch = PackedBatch::new([(&tokens[..], &[1.0; 4][..], origin)]).unwrap();
        let device = engine.upload(&batch).unwrap();
        let hidden = engine.embed(&device).unwrap();
        let (hidden, saved) =
            engine.segment_forward(&device, 0..3, hidden, SaveActivations::Input, Adapters::Enabled).unwrap();
        let targets = batch.targets();
        let gradient = HeadGradient { log_probs: vec![-0.3; 3], ..HeadGradient::default() };
        let (_, d_hidden) =
            engine.head_backward(hidden, &HeadRequest::log_probs(&targets), &gradient).unwrap();
        let d_hidden = engine.segment_backward(&device, saved, d_hidden).unwrap();
        engine.embed_backward(&device, d_hidden).unwrap();
        engine.join_others().unwrap();
        engine.reduce_gradients().unwrap();
        let step = AdamWStep {
            step: 1,
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            gradient_scale: 1.0,
        };
        engine.optimizer_step(&OptimizerStep::AdamW(step)).unwrap();
        engine.state_bytes()
    })
}

/// docs/scale.md, "Memory of the states": 4 P bytes of values, 4 P of gradients, 8 P of moments, each divided by N from
/// its stage on. A rank holds at most 10 % more.
#[test]
fn the_states_of_a_rank_are_the_formulas_bytes() {
    let n_parameters: usize = spec().parameters().iter().map(|p| p.n_elements()).sum();
    for n_ranks in [1, 2, 4] {
        for stage in ZeroStage::ALL {
            let share = |first: ZeroStage| if stage >= first { n_ranks } else { 1 };
            let expected = [
                4 * n_parameters / share(ZeroStage::Parameters),
                4 * n_parameters / share(ZeroStage::Gradients),
                8 * n_parameters / share(ZeroStage::Optimizer),
            ];
            let mut sums = [0; 3];
            for StateBytes { parameters, gradients, optimizer } in after_a_step(n_ranks, stage) {
                for ((sum, found), expected) in
                    sums.iter_mut().zip([parameters, gradients, optimizer]).zip(expected)
                {
                    *sum += found;
                    let ratio = found as f64 / expected as f64;
                    assert!((ratio - 1.0).abs() <= 0.1, "{stage:?}, {n_ranks} ranks: {found}, {expected}");
                }
            }
            // Together the ranks have every element once, or each has all.
            let whole = [4 * n_parameters, 4 * n_parameters, 8 * n_parameters];
            let stages = [ZeroStage::Parameters, ZeroStage::Gradients, ZeroStage::Optimizer];
            for ((sum, whole), first) in sums.into_iter().zip(whole).zip(stages) {
                assert_eq!(sum, whole * n_ranks / share(first), "{stage:?}, {n_ranks} ranks");
            }
        }
    }
}

/// The table of docs/scale.md: the rank with the most, all states sharded.
#[test]
fn the_bytes_of_a_rank_are_those_of_the_documentation() {
    for (n_ranks, bytes) in [(1, [477_912, 955_824]), (2, [238_968, 477_936]), (4, [119_496, 238_992])] {
        let ranks = after_a_step(n_ranks, ZeroStage::Parameters);
        let most = |of: fn(&StateBytes) -> usize| ranks.iter().map(of).max().unwrap();
        assert_eq!([most(|rank| rank.parameters), most(|rank| rank.optimizer)], bytes, "{n_ranks} ranks");
        assert_eq!(most(|rank| rank.gradients), bytes[0], "{n_ranks} ranks");
    }
}

/// The planner's bytes are at least those of the buffers, with the layer or head that is whole for a while at most one
/// unit more.
#[test]
fn the_planned_states_are_those_of_a_rank() {
    let (spec, trainable) = (spec(), TrainableSpec::default());
    let parameters = spec.parameters();
    let whole = CpuEngine::memory(&spec.clone().into(), &trainable, ComputeDtype::F32);
    let largest_unit = 4 * 601 * 48;
    for n_ranks in [1, 2, 4] {
        for stage in ZeroStage::ALL {
            let planned = whole.on_rank(&parameters, &trainable, stage, n_ranks);
            for found in after_a_step(n_ranks, stage) {
                let pairs = [
                    (planned.parameter_bytes, found.parameters),
                    (planned.gradient_bytes, found.gradients),
                    (planned.optimizer_bytes, found.optimizer),
                ];
                for (planned, found) in pairs {
                    let most = 1.1 * found as f64 + f64::from(largest_unit);
                    let is_near = planned >= found as u64 && planned as f64 <= most;
                    assert!(is_near, "{stage:?}, {n_ranks} ranks: {planned} planned, {found} found");
                }
            }
        }
    }
}

/// While a rank decodes it has all values beside those that it owns, and afterwards what it owns again.
#[test]
fn decoding_holds_all_values_beside_those_of_the_rank() {
    let n_parameters: usize = spec().parameters().iter().map(|p| p.n_elements()).sum();
    let found = run_thread_world(2, |world| {
        let groups = Groups::new(Arc::new(world), 1).unwrap();
        let mut engine = load(&groups, ZeroStage::Parameters);
        let owned = engine.state_bytes().parameters;
        let mut cache = engine.new_cache(8).unwrap();
        engine.extend(&mut cache, &[5, 6, 7], DecodingWeights::F32).unwrap();
        let decoding = engine.state_bytes().parameters;
        engine.join_others().unwrap();
        [owned, decoding, engine.state_bytes().parameters]
    });
    for [owned, decoding, afterwards] in found {
        assert_eq!((decoding, afterwards), (4 * n_parameters + owned, owned));
    }
}
