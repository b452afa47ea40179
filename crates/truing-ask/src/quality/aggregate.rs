//! Verdicts added up: a prompt's share of wins and its strength on each dimension, with errors; and the judges'
//! agreement and bias. A comparison without a verdict is left out and counted, never a draw.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};
use truing_run::rows::PromptSource;
use truing_statistics::bradley_terry::{Outcome, Strengths, fit};
use truing_statistics::{Agreement, agreement, normal_probability};

use super::{Bucket, Dimension, QualityPrompt, Verdict};
use crate::judging::{is_half_unanswered, main_reason, main_reasons};

/// Standard errors that a strength lies from its bucket's mean to differ from it with 95 % confidence.
const DISTINGUISHED: f64 = 1.96;
/// A judge with fewer comparisons is not warned of.
const FEWEST_TO_WARN: usize = 10;
/// A judge that calls this share equal separates nothing.
const SAYS_NOTHING: f64 = 0.95;
/// A judge that prefers one place this often, where it decides, goes by the place.
const GOES_BY_PLACE: f64 = 0.8;

/// One judge's verdicts on a sample against an anchor on one dimension, in both orders, each seen from the sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Where the sample stood first.
    pub sample_first: Verdict,
    /// Where the anchor stood first.
    pub anchor_first: Verdict,
}

impl Pair {
    /// The verdict: a draw where the judge contradicts itself.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        if self.sample_first == self.anchor_first { self.sample_first } else { Verdict::Equal }
    }
}

/// One judge's verdicts on a sample against an anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Place of the judge in the recipe.
    pub judge: usize,
    /// Place of the bucket in the plan.
    pub bucket: usize,
    /// Place of the sample among the bucket's members.
    pub sample: usize,
    /// Place of the anchor.
    pub anchor: usize,
    /// By dimension, in the recipe's order; `None` where there is no verdict in one of the orders.
    pub pairs: Vec<Option<Pair>>,
}

/// How a prompt compares with its bucket's mean, given the standard errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Above it.
    Better,
    /// Not distinguishable from it.
    Equal,
    /// Below it.
    Worse,
}

/// A prompt on one dimension.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DimensionScore {
    /// Share of comparisons won, draws as halves: 0 to 1.
    pub win_rate: f64,
    /// Strength on the log-odds scale; the bucket's mean is 0.
    pub strength: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Comparisons with a verdict.
    pub n_comparisons: usize,
}

/// A prompt with everything that is known of its quality. A line of `scores.jsonl` is its own row with this as its
/// column `quality`: data for `truing quality train` and `truing select`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptScore {
    /// Its row as it was.
    #[serde(skip)]
    pub columns: Map<String, Value>,
    /// Where it came from.
    #[serde(skip)]
    pub origin: PromptSource,
    /// Its bucket.
    pub bucket: String,
    /// Whether the others were compared with it.
    pub is_anchor: bool,
    /// Mean win rate over the dimensions: 0 to 1. None without a single verdict. Samples of a bucket met the same
    /// anchors, so theirs compare; anchors met the samples, and only `strength` compares the two.
    pub win_rate: Option<f64>,
    /// Mean strength over the dimensions.
    pub strength: Option<f64>,
    /// Its standard error, where the dimensions' errors go together: an upper bound.
    pub standard_error: Option<f64>,
    /// Probability that it lies on the side of its bucket's mean where it was found.
    pub confidence: Option<f64>,
    /// Which side that is.
    pub label: Option<Label>,
    /// By dimension.
    pub dimensions: BTreeMap<&'static str, DimensionScore>,
}

impl PromptScore {
    /// The line. Columns of its row that are called `quality` or `origin` make way.
    #[must_use]
    pub fn to_row(&self) -> Map<String, Value> {
        let mut row = self.columns.clone();
        row.insert("origin".into(), json!(self.origin));
        row.insert("quality".into(), json!(self));
        row
    }
}

