//! A language model as a reward.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::ChatModelConfig;
use truing_reward::judge::JudgeConfig;
use truing_reward::{Completion, Reads, is_meant};
use truing_types::Unscored;

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

impl JudgeReward {
    /// Checks of a row that it has the columns that the judge needs, where it applies to the row and is not `optional`.
    /// `completion` has no text. Nothing is asked.
    ///
    /// # Errors
    /// When no completion of the row will have a verdict.
    pub fn check_row(&self, completion: &Completion<'_>) -> Result<(), Unscored> {
        if self.optional || !is_meant(&self.sources, &completion.origin.source) {
            return Ok(());
        }
        self.verdict.check_row(completion)
    }
}

fn one() -> f64 {
    1.0
}
