//! Decoding with a small engine of our own, and with real weights where they are found.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot set up should fail and say why"
)]

mod batch;
mod chat;
mod decoding;
mod parrot;
mod prompt_lookup;
mod real_weights;
