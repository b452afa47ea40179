//! The next mix of prompts: shares of categories, moved by what an evaluation says of each.
//!
//! The report measures a model by category and adds prompts where it is weak (2.1 and 4); it states no rule. Ours:
//!
//! 1. A category's gap is the mean over the categories less its own score. It is *resolved* if the 95 % interval of the
//!    score does not contain that mean.
//! 2. Shares of resolved weak categories are raised, in proportion to share and gap; the largest gap is raised by
//!    `max_change` of its share.
//! 3. What is added is taken from resolved strong categories, in proportion to share and distance, and if that is not
//!    enough from the others with a share, in proportion to the share. None loses more than `max_change` of its share.
//!    If that is not enough either, less is added.
//! 4. Categories without a score, and those whose gap is not resolved, are not raised.
//!
//! So the shares sum to what they summed to, a share of 0 stays 0, and no category disappears.

use serde::{Deserialize, Serialize};

/// The score of a category, on a scale from 0 to 1 where more is better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CategoryScore {
    /// The score.
    pub score: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Items.
    pub n_items: usize,
}

/// A category of prompts, its share of the mix, and what is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryEvidence {
    /// Its name.
    pub name: String,
    /// Its share of the prompts; the shares of a mix sum to 1.
    pub share: f64,
    /// Its score; `None` where the evaluation has none with an interval.
    pub score: Option<CategoryScore>,
}

/// Why a share is proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShareReason {
    /// Its score is below the mean, and the interval does not contain the mean.
    Weak,
    /// Its score is above the mean, and the interval does not contain the mean: it gives to weak categories.
    Strong,
    /// The interval contains the mean: its score says neither.
    Unresolved,
    /// It has no score with an interval.
    NoScore,
}

/// A share of the next mix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProposedShare {
    /// The category with its share of this mix.
    #[serde(flatten)]
    pub evidence: CategoryEvidence,
    /// Its share of the next mix.
    pub proposed: f64,
    /// Why.
    pub reason: ShareReason,
}

/// Proposes the shares of the next mix; see the rule at the top of the module. `max_change` is the largest change of a
/// share, as a part of it.
#[must_use]
pub fn propose_mix(categories: &[CategoryEvidence], max_change: f64) -> Vec<ProposedShare> {
    let mean = mean_score(categories);
    let reasons: Vec<ShareReason> =
        categories.iter().map(|category| reason(category.score.as_ref(), mean)).collect();
    // The distance from the mean where it is resolved.
    let gap = |idx: usize| match (reasons[idx], &categories[idx].score) {
        (ShareReason::Weak | ShareReason::Strong, Some(score)) => (mean - score.score).abs(),
        _ => 0.0,
    };
    let of = |reason: ShareReason| -> Vec<usize> {
        (0..categories.len()).filter(|&idx| reasons[idx] == reason).collect()
    };
    let weak = of(ShareReason::Weak);
    let largest = weak.iter().map(|&idx| gap(idx)).fold(0.0, f64::max);
    let mut changes = vec![0.0; categories.len()];
    if largest > 0.0 {
        for &idx in &weak {
            changes[idx] = max_change * categories[idx].share * gap(idx) / largest;
        }
    }
    let wanted: f64 = changes.iter().sum();
    let strong: Vec<(usize, f64)> =
        of(ShareReason::Strong).into_iter().map(|idx| (idx, categories[idx].share * gap(idx))).collect();
    let others = [of(ShareReason::Unresolved), of(ShareReason::NoScore)].concat();
    let others: Vec<(usize, f64)> = others.into_iter().map(|idx| (idx, categories[idx].share)).collect();
    let most = |idx: usize| max_change * categories[idx].share;
    let mut taken = take(&strong, wanted, &most, &mut changes);
    taken += take(&others, wanted - taken, &most, &mut changes);
    if taken < wanted {
        for idx in weak {
            changes[idx] *= taken / wanted;
        }
    }
    let proposed = categories.iter().zip(changes).zip(&reasons).map(|((evidence, change), &reason)| {
        ProposedShare { evidence: evidence.clone(), proposed: evidence.share + change, reason }
    });
    proposed.collect()
}

/// The mean of the categories' scores, each counted once; 0 without scores.
#[must_use]
pub fn mean_score(categories: &[CategoryEvidence]) -> f64 {
    let scores: Vec<f64> = categories.iter().filter_map(|category| Some(category.score?.score)).collect();
    if scores.is_empty() { 0.0 } else { scores.iter().sum::<f64>() / scores.len() as f64 }
}

fn reason(score: Option<&CategoryScore>, mean: f64) -> ShareReason {
    match score {
        None => ShareReason::NoScore,
        Some(score) if score.high < mean => ShareReason::Weak,
        Some(score) if score.low > mean => ShareReason::Strong,
        Some(_) => ShareReason::Unresolved,
    }
}

/// Takes an amount from categories in proportion to their weights, from none more than `most`. Returns what was taken.
fn take(from: &[(usize, f64)], amount: f64, most: &dyn Fn(usize) -> f64, changes: &mut [f64]) -> f64 {
    let mut left: Vec<(usize, f64)> = from.iter().copied().filter(|(_, weight)| *weight > 0.0).collect();
    let mut taken = 0.0;
    // Each round either takes all that is wanted, or empties a category.
    while amount - taken > f64::EPSILON && !left.is_empty() {
        let total: f64 = left.iter().map(|(_, weight)| weight).sum();
        let wanted = amount - taken;
        left.retain(|&(idx, weight)| {
            let room = most(idx) + changes[idx];
            let part = wanted * weight / total;
            let given = part.min(room);
            changes[idx] -= given;
            taken += given;
            part < room
        });
    }
    taken
}

