//! How an engine is loaded, what it needs, and what it guarantees.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::Seed;

use super::{EngineError, ZeroStage};

/// The number format that an engine computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16 with sums and master weights in single precision.
    Bf16,
}

impl fmt::Display for ComputeDtype {
    /// As in recipes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// How an engine is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineOptions {
    /// Which of several devices of the engine's kind.
    pub device_idx: usize,
    /// The number format.
    pub dtype: ComputeDtype,
    /// Threads on the host; 0 takes one per available core. Never changes a result.
    pub n_threads: usize,
    /// Seed of what no file holds: new adapters and heads.
    pub seed: Seed,
    /// What of the states is sharded over all ranks. An engine that cannot refuses to load.
    pub zero_stage: ZeroStage,
}

impl EngineOptions {
    /// Single precision on this many threads; 0 takes one per available core.
    #[must_use]
    pub fn with_threads(n_threads: usize, seed: Seed) -> Self {
        Self { n_threads, seed, ..Self::default() }
    }
}

/// What an engine states of its own results, in the number format that it was loaded with. Tests and `truing verify`
/// ask it instead of assuming what the CPU does. The conformance suite (feature `conformance`) checks each statement.
///
/// Tolerances hold for models like those of the suite, whose weights have deviations of 0.15 to 0.7.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guarantees {
    /// The same computation gives the same bits: a resumed run is bit-equal to one that was never stopped. Neither the
    /// number of threads, nor the division of the blocks into segments, nor what these save, changes a bit; and a head
    /// gives the same results with and without its backward pass.
    pub is_deterministic: bool,
    /// No bit of a sequence's results depends on the tokens of the other sequences in its pack, nor, while decoding, on
    /// which others run beside it. In a pack with other lengths, or alone, its results are the same to the tolerances
    /// below: products of other sizes may be summed in another order.
    pub is_batch_invariant: bool,
    /// The most by which a log-probability while decoding differs from that of a forward pass over the same tokens.
    pub decoding_log_prob_tolerance: f64,
    /// The most by which a log-probability differs from that in double precision.
    pub log_prob_tolerance: f64,
    /// The most by which the gradient of a parameter differs from that in double precision (Euclidean norm of the
    /// difference), as a share of its own norm, or of a hundredth of the norm of all gradients where that is larger.
    pub gradient_tolerance: f64,
    /// The most by which the vector of a sequence differs from that in double precision (Euclidean norm of the
    /// difference), as a share of its norm.
    pub vector_tolerance: f64,
}

/// One step of an optimiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerStep {
    /// AdamW.
    AdamW(AdamWStep),
}

/// One AdamW step (Loshchilov and Hutter 2019, arXiv 1711.05101), decoupled decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Step number counted from 1, for the bias corrections.
    pub step: u64,
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay; norms and biases are excluded.
    pub weight_decay: f32,
    /// Every gradient is multiplied by this first (clipping).
    pub gradient_scale: f32,
}

/// Which of a parameter's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParameterTensor {
    /// The weights.
    Value,
    /// The accumulated gradient.
    Gradient,
    /// A tensor of the optimiser, by its name
    /// ([`optimizer_state_names`](super::ParameterStore::optimizer_state_names)).
    OptimizerState(&'static str),
}

/// AdamW's state in checkpoints: the first and the second moment.
pub const ADAMW_STATE_NAMES: [&str; 2] = ["first_moment", "second_moment"];

/// The place of a state among [`ADAMW_STATE_NAMES`].
///
/// # Errors
/// When AdamW has no such state.
pub fn adamw_state_idx(name: &'static str) -> Result<usize, EngineError> {
    let found = ADAMW_STATE_NAMES.iter().position(|known| *known == name);
    found.ok_or(EngineError::UnknownOptimizerState { name })
}

/// The weights that decoding multiplies with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecodingWeights {
    /// The weights in the number format that the engine computes in.
    #[default]
    F32,
    /// An 8-bit copy of the weights, which decodes faster with slightly different outputs. Adapters stay in float32.
    Int8,
}

/// Whether low-rank adapters take part in a forward pass. Without them a LoRA policy is its own reference model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Adapters {
    /// They do.
    #[default]
    Enabled,
    /// The base model alone.
    Disabled,
}
