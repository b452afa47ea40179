//! The scores of all judges on one scale.
//!
//! Judge `j` gives response `i` the raw score `x_ij` ([`raw_scores`]). Over all responses that it scored, `x_ij` has
//! mean `m_j` and population deviation `d_j`, and the judge has the weight `w_j`. The calibrated score is
//!
//! ```text
//! z_i = sum_j w_j (x_ij - m_j) / d_j / sum_j w_j        score_i = 1 + 4 P(z_i)
//! ```
//!
//! where `P` is the distribution function of the standard normal distribution. The score lies between 1 and 5, is 3
//! for an average response, and grows with `z`. The sums are over the same judges for all responses of a prompt:
//! those with a weight above 0 that scored all of them. Where no judge did, they are over those that scored at least
//! two, and a response that one of them did not score has no score; nothing is filled in.
//!
//! The rating of a response is the mean of the raw scores of absolute and golden judges, each with its reliability:
//! also of a judge that gives every response the same, which says how good they are, though not which is better.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use truing_statistics::normal_probability;

use super::verdict::{RaterKind, Verdict, VerdictValue, comparisons, raw_scores};

/// What puts the raw scores of a judge on the common scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// The judge.
    pub judge: String,
    /// How it was asked.
    pub kind: RaterKind,
    /// Share of its scores in the common score; the weights of all judges sum to 1, or are all 0.
    pub weight: f64,
    /// Weight of its ratings in the mean rating: what its weight would be if it distinguished responses.
    pub reliability: f64,
    /// Mean of its raw scores.
    pub mean: f64,
    /// Population deviation of its raw scores.
    pub deviation: f64,
}

impl Scale {
    fn standardised(&self, raw: f64) -> f64 {
        (raw - self.mean) / self.deviation
    }
}

/// A response on the common scale.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResponseScore {
    /// The calibrated score, between 1 and 5.
    pub score: f64,
    /// Weighted mean of the raw scores of absolute and golden judges, 1 to 5; `None` without such a judge.
    pub rating: Option<f64>,
    /// Mean rating by aspect over the absolute judges; an aspect without a rating is not there.
    pub aspects: BTreeMap<String, f64>,
}

/// The scores of a prompt's responses from the verdicts on them; `None` for a response without one.
#[must_use]
pub fn group_scores(
    scales: &[Scale],
    n_responses: usize,
    verdicts: &[Verdict],
    prior_deviation: f64,
) -> Vec<Option<ResponseScore>> {
    let of_judge =
        |scale: &Scale| verdicts.iter().filter(|verdict| verdict.judge == scale.judge).collect::<Vec<_>>();
    let mut used: Vec<(&Scale, Vec<Option<f64>>)> = scales
        .iter()
        .filter(|scale| scale.weight > 0.0)
        .map(|scale| (scale, raw_scores(scale.kind, n_responses, &of_judge(scale), prior_deviation)))
        .filter(|(_, raw)| raw.iter().flatten().count() >= 2)
        .collect();
    let is_complete = |raw: &[Option<f64>]| raw.iter().all(Option::is_some);
    if used.iter().any(|(_, raw)| is_complete(raw)) {
        used.retain(|(_, raw)| is_complete(raw));
    }
    let ratings = group_ratings(scales, n_responses, verdicts, prior_deviation);
    let score = |place: usize| {
        let raw: Vec<(&Scale, f64)> =
            used.iter().map(|(scale, raw)| Some((*scale, raw[place]?))).collect::<Option<_>>()?;
        let z = weighted_mean(raw.iter().map(|&(scale, raw)| (scale.weight, scale.standardised(raw))))?;
        Some(ResponseScore {
            score: 1.0 + 4.0 * normal_probability(z),
            rating: ratings[place],
            aspects: aspects(&used, verdicts, place),
        })
    };
    let scores: Vec<Option<ResponseScore>> = (0..n_responses).map(score).collect();
    // What is scored alone is compared with nothing.
    if scores.iter().flatten().count() < 2 { vec![None; n_responses] } else { scores }
}

