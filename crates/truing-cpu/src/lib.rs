//! The CPU engine: decoders and encoders, segments, the head and the KV cache, out of `truing-kernels`.
//!
//! Single precision throughout, but for the products of projections and of the language-model head, where bf16 is asked
//! for ([`CpuEngine`]). Memory comes from reused buffers. The number of threads never changes a result. Nothing here
//! knows a tokenizer or a loss.

mod attention;
mod batch;
mod buffers;
mod cache;
mod decode;
mod decoder;
mod encoder;
mod engine;
mod head;
mod inner;
mod layer;
mod linear;
mod memory;
mod norm;
mod parameters;
mod projections;
mod quantized;
mod rounded;
mod scores;
mod segment;
mod shards;
mod shared_head;
mod ulysses;

pub use batch::DeviceBatch;
pub use cache::KvCache;
pub use engine::{AsAsked, CpuEngine, CpuEngineIn, FormatChoice, Hidden, Logits, SavedActivations};
pub use parameters::StateBytes;
