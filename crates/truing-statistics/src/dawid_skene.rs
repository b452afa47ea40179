//! The model of Dawid and Skene (1979): true classes and the error rates of raters, without known answers.

use serde::Serialize;

/// Iterations after which the estimate stops without having converged.
const MAX_ITERATIONS: usize = 1_000;
/// The largest change of a posterior in the last iteration of a converged estimate.
const TOLERANCE: f64 = 1e-8;

/// What the model says about items and raters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DawidSkene {
    /// Probability of each class to be the true one, `[item][class]`. That of an item without votes is the prevalence.
    pub posteriors: Vec<Vec<f64>>,
    /// Probability of what a rater says, `[rater][true class][class said]`. Each row sums to 1.
    pub confusion: Vec<Vec<Vec<f64>>>,
    /// Probability of each class among the items.
    pub prevalence: Vec<f64>,
    /// Iterations of the EM algorithm.
    pub n_iterations: usize,
    /// Whether the last iteration changed no posterior by more than 1e-8; if not, it is one of 1,000.
    pub has_converged: bool,
}

impl DawidSkene {
    /// The probability that a rater says the true class of an item: the diagonal of the confusion matrix, weighted with
    /// the prevalence. A rater who guesses uniformly, and one without votes, has `1 / n_classes`.
    ///
    /// # Panics
    ///
    /// If there is no such rater.
    #[must_use]
    pub fn competence(&self, rater: usize) -> f64 {
        let rows = self.confusion[rater].iter().enumerate();
        rows.zip(&self.prevalence).map(|((class, row), prevalence)| prevalence * row[class]).sum()
    }
}

/// Estimates the model from `votes[item]`, pairs of (rater, class), by expectation-maximisation. It starts from the
/// majority vote: the posterior of a class is its share of the item's votes. Raters err independently of each
/// other, and a rater may vote several times on one item.
///
/// The counts have Laplace (additive) smoothing of `1 / n_classes` for each class: every row of a confusion matrix
/// starts with one vote, and the prevalence with one item, that is spread evenly over the classes. So no probability
/// is 0, and few votes do not make a rater infallible. Items without votes do not count for the prevalence.
///
/// An iteration takes time in proportion to the number of votes times the number of classes.
///
/// # Panics
///
/// If a vote has a rater that is not below `n_raters` or a class that is not below `n_classes`.
#[must_use]
pub fn dawid_skene(votes: &[Vec<(usize, usize)>], n_raters: usize, n_classes: usize) -> DawidSkene {
    for &(rater, class) in votes.iter().flatten() {
        assert!(rater < n_raters, "a vote of rater {rater}, with {n_raters} raters");
        assert!(class < n_classes, "a vote for class {class}, with {n_classes} classes");
    }
    let mut posteriors: Vec<Vec<f64>> = votes.iter().map(|votes| vote_shares(votes, n_classes)).collect();
    let (mut n_iterations, mut has_converged) = (0, false);
    loop {
        let (prevalence, confusion) = maximise(votes, &posteriors, n_raters, n_classes);
        let updated: Vec<Vec<f64>> =
            votes.iter().map(|votes| posterior(votes, &prevalence, &confusion)).collect();
        n_iterations += 1;
        has_converged |= largest_change(&posteriors, &updated) <= TOLERANCE;
        posteriors = updated;
        if has_converged || n_iterations == MAX_ITERATIONS {
            return DawidSkene { posteriors, confusion, prevalence, n_iterations, has_converged };
        }
    }
}

/// The share of each class among the votes on an item; equal shares without votes.
fn vote_shares(votes: &[(usize, usize)], n_classes: usize) -> Vec<f64> {
    let mut shares = vec![if votes.is_empty() { 1.0 } else { 0.0 }; n_classes];
    votes.iter().for_each(|&(_, class)| shares[class] += 1.0);
    normalise(&mut shares);
    shares
}

/// Prevalence and confusion matrices from smoothed counts, in which an item counts for each class with its posterior.
fn maximise(
    votes: &[Vec<(usize, usize)>],
    posteriors: &[Vec<f64>],
    n_raters: usize,
    n_classes: usize,
) -> (Vec<f64>, Vec<Vec<Vec<f64>>>) {
    let smoothing = 1.0 / n_classes as f64;
    let mut prevalence = vec![smoothing; n_classes];
    let mut confusion = vec![vec![vec![smoothing; n_classes]; n_classes]; n_raters];
    for (votes, posterior) in votes.iter().zip(posteriors).filter(|(votes, _)| !votes.is_empty()) {
        for (true_class, probability) in posterior.iter().enumerate() {
            prevalence[true_class] += probability;
            votes.iter().for_each(|&(rater, said)| confusion[rater][true_class][said] += probability);
        }
    }
    normalise(&mut prevalence);
    confusion.iter_mut().flatten().for_each(|row| normalise(row));
    (prevalence, confusion)
}

