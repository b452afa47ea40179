//! Which degrees of parallelism a model allows.

use serde::Serialize;
use truing_model::DecoderSpec;

use super::ClusterError;

/// What of the model's states each device holds a shard of (ZeRO: Rajbhandari et al. 2020, arXiv 1910.02054).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "u8")]
pub enum ZeroStage {
    /// Nothing: each device holds all states.
    Replicated,
    /// The optimiser's states (ZeRO-1).
    Optimizer,
    /// Gradients as well (ZeRO-2).
    Gradients,
    /// Parameters as well (ZeRO-3): a layer is gathered before it runs and freed after it.
    Parameters,
}

impl ZeroStage {
    /// All stages, in order.
    pub const ALL: [Self; 4] = [Self::Replicated, Self::Optimizer, Self::Gradients, Self::Parameters];

    /// 0 to 3.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Replicated => 0,
            Self::Optimizer => 1,
            Self::Gradients => 2,
            Self::Parameters => 3,
        }
    }
}

impl From<ZeroStage> for u8 {
    fn from(stage: ZeroStage) -> Self {
        stage.number()
    }
}

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

/// The degrees of Ulysses that a model allows, ascending.
#[must_use]
pub fn sequence_degrees(spec: &DecoderSpec) -> Vec<usize> {
    spec.sequence_parallel_sizes()
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
    let working = sequence_degrees(spec);
    if working.contains(&degree) {
        return Ok(());
    }
    let (n_heads, n_kv_heads) = (spec.n_heads, spec.n_kv_heads);
    Err(ClusterError::SequenceDegree { degree, n_heads, n_kv_heads, working })
}
