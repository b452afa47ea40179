//! Several rewards as one: weighted, each for the sources it is meant for.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use truing_types::{Unscored, UnscoredReason};

use crate::completion::{Completion, RewardFunction};
use crate::verifiers::code::{Code, CodeConfig};
use crate::verifiers::exact_match::{ExactMatch, ExactMatchConfig};
use crate::verifiers::format::{Format, FormatConfig};
use crate::verifiers::ifeval::{Ifeval, IfevalConfig};
use crate::verifiers::json_schema::{JsonSchema, JsonSchemaConfig};
use crate::verifiers::language::{Language, LanguageConfig};
use crate::verifiers::length::{Length, LengthConfig, Overlong, OverlongConfig};
use crate::verifiers::math_answer::{MathAnswer, MathAnswerConfig};
use crate::verifiers::repetition::{Repetition, RepetitionConfig};

/// A `[[reward]]` table of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardConfig {
    /// Its name in metrics; the kind's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Factor in the sum.
    #[serde(default = "one")]
    pub weight: f64,
    /// Only rows whose file's name ends with one of these; all when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Left out of the sum where it cannot be computed, instead of leaving the completion without a reward.
    #[serde(default)]
    pub optional: bool,
    /// What is computed: one key, for instance `math_answer = { column = "answer" }`.
    pub kind: RewardKind,
}

fn one() -> f64 {
    1.0
}

/// What a reward computes, with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// The final answer of a computation.
    MathAnswer(MathAnswerConfig),
    /// The instructions of IFEval.
    Ifeval(IfevalConfig),
    /// A reference, letter by letter.
    ExactMatch(ExactMatchConfig),
    /// A pattern.
    Format(FormatConfig),
    /// A range of lengths.
    Length(LengthConfig),
    /// The soft punishment of overlong completions.
    Overlong(OverlongConfig),
    /// A punishment of saying the same again.
    Repetition(RepetitionConfig),
    /// JSON that is valid against a schema.
    JsonSchema(JsonSchemaConfig),
    /// A language.
    Language(LanguageConfig),
    /// A program that passes tests.
    Code(CodeConfig),
}

/// A reward that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewardError {
    /// A setting that makes no sense.
    #[error("reward `{reward}`: `{key}` {reason}")]
    BadSetting {
        /// The kind.
        reward: &'static str,
        /// The setting.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Two rewards of one name would be one line of metrics.
    #[error("two rewards are called `{name}`; give one another `name`")]
    SameName {
        /// The name.
        name: String,
    },
    /// A weight that is no number, or 0.
    #[error("reward `{name}`: `weight` is {weight}, expected a number other than 0")]
    BadWeight {
        /// The reward.
        name: String,
        /// Its weight.
        weight: String,
    },
}

/// One completion with all its rewards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredCompletion {
    /// Each reward that the row is meant for, before its weight.
    pub parts: BTreeMap<String, Result<f64, Unscored>>,
    /// The weighted sum.
    pub total: Result<f64, Unscored>,
}

struct Part {
    name: String,
    weight: f64,
    sources: Vec<String>,
    optional: bool,
    function: Box<dyn RewardFunction>,
}

/// The rewards of a run.
#[derive(Default)]
pub struct Rewards {
    parts: Vec<Part>,
}

impl std::fmt::Debug for Rewards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl RewardKind {
    fn build(&self, sandbox_program: &Path) -> Result<Box<dyn RewardFunction>, RewardError> {
        Ok(match self.clone() {
            Self::MathAnswer(config) => Box::new(MathAnswer(config)),
            Self::Ifeval(config) => Box::new(Ifeval(config)),
            Self::ExactMatch(config) => Box::new(ExactMatch(config)),
            Self::Format(config) => Box::new(Format::new(&config)?),
            Self::Length(config) => Box::new(Length::new(config)?),
            Self::Overlong(config) => Box::new(Overlong::new(config)?),
            Self::Repetition(config) => Box::new(Repetition::new(config)?),
            Self::JsonSchema(config) => Box::new(JsonSchema::new(config)?),
            Self::Language(config) => Box::new(Language::new(config)?),
            Self::Code(config) => Box::new(Code::new(config, sandbox_program.to_owned())?),
        })
    }
}

