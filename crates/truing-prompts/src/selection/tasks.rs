//! Tasks among the rows, and what each may keep.

use crate::PromptsError;
use crate::clustering::Linkage;

use super::{Run, SelectionOptions};

/// Clusterings of what the one before has left: blocks are drawn anew in each, so that a task that was cut apart meets
/// itself again. One that merges hardly anything is the last.
const MAX_ROUNDS: u32 = 16;
/// Share of the rows that are left, below which merges are hardly anything.
const MIN_MERGED: f64 = 0.01;

impl Run<'_> {
    /// The rows of each task, in order: clusters whose mean cosine is that of two vectors at most `task_distance`
    /// apart.
    pub(super) fn tasks(&self, rows: &[u32]) -> Result<Vec<Vec<u32>>, PromptsError> {
        let distance = self.options.task_distance;
        let options = SelectionOptions { linkage: Linkage::MeanCosine, ..self.options.clone() };
        let n = rows.len() as u32;
        let mut run = Run::new(self.gather(rows), self.dim, (0..n).collect(), &options);
        let mut left: Vec<u32> = (0..n).collect();
        for round in 0..MAX_ROUNDS {
            let merges = run.merges(&left, distance, round)?;
            let is_last = (merges.len() as f64) < MIN_MERGED * left.len() as f64;
            left = run.apply(&left, &merges, round, Some(distance));
            if is_last {
                break;
            }
        }
        let mut places = vec![0; rows.len()];
        left.iter().enumerate().for_each(|(task, &row)| places[row as usize] = task);
        let mut tasks: Vec<Vec<u32>> = left.iter().map(|&row| vec![rows[row as usize]]).collect();
        for dropped in run.finish().dropped {
            tasks[places[dropped.chosen as usize]].push(rows[dropped.row as usize]);
        }
        tasks.iter_mut().for_each(|rows| rows.sort_unstable());
        Ok(tasks)
    }
}

/// How many of `target` each of `sizes` gets: at least one, at most all that it has, and between them in proportion to
/// its size to the power of `exponent`. `target` is no less than their number and no more than their sum.
pub(super) fn shares(sizes: &[usize], target: usize, exponent: f32) -> Vec<usize> {
    let weights: Vec<f64> = sizes.iter().map(|&size| (size as f64).powf(f64::from(exponent))).collect();
    let exact = |scale: f64| {
        let of_task = move |(&size, &weight): (&usize, &f64)| (scale * weight).max(1.0).min(size as f64);
        sizes.iter().zip(&weights).map(of_task)
    };
    // At the largest size as scale everything is kept, since no weight is under 1.
    let (mut low, mut high) = (0.0, sizes.iter().copied().max().unwrap_or(0) as f64);
    for _ in 0..64 {
        let middle = f64::midpoint(low, high);
        if exact(middle).sum::<f64>() <= target as f64 { low = middle } else { high = middle }
    }
    let mut shares: Vec<usize> = exact(low).map(|share| share as usize).collect();
    // What rounding has left over goes to the largest rests, of equal ones to the largest tasks.
    let rests: Vec<f64> = exact(low).map(f64::fract).collect();
    let mut by_rest: Vec<usize> = (0..sizes.len()).filter(|&i| shares[i] < sizes[i]).collect();
    by_rest.sort_by(|&a, &b| rests[b].total_cmp(&rests[a]).then(sizes[b].cmp(&sizes[a])));
    let left = target - shares.iter().sum::<usize>();
    by_rest.into_iter().take(left).for_each(|i| shares[i] += 1);
    shares
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn shares_add_up_and_grow_with_the_exponent() {
        assert_eq!(shares(&[10, 2, 7, 1], 13, 0.0), [5, 2, 5, 1]);
        assert_eq!(shares(&[10, 2, 7, 1], 14, 0.0), [6, 2, 5, 1]);
        assert_eq!(shares(&[10, 2, 7, 1], 4, 0.0), [1, 1, 1, 1]);
        assert_eq!(shares(&[10, 2, 7, 1], 20, 0.5), [10, 2, 7, 1]);
        assert_eq!(shares(&[3, 3, 3], 5, 0.0), [2, 2, 1]);
        assert_eq!(shares(&[], 0, 0.5), [0; 0]);
        assert_eq!(shares(&[100, 25, 4], 17, 0.5), [10, 5, 2]);
        assert_eq!(shares(&[100, 60, 40], 20, 1.0), [10, 6, 4]);
        assert_eq!(shares(&[900, 1, 1, 1], 90, 1.0), [87, 1, 1, 1]);
        for target in 5..=131 {
            let shares = shares(&[100, 25, 4, 1, 1], target, 0.3);
            assert_eq!(shares.iter().sum::<usize>(), target);
            assert!(shares.iter().zip([100, 25, 4, 1, 1]).all(|(&share, size)| (1..=size).contains(&share)));
        }
    }
}