/// Whole numbers in the proportion of shares that sum to `total`: rounded down, and what is left goes to the largest
/// remainders (Hamilton's method). A share above 0 gets at least 1 where `total` allows it.
#[must_use]
pub fn counts_of(shares: &[f64], total: u64) -> Vec<u64> {
    let sum: f64 = shares.iter().sum();
    if sum <= 0.0 {
        return vec![0; shares.len()];
    }
    let exact: Vec<f64> = shares.iter().map(|share| share / sum * total as f64).collect();
    let mut counts: Vec<u64> = exact.iter().map(|count| count.floor() as u64).collect();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()));
    let missing = total.saturating_sub(counts.iter().sum()) as usize;
    for &idx in order.iter().cycle().take(missing) {
        counts[idx] += 1;
    }
    for (idx, share) in shares.iter().enumerate() {
        let largest = (0..counts.len()).max_by_key(|&other| counts[other]);
        if let Some(largest) = largest.filter(|&largest| counts[largest] > 1)
            && counts[idx] == 0
            && *share > 0.0
        {
            counts[largest] -= 1;
            counts[idx] = 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn category(name: &str, share: f64, score: Option<(f64, f64)>) -> CategoryEvidence {
        let score = score.map(|(score, half)| CategoryScore {
            score,
            low: score - half,
            high: score + half,
            n_items: 100,
        });
        CategoryEvidence { name: name.into(), share, score }
    }

    /// Checks what holds of every proposal.
    fn proposed(categories: &[CategoryEvidence], max_change: f64) -> Vec<ProposedShare> {
        let proposed = propose_mix(categories, max_change);
        let sum: f64 = proposed.iter().map(|share| share.proposed).sum();
        let before: f64 = categories.iter().map(|category| category.share).sum();
        assert!((sum - before).abs() < 1e-12, "{sum} {before}");
        for share in &proposed {
            let change = (share.proposed - share.evidence.share).abs();
            assert!(change <= max_change * share.evidence.share + 1e-12, "{share:?}");
        }
        proposed
    }

    #[test]
    fn a_weak_category_is_raised_and_strong_ones_give() {
        let categories = [
            category("math", 0.25, Some((0.2, 0.05))),
            category("code", 0.25, Some((0.5, 0.3))),
            category("chat", 0.25, Some((0.8, 0.05))),
            category("role", 0.25, None),
        ];
        let shares = proposed(&categories, 0.2);
        let reasons: Vec<ShareReason> = shares.iter().map(|share| share.reason).collect();
        let expected =
            [ShareReason::Weak, ShareReason::Unresolved, ShareReason::Strong, ShareReason::NoScore];
        assert_eq!(reasons, expected);
        let values: Vec<f64> = shares.iter().map(|share| share.proposed).collect();
        for (value, expected) in values.iter().zip([0.3, 0.25, 0.2, 0.25]) {
            assert!((value - expected).abs() < 1e-12, "{values:?}");
        }
    }

    #[test]
    fn without_a_resolved_gap_nothing_changes() {
        let wide = [category("a", 0.6, Some((0.4, 0.2))), category("b", 0.4, Some((0.6, 0.2)))];
        let none = [category("a", 0.6, None), category("b", 0.4, None)];
        for categories in [&wide[..], &none, &[]] {
            for share in proposed(categories, 0.5) {
                assert_eq!(share.proposed, share.evidence.share, "{share:?}");
            }
        }
    }

    #[test]
    fn what_is_not_given_is_not_added() {
        // The strong category gives a fifth of a small share, the unresolved one the rest as far as it may.
        let categories = [
            category("weak", 0.9, Some((0.1, 0.01))),
            category("strong", 0.05, Some((0.9, 0.01))),
            category("open", 0.05, Some((0.5, 0.4))),
        ];
        let shares = proposed(&categories, 0.2);
        assert!((shares[0].proposed - 0.92).abs() < 1e-12, "{shares:?}");
        assert!((shares[1].proposed - 0.04).abs() < 1e-12 && (shares[2].proposed - 0.04).abs() < 1e-12);
        let zero = [category("weak", 0.0, Some((0.1, 0.01))), category("strong", 1.0, Some((0.9, 0.01)))];
        assert_eq!(proposed(&zero, 0.5)[0].proposed, 0.0, "what is not in the mix stays out of it");
    }

    #[test]
    fn the_larger_gap_is_raised_more_whatever_the_order() {
        let mut categories = vec![
            category("a", 0.2, Some((0.1, 0.02))),
            category("b", 0.3, Some((0.3, 0.02))),
            category("c", 0.5, Some((0.9, 0.02))),
        ];
        let first = proposed(&categories, 0.1);
        categories.reverse();
        let mut second = proposed(&categories, 0.1);
        second.reverse();
        assert_eq!(first.len(), second.len());
        for (one, other) in first.iter().zip(&second) {
            assert!((one.proposed - other.proposed).abs() < 1e-12, "{one:?} {other:?}");
        }
        let raised = |share: &ProposedShare| share.proposed / share.evidence.share;
        assert!(raised(&first[0]) > raised(&first[1]) && raised(&first[1]) > 1.0, "{first:?}");
    }

    #[test]
    fn counts_sum_to_the_total_and_nothing_disappears() {
        assert_eq!(counts_of(&[0.5, 0.3, 0.2], 10), [5, 3, 2]);
        assert_eq!(counts_of(&[1.0, 1.0, 1.0], 10).iter().sum::<u64>(), 10);
        assert_eq!(counts_of(&[0.999, 0.001, 0.0], 100), [99, 1, 0]);
        assert_eq!(counts_of(&[0.0, 0.0], 7), [0, 0]);
        assert_eq!(counts_of(&[], 7), [0_u64; 0]);
    }
}
