//! The second engine: the model on libtorch's devices, by libtorch's stable C interface.
//!
//! libtorch (PyTorch's C++ half, 2.11 or later) is found and loaded at run time ([`TorchLib::find`]); nothing of it is
//! needed to build. There is no autograd: forward and backward are the explicit formulas of `truing-cpu`, with the
//! memory on the device. Nothing here knows a tokenizer or a loss.

mod arithmetic;
mod attention;
mod batch;
mod cache;
mod decode;
mod decoder;
mod device;
mod divergence;
mod encoder;
mod engine;
mod error;
mod ffi;
mod head;
mod inner;
mod layer;
mod linear;
mod logit_rule;
mod memory;
mod norm;
mod operators;
mod parameters;
mod projections;
mod rotary;
mod segment;
mod vectors;

pub use batch::DeviceBatch;
pub use cache::KvCache;
pub use device::{Device, NoSuchDevice};
pub use engine::{DeviceKind, Hidden, Logits, OnCpu, OnCuda, SavedActivations, TorchEngine};
pub use error::{Rejected, TorchError};
pub use ffi::{TorchLib, TorchPlaces};

/// libtorch on the processor, for tests.
pub type TorchCpuEngine = TorchEngine<OnCpu>;
/// libtorch on an NVIDIA GPU.
pub type TorchCudaEngine = TorchEngine<OnCuda>;
