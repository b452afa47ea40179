//! The conformance suite on a GPU in single precision, where there is one.

use truing_model::{ComputeDtype, EngineError};
use truing_torch::{Device, DeviceKind, OnCuda, TorchEngine};

/// The first GPU, in single precision alone.
#[derive(Debug)]
struct GpuInF32;

impl DeviceKind for GpuInF32 {
    const ENGINE_NAME: &'static str = "libtorch cuda f32";
    const DTYPES: &'static [ComputeDtype] = &[ComputeDtype::F32];

    /// Numbers of other GPUs are refused by libtorch.
    fn device(idx: usize) -> Result<Device, EngineError> {
        OnCuda::device(idx)
    }
}

truing_conformance::engine_tests!(TorchEngine<GpuInF32>, if crate::has_gpu);

#[test]
fn the_largest_errors_on_a_gpu_are_small() {
    if crate::has_gpu() {
        crate::measure::<TorchEngine<GpuInF32>>([2e-5, 1e-5, 1e-5, 2e-6]);
    }
}

#[test]
fn skipped_checks_are_counted() {
    let names = truing_conformance::engine_tests!(names of TorchEngine<GpuInF32>);
    if !crate::has_gpu() {
        println!("skipped: there is no GPU, so {} checks of the engine did not run on one", names.len());
    }
}
