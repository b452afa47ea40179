//! The command line as a user meets it: the real binary, its streams and exit statuses.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod adapters;
mod annotate;
mod basics;
mod bench;
mod cluster;
mod command;
mod datasets;
mod devices;
mod embed;
mod errors;
mod evaluations;
mod inspect;
mod iterate;
mod judging;
mod kills;
mod memory;
mod merge;
mod pas;
mod pipeline;
mod plan_by_name;
mod prefer;
mod ranks;
mod rehearse;
mod respond;
mod score;
mod sft;
mod talk;
mod tiny_model;
