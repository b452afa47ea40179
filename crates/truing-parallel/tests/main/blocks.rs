//! Collectives on blocks of numbers, and bytes gathered on one rank.

use std::sync::Arc;

use proptest::prelude::*;
use truing_parallel::Solo;
use truing_types::{CommunicationError, Communicator, Rank};

use crate::on_every_rank;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn blocks_of_three_ranks_by_hand() {
    let found = on_every_rank(3, |communicator| {
        let send = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.5]][communicator.rank().0];
        let (mut transposed, mut all, mut sum) = ([0.0; 3], [0.0; 9], [0.0]);
        communicator.all_to_all(&send, &mut transposed).unwrap();
        communicator.all_gather(&send, &mut all).unwrap();
        communicator.reduce_scatter_sum(&send, &mut sum).unwrap();
        (transposed, all, sum[0])
    });
    let all = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.5];
    assert_eq!(found[0], ([1.0, 4.0, 7.0], all, 12.0));
    assert_eq!(found[1], ([2.0, 5.0, 8.0], all, 15.0));
    assert_eq!(found[2], ([3.0, 6.0, 9.5], all, 18.5));
}

#[test]
fn sums_run_in_rank_order_and_in_double_precision() {
    // In single precision the ones would vanish beside 2^24; in another order the last sum would be 0.
    let found = on_every_rank(4, |communicator| {
        let values = [[16_777_216.0, 1e30], [1.0, 1.0], [1.0, -1e30], [-16_777_216.0, 1.0]];
        let [large, cancels] = values[communicator.rank().0];
        let mut sum = [0.0; 2];
        let send = [large, cancels, large, cancels, large, cancels, large, cancels];
        communicator.reduce_scatter_sum(&send, &mut sum).unwrap();
        sum
    });
    assert_eq!(found, [[2.0, 1.0]; 4]);
}

