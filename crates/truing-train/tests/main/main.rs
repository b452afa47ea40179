//! The promises of the trainer on a small model in the CPU engine: the cut of a step changes nothing, k changes
//! nothing, ranks change nothing, and a resumed run is the same run.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod broken_numbers;
mod cluster;
mod decoding_time;
mod enumerable_policy;
mod invariance;
mod model;
mod resume;
mod sharded;
