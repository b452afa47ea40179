//! The settings of a builder's run.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::{ChatModelConfig, judging};
use truing_data::{OnBadRow, SourceConfig};
use truing_run::checks::{
    require, require_counts, require_data, require_given, require_not_negative, require_output_dir,
    require_share,
};
use truing_run::{Recipe, RunError, recipe};
use truing_stages::StageError;
use truing_types::{PromptRow, StageName};

use super::{
    BUILDERS, BackTranslationConfig, BuilderInfo, CodeConfig, CodeInterpreterConfig, ConstraintsConfig,
    MathematicsConfig, ReasoningConfig, ReversalConfig, RewriteConfig, SystemMessagesConfig, TextbookConfig,
    ToolsConfig,
};

/// Maximum number of rows of a run.
const MAX_ROWS: usize = 10_000_000;

/// One flat table, then the builder's own table (`[constraints]`, `[reasoning]`, ...), `[[data]]`,
/// `[[evaluation_data]]`, `[writer]` and `[checker]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BuildConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// The builder: `constraints`, `reversal`, `mathematics`, `system_messages`, `reasoning`, `textbook`,
    /// `code`, `tools`, `code_interpreter`, `back_translation` or `rewrite`; `truing build list` describes them.
    /// Required.
    pub ability: String,
    /// Output folder of the run.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of the data are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Random seed of all sampling.
    pub seed: u64,
    /// Number of rows to begin: of the seed rows the first, without `[[data]]` as many new ones. Default: every seed
    /// row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_rows: Option<usize>,
    /// Longer seed rows are dropped.
    pub max_prompt_characters: usize,
    /// Columns of the seed rows that built rows keep, for instance `["id", "labels.ability"]`. A name that the
    /// builder uses itself is not overwritten.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep_columns: Vec<String>,
    /// Sampling temperature of the writer, and of the independent answers of `reasoning` and `code_interpreter`.
    /// Otherwise the checker is asked at 0.
    pub temperature: f32,
    /// Maximum tokens of a reply, reasoning included.
    pub max_new_tokens: usize,
    /// Maximum requests for one answer: an unreadable reply is requested again.
    pub max_attempts: usize,
    /// A model is no longer used after this many consecutive failures.
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_failures_in_a_row: usize,
    /// Minimum Jaccard similarity of the prompts of two rows that are near duplicates. The later one is dropped.
    pub near_duplicate_threshold: f64,
    /// Maximum share of rows whose prompts are of one task template. The surplus is dropped.
    pub max_template_share: f64,
    /// What to do with invalid rows: rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// Settings of the builder `constraints`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraints: Option<ConstraintsConfig>,
    /// Settings of the builder `reversal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reversal: Option<ReversalConfig>,
    /// Settings of the builder `mathematics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mathematics: Option<MathematicsConfig>,
    /// Settings of the builder `system_messages`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_messages: Option<SystemMessagesConfig>,
    /// Settings of the builder `reasoning`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<ReasoningConfig>,
    /// Settings of the builder `textbook`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub textbook: Option<TextbookConfig>,
    /// Settings of the builder `code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeConfig>,
    /// Settings of the builder `tools`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<ToolsConfig>,
    /// Settings of the builder `code_interpreter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_interpreter: Option<CodeInterpreterConfig>,
    /// Settings of the builder `back_translation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_translation: Option<BackTranslationConfig>,
    /// Settings of the builder `rewrite`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<RewriteConfig>,
    /// The seed rows: prompts, texts, or problems and questions with answers.
    pub data: Vec<SourceConfig>,
    /// Evaluation data to decontaminate against, in addition to the evaluation sets in this repository.
    pub evaluation_data: Vec<SourceConfig>,
    /// The model that writes. Default of its `cache`: `replies.sqlite` in `output_dir`.
    pub writer: ChatModelConfig,
    /// The model that checks. Default: the writer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checker: Option<ChatModelConfig>,
}

