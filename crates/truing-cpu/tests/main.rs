//! The conformance suite of engines on the CPU, and what only this engine does.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod bf16;
mod minilm;
mod quantized;
mod sharded;

use truing_cpu::CpuEngine;
use truing_model::{ComputeDtype, Engine, EngineOptions, PutWeight, TrainableSpec};
use truing_parallel::Solo;

truing_conformance::engine_tests!(CpuEngine);

/// The CPU states equality of bits; a looser statement would let the suite pass with less.
#[test]
fn bits_are_guaranteed() {
    for dtype in [ComputeDtype::F32, ComputeDtype::Bf16] {
        let engine = quantized::engine_in(dtype, &quantized::spec(), &TrainableSpec::default());
        let guarantees = engine.guarantees();
        assert!(guarantees.is_deterministic && guarantees.is_batch_invariant, "{dtype}");
    }
}

/// Both number formats are loaded, so that each check of the suite runs in both, and none has more error than it
/// states.
#[test]
fn errors_are_within_what_each_number_format_states() {
    let all = truing_conformance::engine::measure::<CpuEngine>();
    assert_eq!(all.iter().map(|m| m.dtype).collect::<Vec<_>>(), [ComputeDtype::F32, ComputeDtype::Bf16]);
    for measured in all {
        println!("{measured:?}");
        let engine = quantized::engine_in(measured.dtype, &quantized::spec(), &TrainableSpec::default());
        let stated = engine.guarantees();
        for (found, most) in [
            (measured.decoding_log_prob, stated.decoding_log_prob_tolerance),
            (measured.log_prob, stated.log_prob_tolerance),
            (measured.gradient, stated.gradient_tolerance),
            (measured.vector, stated.vector_tolerance),
        ] {
            // Less would say that nothing was compared.
            assert!(found > 1e-8 && found <= most, "{measured:?}, stated are {stated:?}");
        }
    }
}

#[test]
fn the_number_of_threads_is_the_one_asked_for() {
    for n_threads in [1, 3] {
        let spec = quantized::spec();
        let options = EngineOptions { n_threads, ..EngineOptions::default() };
        let parameters = spec.parameters();
        let mut weights = |put: &mut PutWeight<'_>| {
            parameters.iter().try_for_each(|p| put(&p.name, &p.shape, vec![0.5; p.n_elements()]))
        };
        let engine =
            CpuEngine::load(spec.into(), TrainableSpec::default(), &options, &Solo::groups(), &mut weights);
        assert_eq!(engine.unwrap().n_threads(), n_threads);
    }
}
