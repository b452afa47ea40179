//! Devices of libtorch's engine. What was chosen last holds for the models that are planned and loaded from then on.

use std::sync::{PoisonError, RwLock};

use anyhow::Context as _;
use truing_model::{ComputeDtype, EngineError};
use truing_stages::Machine;
use truing_torch::{Device, DeviceKind, TorchLib, TorchPlaces};

use super::{DeviceChoice, OWN_DEVICE};
use crate::environment::Environment;
use crate::outcome::WithHint;

/// libtorch on the processor: to test its engine on a machine without a GPU.
pub(crate) const LIBTORCH_ON_CPU: &str = "libtorch-cpu";

/// One GPU for each process of a host, by the process's number there.
const GPU_OF_RANK: &str = "cuda";

static CHOSEN: RwLock<Option<(Device, ComputeDtype)>> = RwLock::new(None);

fn set_chosen(chosen: Option<(Device, ComputeDtype)>) {
    *CHOSEN.write().unwrap_or_else(PoisonError::into_inner) = chosen;
}

/// The device and the number format of models, where they run on libtorch.
pub(super) fn chosen() -> Option<(Device, ComputeDtype)> {
    *CHOSEN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the device for all models of this process, before the first is planned or loaded, and loads libtorch where it
/// is one of libtorch's.
///
/// # Errors
/// When the name is no device, no libtorch can be used, or it does not have the device.
pub(crate) fn choose(choice: &DeviceChoice, environment: &Environment) -> anyhow::Result<()> {
    let device = match choice.device.as_deref() {
        None | Some(OWN_DEVICE) => {
            set_chosen(None);
            super::choose_own_dtype(choice.compute_dtype);
            return Ok(());
        }
        Some(LIBTORCH_ON_CPU) => Device::Cpu,
        Some(GPU_OF_RANK) => {
            let idx =
                u16::try_from(choice.local_rank).context("more processes on a host than GPUs can have")?;
            Device::Cuda(idx)
        }
        Some(name) => name.parse::<Device>().hint(|| {
            format!(
                "`{OWN_DEVICE}` is the processor, `cuda:0` the first GPU; `truing doctor` lists what is there"
            )
        })?,
    };
    let torch = TorchLib::find(&places(choice, environment)).hint(|| {
        "`--torch-lib` names the folder of libtorch_cpu.so; docs/gpu.md says how to get one".into()
    })?;
    torch.check_device(device).hint(|| "`truing doctor` says what this libtorch has".into())?;
    set_chosen(Some((device, choice.compute_dtype.unwrap_or_default())));
    Ok(())
}

/// Where libtorch is looked for.
pub(crate) fn places(choice: &DeviceChoice, environment: &Environment) -> TorchPlaces {
    TorchPlaces {
        explicit: choice.torch_lib.clone().map(|path| ("--torch-lib", path)),
        variable: environment.torch_lib.clone(),
        wheels: environment.virtual_env.clone().map(|path| ("VIRTUAL_ENV", path)).into_iter().collect(),
    }
}

/// The machine as plans see it: on a GPU its memory is the GPU's. The rates of the processor say nothing about it.
pub(crate) fn with_memory_of_device(machine: Machine) -> Machine {
    let free = chosen().and_then(|(device, _)| TorchLib::loaded().ok()?.free_bytes(device));
    match free {
        Some(available_bytes) => Machine {
            available_bytes,
            resident_bytes: 0,
            gigaflops: None,
            gigabytes_per_second: None,
            ..machine
        },
        None => machine,
    }
}

/// The engine's name in content keys, where models run on libtorch.
pub(super) fn engine_name() -> Option<&'static str> {
    Some(match chosen()? {
        (Device::Cpu, ComputeDtype::F32) => "libtorch cpu f32",
        (Device::Cpu, ComputeDtype::Bf16) => "libtorch cpu bf16",
        (Device::Cuda(_), ComputeDtype::F32) => "libtorch cuda f32",
        (Device::Cuda(_), ComputeDtype::Bf16) => "libtorch cuda bf16",
    })
}

/// The device of this process, as a kind of device.
#[derive(Debug)]
pub(crate) struct Chosen;

impl DeviceKind for Chosen {
    const ENGINE_NAME: &'static str = "libtorch";
    const DTYPES: &'static [ComputeDtype] = truing_torch::OnCuda::DTYPES;

    /// The number is part of the choice.
    fn device(_idx: usize) -> Result<Device, EngineError> {
        let chosen = chosen().map(|(device, _)| device);
        chosen.ok_or_else(|| EngineError::Device("no device of libtorch's was chosen".into()))
    }
}

/// What `truing doctor` shows of libtorch's devices.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Devices that models can run on, with a note.
    pub(crate) devices: Vec<(String, String)>,
    /// Devices that they cannot run on, with the reason.
    pub(crate) missing: Vec<(String, String)>,
}

/// Most GPUs that are looked for.
const MOST_GPUS: u16 = 64;

/// Looks for libtorch and its devices.
pub(crate) fn look(choice: &DeviceChoice, environment: &Environment) -> Found {
    let mut found = Found::default();
    let torch = match TorchLib::find(&places(choice, environment)) {
        Ok(torch) => torch,
        Err(error) => {
            found.missing.push(("cuda:0".into(), error.to_string()));
            return found;
        }
    };
    let note = format!("libtorch {} in {}", torch.version(), torch.folder().display());
    found.devices.push((LIBTORCH_ON_CPU.into(), format!("{note}, to test the engine of GPUs")));
    for idx in 0..MOST_GPUS {
        let device = Device::Cuda(idx);
        match torch.check_device(device) {
            Ok(()) => found.devices.push((device.to_string(), note.clone())),
            Err(error) => {
                if idx == 0 {
                    found.missing.push((device.to_string(), error.to_string()));
                }
                break;
            }
        }
    }
    found
}