/// The mean ratings of a prompt's responses; `None` for a response that no absolute or golden judge rated.
#[must_use]
pub fn group_ratings(
    scales: &[Scale],
    n_responses: usize,
    verdicts: &[Verdict],
    prior_deviation: f64,
) -> Vec<Option<f64>> {
    let raters = scales.iter().filter(|scale| scale.kind.is_rating() && scale.reliability > 0.0);
    let raw: Vec<(f64, Vec<Option<f64>>)> = raters
        .map(|scale| {
            let own: Vec<&Verdict> = verdicts.iter().filter(|verdict| verdict.judge == scale.judge).collect();
            (scale.reliability, raw_scores(scale.kind, n_responses, &own, prior_deviation))
        })
        .collect();
    let rated = |place: usize| raw.iter().filter_map(move |(weight, raw)| Some((*weight, raw[place]?)));
    (0..n_responses).map(|place| weighted_mean(rated(place))).collect()
}

fn weighted_mean(weighted: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (mut sum, mut weights) = (0.0, 0.0);
    for (weight, value) in weighted {
        sum += weight * value;
        weights += weight;
    }
    (weights > 0.0).then(|| sum / weights)
}

fn aspects(used: &[(&Scale, Vec<Option<f64>>)], verdicts: &[Verdict], place: usize) -> BTreeMap<String, f64> {
    let mut ratings: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let is_used = |verdict: &&Verdict| used.iter().any(|(scale, _)| scale.judge == verdict.judge);
    for verdict in verdicts.iter().filter(is_used).filter(|verdict| verdict.response == Some(place)) {
        let VerdictValue::Aspects(aspects) = &verdict.value else { continue };
        for (name, rating) in aspects {
            ratings.entry(name).or_default().extend(rating.map(f64::from));
        }
    }
    let mean = |(name, values): (&str, Vec<f64>)| {
        let n = values.len() as f64;
        (!values.is_empty()).then(|| (name.to_owned(), values.iter().sum::<f64>() / n))
    };
    ratings.into_iter().filter_map(mean).collect()
}

