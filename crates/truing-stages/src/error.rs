use std::path::PathBuf;

use truing_ask::AskError;
use truing_data::{DataError, PackingError};
use truing_model::{EngineError, ModelError};
use truing_prompts::labels::UnknownLabelError;
use truing_run::{AsRunError, RecipeError, RunError};
use truing_store::StoreError;
use truing_text::TextError;
use truing_train::{CheckpointError, PlanError, TrainError};
use truing_types::{BatchError, ChatError, CommunicationError};

/// An error that ends a stage.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// What every run shares: its recipe, its folder, its model, the other ranks.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A model that is asked.
    #[error(transparent)]
    Ask(AskError),
    /// The memory does not suffice, and what would help.
    #[error("{source}{}", hints.iter().map(|hint| format!("; {hint}")).collect::<String>())]
    DoesNotFit {
        /// In numbers.
        source: PlanError,
        /// What would fit.
        hints: Vec<String>,
    },
    /// A label in the data that the label set does not know.
    #[error(transparent)]
    UnknownLabel(Box<UnknownLabelError>),
    /// Selecting prompts.
    #[error(transparent)]
    Prompts(#[from] truing_prompts::PromptsError),
    /// Packing.
    #[error(transparent)]
    Packing(#[from] PackingError),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Sampling completions.
    #[error(transparent)]
    Generate(#[from] truing_generate::GenerateError),
    /// A benchmark that cannot be run.
    #[error(transparent)]
    Benchmark(#[from] truing_eval::benchmarks::BenchmarkError),
    /// A reward that cannot be used.
    #[error(transparent)]
    Reward(#[from] truing_reward::RewardError),
    /// Completions that could not be scored, so that a run would learn nothing.
    #[error("{problem}; {saved}")]
    Unscored {
        /// What happened, with the reason.
        problem: String,
        /// What is saved, and how to continue.
        saved: String,
    },
    /// A merge that cannot be made.
    #[error(transparent)]
    Merge(#[from] truing_model::merge::MergeError),
    /// A teacher on a server.
    #[error("the teacher gave no log-probabilities")]
    Teacher(#[source] ChatError),
    /// Stopped from outside; what was done is kept.
    #[error("stopped")]
    Stopped,
    /// A pair that does not follow from the verdicts that are stored with it: a mistake in the program.
    #[error(
        "{}:{line}: the pair does not follow from its verdicts: {problem}; do not train on this file",
        path.display()
    )]
    PairContradicted {
        /// The pairs.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What does not agree.
        problem: String,
    },
    /// Judges of which none can be used.
    #[error("none of {n_judges} judges gave a single verdict: {reason}")]
    NoVerdicts {
        /// How many there are.
        n_judges: usize,
        /// The first one's reason.
        reason: String,
    },
}

impl From<UnknownLabelError> for StageError {
    fn from(error: UnknownLabelError) -> Self {
        Self::UnknownLabel(Box::new(error))
    }
}

impl AsRunError for StageError {
    fn as_run_error(&self) -> Option<&RunError> {
        match self {
            Self::Run(error) => Some(error),
            _ => None,
        }
    }
}

impl From<AskError> for StageError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Run(error) => Self::Run(error),
            error => Self::Ask(error),
        }
    }
}

/// Errors that [`RunError`] holds already.
macro_rules! through_run_error {
    ($($source:ty),*) => {
        $(impl From<$source> for StageError {
            fn from(source: $source) -> Self {
                Self::Run(source.into())
            }
        })*
    };
}

through_run_error!(
    RecipeError,
    DataError,
    BatchError,
    TextError,
    ModelError,
    EngineError,
    CheckpointError,
    StoreError,
    CommunicationError
);
