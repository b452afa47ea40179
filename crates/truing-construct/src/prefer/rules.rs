//! What becomes of a prompt (report 3.3): groups of responses that are all good, nearly equal or all bad give no
//! pairs, the bad ones go to people who edit; of the others the pairs are chosen by their margin.

use serde::{Deserialize, Serialize};

use super::config::{PairRule, PreferConfig};
use super::inputs::PromptGroup;
use super::scores::{ResponseScore, Scale, direct_preference, group_ratings, group_scores};
use super::verdict::Verdict;

/// Scores that differ by less are equal: the rest is rounding.
const ROUNDING: f64 = 1e-9;

/// What became of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It has pairs.
    Paired,
    /// All its responses are rated at least `all_high`.
    AllHigh,
    /// All its responses are rated at most `all_low`; it is in `edit_queue.jsonl`.
    AllLow,
    /// Its best and worst response differ by less than `min_gap` or `min_margin`.
    NearEqual,
    /// The judges that compared the responses of its pairs with each other prefer the other one.
    Contradicted,
    /// Fewer than two of its responses have a score.
    Unscored,
    /// It has fewer than two different responses.
    TooFew,
}

impl Fate {
    /// Its name in the files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paired => "paired",
            Self::AllHigh => "all_high",
            Self::AllLow => "all_low",
            Self::NearEqual => "near_equal",
            Self::Contradicted => "contradicted",
            Self::Unscored => "unscored",
            Self::TooFew => "too_few",
        }
    }
}

/// Two responses by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChosenPair {
    /// The better one.
    pub chosen: usize,
    /// The worse one.
    pub rejected: usize,
}

/// A prompt with its scores and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What became of it.
    pub fate: Fate,
    /// The scores of its responses `[n_responses]`; `None` for one without.
    pub scores: Vec<Option<ResponseScore>>,
    /// The mean ratings of its responses `[n_responses]`; `None` for one without.
    pub ratings: Vec<Option<f64>>,
    /// Difference of the best score and the worst.
    pub gap: Option<f64>,
    /// Its pairs; none unless the fate is [`Fate::Paired`].
    pub pairs: Vec<ChosenPair>,
    /// Pairs that the rule names, but the comparisons of their two responses contradict.
    pub n_contradicted: usize,
}

/// Decides about a prompt.
#[must_use]
pub fn decide(
    config: &PreferConfig,
    scales: &[Scale],
    group: &PromptGroup,
    verdicts: &[Verdict],
) -> Decision {
    let n_responses = group.responses.len();
    let scores = group_scores(scales, n_responses, verdicts, config.prior_deviation);
    let ratings = group_ratings(scales, n_responses, verdicts, config.prior_deviation);
    let order = ranked(&scores);
    let score = |place: usize| scores[place].as_ref().map_or(f64::NAN, |found| found.score);
    let alike = fate_of_ratings(config, &scores, &ratings);
    let (Some(&best), Some(&worst)) = (order.first(), order.last()) else {
        let fate = match group.is_comparable() {
            true => alike.unwrap_or(Fate::Unscored),
            false => Fate::TooFew,
        };
        return Decision { fate, scores, ratings, gap: None, pairs: Vec::new(), n_contradicted: 0 };
    };
    let gap = score(best) - score(worst);
    let (mut pairs, mut n_contradicted) = (Vec::new(), 0);
    let fate = if let Some(alike) = alike {
        alike
    } else if gap < config.min_gap || !is_margin(gap, config.min_margin) {
        Fate::NearEqual
    } else {
        for pair in candidates(config.pairs, &order) {
            if !is_margin(score(pair.chosen) - score(pair.rejected), config.min_margin) {
                continue;
            }
            match direct_preference(scales, verdicts, pair.chosen, pair.rejected) < 0.0 {
                true => n_contradicted += 1,
                false => pairs.push(pair),
            }
        }
        if pairs.is_empty() { Fate::Contradicted } else { Fate::Paired }
    };
    Decision { fate, scores, ratings, gap: Some(gap), pairs, n_contradicted }
}

/// Whether all responses that were rated are good, or all bad. Every response with a score needs a rating, and two
/// responses have to be rated.
fn fate_of_ratings(
    config: &PreferConfig,
    scores: &[Option<ResponseScore>],
    ratings: &[Option<f64>],
) -> Option<Fate> {
    let is_missing = scores.iter().zip(ratings).any(|(score, rating)| score.is_some() && rating.is_none());
    let rated: Vec<f64> = ratings.iter().flatten().copied().collect();
    if is_missing || rated.len() < 2 {
        return None;
    }
    if rated.iter().all(|&rating| rating >= config.all_high) {
        return Some(Fate::AllHigh);
    }
    rated.iter().all(|&rating| rating <= config.all_low).then_some(Fate::AllLow)
}

/// Whether a difference of scores makes a pair.
fn is_margin(difference: f64, min_margin: f64) -> bool {
    difference > ROUNDING && difference >= min_margin
}

/// The places of the scored responses from best to worst; equal ones in their order in the row.
pub(super) fn ranked(scores: &[Option<ResponseScore>]) -> Vec<usize> {
    let mut scored: Vec<(usize, f64)> =
        scores.iter().enumerate().filter_map(|(place, found)| Some((place, found.as_ref()?.score))).collect();
    scored.sort_by(|one, other| other.1.total_cmp(&one.1));
    scored.into_iter().map(|(place, _)| place).collect()
}

