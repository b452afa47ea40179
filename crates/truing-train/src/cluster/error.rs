use truing_types::alternatives;

use super::Degrees;

/// A cluster that cannot be planned for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ClusterError {
    /// A setting out of its range.
    #[error("`{key}` is {found}, expected {expected}")]
    BadSetting {
        /// Its name, with dots.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// A model without attention heads or layers.
    #[error(
        "the model has {n_heads} attention heads, {n_kv_heads} key heads and {n_layers} layers; expected at least 1 of \
         each, and key heads that divide the attention heads"
    )]
    NoHeads {
        /// Query heads.
        n_heads: usize,
        /// Key and value heads.
        n_kv_heads: usize,
        /// Layers.
        n_layers: usize,
    },
    /// Heads that cannot be shared out.
    #[error(
        "`degrees.sequence` is {degree}, but a model of {n_heads} attention heads and {n_kv_heads} key heads can be \
         shared by {} devices",
        alternatives(working)
    )]
    SequenceDegree {
        /// The degree.
        degree: usize,
        /// Query heads.
        n_heads: usize,
        /// Key and value heads.
        n_kv_heads: usize,
        /// The degrees that work.
        working: Vec<usize>,
    },
    /// Degrees that do not use every device.
    #[error(
        "no degrees use all {n_devices} devices: the sequence degree must be {} and divide {n_devices}; the data \
         degree, which is the rest, times the smallest micro-batch of {micro_batch} must be at most \
         `training.sequences_per_step` = {sequences_per_step}",
        alternatives(working)
    )]
    NoDegrees {
        /// Devices of the cluster.
        n_devices: usize,
        /// Sequence degrees that the model allows, after `degrees.sequence`.
        working: Vec<usize>,
        /// The smallest micro-batch.
        micro_batch: usize,
        /// Sequences of a step.
        sequences_per_step: usize,
    },
    /// Nothing fits in the memory of a device.
    #[error(
        "a device needs at least {:.1} GB (data {}, sequence {}, ZeRO {}), and {:.1} GB can be used",
        gigabytes(*needed_bytes), degrees.data, degrees.sequence, degrees.zero_stage.number(),
        gigabytes(*usable_bytes)
    )]
    DoesNotFit {
        /// The least that any degrees need.
        needed_bytes: u64,
        /// What may be used.
        usable_bytes: u64,
        /// The degrees that need it.
        degrees: Degrees,
        /// The least number of devices that is enough; `None` where none up to the limit is.
        least_devices: Option<usize>,
    },
}

impl ClusterError {
    /// The setting that is wrong, where it is one.
    #[must_use]
    pub fn setting(&self) -> Option<&'static str> {
        match self {
            Self::BadSetting { key, .. } => Some(key),
            Self::SequenceDegree { .. } => Some("degrees.sequence"),
            _ => None,
        }
    }
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_degrees_that_work() {
        let error =
            ClusterError::SequenceDegree { degree: 2, n_heads: 9, n_kv_heads: 3, working: vec![1, 3, 9] };
        assert_eq!(
            error.to_string(),
            "`degrees.sequence` is 2, but a model of 9 attention heads and 3 key heads can be shared by 1, 3 or 9 \
             devices"
        );
        assert_eq!(error.setting(), Some("degrees.sequence"));
    }
}
