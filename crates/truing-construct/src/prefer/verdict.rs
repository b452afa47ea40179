//! The verdicts of judges, and what they come to: one raw score of each response and judge. The scores depend on the
//! verdicts alone, so that the pairs can be checked against what is stored with them ([`super::check`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use truing_ask::preference::Preference;
use truing_statistics::bradley_terry::{self, Outcome};
use truing_store::Digest;

use super::config::JudgeKind;
use super::plan::{Call, Shown};

/// Where a verdict comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RaterKind {
    /// A judge that rates by aspect.
    Absolute,
    /// A judge that compares.
    Pairwise,
    /// A judge with the golden answer.
    Golden,
    /// A score in the data.
    Score,
}

impl From<JudgeKind> for RaterKind {
    fn from(kind: JudgeKind) -> Self {
        match kind {
            JudgeKind::Absolute => Self::Absolute,
            JudgeKind::Pairwise => Self::Pairwise,
            JudgeKind::Golden => Self::Golden,
        }
    }
}

impl RaterKind {
    /// Whether its scores are ratings from 1 to 5, which say how good a response is and not only which is better.
    #[must_use]
    pub fn is_rating(self) -> bool {
        matches!(self, Self::Absolute | Self::Golden)
    }
}

/// What a verdict says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VerdictValue {
    /// A rating against the golden answer, or a score in the data.
    Number(f64),
    /// Which of the two, by the order in which they were shown.
    Preference(Preference),
    /// Ratings by aspect, 1 to 5; null where the judge says that an aspect cannot be rated.
    Aspects(BTreeMap<String, Option<u8>>),
}

/// One verdict. Responses are named by their places among the judged responses of the prompt (`index` in
/// `ranked.jsonl`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Who says it.
    pub judge: String,
    /// How it was asked.
    pub kind: RaterKind,
    /// The response that is rated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<usize>,
    /// The two that are compared, in the order in which they were shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<[usize; 2]>,
    /// What it says.
    pub value: VerdictValue,
    /// Digest of the reply (BLAKE3), which `verdicts.jsonl` has; `None` of scores in the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_digest: Option<String>,
}

impl Verdict {
    /// The verdict in the reply to a question.
    pub(super) fn of_reply(
        judge: &str,
        kind: JudgeKind,
        call: &Call,
        value: VerdictValue,
        raw: &str,
    ) -> Self {
        let (response, order) = match call.shown {
            Shown::One(place) => (Some(place), None),
            Shown::Two(order) => (None, Some(order)),
        };
        let raw_digest = Some(Digest::of_bytes(raw.as_bytes()).to_string());
        Self { judge: judge.to_owned(), kind: kind.into(), response, order, value, raw_digest }
    }

    /// A score in the data.
    pub(super) fn of_score(rater: &str, place: usize, score: f64) -> Self {
        Self {
            judge: rater.to_owned(),
            kind: RaterKind::Score,
            response: Some(place),
            order: None,
            value: VerdictValue::Number(score),
            raw_digest: None,
        }
    }
}

/// Two responses that a judge compared in both orders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The two, the smaller place first.
    pub pair: [usize; 2],
    /// Whether both orders have the same verdict.
    pub is_consistent: bool,
    /// The first one's share of the win: 1, 0, or 0.5 for a tie and where the orders disagree.
    pub share: f64,
}

