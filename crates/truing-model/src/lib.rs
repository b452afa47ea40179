//! What a model is: its specification per family, its named parameters, weights in and out, where models are
//! found, and the [`Engine`] that computes them. How it is computed is not known here.

pub mod adapters;
pub mod encoder;
pub mod engine;
mod error;
pub mod families;
pub mod gguf;
mod loading;
pub mod merge;
mod model_spec;
pub mod sampling;
pub mod saving;
pub mod sources;
pub mod spec;
mod tokenizer_files;
pub mod weights;

pub use adapters::{AdapterFiles, is_adapter};
pub use encoder::{EncoderFiles, EncoderSpec, Pooling};
pub use engine::{
    AdamWStep, Adapters, ComputeDtype, DecodingWeights, DeviceTopLogProbs, Divergence, Engine, EngineError,
    EngineMemory, EngineOptions, Guarantees, HeadGradient, HeadOutput, HeadRequest, HostTopLogProbs,
    OptimizerStep, ParameterStore, ParameterTensor, PutWeight, Reference, SampleStep, SaveActivations,
    TokenLogProbs, TopLogProbs, WeightSource, ZeroStage, owned_range,
};
pub use error::ModelError;
pub use gguf::GgufFile;
pub use loading::{LoadedModel, ModelFiles, ModelKind};
pub use model_spec::{ModelSpec, initial_values};
pub use sampling::{SampledToken, Sampler, SamplingError, top_log_probs};
pub use saving::{SaveDtype, SaveOptions, save_pretrained};
pub use sources::find_model;
pub use spec::{
    Activation, DecoderSpec, DecoderVariant, HeadKind, LoraSpec, ParameterRole, ParameterSpec, QkvLayout,
    RopeScaling, TrainableSpec,
};
pub use tokenizer_files::{TEMPLATE_FOLDER, tokenizer_files};
pub use weights::{Tensor, Weights};
