//! Fine-tuning as a stage, on a tiny model and a few rows written at run time: runs, interrupts, resumes, bad
//! recipes, and the recipes that come with truing.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod classifiers;
mod distillations;
mod embeddings;
mod exports;
mod judges;
mod memory_parts;
mod plans;
mod policies;
mod preferences;
mod ranks;
mod resumes;
mod rollout_servers;
mod rows;
mod runs;
mod scripted;
mod sequence_groups;
mod setup;
#[path = "../../../truing/tests/main/tiny_model.rs"]
mod tiny_model;
mod verify;
