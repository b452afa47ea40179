//! Training checkpoints: weights, both moments and the trainer's state, in files that other programs read.
//!
//! | file | what |
//! |---|---|
//! | `model.safetensors` | every parameter in single precision, under its Hugging Face name |
//! | `2_Dense/model.safetensors` | an encoder's output layer, where it has one |
//! | `adapter_model.safetensors` | with LoRA instead of it: the adapters and a score head, under PEFT's names |
//! | `optimizer.safetensors` | `<parameter>.first_moment` and `<parameter>.second_moment` of what learns |
//! | `trainer_state.json` | [`TrainerState`] |
//!
//! They are written into a [`StagedDirectory`], so a checkpoint is whole or not there. Random numbers and the
//! order of the data are functions of seed and step: there is nothing else to save.
//!
//! Files do not depend on the number of ranks or on what of the states is sharded
//! ([`ZeroStage`](truing_model::ZeroStage)): the first rank reads whole tensors, one at a time, and every rank takes
//! its part of what is in the files.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Deserializer, Serialize};
use truing_model::adapters::save_adapter;
use truing_model::encoder::{EncoderSaveOptions, OUTPUT_LAYER, in_output_layer, save_sentence_transformer};
use truing_model::weights::SafetensorsFile;
use truing_model::{
    Engine, EngineError, ModelError, ParameterSpec, ParameterStore, ParameterTensor, SaveDtype, SaveOptions,
    save_pretrained,
};
use truing_store::{CommittedDirectory, Digest, StagedDirectory};

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian, and are written here without swapping bytes");

const MODEL: &str = "model.safetensors";
const ADAPTER: &str = "adapter_model.safetensors";
const ADAPTER_PREFIX: &str = "base_model.model.";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "trainer_state.json";
const FORMAT_VERSION: u32 = 1;

/// The position of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Version of this format.
    pub format_version: u32,
    /// Optimiser steps taken; with the seed it is also the place in the data.
    pub step: u64,
    /// Passes over the data, with its fraction.
    pub epoch: f64,
    /// Tokens the model has seen.
    pub n_tokens: u64,
    /// The best evaluation so far.
    #[serde(default, deserialize_with = "best_if_finite")]
    pub best: Option<BestEvaluation>,
    /// The evaluation after this step was interrupted and has to run before the next step.
    pub is_evaluation_due: bool,
    /// Whether any step had a gradient other than 0. Checkpoints of earlier versions do not say.
    #[serde(default)]
    pub had_gradient: bool,
    /// The run's seed.
    pub seed: u64,
    /// Digest of everything in the recipe that decides the weights.
    pub recipe_digest: Digest,
}

/// The lowest evaluation loss of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestEvaluation {
    /// The step after which it was measured.
    pub step: u64,
    /// The loss, always finite.
    pub loss: f64,
}

/// Reads [`TrainerState::best`]. Earlier versions noted evaluations without a single score, whose loss became `null` in
/// the file: such an evaluation was not the best of anything.
fn best_if_finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BestEvaluation>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Noted {
        step: u64,
        loss: Option<f64>,
    }
    let noted: Option<Noted> = Option::deserialize(deserializer)?;
    let best = noted.and_then(|Noted { step, loss }| Some(BestEvaluation { step, loss: loss? }));
    Ok(best.filter(|best| best.loss.is_finite()))
}

