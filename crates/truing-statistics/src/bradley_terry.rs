//! Strengths from comparisons: P(i beats j) = 1 / (1 + exp(s_j - s_i)) (Bradley and Terry 1952), a draw as half a win
//! of each (so read, strengths stay those of one binomial likelihood), and a wide normal prior, without which what wins
//! always would be infinitely strong. The posterior mode by Newton's method; standard errors from the curvature there.
//!
//! Comparisons of the same two by several judges count as independent, which they are not quite: the errors are lower
//! bounds.

/// One comparison: `first` got this share of the win, 1, 0.5 or 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Who.
    pub first: usize,
    /// Against whom.
    pub second: usize,
    /// The first one's share.
    pub share: f64,
}

/// Strengths on the log-odds scale, of mean 0 `[n_items]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Strengths {
    /// The strengths.
    pub values: Vec<f64>,
    /// Their standard errors.
    pub standard_errors: Vec<f64>,
}

/// Steps of Newton's method; a handful suffices.
const MAX_STEPS: usize = 100;
/// A step that is smaller in every place is the last.
const TOLERANCE: f64 = 1e-10;

/// Fits strengths. The first `n_hubs` items may meet anybody; the others meet hubs only, as samples meet anchors. That
/// keeps the system an arrow: its cost is linear in the number of samples.
///
/// # Panics
/// When two items meet of which neither is a hub.
#[must_use]
pub fn fit(n_items: usize, n_hubs: usize, outcomes: &[Outcome], prior_deviation: f64) -> Strengths {
    let precision = 1.0 / (prior_deviation * prior_deviation);
    let mut values = vec![0.0; n_items];
    let mut height = log_posterior(&values, outcomes, precision);
    for _ in 0..MAX_STEPS {
        let (gradient, curvature) = derivatives(&values, n_hubs, outcomes, precision);
        let step = curvature.factorise().solve(&gradient);
        // The posterior is concave, so some part of the step goes up.
        let mut share = 1.0;
        loop {
            let moved: Vec<f64> =
                values.iter().zip(&step).map(|(value, step)| value + share * step).collect();
            let reached = log_posterior(&moved, outcomes, precision);
            if reached >= height || share < 1e-6 {
                (values, height) = (moved, reached);
                break;
            }
            share /= 2.0;
        }
        if step.iter().all(|step| step.abs() < TOLERANCE) {
            break;
        }
    }
    // The mode has mean 0; a wide prior holds it there only up to rounding.
    let mean = values.iter().sum::<f64>() / n_items.max(1) as f64;
    values.iter_mut().for_each(|value| *value -= mean);
    let (_, curvature) = derivatives(&values, n_hubs, outcomes, precision);
    let standard_errors = curvature.factorise().inverse_diagonal().into_iter().map(f64::sqrt).collect();
    Strengths { values, standard_errors }
}

fn win_probability(values: &[f64], outcome: &Outcome) -> f64 {
    1.0 / (1.0 + (values[outcome.second] - values[outcome.first]).exp())
}

fn log_posterior(values: &[f64], outcomes: &[Outcome], precision: f64) -> f64 {
    // ln(1 + e^x) without overflow.
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let likelihood = |outcome: &Outcome| {
        let ahead = values[outcome.first] - values[outcome.second];
        -outcome.share * softplus(-ahead) - (1.0 - outcome.share) * softplus(ahead)
    };
    let prior: f64 = values.iter().map(|value| value * value).sum();
    outcomes.iter().map(likelihood).sum::<f64>() - 0.5 * precision * prior
}

fn derivatives(values: &[f64], n_hubs: usize, outcomes: &[Outcome], precision: f64) -> (Vec<f64>, Arrow) {
    let mut gradient: Vec<f64> = values.iter().map(|value| -precision * value).collect();
    let mut arrow = Arrow::diagonal(values.len(), n_hubs, precision);
    for outcome in outcomes {
        let p = win_probability(values, outcome);
        gradient[outcome.first] += outcome.share - p;
        gradient[outcome.second] -= outcome.share - p;
        arrow.add_meeting(outcome.first, outcome.second, p * (1.0 - p));
    }
    (gradient, arrow)
}

/// A symmetric matrix of a dense block for hubs, a diagonal for the others, and what links the two.
struct Arrow {
    n_hubs: usize,
    /// `[n_hubs, n_hubs]`
    hubs: Vec<f64>,
    /// `[n_leaves]`
    leaves: Vec<f64>,
    /// `[n_leaves, n_hubs]`
    links: Vec<f64>,
}

