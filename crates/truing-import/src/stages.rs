//! The stages of truing that a file can become.

use crate::job::Job;
use crate::recipe::{GRPO_KEYS, PREFERENCE_KEYS, REWARD_MODEL_KEYS, TRAINING_KEYS, string};

/// Says which stage the recipe is for.
pub(crate) fn begin(job: &mut Job<'_>, stage: &'static str) {
    match stage {
        "grpo" => job.begin_stage(&[GRPO_KEYS]),
        "dpo" => job.begin_stage(&[TRAINING_KEYS, PREFERENCE_KEYS]),
        "reward_model" => job.begin_stage(&[TRAINING_KEYS, REWARD_MODEL_KEYS]),
        _ => job.begin_stage(&[TRAINING_KEYS]),
    }
    job.set("stage", string(stage), "");
}

/// The command that runs a stage.
pub(crate) fn command(stage: &str) -> &'static str {
    match stage {
        "grpo" => "truing grpo",
        "dpo" => "truing dpo",
        "reward_model" => "truing reward train",
        _ => "truing sft",
    }
}