/// The comparisons of one judge for one prompt. A pair with a verdict in one order only is no comparison.
#[must_use]
pub fn comparisons(verdicts: &[&Verdict]) -> Vec<Comparison> {
    let mut by_pair: BTreeMap<[usize; 2], [Option<f64>; 2]> = BTreeMap::new();
    for verdict in verdicts {
        let (Some([first, second]), VerdictValue::Preference(preference)) = (verdict.order, &verdict.value)
        else {
            continue;
        };
        let share_of_first = match preference {
            Preference::First => 1.0,
            Preference::Second => 0.0,
            Preference::Tie => 0.5,
        };
        let is_swapped = first > second;
        let share = if is_swapped { 1.0 - share_of_first } else { share_of_first };
        let pair = [first.min(second), first.max(second)];
        by_pair.entry(pair).or_default()[usize::from(is_swapped)] = Some(share);
    }
    let comparison = |(pair, shares): ([usize; 2], [Option<f64>; 2])| {
        let [one, other] = shares;
        let (one, other) = (one?, other?);
        let is_consistent = one == other;
        Some(Comparison { pair, is_consistent, share: if is_consistent { one } else { 0.5 } })
    };
    by_pair.into_iter().filter_map(comparison).collect()
}

/// The scores of one judge for a prompt's responses from its verdicts; `None` for a response that it did not score.
///
/// - `absolute`: the mean of the aspects. An aspect that is missing for one of the scored responses is left out for
///   all of them, so that the means are of the same aspects. Without a common aspect no response is scored.
/// - `golden` and `score`: the number.
/// - `pairwise`: Bradley-Terry strength in log-odds, of mean 0 over the prompt's responses.
#[must_use]
pub fn raw_scores(
    kind: RaterKind,
    n_responses: usize,
    verdicts: &[&Verdict],
    prior_deviation: f64,
) -> Vec<Option<f64>> {
    match kind {
        RaterKind::Absolute => aspect_means(n_responses, verdicts),
        RaterKind::Golden | RaterKind::Score => {
            let mut scores = vec![None; n_responses];
            for verdict in verdicts {
                if let (Some(place), VerdictValue::Number(number)) = (verdict.response, &verdict.value)
                    && let Some(score) = scores.get_mut(place)
                {
                    *score = Some(*number);
                }
            }
            scores
        }
        RaterKind::Pairwise => strengths(n_responses, &comparisons(verdicts), prior_deviation),
    }
}

fn aspect_means(n_responses: usize, verdicts: &[&Verdict]) -> Vec<Option<f64>> {
    // Aspects that are missing are not here at all.
    let mut rated: BTreeMap<usize, BTreeMap<&str, f64>> = BTreeMap::new();
    for verdict in verdicts {
        if let (Some(place), VerdictValue::Aspects(aspects)) = (verdict.response, &verdict.value) {
            let given =
                aspects.iter().filter_map(|(name, value)| Some((name.as_str(), f64::from((*value)?))));
            rated.insert(place, given.collect());
        }
    }
    rated.retain(|_, aspects| !aspects.is_empty());
    let mut common: Option<BTreeSet<&str>> = None;
    for aspects in rated.values() {
        let names: BTreeSet<&str> = aspects.keys().copied().collect();
        common = Some(match common {
            Some(common) => &common & &names,
            None => names,
        });
    }
    let common = common.unwrap_or_default();
    let mean = |aspects: &BTreeMap<&str, f64>| {
        let sum: f64 = common.iter().filter_map(|name| aspects.get(name)).sum();
        (!common.is_empty()).then(|| sum / common.len() as f64)
    };
    (0..n_responses).map(|place| rated.get(&place).and_then(mean)).collect()
}

