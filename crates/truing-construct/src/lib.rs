//! Stages that make training data (report 2.3, 3.1, 3.2, 3.3, 4): selected prompts, their labels and quality scores,
//! prompt augmentation, responses, preferences, data for abilities. Each is a [`Stage`]; where models are asked, the
//! calls are planned before the first, and kept, so that none is paid twice.

pub mod build;
pub mod files;
pub mod label;
pub mod pas;
pub mod pas_evaluate;
pub mod prefer;
pub mod quality;
pub mod respond;
pub mod select;

mod sources;

pub use truing_stages::{PlanContext, RunContext, Stage, StageError, StagePlan};
