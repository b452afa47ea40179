//! Every implementation of `Communicator` answers the same questions the same way.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod blocks;
mod groups;
mod joining;
mod tcp;

use std::sync::Arc;
use std::thread;

use truing_conformance::communicator;
use truing_parallel::{Solo, run_thread_world, thread_world};
use truing_types::{CommunicationError, Communicator};

/// Runs `body` on every rank of a world of threads, and returns the results in rank order.
fn on_every_rank<T: Send>(world_size: usize, body: impl Fn(Arc<dyn Communicator>) -> T + Sync) -> Vec<T> {
    run_thread_world(world_size, |rank| body(Arc::new(rank)))
}

#[test]
fn a_world_of_one_conforms() {
    communicator::run_all(&Solo);
}

#[test]
fn worlds_of_threads_conform() {
    for size in [1, 2, 3, 4] {
        on_every_rank(size, |rank| communicator::run_all(&*rank));
    }
}

#[test]
fn a_lost_peer_is_an_error_and_not_a_hang() {
    let mut world = thread_world(3);
    drop(world.pop());
    thread::scope(|scope| {
        for rank in world {
            scope.spawn(move || {
                let lost = rank.barrier();
                assert_eq!(lost, Err(CommunicationError::PeerLost { operation: "barrier" }));
            });
        }
    });
}
