//! The CPU engine: layers, segments, the head and the KV cache, out of `truing-kernels`.
//!
//! Single precision throughout. Memory comes from reused buffers. The number of threads never changes a
//! result. Nothing here knows a tokenizer or a loss.

mod buffers;
mod cache;
mod compressed;
mod decode;
mod encoder;
mod engine;
mod head;
mod layer;
mod linear;
mod memory;
mod parameters;

pub use cache::KvCache;
pub use encoder::{CpuEncoder, EncoderLoader, KeptEncoding};
pub use engine::{CpuEngine, CpuOptions, DeviceBatch, Hidden, KeptSegment, Loader};
