//! The rewards of a recipe, ready to score: verifiers, a reward model, a judge.

use std::path::Path;
use std::sync::Arc;

use truing_ask::OpenChatModel;
use truing_client::Counts;
use truing_model::Engine;
use truing_predict::RewardScorer;
use truing_reward::Rewards;
use truing_reward::judge::Judge;
use truing_run::RunError;
use truing_text::RenderOptions;
use truing_types::{EventSink, ReasoningMarks};

use super::GrpoConfig;
use super::judge_reward::JudgeReward;
use super::model_reward::ModelReward;
use crate::StageError;

/// What rewards are opened with.
#[derive(Debug)]
pub struct RewardResources<'a> {
    /// How the chat template of a reward model is rendered.
    pub render: RenderOptions,
    /// What opens and closes reasoning.
    pub marks: ReasoningMarks,
    /// Threads of a reward model.
    pub n_threads: usize,
    /// A program that answers to the sandbox's child arguments; needed for rewards that run code.
    pub sandbox_program: Option<&'a Path>,
}

/// The sum of a recipe's `[[reward]]`, `[reward_model]` and `[judge]`.
pub struct OpenedRewards {
    /// The rewards.
    pub rewards: Rewards,
    /// Requests to the judge, where there is one.
    pub judge_counts: Option<Arc<Counts>>,
}

impl OpenedRewards {
    /// Opens them. `judge` is the model of the recipe's `[judge]`.
    ///
    /// # Errors
    /// When a setting is invalid, the reward model cannot be loaded, or there is a judge without a model or the other way
    /// round.
    pub fn open<E: Engine + 'static>(
        config: &GrpoConfig,
        judge: Option<OpenChatModel>,
        resources: RewardResources<'_>,
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        if config.judge.is_some() != judge.is_some() {
            let expected = "the model of the recipe's [judge], and none where there is no such table";
            return Err(RunError::MissingSetting { key: "judge", expected }.into());
        }
        let RewardResources { render, marks, n_threads, sandbox_program } = resources;
        let mut rewards = Rewards::new(&config.reward, sandbox_program)?;
        rewards.set_reasoning_marks(marks);
        if let Some(settings) = &config.reward_model {
            let scorer = RewardScorer::<E>::open(&settings.model_name_or_path, render, n_threads, events)?;
            let function = ModelReward { scorer, clip: settings.clip };
            rewards.add(None, settings.weight, &[], false, settings.reads, Box::new(function))?;
        }
        let mut judge_counts = None;
        if let (Some(settings), Some(OpenChatModel { model, counts })) = (&config.judge, judge) {
            let function = Box::new(Judge::new(settings.verdict.clone(), model)?);
            let JudgeReward { weight, sources, optional, reads, .. } = settings;
            rewards.add(None, *weight, sources, *optional, *reads, function)?;
            judge_counts = Some(counts);
        }
        Ok(Self { rewards, judge_counts })
    }
}
