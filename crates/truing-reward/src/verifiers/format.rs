//! 1 when the completion matches a pattern, 0 otherwise.

use regex::Regex;
use serde::{Deserialize, Serialize};
use truing_types::Unscored;

use crate::RewardError;
use crate::completion::{Completion, RewardFunction};

/// Settings of [`Format`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FormatConfig {
    /// A regular expression. It may match anywhere; `^` and `$` anchor it, `(?s)` lets `.` cross lines.
    pub pattern: String,
}

/// Looks for a pattern.
#[derive(Debug)]
pub struct Format(Regex);

impl Format {
    /// Compiles the pattern.
    ///
    /// # Errors
    /// When it is empty or no regular expression.
    pub fn new(config: &FormatConfig) -> Result<Self, RewardError> {
        let bad = |reason: String| RewardError::BadSetting { reward: "format", key: "pattern", reason };
        if config.pattern.is_empty() {
            return Err(bad("is empty; expected a regular expression".into()));
        }
        Regex::new(&config.pattern).map(Self).map_err(|error| bad(error.to_string()))
    }
}

impl RewardFunction for Format {
    fn name(&self) -> &str {
        "format"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        completions.iter().map(|c| Ok(f64::from(u8::from(self.0.is_match(c.text))))).collect()
    }
}
