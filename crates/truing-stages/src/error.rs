use std::path::PathBuf;

use truing_data::{DataError, PackingError};
use truing_model::{EngineError, ModelError};
use truing_store::StoreError;
use truing_text::TextError;
use truing_train::{CheckpointError, PlanError, TrainError};
use truing_types::{BatchError, CommunicationError, RowOrigin, StageName};

use crate::RecipeError;
use crate::wording::counted;

/// A stage that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
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
    /// A setting that cannot be meant.
    #[error("`{key}` is {found}: expected {expected}")]
    BadSetting {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A recipe of another stage than the one that is run.
    #[error("the recipe says stage = \"{found}\", which `{}` runs; this is stage \"{expected}\"", found.info().command)]
    OtherStage {
        /// The recipe's stage.
        found: StageName,
        /// The stage that is run.
        expected: StageName,
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
    /// A run that was made with other settings, so that going on would be another run.
    #[error("the run was started with another recipe: {} changed", keys.join(", "))]
    RecipeChanged {
        /// The settings that differ.
        keys: Vec<String>,
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
        "{} is {} ({architecture}, {}) and has no language-model head, so it can neither write text nor be trained to: use \
         the model that it was trained from, or score with it ({})",
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
    /// The memory does not suffice, and what would help.
    #[error("{source}{}", hints.iter().map(|hint| format!("; {hint}")).collect::<String>())]
    DoesNotFit {
        /// In numbers.
        source: PlanError,
        /// What would fit.
        hints: Vec<String>,
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
    /// A label in the data that the label set does not know.
    #[error(transparent)]
    UnknownLabel(Box<UnknownLabelError>),
    /// A label set that contradicts itself.
    #[error("{}: {source}", path.display())]
    LabelSet {
        /// Its file.
        path: PathBuf,
        /// In which dimension, at which label.
        source: Box<truing_prompts::labels::LabelSetError>,
    },
    /// Selecting prompts.
    #[error(transparent)]
    Prompts(#[from] truing_prompts::PromptsError),
    /// Training data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Packing.
    #[error(transparent)]
    Packing(#[from] PackingError),
    /// Tokenizer and chat template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Model files.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Training.
    #[error(transparent)]
    Train(#[from] TrainError),
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
    /// A pack.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Drawing completions.
    #[error(transparent)]
    Generate(#[from] truing_generate::GenerateError),
    /// A reward that cannot be used.
    #[error(transparent)]
    Reward(#[from] truing_reward::RewardError),
    /// A model that is asked, or its cache.
    #[error(transparent)]
    Client(Box<truing_client::ClientError>),
    /// A judge whose server refuses everything.
    #[error(
        "the judge `{name}` refuses every request: {reason}; its replies so far are kept, run the same command to continue"
    )]
    JudgeRefused {
        /// Its name.
        name: String,
        /// Why, in the server's words.
        reason: String,
    },
    /// Completions that could not be scored, so that a run would learn nothing.
    #[error("{problem}; {saved}")]
    Unscored {
        /// What happened, with the reason.
        problem: String,
        /// What is safe, and how to go on.
        saved: String,
    },
    /// Judges of which none can be used.
    #[error("none of {n_judges} judges gave a single verdict: {reason}")]
    NoVerdicts {
        /// How many there are.
        n_judges: usize,
        /// The first one's reason.
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

/// A label in the data that the label set does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{origin}: `{column}` is `{found}`, which is not a label of `{dimension}`{}",
    nearest.as_ref().map_or_else(String::new, |nearest| format!("; the nearest is `{nearest}`"))
)]
pub struct UnknownLabelError {
    /// The row.
    pub origin: RowOrigin,
    /// The column.
    pub column: String,
    /// What it holds.
    pub found: String,
    /// The dimension.
    pub dimension: String,
    /// The label that is most like it.
    pub nearest: Option<String>,
}