impl Rewards {
    /// Builds what the recipe lists. Code runs in the sandbox of this very binary, which has to answer to
    /// [`CHILD_COMMAND`](crate::sandbox::CHILD_COMMAND).
    ///
    /// # Errors
    /// When a setting makes no sense or two rewards have one name.
    pub fn new(configs: &[RewardConfig]) -> Result<Self, RewardError> {
        // Where it is unknown, code is unscored with that reason.
        Self::with_sandbox(configs, &std::env::current_exe().unwrap_or_default())
    }

    /// Builds what the recipe lists, with another binary that answers to
    /// [`CHILD_COMMAND`](crate::sandbox::CHILD_COMMAND).
    ///
    /// # Errors
    /// When a setting makes no sense or two rewards have one name.
    pub fn with_sandbox(configs: &[RewardConfig], sandbox_program: &Path) -> Result<Self, RewardError> {
        let mut rewards = Self::default();
        for config in configs {
            let function = config.kind.build(sandbox_program)?;
            rewards.add(config.name.clone(), config.weight, &config.sources, config.optional, function)?;
        }
        Ok(rewards)
    }

    /// Adds a reward that needs more than a recipe can hold: a reward model, a judge.
    ///
    /// # Errors
    /// When the weight is 0 or no number, or the name is taken.
    pub fn add(
        &mut self,
        name: Option<String>,
        weight: f64,
        sources: &[String],
        optional: bool,
        function: Box<dyn RewardFunction>,
    ) -> Result<(), RewardError> {
        let name = name.unwrap_or_else(|| function.name().to_owned());
        if !weight.is_finite() || weight == 0.0 {
            return Err(RewardError::BadWeight { name, weight: weight.to_string() });
        }
        if self.parts.iter().any(|part| part.name == name) {
            return Err(RewardError::SameName { name });
        }
        self.parts.push(Part { name, weight, sources: sources.to_vec(), optional, function });
        Ok(())
    }

