//! A server on loopback with a small model of random weights. What it says is forced by grammars where a test needs
//! words.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot set up should fail and say why"
)]

mod chat;
mod completions;
mod determinism;
mod fields;
mod limits;
mod proxy;
mod setup;
mod vectors;
mod weights;
