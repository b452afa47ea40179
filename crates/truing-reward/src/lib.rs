//! What a completion is worth. A reward is a number or [`Unscored`] with its reason, never a silent 0.
//!
//! Verifiers are one file each in `verifiers/`.

mod completion;

pub use completion::{Completion, RewardFunction};
