//! Validation errors of an answer, for the pages and for messages.

use serde_json::Value;

/// Characters of a value that a message quotes.
const MAX_QUOTED: usize = 80;

/// An answer that does not fit its question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` is {found}; expected {expected}")]
pub struct AnswerProblem {
    /// The question, and the field of its answer.
    pub field: String,
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
}

impl AnswerProblem {
    pub(crate) fn new(field: impl Into<String>, found: &Value, expected: impl Into<String>) -> Self {
        let mut quoted = found.to_string();
        if let Some((end, _)) = quoted.char_indices().nth(MAX_QUOTED) {
            quoted.truncate(end);
            quoted.push_str("...");
        }
        Self { field: field.into(), found: quoted, expected: expected.into() }
    }
}
