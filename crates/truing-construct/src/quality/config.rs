//! The settings of a quality run.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::quality::{Calls, ComparisonForm, Dimension};
use truing_ask::{ChatModelConfig, judging};
use truing_data::{OnBadRow, SourceConfig};
use truing_run::checks::{require_counts, require_data, require_given, require_output_dir, require_positive};
use truing_run::{Recipe, RunError, recipe};
use truing_types::{PromptRow, StageName};

use crate::StageError;

/// One flat table, then `[[data]]` and `[[judge]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QualityConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// Output folder of the run.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of the data are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Random seed of the choice of anchors.
    pub seed: u64,
    /// Anchors per bucket (report: 30).
    pub n_anchors: usize,
    /// Column with the bucket of a prompt. Paths such as `labels.ability` name nested fields. Rows without a value form
    /// one bucket.
    pub bucket_column: String,
    /// Dimensions to compare.
    pub dimensions: Vec<Dimension>,
    /// One call for all dimensions, or one per dimension.
    pub calls: Calls,
    /// Prompt template that replaces the built-in one. It contains `{first}`, `{second}` and `{dimensions}`, and asks
    /// for `name: [[A]]`, `[[B]]` or `[[C]]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Maximum tokens of a reply, reasoning included.
    pub max_new_tokens: usize,
    /// Maximum requests for one answer: an unreadable reply is requested again.
    #[serde(alias = "most_replies")]
    #[schemars(extend("x-aliases" = ["most_replies"]))]
    pub max_attempts: usize,
    /// A judge is no longer used after this many consecutive failures or unreadable replies.
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_failures_in_a_row: usize,
    /// Standard deviation of the prior on strengths, in log-odds. With 2, the best prompt of a bucket wins about 98 of
    /// 100 comparisons.
    #[schemars(extend("x-decides" = "outcome"))]
    pub prior_deviation: f64,
    /// What to do with invalid rows: rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// The prompts.
    pub data: Vec<SourceConfig>,
    /// The judges.
    pub judge: Vec<QualityJudge>,
}

/// One judge.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QualityJudge {
    /// Name in the summary. Default: the model's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The model. Default of its `cache`: `replies.sqlite` in `output_dir`.
    pub model: ChatModelConfig,
}

impl QualityJudge {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.model.name())
    }
}

impl Default for QualityConfig {
    fn default() -> Self {
        Self {
            stage: StageName::Quality,
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            n_anchors: 30,
            bucket_column: "bucket".into(),
            dimensions: Dimension::ALL.to_vec(),
            calls: Calls::default(),
            prompt: None,
            max_new_tokens: 400,
            max_attempts: 2,
            max_failures_in_a_row: 20,
            prior_deviation: 2.0,
            on_bad_row: OnBadRow::default(),
            data: Vec::new(),
            judge: Vec::new(),
        }
    }
}

impl Recipe for QualityConfig {
    const STAGES: &'static [StageName] = &[StageName::Quality];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        self.judge.iter_mut().for_each(|judge| judge.model.resolve_paths(folder));
    }

    /// Judges without a cache share one in `output_dir`.
    fn fill_in(&mut self) {
        judging::share_cache(self.judge.iter_mut().map(|judge| &mut judge.model), &self.output_dir);
    }

    fn find_data<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>) -> Result<(), E> {
        let sources = self.data.iter_mut();
        recipe::find_sources(sources.map(|source| &mut source.path), &self.data_dir, find)
    }

    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        self.judge.iter_mut().try_for_each(|judge| {
            // The summary calls a judge by the name that the recipe gives its model.
            judge.name.get_or_insert(judge.model.name());
            judge.model.find(find)
        })
    }
}

impl QualityConfig {
    /// How judges are asked.
    pub(super) fn form(&self) -> ComparisonForm<'_> {
        ComparisonForm {
            dimensions: &self.dimensions,
            calls: self.calls,
            prompt: self.prompt.as_deref(),
            max_new_tokens: self.max_new_tokens,
        }
    }

    /// Checks everything that can be checked without the prompts.
    ///
    /// # Errors
    /// When a setting is missing or invalid.
    pub fn check(&self) -> Result<(), StageError> {
        let bad = |key, found: String, expected: &str| {
            Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into())
        };
        require_output_dir(&self.output_dir, "a folder for the scores")?;
        require_data(&self.data)?;
        require_given(!self.judge.is_empty(), "judge", "at least one [[judge]] table with a `model`")?;
        require_counts([
            ("n_anchors", self.n_anchors),
            ("max_new_tokens", self.max_new_tokens),
            ("max_attempts", self.max_attempts),
            ("max_failures_in_a_row", self.max_failures_in_a_row),
        ])?;
        require_positive("prior_deviation", self.prior_deviation)?;
        let mut dimensions = self.dimensions.clone();
        dimensions.sort_unstable();
        dimensions.dedup();
        if dimensions.is_empty() || dimensions.len() < self.dimensions.len() {
            return bad(
                "dimensions",
                format!("{:?}", self.dimensions),
                "each dimension at most once, and at least one",
            );
        }
        if let Some(prompt) = &self.prompt
            && let Some(placeholder) =
                ["{first}", "{second}", "{dimensions}"].into_iter().find(|p| !prompt.contains(p))
        {
            return bad(
                "prompt",
                format!("missing the placeholder `{placeholder}`"),
                "`{first}`, `{second}` and `{dimensions}`",
            );
        }
        let names: Vec<String> = self.judge.iter().map(QualityJudge::name).collect();
        judging::check_names(&names)?;
        self.data.iter().try_for_each(|source| source.in_folder(&self.data_dir).check_as::<PromptRow>())?;
        Ok(self.judge.iter().try_for_each(|judge| judge.model.check("judge.model"))?)
    }
}
