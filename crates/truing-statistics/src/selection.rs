//! What is lost of a score that was the reason for a choice: the best of several on the same items has been lucky too.

use crate::{Bootstrap, mean_and_deviation};

/// The expected optimism of choosing the system with the largest objective on `n_units` items: over bootstrap samples
/// of the items, the objective of the system that is best in the sample, less the same system's objective on all items
/// (Efron 1983). `objective` gets a system and the places of items, which may repeat. `None` without systems or items.
#[must_use]
pub fn selection_optimism(
    n_systems: usize,
    n_units: usize,
    objective: impl Fn(usize, &[usize]) -> f64,
    settings: &Bootstrap,
) -> Option<f64> {
    let all: Vec<usize> = (0..n_units).collect();
    let on_all: Vec<f64> = (0..n_systems).map(|system| objective(system, &all)).collect();
    let optimism = settings.statistics(n_units, |drawn| {
        let of_drawn = (0..n_systems).map(|system| (objective(system, drawn), on_all[system]));
        let best = of_drawn.filter(|(value, _)| value.is_finite()).max_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or(f64::NAN, |(in_sample, on_all)| in_sample - on_all)
    });
    (n_systems > 0 && !optimism.is_empty()).then(|| mean_and_deviation(&optimism).0)
}

#[cfg(test)]
mod tests {
    use truing_types::Seed;

    use super::*;

    #[test]
    fn the_optimism_of_equal_systems_is_that_of_the_largest_of_normal_means() {
        const N: usize = 400;
        let settings = Bootstrap { n_resamples: 400, ..Bootstrap::default() };
        let draw = |n_systems: usize| -> Vec<Vec<f64>> {
            let values = Seed(3).normals("scores", n_systems * N, 1.0);
            values.chunks(N).map(|chunk| chunk.iter().map(|&value| f64::from(value)).collect()).collect()
        };
        let optimism = |scores: &[Vec<f64>]| {
            let mean = |system: usize, places: &[usize]| {
                places.iter().map(|&place| scores[system][place]).sum::<f64>() / places.len() as f64
            };
            selection_optimism(scores.len(), N, mean, &settings).unwrap()
        };
        // One system is not chosen; the bootstrap's own error is 0.05 / sqrt(400).
        assert!(optimism(&draw(1)).abs() < 0.01);
        // The largest of 8 independent means lies 1.42 standard errors above their own (a standard error is 0.05); the
        // spread of the systems on all items takes some of that away.
        let of_eight = optimism(&draw(8));
        assert!((0.02..0.08).contains(&of_eight), "{of_eight}");
        // A system that is far better is always chosen.
        let mut clear = draw(8);
        clear[2].iter_mut().for_each(|value| *value += 10.0);
        assert!(optimism(&clear).abs() < 0.01);
        assert_eq!(selection_optimism(0, 4, |_, _| 0.0, &settings), None);
    }
}
