//! Answers that are marked in a text.

/// What the marks of a text give as its answer.
pub(super) enum Marked {
    Found(String),
    /// No mark at all.
    Nothing,
    /// A box that does not close, or only denials: the text gives no answer.
    Refused,
}
