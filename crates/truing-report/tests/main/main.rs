//! The crate's integration tests.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]
#![allow(clippy::print_stdout, reason = "figures, and why a test was skipped")]

mod coverage;
mod evaluation;
mod page;
mod pipeline;
mod tensorboard_reader;
