//! What every implementation of an interface has to do, as checks that its crate runs in its tests: [`engine`] for
//! [`Engine`](truing_model::Engine), [`communicator`] for [`Communicator`](truing_types::Communicator). No program
//! depends on this crate.

pub mod communicator;
pub mod engine;
