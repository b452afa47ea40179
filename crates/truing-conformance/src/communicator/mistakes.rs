//! Ranks that no longer run the same program get an error, the same on every rank, and can go on together.

use truing_types::{CommunicationError, Communicator, Rank};

/// A collective of blocks.
type Blocks = fn(&dyn Communicator, &[f32], &mut [f32]) -> Result<(), CommunicationError>;
const BLOCKS: [(&str, Blocks); 3] = [
    ("all_to_all", |communicator, send, receive| communicator.all_to_all(send, receive)),
    ("all_gather", |communicator, send, receive| communicator.all_gather(send, receive)),
    ("reduce_scatter_sum", |communicator, send, receive| communicator.reduce_scatter_sum(send, receive)),
];

/// Any collective, with little to carry.
type Call = fn(&dyn Communicator) -> Result<(), CommunicationError>;
const CALLS: [(&str, Call); 11] = [
    ("all_reduce_sum", |communicator| communicator.all_reduce_sum(&mut [1.0; 3])),
    ("all_reduce_sum_f64", |communicator| communicator.all_reduce_sum_f64(&mut [1.0; 3])),
    ("broadcast", |communicator| communicator.broadcast(&mut [1.0; 3], Rank(0))),
    ("broadcast_bytes", |communicator| communicator.broadcast_bytes(&mut vec![1; 3], Rank(0))),
    ("all_gather_bytes", |communicator| communicator.all_gather_bytes(&[1; 3]).map(drop)),
    ("all_to_all", |communicator| communicator.all_to_all(&[1.0; 3], &mut [0.0; 3])),
    ("all_gather", |communicator| communicator.all_gather(&[1.0; 3], &mut [0.0; 3])),
    ("reduce_scatter_sum", |communicator| communicator.reduce_scatter_sum(&[1.0; 3], &mut [0.0; 3])),
    ("gather_bytes", |communicator| communicator.gather_bytes(&[1; 3], Rank(0)).map(drop)),
    ("split", |communicator| communicator.split(0).map(drop)),
    ("barrier", |communicator| communicator.barrier()),
];

/// The ranks are together again: what they carry now arrives.
fn check_together(communicator: &dyn Communicator) {
    let mut sum = [1.0];
    communicator.all_reduce_sum(&mut sum).unwrap();
    assert_eq!(sum, [communicator.world_size() as f32]);
}

/// The same wrong buffers on every rank.
pub fn buffers_that_do_not_fit(communicator: &dyn Communicator) {
    let n_ranks = communicator.world_size();
    for (operation, run) in BLOCKS {
        let error = run(communicator, &vec![1.0; 2 * n_ranks], &mut vec![0.0; 3 * n_ranks + 1]).unwrap_err();
        let is_of_rank_0 = matches!(
            error,
            CommunicationError::LengthMismatch { operation: found, rank: 0, .. } if found == operation
        );
        assert!(is_of_rank_0, "{error}");
        check_together(communicator);
    }
}

/// The last rank has longer buffers.
pub fn different_lengths(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    if n_ranks == 1 {
        return;
    }
    let n_blocks = if rank + 1 == n_ranks { 3 } else { 2 };
    let numbers = vec![1.0; n_blocks * n_ranks];
    for (operation, n_send, n_receive, expected, found) in [
        ("all_to_all", n_blocks * n_ranks, n_blocks * n_ranks, 2 * n_ranks, 3 * n_ranks),
        ("all_gather", n_blocks, n_blocks * n_ranks, 2, 3),
        ("reduce_scatter_sum", n_blocks * n_ranks, n_blocks, 2 * n_ranks, 3 * n_ranks),
    ] {
        let (_, run) = BLOCKS.into_iter().find(|(name, _)| *name == operation).unwrap();
        let error = run(communicator, &numbers[..n_send], &mut vec![0.0; n_receive]).unwrap_err();
        let rank = n_ranks - 1;
        assert_eq!(error, CommunicationError::LengthMismatch { operation, rank, expected, found });
    }
    let mismatch = |operation| CommunicationError::LengthMismatch {
        operation,
        rank: n_ranks - 1,
        expected: 2,
        found: 3,
    };
    let sum = communicator.all_reduce_sum(&mut vec![0.0; n_blocks]);
    assert_eq!(sum, Err(mismatch("all_reduce_sum")));
    let sum = communicator.all_reduce_sum_f64(&mut vec![0.0; n_blocks]);
    assert_eq!(sum, Err(mismatch("all_reduce_sum_f64")));
    let copied = communicator.broadcast(&mut vec![0.0; n_blocks], Rank(0));
    assert_eq!(copied, Err(mismatch("broadcast")));
    check_together(communicator);
}

/// Every collective against another one, on the last rank.
pub fn different_collectives(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    if n_ranks == 1 {
        return;
    }
    for (i, (operation, call)) in CALLS.into_iter().enumerate() {
        let (other, other_call) = CALLS[(i + 4) % CALLS.len()];
        let found = if rank + 1 == n_ranks { other_call(communicator) } else { call(communicator) };
        let mismatch = CommunicationError::OperationMismatch { operation, rank: n_ranks - 1, found: other };
        assert_eq!(found, Err(mismatch));
        check_together(communicator);
    }
}

/// Every rank takes itself for the root.
pub fn different_roots(communicator: &dyn Communicator) {
    let root = communicator.rank();
    if communicator.world_size() == 1 {
        return;
    }
    let mismatch = |operation| CommunicationError::RootMismatch { operation, rank: 1, expected: 0, found: 1 };
    assert_eq!(communicator.broadcast(&mut [1.0], root), Err(mismatch("broadcast")));
    assert_eq!(communicator.broadcast_bytes(&mut vec![1], root), Err(mismatch("broadcast_bytes")));
    assert_eq!(communicator.gather_bytes(&[1], root), Err(mismatch("gather_bytes")));
    check_together(communicator);
}

/// Ranks of the error are those of the group.
pub fn in_a_group(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    let pair = communicator.split(rank / 2).unwrap();
    let found = if rank == 1 { pair.barrier() } else { pair.all_gather_bytes(&[]).map(drop) };
    let (operation, found_operation) = ("all_gather_bytes", "barrier");
    let mismatch = CommunicationError::OperationMismatch { operation, rank: 1, found: found_operation };
    let is_wrong = rank < 2 && n_ranks > 1;
    assert_eq!(found, if is_wrong { Err(mismatch) } else { Ok(()) });
    check_together(communicator);
}
