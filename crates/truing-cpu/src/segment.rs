//! Segments of blocks, forward and backward, for decoders and encoders alike: what is saved, and what is computed
//! again.

use std::ops::Range;

use truing_model::{EngineError, SaveActivations};

use crate::batch::DeviceBatch;
use crate::buffers::BufferPool;
use crate::parameters::{Parameters, Unit};

/// The attention's results alone.
#[derive(Debug)]
pub(crate) struct SavedAttention {
    /// `[n_tokens, q_width]`; in a sequence group all rows of this rank's heads, here and below.
    pub(crate) attention: Vec<f32>,
    /// `[n_heads, n_tokens]`, of a batch with prefixes run by run.
    pub(crate) log_sum_exp: Vec<f32>,
}

impl SavedAttention {
    pub(crate) fn release(self, pool: &mut BufferPool) {
        pool.give(self.attention);
        pool.give(self.log_sum_exp);
    }
}

/// What a block's forward saves.
#[derive(Debug)]
pub(crate) enum SavedBlock<L> {
    Nothing,
    Attention(SavedAttention),
    Everything(L),
}

/// What a segment's forward saves.
#[derive(Debug)]
pub(crate) enum SavedSegment<L> {
    Nothing,
    /// The segment's input, and its blocks' attention results where they were to be saved.
    Input(Vec<f32>, Vec<SavedAttention>),
    Everything(Vec<L>),
}

/// The blocks of a model.
pub(crate) trait Blocks {
    /// Everything that the backward of one block needs.
    type Layer;

    /// Width of the hidden states.
    fn width(&self) -> usize;

    /// `x` `[n_tokens, width]` to the block's output, and what `save` asks for. [`SaveActivations::Input`] is the
    /// segment's work, and saves nothing here. Attention that is given is not computed again.
    fn forward(
        &self,
        layer: usize,
        parameters: &Parameters,
        pool: &mut BufferPool,
        batch: &DeviceBatch,
        x: Vec<f32>,
        save: SaveActivations,
        attention: Option<SavedAttention>,
    ) -> Result<(Vec<f32>, SavedBlock<Self::Layer>), EngineError>;

    /// Adds the block's gradients; turns the gradient at its output into the one at its input.
    fn backward(
        &self,
        layer: usize,
        parameters: &mut Parameters,
        pool: &mut BufferPool,
        batch: &DeviceBatch,
        saved: Self::Layer,
        d_output: Vec<f32>,
    ) -> Result<Vec<f32>, EngineError>;
}

/// With sharded values (ZeRO-3) a block's are whole while it runs.
pub(crate) fn forward<B: Blocks>(
    blocks: &B,
    parameters: &mut Parameters,
    pool: &mut BufferPool,
    batch: &DeviceBatch,
    layers: Range<usize>,
    input: Vec<f32>,
    save: SaveActivations,
    attention: Vec<SavedAttention>,
) -> Result<(Vec<f32>, SavedSegment<B::Layer>), EngineError> {
    let saves_input = matches!(save, SaveActivations::Input | SaveActivations::InputAndAttention);
    let saved_input = saves_input.then(|| pool.copy(&input, blocks.width()));
    let mut given = attention.into_iter();
    let (mut activations, mut attention) = (Vec::new(), Vec::new());
    let mut x = input;
    for layer in layers {
        parameters.gather(Unit::Block(layer))?;
        parameters.round_weights(Unit::Block(layer));
        let (y, saved) = blocks.forward(layer, parameters, pool, batch, x, save, given.next())?;
        parameters.release(Unit::Block(layer));
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

/// With sharded gradients (ZeRO-2 and 3) a block's are summed over the ranks when it has run.
pub(crate) fn backward<B: Blocks>(
    blocks: &B,
    parameters: &mut Parameters,
    pool: &mut BufferPool,
    batch: &DeviceBatch,
    layers: Range<usize>,
    saved: SavedSegment<B::Layer>,
    d_output: Vec<f32>,
) -> Result<Vec<f32>, EngineError> {
    let nothing =
        || EngineError::Unsupported("a segment run with SaveActivations::Nothing has no backward".into());
    let saved_layers = match saved {
        SavedSegment::Everything(saved_layers) => saved_layers,
        SavedSegment::Input(input, attention) => {
            let save = SaveActivations::Everything;
            let (output, again) =
                forward(blocks, parameters, pool, batch, layers.clone(), input, save, attention)?;
            pool.give(output);
            match again {
                SavedSegment::Everything(saved_layers) => saved_layers,
                _ => return Err(nothing()),
            }
        }
        SavedSegment::Nothing => return Err(nothing()),
    };
    let mut d_x = d_output;
    for (layer, saved) in layers.zip(saved_layers).rev() {
        parameters.begin_backward(Unit::Block(layer))?;
        parameters.round_weights(Unit::Block(layer));
        d_x = blocks.backward(layer, parameters, pool, batch, saved, d_x)?;
        parameters.end_backward(Unit::Block(layer))?;
    }
    Ok(d_x)
}