impl Default for BuildConfig {
    fn default() -> Self {
        Self {
            stage: StageName::Build,
            ability: String::new(),
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            n_rows: None,
            max_prompt_characters: 6000,
            keep_columns: Vec::new(),
            temperature: 0.7,
            max_new_tokens: 2048,
            max_attempts: 3,
            max_failures_in_a_row: 20,
            near_duplicate_threshold: 0.8,
            max_template_share: 0.05,
            on_bad_row: OnBadRow::default(),
            constraints: None,
            reversal: None,
            mathematics: None,
            system_messages: None,
            reasoning: None,
            textbook: None,
            code: None,
            tools: None,
            code_interpreter: None,
            back_translation: None,
            rewrite: None,
            data: Vec::new(),
            evaluation_data: Vec::new(),
            writer: ChatModelConfig::default(),
            checker: None,
        }
    }
}

impl Recipe for BuildConfig {
    const STAGES: &'static [StageName] = &[StageName::Build];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        if let Some(path) = self.mathematics.as_mut().and_then(|one| one.knowledge_points.as_mut()) {
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
        let sources = self.data.iter_mut().chain(&mut self.evaluation_data);
        recipe::find_sources(sources.map(|source| &mut source.path), &self.data_dir, find)
    }

    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        self.models().try_for_each(|model| model.find(find))
    }
}

impl BuildConfig {
    fn models(&mut self) -> impl Iterator<Item = &mut ChatModelConfig> {
        std::iter::once(&mut self.writer).chain(&mut self.checker)
    }

    /// The writer, then the checker if it is another model.
    pub(super) fn chat_models(&self) -> Vec<&ChatModelConfig> {
        std::iter::once(&self.writer).chain(&self.checker).collect()
    }

