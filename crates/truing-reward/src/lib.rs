//! What a completion is worth. A reward is a number or [`Unscored`](truing_types::Unscored) with its reason, never a
//! silent 0.
//!
//! Verifiers are one file each in [`verifiers`]; [`Rewards`] sums them up, each for the sources it is meant for.

mod completion;
mod rewards;
pub mod sandbox;
pub mod verifiers;

pub use completion::{Completion, RewardFunction};
pub use rewards::{RewardConfig, RewardError, RewardKind, Rewards, ScoredCompletion};
