//! The client against a real server on this machine that misbehaves on demand, and the cache before it. No test waits:
//! the clock is one that jumps, and only a server that is silent on purpose costs its timeout.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod answers;
mod caching;
mod failures;
mod limits;
mod misbehaving;
mod server;
mod stopping;
