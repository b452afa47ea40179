//! 1 within a range of lengths, falling to 0 over a slope outside; and the soft punishment of overlong completions
//! (DAPO, arXiv 2503.14476, Eq. 13).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::Unscored;

use crate::RewardError;
use crate::completion::{Completion, RewardFunction};

/// Unit of the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Tokens as sampled.
    #[default]
    Tokens,
    /// Words between white space.
    Words,
    /// Characters.
    Characters,
}

impl Unit {
    fn count(self, completion: &Completion<'_>) -> usize {
        match self {
            Self::Tokens => completion.n_tokens,
            Self::Words => completion.text.split_whitespace().count(),
            Self::Characters => completion.text.chars().count(),
        }
    }
}

/// Settings of [`Length`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LengthConfig {
    /// Unit of the length.
    pub unit: Unit,
    /// Minimum length with reward 1.
    pub at_least: usize,
    /// Maximum length with reward 1. Default: no maximum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<usize>,
    /// The reward falls linearly to 0 over this many units outside the range. 0: it is 0 at once.
    pub slope: usize,
}

impl Default for LengthConfig {
    fn default() -> Self {
        Self { unit: Unit::default(), at_least: 1, at_most: None, slope: 0 }
    }
}

/// Rewards a length.
#[derive(Debug)]
pub struct Length(LengthConfig);

impl Length {
    /// Checks the range.
    ///
    /// # Errors
    /// When it is empty.
    pub fn new(config: LengthConfig) -> Result<Self, RewardError> {
        match config.at_most {
            Some(at_most) if at_most < config.at_least => Err(RewardError::BadSetting {
                reward: "length",
                key: "at_most",
                reason: format!("is {at_most}, below `at_least`, {}", config.at_least),
            }),
            _ => Ok(Self(config)),
        }
    }
}

impl RewardFunction for Length {
    fn name(&self) -> &str {
        "length"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        let LengthConfig { unit, at_least, at_most, slope } = self.0;
        let score = |completion: &Completion<'_>| {
            let n = unit.count(completion);
            let outside = at_least.saturating_sub(n).max(at_most.map_or(0, |most| n.saturating_sub(most)));
            match (outside, slope) {
                (0, _) => 1.0,
                (_, 0) => 0.0,
                _ => (1.0 - outside as f64 / slope as f64).max(0.0),
            }
        };
        completions.iter().map(|completion| Ok(score(completion))).collect()
    }
}

/// Settings of [`Overlong`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OverlongConfig {
    /// Maximum tokens of a completion.
    pub max_tokens: usize,
    /// The penalty begins this many tokens before `max_tokens`.
    pub cache: usize,
}

/// 0 up to `max_tokens - cache`, then falling to -1 at `max_tokens`.
#[derive(Debug)]
pub struct Overlong(OverlongConfig);

impl Overlong {
    /// Checks the limits.
    ///
    /// # Errors
    /// When the cache is 0 or longer than the limit.
    pub fn new(config: OverlongConfig) -> Result<Self, RewardError> {
        if config.cache == 0 || config.cache > config.max_tokens {
            let reason = format!("is {}, expected 1 to `max_tokens`, {}", config.cache, config.max_tokens);
            return Err(RewardError::BadSetting { reward: "overlong", key: "cache", reason });
        }
        Ok(Self(config))
    }
}

impl RewardFunction for Overlong {
    fn name(&self) -> &str {
        "overlong"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        let begins = self.0.max_tokens - self.0.cache;
        let over = |completion: &Completion<'_>| {
            completion.n_tokens.saturating_sub(begins) as f64 / self.0.cache as f64
        };
        completions.iter().map(|completion| Ok(-over(completion).min(1.0))).collect()
    }
}
