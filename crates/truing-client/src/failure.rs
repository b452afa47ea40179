//! A failed attempt: its kind, and whether a retry may succeed.

use std::time::Duration;

use crate::refusal;
use crate::response::AnswerError;
use crate::{FailureKind, FailureScope};

/// An attempt that did not succeed.
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) scope: FailureScope,
    pub(crate) problem: String,
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, problem: impl Into<String>) -> Self {
        let scope = if kind.may_pass() { FailureScope::Passing } else { FailureScope::Request };
        Self { kind, scope, problem: problem.into(), retry_after: None }
    }
}

impl From<AnswerError> for Failure {
    fn from(error: AnswerError) -> Self {
        let problem = error.to_string();
        match error {
            AnswerError::CutOff(_) => Self::new(FailureKind::CutOff, problem),
            AnswerError::Reported { said, names } => {
                let (kind, scope) = refusal::classify_reported(&names, &said);
                Self { kind, scope, problem, retry_after: None }
            }
            AnswerError::NotJson { .. }
            | AnswerError::NoChoice { .. }
            | AnswerError::NoPromptLogProbs { .. } => Self::new(FailureKind::BadAnswer, problem),
        }
    }
}
