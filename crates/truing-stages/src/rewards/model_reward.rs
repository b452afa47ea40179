//! A trained reward model as a reward.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_model::Engine;
use truing_predict::RewardScorer;
use truing_reward::{Completion, Reads, RewardFunction};
use truing_types::{Conversation, Message, Role, Unscored, UnscoredReason};

/// The table `[reward_model]` of a recipe with rewards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardModelReward {
    /// A reward model that `truing reward train` has saved: a directory, or a name.
    #[schemars(extend("x-decides" = "content"))]
    pub model_name_or_path: PathBuf,
    /// Weight in the sum.
    #[serde(default = "one")]
    pub weight: f64,
    /// The part of a completion that the model scores. Most reward models are trained on answers alone; one that was
    /// trained on responses with reasoning needs `whole`.
    #[serde(default)]
    pub reads: Reads,
    /// Clip the model's scores to this range, for instance `[-3.0, 3.0]`. It limits the effect of completions unlike
    /// those that the model was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<[f64; 2]>,
}

fn one() -> f64 {
    1.0
}

impl RewardModelReward {
    /// Makes the path of the model relative to the recipe's folder; a name stays a name.
    pub fn resolve_paths(&mut self, folder: &Path) {
        let path = folder.join(&self.model_name_or_path);
        if path.exists() {
            self.model_name_or_path = path;
        }
    }

    /// Replaces the name of the model by the path that `find` returns.
    ///
    /// # Errors
    /// That of `find`.
    pub fn find<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        self.model_name_or_path = find(&self.model_name_or_path.to_string_lossy())?;
        Ok(())
    }
}

pub(super) struct ModelReward<E> {
    pub(super) scorer: RewardScorer<E>,
    pub(super) clip: Option<[f64; 2]>,
}

impl<E: Engine> RewardFunction for ModelReward<E> {
    fn name(&self) -> &'static str {
        "reward_model"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        let responses: Vec<[Message; 1]> =
            completions.iter().map(|completion| [Message::new(Role::Assistant, completion.text)]).collect();
        let asked: Vec<(&Conversation, &[Message])> = completions
            .iter()
            .zip(&responses)
            .map(|(completion, response)| (completion.prompt, &response[..]))
            .collect();
        let failed = |detail: String| Unscored::new(UnscoredReason::Failed, detail);
        match self.scorer.score(&asked) {
            Ok(scores) => scores
                .into_iter()
                .map(|score| match (score, self.clip) {
                    (Ok(score), Some([low, high])) => Ok(score.clamp(low, high)),
                    (score, _) => score.map_err(failed),
                })
                .collect(),
            Err(error) => completions.iter().map(|_| Err(failed(error.to_string()))).collect(),
        }
    }
    /// Its scores have no lowest one.
    fn score_without_answer(&mut self, _: &Completion<'_>) -> Result<f64, Unscored> {
        let detail = "the reasoning was never closed, so there is no answer to score";
        Err(Unscored::new(UnscoredReason::Unparsed, detail))
    }
}
