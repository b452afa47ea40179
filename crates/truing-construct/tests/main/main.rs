//! Stages that ask models, on scripted ones; and what holds for the recipes of all stages.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod builds;
mod labels;
mod pairs;
mod pas_evaluations;
mod prefer;
mod qualities;
mod recipes;
mod replies;
mod response_limits;
mod responses;
mod rows;
mod scorers;
#[path = "../../../truing-stages/tests/main/scripted.rs"]
#[allow(dead_code, reason = "shared with the tests of truing-stages")]
mod scripted;
mod selections;
mod settings;
#[path = "../../../truing-stages/tests/main/setup.rs"]
#[allow(dead_code, reason = "shared with the tests of truing-stages")]
mod setup;
#[path = "../../../truing/tests/main/tiny_model.rs"]
mod tiny_model;