/// A checkpoint that cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file that cannot be read or written.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Tensors that cannot be written.
    #[error("{}: {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The library's words.
        source: SafeTensorError,
    },
    /// A state that cannot be understood.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// A state of another version.
    #[error("{}: format version {found}, this program reads {FORMAT_VERSION}", path.display())]
    UnknownFormatVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A tensor of the model that the file does not hold as single precision in the model's shape.
    #[error("{}: `{tensor}` is {found}, expected f32 of shape {expected:?}", path.display())]
    TensorMismatch {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The model's shape.
        expected: Vec<usize>,
        /// What is there.
        found: String,
    },
    /// A file of tensors that cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl TrainerState {
    /// The state before the first step.
    #[must_use]
    pub fn start(seed: u64, recipe_digest: Digest) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            step: 0,
            epoch: 0.0,
            n_tokens: 0,
            best: None,
            is_evaluation_due: false,
            had_gradient: false,
            seed,
            recipe_digest,
        }
    }

    /// Notes an evaluation; returns whether it is the best so far. One whose loss is not finite has been made, but is
    /// not noted: it is better than no other.
    pub fn note_evaluation(&mut self, loss: f64) -> bool {
        self.is_evaluation_due = false;
        let is_best = loss.is_finite() && self.best.is_none_or(|best| loss < best.loss);
        if is_best {
            self.best = Some(BestEvaluation { step: self.step, loss });
        }
        is_best
    }

    /// Reads the state of a checkpoint.
    ///
    /// # Errors
    /// When it cannot be read or is of another version.
    pub fn read(checkpoint: &CommittedDirectory) -> Result<Self, CheckpointError> {
        let path = checkpoint.path().join(STATE);
        let json = fs::read(&path).map_err(io_error(&path, "be read"))?;
        let state: Self = serde_json::from_slice(&json)
            .map_err(|source| CheckpointError::Json { path: path.clone(), source })?;
        match state.format_version {
            FORMAT_VERSION => Ok(state),
            found => Err(CheckpointError::UnknownFormatVersion { path, found }),
        }
    }
}

/// How a model is saved, by its kind.
#[derive(Debug, Clone)]
pub enum ModelSaveOptions<'a> {
    /// A decoder, for transformers, or with LoRA its adapter, for PEFT.
    Decoder {
        /// The directory's other files, number type and shards.
        options: SaveOptions<'a>,
        /// What PEFT should load an adapter onto.
        base_model: Option<&'a str>,
    },
    /// An encoder, for sentence-transformers.
    Encoder(EncoderSaveOptions<'a>),
}

impl ModelSaveOptions<'_> {
    /// The same with exact weights in one file, as checkpoints have them.
    fn exact(&self) -> Self {
        match self.clone() {
            Self::Decoder { options, base_model } => Self::Decoder {
                options: SaveOptions { dtype: SaveDtype::F32, max_shard_bytes: u64::MAX, ..options },
                base_model,
            },
            Self::Encoder(options) => Self::Encoder(EncoderSaveOptions { dtype: SaveDtype::F32, ..options }),
        }
    }
}

/// Writes weights, optimiser state and the trainer's state into a directory in the making, which is then a model
/// directory too, or with LoRA an adapter's.
///
/// # Errors
/// When the disk is full or fails.
pub fn save<E: Engine>(
    engine: &E,
    state: &TrainerState,
    staged: &StagedDirectory,
    options: &ModelSaveOptions<'_>,
) -> Result<(), CheckpointError> {
    save_weights(engine, staged.path(), &options.exact())?;
    save_moments_and_state(engine, state, staged)
}

fn save_moments_and_state<E: ParameterStore>(
    engine: &E,
    state: &TrainerState,
    staged: &StagedDirectory,
) -> Result<(), CheckpointError> {
    let state_names = engine.optimizer_state_names();
    let moments = learning(engine)
        .flat_map(|(parameter_idx, name)| {
            let tensor = move |&state: &&'static str| {
                (format!("{name}.{state}"), parameter_idx, ParameterTensor::OptimizerState(state))
            };
            state_names.iter().map(tensor)
        })
        .collect();
    write_tensors(engine, moments, &staged.path().join(OPTIMIZER))?;
    let path = staged.path().join(STATE);
    let json = serde_json::to_vec_pretty(state)
        .map_err(|source| CheckpointError::Json { path: path.clone(), source })?;
    fs::write(&path, json).map_err(io_error(&path, "be written"))
}