/// The probability of each class of an item, by Bayes' rule from its votes. In logarithms: a product of many votes is
/// below the smallest double.
fn posterior(votes: &[(usize, usize)], prevalence: &[f64], confusion: &[Vec<Vec<f64>>]) -> Vec<f64> {
    let logs: Vec<f64> = prevalence
        .iter()
        .enumerate()
        .map(|(class, share)| {
            share.ln() + votes.iter().map(|&(rater, said)| confusion[rater][class][said].ln()).sum::<f64>()
        })
        .collect();
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut posterior: Vec<f64> = logs.iter().map(|log| (log - largest).exp()).collect();
    normalise(&mut posterior);
    posterior
}

fn normalise(weights: &mut [f64]) {
    let total: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
}

fn largest_change(before: &[Vec<f64>], after: &[Vec<f64>]) -> f64 {
    let pairs = before.iter().flatten().zip(after.iter().flatten());
    pairs.map(|(before, after)| (before - after).abs()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_good_rater_outweighs_two_that_guess() {
        // Raters 0 to 2 agree on the true class; 3 always says 1, and 4 the opposite of the truth.
        let votes: Vec<Vec<(usize, usize)>> = (0..40)
            .map(|item| {
                let truth = item % 2;
                vec![(0, truth), (1, truth), (2, truth), (3, 1), (4, 1 - truth)]
            })
            .collect();
        let found = dawid_skene(&votes, 5, 2);
        assert!(found.has_converged);
        let competences: Vec<f64> = (0..5).map(|rater| found.competence(rater)).collect();
        assert!(competences[..3].iter().all(|&competence| competence > 0.97), "{competences:?}");
        assert!((competences[3] - 0.5).abs() < 0.03 && competences[4] < 0.03, "{competences:?}");
        // A rater who always errs informs as well as one who never does.
        let mut decided_by_an_enemy = votes;
        decided_by_an_enemy.push(vec![(3, 1), (4, 1)]);
        assert!(dawid_skene(&decided_by_an_enemy, 5, 2).posteriors[40][0] > 0.9);
    }

    #[test]
    fn the_order_of_items_and_the_numbers_of_raters_have_no_influence() {
        let votes: Vec<Vec<(usize, usize)>> = (0..30)
            .map(|item| {
                vec![(0, item % 3), (1, item * item % 3), (2, usize::from(item % 3 > 0)), (0, item % 2)]
            })
            .collect();
        let mut changed: Vec<Vec<(usize, usize)>> = votes
            .iter()
            .map(|votes| votes.iter().rev().map(|&(rater, class)| (2 - rater, class)).collect())
            .collect();
        changed.rotate_left(11);
        let [one, other] = [&votes, &changed].map(|votes| dawid_skene(votes, 3, 3));
        for rater in 0..3 {
            let difference = one.competence(rater) - other.competence(2 - rater);
            assert!(difference.abs() < 1e-9, "{rater}: {difference}");
        }
        let difference = one.posteriors[11][1] - other.posteriors[0][1];
        assert!(difference.abs() < 1e-9, "{difference}");
    }

    #[test]
    fn items_and_raters_without_votes_follow_the_prevalence_and_chance() {
        let mut votes = vec![vec![(0, 0), (1, 0)]; 6];
        votes.extend(vec![vec![(0, 2), (1, 2)]; 3]);
        let without = dawid_skene(&votes, 3, 3);
        votes.extend(vec![vec![]; 50]);
        let with = dawid_skene(&votes, 3, 3);
        assert_eq!((&with.prevalence, &with.confusion), (&without.prevalence, &without.confusion));
        let difference = |class: usize| (with.posteriors[20][class] - with.prevalence[class]).abs();
        assert!((0..3).all(|class| difference(class) < 1e-12));
        assert!((with.competence(2) - 1.0 / 3.0).abs() < 1e-12);
        assert!((with.prevalence[0] - 0.63).abs() < 0.01, "{:?}", with.prevalence);
    }

    #[test]
    fn nothing_is_a_valid_input() {
        let found = dawid_skene(&[], 2, 2);
        assert!(found.has_converged && found.posteriors.is_empty());
        assert_eq!(found.prevalence, [0.5, 0.5]);
        assert_eq!(dawid_skene(&[vec![]], 0, 2).posteriors, [[0.5, 0.5]]);
    }
}
