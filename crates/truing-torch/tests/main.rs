//! The conformance suite of engines on libtorch's CPU device. It needs a libtorch: the environment variable
//! `TORCH_LIB` names the folder of `libtorch_cpu.so`, for instance `site-packages/torch/lib` of a wheel.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::sync::OnceLock;

use truing_model::ComputeDtype;
use truing_torch::{TorchCpuEngine, TorchLib, TorchPlaces};

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

truing_model::conformance_tests!(TorchCpuEngine, if has_libtorch);

#[test]
#[expect(clippy::print_stdout, reason = "skipped tests say so")]
fn skipped_checks_are_counted() {
    let names = truing_model::conformance_tests!(names of TorchCpuEngine);
    assert!(names.len() > 40);
    if !has_libtorch() {
        println!("skipped: TORCH_LIB is not set, so {} checks of the engine did not run", names.len());
    }
}

/// What the suite measures is within what the engine states; printed for docs/gpu.md.
#[test]
#[expect(clippy::print_stdout, reason = "measurements are printed")]
fn the_largest_errors_are_within_what_is_stated() {
    if !has_libtorch() {
        return;
    }
    let measured = truing_model::conformance::measure::<TorchCpuEngine>();
    let dtypes: Vec<ComputeDtype> = measured.iter().map(|measured| measured.dtype).collect();
    assert_eq!(dtypes, [ComputeDtype::F32, ComputeDtype::Bf16]);
    for measured in measured {
        println!("{measured:?}");
        let limit = if measured.dtype == ComputeDtype::F32 { 2e-5 } else { 0.15 };
        for error in [measured.decoding_log_prob, measured.log_prob, measured.gradient, measured.vector] {
            assert!(error > 0.0 && error <= limit, "{measured:?}");
        }
    }
}
