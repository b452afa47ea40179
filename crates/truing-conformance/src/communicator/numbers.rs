//! Sums, blocks and broadcasts of numbers.

use truing_types::{Communicator, Rank, Seed};

/// Lengths around the number of ranks, where slices of ranks are empty or uneven.
fn lengths(n_ranks: usize) -> [usize; 6] {
    [0, 1, n_ranks - 1, n_ranks, n_ranks + 1, 1000]
}

/// The numbers that a rank brings, of very different sizes. Every rank knows those of all others.
fn values(rank: usize, n: usize) -> Vec<f32> {
    let scales = [1.0, 1e-8, 1e8, 1e-30, 1e30];
    let normal = Seed(7).normals(&format!("rank {rank}"), n, 1.0);
    normal.into_iter().enumerate().map(|(i, value)| value * scales[(i + rank) % scales.len()]).collect()
}

/// The sum over ranks by its definition: rank 0's value plus rank 1's and so on, in double precision.
fn sum_of_all(n_ranks: usize, n: usize) -> Vec<f32> {
    let all: Vec<Vec<f32>> = (0..n_ranks).map(|rank| values(rank, n)).collect();
    let sum = |i: usize| all[1..].iter().fold(f64::from(all[0][i]), |sum, one| sum + f64::from(one[i]));
    (0..n).map(|i| sum(i) as f32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// In single precision the ones would vanish beside 2^24; in another order the cancelling sum would be another.
pub fn sums_run_in_rank_order(communicator: &dyn Communicator) {
    let per_rank =
        [[16_777_216.0, 1e30, -0.0], [1.0, 1.0, -0.0], [1.0, -1e30, -0.0], [-16_777_216.0, 1.0, -0.0]];
    let mut sum: [f32; 3] = per_rank[communicator.rank().0 % 4];
    communicator.all_reduce_sum(&mut sum).unwrap();
    let expected: [[f32; 3]; 4] =
        [[16_777_216.0, 1e30, -0.0], [16_777_217.0, 1e30, -0.0], [16_777_218.0, 0.0, -0.0], [2.0, 1.0, -0.0]];
    if let Some(expected) = expected.get(communicator.world_size() - 1) {
        assert_eq!(bits(&sum), bits(expected));
    }
}

/// Slices of any length, those with fewer elements than ranks too.
pub fn sums_of_every_length(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    for n in lengths(n_ranks) {
        let mut sum = values(rank, n);
        communicator.all_reduce_sum(&mut sum).unwrap();
        assert_eq!(bits(&sum), bits(&sum_of_all(n_ranks, n)), "{n} values");
    }
}

/// Losses and denominators.
pub fn sums_of_doubles(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    let value = |rank: usize, i: usize| 1.0 / (3.0 + rank as f64 + i as f64);
    for n in lengths(n_ranks) {
        let mut sum: Vec<f64> = (0..n).map(|i| value(rank, i)).collect();
        communicator.all_reduce_sum_f64(&mut sum).unwrap();
        let expected = |i: usize| (1..n_ranks).fold(value(0, i), |sum, rank| sum + value(rank, i));
        assert_eq!(sum, (0..n).map(expected).collect::<Vec<_>>(), "{n} values");
    }
}

/// In two steps as in one, bit for bit.
pub fn reduce_scatter_and_all_gather(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    for n_block in [0, 1, 5, 300] {
        let n = n_block * n_ranks;
        let mut block = vec![f32::NAN; n_block];
        communicator.reduce_scatter_sum(&values(rank, n), &mut block).unwrap();
        let expected = sum_of_all(n_ranks, n);
        assert_eq!(bits(&block), bits(&expected[rank * n_block..][..n_block]));
        let mut whole = vec![f32::NAN; n];
        communicator.all_gather(&block, &mut whole).unwrap();
        assert_eq!(bits(&whole), bits(&expected));
    }
}

/// Block b of rank r goes to place r of rank b.
pub fn all_to_all_transposes(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    for n_block in [0, 1, 7, 300] {
        let sent = values(rank, n_block * n_ranks);
        let (mut there, mut back) = (vec![f32::NAN; sent.len()], vec![f32::NAN; sent.len()]);
        communicator.all_to_all(&sent, &mut there).unwrap();
        for from in 0..n_ranks {
            let expected = &values(from, n_block * n_ranks)[rank * n_block..][..n_block];
            assert_eq!(bits(&there[from * n_block..][..n_block]), bits(expected));
        }
        communicator.all_to_all(&there, &mut back).unwrap();
        assert_eq!(bits(&back), bits(&sent));
    }
}

/// Infinities, subnormal numbers and negative zeros too.
pub fn all_gather_joins(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    let special = |rank: usize| vec![f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE / 3.0, rank as f32];
    let mut all = vec![f32::NAN; 4 * n_ranks];
    communicator.all_gather(&special(rank), &mut all).unwrap();
    assert_eq!(bits(&all), bits(&(0..n_ranks).flat_map(special).collect::<Vec<_>>()));
    communicator.all_gather(&[], &mut []).unwrap();
}

/// Every rank is the root once.
pub fn broadcasts_copy_the_root(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    for root in 0..n_ranks {
        for n in lengths(n_ranks) {
            let mut copied = values(rank, n);
            communicator.broadcast(&mut copied, Rank(root)).unwrap();
            assert_eq!(bits(&copied), bits(&values(root, n)), "{n} values of rank {root}");
        }
        communicator.barrier().unwrap();
    }
}

/// Longer than a message at once may be, where the implementation has such a limit.
pub fn long_values(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    let n = 100_003;
    let mut sum = values(rank, n);
    communicator.all_reduce_sum(&mut sum).unwrap();
    assert!(bits(&sum) == bits(&sum_of_all(n_ranks, n)), "a long sum");
    let mut copied = values(rank, n);
    communicator.broadcast(&mut copied, Rank(n_ranks - 1)).unwrap();
    assert!(bits(&copied) == bits(&values(n_ranks - 1, n)), "a long broadcast");
}

/// Also when ranks arrive at different times: one works longer before each call.
pub fn repeated_sums(communicator: &dyn Communicator) {
    let (rank, n_ranks) = (communicator.rank().0, communicator.world_size());
    let expected = bits(&sum_of_all(n_ranks, 257));
    for round in 0..30 {
        let mut sum = values(rank, 257);
        if round % n_ranks == rank {
            std::hint::black_box(values(round, 20_000));
        }
        communicator.all_reduce_sum(&mut sum).unwrap();
        assert_eq!(bits(&sum), expected);
    }
}
