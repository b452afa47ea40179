//! Judges of responses (report 3.3): absolute ratings by aspect, comparisons of two responses, ratings against a golden
//! answer, and the rewriting of a response with one defect. The questions in English and Chinese, and the strict
//! reading of replies.
//!
//! | to ask | request | reader |
//! |---|---|---|
//! | ratings of one response by aspect | [`questions::absolute`] | [`Ratings::read`] |
//! | which of two responses is better | [`questions::pairwise`] | [`read_preference`] |
//! | for a response with one defect | [`questions::worsen`] | [`read_rewritten`] |
//! | whether a response agrees with the reference | [`questions::golden`] | [`GoldenRating::read`] |

pub mod questions;

mod aspect;
mod defect;
mod object;
mod ratings;

pub use aspect::Aspect;
pub use defect::Defect;
pub use ratings::{GoldenRating, Preference, Ratings, read_preference, read_rewritten};
