//! The engine of this process: the one place where the program chooses a device.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use truing_cpu::{CpuEngineIn, FormatChoice};
use truing_model::ComputeDtype;
#[cfg(not(feature = "torch"))]
use truing_stages::Machine;

#[cfg(not(feature = "torch"))]
use crate::environment::Environment;

#[cfg(feature = "torch")]
mod either;
#[cfg(feature = "torch")]
mod libtorch;

/// Everything above is generic over [`truing_model::Engine`].
#[cfg(not(feature = "torch"))]
pub(crate) type LocalEngine = OwnEngine;
#[cfg(feature = "torch")]
pub(crate) type LocalEngine = either::EitherEngine;

#[cfg(feature = "torch")]
pub(crate) use libtorch::{choose, look, with_memory_of_device};

/// The program's own engine.
pub(crate) type OwnEngine = CpuEngineIn<OwnFormat>;

/// Whether the program's own engine computes in bf16. What was chosen last holds for the models that are planned and
/// loaded from then on.
static IS_BF16: AtomicBool = AtomicBool::new(false);

/// The number format of the program's own engine.
#[derive(Debug)]
pub(crate) struct OwnFormat;

impl FormatChoice for OwnFormat {
    /// The format is chosen for the process, so that all stages plan and load the same.
    fn dtype(_asked: ComputeDtype) -> ComputeDtype {
        own_dtype()
    }
}

/// The number format that was chosen for the program's own engine.
pub(crate) fn own_dtype() -> ComputeDtype {
    if IS_BF16.load(Ordering::Relaxed) { ComputeDtype::Bf16 } else { ComputeDtype::F32 }
}

/// Takes the number format of the program's own engine for all models of this process.
fn choose_own_dtype(compute_dtype: Option<ComputeDtype>) {
    IS_BF16.store(compute_dtype == Some(ComputeDtype::Bf16), Ordering::Relaxed);
}

/// The machine as plans see it: its memory is the device's.
#[cfg(not(feature = "torch"))]
pub(crate) fn with_memory_of_device(machine: Machine) -> Machine {
    machine
}

/// The settings of the device that the user gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeviceChoice {
    /// `--device`, or the recipe's `device`.
    pub(crate) device: Option<String>,
    /// `--torch-lib`.
    pub(crate) torch_lib: Option<PathBuf>,
    /// `--compute-dtype`, or the recipe's `compute_dtype`.
    pub(crate) compute_dtype: Option<ComputeDtype>,
    /// The number of this process among those of its host: `cuda` is the GPU with this number.
    #[cfg(feature = "torch")]
    pub(crate) local_rank: usize,
}

/// The device of the program's own engine, which needs no libtorch.
pub(crate) const OWN_DEVICE: &str = "cpu";

/// Takes the device for all models of this process, before the first is planned or loaded.
///
/// # Errors
/// When it is not the processor: this program was built without libtorch's engine.
#[cfg(not(feature = "torch"))]
pub(crate) fn choose(choice: &DeviceChoice, _environment: &Environment) -> anyhow::Result<()> {
    let asked = match (choice.device.as_deref(), &choice.torch_lib) {
        (None | Some(OWN_DEVICE), None) => {
            choose_own_dtype(choice.compute_dtype);
            return Ok(());
        }
        (Some(device), _) if device != OWN_DEVICE => format!("device `{device}`"),
        _ => "`--torch-lib`".to_owned(),
    };
    let source = anyhow::anyhow!("{asked}: this program was built without libtorch's engine");
    let hint = "build it with `cargo build --release -p truing --features torch`; docs/gpu.md says more";
    Err(anyhow::Error::new(crate::outcome::Hinted { source, hint: hint.into() }))
}
