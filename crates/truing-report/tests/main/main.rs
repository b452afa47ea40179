//! The crate's integration tests.

mod page;
mod tensorboard_reader;
