//! Where the spread of a score comes from: items, seeds of the answers, and the judge.

use serde::{Deserialize, Serialize};

/// Variances of a balanced design of items × seeds × repeated judgements, by the method of moments (Searle,
/// Casella and McCulloch 1992, chapter 4), never below 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VarianceComponents {
    /// Between items.
    pub item: f64,
    /// Between seeds, of the mean over all items.
    pub seed: f64,
    /// Between answers to one item, beyond the seed's own shift. Without repeated judgements it holds the
    /// judge's part.
    pub answer: f64,
    /// Between judgements of one answer; `None` where each was judged once.
    pub judge: Option<f64>,
    /// Items, seeds, judgements of an answer.
    pub n: [usize; 3],
    /// The mean.
    pub mean: f64,
}

impl VarianceComponents {
    /// The variance of the mean over other items and seeds.
    #[must_use]
    pub fn variance_of_mean(&self) -> f64 {
        self.variance_with(self.n)
    }

    /// The variance that the mean would have with so many items, seeds and judgements.
    #[must_use]
    pub fn variance_with(&self, [items, seeds, judgements]: [usize; 3]) -> f64 {
        let [items, seeds, judgements] = [items, seeds, judgements].map(|n| n.max(1) as f64);
        self.item / items
            + self.seed / seeds
            + self.answer / (items * seeds)
            + self.judge.unwrap_or(0.0) / (items * seeds * judgements)
    }
}

/// Splits the variance of `scores`, `[n_items][n_seeds][n_judgements]`. `None` unless there are at least two
/// items and two seeds and all have the same numbers.
#[must_use]
pub fn variance_components(scores: &[Vec<Vec<f64>>]) -> Option<VarianceComponents> {
    let n_items = scores.len();
    let n_seeds = scores.first()?.len();
    let n_judgements = scores.first()?.first()?.len();
    let is_balanced = scores
        .iter()
        .all(|item| item.len() == n_seeds && item.iter().all(|judgements| judgements.len() == n_judgements));
    if n_items < 2 || n_seeds < 2 || n_judgements == 0 || !is_balanced {
        return None;
    }
    let [items, seeds, repeats] = [n_items, n_seeds, n_judgements].map(|n| n as f64);
    let mean_of = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    // Means of answers [n_items][n_seeds].
    let answers: Vec<Vec<f64>> =
        scores.iter().map(|item| item.iter().map(|judgements| mean_of(judgements)).collect()).collect();
    let of_items: Vec<f64> = answers.iter().map(|item| mean_of(item)).collect();
    let of_seeds: Vec<f64> =
        (0..n_seeds).map(|seed| answers.iter().map(|item| item[seed]).sum::<f64>() / items).collect();
    let mean = mean_of(&of_items);
    let squares = |values: &[f64]| values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    let ms_items = repeats * seeds * squares(&of_items) / (items - 1.0);
    let ms_seeds = repeats * items * squares(&of_seeds) / (seeds - 1.0);
    let mut residual = 0.0;
    for (item, of_item) in answers.iter().zip(&of_items) {
        for (answer, of_seed) in item.iter().zip(&of_seeds) {
            residual += (answer - of_item - of_seed + mean).powi(2);
        }
    }
    let ms_answers = repeats * residual / ((items - 1.0) * (seeds - 1.0));
    let judge = (n_judgements > 1).then(|| {
        let within = scores.iter().flatten().zip(answers.iter().flatten());
        let squares: f64 = within
            .map(|(judgements, mean)| judgements.iter().map(|value| (value - mean).powi(2)).sum::<f64>())
            .sum();
        squares / (items * seeds * (repeats - 1.0))
    });
    Some(VarianceComponents {
        item: ((ms_items - ms_answers) / (repeats * seeds)).max(0.0),
        seed: ((ms_seeds - ms_answers) / (repeats * items)).max(0.0),
        answer: ((ms_answers - judge.unwrap_or(0.0)) / repeats).max(0.0),
        judge,
        n: [n_items, n_seeds, n_judgements],
        mean,
    })
}

