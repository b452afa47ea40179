//! The settings of the builder.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::pas::Language;
use truing_run::RunError;
use truing_run::checks::{require_counts, require_given, require_share};

use super::kinds::{CodeCategory, CodeDifficulty, ProgrammingLanguage};
use crate::build::bounds::require_bounded;

/// The table `[code]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CodeConfig {
    /// Categories of tasks, equally often: `generation`, `completion`, `debugging`, `explanation`, `knowledge_qa`.
    pub categories: Vec<CodeCategory>,
    /// Difficulties that are asked for, equally often: `easy`, `medium`, `hard`. What the checker finds very hard is
    /// dropped.
    pub difficulties: Vec<CodeDifficulty>,
    /// Programming languages, equally often: `python`, `javascript`, `typescript`, `java`, `c`, `cpp`, `go`, `rust`,
    /// `sql`, `bash`. Python programs are run with tests.
    pub languages: Vec<ProgrammingLanguage>,
    /// Languages that new tasks are written in: `en`, `zh`.
    pub prompt_languages: Vec<Language>,
    /// Maximum faulty variants of a Python solution that its tests are tried on.
    pub max_mutants: usize,
    /// Minimum share of these that fail a test; at least one always has to.
    pub min_caught_share: f64,
    /// Maximum responses of the writer to one task.
    pub max_responses: usize,
    /// Whether the writer adds a deeper question and its answer.
    pub follow_up: bool,
    /// The Python interpreter: a path, or a name such as `python3.12`. Its folder decides nothing.
    #[schemars(extend("x-decides" = "name"))]
    pub interpreter: String,
}

impl Default for CodeConfig {
    fn default() -> Self {
        Self {
            categories: CodeCategory::ALL.to_vec(),
            difficulties: CodeDifficulty::KEPT.to_vec(),
            languages: ProgrammingLanguage::ALL.to_vec(),
            prompt_languages: vec![Language::En, Language::Zh],
            max_mutants: 5,
            min_caught_share: 0.5,
            max_responses: 2,
            follow_up: true,
            interpreter: "python3".into(),
        }
    }
}

impl CodeConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is invalid.
    pub(in crate::build) fn check(&self) -> Result<(), RunError> {
        let counts = [("code.max_mutants", self.max_mutants), ("code.max_responses", self.max_responses)];
        require_counts(counts)?;
        require_bounded(counts)?;
        require_share("code.min_caught_share", self.min_caught_share)?;
        require_given(!self.categories.is_empty(), "code.categories", "at least one category")?;
        require_given(!self.languages.is_empty(), "code.languages", "at least one language")?;
        require_given(!self.prompt_languages.is_empty(), "code.prompt_languages", "at least one language")?;
        require_given(!self.difficulties.is_empty(), "code.difficulties", "at least one difficulty")?;
        if self.difficulties.contains(&CodeDifficulty::VeryHard) {
            let expected = "`easy`, `medium` or `hard`: very hard tasks are dropped".to_owned();
            let found = "`very_hard`".to_owned();
            return Err(RunError::BadSetting { key: "code.difficulties", found, expected });
        }
        require_given(!self.interpreter.is_empty(), "code.interpreter", "a Python interpreter")
    }
}
