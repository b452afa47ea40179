//! The metrics that a page shows, under the names that stages write (TRL's, where TRL has one).

/// Mean loss over the step's loss tokens, nats.
pub const LOSS: &str = "loss";
/// Euclidean norm of the gradient before clipping.
pub const GRAD_NORM: &str = "grad_norm";
/// The optimiser's rate.
pub const LEARNING_RATE: &str = "learning_rate";
/// Share of loss tokens that were the first choice.
pub const MEAN_TOKEN_ACCURACY: &str = "mean_token_accuracy";
/// Tokens seen so far.
pub const NUM_TOKENS: &str = "num_tokens";
/// Real tokens a second of this step.
pub const TOKENS_PER_SECOND: &str = "tokens_per_second";
/// Share of a pack that is tokens, not unused room.
pub const UTILISATION: &str = "utilisation";
/// Most memory that the process has held so far, in GiB.
pub const PEAK_MEMORY_GIB: &str = "peak_memory_gib";
/// Held-out loss.
pub const EVAL_LOSS: &str = "eval_loss";
/// Held-out share of loss tokens that were the first choice.
pub const EVAL_MEAN_TOKEN_ACCURACY: &str = "eval_mean_token_accuracy";
