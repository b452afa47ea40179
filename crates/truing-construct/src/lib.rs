//! Stages that make training data with models (report 2.3, 3.1, 3.2, 3.3, 4): labels and quality scores of prompts, prompt
//! augmentation, responses, preferences, data for abilities. Each is a [`Stage`] whose calls are planned before the first, and
//! kept, so that none is paid twice.

pub mod build;
pub mod label;
pub mod pas;
pub mod pas_evaluate;
pub mod prefer;
pub mod quality;
pub mod respond;

mod shuffle;

pub use truing_stages::{PlanContext, RunContext, Stage, StageError, StagePlan};
