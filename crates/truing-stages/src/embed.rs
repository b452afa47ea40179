//! Text encoders.

pub mod train;
