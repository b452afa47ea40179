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
/// Real tokens per second of this step.
pub const TOKENS_PER_SECOND: &str = "tokens_per_second";
/// Share of a pack that is tokens, not unused room.
pub const UTILISATION: &str = "utilisation";
/// Most memory that the process has held so far, in GiB.
pub const PEAK_MEMORY_GIB: &str = "peak_memory_gib";
/// Held-out loss.
pub const EVAL_LOSS: &str = "eval_loss";
/// Held-out share of loss tokens that were the first choice.
pub const EVAL_MEAN_TOKEN_ACCURACY: &str = "eval_mean_token_accuracy";
/// Mean reward of the completions drawn before a step.
pub const REWARD: &str = "reward";
/// Mean reward on held-out prompts.
pub const EVAL_REWARD: &str = "eval_reward";
/// KL divergence from the reference, mean over completion tokens, nats.
pub const KL: &str = "kl";
/// Entropy of the predicted distributions, mean over loss tokens, nats.
pub const ENTROPY: &str = "entropy";
/// Mean tokens of a completion.
pub const COMPLETIONS_MEAN_LENGTH: &str = "completions/mean_length";
/// Share of completions cut off at the token limit.
pub const COMPLETIONS_CLIPPED_RATIO: &str = "completions/clipped_ratio";
/// Share of groups in which all rewards are equal.
pub const FRAC_REWARD_ZERO_STD: &str = "frac_reward_zero_std";
/// Share of pairs that a reward model orders as people did.
pub const ACCURACY: &str = "accuracy";
/// Mean reward of the responses that a reward model learns from.
pub const MEAN_REWARD: &str = "mean_reward";
/// Mean score difference of a pair.
pub const MARGIN: &str = "margin";
/// The same two of the preference losses.
pub const REWARDS_ACCURACIES: &str = "rewards/accuracies";
/// Mean difference of the implicit rewards of a pair.
pub const REWARDS_MARGINS: &str = "rewards/margins";
/// Before the reasons for which completions stayed without a reward.
pub const UNSCORED_PREFIX: &str = "unscored/";
