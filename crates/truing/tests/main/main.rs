//! The command line as a user meets it: the real binary, its streams and exit statuses.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod adapters;
mod basics;
mod command;
mod datasets;
mod embed;
mod errors;
mod inspect;
mod judging;
mod memory;
mod merge;
mod pas;
mod ranks;
mod score;
mod sft;
mod talk;
mod tiny_model;
