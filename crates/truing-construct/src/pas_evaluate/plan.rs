//! The prompts, and what it will cost to answer and compare.

use serde_json::{Map, Value};
use truing_ask::judged_folder::JudgedInputs;
use truing_reward::verifiers::ifeval::{IfevalConfig, check_ids};
use truing_run::rows::value_at;
use truing_run::{DataReport, RunError};
use truing_store::RunInputs;
use truing_train::{Amount, PlanRow};
use truing_types::{EventSink, Role, RowOrigin};

use super::config::PasEvaluateConfig;
use crate::sources::Sources;
use crate::{StageError, StagePlan};

/// A prompt to be answered twice.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationPrompt {
    /// The prompt.
    pub text: String,
    /// Its row, with instructions where it has any.
    pub columns: Map<String, Value>,
    /// Its category; empty where the row names none.
    pub category: String,
    /// Where it came from.
    pub origin: RowOrigin,
    /// Whether it has instructions that a program checks.
    pub is_verifiable: bool,
}

/// Everything a plan looks at.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PasEvaluateInputs {
    /// The prompts in the order of their files.
    pub prompts: Vec<EvaluationPrompt>,
    /// What became of all rows of the data.
    pub report: DataReport,
}

impl PasEvaluateInputs {
    /// Reads the prompts.
    ///
    /// # Errors
    /// When a file cannot be read; when a row cannot, is no single turn of a user, or has instructions that are not
    /// known, and `on_bad_row` is `error`.
    pub fn load(config: &PasEvaluateConfig, events: &mut dyn EventSink) -> Result<Self, StageError> {
        config.check()?;
        let PasEvaluateConfig { data, data_dir, on_bad_row, .. } = config;
        let sources = Sources { data, data_dir, on_bad_row: *on_bad_row };
        let (prompts, report) = sources.read("the prompts", events, |row, origin, report| {
            let bad = |column: &str, found: String, expected| RunError::BadColumn {
                origin: origin.clone(),
                column: column.to_owned(),
                found,
                expected,
            };
            let problem = match row.prompt.messages.as_slice() {
                [only] if only.role == Role::User => check_instructions(&row.columns).err().map(|found| {
                    bad("instruction_id_list", found, "known instructions, each with its `kwargs`")
                }),
                turns => Some(bad("prompt", format!("{} turns", turns.len()), "a single turn of a user")),
            };
            if let Some(problem) = problem {
                report.skip(config.on_bad_row, StageError::from(problem))?;
                return Ok(None);
            }
            let category = match value_at(&row.columns, &config.category_column) {
                Some(Value::String(category)) => category.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            };
            Ok(Some(EvaluationPrompt {
                text: row.prompt.messages.into_iter().next().map_or_else(String::new, |turn| turn.content),
                is_verifiable: !instructions(&row.columns).is_empty(),
                columns: row.columns,
                category,
                origin,
            }))
        })?;
        Ok(Self { prompts, report })
    }
}

fn instructions(columns: &Map<String, Value>) -> &[Value] {
    columns.get("instruction_id_list").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Checks the instructions of a row, if it has any.
fn check_instructions(columns: &Map<String, Value>) -> Result<(), String> {
    let ids = instructions(columns);
    if ids.is_empty() {
        return Ok(());
    }
    let n_settings = columns.get("kwargs").and_then(Value::as_array).map_or(0, Vec::len);
    if n_settings != ids.len() {
        return Err(format!("{} instructions with {n_settings} `kwargs`", ids.len()));
    }
    check_ids(columns, &IfevalConfig::default())
}

/// A run as it will be.
#[derive(Debug, Clone, PartialEq)]
pub struct PasEvaluatePlan {
    /// The settings.
    pub config: PasEvaluateConfig,
    /// Prompts.
    pub n_prompts: u64,
    /// Prompts with instructions that a program checks.
    pub n_verifiable: u64,
    /// Calls of the judge, in both orders, where no two replies are equal.
    pub n_judge_calls: u64,
}

impl PasEvaluatePlan {
    /// Versions, seed and digests of all files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn record(&self, inputs: &PasEvaluateInputs) -> Result<RunInputs, StageError> {
        let record = JudgedInputs {
            stage: self.config.stage,
            seed: self.config.seed,
            judges: self.config.chat_models(),
            data: &inputs.report.files,
            others: Vec::new(),
        };
        Ok(record.record()?)
    }

    /// Counts the calls.
    ///
    /// # Errors
    /// When a setting is invalid, or there is nothing to compare.
    pub fn resolve(config: PasEvaluateConfig, inputs: &PasEvaluateInputs) -> Result<Self, StageError> {
        config.check()?;
        let n_prompts = inputs.prompts.len() as u64;
        let n_verifiable = inputs.prompts.iter().filter(|prompt| prompt.is_verifiable).count() as u64;
        let n_judged = if config.judge.is_some() { n_prompts - n_verifiable } else { 0 };
        if n_verifiable + n_judged == 0 {
            return Err(RunError::BadSetting {
                key: "data",
                found: format!("{n_prompts} prompts, none with `instruction_id_list`, and no `judge`"),
                expected: "prompts with instructions, or a `judge` for the others".into(),
            }
            .into());
        }
        Ok(Self { n_prompts, n_verifiable, n_judge_calls: 2 * n_judged, config })
    }
}

impl StagePlan for PasEvaluatePlan {
    fn table(&self) -> Vec<PlanRow> {
        let count = |name: &str, n: u64| PlanRow::new(name, Amount::Count(n));
        vec![
            count("prompts", self.n_prompts),
            count("prompts with instructions to check", self.n_verifiable),
            count("calls of the complement model", self.n_prompts),
            count("calls of the target, with and without complement", 2 * self.n_prompts),
            count("calls of the judge, at most", self.n_judge_calls),
        ]
    }

    fn summary(&self) -> String {
        format!(
            "{} prompts with and without complement, {} of them with instructions to check; {} calls of the \
             judge at most",
            self.n_prompts, self.n_verifiable, self.n_judge_calls
        )
    }
}
