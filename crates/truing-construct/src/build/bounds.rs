//! Range checks of counts and scores in a builder's settings.

use truing_run::RunError;
use truing_run::checks::require;

/// Maximum number of rounds, answers or calls that a builder's own table may ask for.
const MAX_COUNT: usize = 1000;

/// Checks that counts of a builder's own table are at most [`MAX_COUNT`].
pub(super) fn require_bounded<const N: usize>(counts: [(&'static str, usize); N]) -> Result<(), RunError> {
    counts
        .into_iter()
        .try_for_each(|(key, count)| require(count <= MAX_COUNT, || (key, count.to_string(), "at most 1000")))
}

/// Scores that a checker gives.
pub(super) fn require_scores<const N: usize>(scores: [(&'static str, f64); N]) -> Result<(), RunError> {
    scores.into_iter().try_for_each(|(key, score)| {
        require((1.0..=10.0).contains(&score), || (key, score.to_string(), "a score from 1 to 10"))
    })
}