/// Writes the weights alone: a model directory, or with LoRA an adapter's.
///
/// # Errors
/// When the model is of another kind than the options, or the disk is full or fails.
pub fn save_weights<E: Engine>(
    engine: &E,
    directory: &Path,
    options: &ModelSaveOptions<'_>,
) -> Result<(), CheckpointError> {
    let values = |parameter: &ParameterSpec| values_of(engine, parameter);
    match (options, &engine.trainable().lora) {
        (ModelSaveOptions::Decoder { options, base_model }, Some(lora)) => {
            save_adapter(directory, engine.spec().decoder()?, lora, *base_model, options, values)
        }
        (ModelSaveOptions::Decoder { options, .. }, None) => {
            save_pretrained(directory, engine.spec().decoder()?, options, values)
        }
        (ModelSaveOptions::Encoder(options), _) => {
            engine.spec().encoder()?;
            save_sentence_transformer(directory, options, values)
        }
    }
}

fn values_of<'a, E: ParameterStore>(
    engine: &'a E,
    parameter: &ParameterSpec,
) -> Result<Cow<'a, [f32]>, CheckpointError> {
    let name = &parameter.name;
    let parameter_idx = engine.parameters().iter().position(|p| p.name == *name);
    let parameter_idx = parameter_idx.ok_or_else(|| EngineError::MissingParameter { name: name.clone() })?;
    Ok(engine.read(parameter_idx, ParameterTensor::Value)?)
}

/// Overwrites weights and moments with those of a checkpoint and returns its state.
///
/// # Errors
/// When a file cannot be read, or its tensors are not those of the model.
pub fn restore<E: ParameterStore>(
    engine: &mut E,
    checkpoint: &CommittedDirectory,
) -> Result<TrainerState, CheckpointError> {
    let state = TrainerState::read(checkpoint)?;
    restore_weights(engine, checkpoint)?;
    let moments = SafetensorsFile::open(checkpoint.path().join(OPTIMIZER))?;
    let learning: Vec<(usize, String)> = learning(engine).collect();
    for (parameter_idx, name) in learning {
        for &state in engine.optimizer_state_names() {
            let tensor = ParameterTensor::OptimizerState(state);
            copy_into(engine, &moments, &format!("{name}.{state}"), parameter_idx, tensor)?;
        }
    }
    Ok(state)
}

/// Overwrites the weights alone.
///
/// # Errors
/// As [`restore`].
pub fn restore_weights<E: ParameterStore>(
    engine: &mut E,
    checkpoint: &CommittedDirectory,
) -> Result<(), CheckpointError> {
    for (file, tensors) in weights(engine) {
        let file = SafetensorsFile::open(checkpoint.path().join(file))?;
        for (name, parameter_idx) in tensors {
            copy_into(engine, &file, &name, parameter_idx, ParameterTensor::Value)?;
        }
    }
    Ok(())
}

/// The files of the weights, and names and indices of what is in them. Without LoRA frozen parameters are in them
/// too, so that the directory is a whole model. An encoder's output layer has a file of its own.
fn weights<E: ParameterStore>(engine: &E) -> BTreeMap<PathBuf, Vec<(String, usize)>> {
    let mut files: BTreeMap<PathBuf, Vec<(String, usize)>> = BTreeMap::new();
    if engine.trainable().lora.is_some() {
        let adapters = learning(engine).map(|(idx, name)| (format!("{ADAPTER_PREFIX}{name}"), idx));
        files.insert(ADAPTER.into(), adapters.collect());
        return files;
    }
    for (idx, parameter) in engine.parameters().iter().enumerate() {
        let (file, name) = match in_output_layer(&parameter.name) {
            Some(name) => (Path::new(OUTPUT_LAYER).join(MODEL), name),
            None => (PathBuf::from(MODEL), &*parameter.name),
        };
        files.entry(file).or_default().push((name.to_owned(), idx));
    }
    files
}

fn learning<E: ParameterStore>(engine: &E) -> impl Iterator<Item = (usize, String)> {
    let all = engine.parameters().iter().enumerate();
    all.filter(|(_, p)| engine.trainable().is_trainable(p)).map(|(idx, p)| (idx, p.name.clone()))
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> CheckpointError {
    let path = path.to_path_buf();
    move |source| CheckpointError::Io { path, action, source }
}

/// A tensor of the engine, read when it is written: so a sharded one is whole for that time alone.
struct TensorOf<'a, E> {
    engine: &'a E,
    parameter_idx: usize,
    tensor: ParameterTensor,
    /// Why a tensor could not be read: [`View`] has no errors.
    failure: &'a RefCell<Option<EngineError>>,
}

