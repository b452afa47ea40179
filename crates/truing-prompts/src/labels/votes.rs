//! Votes on one dimension of one prompt, added up.
//!
//! Where one label holds, the one with most weight wins. A tie is won by what all tied labels are a kind of, with the
//! weight of everything below it; where they have nothing in common, by the label that is first in the set. Where
//! several labels may hold, every label holds that at least half of the weight names; where none has half, the one with
//! most weight.
//!
//! Confidence is the winner's share of the weight of all ballots, those that named no label included. Where several may
//! hold it is the share behind the least certain decision: of a label that holds the share that names it, of one that
//! does not the share that does not.

use super::LabelSet;

/// The answer of one sample of one judge.
#[derive(Debug, Clone, PartialEq)]
pub struct Ballot {
    /// The judge's weight, above 0.
    pub judge_weight: f64,
    /// The labels that it names; none where it abstains or names only what the set does not know.
    pub labels: Vec<usize>,
}

/// What the ballots come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The labels that hold, in the order of the set: one, unless the dimension allows several.
    pub labels: Vec<usize>,
    /// From above 0 to 1.
    pub confidence: f64,
}

/// Ballots added up.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    /// Ballots that name a label, by label in the order of the set; labels without one are left out.
    pub counts: Vec<(usize, u64)>,
    /// Ballots that name none.
    pub n_abstained: u64,
    /// None where no ballot names a label.
    pub decision: Option<Decision>,
}

/// Adds up the ballots of a dimension.
///
/// # Panics
/// When a ballot names a label that the dimension does not have.
#[must_use]
pub fn tally(set: &LabelSet, dimension_idx: usize, ballots: &[Ballot]) -> Tally {
    let dimension = &set.dimensions()[dimension_idx];
    let mut counts = vec![0_u64; dimension.labels.len()];
    let mut weights = vec![0.0_f64; dimension.labels.len()];
    let mut n_abstained = 0;
    for ballot in ballots {
        n_abstained += u64::from(ballot.labels.is_empty());
        let mut labels = ballot.labels.clone();
        labels.sort_unstable();
        labels.dedup();
        for label in labels {
            counts[label] += 1;
            weights[label] += ballot.judge_weight;
        }
    }
    let total: f64 = ballots.iter().map(|ballot| ballot.judge_weight).sum();
    let is_voted = counts.iter().any(|&count| count > 0);
    let decision = is_voted.then(|| match dimension.multiple {
        true => decide_several(&weights, total),
        false => decide_one(set, dimension_idx, &weights, total),
    });
    let counts = counts.into_iter().enumerate().filter(|(_, count)| *count > 0).collect();
    Tally { counts, n_abstained, decision }
}

/// Weights that differ by rounding alone are equal.
fn is_equal(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-9 * one.abs().max(other.abs())
}

fn most(weights: &[f64]) -> f64 {
    weights.iter().copied().fold(0.0, f64::max)
}

fn decide_one(set: &LabelSet, dimension_idx: usize, weights: &[f64], total: f64) -> Decision {
    let most = most(weights);
    let tied: Vec<usize> = (0..weights.len()).filter(|&label| is_equal(weights[label], most)).collect();
    let (winner, weight) = match set.common_ancestor(dimension_idx, &tied) {
        Some(ancestor) if tied.len() > 1 => {
            let below = (0..weights.len()).filter(|&label| set.is_kind_of(dimension_idx, label, ancestor));
            (ancestor, below.map(|label| weights[label]).sum())
        }
        _ => (tied[0], most),
    };
    Decision { labels: vec![winner], confidence: (weight / total).min(1.0) }
}

fn decide_several(weights: &[f64], total: f64) -> Decision {
    let half = total / 2.0;
    let holds = |weight: f64| weight > half || is_equal(weight, half);
    let mut labels: Vec<usize> = (0..weights.len()).filter(|&label| holds(weights[label])).collect();
    if labels.is_empty() {
        let most = most(weights);
        labels.extend((0..weights.len()).find(|&label| is_equal(weights[label], most)));
    }
    let certain = |(label, &weight): (usize, &f64)| {
        if labels.contains(&label) { weight / total } else { 1.0 - weight / total }
    };
    let confidence = weights.iter().enumerate().map(certain).fold(1.0, f64::min);
    Decision { labels, confidence }
}

#[cfg(test)]
mod tests {
    use super::super::{Dimension, Label};
    use super::*;

