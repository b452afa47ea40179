//! The settings of a run that makes pairs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::{ChatModelConfig, judging};
use truing_data::{OnBadRow, SourceConfig};
use truing_run::checks::{require_counts, require_data, require_not_negative, require_output_dir};
use truing_run::{Recipe, RunError, recipe};
use truing_types::{PromptRow, StageName};

use crate::StageError;

/// One flat table, then `[category_names]`, `[keep]`, `[[data]]`, `[generator]` and `[critic_model]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PasConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// Output folder of the run.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of the data are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Random seed of the complements, and of the sampling of prompts without selection.
    pub seed: u64,
    /// JSON Lines file of golden pairs: `category`, `language` (`en` or `zh`), `prompt`, `complement`. Default: the
    /// bundled one, `recipes/data/pas_golden.jsonl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub golden_pairs: Option<PathBuf>,
    /// JSON Lines file of worked cases for the critic. Default: the bundled one, `recipes/data/pas_critic_cases.jsonl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub critic_cases: Option<PathBuf>,
    /// Golden pairs shown for one complement.
    pub n_examples: usize,
    /// Whether prompts are selected by `min_score` and `keep`. If false, as many prompts as they would keep are sampled
    /// at random (ablation).
    pub selection: bool,
    /// Column with the quality of a prompt, for instance `quality.win_rate` of `truing quality`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_column: Option<String>,
    /// Minimum of `score_column`. Prompts without a score are dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    /// Column with the category of a prompt: the identifier of a category of the golden pairs, or a name in
    /// `category_names`. For prompts without one, the generator assigns it. `a.b` names nested fields.
    pub category_column: String,
    /// Longer prompts are dropped.
    pub max_prompt_characters: usize,
    /// Whether complements are reviewed by the critic. If false, all are kept (ablation).
    pub critic: bool,
    /// How often a rejected complement is written again.
    pub max_regenerations: usize,
    /// Use the critic's correction if every complement of a prompt was rejected. If false, the prompt is dropped.
    pub use_corrections: bool,
    /// Keep a complement for which the critic gave no readable verdict.
    pub keep_unreviewed: bool,
    /// Sampling temperature of the complements.
    pub temperature: f32,
    /// Maximum tokens of a reply, reasoning included.
    pub max_new_tokens: usize,
    /// Maximum requests for one answer: an unreadable reply is requested again.
    #[serde(alias = "most_replies")]
    #[schemars(extend("x-aliases" = ["most_replies"]))]
    pub max_attempts: usize,
    /// A model is no longer used after this many consecutive failures.
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_failures_in_a_row: usize,
    /// What to do with invalid rows: rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// Categories of other names in `category_column`: `{ Coding = "code" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub category_names: BTreeMap<String, String>,
    /// Keep only prompts with one of these values in a column: `{ "labels.difficulty" = ["easy", "medium"] }`. If the
    /// column holds a list, one of its values suffices.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keep: BTreeMap<String, Vec<String>>,
    /// The pool of prompts, for instance the output of `truing select`, `truing label` or `truing quality`.
    pub data: Vec<SourceConfig>,
    /// The model that writes complements. Default of its `cache`: `replies.sqlite` in `output_dir`.
    pub generator: ChatModelConfig,
    /// The model that reviews them. Default: the generator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critic_model: Option<ChatModelConfig>,
}

impl Default for PasConfig {
    fn default() -> Self {
        Self {
            stage: StageName::Pas,
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            golden_pairs: None,
            critic_cases: None,
            n_examples: 5,
            selection: true,
            score_column: None,
            min_score: None,
            category_column: "category".into(),
            max_prompt_characters: 6000,
            critic: true,
            max_regenerations: 2,
            use_corrections: true,
            keep_unreviewed: true,
            temperature: 0.7,
            max_new_tokens: 400,
            max_attempts: 3,
            max_failures_in_a_row: 20,
            on_bad_row: OnBadRow::default(),
            category_names: BTreeMap::new(),
            keep: BTreeMap::new(),
            data: Vec::new(),
            generator: ChatModelConfig::default(),
            critic_model: None,
        }
    }
}

impl Recipe for PasConfig {
    const STAGES: &'static [StageName] = &[StageName::Pas];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        for path in self.golden_pairs.iter_mut().chain(&mut self.critic_cases) {
            *path = folder.join(&*path);
        }
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

impl PasConfig {
    fn models(&mut self) -> impl Iterator<Item = &mut ChatModelConfig> {
        std::iter::once(&mut self.generator).chain(&mut self.critic_model)
    }

    /// The generator, then the critic if it is another model that is used.
    pub(super) fn chat_models(&self) -> Vec<&ChatModelConfig> {
        let critic = self.critic_model.as_ref().filter(|_| self.critic);
        std::iter::once(&self.generator).chain(critic).collect()
    }

    /// Checks everything that can be checked without the prompts and examples.
    ///
    /// # Errors
    /// When a setting is missing or invalid.
    pub fn check(&self) -> Result<(), StageError> {
        let bad = |key, found: String, expected: &str| {
            Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into())
        };
        let missing = |key, expected| Err(RunError::MissingSetting { key, expected }.into());
        require_output_dir(&self.output_dir, "a folder for the pairs")?;
        require_data(&self.data)?;
        require_counts([
            ("n_examples", self.n_examples),
            ("max_prompt_characters", self.max_prompt_characters),
            ("max_new_tokens", self.max_new_tokens),
            ("max_attempts", self.max_attempts),
            ("max_failures_in_a_row", self.max_failures_in_a_row),
        ])?;
        require_not_negative("temperature", self.temperature)?;
        if self.critic && self.max_regenerations > 0 && self.temperature == 0.0 {
            let expected = "above 0: without sampling, a rejected complement is written again as it was";
            return bad("temperature", "0".into(), expected);
        }
        match (&self.score_column, self.min_score) {
            (None, Some(_)) => return missing("score_column", "the column that `min_score` is a minimum of"),
            (Some(_), None) => return missing("min_score", "the minimum of `score_column`"),
            (_, Some(score)) if !score.is_finite() => {
                return bad("min_score", score.to_string(), "a finite number");
            }
            _ => {}
        }
        if let Some((column, _)) = self.keep.iter().find(|(_, values)| values.is_empty()) {
            return bad("keep", format!("an empty list for `{column}`"), "at least one value");
        }
        self.data.iter().try_for_each(|source| source.in_folder(&self.data_dir).check_as::<PromptRow>())?;
        self.generator.check("generator")?;
        Ok(self.critic_model.iter().try_for_each(|model| model.check("critic_model"))?)
    }
}
