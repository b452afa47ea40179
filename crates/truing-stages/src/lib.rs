//! One readable straight-line program per stage, and the recipes that describe them. No command line and no
//! terminal here.

pub mod agreement;
pub mod chat;
pub mod classifier;
pub mod dpo;
pub mod embed;
pub mod encoder_training;
pub mod evaluations;
pub mod grpo;
pub mod label;
pub mod machine;
pub mod model;
pub mod prove;
pub mod quality;
pub mod quickstart;
pub mod recipe;
pub mod responses;
pub mod reward;
pub mod select;
pub mod sft;
pub mod stage;
pub mod training;

mod error;
mod judged_folder;
mod judging;
mod ranks;
mod row_report;
mod rows;
mod source_names;
mod statistics;
mod wording;

pub use error::{StageError, UnknownLabelError};
pub use machine::{Machine, Probe};
pub use recipe::{Recipe, RecipeError, RecipePlace};
pub use row_report::{DataReport, Noted, Notes, SkippedRow};
pub use rows::PromptSource;
pub use stage::{Ended, PlanContext, RunContext, Stage, StagePlan, Start, TrainedModel};
