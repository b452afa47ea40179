//! A project that is served on loopback: what people send is stored, and read back.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up should fail and say why")]

mod outputs;
mod people;
mod recipes;
mod restarts;
mod setup;
mod widgets;
