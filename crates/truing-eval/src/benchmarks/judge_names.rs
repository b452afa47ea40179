//! The names of requests to a judge, by which its answers are told from the model's.

/// The names of requests to a judge begin with this.
pub(super) const PREFIX: &str = "judge/";
/// The answers to repeated requests to a judge are kept under names with this before them.
pub(super) const REPEAT: &str = "repeat/";
/// Between a verdict's name and the number of the try.
pub(super) const TRY: char = '#';

/// The name under which the answer to a repeated request to a judge is kept.
#[must_use]
pub fn repeated_name(id: &str) -> String {
    format!("{REPEAT}{id}")
}

/// Whether an answer of this name is a judge's first verdict, not the model's and no repetition.
#[must_use]
pub fn is_of_judge(id: &str) -> bool {
    id.starts_with(PREFIX)
}
