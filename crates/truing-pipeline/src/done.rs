//! The record of a finished run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use truing_store::Digest;

/// The format of the records that are written.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// A finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    format_version: u32,
    /// What it left, by name.
    pub outputs: BTreeMap<String, StoredOutput>,
    /// Its main figures.
    pub figures: BTreeMap<String, f64>,
    /// How long it ran, in seconds; of a run that was continued, the last part.
    pub seconds: f64,
    /// The most memory it had, in bytes.
    pub peak_bytes: Option<u64>,
}

impl Done {
    /// The record of a run.
    pub(crate) fn new(
        outputs: BTreeMap<String, StoredOutput>,
        figures: BTreeMap<String, f64>,
        seconds: f64,
        peak_bytes: Option<u64>,
    ) -> Self {
        Self { format_version: FORMAT_VERSION, outputs, figures, seconds, peak_bytes }
    }
}

/// What every version of [`Done`] has. A newer one is no damage: its result stays.
#[derive(Deserialize)]
pub(crate) struct Version {
    pub(crate) format_version: u32,
}

/// An output of a finished run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredOutput {
    /// Its path below the run's folder.
    pub path: String,
    /// Of a file its digest; of a folder that of all files with their paths.
    pub blake3: Digest,
    /// Bytes.
    pub bytes: u64,
}
