//! What an engine holds besides its threads: parameters, the body of the model, buffers.

use std::sync::Arc;

use truing_model::ModelSpec;
use truing_model::engine;

use crate::buffers::BufferPool;
use crate::cache::FreeBlocks;
use crate::decoder::Decoder;
use crate::encoder::Encoder;
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
pub(crate) type Body = engine::Body<Decoder, Encoder>;
