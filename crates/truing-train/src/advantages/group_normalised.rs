//! `(r_i - mean(r)) / (std(r) + epsilon)` over a prompt's completions (DeepSeekMath, arXiv 2402.03300, 4.1.2).

use super::{Scale, are_equal, mean, scored};

pub(super) fn normalise(group: &[Option<f64>], scale: Scale, epsilon: f64) -> Vec<Option<f64>> {
    let Some(rewards) = scored(group) else { return vec![None; group.len()] };
    if are_equal(&rewards) {
        return group.iter().map(|reward| reward.map(|_| 0.0)).collect();
    }
    let centre = mean(&rewards);
    let squares: f64 = rewards.iter().map(|reward| (reward - centre).powi(2)).sum();
    let n = rewards.len() as f64;
    let divisor = match scale {
        Scale::PopulationDeviation => (squares / n).sqrt() + epsilon,
        Scale::SampleDeviation => (squares / (n - 1.0)).sqrt() + epsilon,
        Scale::None => 1.0,
    };
    group.iter().map(|reward| reward.map(|reward| (reward - centre) / divisor)).collect()
}
