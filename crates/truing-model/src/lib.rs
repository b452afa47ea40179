//! What a model is: its specification per family, its named parameters, weights in and out, where models are
//! found, and the [`Engine`] that computes them. How it is computed is not known here.

pub mod engine;
mod error;
pub mod families;
pub mod gguf;
pub mod spec;
pub mod weights;

pub use engine::{Engine, EngineError, Keep, TokenLogProbs};
pub use error::ModelError;
pub use gguf::GgufFile;
pub use spec::{DecoderSpec, LoraSpec, ParameterRole, ParameterSpec, RopeScaling, TrainableSpec};
pub use weights::{Tensor, Weights};
