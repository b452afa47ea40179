//! The engine of this process: the one place where the program chooses a device.

/// Everything above is generic over [`truing_model::Engine`].
pub(crate) type LocalEngine = truing_cpu::CpuEngine;