/// Values of every rank for a world of 1 to 4, `n_blocks(world_size)` blocks of 0 to 5 numbers each.
fn worlds(n_blocks: fn(usize) -> usize) -> impl Strategy<Value = Vec<Vec<f32>>> {
    let number = prop_oneof![-1e3_f32..1e3, any::<f32>().prop_filter("a number", |value| !value.is_nan())];
    (1_usize..5, 0_usize..6).prop_flat_map(move |(size, n_block)| {
        let values = prop::collection::vec(number.clone(), n_blocks(size) * n_block);
        prop::collection::vec(values, size)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn all_to_all_is_a_transposition_and_its_own_inverse(sent in worlds(|size| size)) {
        let size = sent.len();
        let n_block = sent[0].len() / size;
        let found = on_every_rank(size, |communicator| {
            let send = &sent[communicator.rank().0];
            let (mut there, mut back) = (vec![0.0; send.len()], vec![0.0; send.len()]);
            communicator.all_to_all(send, &mut there).unwrap();
            communicator.all_to_all(&there, &mut back).unwrap();
            (there, back)
        });
        for (rank, (there, back)) in found.iter().enumerate() {
            let expected: Vec<f32> =
                sent.iter().flat_map(|send| send[rank * n_block..][..n_block].to_vec()).collect();
            prop_assert_eq!(bits(there), bits(&expected));
            prop_assert_eq!(bits(back), bits(&sent[rank]));
        }
    }

    #[test]
    fn all_gather_joins_in_rank_order(sent in worlds(|_| 1)) {
        let found = on_every_rank(sent.len(), |communicator| {
            let send = &sent[communicator.rank().0];
            let mut all = vec![0.0; send.len() * sent.len()];
            communicator.all_gather(send, &mut all).unwrap();
            all
        });
        for all in found {
            prop_assert_eq!(bits(&all), bits(&sent.concat()));
        }
    }

    #[test]
    fn reduce_scatter_and_all_gather_are_all_reduce(sent in worlds(|size| size)) {
        let size = sent.len();
        let found = on_every_rank(size, |communicator| {
            let send = &sent[communicator.rank().0];
            let mut block = vec![0.0; send.len() / size];
            communicator.reduce_scatter_sum(send, &mut block).unwrap();
            let mut in_two_steps = vec![0.0; send.len()];
            communicator.all_gather(&block, &mut in_two_steps).unwrap();
            let mut in_one = send.clone();
            communicator.all_reduce_sum(&mut in_one).unwrap();
            (in_two_steps, in_one)
        });
        let sum = |i: usize| sent[1..].iter().fold(f64::from(sent[0][i]), |sum, values| sum + f64::from(values[i]));
        let expected: Vec<f32> = (0..sent[0].len()).map(|i| sum(i) as f32).collect();
        for (in_two_steps, in_one) in found {
            prop_assert_eq!(bits(&in_two_steps), bits(&expected));
            prop_assert_eq!(bits(&in_one), bits(&expected));
        }
    }
}

type Operation = fn(&dyn Communicator, &[f32], &mut [f32]) -> Result<(), CommunicationError>;
const OPERATIONS: [(&str, Operation); 3] = [
    ("all_to_all", |communicator, send, receive| communicator.all_to_all(send, receive)),
    ("all_gather", |communicator, send, receive| communicator.all_gather(send, receive)),
    ("reduce_scatter_sum", |communicator, send, receive| communicator.reduce_scatter_sum(send, receive)),
];

/// The error of a collective in which rank `r` has buffers of `lengths[r]` elements; the same on every rank.
fn error_of(operation: Operation, lengths: &[(usize, usize)]) -> CommunicationError {
    let found = on_every_rank(lengths.len(), |communicator| {
        let (n_send, n_receive) = lengths[communicator.rank().0];
        let found = operation(&*communicator, &vec![1.0; n_send], &mut vec![0.0; n_receive]);
        communicator.barrier().unwrap();
        found.unwrap_err()
    });
    assert!(found.iter().all(|error| *error == found[0]), "{found:?}");
    found[0].clone()
}

#[test]
fn buffers_that_do_not_fit_are_an_error_on_every_rank() {
    // (operation, (send, receive) of both ranks, (rank, expected, found))
    for (i, lengths, (rank, expected, found)) in [
        (0, [(4, 4), (6, 6)], (1, 4, 6)),
        (0, [(4, 4), (4, 2)], (1, 4, 2)),
        (0, [(5, 5), (5, 5)], (0, 4, 5)),
        (0, [(2, 4), (4, 4)], (0, 4, 2)),
        (1, [(2, 4), (3, 6)], (1, 2, 3)),
        (1, [(2, 2), (2, 4)], (0, 4, 2)),
        (2, [(4, 2), (6, 3)], (1, 4, 6)),
        (2, [(2, 2), (4, 2)], (0, 4, 2)),
    ] {
        let (operation, run) = OPERATIONS[i];
        let mismatch = CommunicationError::LengthMismatch { operation, rank, expected, found };
        assert_eq!(error_of(run, &lengths), mismatch);
    }
}

#[test]
fn buffers_that_do_not_fit_are_an_error_in_a_world_of_one() {
    for (operation, run) in OPERATIONS {
        let mismatch = CommunicationError::LengthMismatch { operation, rank: 0, expected: 2, found: 3 };
        assert_eq!(run(&Solo, &[0.0; 2], &mut [0.0; 3]), Err(mismatch));
    }
}

#[test]
fn every_collective_notices_ranks_in_another_one() {
    for (i, (operation, run)) in OPERATIONS.into_iter().enumerate() {
        let found = on_every_rank(3, |communicator| match communicator.rank().0 {
            2 => communicator.gather_bytes(&[], Rank(0)).map(drop).unwrap_err(),
            _ => run(&*communicator, &[0.0; 3], &mut [0.0; 3]).unwrap_err(),
        });
        let mismatch = CommunicationError::OperationMismatch { operation, rank: 2, found: "gather_bytes" };
        assert_eq!(found, vec![mismatch; 3], "{i}");
    }
}

#[test]
fn every_collective_notices_a_lost_peer() {
    for (operation, run) in OPERATIONS {
        let found = on_every_rank(3, |communicator: Arc<dyn Communicator>| {
            if communicator.rank().0 == 1 {
                return None;
            }
            let gathered = run(&*communicator, &[0.0; 3], &mut [0.0; 3]).unwrap_err();
            Some((gathered, communicator.gather_bytes(&[], Rank(0)).unwrap_err()))
        });
        let lost = |operation| CommunicationError::PeerLost { operation };
        let both = Some((lost(operation), lost("gather_bytes")));
        assert_eq!(found, [both.clone(), None, both]);
    }
}
