//! Evaluations and searches for a merge, on scripted models and a tiny one.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod evaluations;
mod merge_searches;
#[path = "../../../truing-stages/tests/main/scripted.rs"]
#[allow(dead_code, reason = "shared with the tests of truing-stages")]
mod scripted;
#[path = "../../../truing-stages/tests/main/setup.rs"]
#[allow(dead_code, reason = "shared with the tests of truing-stages")]
mod setup;
#[path = "../../../truing/tests/main/tiny_model.rs"]
mod tiny_model;