#[cfg(test)]
mod tests {
    use truing_types::Seed;

    use super::*;

    /// Scores made of normal parts with these deviations: item, seed, answer, judge.
    fn simulated(
        seed: u64,
        [n_items, n_seeds, n_judgements]: [usize; 3],
        deviations: [f32; 4],
    ) -> Vec<Vec<Vec<f64>>> {
        let draw = |purpose: &str, n: usize, deviation: f32| -> Vec<f64> {
            Seed(seed).normals(purpose, n, deviation).into_iter().map(f64::from).collect()
        };
        let items = draw("item", n_items, deviations[0]);
        let seeds = draw("seed", n_seeds, deviations[1]);
        let answers = draw("answer", n_items * n_seeds, deviations[2]);
        let judge = draw("judge", n_items * n_seeds * n_judgements, deviations[3]);
        let answer = |i: usize, s: usize| {
            let place = i * n_seeds + s;
            let base = items[i] + seeds[s] + answers[place];
            (0..n_judgements).map(|j| base + judge[place * n_judgements + j]).collect()
        };
        (0..n_items).map(|i| (0..n_seeds).map(|s| answer(i, s)).collect()).collect()
    }

    #[test]
    fn the_parts_of_simulated_scores_are_found_again_without_bias() {
        const N: u64 = 200;
        let deviations = [2.0, 1.0, 1.5, 0.5];
        let found: Vec<VarianceComponents> = (0..N)
            .map(|seed| variance_components(&simulated(seed, [20, 10, 3], deviations)).unwrap())
            .collect();
        let part = |of: &dyn Fn(&VarianceComponents) -> f64| -> Vec<f64> { found.iter().map(of).collect() };
        for (name, values, deviation) in [
            ("item", part(&|parts| parts.item), deviations[0]),
            ("seed", part(&|parts| parts.seed), deviations[1]),
            ("answer", part(&|parts| parts.answer), deviations[2]),
            ("judge", part(&|parts| parts.judge.unwrap()), deviations[3]),
        ] {
            let estimate = crate::mean_estimate(&values).unwrap();
            let off = (estimate.mean - f64::from(deviation * deviation)) / estimate.standard_error.unwrap();
            assert!(off.abs() < 3.5, "{name}: {estimate:?}, {off} standard errors off");
        }
    }

    #[test]
    fn a_small_table_has_the_classical_analysis_of_variance() {
        // Rows 1 2 / 3 5 / 8 7: statsmodels anova_lm of y ~ C(item) + C(seed): MS 18.1667, 0.6667, 1.1667
        let scores: Vec<Vec<Vec<f64>>> = [[1.0, 2.0], [3.0, 5.0], [8.0, 7.0]]
            .iter()
            .map(|row| row.iter().map(|&value| vec![value]).collect())
            .collect();
        let found = variance_components(&scores).unwrap();
        assert!(
            (found.item - (18.166_666_666_666_668 - 1.166_666_666_666_666_7) / 2.0).abs() < 1e-9,
            "{found:?}"
        );
        assert!(
            (found.seed - f64::max(0.0, (0.666_666_666_666_667_3 - 1.166_666_666_666_666_7) / 3.0)).abs()
                < 1e-9
        );
        assert!((found.answer - 1.166_666_666_666_666_7).abs() < 1e-9);
        assert_eq!(found.judge, None);
        let expected = found.item / 3.0 + found.seed / 2.0 + found.answer / 6.0;
        assert!((found.variance_of_mean() - expected).abs() < 1e-12);
        assert!(found.variance_with([30, 20, 1]) < expected / 5.0);
        assert_eq!(variance_components(&scores[..1]), None);
        assert_eq!(variance_components(&[vec![vec![1.0]; 2], vec![vec![1.0]; 3]]), None);
    }
}
