//! Rewards that a program computes: one file each, one variant of [`crate::RewardConfig`].

pub mod code;
pub mod exact_match;
pub mod format;
pub mod ifeval;
pub mod json_schema;
pub mod language;
pub mod length;
pub mod math_answer;
mod pattern;
mod python_regex;
pub mod repetition;
mod sentences;
