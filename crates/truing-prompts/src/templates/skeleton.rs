//! The fixed text of each prompt: the runs of tokens that recur beside many different fillers.

use rayon::prelude::*;

use super::GAP;
use super::support::{NGRAM, Support};
use super::view::view;
use crate::tokens::TokenPool;

/// The skeletons of all rows.
#[derive(Debug, Clone)]
pub struct Skeletons {
    tokens: Vec<u32>,
    starts: Vec<usize>,
}

impl Skeletons {
    pub(super) fn of(pool: &TokenPool, support: &Support) -> Self {
        let rows: Vec<Vec<u32>> =
            (0..pool.len()).into_par_iter().map(|row| skeleton(&view(pool.row(row)), support)).collect();
        let mut skeletons = Skeletons { tokens: Vec::new(), starts: vec![0] };
        for row in rows {
            skeletons.tokens.extend(row);
            skeletons.starts.push(skeletons.tokens.len());
        }
        skeletons
    }

    /// The runs of fixed tokens of a row, [`GAP`] between them.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.tokens[self.starts[row]..self.starts[row + 1]]
    }

    /// The fixed tokens of a row without gaps.
    pub fn fixed_tokens(&self, row: usize) -> Vec<u32> {
        self.row(row).iter().copied().filter(|&token| token != GAP).collect()
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn skeleton(row: &[u32], support: &Support) -> Vec<u32> {
    let counts = support.of_row(row);
    // N-gram i of the padded row covers the row's tokens i - 1 to i + 1.
    let score =
        |at: usize| counts[at.saturating_sub(NGRAM - 2)..(at + 2).min(counts.len())].iter().copied().max();
    let mut scores: Vec<f32> = (0..row.len()).map(|at| (score(at).unwrap_or(1) as f32).log2()).collect();
    // The ends are fixed as far as what is next to them is.
    if let [first, second, ..] = scores.as_mut_slice() {
        *first = *second;
    }
    if let [.., last_but_one, last] = scores.as_mut_slice() {
        *last = *last_but_one;
    }
    let threshold = otsu_threshold(&scores).max((support.min_count as f32).log2());
    let mut skeleton = Vec::new();
    for (&token, &score) in row.iter().zip(&scores) {
        let is_fixed = score >= threshold && token != GAP;
        match skeleton.last() {
            _ if is_fixed => skeleton.push(token),
            Some(&last) if last != GAP => skeleton.push(GAP),
            _ => {}
        }
    }
    if skeleton.last() == Some(&GAP) {
        skeleton.pop();
    }
    skeleton
}

/// The threshold that splits numbers into two classes with the largest variance between them (Otsu, "A Threshold
/// Selection Method from Gray-Level Histograms", 1979); minus infinity when all are equal.
fn otsu_threshold(numbers: &[f32]) -> f32 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let total: f32 = sorted.iter().sum();
    let (mut best, mut threshold, mut below) = (0.0, f32::NEG_INFINITY, 0.0);
    for (i, pair) in sorted.windows(2).enumerate() {
        below += pair[0];
        if pair[0] == pair[1] {
            continue;
        }
        let (n_below, n_above) = ((i + 1) as f32, (sorted.len() - i - 1) as f32);
        let difference = (total - below) / n_above - below / n_below;
        let variance = n_below * n_above * difference * difference;
        if variance > best {
            (best, threshold) = (variance, f32::midpoint(pair[0], pair[1]));
        }
    }
    threshold
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_two_heaps_are_split_between_them() {
        assert_eq!(otsu_threshold(&[1.0, 6.0, 1.5, 5.5, 1.0]), 3.5);
        assert_eq!(otsu_threshold(&[2.0; 4]), f32::NEG_INFINITY);
        assert_eq!(otsu_threshold(&[]), f32::NEG_INFINITY);
    }
}
