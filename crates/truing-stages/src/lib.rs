//! One readable straight-line program per stage, and the recipes that describe them. No command line and no
//! terminal here.

pub mod classifier;
pub mod distill;
pub mod dpo;
pub mod embed;
pub mod grpo;
pub mod responses;
pub mod reward;
pub mod rewards;
pub mod sft;
pub mod stage;
pub mod training;

mod error;
mod sampling;
mod wording;

pub use error::StageError;
pub use stage::{PlanContext, RunContext, Stage, StagePlan};
pub use truing_run::{
    DataReport, Ended, Machine, Noted, Notes, Probe, PromptSource, Recipe, RecipeError, RecipePlace,
    RunError, SkippedRow, Start, TrainedModel, model, recipe,
};
