//! 0 for a completion whose n-grams are all different, falling to -1 where hardly any is new: minus the share
//! of n-grams of words that have stood before. Where a thought was never closed, so that there is no answer,
//! the thought is read: going round in circles is why most of them have no end.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::Unscored;

use crate::RewardError;
use crate::completion::{Completion, RewardFunction};

/// Settings of [`Repetition`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RepetitionConfig {
    /// Words per n-gram.
    pub n_words: usize,
}

impl Default for RepetitionConfig {
    fn default() -> Self {
        Self { n_words: 4 }
    }
}

/// Punishes saying the same again.
#[derive(Debug)]
pub struct Repetition(RepetitionConfig);

impl Repetition {
    /// Checks the length.
    ///
    /// # Errors
    /// When it is 0.
    pub fn new(config: RepetitionConfig) -> Result<Self, RewardError> {
        if config.n_words == 0 {
            let reason = "is 0, expected at least 1".to_owned();
            return Err(RewardError::BadSetting { reward: "repetition", key: "n_words", reason });
        }
        Ok(Self(config))
    }
}

impl RewardFunction for Repetition {
    fn name(&self) -> &str {
        "repetition"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        completions.iter().map(|completion| Ok(-repeated_share(completion.text, self.0.n_words))).collect()
    }

    fn score_without_answer(&mut self, completion: &Completion<'_>) -> Result<f64, Unscored> {
        Ok(-repeated_share(completion.text, self.0.n_words))
    }
}

/// Share of the n-grams that occurred earlier; 0 where there is none.
fn repeated_share(text: &str, n_words: usize) -> f64 {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    let n_grams = words.windows(n_words).len();
    let different = words.windows(n_words).collect::<HashSet<_>>().len();
    if n_grams == 0 { 0.0 } else { (n_grams - different) as f64 / n_grams as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stood_before_is_counted() {
        let check = |text: &str, n_words, expect: f64| assert_eq!(repeated_share(text, n_words), expect);
        check("", 2, 0.0);
        check("one", 2, 0.0);
        check("a b c d", 2, 0.0);
        check("a b A b a", 2, 0.5);
        check("no no no no no", 1, 0.8);
        assert!(Repetition::new(RepetitionConfig { n_words: 0 }).is_err());
    }
}