/// One judge in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeSummary {
    /// Its name.
    pub name: String,
    /// Verdicts, one a comparison and dimension.
    pub n_verdicts: usize,
    /// Comparisons and dimensions without one.
    pub n_unscored: usize,
    /// Why, by how often.
    pub unscored: BTreeMap<String, usize>,
    /// Share of verdicts that call both equal.
    pub equal_share: Option<f64>,
    /// How far it agrees with itself when the order is swapped.
    pub order_agreement: Option<Agreement>,
    /// How often it prefers what is first, where it decides; 0.5 is fair.
    pub first_share: Option<f64>,
}

/// Two judges on one dimension.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgePair {
    /// One.
    pub first: String,
    /// The other.
    pub second: String,
    /// The dimension.
    pub dimension: Dimension,
    /// Their agreement.
    #[serde(flatten)]
    pub agreement: Agreement,
}

/// A bucket in the summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BucketSummary {
    /// Its label.
    pub name: String,
    /// Its prompts.
    pub n_prompts: usize,
    /// Its anchors.
    pub n_anchors: usize,
    /// Whether it has no more prompts than anchors, so that all were compared with all.
    pub is_small: bool,
}

/// The run in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Prompts.
    pub n_prompts: usize,
    /// Prompts without a single verdict.
    pub n_unscored: usize,
    /// The buckets.
    pub buckets: Vec<BucketSummary>,
    /// The judges.
    pub judges: Vec<JudgeSummary>,
    /// Their agreement.
    pub agreement: Vec<JudgePair>,
    /// What to know before the scores are used.
    pub warnings: Vec<String>,
}

/// What verdicts were asked on, and of whom.
#[derive(Debug, Clone, Copy)]
pub struct Compared<'a> {
    /// The prompts.
    pub prompts: &'a [QualityPrompt],
    /// The buckets, with their members as numbers of `prompts`.
    pub buckets: &'a [Bucket],
    /// The dimensions.
    pub dimensions: &'a [Dimension],
    /// The judges' names.
    pub judges: &'a [String],
    /// Anchors of a bucket that is large enough.
    pub n_anchors: usize,
    /// Deviation of the prior of strengths, on the log-odds scale.
    pub prior_deviation: f64,
}

