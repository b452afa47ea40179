//! Which degrees of parallelism a model allows.

use serde::Serialize;
use truing_model::{DecoderSpec, ZeroStage};

use super::ClusterError;

/// How the devices of a cluster share the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Degrees {
    /// Groups of devices that each train on other sequences.
    pub data: usize,
    /// Devices of a group, which share the tokens of its sequences (Ulysses: arXiv 2309.14509).
    pub sequence: usize,
    /// What of the states is sharded, over all devices.
    pub zero_stage: ZeroStage,
    /// Sequences that a group computes at once, as one pack.
    pub micro_batch: usize,
}

impl Degrees {
    /// Devices in use.
    #[must_use]
    pub fn n_devices(&self) -> usize {
        self.data * self.sequence
    }
}

/// Key heads that a device holds, copies included.
#[must_use]
pub fn key_heads_per_device(spec: &DecoderSpec, sequence_degree: usize) -> usize {
    (spec.n_kv_heads / sequence_degree).max(1)
}

/// Refuses a degree that the heads do not allow.
///
/// # Errors
/// With the degrees that work.
pub fn check_sequence_degree(spec: &DecoderSpec, degree: usize) -> Result<(), ClusterError> {
    let working = spec.sequence_parallel_sizes();
    if working.contains(&degree) {
        return Ok(());
    }
    let (n_heads, n_kv_heads) = (spec.n_heads, spec.n_kv_heads);
    Err(ClusterError::SequenceDegree { degree, n_heads, n_kv_heads, working })
}