/// What the comparisons of two responses with each other say: above 0 if the judges prefer `one`, below 0 if they
/// prefer `other`, each with its weight.
#[must_use]
pub fn direct_preference(scales: &[Scale], verdicts: &[Verdict], one: usize, other: usize) -> f64 {
    let of_judge = |scale: &Scale| {
        let own: Vec<&Verdict> = verdicts.iter().filter(|verdict| verdict.judge == scale.judge).collect();
        let direct =
            comparisons(&own).into_iter().find(|found| found.pair == [one.min(other), one.max(other)]);
        direct.map_or(0.0, |found| {
            let share_of_one = if one < other { found.share } else { 1.0 - found.share };
            scale.weight * (share_of_one - 0.5)
        })
    };
    scales.iter().map(of_judge).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_ask::preference::Preference;

    fn golden(judge: &str, place: usize, rating: f64) -> Verdict {
        Verdict {
            judge: judge.into(),
            kind: RaterKind::Golden,
            response: Some(place),
            order: None,
            value: VerdictValue::Number(rating),
            raw_digest: None,
        }
    }

    fn scale(judge: &str, weight: f64, mean: f64, deviation: f64) -> Scale {
        Scale { judge: judge.into(), kind: RaterKind::Golden, weight, reliability: weight, mean, deviation }
    }

    fn scores(scales: &[Scale], n_responses: usize, verdicts: &[Verdict]) -> Vec<Option<f64>> {
        let found = group_scores(scales, n_responses, verdicts, 2.0);
        found.into_iter().map(|score| score.map(|score| score.score)).collect()
    }

    #[test]
    fn the_score_is_that_of_the_formula() {
        let scales = [scale("a", 0.75, 3.0, 1.0), scale("b", 0.25, 0.0, 0.5)];
        let verdicts = [golden("a", 0, 4.0), golden("a", 1, 2.0), golden("b", 0, -0.5), golden("b", 1, 0.5)];
        // z = 0.75 * 1 - 0.25 * 1 = 0.5; scipy.stats.norm.cdf(0.5) = 0.6914624612740131.
        let found = scores(&scales, 2, &verdicts);
        assert!((found[0].unwrap() - (1.0 + 4.0 * 0.691_462_461_274_013_1)).abs() < 1e-9, "{found:?}");
        assert!((found[0].unwrap() + found[1].unwrap() - 6.0).abs() < 1e-9, "symmetric around 3: {found:?}");
        let rating = group_scores(&scales, 2, &verdicts, 2.0)[0].as_ref().unwrap().rating.unwrap();
        assert!((rating - (0.75 * 4.0 - 0.25 * 0.5)).abs() < 1e-12);
    }

    #[test]
    fn every_response_of_a_prompt_is_scored_by_the_same_judges_or_not_at_all() {
        let scales = [scale("a", 0.5, 3.0, 1.0), scale("b", 0.5, 3.0, 1.0)];
        let a = [golden("a", 0, 4.0), golden("a", 1, 2.0), golden("a", 2, 3.0)];
        // `b` scored one response alone: it is not used.
        let one = [&a[..], &[golden("b", 0, 1.0)]].concat();
        assert_eq!(scores(&scales, 3, &one), scores(&scales[..1], 3, &a));
        // `b` scored two, `a` all: `b` is left out.
        let b = [golden("b", 0, 4.0), golden("b", 1, 2.0)];
        assert_eq!(scores(&scales, 3, &[&a[..], &b].concat()), scores(&scales[..1], 3, &a));
        // Neither scored all: what one of them missed has no score.
        let found = scores(&scales, 3, &[&a[..2], &b].concat());
        assert!(found[0] > found[1] && found[1].is_some() && found[2].is_none(), "{found:?}");
        assert_eq!(scores(&scales, 3, &a[..1]), [None; 3]);
        assert_eq!(scores(&[scale("a", 0.0, 3.0, 1.0)], 3, &a), [None; 3]);
    }

    #[test]
    fn a_judge_that_always_says_the_same_still_rates() {
        let same = Scale { weight: 0.0, reliability: 1.0, ..scale("a", 0.0, 5.0, 0.0) };
        let verdicts = [golden("a", 0, 5.0), golden("a", 1, 5.0), golden("b", 0, 4.0), golden("b", 1, 2.0)];
        assert_eq!(scores(std::slice::from_ref(&same), 2, &verdicts), [None; 2]);
        let one = std::slice::from_ref(&same);
        assert_eq!(group_ratings(one, 3, &verdicts, 2.0), [Some(5.0), Some(5.0), None]);
        let both = [same, scale("b", 1.0, 3.0, 1.0)];
        assert_eq!(group_ratings(&both, 2, &verdicts, 2.0), [Some(4.5), Some(3.5)]);
        assert_eq!(group_scores(&both, 2, &verdicts, 2.0)[0].as_ref().unwrap().rating, Some(4.5));
    }

    #[test]
    fn a_direct_comparison_has_a_side() {
        let compared = |order, preference| Verdict {
            kind: RaterKind::Pairwise,
            response: None,
            order: Some(order),
            value: VerdictValue::Preference(preference),
            ..golden("a", 0, 0.0)
        };
        let scales = [scale("a", 0.5, 0.0, 1.0)];
        let verdicts = [compared([2, 1], Preference::First), compared([1, 2], Preference::Second)];
        assert_eq!(direct_preference(&scales, &verdicts, 2, 1), 0.25);
        assert_eq!(direct_preference(&scales, &verdicts, 1, 2), -0.25);
        assert_eq!(direct_preference(&scales, &verdicts, 0, 1), 0.0);
    }
}
