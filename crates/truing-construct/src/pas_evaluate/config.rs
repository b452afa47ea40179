//! The settings of an evaluation of complements.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::pas::Complementer;
use truing_ask::{ChatModelConfig, judging};
use truing_data::{OnBadRow, SourceConfig};
use truing_run::checks::{require_counts, require_data, require_not_negative, require_output_dir};
use truing_run::{Recipe, recipe};
use truing_types::{PromptRow, StageName};

use crate::StageError;

/// One flat table, then `[[data]]`, `[complementer]`, `[target]` and `[judge]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PasEvaluateConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// Output folder of the run.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of the data are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Random seed of the replies.
    pub seed: u64,
    /// Column with the category of a prompt, for the results by category. `a.b` names nested fields.
    pub category_column: String,
    /// Sampling temperature of the target's replies; 0 decodes greedily.
    pub temperature: f32,
    /// Maximum tokens of a reply of the target. A reply that is cut there is evaluated as it is.
    pub max_new_tokens: usize,
    /// Maximum tokens of a complement. A complement that is cut there is not used.
    pub max_complement_tokens: usize,
    /// Maximum tokens of a reply of the judge, reasoning included.
    pub max_judge_tokens: usize,
    /// Maximum requests for one verdict: an unreadable reply is requested again.
    #[serde(alias = "most_replies")]
    #[schemars(extend("x-aliases" = ["most_replies"]))]
    pub max_attempts: usize,
    /// A model is no longer used after this many consecutive failures.
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_failures_in_a_row: usize,
    /// What to do with invalid rows: rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// The prompts, each a single turn. Rows with `instruction_id_list` and `kwargs` are checked as IFEval does.
    pub data: Vec<SourceConfig>,
    /// The complement model. Default of its `cache`: `replies.sqlite` in `output_dir`.
    pub complementer: ChatModelConfig,
    /// The model that answers.
    pub target: ChatModelConfig,
    /// The model that compares replies to prompts without instructions. Without it they are not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<ChatModelConfig>,
}

impl Default for PasEvaluateConfig {
    fn default() -> Self {
        Self {
            stage: StageName::PasEvaluate,
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            category_column: "category".into(),
            temperature: 0.0,
            max_new_tokens: 1024,
            max_complement_tokens: Complementer::MAX_NEW_TOKENS,
            max_judge_tokens: 2048,
            max_attempts: 2,
            max_failures_in_a_row: 20,
            on_bad_row: OnBadRow::default(),
            data: Vec::new(),
            complementer: ChatModelConfig::default(),
            target: ChatModelConfig::default(),
            judge: None,
        }
    }
}

impl Recipe for PasEvaluateConfig {
    const STAGES: &'static [StageName] = &[StageName::PasEvaluate];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        self.models().for_each(|model| model.resolve_paths(folder));
    }

    /// Models without a cache share one in `output_dir`.
    fn fill_in(&mut self) {
        let folder = self.output_dir.clone();
        judging::share_cache(self.models(), &folder);
    }

    fn find_data<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>) -> Result<(), E> {
        let sources = self.data.iter_mut();
        recipe::find_sources(sources.map(|source| &mut source.path), &self.data_dir, find)
    }

    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        self.models().try_for_each(|model| model.find(find))
    }
}

impl PasEvaluateConfig {
    fn models(&mut self) -> impl Iterator<Item = &mut ChatModelConfig> {
        [&mut self.complementer, &mut self.target].into_iter().chain(&mut self.judge)
    }

    /// Complementer and target, then the judge if there is one.
    pub(super) fn chat_models(&self) -> Vec<&ChatModelConfig> {
        [&self.complementer, &self.target].into_iter().chain(&self.judge).collect()
    }

    /// Checks everything that can be checked without the prompts.
    ///
    /// # Errors
    /// When a setting is missing or invalid.
    pub fn check(&self) -> Result<(), StageError> {
        require_output_dir(&self.output_dir, "a folder for the results")?;
        require_data(&self.data)?;
        require_counts([
            ("max_new_tokens", self.max_new_tokens),
            ("max_complement_tokens", self.max_complement_tokens),
            ("max_judge_tokens", self.max_judge_tokens),
            ("max_attempts", self.max_attempts),
            ("max_failures_in_a_row", self.max_failures_in_a_row),
        ])?;
        require_not_negative("temperature", self.temperature)?;
        self.data.iter().try_for_each(|source| source.in_folder(&self.data_dir).check_as::<PromptRow>())?;
        self.complementer.check("complementer")?;
        self.target.check("target")?;
        Ok(self.judge.iter().try_for_each(|model| model.check("judge"))?)
    }
}
