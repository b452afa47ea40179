//! Stages that make data with models, run with models that answer by a script.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod responses;
mod scripted;
