//! The settings of a search for a merge.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::ChatModelConfig;
use truing_model::merge::MergeRecipe;
use truing_model::{ModelFiles, SaveDtype};
use truing_run::checks::{require_counts, require_output_dir};
use truing_run::{Recipe, RunError, inputs, recipe};
use truing_store::RunInputs;
use truing_types::{StageName, nearest_name};

use super::candidates::{Candidate, SEARCHABLE};
use crate::StageError;
use crate::evaluate::{EvaluateConfig, TaskConfig};

/// What the best candidate maximises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The mean over the tasks of the main metric less that of the task's parent.
    #[default]
    Mean,
    /// The smallest of these differences.
    Worst,
}

/// One flat table, then `[[models]]` and `[[task]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MergeSearchConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// Output folder of the run.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of the tasks are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Random seed of candidates and of the split.
    pub seed: u64,
    /// The model that all others were trained from: a path or a name. Methods without a base do without.
    #[schemars(extend("x-decides" = "content"))]
    pub base_model: String,
    /// Methods of merging that are tried.
    pub methods: Vec<String>,
    /// Candidates of the first round, distributed round-robin over the methods.
    pub n_candidates: usize,
    /// Rounds of successive halving: after each but the last, the better half stays, with twice as many items.
    pub n_rounds: usize,
    /// Further candidates near the best one, with settings a step up or down, and smaller steps where nothing is
    /// better.
    pub n_refined: usize,
    /// Share of the items of each task that candidates are compared on. The others are seen once, by the chosen merge
    /// and its parents.
    pub search_share: f64,
    /// What the best candidate maximises.
    pub objective: Objective,
    /// Only the first items of each task: so many, or below 1 that share of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// Solved examples before each question, for all tasks without a number of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_fewshot: Option<usize>,
    /// Maximum tokens of an answer. Default: the benchmark's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Show prompts through the chat template. Default: if the models have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apply_chat_template: Option<bool>,
    /// How the merged models are stored. Default: as the inputs are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_dtype: Option<SaveDtype>,
    /// Where the vocabularies differ; see `tokenizer` of a merge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// The models to merge.
    pub models: Vec<SearchModel>,
    /// The benchmarks, without those that ask a judge.
    pub task: Vec<TaskConfig>,
}

/// A model to merge.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SearchModel {
    /// A path or a name.
    #[schemars(extend("x-decides" = "content"))]
    pub model: String,
    /// The task that it was trained for. The merge is compared with it there. Default: each task is that of the model
    /// with the highest score on the search items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ability: Option<String>,
}

impl Default for MergeSearchConfig {
    fn default() -> Self {
        Self {
            stage: StageName::MergeSearch,
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            base_model: String::new(),
            methods: ["linear", "task_arithmetic", "ties", "dare_ties", "model_stock"]
                .map(str::to_owned)
                .into(),
            n_candidates: 16,
            n_rounds: 3,
            n_refined: 6,
            search_share: 0.5,
            objective: Objective::Mean,
            limit: None,
            num_fewshot: None,
            max_new_tokens: None,
            apply_chat_template: None,
            save_dtype: None,
            tokenizer: None,
            models: Vec::new(),
            task: Vec::new(),
        }
    }
}

