//! Groups of ranks: their members, and that what happens in one does not reach another.

use std::sync::Arc;

use truing_types::{CommunicationError, Communicator, Groups, Rank};

type Colour = fn(usize) -> usize;

fn members_of(colour: impl Fn(usize) -> usize, rank: usize, n_ranks: usize) -> Vec<usize> {
    (0..n_ranks).filter(|&other| colour(other) == colour(rank)).collect()
}

/// Checks that `group` is the group of these ranks of the world, as `world_rank` sees it.
///
/// # Panics
/// When it is another one.
pub fn check_members(group: &dyn Communicator, world_rank: usize, members: &[usize]) {
    assert_eq!(group.world_size(), members.len());
    assert_eq!(members[group.rank().0], world_rank);
    let mut all = vec![0.0; members.len()];
    group.all_gather(&[world_rank as f32], &mut all).unwrap();
    assert_eq!(all, members.iter().map(|&member| member as f32).collect::<Vec<_>>());
    let mut sum = [world_rank as f32];
    group.all_reduce_sum(&mut sum).unwrap();
    assert_eq!(sum, [members.iter().sum::<usize>() as f32]);
}

/// Even and odd ranks, each rank alone, and everybody; several groups are in use at the same time.
pub fn of_one_colour(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    let colours: [Colour; 3] = [|rank| rank % 2, |rank| 100 + rank, |_| usize::MAX];
    let groups: Vec<_> = colours.iter().map(|colour| communicator.split(colour(rank)).unwrap()).collect();
    for _ in 0..10 {
        for (colour, group) in colours.iter().zip(&groups) {
            check_members(&**group, rank, &members_of(*colour, rank, n_ranks));
        }
        check_members(communicator, rank, &(0..n_ranks).collect::<Vec<_>>());
    }
}

/// Pairs, and each rank of a pair alone.
pub fn split_further(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    let pair = communicator.split(rank / 2).unwrap();
    let single = pair.split(pair.rank().0).unwrap();
    check_members(&*pair, rank, &members_of(|rank| rank / 2, rank, n_ranks));
    check_members(&*single, rank, &[rank]);
}

/// Ranks may drop a group at different times.
pub fn dropped(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    let pairs = |rank: usize| rank / 2;
    let (pair, everybody) = (communicator.split(pairs(rank)).unwrap(), communicator.split(0).unwrap());
    let kept = (rank % 2 == 0).then_some(pair);
    check_members(&*everybody, rank, &(0..n_ranks).collect::<Vec<_>>());
    drop(kept);
    let pair = communicator.split(pairs(rank)).unwrap();
    check_members(&*pair, rank, &members_of(pairs, rank, n_ranks));
    check_members(communicator, rank, &(0..n_ranks).collect::<Vec<_>>());
}

/// Every rank follows the same program of collectives in the world and in two partitions of it.
pub fn interleaved(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    let colours: [Colour; 2] = [|rank| rank % 3, |rank| usize::from(rank > 1)];
    let groups = colours.map(|colour| communicator.split(colour(rank)).unwrap());
    for step in 0..60_usize {
        let place = step * 7 % 5 % 3;
        let (group, members) = match place.checked_sub(1) {
            None => (communicator, (0..n_ranks).collect()),
            Some(i) => (&*groups[i], members_of(colours[i], rank, n_ranks)),
        };
        check_step(group, rank, &members, step * 3 % 4, step);
    }
}

/// One collective, against what the members of the group bring to it.
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

/// Sequence groups of every size, and an error where the size does not divide the world.
pub fn two_dimensions(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    for sequence_size in 0..=n_ranks + 1 {
        // The same ranks, as a communicator that can be shared.
        let world: Arc<dyn Communicator> = communicator.split(0).unwrap();
        match Groups::new(world, sequence_size) {
            Ok(groups) => {
                check_members(
                    &*groups.sequence,
                    rank,
                    &members_of(|rank| rank / sequence_size, rank, n_ranks),
                );
                check_members(&*groups.data, rank, &members_of(|rank| rank % sequence_size, rank, n_ranks));
                check_members(&*groups.world, rank, &(0..n_ranks).collect::<Vec<_>>());
            }
            Err(error) => {
                let expected = CommunicationError::UnevenGroups { world_size: n_ranks, sequence_size };
                assert_eq!(error, expected);
                assert!(sequence_size == 0 || n_ranks % sequence_size > 0);
            }
        }
    }
}
