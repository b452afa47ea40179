//! A decoder's blocks, embedding and final norm: what of the engine is not the encoder's.

use truing_model::{DecoderSpec, EngineError, HeadKind, SaveActivations, TrainableSpec};

use crate::attention::Attended;
use crate::batch::DeviceBatch;
use crate::error::TorchError;
use crate::ffi::{Dtype, Tensor};
use crate::layer::{Layer, SavedLayer};
use crate::norm::RmsNorm;
use crate::parameters::Parameters;
use crate::rotary::{AllAngles, RotaryTables};
use crate::segment::{Blocks, SavedBlock};

/// Everything of a decoder but its parameters.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) spec: DecoderSpec,
    pub(crate) layers: Vec<Layer>,
    embedding: usize,
    pub(crate) head: usize,
    pub(crate) final_norm: RmsNorm,
    pub(crate) rotary: RotaryTables,
}

impl Decoder {
    pub(crate) fn find(
        spec: DecoderSpec,
        trainable: &TrainableSpec,
        parameters: &Parameters,
    ) -> Result<Self, EngineError> {
        if spec.variant.has_normalized_head && spec.variant.logit_soft_cap.is_some() {
            // The gradient of `LogitRule` is that of either alone.
            let reason =
                "libtorch's engine computes no head with normalised rows and a soft cap on its logits";
            return Err(EngineError::Unsupported(reason.into()));
        }
        let layers = (0..spec.n_layers)
            .map(|layer| Layer::find(&spec, trainable, parameters, layer))
            .collect::<Result<_, _>>()?;
        let embedding = parameters.require("model.embed_tokens.weight")?;
        let head = match spec.head {
            HeadKind::Score { .. } => parameters.require("score.weight")?,
            HeadKind::LanguageModel if spec.tie_word_embeddings => embedding,
            HeadKind::LanguageModel => parameters.require("lm_head.weight")?,
        };
        let final_norm = RmsNorm::find(&spec, parameters, "model.norm")?;
        Ok(Self { rotary: RotaryTables::new(&spec), spec, layers, embedding, head, final_norm })
    }

    /// Rows of the embedding `[n_tokens, hidden]`, in single precision.
    pub(crate) fn embed(&self, parameters: &Parameters, tokens: &Tensor) -> Result<Tensor, TorchError> {
        let rows = parameters.value(self.embedding).select(0, tokens)?;
        match self.spec.variant.embedding_scale {
            Some(scale) => rows.scaled(scale),
            None => Ok(rows),
        }
    }

    pub(crate) fn embed_backward(
        &self,
        parameters: &Parameters,
        batch: &DeviceBatch,
        d_hidden: &Tensor,
    ) -> Result<(), TorchError> {
        if !parameters.has_gradient(self.embedding) {
            return Ok(());
        }
        let d_rows = d_hidden.to(Dtype::F32)?.scatter_rows(&batch.tokens, self.spec.vocab_size)?;
        let d_rows = match self.spec.variant.embedding_scale {
            Some(scale) => d_rows.scaled(scale)?,
            None => d_rows,
        };
        parameters.add_gradient(self.embedding, &d_rows)
    }
}

/// The angles of a batch, which every decoder's has.
fn angles(batch: &DeviceBatch) -> Result<&AllAngles, TorchError> {
    let reason = || TorchError::Arguments { operator: "rotary", reason: "an encoder's batch".into() };
    batch.angles.as_ref().ok_or_else(reason)
}

impl Blocks for Decoder {
    type Layer = SavedLayer;

    fn forward(
        &self,
        layer: usize,
        parameters: &Parameters,
        batch: &DeviceBatch,
        x: Tensor,
        save: SaveActivations,
        given: Option<Attended>,
    ) -> Result<(Tensor, SavedBlock<SavedLayer>), TorchError> {
        self.layers[layer].forward(parameters, batch, angles(batch)?, x, save, given)
    }

    fn backward(
        &self,
        layer: usize,
        parameters: &Parameters,
        batch: &DeviceBatch,
        saved: SavedLayer,
        d_output: Tensor,
    ) -> Result<Tensor, TorchError> {
        self.layers[layer].backward(parameters, batch, angles(batch)?, saved, d_output)
    }
}