/// An arrow with its hubs' Schur complement in Cholesky form.
struct Factorised {
    arrow: Arrow,
    /// Lower triangle `[n_hubs, n_hubs]`.
    lower: Vec<f64>,
}

impl Arrow {
    fn diagonal(n_items: usize, n_hubs: usize, value: f64) -> Self {
        let n_leaves = n_items - n_hubs;
        let mut hubs = vec![0.0; n_hubs * n_hubs];
        (0..n_hubs).for_each(|i| hubs[i * n_hubs + i] = value);
        Self { n_hubs, hubs, leaves: vec![value; n_leaves], links: vec![0.0; n_leaves * n_hubs] }
    }

    fn add_meeting(&mut self, first: usize, second: usize, weight: f64) {
        for (one, other) in [(first, second), (second, first)] {
            let h = self.n_hubs;
            if one < h {
                self.hubs[one * h + one] += weight;
                if other < h {
                    self.hubs[one * h + other] -= weight;
                }
            } else {
                assert!(other < h, "items {one} and {other} meet, and neither is a hub");
                self.leaves[one - h] += weight;
                self.links[(one - h) * h + other] -= weight;
            }
        }
    }

    /// Each leaf with its links.
    fn leaves(&self) -> impl Iterator<Item = (&f64, &[f64])> {
        let links = |leaf: usize| &self.links[leaf * self.n_hubs..(leaf + 1) * self.n_hubs];
        self.leaves.iter().enumerate().map(move |(i, leaf)| (leaf, links(i)))
    }

    fn factorise(self) -> Factorised {
        let h = self.n_hubs;
        let mut lower = self.hubs.clone();
        for (leaf, links) in self.leaves() {
            for i in 0..h {
                let scaled = links[i] / leaf;
                if scaled != 0.0 {
                    (0..=i).for_each(|j| lower[i * h + j] -= scaled * links[j]);
                }
            }
        }
        for i in 0..h {
            for j in 0..=i {
                let known: f64 = (0..j).map(|k| lower[i * h + k] * lower[j * h + k]).sum();
                let left = lower[i * h + j] - known;
                // The prior's precision keeps it above 0.
                lower[i * h + j] =
                    if i == j { left.max(f64::MIN_POSITIVE).sqrt() } else { left / lower[j * h + j] };
            }
        }
        Factorised { arrow: self, lower }
    }
}

impl Factorised {
    fn solve_hubs(&self, mut right: Vec<f64>) -> Vec<f64> {
        let (h, lower) = (self.arrow.n_hubs, &self.lower);
        for i in 0..h {
            let known: f64 = (0..i).map(|j| lower[i * h + j] * right[j]).sum();
            right[i] = (right[i] - known) / lower[i * h + i];
        }
        for i in (0..h).rev() {
            let known: f64 = (i + 1..h).map(|j| lower[j * h + i] * right[j]).sum();
            right[i] = (right[i] - known) / lower[i * h + i];
        }
        right
    }

    fn solve(&self, right: &[f64]) -> Vec<f64> {
        let (hubs, leaves) = right.split_at(self.arrow.n_hubs);
        let mut reduced = hubs.to_vec();
        for ((leaf, links), value) in self.arrow.leaves().zip(leaves) {
            reduced.iter_mut().zip(links).for_each(|(reduced, link)| *reduced -= link * value / leaf);
        }
        let mut solved = self.solve_hubs(reduced);
        let of_leaves: Vec<f64> = self
            .arrow
            .leaves()
            .zip(leaves)
            .map(|((leaf, links), value)| {
                let known: f64 = links.iter().zip(&solved).map(|(link, hub)| link * hub).sum();
                (value - known) / leaf
            })
            .collect();
        solved.extend(of_leaves);
        solved
    }

