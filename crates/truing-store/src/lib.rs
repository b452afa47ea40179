//! Files that survive: atomic writes, digests, directories that are either complete or not there, and the run
//! directory. What the bytes mean is not known here.
//!
//! | to do | use |
//! |---|---|
//! | replace one file whole | [`atomic::write`], [`atomic::Writer`] |
//! | name content | [`Digest`] |
//! | save several files as one (a checkpoint, a model) | [`StagedDirectory`], then [`CommittedDirectory`] |
//! | find the last good one, drop old ones | [`latest_valid`], [`prune`] |
//! | keep a run's files together, one process at a time | [`RunDirectory`] |
//! | clean paths, find out how much room there is | [`paths`] |
//! | write metrics that a resume can cut back | [`MetricsLog`] |

pub mod atomic;
mod committed;
mod digest;
mod error;
mod metrics_log;
pub mod paths;
mod run_directory;

pub use committed::{
    CommittedDirectory, DamagedDirectory, LatestValid, ManifestFile, StagedDirectory, StagedFile,
    latest_valid, numbered, prune,
};
pub use digest::{Digest, ParseDigestError};
pub use error::StoreError;
pub use metrics_log::{MetricsCut, MetricsLog};
pub use run_directory::{InputFile, RunDirectory, RunInputs};
