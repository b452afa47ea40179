//! Every implementation of `Communicator` answers the same questions the same way.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod blocks;
mod groups;

use std::sync::Arc;
use std::thread;

use truing_parallel::{Solo, thread_world};
use truing_types::{CommunicationError, Communicator, Rank, all_gather_dealt, dealt};

/// Runs `body` on every rank of a world of threads, and returns the results in rank order.
fn on_every_rank<T: Send>(world_size: usize, body: impl Fn(Arc<dyn Communicator>) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let start = |rank| scope.spawn(|| body(Arc::new(rank)));
        let ranks: Vec<_> = thread_world(world_size).into_iter().map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// What each rank must find, run on all ranks of a world at once.
fn check(communicator: &dyn Communicator) {
    let (rank, size) = (communicator.rank().0, communicator.world_size());
    assert!(rank < size);
    for round in 0..50 {
        let mut singles = [rank as f32 + 0.5, 1.0, -(round as f32)];
        communicator.all_reduce_sum(&mut singles).unwrap();
        let ranks = (0..size).sum::<usize>() as f32;
        assert_eq!(singles, [ranks + 0.5 * size as f32, size as f32, -((round * size) as f32)]);

        let mut doubles = [1.0 / (rank as f64 + 3.0)];
        communicator.all_reduce_sum_f64(&mut doubles).unwrap();
        let in_rank_order: f64 = (0..size).map(|r| 1.0 / (r as f64 + 3.0)).sum();
        assert_eq!(doubles, [in_rank_order], "sums run in rank order, bit for bit");

        let root = round % size;
        let mut values = [rank as f32; 2];
        communicator.broadcast(&mut values, Rank(root)).unwrap();
        assert_eq!(values, [root as f32; 2]);
        communicator.barrier().unwrap();

        // Lengths differ by rank, and one is empty.
        let bytes_of = |rank: usize| vec![rank as u8; 3 * rank];
        let mut bytes = bytes_of(rank);
        assert_eq!(
            communicator.all_gather_bytes(&bytes).unwrap(),
            (0..size).map(bytes_of).collect::<Vec<_>>()
        );
        communicator.broadcast_bytes(&mut bytes, Rank(root)).unwrap();
        assert_eq!(bytes, bytes_of(root));

        // Lists that are dealt come back in their order, bit for bit, whether or not every rank has one.
        for n_lists in [0, 1, size + 1, 7] {
            let list =
                |i: usize| vec![i as f32, f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE / 3.0][..i % 5].to_vec();
            let mine = dealt(n_lists, communicator).map(list).collect();
            let all = all_gather_dealt(communicator, mine).unwrap();
            assert_eq!(all, (0..n_lists).map(list).collect::<Vec<_>>());
        }
    }
    communicator.all_reduce_sum(&mut []).unwrap();
    blocks::check(communicator);
    groups::check(communicator);
}

#[test]
fn a_world_of_one_conforms() {
    check(&Solo);
}

#[test]
fn worlds_of_threads_conform() {
    for size in [1, 2, 3, 4] {
        on_every_rank(size, |rank| check(&*rank));
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

#[test]
fn buffers_of_different_lengths_are_an_error_on_every_rank() {
    let found = on_every_rank(2, |communicator| {
        communicator.all_reduce_sum(&mut vec![0.0; 1 + communicator.rank().0])
    });
    let (operation, rank, expected, found_length) = ("all_reduce_sum", 1, 1, 2);
    let mismatch = CommunicationError::LengthMismatch { operation, rank, expected, found: found_length };
    assert_eq!(found, [Err(mismatch.clone()), Err(mismatch)]);
}

#[test]
fn ranks_in_different_collectives_are_an_error_on_every_rank() {
    let found = on_every_rank(2, |communicator| match communicator.rank().0 {
        0 => communicator.barrier(),
        _ => communicator.broadcast_bytes(&mut Vec::new(), Rank(0)),
    });
    let (operation, rank) = ("barrier", 1);
    let mismatch = CommunicationError::OperationMismatch { operation, rank, found: "broadcast_bytes" };
    assert_eq!(found, [Err(mismatch.clone()), Err(mismatch)]);
}
