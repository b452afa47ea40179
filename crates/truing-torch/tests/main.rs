//! The conformance suite of engines on libtorch's CPU device, and on a GPU where there is one. It needs a libtorch:
//! the environment variable `TORCH_LIB` names the folder of `libtorch_cpu.so`, for instance
//! `site-packages/torch/lib` of a wheel.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod bf16;
mod gpu;

use std::sync::OnceLock;

use truing_model::Engine;
use truing_torch::{Device, TorchCpuEngine, TorchLib, TorchPlaces};

/// Whether `TORCH_LIB` is set. A libtorch that is named and cannot be used fails the tests.
fn has_libtorch() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| match std::env::var_os("TORCH_LIB") {
        None => false,
        Some(value) => {
            TorchLib::find(&TorchPlaces::of_variable(Some(&value))).unwrap();
            true
        }
    })
}

/// Whether that libtorch has a GPU.
fn has_gpu() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let check = || TorchLib::loaded().is_ok_and(|torch| torch.check_device(Device::Cuda(0)).is_ok());
    has_libtorch() && *FOUND.get_or_init(check)
}

truing_conformance::engine_tests!(TorchCpuEngine, if has_libtorch);

#[test]
fn skipped_checks_are_counted() {
    let names = truing_conformance::engine_tests!(names of TorchCpuEngine);
    assert!(names.len() > 40);
    if !has_libtorch() {
        println!("skipped: TORCH_LIB is not set, so {} checks of the engine did not run", names.len());
    }
}

/// What the suite measures is within what the engine states. It is printed, for docs/gpu.md.
#[expect(clippy::print_stdout, reason = "measurements are printed")]
fn measure<E: Engine>(limits: [f64; 4]) {
    for measured in truing_conformance::engine::measure::<E>() {
        println!("{measured:?}");
        let errors = [measured.decoding_log_prob, measured.log_prob, measured.gradient, measured.vector];
        for (error, limit) in errors.into_iter().zip(limits) {
            assert!(error > 0.0 && error <= limit, "{measured:?}");
        }
    }
}

#[test]
fn the_largest_errors_in_single_precision_are_small() {
    if has_libtorch() {
        measure::<TorchCpuEngine>([2e-5, 1e-5, 1e-5, 2e-6]);
    }
}
