//! The rewards of a recipe, ready to score: verifiers, a reward model, a judge. GRPO trains on them, `truing respond`
//! selects responses by them.

mod judge_reward;
mod model_reward;

pub use judge_reward::JudgeReward;
pub use model_reward::RewardModelReward;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use truing_ask::OpenChatModel;
use truing_client::Counts;
use truing_model::{Engine, ModelFiles};
use truing_predict::RewardScorer;
use truing_reward::judge::Judge;
use truing_reward::{RewardConfig, Rewards, is_source};
use truing_run::{RunError, inputs};
use truing_text::RenderOptions;
use truing_types::{EventSink, ReasoningMarks, RowOrigin};

use crate::StageError;
use model_reward::ModelReward;

/// The three kinds of table of a recipe that rewards are made of. Their weighted sum is the reward.
#[derive(Debug, Clone, Copy)]
pub struct RewardTables<'a> {
    /// `[[reward]]`: what a program computes.
    pub reward: &'a [RewardConfig],
    /// `[reward_model]`.
    pub reward_model: Option<&'a RewardModelReward>,
    /// `[judge]`.
    pub judge: Option<&'a JudgeReward>,
}

impl RewardTables<'_> {
    /// Whether there is no reward at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reward.is_empty() && self.reward_model.is_none() && self.judge.is_none()
    }

    /// Checks the settings, without models and rows.
    ///
    /// # Errors
    /// When a setting is missing or invalid.
    pub fn check(&self) -> Result<(), StageError> {
        Rewards::check(self.reward)?;
        if let Some(judge) = self.judge {
            judge.verdict.check()?;
            judge.model.check("judge.model")?;
        }
        Ok(())
    }

    /// Refuses an entry of a reward's `sources` that means none of the `known` files: its rows would silently get no
    /// reward. `tables` names the recipe's tables of data, for the message.
    ///
    /// # Errors
    /// When there is such an entry.
    pub fn check_sources(&self, known: &BTreeSet<String>, tables: &str) -> Result<(), RunError> {
        let rewards =
            self.reward.iter().flat_map(|reward| &reward.sources).map(|entry| ("reward.sources", entry));
        let judge = self.judge.iter().flat_map(|judge| &judge.sources).map(|entry| ("judge.sources", entry));
        match rewards.chain(judge).find(|(_, entry)| !known.iter().any(|path| is_source(path, entry))) {
            None => Ok(()),
            Some((key, entry)) => {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                let expected = format!(
                    "the name of a file of {tables}, or the end of its path in whole folders: {}",
                    known.join(", ")
                );
                Err(RunError::BadSetting { key, found: entry.clone(), expected })
            }
        }
    }

    /// Refuses a row that a reward applies to and will never score.
    ///
    /// # Errors
    /// When it is one.
    pub fn check_row(&self, columns: &Map<String, Value>, origin: &RowOrigin) -> Result<(), StageError> {
        Ok(self.reward.iter().try_for_each(|reward| reward.check_row(columns, origin))?)
    }

    /// The files of the reward model, of a judge in this process and of the `[[reward]]` tables, with their roles in a
    /// run's record.
    ///
    /// # Errors
    /// When a model cannot be opened.
    pub fn files(&self) -> Result<Vec<(&'static str, PathBuf)>, StageError> {
        let reward_model = self.reward_model.map(|settings| ("reward_model", &settings.model_name_or_path));
        let judge = self.judge.and_then(|judge| judge.model.model_name_or_path.as_ref());
        let mut files = Vec::new();
        for (role, path) in reward_model.into_iter().chain(judge.map(|path| ("judge", path))) {
            let of_model = inputs::model_files(&ModelFiles::open(path)?);
            files.extend(of_model.into_iter().map(|path| (role, path)));
        }
        let of_rewards = self.reward.iter().filter_map(RewardConfig::file);
        files.extend(of_rewards.map(|path| ("reward", path.to_path_buf())));
        Ok(files)
    }
}

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
    /// When a setting is invalid, the reward model cannot be loaded, or there is a judge without a model or the other
    /// way round.
    pub fn open<E: Engine + 'static>(
        tables: RewardTables<'_>,
        judge: Option<OpenChatModel>,
        resources: RewardResources<'_>,
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        if tables.judge.is_some() != judge.is_some() {
            let expected = "the model of the recipe's [judge], and none where there is no such table";
            return Err(RunError::MissingSetting { key: "judge", expected }.into());
        }
        let RewardResources { render, marks, n_threads, sandbox_program } = resources;
        let mut rewards = Rewards::new(tables.reward, sandbox_program)?;
        rewards.set_reasoning_marks(marks);
        if let Some(settings) = tables.reward_model {
            let scorer = RewardScorer::<E>::open(&settings.model_name_or_path, render, n_threads, events)?;
            let function = ModelReward { scorer, clip: settings.clip };
            rewards.add(None, settings.weight, &[], false, settings.reads, Box::new(function))?;
        }
        let mut judge_counts = None;
        if let (Some(settings), Some(OpenChatModel { model, counts })) = (tables.judge, judge) {
            let function = Box::new(Judge::new(settings.verdict.clone(), model)?);
            let JudgeReward { weight, sources, optional, reads, .. } = settings;
            rewards.add(None, *weight, sources, *optional, *reads, function)?;
            judge_counts = Some(counts);
        }
        Ok(Self { rewards, judge_counts })
    }
}