impl<E: ParameterStore> View for &TensorOf<'_, E> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.engine.parameters()[self.parameter_idx].shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.engine.read(self.parameter_idx, self.tensor) {
            Ok(Cow::Borrowed(values)) => Cow::Borrowed(bytemuck::cast_slice(values)),
            Ok(Cow::Owned(values)) => Cow::Owned(bytemuck::cast_slice(&values).to_vec()),
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error);
                Cow::Borrowed(&[])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.engine.parameters()[self.parameter_idx].n_elements() * size_of::<f32>()
    }
}

fn write_tensors<E: ParameterStore>(
    engine: &E,
    tensors: Vec<(String, usize, ParameterTensor)>,
    path: &Path,
) -> Result<(), CheckpointError> {
    let failure = RefCell::new(None);
    let tensors: Vec<_> = tensors
        .into_iter()
        .map(|(name, parameter_idx, tensor)| {
            (name, TensorOf { engine, parameter_idx, tensor, failure: &failure })
        })
        .collect();
    // transformers asks for this entry.
    let header = [("format".to_owned(), "pt".to_owned())].into();
    let views = tensors.iter().map(|(name, tensor)| (name, tensor));
    safetensors::serialize_to_file(views, Some(header), path).map_err(|error| match error {
        SafeTensorError::IoError(source) => io_error(path, "be written")(source),
        source => CheckpointError::Safetensors { path: path.to_path_buf(), source },
    })?;
    failure.take().map_or(Ok(()), |error| Err(error.into()))
}

fn copy_into<E: ParameterStore>(
    engine: &mut E,
    file: &SafetensorsFile,
    name: &str,
    parameter_idx: usize,
    tensor: ParameterTensor,
) -> Result<(), CheckpointError> {
    let shape = &engine.parameters()[parameter_idx].shape;
    let mismatch = |found: String| CheckpointError::TensorMismatch {
        path: file.path.clone(),
        tensor: name.to_owned(),
        expected: shape.clone(),
        found,
    };
    let info = file.tensor(name).ok_or_else(|| mismatch("missing".into()))?;
    if info.dtype != "F32" || info.shape != *shape {
        return Err(mismatch(format!("{} of shape {:?}", info.dtype, info.shape)));
    }
    let values = file.read(name)?.values;
    Ok(engine.write(parameter_idx, tensor, &values)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> TrainerState {
        TrainerState { step: 4, ..TrainerState::start(7, Digest::of_bytes(b"recipe")) }
    }

    #[test]
    fn an_evaluation_that_is_not_finite_is_never_the_best() {
        for loss in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let mut state = TrainerState { is_evaluation_due: true, ..state() };
            assert!(!state.note_evaluation(loss));
            assert_eq!((state.best, state.is_evaluation_due), (None, false), "{loss}");
            assert!(state.note_evaluation(2.0), "the first finite one is the best");
            assert!(!state.note_evaluation(loss));
            assert_eq!(state.best, Some(BestEvaluation { step: 4, loss: 2.0 }));
            let json = serde_json::to_string(&state).unwrap();
            assert!(json.contains(r#""best":{"step":4,"loss":2.0}"#), "{json}");
        }
    }

    #[test]
    fn a_state_with_a_loss_of_null_is_read_as_one_without_a_best_evaluation() {
        let mut json = serde_json::to_value(state()).unwrap();
        json["best"] = serde_json::json!({ "step": 2, "loss": null });
        let read: TrainerState = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(read, state());
        json["best"]["loss"] = 0.5.into();
        let read: TrainerState = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(read.best, Some(BestEvaluation { step: 2, loss: 0.5 }));
        json["best"]["reward"] = 1.into();
        assert!(serde_json::from_value::<TrainerState>(json).is_err(), "unknown keys are still refused");
    }
}
