//! Prompt augmentation (PAS, arXiv 2407.06027; Baichuan report 2.3): a small model writes a complement, a short text
//! that is appended to a prompt, which itself is not changed.
//!
//! | to do | use |
//! |---|---|
//! | write complements for prompts with a trained model | [`Complementer`], [`append`] |
//! | add them to rows of data, byte for byte elsewhere | [`LastUserText`] |
//! | read golden pairs and worked cases of the critic | [`GoldenPairs`], [`CriticCases`] |
//! | ask a teacher for complements, a critic for verdicts | [`questions`] |
//! | read the critic's reply | [`Review`] |

pub mod questions;

mod categories;
mod complementer;
mod examples;
mod language;
mod last_user_text;
mod review;

pub use categories::{CATEGORIES, Category};
pub use complementer::Complementer;
pub use examples::{CriticCase, CriticCases, GoldenPair, GoldenPairs};
pub use language::Language;
pub use last_user_text::{LastUserText, NoUserText};
pub use review::{Fault, Review};

/// Between a prompt and its complement.
const SEPARATOR: &str = "\n";

/// The prompt as the user wrote it, then the complement on a line of its own.
#[must_use]
pub fn append(prompt: &str, complement: &str) -> String {
    format!("{prompt}{SEPARATOR}{complement}")
}
