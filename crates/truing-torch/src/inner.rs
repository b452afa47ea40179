//! What an engine holds: parameters and the body of the model.

use truing_model::ModelSpec;
use truing_model::engine;

use crate::decoder::Decoder;
use crate::encoder::Encoder;
use crate::parameters::Parameters;

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) spec: ModelSpec,
    pub(crate) parameters: Parameters,
    pub(crate) body: Body,
    /// Threads of operators on the processor; 0 is libtorch's own choice.
    pub(crate) n_threads: usize,
}

/// What a model consists of, besides its parameters.
pub(crate) type Body = engine::Body<Decoder, Encoder>;
