//! Fine-tuning as a stage, on a tiny model and a few rows written at run time: runs, interrupts, resumes, bad
//! recipes, and the recipes that come with truing.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod classifiers;
mod distillations;
mod embeddings;
mod evaluations;
mod exports;
mod judges;
mod labels;
mod merge_searches;
mod pairs;
mod pas_evaluations;
mod plans;
mod policies;
mod preferences;
mod qualities;
mod ranks;
mod recipes;
mod resumes;
mod rows;
mod runs;
mod scripted;
mod selections;
mod setup;
#[path = "../../../truing/tests/main/tiny_model.rs"]
mod tiny_model;
mod verify;
