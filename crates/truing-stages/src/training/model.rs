//! The model that a run trains: opened, not loaded yet, of either kind.

use std::borrow::Cow;

use truing_model::encoder::EncoderSaveOptions;
use truing_model::{EncoderFiles, Engine, EngineOptions, ModelFiles, ModelSpec, SaveOptions, TrainableSpec};
use truing_run::model::{self, BesideWeights};
use truing_store::StagedDirectory;
use truing_text::{ChatRenderer, Tokenizer};
use truing_train::TrainerState;
use truing_train::checkpoint::{self, ModelSaveOptions};
use truing_types::{EventSink, Groups};

use crate::StageError;

/// Files, tokenizer and template of the model that learns.
#[derive(Debug, Clone, Copy)]
pub enum ModelToTrain<'a> {
    /// A decoder with its chat template.
    Decoder {
        /// Its files.
        files: &'a ModelFiles,
        /// Tokenizer and template.
        renderer: &'a ChatRenderer,
    },
    /// A text encoder.
    Encoder {
        /// Its files.
        files: &'a EncoderFiles,
        /// Its tokenizer.
        tokenizer: &'a Tokenizer,
    },
}

impl ModelToTrain<'_> {
    /// What it is.
    #[must_use]
    pub fn spec(&self) -> ModelSpec {
        match self {
            Self::Decoder { files, .. } => files.spec.clone().into(),
            Self::Encoder { files, .. } => files.spec.clone().into(),
        }
    }

    /// Loads the weights and says what a user should know of the files.
    pub(super) fn load<E: Engine>(
        &self,
        trainable: &TrainableSpec,
        options: &EngineOptions,
        groups: &Groups,
        events: &mut dyn EventSink,
    ) -> Result<E, StageError> {
        Ok(match self {
            Self::Decoder { files, .. } => {
                let phase = "loading the model";
                model::announce_and_load(files, trainable, options, groups, phase, events)?
            }
            Self::Encoder { files, .. } => model::load_encoder(files, trainable, options, groups, events)?,
        })
    }
}

/// How checkpoints and the trained model are written.
pub(super) struct Saving<'a> {
    pub(super) model: ModelToTrain<'a>,
    /// The name or path in the recipe, for an adapter's configuration.
    pub(super) name: &'a str,
    /// Files beside weights, configuration and tokenizer.
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// What the outputs of the head are called, where they have names.
    pub(super) output_names: Vec<String>,
}

impl Saving<'_> {
    pub(super) fn checkpoint<E: Engine>(
        &self,
        engine: &E,
        state: &TrainerState,
        staged: &StagedDirectory,
    ) -> Result<(), StageError> {
        let is_adapter = engine.trainable().lora.is_some();
        self.with_options(is_adapter, |options| Ok(checkpoint::save(engine, state, staged, &options)?))
    }

    /// The trained model, with the recipe's number type; with LoRA and `merge_adapter` the whole model.
    pub(super) fn model<E: Engine>(
        &self,
        engine: &E,
        staged: &StagedDirectory,
        dtype: truing_model::SaveDtype,
        merge_adapter: bool,
    ) -> Result<(), StageError> {
        let is_adapter = engine.trainable().lora.is_some() && !merge_adapter;
        self.with_options(is_adapter, |options| match options {
            ModelSaveOptions::Decoder { options, base_model } => {
                let options = SaveOptions { dtype, ..options };
                let base_model = base_model.unwrap_or_default();
                Ok(model::save_model(engine, staged.path(), &options, base_model, merge_adapter)?)
            }
            ModelSaveOptions::Encoder(options) => {
                let options = ModelSaveOptions::Encoder(EncoderSaveOptions { dtype, ..options });
                Ok(checkpoint::save_weights(engine, staged.path(), &options)?)
            }
        })
    }

    fn with_options(
        &self,
        is_adapter: bool,
        save: impl FnOnce(ModelSaveOptions<'_>) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        match self.model {
            ModelToTrain::Decoder { files, renderer } => {
                let (more, names) = (self.files.clone(), self.output_names.clone());
                let beside = BesideWeights::new(files, renderer, is_adapter, more, names)?;
                let base_model: Cow<'_, str> = model::base_of(files, self.name);
                let options = beside.options(files);
                save(ModelSaveOptions::Decoder { options, base_model: Some(&*base_model) })
            }
            ModelToTrain::Encoder { files, tokenizer } => {
                let mut tokenizer_files = tokenizer.files();
                tokenizer_files.extend(self.files.clone());
                save(ModelSaveOptions::Encoder(EncoderSaveOptions {
                    dtype: truing_model::SaveDtype::F32,
                    original: files,
                    tokenizer_files: &tokenizer_files,
                }))
            }
        }
    }
}
