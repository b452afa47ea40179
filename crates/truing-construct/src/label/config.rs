//! The settings of a labelling run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::labels::LabelForm;
use truing_ask::{ChatModelConfig, judging};
use truing_data::{OnBadRow, SourceConfig};
use truing_run::checks::{require_counts, require_data, require_not_negative, require_output_dir};
use truing_run::{Recipe, RunError, recipe};
use truing_types::{PromptRow, StageName};

use crate::StageError;

/// One flat table, then `[columns]`, `[[data]]` and `[[judge]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LabelConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// Output folder of the run.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of the data are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Random seed of the judges' samples.
    pub seed: u64,
    /// TOML file of the label set. Default: the bundled one, `recipes/data/labels.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub label_set: Option<PathBuf>,
    /// Dimensions to label. Default: all of the set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dimensions: Vec<String>,
    /// What to do with a label in the data that is not in the label set.
    pub on_unknown_label: OnUnknownLabel,
    /// Also ask the judges for labels that the data already has, to measure their accuracy.
    pub compare: bool,
    /// A corrected copy of `review.jsonl`. Its labels take precedence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "content"))]
    pub corrections: Option<PathBuf>,
    /// One call per dimension: more calls, each easier for small judges.
    pub per_dimension: bool,
    /// Samples per judge and call.
    pub n_votes: usize,
    /// Sampling temperature with `n_votes` of 2 or more. A single sample is decoded greedily.
    pub temperature: f32,
    /// Rows with a dimension below this confidence are listed in `review.jsonl`.
    #[schemars(extend("x-decides" = "outcome"))]
    pub min_confidence: f64,
    /// Labels of fewer prompts are listed as the long tail.
    #[schemars(extend("x-decides" = "outcome"))]
    pub min_count: usize,
    /// Longer prompts are shown to the judges with the middle cut out.
    pub max_prompt_characters: usize,
    /// Prompt template that replaces the built-in one. It contains `{prompt}`, `{dimensions}` and `{form}`.
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
    /// What to do with invalid rows: rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// Dimensions whose labels are already columns of the data: `{ ability = "category" }`. `a.b` names nested fields.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// The prompts.
    pub data: Vec<SourceConfig>,
    /// The judges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub judge: Vec<LabelJudge>,
}

/// A label in the data that the set does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknownLabel {
    /// Stop with an error that names the row and the nearest label.
    #[default]
    Error,
    /// Add it to the label set, also in the judges' prompts.
    Add,
}

/// One judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LabelJudge {
    /// Name in the summary. Default: the model's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Weight of its votes.
    #[schemars(extend("x-decides" = "outcome"))]
    pub weight: f64,
    /// The model. Default of its `cache`: `replies.sqlite` in `output_dir`.
    pub model: ChatModelConfig,
}

impl Default for LabelJudge {
    fn default() -> Self {
        Self { name: None, weight: 1.0, model: ChatModelConfig::default() }
    }
}

impl LabelJudge {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.model.name())
    }
}

impl Default for LabelConfig {
    fn default() -> Self {
        Self {
            stage: StageName::Label,
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            label_set: None,
            dimensions: Vec::new(),
            on_unknown_label: OnUnknownLabel::default(),
            compare: false,
            corrections: None,
            per_dimension: false,
            n_votes: 3,
            temperature: 0.7,
            min_confidence: 0.6,
            min_count: 10,
            max_prompt_characters: 6000,
            prompt: None,
            max_new_tokens: 300,
            max_attempts: 2,
            max_failures_in_a_row: 20,
            on_bad_row: OnBadRow::default(),
            columns: BTreeMap::new(),
            data: Vec::new(),
            judge: Vec::new(),
        }
    }
}

impl Recipe for LabelConfig {
    const STAGES: &'static [StageName] = &[StageName::Label];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        for path in self.label_set.iter_mut().chain(&mut self.corrections) {
            *path = folder.join(&*path);
        }
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

impl LabelConfig {
    /// Checks everything that can be checked without the label set and the prompts.
    ///
    /// # Errors
    /// When a setting is missing or invalid.
    pub fn check(&self) -> Result<(), StageError> {
        let bad = |key, found: String, expected: &str| {
            Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into())
        };
        let missing = |key, expected| Err(RunError::MissingSetting { key, expected }.into());
        require_output_dir(&self.output_dir, "a folder for the labels")?;
        require_data(&self.data)?;
        if self.judge.is_empty() && (self.columns.is_empty() || self.compare) {
            return missing("judge", "at least one [[judge]] table with a `model`; or `columns` with labels");
        }
        require_counts([
            ("n_votes", self.n_votes),
            ("max_prompt_characters", self.max_prompt_characters),
            ("max_new_tokens", self.max_new_tokens),
            ("max_attempts", self.max_attempts),
            ("max_failures_in_a_row", self.max_failures_in_a_row),
        ])?;
        if !(0.0..=1.0).contains(&self.min_confidence) {
            return bad("min_confidence", self.min_confidence.to_string(), "a number from 0 to 1");
        }
        require_not_negative("temperature", self.temperature)?;
        let is_drawn = self.temperature.is_finite() && self.temperature > 0.0;
        if self.n_votes > 1 && !is_drawn {
            let expected = "above 0: several votes of a judge are sampled";
            return bad("temperature", self.temperature.to_string(), expected);
        }
        if self.compare && self.columns.is_empty() {
            return missing("columns", "the columns with labels that `compare` compares with");
        }
        if let Some(placeholder) = self.prompt.as_ref().and_then(|prompt| missing_place(prompt)) {
            let expected = "`{prompt}`, `{dimensions}` and `{form}`";
            return bad("prompt", format!("missing the placeholder `{placeholder}`"), expected);
        }
        if self
            .corrections
            .as_ref()
            .is_some_and(|path| is_same_file(path, &self.output_dir.join(crate::files::REVIEW)))
        {
            let expected = "a copy somewhere else: the run writes its own `review.jsonl` there";
            return bad("corrections", "the review file of this very run".into(), expected);
        }
        if let Some(judge) = self.judge.iter().find(|judge| !(judge.weight.is_finite() && judge.weight > 0.0))
        {
            return bad("judge.weight", judge.weight.to_string(), "a number above 0");
        }
        judging::check_names(&self.judge.iter().map(LabelJudge::name).collect::<Vec<_>>())?;
        self.data.iter().try_for_each(|source| source.in_folder(&self.data_dir).check_as::<PromptRow>())?;
        Ok(self.judge.iter().try_for_each(|judge| judge.model.check("judge.model"))?)
    }

    /// How judges are asked.
    pub(super) fn form(&self) -> LabelForm<'_> {
        LabelForm {
            prompt: self.prompt.as_deref(),
            max_prompt_characters: self.max_prompt_characters,
            n_votes: self.n_votes,
            temperature: self.temperature,
            seed: self.seed,
            max_new_tokens: self.max_new_tokens,
        }
    }
}

fn missing_place(prompt: &str) -> Option<&'static str> {
    ["{prompt}", "{dimensions}", "{form}"].into_iter().find(|place| !prompt.contains(place))
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}
