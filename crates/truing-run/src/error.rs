use std::error::Error;
use std::path::{Path, PathBuf};

use truing_data::DataError;
use truing_model::{EngineError, ModelError};
use truing_store::StoreError;
use truing_text::TextError;
use truing_train::CheckpointError;
use truing_types::{BatchError, CommunicationError, RowOrigin, StageName, counted};

use crate::RecipeError;

const GIB: f64 = (1_u64 << 30) as f64;

/// Errors of all runs: settings, files and rows, the folder, the model, other ranks.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The recipe cannot be understood.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A setting without which nothing can be done.
    #[error("missing setting `{key}`: expected {expected}")]
    MissingSetting {
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A file of the model or run that cannot be written as JSON.
    #[error("cannot write `{name}` as JSON")]
    Json {
        /// The file's name.
        name: &'static str,
        /// What serde said.
        source: serde_json::Error,
    },
    /// An invalid setting.
    #[error("`{key}` is {found}: expected {expected}")]
    BadSetting {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A disk without room for what a run saves.
    #[error(
        "{}: the checkpoint and the model of this run need {:.1} GiB, but {:.1} GiB are free: set \
         `output_dir` to another disk",
        path.display(),
        *needed as f64 / GIB,
        *free as f64 / GIB
    )]
    NotEnoughSpace {
        /// The run's folder.
        path: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A recipe of another stage than the one that is run.
    #[error("this is a recipe of stage \"{found}\"; run it with `{}`", found.info().command)]
    OtherStage {
        /// The recipe's stage.
        found: StageName,
    },
    /// Two settings that exclude each other.
    #[error("`{first}` and `{second}` cannot both be given: {reason}")]
    Conflict {
        /// One key.
        first: &'static str,
        /// The other key.
        second: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A run that was made with other settings, so that continuing it would be another run.
    #[error("the run was started with another recipe: {} changed", keys.join(", "))]
    RecipeChanged {
        /// The settings that differ.
        keys: Vec<String>,
    },
    /// A recipe that plans fewer steps than the run has taken.
    #[error(
        "the recipe plans {}, but the run has taken {taken} already: expected a `max_steps` or \
         `num_train_epochs` of as many steps or more",
        counted(*planned, "step", "steps")
    )]
    TooShort {
        /// Steps that the recipe plans.
        planned: u64,
        /// Steps that the run has taken.
        taken: u64,
    },
    /// A finished run without a checkpoint, which cannot be continued.
    #[error(
        "the run is finished after {} and has no complete checkpoint to continue from (a saved model has no optimiser \
         states): train its model further in a new run (`model_name_or_path`, `output_dir`), or repeat the run with a \
         `save_steps` that saves a checkpoint before its end",
        counted(*taken, "step", "steps")
    )]
    NothingToExtend {
        /// Steps that the run has taken.
        taken: u64,
    },
    /// A run whose data or model changed since.
    #[error("the run was started on other data or another model than `{}` describes now", path.display())]
    InputsChanged {
        /// The run's resolved recipe.
        path: PathBuf,
    },
    /// A file whose content is another one than when the run was begun.
    #[error("`{}` ({role}) has changed since the run was started", path.display())]
    FileChanged {
        /// What it is read as: `model`, `data`, `evaluation`.
        role: String,
        /// The file.
        path: PathBuf,
    },
    /// A reward model or classifier where a language model is needed.
    #[error(
        "{} is {} ({architecture}, {}) and has no language-model head, so it can neither write text nor be \
         trained to: use the model that it was trained from, or score with it ({})",
        path.display(),
        if *n_outputs == 1 { "a reward model or scorer" } else { "a classifier" },
        counted(*n_outputs as u64, "output", "outputs"),
        if *n_outputs == 1 { "`truing reward score`" } else { "`truing label predict`" }
    )]
    NotALanguageModel {
        /// The model.
        path: PathBuf,
        /// Its architecture, as its configuration names it.
        architecture: String,
        /// Numbers that its head gives.
        n_outputs: usize,
    },
    /// Not a classifier or scorer, or one whose files do not belong together.
    #[error(
        "{} {problem}; expected a classifier or scorer, as `truing label train` or `truing quality train` saves it",
        path.display()
    )]
    NotAClassifier {
        /// The model, or the file of it that is wrong.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A row's column that cannot be used.
    #[error("{origin}: `{column}` is {found}; expected {expected}")]
    BadColumn {
        /// The row.
        origin: RowOrigin,
        /// The column.
        column: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// The tokenizer makes a token that the model has no embedding for.
    #[error("{origin}: token {token} is outside the model's vocabulary of {vocab_size}")]
    TokenOutsideVocabulary {
        /// The first row that has it.
        origin: RowOrigin,
        /// The token's id.
        token: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// Rows of data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A pack.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Tokenizer and chat template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Model files.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The run directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Other ranks.
    #[error(transparent)]
    Communication(#[from] CommunicationError),
    /// Another rank failed.
    #[error("rank {rank} failed: {reason}")]
    OtherRank {
        /// Which.
        rank: usize,
        /// Its error, with the causes.
        reason: String,
    },
    /// A message that cannot be sent to other ranks.
    #[error("cannot encode a message for other ranks: {reason}")]
    Message {
        /// Why not.
        reason: String,
    },
    /// A file that cannot be written.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file that cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl RunError {
    /// The recipe's key that the error is about, where it is about one.
    #[must_use]
    pub fn setting(&self) -> Option<&'static str> {
        match self {
            Self::BadSetting { key, .. } | Self::MissingSetting { key, .. } => Some(key),
            Self::Conflict { first, .. } => Some(first),
            Self::OtherStage { .. } => Some("stage"),
            Self::Engine(EngineError::UnknownLoraTarget { .. }) => Some("lora.targets"),
            _ => None,
        }
    }

    /// The file or folder that could not be read, where the error is about one.
    #[must_use]
    pub fn unread_path(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. }
            | Self::Data(DataError::Io { path, .. } | DataError::UnsupportedFile { path, .. })
            | Self::Store(StoreError::Io { path, .. }) => Some(path),
            _ => None,
        }
    }
}

/// An error that may be a [`RunError`]. Functions that take a caller's own error look through it.
pub trait AsRunError: Error + From<RunError> {
    /// The error of the run, where it is one.
    fn as_run_error(&self) -> Option<&RunError>;
}

impl AsRunError for RunError {
    fn as_run_error(&self) -> Option<&RunError> {
        Some(self)
    }
}