impl Compared<'_> {
    /// Adds up. `unscored` holds, by judge, why comparisons have no verdict.
    #[must_use]
    pub fn aggregate(
        &self,
        comparisons: &[Comparison],
        unscored: Vec<BTreeMap<String, usize>>,
    ) -> (Vec<PromptScore>, Summary) {
        let mut scores: Vec<Option<PromptScore>> = self.prompts.iter().map(|_| None).collect();
        for (bucket_idx, bucket) in self.buckets.iter().enumerate() {
            let of_bucket: Vec<&Comparison> =
                comparisons.iter().filter(|comparison| comparison.bucket == bucket_idx).collect();
            let dimensions: Vec<OnDimension> = (0..self.dimensions.len())
                .map(|dimension| on_dimension(bucket, dimension, &of_bucket, self.prior_deviation))
                .collect();
            for (member, &prompt_idx) in bucket.members.iter().enumerate() {
                let is_anchor = !bucket.is_small() && member < bucket.n_anchors;
                scores[prompt_idx] = Some(self.prompt_score(prompt_idx, is_anchor, member, &dimensions));
            }
        }
        let scores: Vec<PromptScore> = scores.into_iter().flatten().collect();
        let summary = self.summarise(&scores, comparisons, unscored);
        (scores, summary)
    }

    fn prompt_score(
        &self,
        prompt_idx: usize,
        is_anchor: bool,
        member: usize,
        dimensions: &[OnDimension],
    ) -> PromptScore {
        let prompt = &self.prompts[prompt_idx];
        let score = |(dimension, found): (&Dimension, &OnDimension)| {
            let (won, n_comparisons) = found.wins[member];
            (n_comparisons > 0).then(|| {
                let score = DimensionScore {
                    win_rate: won / n_comparisons as f64,
                    strength: found.strengths.values[member],
                    standard_error: found.strengths.standard_errors[member],
                    n_comparisons,
                };
                (dimension.as_str(), score)
            })
        };
        let dimensions: BTreeMap<_, _> = self.dimensions.iter().zip(dimensions).filter_map(score).collect();
        let mean = |value: fn(&DimensionScore) -> f64| {
            let n = dimensions.len();
            (n > 0).then(|| dimensions.values().map(value).sum::<f64>() / n as f64)
        };
        let (strength, standard_error) = (mean(|score| score.strength), mean(|score| score.standard_error));
        let distance = strength.zip(standard_error).map(|(strength, error)| strength / error);
        PromptScore {
            columns: prompt.columns.clone(),
            origin: PromptSource::of(&prompt.origin),
            bucket: prompt.bucket.clone(),
            is_anchor,
            win_rate: mean(|score| score.win_rate),
            strength,
            standard_error,
            confidence: distance.map(|distance| normal_probability(distance.abs())),
            label: distance.map(|distance| match distance {
                above if above > DISTINGUISHED => Label::Better,
                below if below < -DISTINGUISHED => Label::Worse,
                _ => Label::Equal,
            }),
            dimensions,
        }
    }

    fn summarise(
        &self,
        scores: &[PromptScore],
        comparisons: &[Comparison],
        unscored: Vec<BTreeMap<String, usize>>,
    ) -> Summary {
        let judges: Vec<JudgeSummary> = self
            .judges
            .iter()
            .zip(unscored)
            .enumerate()
            .map(|(judge, (name, unscored))| judge_summary(judge, name, comparisons, unscored))
            .collect();
        let buckets: Vec<BucketSummary> = self
            .buckets
            .iter()
            .map(|bucket| BucketSummary {
                name: bucket.name.clone(),
                n_prompts: bucket.members.len(),
                n_anchors: bucket.n_anchors,
                is_small: bucket.is_small(),
            })
            .collect();
        let mut warnings: Vec<String> = judges.iter().flat_map(warnings_about).collect();
        let small: Vec<&str> =
            buckets.iter().filter(|bucket| bucket.is_small).map(|bucket| bucket.name.as_str()).collect();
        if !small.is_empty() {
            warnings.push(format!(
            "{} of {} buckets have no more than `n_anchors = {}` prompts; in those, all pairs were compared: {}",
            small.len(),
            buckets.len(),
            self.n_anchors,
            small.join(", ")
        ));
        }
        Summary {
            n_prompts: scores.len(),
            n_unscored: scores.iter().filter(|score| score.win_rate.is_none()).count(),
            agreement: judge_pairs(self.dimensions, self.judges, comparisons),
            buckets,
            judges,
            warnings,
        }
    }
}

/// One dimension in one bucket.
struct OnDimension {
    strengths: Strengths,
    /// Shares of wins and their number, by member.
    wins: Vec<(f64, usize)>,
}

fn on_dimension(
    bucket: &Bucket,
    dimension: usize,
    comparisons: &[&Comparison],
    prior_deviation: f64,
) -> OnDimension {
    let outcome = |comparison: &&Comparison| {
        let share = comparison.pairs[dimension]?.verdict().share();
        Some(Outcome { first: comparison.sample, second: comparison.anchor, share })
    };
    let outcomes: Vec<Outcome> = comparisons.iter().filter_map(outcome).collect();
    let mut wins = vec![(0.0, 0); bucket.members.len()];
    for outcome in &outcomes {
        for (member, share) in [(outcome.first, outcome.share), (outcome.second, 1.0 - outcome.share)] {
            wins[member].0 += share;
            wins[member].1 += 1;
        }
    }
    let strengths = fit(bucket.members.len(), bucket.n_anchors, &outcomes, prior_deviation);
    OnDimension { strengths, wins }
}

impl Summary {
    /// Whether some judge left half of what it was asked, or more, without a verdict.
    #[must_use]
    pub fn is_half_unanswered(&self) -> bool {
        self.judges.iter().any(|judge| is_half_unanswered(judge.n_verdicts, judge.n_unscored))
    }
}

