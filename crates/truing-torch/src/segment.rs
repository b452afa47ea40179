//! Segments of blocks, forward and backward, for decoders and encoders alike: what is saved, and what is computed
//! again.

use std::ops::Range;

use truing_model::{EngineError, SaveActivations};

use crate::attention::Attended;
use crate::batch::DeviceBatch;
use crate::error::TorchError;
use crate::ffi::Tensor;
use crate::parameters::Parameters;

/// What a block's forward saves.
#[derive(Debug)]
pub(crate) enum SavedBlock<L> {
    Nothing,
    Attention(Attended),
    Everything(L),
}

/// What a segment's forward saves.
#[derive(Debug)]
pub(crate) enum SavedSegment<L> {
    Nothing,
    /// The segment's input, and its blocks' attention results where they were to be saved.
    Input(Tensor, Vec<Attended>),
    Everything(Vec<L>),
}

/// The blocks of a model.
pub(crate) trait Blocks {
    /// Everything that the backward of one block needs.
    type Layer;

    /// `x` `[n_tokens, width]` to the block's output, and what `save` asks for. [`SaveActivations::Input`] is the
    /// segment's work, and saves nothing here. Attention that is given is not computed again.
    fn forward(
        &self,
        layer: usize,
        parameters: &Parameters,
        batch: &DeviceBatch,
        x: Tensor,
        save: SaveActivations,
        given: Option<Attended>,
    ) -> Result<(Tensor, SavedBlock<Self::Layer>), TorchError>;

    /// Adds the block's gradients; turns the gradient at its output into the one at its input.
    fn backward(
        &self,
        layer: usize,
        parameters: &Parameters,
        batch: &DeviceBatch,
        saved: Self::Layer,
        d_output: Tensor,
    ) -> Result<Tensor, TorchError>;
}

pub(crate) fn forward<B: Blocks>(
    blocks: &B,
    parameters: &Parameters,
    batch: &DeviceBatch,
    layers: Range<usize>,
    input: Tensor,
    save: SaveActivations,
    attention: Vec<Attended>,
) -> Result<(Tensor, SavedSegment<B::Layer>), TorchError> {
    let saves_input = matches!(save, SaveActivations::Input | SaveActivations::InputAndAttention);
    // No block changes its input, so a second handle will do.
    let saved_input = saves_input.then(|| input.alias()).transpose()?;
    let mut given = attention.into_iter();
    let (mut activations, mut attention) = (Vec::new(), Vec::new());
    let mut x = input;
    for layer in layers {
        let (y, saved) = blocks.forward(layer, parameters, batch, x, save, given.next())?;
        match saved {
            SavedBlock::Everything(saved) => activations.push(saved),
            SavedBlock::Attention(saved) => attention.push(saved),
            SavedBlock::Nothing => {}
        }
        x = y;
    }
    let saved = match (save, saved_input) {
        (SaveActivations::Everything, _) => SavedSegment::Everything(activations),
        (_, Some(input)) => SavedSegment::Input(input, attention),
        _ => SavedSegment::Nothing,
    };
    Ok((x, saved))
}

pub(crate) fn backward<B: Blocks>(
    blocks: &B,
    parameters: &Parameters,
    batch: &DeviceBatch,
    layers: Range<usize>,
    saved: SavedSegment<B::Layer>,
    d_output: Tensor,
) -> Result<Tensor, EngineError> {
    let nothing =
        || EngineError::Unsupported("a segment run with SaveActivations::Nothing has no backward".into());
    let saved_layers = match saved {
        SavedSegment::Everything(saved_layers) => saved_layers,
        SavedSegment::Input(input, attention) => {
            let save = SaveActivations::Everything;
            match forward(blocks, parameters, batch, layers.clone(), input, save, attention)? {
                (_, SavedSegment::Everything(saved_layers)) => saved_layers,
                _ => return Err(nothing()),
            }
        }
        SavedSegment::Nothing => return Err(nothing()),
    };
    let mut d_x = d_output;
    for (layer, saved) in layers.zip(saved_layers).rev() {
        d_x = blocks.backward(layer, parameters, batch, saved, d_x)?;
    }
    Ok(d_x)
}