    /// 0 reasoning, 1 mathematics and 2 logic of it, 3 code, 4 poem.
    fn set(multiple: bool) -> LabelSet {
        let label = |name: &str, parent: Option<&str>| Label {
            name: name.into(),
            parent: parent.map(str::to_owned),
            ..Label::default()
        };
        let labels = vec![
            label("reasoning", None),
            label("mathematics", Some("reasoning")),
            label("logic", Some("reasoning")),
            label("code", None),
            label("poem", None),
        ];
        let dimension = Dimension { name: "ability".into(), description: String::new(), multiple, labels };
        LabelSet::new(vec![dimension]).unwrap()
    }

    fn check(multiple: bool, ballots: &[(f64, &[usize])], expected: Option<(&[usize], f64)>) {
        let ballots: Vec<Ballot> = ballots
            .iter()
            .map(|&(judge_weight, labels)| Ballot { judge_weight, labels: labels.to_vec() })
            .collect();
        let found = tally(&set(multiple), 0, &ballots).decision;
        let seen = found.as_ref().map(|found| (found.labels.as_slice(), found.confidence));
        let is_same = match (seen, expected) {
            (Some((labels, confidence)), Some((expected, share))) => {
                labels == expected && (confidence - share).abs() < 1e-12
            }
            (None, None) => true,
            _ => false,
        };
        assert!(is_same, "{ballots:?}: {found:?} instead of {expected:?}");
    }

    #[test]
    fn most_weight_wins_and_abstentions_cost_confidence() {
        check(false, &[(1.0, &[1]), (1.0, &[1]), (1.0, &[3])], Some((&[1], 2.0 / 3.0)));
        check(false, &[(1.0, &[1]), (1.0, &[1]), (5.0, &[3])], Some((&[3], 5.0 / 7.0)));
        check(false, &[(1.0, &[1]), (1.0, &[]), (2.0, &[])], Some((&[1], 0.25)));
        check(false, &[(1.0, &[3])], Some((&[3], 1.0)));
        check(false, &[(1.0, &[]), (1.0, &[])], None);
        check(false, &[], None);
    }

    #[test]
    fn ties_go_to_the_common_ancestor_then_to_the_first() {
        check(false, &[(1.0, &[2]), (1.0, &[1])], Some((&[0], 1.0)));
        check(false, &[(1.0, &[0]), (1.0, &[1])], Some((&[0], 1.0)));
        check(false, &[(1.0, &[4]), (1.0, &[3])], Some((&[3], 0.5)));
        check(false, &[(1.0, &[1]), (1.0, &[2]), (1.0, &[4])], Some((&[1], 1.0 / 3.0)));
        check(false, &[(2.0, &[1]), (2.0, &[2]), (1.0, &[0]), (1.0, &[3])], Some((&[0], 5.0 / 6.0)));
        // 0.1 + 0.2 is not 0.3, and still a tie.
        check(false, &[(0.1, &[1]), (0.2, &[1]), (0.3, &[3])], Some((&[1], 0.5)));
    }

    #[test]
    fn several_labels_hold_with_half_of_the_weight() {
        check(true, &[(1.0, &[1, 3]), (1.0, &[1]), (1.0, &[1, 3])], Some((&[1, 3], 2.0 / 3.0)));
        check(true, &[(1.0, &[1, 3]), (1.0, &[1])], Some((&[1, 3], 0.5)));
        check(true, &[(1.0, &[1]), (1.0, &[1]), (1.0, &[1, 4])], Some((&[1], 2.0 / 3.0)));
        check(true, &[(1.0, &[4]), (1.0, &[3]), (1.0, &[2])], Some((&[2], 1.0 / 3.0)));
        check(true, &[(1.0, &[1]), (1.0, &[])], Some((&[1], 0.5)));
        check(true, &[(1.0, &[1, 1])], Some((&[1], 1.0)));
        check(true, &[(1.0, &[])], None);
    }

    #[test]
    fn ballots_are_counted_by_label() {
        let ballot = |labels: &[usize]| Ballot { judge_weight: 0.5, labels: labels.to_vec() };
        let found = tally(&set(false), 0, &[ballot(&[3]), ballot(&[1]), ballot(&[3]), ballot(&[])]);
        assert_eq!((found.counts, found.n_abstained), (vec![(1, 1), (3, 2)], 1));
    }
}
