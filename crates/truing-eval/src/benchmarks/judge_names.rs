//! Names of judge requests. They distinguish replies of the judge from answers of the model.

/// Prefix of the names of judge requests.
pub(super) const PREFIX: &str = "judge/";
/// Prefix of the names of repeated judge requests.
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
