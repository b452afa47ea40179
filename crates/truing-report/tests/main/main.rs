//! The crate's integration tests.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod coverage;
mod page;
mod tensorboard_reader;
