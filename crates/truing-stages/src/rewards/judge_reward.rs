//! A language model as a reward.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::ChatModelConfig;
use truing_reward::Reads;
use truing_reward::judge::JudgeConfig;

/// The table `[judge]` of a recipe with rewards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeReward {
    /// Weight in the sum.
    #[serde(default = "one")]
    pub weight: f64,
    /// Apply only to prompts of these sources: a file name, or the end of a path in whole folders (`math/train.jsonl`).
    /// Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// If the judge fails, omit its reward from the sum instead of leaving the completion unscored.
    #[serde(default)]
    pub optional: bool,
    /// The part of a completion that the judge sees.
    #[serde(default)]
    pub reads: Reads,
    /// The request, and how the verdict is read.
    #[serde(default)]
    pub verdict: JudgeConfig,
    /// The judge. With a `cache`, a resumed run reuses its verdicts.
    pub model: ChatModelConfig,
}

fn one() -> f64 {
    1.0
}
