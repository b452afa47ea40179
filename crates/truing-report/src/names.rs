//! The metrics that a page shows, under the names that stages write (TRL's, where TRL has one).

/// Mean loss over the step's loss tokens, nats.
pub const LOSS: &str = "loss";
/// Euclidean norm of the gradient before clipping.
pub const GRAD_NORM: &str = "grad_norm";
/// Learning rate of the step.
pub const LEARNING_RATE: &str = "learning_rate";
/// Share of loss tokens that are the model's most likely token.
pub const MEAN_TOKEN_ACCURACY: &str = "mean_token_accuracy";
/// Tokens seen so far.
pub const NUM_TOKENS: &str = "num_tokens";
/// Tokens per second of the step, without padding.
pub const TOKENS_PER_SECOND: &str = "tokens_per_second";
/// Share of a pack's capacity that holds tokens.
pub const UTILISATION: &str = "utilisation";
/// Peak resident memory of the process so far, in GiB.
pub const PEAK_MEMORY_GIB: &str = "peak_memory_gib";
/// Held-out loss.
pub const EVAL_LOSS: &str = "eval_loss";
/// The same on held-out data.
pub const EVAL_MEAN_TOKEN_ACCURACY: &str = "eval_mean_token_accuracy";
/// Mean reward of a step's completions.
pub const REWARD: &str = "reward";
/// Mean reward on held-out prompts.
pub const EVAL_REWARD: &str = "eval_reward";
/// Share of held-out completions with at least `pass_reward`.
pub const EVAL_PASS_RATE: &str = "eval_pass_rate";
/// Held-out items (samples, pairs, prompts) of an evaluation.
pub const EVAL_SAMPLES: &str = "eval_samples";
/// KL divergence from the reference, mean over completion tokens, nats.
pub const KL: &str = "kl";
/// Entropy of the predicted distributions, mean over loss tokens, nats.
pub const ENTROPY: &str = "entropy";
/// Mean tokens of a completion.
pub const COMPLETIONS_MEAN_LENGTH: &str = "completions/mean_length";
/// Share of completions cut off at the token limit.
pub const COMPLETIONS_CLIPPED_RATIO: &str = "completions/clipped_ratio";
/// Standard deviation of the rewards within a group, mean over groups.
pub const REWARD_STD: &str = "reward_std";
/// Share of groups in which all rewards are equal.
pub const FRAC_REWARD_ZERO_STD: &str = "frac_reward_zero_std";
/// Share of pairs in which the chosen response has the higher score; of triplets, the positive the higher similarity.
pub const ACCURACY: &str = "accuracy";
/// Mean score of the responses that a reward model trains on.
pub const MEAN_REWARD: &str = "mean_reward";
/// Mean score difference of a pair.
pub const MARGIN: &str = "margin";
/// Share of pairs in which the chosen response has the higher implicit reward.
pub const REWARDS_ACCURACIES: &str = "rewards/accuracies";
/// Mean difference of the implicit rewards of a pair.
pub const REWARDS_MARGINS: &str = "rewards/margins";
/// Prefix of the counts of completions without a reward, by reason.
pub const UNSCORED_PREFIX: &str = "unscored/";

/// The name under which an evaluation logs a metric.
#[must_use]
pub fn held_out(name: &str) -> String {
    format!("eval_{name}")
}

/// Mean of one reward function over a step's completions.
#[must_use]
pub fn reward_part_mean(part: &str) -> String {
    format!("rewards/{part}/mean")
}

/// The reward function that a metric is the mean of.
#[must_use]
pub fn reward_part_of(name: &str) -> Option<&str> {
    name.strip_prefix("rewards/")?.strip_suffix("/mean")
}
