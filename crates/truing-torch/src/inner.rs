//! What an engine holds: parameters and the body of the model.

use truing_model::{EngineError, ModelSpec};

use crate::decoder::Decoder;
use crate::encoder::Encoder;
use crate::linear::Linear;
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
#[derive(Debug)]
pub(crate) enum Body {
    Decoder(Box<Decoder>),
    Encoder(Box<Encoder>),
}

impl Body {
    pub(crate) fn decoder(&self) -> Result<&Decoder, EngineError> {
        match self {
            Self::Decoder(decoder) => Ok(decoder),
            Self::Encoder(_) => Err(no_tokens()),
        }
    }

    pub(crate) fn decoder_mut(&mut self) -> Result<&mut Decoder, EngineError> {
        match self {
            Self::Decoder(decoder) => Ok(decoder),
            Self::Encoder(_) => Err(no_tokens()),
        }
    }

    pub(crate) fn output_layer(&self) -> Option<&Linear> {
        match self {
            Self::Decoder(_) => None,
            Self::Encoder(encoder) => encoder.output.as_ref(),
        }
    }
}

fn no_tokens() -> EngineError {
    EngineError::WrongKind { found: "an encoder", needed: "predict or score tokens" }
}
