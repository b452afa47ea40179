//! A language model as a reward of a policy's run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::ChatModelConfig;
use truing_reward::Reads;
use truing_reward::judge::JudgeConfig;

/// The table `[judge]` of a policy's recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeReward {
    /// Its weight in the sum.
    #[serde(default = "one")]
    pub weight: f64,
    /// Only rows whose file's name ends with one of these; all when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Left out of the sum where it fails, instead of leaving the completion without a reward.
    #[serde(default)]
    pub optional: bool,
    /// The part of a completion that the judge sees: the answer without the thought before it, or the whole.
    #[serde(default)]
    pub reads: Reads,
    /// What it is asked, and how it is read.
    #[serde(default)]
    pub verdict: JudgeConfig,
    /// Who is asked. With a `cache` a resumed run gets the verdicts it had.
    pub model: ChatModelConfig,
}

fn one() -> f64 {
    1.0
}
