//! The prompts with their responses.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use truing_reward::asking::question_text;
use truing_run::rows::value_at;
use truing_run::{DataReport, RunError};
use truing_stages::StageError;
use truing_types::{Conversation, EventSink, PromptRow, RowOrigin};

use super::config::PreferConfig;
use crate::sources::Sources;

/// Why a response is left out that is the same as an earlier one.
const DUPLICATE: &str = "duplicate";
/// Why a response is left out that says nothing.
const EMPTY: &str = "empty";
/// What is expected of `responses`.
const RESPONSES: &str =
    "a list of responses, each a string or an object with `content`, `text` or `response`";

/// A response of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// What it says.
    pub text: String,
    /// The model that wrote it, where the row says so.
    pub model: Option<String>,
    /// The score that the row gives it.
    pub score: Option<f64>,
}

/// A prompt with the responses that are judged.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptGroup {
    /// The conversation to be answered.
    pub prompt: Conversation,
    /// The same as judges read it.
    pub question: String,
    /// Its responses in the order of the row; no two are the same.
    pub responses: Vec<Response>,
    /// Responses that are left out, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// Every field of the row.
    pub columns: Map<String, Value>,
    /// The row.
    pub origin: RowOrigin,
}

impl PromptGroup {
    /// Whether there is something to compare.
    #[must_use]
    pub fn is_comparable(&self) -> bool {
        self.responses.len() >= 2
    }

    /// The golden answer in a column; numbers and truth values as text.
    #[must_use]
    pub fn reference(&self, column: &str) -> Option<String> {
        match value_at(&self.columns, column)? {
            Value::String(text) => Some(text.clone()).filter(|text| !text.trim().is_empty()),
            value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
            _ => None,
        }
    }
}

/// Everything a plan looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferInputs {
    /// The prompts in the order of their files.
    pub groups: Vec<PromptGroup>,
    /// What became of all rows of the data.
    pub report: DataReport,
}

impl PreferInputs {
    /// Reads the rows.
    ///
    /// # Errors
    /// When a setting is invalid, a file cannot be read, or a row cannot and `on_bad_row` is `error`.
    pub fn load(config: &PreferConfig, events: &mut dyn EventSink) -> Result<Self, StageError> {
        config.check()?;
        let PreferConfig { data, data_dir, on_bad_row, .. } = config;
        let sources = Sources { data, data_dir, on_bad_row: *on_bad_row };
        let (groups, report) = sources.read("the responses", events, |row, origin, report| {
            if row.prompt.messages.iter().any(|turn| !turn.parts.is_empty()) {
                report.note("judges do not see the images and other parts of this prompt", &origin);
            }
            match group(row, origin, &config.skip_fates) {
                Ok(group) => Ok(Some(group)),
                Err(error) => {
                    report.skip(config.on_bad_row, error)?;
                    Ok(None)
                }
            }
        })?;
        Ok(Self { groups, report })
    }
}

fn group(row: PromptRow, origin: RowOrigin, skip_fates: &[String]) -> Result<PromptGroup, RunError> {
    let bad = |column: String, found: &str, expected| RunError::BadColumn {
        origin: origin.clone(),
        column,
        found: found.to_owned(),
        expected,
    };
    let listed = match row.columns.get("responses") {
        Some(Value::Array(listed)) => listed,
        Some(other) => return Err(bad("responses".into(), type_name(other), RESPONSES)),
        None => return Err(bad("responses".into(), "missing", RESPONSES)),
    };
    let mut responses: Vec<Response> = Vec::new();
    let mut left_out: BTreeMap<String, usize> = BTreeMap::new();
    for (i, value) in listed.iter().enumerate() {
        let fate = value.get("fate").and_then(Value::as_str);
        if let Some(fate) = fate.filter(|&fate| skip_fates.iter().any(|skipped| skipped == fate)) {
            *left_out.entry(fate.to_owned()).or_default() += 1;
            continue;
        }
        let response = response(value)
            .map_err(|(key, found, expected)| bad(format!("responses[{i}]{key}"), found, expected))?;
        if response.text.trim().is_empty() {
            *left_out.entry(EMPTY.into()).or_default() += 1;
        } else if responses.iter().any(|earlier| earlier.text == response.text) {
            *left_out.entry(DUPLICATE.into()).or_default() += 1;
        } else {
            responses.push(response);
        }
    }
    let question = question_text(&row.prompt);
    Ok(PromptGroup { prompt: row.prompt, question, responses, left_out, columns: row.columns, origin })
}

/// Reads one response; the error is the key below it, what it holds, and what it should hold.
fn response(value: &Value) -> Result<Response, (&'static str, &'static str, &'static str)> {
    const TEXT: &str = "a string, or an object with a string in `content`, `text` or `response`";
    let object = match value {
        Value::String(text) => return Ok(Response { text: text.clone(), model: None, score: None }),
        Value::Object(object) => object,
        other => return Err(("", type_name(other), TEXT)),
    };
    let given = |key: &str| object.get(key).filter(|value| !value.is_null());
    let text = match ["content", "text", "response"].into_iter().find_map(given) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => return Err(("", type_name(other), TEXT)),
        None => return Err(("", "an object without a text", TEXT)),
    };
    let score = match given("score") {
        Some(value) => match value.as_f64() {
            Some(score) if score.is_finite() => Some(score),
            _ => return Err((".score", type_name(value), "a finite number")),
        },
        None => None,
    };
    let model = match given("model") {
        Some(Value::String(model)) => Some(model.clone()),
        Some(other) => return Err((".model", type_name(other), "the name of a model")),
        None => None,
    };
    Ok(Response { text, model, score })
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
