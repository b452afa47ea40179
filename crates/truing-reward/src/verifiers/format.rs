//! 1 when the completion matches a pattern, 0 otherwise.

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::Unscored;

use crate::RewardError;
use crate::completion::{Completion, RewardFunction};
use crate::verifiers::python_regex;

/// Settings of [`Format`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FormatConfig {
    /// A regular expression in the syntax of Rust's `regex`. It may match anywhere; `^` and `$` anchor it, and with
    /// `(?s)` `.` also matches line breaks.
    pub pattern: String,
}

/// Looks for a pattern.
#[derive(Debug)]
pub struct Format(Regex);

impl Format {
    /// Compiles the pattern.
    ///
    /// # Errors
    /// When it is empty, no regular expression, or one that Python reads in another way.
    pub fn new(config: &FormatConfig) -> Result<Self, RewardError> {
        let bad = |reason: String| RewardError::BadSetting { reward: "format", key: "pattern", reason };
        if config.pattern.is_empty() {
            return Err(bad("is empty; expected a regular expression".into()));
        }
        if let Some(reason) = python_regex::difference(&config.pattern) {
            return Err(bad(reason));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_reads_in_another_way_is_refused() {
        let new = |pattern: &str| Format::new(&FormatConfig { pattern: pattern.into() });
        let error = new(r"\<think\>.*\</think\>").unwrap_err().to_string();
        let expected = concat!(
            r"reward `format`: `pattern` has `\<`, which is the beginning of a word here and not the sign ",
            r"`<`: write `<`, or `\b{start}` for the beginning of a word",
        );
        assert_eq!(error, expected);
        assert!(new(r"[\w\>]").unwrap_err().to_string().contains(r"`\b{end}`"));
        for pattern in [r"<think>.*</think>", r"\\<a", r"(?s)^<a>\n?.*", r"\b{start}a", r"\$\{x\}"] {
            assert!(new(pattern).is_ok(), "{pattern}");
        }
    }
}
