//! The crate's integration tests.

mod tensorboard_reader;