    /// Names in the order of the recipe.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| part.name.as_str())
    }

    /// Scores completions, each by the rewards that its row is meant for.
    pub fn score(&mut self, completions: &[Completion<'_>]) -> Vec<ScoredCompletion> {
        let mut scored: Vec<ScoredCompletion> = completions
            .iter()
            .map(|completion| {
                let detail = format!("{}: no reward is meant for this source", completion.origin);
                let total = Err(Unscored::new(UnscoredReason::MissingReference, detail));
                ScoredCompletion { parts: BTreeMap::new(), total }
            })
            .collect();
        for part in &mut self.parts {
            let is_meant = |completion: &Completion<'_>| {
                part.sources.is_empty()
                    || part.sources.iter().any(|source| completion.origin.source.ends_with(source.as_str()))
            };
            let meant: Vec<usize> = (0..completions.len()).filter(|&i| is_meant(&completions[i])).collect();
            let batch: Vec<Completion<'_>> = meant.iter().map(|&i| completions[i]).collect();
            for (i, score) in meant.into_iter().zip(part.function.score(&batch)) {
                let score = score.and_then(|score| match score.is_finite() {
                    true => Ok(score),
                    false => Err(Unscored::new(UnscoredReason::Failed, format!("the score is {score}"))),
                });
                scored[i].parts.insert(part.name.clone(), score);
            }
        }
        for ScoredCompletion { parts, total } in &mut scored {
            if !parts.is_empty() {
                *total = self.sum_of(parts);
            }
        }
        scored
    }

    /// The weighted sum of parts, unless one that is not optional failed or none is there; the error then says why.
    pub(crate) fn sum_of(&self, parts: &BTreeMap<String, Result<f64, Unscored>>) -> Result<f64, Unscored> {
        let mut sum = None;
        let mut reason = None;
        for part in &self.parts {
            match parts.get(&part.name) {
                Some(Ok(score)) => *sum.get_or_insert(0.0) += part.weight * score,
                Some(Err(unscored)) if !part.optional => return Err(unscored.clone()),
                Some(Err(unscored)) => reason = Some(unscored.clone()),
                None => {}
            }
        }
        let nothing = || Unscored::new(UnscoredReason::MissingReference, "no reward was computed");
        sum.ok_or_else(|| reason.unwrap_or_else(nothing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};
    use truing_types::{Conversation, FinishReason, RowOrigin};

    fn score(recipe: Value, source: &str, columns: Value, text: &str) -> ScoredCompletion {
        let configs: Vec<RewardConfig> = serde_json::from_value(recipe).unwrap();
        let columns: Map<String, Value> = serde_json::from_value(columns).unwrap();
        let (prompt, origin) = (Conversation::default(), RowOrigin { source: source.into(), line: 3 });
        let completion = Completion {
            prompt: &prompt,
            text,
            n_tokens: 9,
            finish_reason: FinishReason::EndOfTurn,
            columns: &columns,
            origin: &origin,
        };
        Rewards::new(&configs).unwrap().score(&[completion]).remove(0)
    }

    #[test]
    fn parts_are_weighted_and_meant_for_their_sources() {
        let recipe = json!([
            {"kind": {"math_answer": {}}, "sources": ["gsm8k.jsonl"]},
            {"kind": {"exact_match": {"column": "label"}}, "sources": ["labels.jsonl"]},
            {"kind": {"overlong": {"max_tokens": 10, "cache": 4}}, "weight": 0.5},
        ]);
        let found = score(recipe.clone(), "data/gsm8k.jsonl", json!({"answer": "so\n#### 12"}), "It is 12.");
        assert_eq!(found.total, Ok(1.0 - 0.5 * 0.75));
        assert_eq!(found.parts.keys().collect::<Vec<_>>(), ["math_answer", "overlong"]);
        let found = score(recipe.clone(), "labels.jsonl", json!({"label": "yes"}), " yes\n");
        assert_eq!(found.total, Ok(1.0 - 0.375));
        let found = score(recipe, "labels.jsonl", json!({}), "yes");
        let unscored = found.total.unwrap_err();
        assert_eq!(unscored.to_string(), "missing_reference: labels.jsonl:3: the row has no `label`");
    }

    #[test]
    fn an_optional_part_that_fails_is_left_out() {
        let recipe = json!([
            {"kind": {"exact_match": {}}, "optional": true},
            {"kind": {"length": {"at_most": 20}}},
        ]);
        assert_eq!(score(recipe.clone(), "a", json!({}), "x").total, Ok(1.0));
        let alone = json!([{"kind": {"exact_match": {}}, "optional": true}]);
        let unscored = score(alone, "a", json!({}), "x").total.unwrap_err();
        assert_eq!(unscored.reason, UnscoredReason::MissingReference);
        let elsewhere = json!([{"kind": {"format": {"pattern": "^x"}}, "sources": ["b"]}]);
        assert!(score(elsewhere, "a", json!({}), "x").total.is_err());
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let refused = |recipe: Value| {
            let configs: Vec<RewardConfig> = serde_json::from_value(recipe).unwrap();
            Rewards::new(&configs).unwrap_err().to_string()
        };
        assert!(
            refused(json!([{"kind": {"format": {"pattern": "("}}}]))
                .starts_with("reward `format`: `pattern`")
        );
        assert_eq!(
            refused(json!([{"kind": {"length": {"at_least": 5, "at_most": 2}}}])),
            "reward `length`: `at_most` is 2, below `at_least`, 5"
        );
        let twice = json!([{"kind": {"exact_match": {}}}, {"kind": {"exact_match": {}}}]);
        assert_eq!(refused(twice), "two rewards are called `exact_match`; give one another `name`");
        assert!(refused(json!([{"kind": {"exact_match": {}}, "weight": 0.0}])).contains("`weight` is 0"));
        let unknown = json!([{"kind": {"exact_match": {"colum": "a"}}}]);
        assert!(serde_json::from_value::<Vec<RewardConfig>>(unknown).is_err());
    }
}
