//! The stages of an alignment run, by the names that recipes, run folders and the command line share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a recipe is for: the value of its key `stage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageName {
    // In the order of `STAGES`.
    /// Training data for an ability.
    Build,
    /// Search for a merge of models.
    MergeSearch,
    /// Training pairs of prompts and complements.
    Pas,
    /// Evaluation of complements: replies with and without.
    PasEvaluate,
    /// Responses sampled from models and selected by rewards.
    Respond,
    /// Preference data from judged responses.
    Prefer,
    /// Evaluation on benchmarks.
    Evaluate,
    /// Prompt selection.
    Select,
    /// Training of an embedding model.
    Embed,
    /// Prompt labels by LLM judges.
    Label,
    /// Prompt quality scores by LLM judges.
    Quality,
    /// Reinforcement learning with GRPO and its variants.
    Grpo,
    /// Training of a classifier or scorer.
    Classifier,
    /// On-policy distillation.
    Distill,
    /// Training on preferences with DPO and its variants.
    Dpo,
    /// Training of a reward model.
    RewardModel,
    /// Supervised fine-tuning.
    Sft,
}

/// A stage as users meet it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageInfo {
    /// Its name.
    pub stage: StageName,
    /// The name as a recipe writes it.
    pub name: &'static str,
    /// The command that runs it.
    pub command: &'static str,
    /// Keys that only recipes of this stage and of later ones in [`STAGES`] have. They find the stage of a recipe
    /// without `stage`.
    own_keys: &'static [&'static str],
}

/// All stages. A recipe without `stage` is of the first one that has one of its keys.
pub const STAGES: [StageInfo; 17] = [
    info(StageName::Build, "build", "truing build", &["ability", "writer", "checker"]),
    info(StageName::MergeSearch, "merge_search", "truing merge search", &["n_candidates", "search_share"]),
    info(StageName::Pas, "pas", "truing pas build", &["generator", "max_regenerations"]),
    info(StageName::PasEvaluate, "pas_evaluate", "truing pas evaluate", &["complementer", "target"]),
    info(
        StageName::Respond,
        "respond",
        "truing respond",
        &["decoding", "max_rouge_l", "max_refusal_share", "round_prompts"],
    ),
    info(
        StageName::Prefer,
        "prefer",
        "truing prefer",
        &["score_rater", "repeat_share", "skip_fates", "all_low"],
    ),
    info(StageName::Evaluate, "evaluate", "truing evaluate", &["task"]),
    info(StageName::Select, "select", "truing select", &["selection"]),
    info(StageName::Embed, "embed", "truing embed train", &["train_data"]),
    info(
        StageName::Label,
        "label",
        "truing label",
        &["label_set", "n_votes", "min_confidence", "per_dimension", "corrections"],
    ),
    info(
        StageName::Quality,
        "quality",
        "truing quality",
        &["n_anchors", "bucket_column", "calls", "prior_deviation"],
    ),
    info(StageName::Grpo, "grpo", "truing grpo", &["reward", "num_generations", "judge"]),
    info(StageName::Classifier, "classifier", "truing label train", &["classifier"]),
    info(StageName::Distill, "distill", "truing distill", &["distillation"]),
    info(StageName::Dpo, "dpo", "truing dpo", &["preference"]),
    info(StageName::RewardModel, "reward_model", "truing reward train", &["reward_model"]),
    info(StageName::Sft, "sft", "truing sft", &["model_name_or_path"]),
];

const fn info(
    stage: StageName,
    name: &'static str,
    command: &'static str,
    own_keys: &'static [&'static str],
) -> StageInfo {
    StageInfo { stage, name, command, own_keys }
}

impl StageName {
    /// The stage as users meet it.
    #[must_use]
    pub fn info(self) -> StageInfo {
        STAGES[self as usize]
    }

    /// The name as a recipe writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.info().name
    }

    /// The stage that a recipe writes as `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        STAGES.into_iter().find(|info| info.name == name).map(|info| info.stage)
    }

    /// The stage that a recipe without `stage` is most likely for, by its keys.
    #[must_use]
    pub fn likely(has_key: impl Fn(&str) -> bool) -> Option<Self> {
        let has_own_key = |info: &StageInfo| info.own_keys.iter().any(|key| has_key(key));
        STAGES.into_iter().find(has_own_key).map(|info| info.stage)
    }
}

impl std::fmt::Display for StageName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_listed_once_under_its_serialized_name() {
        for info in STAGES {
            assert_eq!(info.stage.info(), info);
            assert_eq!(serde_json::to_value(info.stage).unwrap(), info.name);
            assert_eq!(StageName::from_name(info.name), Some(info.stage));
            assert_eq!(info.stage.to_string(), info.name);
        }
        assert_eq!(StageName::from_name("ppo"), None);
    }

    #[test]
    fn the_stage_of_a_recipe_without_one_is_found_by_its_keys() {
        let likely = |keys: &[&str]| StageName::likely(|key| keys.contains(&key));
        assert_eq!(likely(&["model_name_or_path", "data"]), Some(StageName::Sft));
        assert_eq!(likely(&["model_name_or_path", "preference"]), Some(StageName::Dpo));
        assert_eq!(likely(&["model_name_or_path", "reward", "judge"]), Some(StageName::Grpo));
        assert_eq!(likely(&["judge", "repeat_share", "data"]), Some(StageName::Prefer));
        assert_eq!(likely(&["selection", "data"]), Some(StageName::Select));
        assert_eq!(likely(&["model", "decoding", "reward"]), Some(StageName::Respond));
        assert_eq!(likely(&["output_dir"]), None);
    }
}
