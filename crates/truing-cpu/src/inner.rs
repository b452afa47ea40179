//! What an engine holds besides its threads: parameters, the body of the model, buffers.

use std::sync::Arc;

use truing_model::{EngineError, ModelSpec};

use crate::buffers::BufferPool;
use crate::cache::FreeBlocks;
use crate::decoder::Decoder;
use crate::encoder::{Encoder, OutputLayer};
use crate::parameters::Parameters;
use crate::ulysses::SequenceGroup;

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) spec: ModelSpec,
    pub(crate) parameters: Parameters,
    pub(crate) body: Body,
    pub(crate) pool: BufferPool,
    pub(crate) free_blocks: Arc<FreeBlocks>,
    /// The ranks that divide each pack between them.
    pub(crate) group: SequenceGroup,
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

    pub(crate) fn output_layer(&self) -> Option<&OutputLayer> {
        match self {
            Self::Decoder(_) => None,
            Self::Encoder(encoder) => encoder.output.as_ref(),
        }
    }
}

fn no_tokens() -> EngineError {
    EngineError::WrongKind { found: "an encoder", needed: "predict or score tokens" }
}
