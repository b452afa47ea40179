//! The settings of the builder.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::pas::Language;
use truing_run::RunError;
use truing_run::checks::{require_counts, require_given, require_share};

use super::kinds::ReasoningKind;
use crate::build::bounds::require_bounded;

/// The table `[reasoning]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReasoningConfig {
    /// Kinds of new questions, equally often: `common_sense`, `propositional_hypothesis`, `relationship`, `multi_step`,
    /// `game_theory`, `disruptive`, `counterfactual`.
    pub kinds: Vec<ReasoningKind>,
    /// Languages of new questions: `en`, `zh`.
    pub languages: Vec<Language>,
    /// Column of `[[data]]` with the reference answer.
    pub answer_column: String,
    /// Column of `[[data]]` with the kind, for the coverage table.
    pub kind_column: String,
    /// Independent answers of the checker to each question.
    pub n_answers: usize,
    /// Maximum attempts of the writer to correct a wrong answer. 0 makes no reflection rows.
    pub max_reflections: usize,
    /// Maximum share of rows whose question every independent answer has right, of the rows before recheck and
    /// screening. The surplus is dropped.
    pub max_easy_share: f64,
}

impl Default for ReasoningConfig {
    fn default() -> Self {
        Self {
            kinds: ReasoningKind::ALL.to_vec(),
            languages: vec![Language::En, Language::Zh],
            answer_column: "answer".into(),
            kind_column: "kind".into(),
            n_answers: 4,
            max_reflections: 2,
            max_easy_share: 0.5,
        }
    }
}

impl ReasoningConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is invalid.
    pub(in crate::build) fn check(&self) -> Result<(), RunError> {
        require_counts([("reasoning.n_answers", self.n_answers)])?;
        require_bounded([
            ("reasoning.n_answers", self.n_answers),
            ("reasoning.max_reflections", self.max_reflections),
        ])?;
        require_share("reasoning.max_easy_share", self.max_easy_share)?;
        require_given(!self.kinds.is_empty(), "reasoning.kinds", "at least one kind")?;
        require_given(!self.languages.is_empty(), "reasoning.languages", "at least one language")
    }
}