impl MergeSearchConfig {
    /// Checks the settings before any file is read.
    pub(super) fn check(&self) -> Result<(), StageError> {
        let bad = |key, found: String, expected: &str| {
            Err(RunError::BadSetting { key, found, expected: expected.into() }.into())
        };
        require_output_dir(&self.output_dir, "a folder for the search")?;
        if self.models.len() < 2 || self.models.iter().any(|model| model.model.is_empty()) {
            return bad("models", format!("{} models", self.models.len()), "at least two, each with `model`");
        }
        if self.methods.is_empty() {
            return bad("methods", "none".into(), "at least one method");
        }
        for method in &self.methods {
            let Some(known) = SEARCHABLE.iter().find(|known| known.name == method) else {
                let names = SEARCHABLE.iter().map(|known| known.name);
                let nearest = nearest_name(method, names).unwrap_or("linear");
                return bad(
                    "methods",
                    format!("`{method}`"),
                    &format!("a method that can be searched, such as `{nearest}`"),
                );
            };
            if known.needs_base && self.base_model.is_empty() {
                return bad(
                    "base_model",
                    "none".into(),
                    &format!("the model that `{method}` takes deltas from"),
                );
            }
            if known.needs_two && self.models.len() != 2 {
                let found = format!("`{method}` with {} models", self.models.len());
                return bad("methods", found, "exactly two models for this method");
            }
        }
        for model in &self.models {
            if let Some(ability) = &model.ability
                && !self.task.iter().any(|task| task.name() == ability)
            {
                return bad("models.ability", format!("`{ability}`"), "the name of one of the tasks");
            }
        }
        if !(self.search_share > 0.0 && self.search_share < 1.0) {
            return bad("search_share", self.search_share.to_string(), "a share between 0 and 1");
        }
        require_counts([("n_candidates", self.n_candidates), ("n_rounds", self.n_rounds)])?;
        for task in &self.task {
            let benchmark = task.benchmark()?;
            if benchmark.get().needs_judge() {
                let found = format!("`{}`, which needs a judge", task.name());
                return bad("task.name", found, "a benchmark that is scored by a program or by likelihoods");
            }
        }
        self.evaluation(self.output_dir.clone(), Path::new(&self.models[0].model)).check()
    }

    /// The evaluation of one model.
    pub(super) fn evaluation(&self, folder: PathBuf, model: &Path) -> EvaluateConfig {
        EvaluateConfig {
            output_dir: folder,
            data_dir: self.data_dir.clone(),
            seed: self.seed,
            limit: self.limit,
            num_fewshot: self.num_fewshot,
            max_new_tokens: self.max_new_tokens,
            apply_chat_template: self.apply_chat_template,
            model: ChatModelConfig {
                model_name_or_path: Some(model.to_path_buf()),
                ..ChatModelConfig::default()
            },
            task: self.task.clone(),
            ..EvaluateConfig::default()
        }
    }

    /// The recipe of a candidate's merge.
    pub(super) fn merge_recipe(&self, candidate: &Candidate) -> Result<MergeRecipe, StageError> {
        let models: Vec<&str> = self.models.iter().map(|model| model.model.as_str()).collect();
        let base = Some(self.base_model.as_str()).filter(|base| !base.is_empty());
        candidate.recipe(&models, base, self.save_dtype, self.tokenizer.as_deref())
    }

    /// Versions, seed and digests of the models' files and of all data.
    pub(super) fn record(&self) -> Result<RunInputs, RunError> {
        let mut files: Vec<(&str, PathBuf)> = Vec::new();
        let base = Some(&self.base_model).filter(|base| !base.is_empty());
        for model in self.models.iter().map(|model| &model.model).chain(base) {
            let of_model = inputs::model_files(&ModelFiles::open(Path::new(model))?);
            files.extend(of_model.into_iter().map(|path| ("model", path)));
        }
        for (role, path) in self.task.iter().flat_map(TaskConfig::paths) {
            let path = self.data_dir.join(path);
            let of_path = if path.is_dir() { truing_data::data_files(&path)? } else { vec![path] };
            files.extend(of_path.into_iter().map(|path| (role, path)));
        }
        inputs::run_inputs(self.stage, self.seed, files)
    }
}

impl Recipe for MergeSearchConfig {
    const STAGES: &'static [StageName] = &[StageName::MergeSearch];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        recipe::resolve_model(&mut self.base_model, folder);
        self.models.iter_mut().for_each(|model| recipe::resolve_model(&mut model.model, folder));
        self.task.iter_mut().for_each(|task| task.resolve_paths(folder));
    }

    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        recipe::find_model(&mut self.base_model, find)?;
        self.models.iter_mut().try_for_each(|model| recipe::find_model(&mut model.model, find))
    }

    fn find_data<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>) -> Result<(), E> {
        let data_dir = self.data_dir.clone();
        for task in &mut self.task {
            task.find_data(&data_dir, find)?;
        }
        Ok(())
    }
}