fn strengths(n_responses: usize, comparisons: &[Comparison], prior_deviation: f64) -> Vec<Option<f64>> {
    let is_compared = |place: usize| comparisons.iter().any(|comparison| comparison.pair.contains(&place));
    let outcomes: Vec<Outcome> = comparisons
        .iter()
        .map(|&Comparison { pair: [first, second], share, .. }| Outcome { first, second, share })
        .collect();
    let fitted = bradley_terry::fit(n_responses, n_responses, &outcomes, prior_deviation);
    let strength = |(place, strength): (usize, f64)| is_compared(place).then_some(strength);
    fitted.values.into_iter().enumerate().map(strength).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict(kind: RaterKind, shown: Shown, value: VerdictValue) -> Verdict {
        let (response, order) = match shown {
            Shown::One(place) => (Some(place), None),
            Shown::Two(order) => (None, Some(order)),
        };
        Verdict { judge: "j".into(), kind, response, order, value, raw_digest: None }
    }

    fn compared(order: [usize; 2], preference: Preference) -> Verdict {
        verdict(RaterKind::Pairwise, Shown::Two(order), VerdictValue::Preference(preference))
    }

    fn rated(place: usize, ratings: [Option<u8>; 2]) -> Verdict {
        let aspects = [("a".to_owned(), ratings[0]), ("b".to_owned(), ratings[1])];
        verdict(RaterKind::Absolute, Shown::One(place), VerdictValue::Aspects(aspects.into()))
    }

    #[test]
    fn orders_that_disagree_are_a_tie_and_one_order_is_no_comparison() {
        use Preference::{First, Second, Tie};
        let verdicts = [
            compared([0, 1], First),
            compared([1, 0], Second),
            compared([0, 2], First),
            compared([2, 0], First),
            compared([1, 2], Tie),
            compared([2, 1], Tie),
            compared([3, 1], First),
        ];
        let found = comparisons(&verdicts.iter().collect::<Vec<_>>());
        let comparison = |pair, is_consistent, share| Comparison { pair, is_consistent, share };
        let expected =
            [comparison([0, 1], true, 1.0), comparison([0, 2], false, 0.5), comparison([1, 2], true, 0.5)];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_missing_rating_is_in_no_mean() {
        let scores = |verdicts: &[Verdict]| {
            raw_scores(RaterKind::Absolute, 3, &verdicts.iter().collect::<Vec<_>>(), 2.0)
        };
        assert_eq!(
            scores(&[rated(0, [Some(5), Some(3)]), rated(2, [Some(1), Some(2)])]),
            [Some(4.0), None, Some(1.5)]
        );
        // `b` is missing for one response, so that the others are compared without it too.
        let partial = [rated(0, [Some(5), Some(3)]), rated(1, [Some(4), None]), rated(2, [Some(1), Some(5)])];
        assert_eq!(scores(&partial), [Some(5.0), Some(4.0), Some(1.0)]);
        assert_eq!(scores(&[rated(0, [Some(5), None]), rated(1, [None, Some(2)])]), [None; 3]);
        assert_eq!(scores(&[rated(0, [None, None]), rated(1, [Some(2), Some(4)])]), [None, Some(3.0), None]);
        assert_eq!(scores(&[]), [None; 3]);
    }

    #[test]
    fn two_responses_have_the_strengths_of_the_closed_form() {
        use Preference::{First, Second};
        let verdicts = [compared([0, 1], First), compared([1, 0], Second)];
        let found = raw_scores(RaterKind::Pairwise, 3, &verdicts.iter().collect::<Vec<_>>(), 2.0);
        // At the mode, with strengths x and -x and a prior of variance 4: 1 / (1 + exp(2x)) = x / 4.
        let [Some(better), Some(worse), None] = found[..] else { panic!("{found:?}") };
        let gap = better - worse;
        let slope = 1.0 / (1.0 + gap.exp()) - gap / 2.0 / 4.0;
        assert!(slope.abs() < 1e-8, "{found:?}");
    }

    #[test]
    fn verdicts_are_read_as_they_were_written() {
        for (verdict, expected) in [
            (
                compared([2, 0], Preference::Tie),
                json!({"judge": "j", "kind": "pairwise", "order": [2, 0], "value": "tie"}),
            ),
            (
                rated(1, [Some(4), None]),
                json!({"judge": "j", "kind": "absolute", "response": 1, "value": {"a": 4, "b": null}}),
            ),
            (
                Verdict::of_score("s", 0, 0.5),
                json!({"judge": "s", "kind": "score", "response": 0, "value": 0.5}),
            ),
        ] {
            assert_eq!(serde_json::to_value(&verdict).unwrap(), expected);
            assert_eq!(serde_json::from_value::<Verdict>(expected).unwrap(), verdict);
        }
    }
}
