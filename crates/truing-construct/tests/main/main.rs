//! The builders of `truing build`, each with a writer and a checker that answer from a file of replies, and with
//! models that misbehave. No network.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod constraints;
mod mathematics;
mod misbehaviour;
mod resumes;
mod reversal;
#[path = "../../../truing-stages/tests/main/scripted.rs"]
#[allow(dead_code, reason = "shared with the tests of truing-stages, which use all of it")]
mod scripted;
mod setup;
mod system_messages;
