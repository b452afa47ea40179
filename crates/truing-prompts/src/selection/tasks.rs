//! Tasks among the rows, and what each may keep.

use crate::PromptsError;
use crate::clustering::Linkage;

use super::{Run, SelectionOptions};

/// Clusterings of what the one before has left: blocks are drawn anew in each, so that a task that was cut apart meets
/// itself again. One that merges hardly anything is the last.
const MOST_ROUNDS: u32 = 16;
/// Share of the rows that are left, below which merges are hardly anything.
const LEAST_MERGED: f64 = 0.01;

impl Run<'_> {
    /// The rows of each task, in order: clusters whose mean cosine is that of two vectors at most `task_distance` apart.
    pub(super) fn tasks(&self, rows: &[u32]) -> Result<Vec<Vec<u32>>, PromptsError> {
        let distance = self.options.task_distance;
        let options = SelectionOptions { linkage: Linkage::MeanCosine, ..self.options.clone() };
        let n = rows.len() as u32;
        let mut run = Run::new(self.gather(rows), self.dim, (0..n).collect(), &options);
        let mut left: Vec<u32> = (0..n).collect();
        for round in 0..MOST_ROUNDS {
            let merges = run.merges(&left, distance, round)?;
            let is_last = (merges.len() as f64) < LEAST_MERGED * left.len() as f64;
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

/// How many of `target` each of `sizes` gets: the same for all, or all where it has less. What is left over goes to the
/// largest, one each.
pub(super) fn even_shares(sizes: &[usize], target: usize) -> Vec<usize> {
    let total = |most: usize| sizes.iter().map(|&size| size.min(most)).sum::<usize>();
    let (mut low, mut high) = (0, sizes.iter().copied().max().unwrap_or(0) + 1);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if total(middle) <= target { low = middle } else { high = middle }
    }
    let mut shares: Vec<usize> = sizes.iter().map(|&size| size.min(low)).collect();
    let mut larger: Vec<usize> = (0..sizes.len()).filter(|&i| sizes[i] > low).collect();
    larger.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));
    larger.into_iter().take(target - total(low)).for_each(|i| shares[i] += 1);
    shares
}

#[cfg(test)]
mod tests {
    use super::even_shares;

    #[test]
    fn shares_are_even_and_add_up() {
        assert_eq!(even_shares(&[10, 2, 7, 1], 13), [5, 2, 5, 1]);
        assert_eq!(even_shares(&[10, 2, 7, 1], 14), [6, 2, 5, 1]);
        assert_eq!(even_shares(&[10, 2, 7, 1], 4), [1, 1, 1, 1]);
        assert_eq!(even_shares(&[10, 2, 7, 1], 20), [10, 2, 7, 1]);
        assert_eq!(even_shares(&[3, 3, 3], 5), [2, 2, 1]);
        assert_eq!(even_shares(&[], 0), [0; 0]);
    }
}