    /// The builder that the recipe names.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn builder(&self) -> Result<&'static BuilderInfo, StageError> {
        let names = || BUILDERS.iter().map(|builder| format!("`{}`", builder.name)).collect::<Vec<_>>();
        if self.ability.is_empty() {
            let expected = "a builder, for instance `constraints`; `truing build list` describes them";
            return Err(RunError::MissingSetting { key: "ability", expected }.into());
        }
        BuilderInfo::find(&self.ability).ok_or_else(|| {
            let (found, expected) = (format!("`{}`", self.ability), format!("one of {}", names().join(", ")));
            RunError::BadSetting { key: "ability", found, expected }.into()
        })
    }

    /// Refuses a temperature of 0. `expected` says why sampling is needed.
    pub(super) fn require_sampling(&self, expected: &'static str) -> Result<(), RunError> {
        require(self.temperature != 0.0, || ("temperature", "0".to_owned(), expected))
    }

    /// Checks everything that can be checked without the seed rows.
    ///
    /// # Errors
    /// When a setting is missing or invalid.
    pub fn check(&self) -> Result<(), StageError> {
        let builder = self.builder()?;
        self.check_tables(builder.name)?;
        require_output_dir(&self.output_dir, "a folder for the rows")?;
        if builder.works_without_data {
            let expected = "the number of rows to make, where there is no [[data]]";
            require_given(!self.data.is_empty() || self.n_rows.is_some(), "n_rows", expected)?;
        } else {
            require_data(&self.data)?;
        }
        require_counts([
            ("n_rows", self.n_rows.unwrap_or(1)),
            ("max_prompt_characters", self.max_prompt_characters),
            ("max_new_tokens", self.max_new_tokens),
            ("max_attempts", self.max_attempts),
            ("max_failures_in_a_row", self.max_failures_in_a_row),
        ])?;
        let n_rows = self.n_rows.unwrap_or(1);
        require(n_rows <= MAX_ROWS, || ("n_rows", n_rows.to_string(), "at most 10000000"))?;
        require_not_negative("temperature", self.temperature)?;
        require_share("max_template_share", self.max_template_share)?;
        let threshold = self.near_duplicate_threshold;
        require(threshold > 0.0 && threshold <= 1.0, || {
            ("near_duplicate_threshold", threshold.to_string(), "above 0, at most 1")
        })?;
        let sources = self.data.iter().chain(&self.evaluation_data);
        for source in sources {
            source.in_folder(&self.data_dir).check_as::<PromptRow>()?;
        }
        self.writer.check("writer")?;
        Ok(self.checker.iter().try_for_each(|model| model.check("checker"))?)
    }

    /// The builder's own table, and no other's.
    fn check_tables(&self, ability: &str) -> Result<(), StageError> {
        let given = [
            ("constraints", self.constraints.is_some()),
            ("reversal", self.reversal.is_some()),
            ("mathematics", self.mathematics.is_some()),
            ("system_messages", self.system_messages.is_some()),
            ("reasoning", self.reasoning.is_some()),
            ("textbook", self.textbook.is_some()),
            ("code", self.code.is_some()),
            ("tools", self.tools.is_some()),
            ("code_interpreter", self.code_interpreter.is_some()),
            ("back_translation", self.back_translation.is_some()),
            ("rewrite", self.rewrite.is_some()),
        ];
        if let Some((key, _)) = given.into_iter().find(|(key, is_given)| *is_given && *key != ability) {
            let expected = format!("no such table, because `ability` is `{ability}`");
            return Err(RunError::BadSetting { key, found: "given".into(), expected }.into());
        }
        if let Some(constraints) = &self.constraints {
            constraints.check()?;
        }
        if let Some(reversal) = &self.reversal {
            reversal.check()?;
        }
        if let Some(mathematics) = &self.mathematics {
            mathematics.check()?;
        }
        if let Some(system_messages) = &self.system_messages {
            system_messages.check()?;
        }
        if let Some(reasoning) = &self.reasoning {
            reasoning.check()?;
        }
        if let Some(textbook) = &self.textbook {
            textbook.check()?;
        }
        if let Some(code) = &self.code {
            code.check()?;
        }
        if let Some(tools) = &self.tools {
            tools.check()?;
        }
        if let Some(code_interpreter) = &self.code_interpreter {
            code_interpreter.check()?;
        }
        if let Some(back_translation) = &self.back_translation {
            back_translation.check()?;
        }
        if let Some(rewrite) = &self.rewrite {
            rewrite.check()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_run::recipe::Scope;

    const RECIPE: &str = "stage = \"build\"\nability = \"mathematics\"\noutput_dir = \"o\"\nn_rows = 4\n\
        [mathematics]\nknowledge_points = \"points.toml\"\n\
        [writer.server]\nbase_url = \"http://127.0.0.1:9/v1\"\nmodel = \"m\"\n";

    fn read(changes: &[&str]) -> BuildConfig {
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        BuildConfig::from_toml(RECIPE, Path::new("/recipes/build.toml"), &changes).unwrap()
    }

    #[test]
    fn settings_declare_what_they_decide() {
        assert_eq!(BuildConfig::unknown_declarations(), [""; 0]);
        let before = read(&[]).decisive(Scope::Resume);
        for change in ["output_dir=x", "data_dir=x", "max_failures_in_a_row=9", "writer.cache=x"] {
            assert_eq!(read(&[change]).decisive(Scope::Resume), before, "{change}");
        }
        for change in ["n_rows=5", "seed=1", "mathematics.max_solutions=1", "max_template_share=0.1"] {
            assert_ne!(read(&[change]).decisive(Scope::Resume), before, "{change}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_recipe_and_models_share_a_cache() {
        let config = read(&[]);
        let points = config.mathematics.as_ref().and_then(|one| one.knowledge_points.as_deref());
        assert_eq!(points, Some(Path::new("/recipes/points.toml")));
        assert_eq!(config.output_dir, Path::new("/recipes/o"));
        let cache = cfg!(feature = "cache").then(|| PathBuf::from("/recipes/o/replies.sqlite"));
        assert_eq!(config.writer.cache, cache);
        config.check().unwrap();
        let error = |change: &str| read(&[change]).check().unwrap_err().to_string();
        assert!(error("ability=").starts_with("missing setting `ability`"));
        assert!(error("ability=reversal").contains("`mathematics` is given"));
        assert_eq!(error("n_rows=20000000"), "`n_rows` is 20000000: expected at most 10000000");
        let many = error("mathematics.max_solutions=5000");
        assert_eq!(many, "`mathematics.max_solutions` is 5000: expected at most 1000");
    }
}