/// The pairs that a rule names, of places from best to worst.
fn candidates(rule: PairRule, order: &[usize]) -> Vec<ChosenPair> {
    let pair = |better: usize, worse: usize| ChosenPair { chosen: order[better], rejected: order[worse] };
    let last = order.len() - 1;
    match rule {
        PairRule::BestWorst => vec![pair(0, last)],
        PairRule::BestRest => (1..=last).map(|worse| pair(0, worse)).collect(),
        PairRule::All => {
            (0..last).flat_map(|better| (better + 1..=last).map(move |worse| pair(better, worse))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefer::inputs::Response;
    use crate::prefer::verdict::{RaterKind, VerdictValue};
    use std::collections::BTreeMap;
    use truing_ask::preference::Preference;
    use truing_types::{Conversation, RowOrigin};

    fn group(n_responses: usize) -> PromptGroup {
        let response = |i: usize| Response { text: format!("response {i}"), model: None, score: None };
        PromptGroup {
            prompt: Conversation::default(),
            question: "?".into(),
            responses: (0..n_responses).map(response).collect(),
            left_out: BTreeMap::new(),
            columns: serde_json::Map::new(),
            origin: RowOrigin { source: "rows".into(), line: 1 },
        }
    }

    fn scale(judge: &str, kind: RaterKind, mean: f64) -> Scale {
        Scale { judge: judge.into(), kind, weight: 0.5, reliability: 0.5, mean, deviation: 1.0 }
    }

    fn golden(ratings: &[f64]) -> Vec<Verdict> {
        let verdict = |(place, &rating): (usize, &f64)| Verdict {
            kind: RaterKind::Golden,
            ..Verdict::of_score("golden", place, rating)
        };
        ratings.iter().enumerate().map(verdict).collect()
    }

    fn decided(change: impl Fn(&mut PreferConfig), ratings: &[f64]) -> Decision {
        let mut config = PreferConfig::default();
        change(&mut config);
        let scales = [scale("golden", RaterKind::Golden, 3.0)];
        decide(&config, &scales, &group(ratings.len()), &golden(ratings))
    }

    #[test]
    fn groups_that_teach_nothing_have_no_pairs() {
        for (ratings, expected) in [
            (&[5.0, 4.5, 5.0][..], Fate::AllHigh),
            (&[1.0, 2.0, 1.0], Fate::AllLow),
            (&[3.0, 3.1, 3.0], Fate::NearEqual),
            (&[3.0, 3.0], Fate::NearEqual),
            (&[1.0, 5.0], Fate::Paired),
            (&[5.0, 4.0], Fate::Paired),
            (&[1.0], Fate::TooFew),
        ] {
            let found = decided(|_| {}, ratings);
            assert_eq!(found.fate, expected, "{ratings:?}");
            assert_eq!(found.pairs.is_empty(), expected != Fate::Paired);
        }
        assert_eq!(
            decided(|config| config.min_gap = 0.0, &[3.0, 3.0]).fate,
            Fate::NearEqual,
            "a tie is no pair"
        );
        assert_eq!(decided(|config| config.all_high = 4.0, &[5.0, 4.0]).fate, Fate::AllHigh);
        assert_eq!(decided(|config| config.all_low = 0.0, &[2.0, 1.0]).fate, Fate::Paired);
        assert_eq!(decided(|config| config.min_margin = 3.5, &[5.0, 2.0]).fate, Fate::NearEqual);
        let nothing = decide(&PreferConfig::default(), &[], &group(2), &[]);
        assert_eq!((nothing.fate, nothing.gap), (Fate::Unscored, None));
    }

    #[test]
    fn pairs_follow_the_rule_and_the_margin() {
        let pairs = |rule, min_margin| {
            let change = |config: &mut PreferConfig| (config.pairs, config.min_margin) = (rule, min_margin);
            let found = decided(change, &[2.0, 5.0, 2.1, 3.0]).pairs;
            found.iter().map(|pair| (pair.chosen, pair.rejected)).collect::<Vec<_>>()
        };
        assert_eq!(pairs(PairRule::BestWorst, 0.0), [(1, 0)]);
        assert_eq!(pairs(PairRule::BestRest, 0.0), [(1, 3), (1, 2), (1, 0)]);
        assert_eq!(pairs(PairRule::All, 0.0), [(1, 3), (1, 2), (1, 0), (3, 2), (3, 0), (2, 0)]);
        // Scores 4.91, 3, 1.74 and 1.63: the two last are near.
        assert_eq!(pairs(PairRule::All, 0.5), [(1, 3), (1, 2), (1, 0), (3, 2), (3, 0)]);
    }

    #[test]
    fn a_pair_that_its_own_comparison_contradicts_is_dropped() {
        let compared = |order, preference| Verdict {
            judge: "pairwise".into(),
            kind: RaterKind::Pairwise,
            response: None,
            order: Some(order),
            value: VerdictValue::Preference(preference),
            raw_digest: None,
        };
        let mut verdicts = golden(&[5.0, 1.0]);
        verdicts.extend([compared([0, 1], Preference::Second), compared([1, 0], Preference::First)]);
        let scales = [scale("golden", RaterKind::Golden, 3.0), scale("pairwise", RaterKind::Pairwise, 0.0)];
        let found = decide(&PreferConfig::default(), &scales, &group(2), &verdicts);
        assert_eq!((found.fate, found.n_contradicted), (Fate::Contradicted, 1), "{found:?}");
    }
}
