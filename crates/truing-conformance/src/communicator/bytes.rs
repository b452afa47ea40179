//! Bytes, whose lengths differ between ranks.

use truing_types::{Communicator, Rank, all_gather_dealt, dealt};

/// What a rank brings: 0, 3, 6, ... bytes, or none on the ranks after the first ones.
fn cases(rank: usize, n_ranks: usize) -> [Vec<u8>; 4] {
    let growing = vec![rank as u8; 3 * rank];
    let shrinking = vec![rank as u8 ^ 0xff; 5 * (n_ranks - rank)];
    let first_alone = vec![9; if rank == 0 { 11 } else { 0 }];
    [growing, shrinking, first_alone, Vec::new()]
}

/// Uneven and empty ones, in rank order.
pub fn any_length_reaches_all(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    for (i, bytes) in cases(rank, n_ranks).iter().enumerate() {
        let all = communicator.all_gather_bytes(bytes).unwrap();
        assert_eq!(all, (0..n_ranks).map(|rank| cases(rank, n_ranks)[i].clone()).collect::<Vec<_>>());
    }
}

/// The other ranks get nothing.
pub fn gathered_on_the_root_alone(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    for root in 0..n_ranks {
        for (i, bytes) in cases(rank, n_ranks).iter().enumerate() {
            let gathered = communicator.gather_bytes(bytes, Rank(root)).unwrap();
            let all = || (0..n_ranks).map(|rank| cases(rank, n_ranks)[i].clone()).collect();
            assert_eq!(gathered, (rank == root).then(all));
        }
    }
}

/// Longer and shorter ones.
pub fn root_replaces_all(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    for root in 0..n_ranks {
        for (i, mut bytes) in cases(rank, n_ranks).into_iter().enumerate() {
            communicator.broadcast_bytes(&mut bytes, Rank(root)).unwrap();
            assert_eq!(bytes, cases(root, n_ranks)[i]);
        }
    }
}

/// Longer than a message at once may be, where the implementation has such a limit; the last rank brings one byte.
pub fn long_bytes(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    let bytes = |rank: usize| -> Vec<u8> {
        let n = if rank + 1 == n_ranks && rank > 0 { 1 } else { 250_007 + rank };
        (0..n).map(|i| (i * 7 + rank) as u8).collect()
    };
    let all = communicator.all_gather_bytes(&bytes(rank)).unwrap();
    assert!(all.iter().enumerate().all(|(rank, one)| *one == bytes(rank)), "long bytes of all ranks");
    let mut copied = bytes(rank);
    communicator.broadcast_bytes(&mut copied, Rank(0)).unwrap();
    assert!(copied == bytes(0), "long bytes of one rank");
}

/// Bit for bit, whether or not every rank has one.
pub fn dealt_lists(communicator: &dyn Communicator) {
    for n_lists in [0, 1, communicator.world_size() + 1, 7] {
        let special = [0.5, f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE / 3.0];
        let list = |i: usize| special[..i % 5].to_vec();
        let mine = dealt(n_lists, communicator).map(list).collect();
        let all = all_gather_dealt(communicator, mine).unwrap();
        assert_eq!(all, (0..n_lists).map(list).collect::<Vec<_>>());
    }
}
