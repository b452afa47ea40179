//! Everything that can be wrong with what this crate is given. An empty pool, a pool of one and a pool of nothing but
//! duplicates are no errors: their outcome is empty, one row, one row.

/// What is wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PromptsError {
    /// An option outside its range.
    #[error("`{option}` is {value}, expected {expected}")]
    BadOption {
        /// The option's name.
        option: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Two inputs that must have one entry per row do not.
    #[error("{what} has {found} entries, expected {expected}: one for each row")]
    LengthMismatch {
        /// The input.
        what: &'static str,
        /// Rows.
        expected: usize,
        /// Entries.
        found: usize,
    },
    /// A vector that cannot be compared.
    #[error("the vector of row {row} holds {value} at index {index}, expected a finite number")]
    NotFinite {
        /// The row.
        row: usize,
        /// Where in its vector.
        index: usize,
        /// What is there.
        value: f32,
    },
    /// More tokens than a pool can number.
    #[error("the pool holds more than {limit} different tokens")]
    VocabularyFull {
        /// Most different tokens.
        limit: usize,
    },
}

/// An error when `holds` is false.
pub(crate) fn check_option(
    holds: bool,
    option: &'static str,
    value: impl std::fmt::Display,
    expected: &'static str,
) -> Result<(), PromptsError> {
    if holds { Ok(()) } else { Err(PromptsError::BadOption { option, value: value.to_string(), expected }) }
}

/// An error when an input has not one entry per row.
pub(crate) fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), PromptsError> {
    if expected == found { Ok(()) } else { Err(PromptsError::LengthMismatch { what, expected, found }) }
}
