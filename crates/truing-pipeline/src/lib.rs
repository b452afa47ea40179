//! A pipeline: stages of one recipe, each with a key that says what its result is made of. A stage runs when the store
//! has no result of its key; the results of the others are reused.
//!
//! The steps: [`Pipeline::read`] (the recipe, its references, its graph), [`PipelinePlan::new`] (keys, and
//! what would run and why), [`apply`] (runs that and nothing else), [`collect_garbage`] (what no lock file names).
//!
//! This crate knows no stages. The program lists them ([`StageKind`]), finds models, and runs one at a time ([`Host`]).

mod apply;
mod digest_memory;
mod digests;
mod error;
mod garbage;
mod host;
mod key;
mod links;
mod lock_file;
mod plan;
mod recipe;
mod references;
mod settings;
mod store;
#[cfg(test)]
mod tests;

pub use apply::{Applied, ApplyOptions, apply};
pub use digests::Digests;
pub use error::PipelineError;
pub use garbage::{Collected, GarbageOptions, Removed, collect_garbage};
pub use host::{Cause, Host, Job, JobEnd, JobReport, Notice, Work};
pub use key::{Change, KeyInput, KeyParts};
pub use lock_file::{LockFile, LockedStage};
pub use plan::{PipelinePlan, PlannedStage, State};
pub use recipe::{Pipeline, PipelineStage};
pub use settings::{NamedOutput, Settings, SettleError, Settled, StageKind, at_places, settle};
pub use store::{Done, Store, StoredOutput};