    fn inverse_diagonal(&self) -> Vec<f64> {
        let h = self.arrow.n_hubs;
        let unit = |i: usize| -> Vec<f64> { (0..h).map(|j| f64::from(u8::from(i == j))).collect() };
        let mut diagonal: Vec<f64> = (0..h).map(|i| self.solve_hubs(unit(i))[i]).collect();
        diagonal.extend(self.arrow.leaves().map(|(leaf, links)| {
            let through_hubs: f64 =
                self.solve_hubs(links.to_vec()).iter().zip(links).map(|(solved, link)| solved * link).sum();
            1.0 / leaf + through_hubs / (leaf * leaf)
        }));
        diagonal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::Rng;
    use truing_types::Seed;

    fn outcome(first: usize, second: usize, share: f64) -> Outcome {
        Outcome { first, second, share }
    }

    /// Samples against anchors, drawn from known strengths.
    fn drawn(n_items: usize, n_hubs: usize, n_times: u64) -> (Vec<f64>, Vec<Outcome>) {
        let truth: Vec<f64> =
            (0..n_items).map(|i| ((i * 7) % n_items) as f64 / n_items as f64 * 3.0 - 1.5).collect();
        let mut outcomes = Vec::new();
        for leaf in n_hubs..n_items {
            for hub in 0..n_hubs {
                let mut generator = Seed(3).generator("meetings", &[leaf as u64, hub as u64]);
                for _ in 0..n_times {
                    let p = win_probability(&truth, &outcome(leaf, hub, 0.0));
                    let won = f64::from(generator.next_u32()) / f64::from(u32::MAX) < p;
                    outcomes.push(outcome(leaf, hub, f64::from(u8::from(won))));
                }
            }
        }
        (truth, outcomes)
    }

    #[test]
    fn two_items_have_the_closed_form() {
        // 3 wins, 1 draw, 1 loss: 3.5 of 5. The log odds are ln(3.5 / 1.5), their variance 1/3.5 + 1/1.5.
        let outcomes = [1.0, 1.0, 1.0, 0.5, 0.0].map(|share| outcome(0, 1, share));
        let found = fit(2, 2, &outcomes, 1e4);
        let expected = (3.5_f64 / 1.5).ln();
        assert!((found.values[0] - found.values[1] - expected).abs() < 1e-6, "{found:?}");
        assert!((found.values[0] + found.values[1]).abs() < 1e-9, "the mean is 0");
    }

    #[test]
    fn the_gradient_is_that_of_the_posterior_and_vanishes_at_the_fit() {
        let (_, outcomes) = drawn(12, 4, 3);
        let precision = 1.0 / 9.0;
        let at: Vec<f64> = (0..12).map(|i| f64::from(i) * 0.1 - 0.4).collect();
        let (gradient, _) = derivatives(&at, 4, &outcomes, precision);
        for i in 0..12 {
            let moved = |by: f64| {
                let mut values = at.clone();
                values[i] += by;
                log_posterior(&values, &outcomes, precision)
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((difference - gradient[i]).abs() < 1e-6, "{i}: {difference} against {}", gradient[i]);
        }
        let found = fit(12, 4, &outcomes, 3.0);
        let (gradient, _) = derivatives(&found.values, 4, &outcomes, precision);
        assert!(gradient.iter().all(|slope| slope.abs() < 1e-8), "{gradient:?}");
    }

    #[test]
    fn an_arrow_is_solved_as_the_dense_matrix() {
        let (_, outcomes) = drawn(15, 5, 2);
        let (arrow, dense) = (fit(15, 5, &outcomes, 2.0), fit(15, 15, &outcomes, 2.0));
        for i in 0..15 {
            assert!((arrow.values[i] - dense.values[i]).abs() < 1e-8);
            assert!((arrow.standard_errors[i] - dense.standard_errors[i]).abs() < 1e-8);
        }
    }

    #[test]
    fn strengths_are_found_again_within_their_errors() {
        let (truth, outcomes) = drawn(60, 20, 6);
        let found = fit(60, 20, &outcomes, 10.0);
        let mean = truth.iter().sum::<f64>() / 60.0;
        let off: Vec<f64> =
            (0..60).map(|i| (found.values[i] - (truth[i] - mean)) / found.standard_errors[i]).collect();
        let n_within = off.iter().filter(|off| off.abs() < 1.96).count();
        assert!(n_within >= 51, "{n_within} of 60 lie within 1.96 standard errors");
    }

    #[test]
    fn what_always_wins_is_strong_and_finite_and_draws_are_nothing() {
        let always: Vec<Outcome> = (1..30).map(|other| outcome(0, other, 1.0)).collect();
        let found = fit(30, 30, &always, 3.0);
        assert!(found.values[0] > 2.0 && found.values[0] < 20.0, "{found:?}");
        let draws: Vec<Outcome> = (1..30).map(|other| outcome(0, other, 0.5)).collect();
        assert!(fit(30, 30, &draws, 3.0).values.iter().all(|value| value.abs() < 1e-12));
        let nobody = fit(2, 0, &[], 3.0);
        assert_eq!((nobody.values, nobody.standard_errors), (vec![0.0; 2], vec![3.0; 2]), "the prior");
    }
}
