//! `r_i - mean(r_j, j != i)`: an unbiased baseline (RLOO, arXiv 2402.14740).

use super::{are_equal, scored};

pub(super) fn centre(group: &[Option<f64>]) -> Vec<Option<f64>> {
    let Some(rewards) = scored(group) else { return vec![None; group.len()] };
    if are_equal(&rewards) {
        return group.iter().map(|reward| reward.map(|_| 0.0)).collect();
    }
    let (sum, n) = (rewards.iter().sum::<f64>(), rewards.len() as f64);
    group.iter().map(|reward| reward.map(|reward| reward - (sum - reward) / (n - 1.0))).collect()
}
