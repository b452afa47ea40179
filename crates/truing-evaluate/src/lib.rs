//! Stages that measure models on benchmarks: [`evaluate`] asks a model and scores its answers, [`merge_search`]
//! compares candidates of a merge in the same way. What a benchmark asks and how it scores is in
//! [`truing_eval::benchmarks`].

pub mod evaluate;
pub mod merge_search;

pub use truing_stages::{PlanContext, RunContext, Stage, StageError, StagePlan};
