//! Rewards of completions. A reward is a number or [`Unscored`](truing_types::Unscored) with its reason, never a silent
//! 0.
//!
//! A completion's thought is split off in one place, [`Rewards::score`], by the rules of
//! [`split_reasoning`](truing_types::split_reasoning). Each reward reads the answer or the whole ([`Reads`]).
//!
//! Verifiers are one file each in [`verifiers`]; [`judge`] asks a language model; [`Rewards`] sums them up, each for
//! the sources it applies to; [`notebook`] runs cells of Python that share variables; [`constraints`] are sentences
//! of a prompt together with the check of a response: a verifier's instruction or a question of a [`checklist`];
//! [`shaping`] changes the rewards of a step before they are trained on.

pub mod asking;
pub mod checklist;
mod completion;
pub mod constraints;
mod error;
pub mod judge;
pub mod notebook;
mod rewards;
pub mod sandbox;
pub mod shaping;
pub mod unscored;
pub mod verifiers;

pub use completion::{Completion, RewardFunction};
pub use error::RewardError;
pub use rewards::{Reads, RewardConfig, RewardKind, Rewards, ScoredCompletion, is_meant, is_source};