fn judge_summary(
    judge: usize,
    name: &str,
    comparisons: &[Comparison],
    unscored: BTreeMap<String, usize>,
) -> JudgeSummary {
    let own = comparisons.iter().filter(|comparison| comparison.judge == judge);
    let pairs: Vec<Pair> = own.flat_map(|comparison| comparison.pairs.iter().flatten().copied()).collect();
    let n = pairs.len();
    let share = |count: usize, of: usize| (of > 0).then(|| count as f64 / of as f64);
    // Whether what stood first was preferred.
    let decided: Vec<bool> = pairs
        .iter()
        .flat_map(|pair| [(pair.sample_first, Verdict::Better), (pair.anchor_first, Verdict::Worse)])
        .filter(|(verdict, _)| *verdict != Verdict::Equal)
        .map(|(verdict, first_ahead)| verdict == first_ahead)
        .collect();
    JudgeSummary {
        name: name.to_owned(),
        n_verdicts: n,
        n_unscored: unscored.values().sum(),
        unscored,
        equal_share: share(pairs.iter().filter(|pair| pair.verdict() == Verdict::Equal).count(), n),
        order_agreement: agreement(pairs.iter().map(|pair| (pair.sample_first, pair.anchor_first))),
        first_share: share(decided.iter().filter(|&&first| first).count(), decided.len()),
    }
}

fn warnings_about(judge: &JudgeSummary) -> Vec<String> {
    let mut warnings = Vec::new();
    let name = &judge.name;
    if judge.n_verdicts == 0 {
        let reason = main_reason(&judge.unscored);
        warnings.push(format!("{name}: no verdict could be parsed; it is excluded: {reason}"));
    } else if judge.n_unscored > 0 {
        let all = judge.n_verdicts + judge.n_unscored;
        warnings.push(format!(
            "{name} gave no verdict on {} of {all} comparisons, which are left out: {}",
            judge.n_unscored,
            main_reasons(&judge.unscored)
        ));
    }
    if judge.n_verdicts < FEWEST_TO_WARN {
        return warnings;
    }
    let goes_by_place =
        judge.first_share.is_some_and(|share| share >= GOES_BY_PLACE || share <= 1.0 - GOES_BY_PLACE);
    if goes_by_place {
        let percent = 100.0 * judge.first_share.unwrap_or_default();
        warnings.push(format!(
            "{name} has a position bias: it prefers the first prompt in {percent:.0} % of the calls that it decides"
        ));
    } else if judge.equal_share.is_some_and(|share| share >= SAYS_NOTHING) {
        let n_draws = (judge.equal_share.unwrap_or_default() * judge.n_verdicts as f64).round();
        let n = judge.n_verdicts;
        warnings.push(format!("{name} does not separate the prompts: {n_draws} of {n} verdicts are ties"));
    }
    warnings
}

/// Agreement of every two judges on every dimension, over what both were asked.
fn judge_pairs(dimensions: &[Dimension], names: &[String], comparisons: &[Comparison]) -> Vec<JudgePair> {
    let key = |comparison: &Comparison| (comparison.bucket, comparison.sample, comparison.anchor);
    let mut by_judge: Vec<BTreeMap<_, &Comparison>> = vec![BTreeMap::new(); names.len()];
    comparisons.iter().for_each(|comparison| {
        by_judge[comparison.judge].insert(key(comparison), comparison);
    });
    let mut found = Vec::new();
    for (second, second_name) in names.iter().enumerate() {
        for (first, first_name) in names[..second].iter().enumerate() {
            for (idx, &dimension) in dimensions.iter().enumerate() {
                let verdict = |comparison: &Comparison| Some(comparison.pairs[idx]?.verdict());
                let both = by_judge[first]
                    .iter()
                    .filter_map(|(key, one)| Some((verdict(one)?, verdict(by_judge[second].get(key)?)?)));
                found.extend(agreement(both).map(|agreement| JudgePair {
                    first: first_name.clone(),
                    second: second_name.clone(),
                    dimension,
                    agreement,
                }));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_that_contradicts_itself_calls_both_equal() {
        let pair = |sample_first, anchor_first| Pair { sample_first, anchor_first }.verdict();
        assert_eq!(pair(Verdict::Better, Verdict::Better), Verdict::Better);
        assert_eq!(pair(Verdict::Better, Verdict::Worse), Verdict::Equal);
        assert_eq!(pair(Verdict::Equal, Verdict::Worse), Verdict::Equal);
    }
}
