//! 1 when the completion is the reference, white space around both cut off; 0 otherwise.

use serde::{Deserialize, Serialize};
use truing_types::{Unscored, UnscoredReason};

use crate::completion::{Completion, RewardFunction, column_text};

/// Settings of [`ExactMatch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExactMatchConfig {
    /// Column of the prompt's row that holds the reference.
    pub column: String,
    /// Upper and lower case are the same.
    pub ignore_case: bool,
    /// The reference has only to stand somewhere in the completion.
    pub contained: bool,
}

impl Default for ExactMatchConfig {
    fn default() -> Self {
        Self { column: "answer".into(), ignore_case: false, contained: false }
    }
}

/// Compares with a reference letter by letter.
#[derive(Debug)]
pub struct ExactMatch(pub ExactMatchConfig);

impl RewardFunction for ExactMatch {
    fn name(&self) -> &str {
        "exact_match"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        let config = &self.0;
        let prepare = |text: &str| match config.ignore_case {
            true => text.trim().to_lowercase(),
            false => text.trim().to_owned(),
        };
        let score = |completion: &Completion<'_>| {
            let reference = prepare(&column_text(completion, &config.column)?);
            if config.contained && reference.is_empty() {
                let detail = format!("`{}` is empty", config.column);
                return Err(Unscored::new(UnscoredReason::BadReference, detail));
            }
            let text = prepare(completion.text);
            let is_right = if config.contained { text.contains(&reference) } else { text == reference };
            Ok(f64::from(u8::from(is_right)))
        };
        completions.iter().map(score).collect()
    }
}
