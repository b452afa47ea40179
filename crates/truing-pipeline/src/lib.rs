//! A pipeline: stages of one recipe, each with a key that says what its result is made of. A stage runs when the store
//! has no result of its key; the results of the others are reused.
//!
//! The steps: [`Pipeline::read`] (the recipe, its references, its graph), [`PipelinePlan::new`] (keys, and what would
//! run and why), [`apply`] (runs that and nothing else), [`collect_garbage`] (what no lock file names). [`snakefile`]
//! and [`argo_workflow`] hand a pipeline to other programs, which run its stages by [`apply_only`].
//!
//! [`Lineage`] follows a row back to the files from outside, and [`impact()`] forward from rows that are to be removed;
//! [`write_without`] makes the pipeline without them. [`ModelCard`] describes a model by what it was made of.
//!
//! A [`Remote`] of the store is object storage through which machines share results; [`push`] and [`pull`] transfer
//! them by hand.
//!
//! This crate knows no stages. The program lists them ([`StageKind`]), finds models, and runs one at a time ([`Host`]).

mod apply;
mod card;
mod digest_memory;
mod digests;
mod done;
mod error;
mod export;
mod file_locks;
mod garbage;
mod host;
mod impact;
mod key;
mod lineage;
mod links;
mod lock_file;
mod mix;
mod plan;
mod recipe;
mod references;
mod remote;
mod settings;
mod store;
#[cfg(test)]
mod tests;
mod turns;

pub use apply::{Applied, ApplyOptions, apply, apply_only};
pub use card::{CardData, CardScore, CardStage, ModelCard};
pub use digests::Digests;
pub use done::{Done, StoredOutput};
pub use error::PipelineError;
pub use export::{KubernetesOptions, StageNeeds, argo_workflow, snakefile};
pub use garbage::{Collected, GarbageOptions, Removed, collect_garbage};
pub use host::{Cause, Host, Job, JobEnd, JobReport, Notice, Work};
pub use impact::{
    FileImpact, FilteredFile, Impact, ModelImpact, NamedSetting, RemovedRow, Selector, Written, impact,
    write_without,
};
pub use key::{Change, KeyInput, KeyParts};
pub use lineage::{Lineage, Reader, Record, RowAddress, Trace, TracedRow};
pub use lock_file::{LockFile, LockedStage};
pub use mix::{
    CategoryEvidence, CategoryScore, ProposedShare, ShareReason, counts_of, mean_score, propose_mix,
};
pub use plan::{PipelinePlan, PlannedStage, State};
pub use recipe::{Pipeline, PipelineStage};
pub use remote::{Remote, RemoteCollected, RemoteError, StorageError, Transfer, Transfers, pull, push};
pub use settings::{NamedOutput, Settings, SettleError, Settled, StageKind, at_places, settle};
pub use store::Store;
pub use turns::{NewTurn, Turn, TurnDecision, TurnEvaluation, TurnStep, Turns, quotas_of, with_quotas};
