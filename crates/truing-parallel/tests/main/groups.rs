//! Groups of ranks: their numbers, and that what happens in one does not reach another.

use std::sync::Arc;

use proptest::prelude::*;
use truing_conformance::communicator::groups::check_members;
use truing_parallel::{Solo, thread_world};
use truing_types::{CommunicationError, Communicator, Groups, Rank};

use crate::on_every_rank;

fn members_of(colour: impl Fn(usize) -> usize, rank: usize, world_size: usize) -> Vec<usize> {
    (0..world_size).filter(|&other| colour(other) == colour(rank)).collect()
}

#[test]
fn groups_of_a_world_of_six_by_hand() {
    for (sequence_size, sequences, data) in [
        (1, vec![vec![0], vec![1], vec![2], vec![3], vec![4], vec![5]], vec![vec![0, 1, 2, 3, 4, 5]]),
        (2, vec![vec![0, 1], vec![2, 3], vec![4, 5]], vec![vec![0, 2, 4], vec![1, 3, 5]]),
        (3, vec![vec![0, 1, 2], vec![3, 4, 5]], vec![vec![0, 3], vec![1, 4], vec![2, 5]]),
        (6, vec![vec![0, 1, 2, 3, 4, 5]], vec![vec![0], vec![1], vec![2], vec![3], vec![4], vec![5]]),
    ] {
        on_every_rank(6, |world| {
            let rank = world.rank().0;
            let groups = Groups::new(world, sequence_size).unwrap();
            let of_rank = |groups: &[Vec<usize>]| groups.iter().find(|group| group.contains(&rank)).cloned();
            check_members(&*groups.sequence, rank, &of_rank(&sequences).unwrap());
            check_members(&*groups.data, rank, &of_rank(&data).unwrap());
            check_members(&*groups.world, rank, &[0, 1, 2, 3, 4, 5]);
        });
    }
}

#[test]
fn a_size_that_does_not_divide_the_world_is_an_error_on_every_rank() {
    for (world_size, sequence_size) in [(1, 0), (1, 2), (3, 2), (4, 3), (4, 8)] {
        let found = on_every_rank(world_size, |world| Groups::new(Arc::clone(&world), sequence_size).err());
        let uneven = CommunicationError::UnevenGroups { world_size, sequence_size };
        assert_eq!(found, vec![Some(uneven); world_size]);
    }
    let uneven = CommunicationError::UnevenGroups { world_size: 1, sequence_size: 2 };
    assert_eq!(Groups::new(Arc::new(Solo), 2).err().unwrap(), uneven);
    assert_eq!(uneven.to_string(), "1 ranks cannot be divided into sequence groups of 2");
}

#[test]
fn a_peer_lost_before_a_split_is_an_error() {
    let mut world = thread_world(2);
    drop(world.pop());
    let lost = CommunicationError::PeerLost { operation: "split" };
    assert_eq!(world[0].split(0).err().unwrap(), lost);
}

#[test]
fn a_lost_peer_is_an_error_in_its_groups_and_in_no_other() {
    let found = on_every_rank(4, |world| {
        let rank = world.rank().0;
        let pair = world.split(rank / 2).unwrap();
        if rank == 3 {
            return None;
        }
        let in_pair = pair.all_reduce_sum(&mut [1.0]);
        Some((in_pair, world.barrier()))
    });
    let lost = |operation| Err(CommunicationError::PeerLost { operation });
    let beside = Some((Ok(()), lost("barrier")));
    assert_eq!(found, [beside.clone(), beside, Some((lost("all_reduce_sum"), lost("barrier"))), None]);
}

#[test]
fn errors_in_a_group_stay_in_it_and_name_ranks_of_the_group() {
    let found = on_every_rank(4, |world| {
        let rank = world.rank().0;
        let pair = world.split(rank / 2).unwrap();
        let lengths = pair.all_reduce_sum(&mut vec![0.0; if rank == 3 { 2 } else { 1 }]);
        let operations = match rank {
            3 => pair.gather_bytes(&[], Rank(0)).map(drop),
            _ => pair.barrier(),
        };
        world.barrier().unwrap();
        (lengths, operations)
    });
    let operation = "all_reduce_sum";
    let lengths = CommunicationError::LengthMismatch { operation, rank: 1, expected: 1, found: 2 };
    let (operation, rank, found_operation) = ("barrier", 1, "gather_bytes");
    let operations = CommunicationError::OperationMismatch { operation, rank, found: found_operation };
    let (fine, wrong) = ((Ok(()), Ok(())), (Err(lengths), Err(operations)));
    assert_eq!(found, [fine.clone(), fine, wrong.clone(), wrong]);
}

#[test]
fn a_rank_that_does_not_split_is_an_error_on_every_rank() {
    let found = on_every_rank(2, |world| match world.rank().0 {
        0 => world.split(0).map(drop),
        _ => world.barrier(),
    });
    let (operation, rank) = ("split", 1);
    let mismatch = CommunicationError::OperationMismatch { operation, rank, found: "barrier" };
    assert_eq!(found, [Err(mismatch.clone()), Err(mismatch)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Every rank follows the same random program of collectives in the world and in two random partitions of it.
    #[test]
    fn interleaved_collectives_of_the_world_and_of_groups_do_not_meet(
        colours in prop::collection::vec((0_usize..3, 0_usize..2), 1..6),
        program in prop::collection::vec((0_usize..3, 0_usize..4), 1..30),
    ) {
        let size = colours.len();
        on_every_rank(size, |world| {
            let rank = world.rank().0;
            let first = world.split(colours[rank].0).unwrap();
            let second = world.split(colours[rank].1).unwrap();
            for (step, &(place, operation)) in program.iter().enumerate() {
                let (group, members) = match place {
                    0 => (&world, (0..size).collect()),
                    1 => (&first, members_of(|rank| colours[rank].0, rank, size)),
                    _ => (&second, members_of(|rank| colours[rank].1, rank, size)),
                };
                check_step(&**group, rank, &members, operation, step);
            }
        });
    }
}

/// One collective of a random program, against what the members of the group bring to it.
fn check_step(group: &dyn Communicator, world_rank: usize, members: &[usize], operation: usize, step: usize) {
    let value = |from: usize, to: usize| (1000 * step + 10 * from + to) as f32;
    let send: Vec<f32> = members.iter().map(|&to| value(world_rank, to)).collect();
    let mut receive = vec![0.0; members.len()];
    match operation {
        0 => {
            group.all_to_all(&send, &mut receive).unwrap();
            assert_eq!(receive, members.iter().map(|&from| value(from, world_rank)).collect::<Vec<_>>());
        }
        1 => {
            group.all_gather(&[value(world_rank, 0)], &mut receive).unwrap();
            assert_eq!(receive, members.iter().map(|&from| value(from, 0)).collect::<Vec<_>>());
        }
        2 => {
            group.reduce_scatter_sum(&send, &mut receive[..1]).unwrap();
            assert_eq!(receive[0], members.iter().map(|&from| value(from, world_rank)).sum::<f32>());
        }
        _ => {
            let root = Rank(step % members.len());
            let gathered = group.gather_bytes(&[world_rank as u8], root).unwrap();
            let all = members.iter().map(|&member| vec![member as u8]).collect();
            assert_eq!(gathered, (group.rank() == root).then_some(all));
        }
    }
}
