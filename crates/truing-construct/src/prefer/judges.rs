//! What is measured of each judge, and the weight that follows: the share of questions with a readable verdict, times
//! the share of comparisons with the same verdict in both orders, times the share of repeated questions with the same
//! answer.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;
use truing_ask::judging::{main_reason, main_reasons};
use truing_ask::preference::Preference;
use truing_statistics::{Agreement, agreement, mean_and_deviation};

use super::ask::Reply;
use super::inputs::{PreferInputs, PromptGroup};
use super::plan::{PreferPlan, Shown};
use super::scores::Scale;
use super::verdict::{RaterKind, Verdict, VerdictValue, comparisons, raw_scores};

/// A judge whose replies can be read less often is warned of.
const MIN_PARSE_RATE: f64 = 0.9;
/// A judge whose verdict is the same in both orders less often is warned of. One that ignores the responses reaches a
/// half if it never says tie, and a third if it says tie as often as anything else.
const MIN_CONSISTENCY: f64 = 0.6;
/// Deviations and differences below this, in units of the value, are rounding.
const ROUNDING: f64 = 1e-9;

/// A judge, or the scores in the data, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeReport {
    /// Its scale, with its name, kind and weight.
    #[serde(flatten)]
    pub scale: Scale,
    /// Questions, without those that were repeated.
    pub n_calls: usize,
    /// Those with a readable verdict.
    pub n_read: usize,
    /// Share of questions with a readable verdict; `None` without questions.
    pub parse_rate: Option<f64>,
    /// Ratings of aspects that the judge left out as not applicable.
    pub n_not_applicable: usize,
    /// Share of comparisons with the same verdict in both orders; `None` unless it compares.
    pub order_consistency: Option<f64>,
    /// Share of verdicts that call two responses equal; `None` unless it compares.
    pub tie_share: Option<f64>,
    /// Share of the other verdicts that prefer the response shown first; one half without bias. `None` unless it
    /// compares.
    pub first_share: Option<f64>,
    /// Repeated questions with two readable verdicts.
    pub n_repeated: usize,
    /// Share of those with the same verdict.
    pub self_agreement: Option<f64>,
    /// Responses with a raw score.
    pub n_scored: usize,
    /// Slope of the standardised score over the natural logarithm of the length in characters, both as differences from
    /// their means over the prompt: what a response gains that is 2.7 times as long as another one to the same prompt.
    pub length_slope: Option<f64>,
    /// Questions without a verdict, by reason.
    pub unread: BTreeMap<String, usize>,
}

/// Two judges on the order of two responses.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgePair {
    /// One judge.
    pub first: String,
    /// Another.
    pub second: String,
    /// Agreement on which of two responses is better, or that neither is, over all pairs that both scored.
    #[serde(flatten)]
    pub agreement: Agreement,
}

/// What is known of all judges.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The judges in the recipe's order, then the scores in the data.
    pub judges: Vec<JudgeReport>,
    /// Each two of them.
    pub agreement: Vec<JudgePair>,
}

impl Measured {
    /// The scales of all judges.
    #[must_use]
    pub fn scales(&self) -> Vec<Scale> {
        self.judges.iter().map(|judge| judge.scale.clone()).collect()
    }

    /// What a person should look at.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.judges.iter().flat_map(JudgeReport::warnings).collect()
    }
}

/// The verdicts on each prompt, without those of repeated questions `[n_prompts]`.
#[must_use]
pub fn verdicts_by_prompt(plan: &PreferPlan, inputs: &PreferInputs, replies: &[Reply]) -> Vec<Vec<Verdict>> {
    let mut verdicts: Vec<Vec<Verdict>> = inputs.groups.iter().map(|_| Vec::new()).collect();
    for reply in replies.iter().filter(|reply| !reply.call.is_repeat) {
        if let Ok(said) = &reply.said {
            verdicts[reply.call.prompt].push(said.verdict.clone());
        }
    }
    if let Some(rater) = &plan.config.score_rater {
        for (group, verdicts) in inputs.groups.iter().zip(&mut verdicts) {
            let scored = group.responses.iter().enumerate().filter(|_| group.is_comparable());
            verdicts.extend(
                scored.filter_map(|(place, one)| Some(Verdict::of_score(&rater.name, place, one.score?))),
            );
        }
    }
    verdicts
}

/// Raw scores of a judge `[n_prompts][n_responses]`.
type RawScores = Vec<Vec<Option<f64>>>;

/// Measures all judges, and weights them.
#[must_use]
pub fn measure(
    plan: &PreferPlan,
    inputs: &PreferInputs,
    replies: &[Reply],
    verdicts: &[Vec<Verdict>],
) -> Measured {
    let config = &plan.config;
    let raw_of = |name: &str, kind: RaterKind| -> RawScores {
        let of_prompt = |(group, verdicts): (&PromptGroup, &Vec<Verdict>)| {
            let own: Vec<&Verdict> = verdicts.iter().filter(|verdict| verdict.judge == name).collect();
            raw_scores(kind, group.responses.len(), &own, config.prior_deviation)
        };
        inputs.groups.iter().zip(verdicts).map(of_prompt).collect()
    };
    let (mut judges, mut raw) = (Vec::new(), Vec::new());
    for (idx, judge) in config.judge.iter().enumerate() {
        let own: Vec<&Reply> = replies.iter().filter(|reply| reply.judge == idx).collect();
        let (name, kind) = (&plan.judges[idx].name, judge.kind.into());
        let scores = raw_of(name, kind);
        judges.push(judge_report(name, kind, judge.weight, &own, &scores, inputs));
        raw.push(scores);
    }
    if let Some(rater) = &config.score_rater {
        let scores = raw_of(&rater.name, RaterKind::Score);
        judges.push(judge_report(&rater.name, RaterKind::Score, Some(rater.weight), &[], &scores, inputs));
        raw.push(scores);
    }
    let sum: f64 = judges.iter().map(|judge| judge.scale.weight).sum();
    if sum > 0.0 {
        judges.iter_mut().for_each(|judge| judge.scale.weight /= sum);
    }
    Measured { agreement: agreements(&judges, &raw), judges }
}

fn judge_report(
    name: &str,
    kind: RaterKind,
    weight: Option<f64>,
    replies: &[&Reply],
    raw: &[Vec<Option<f64>>],
    inputs: &PreferInputs,
) -> JudgeReport {
    let asked: Vec<&Reply> = replies.iter().copied().filter(|reply| !reply.call.is_repeat).collect();
    let read: Vec<&Verdict> =
        asked.iter().filter_map(|reply| Some(&reply.said.as_ref().ok()?.verdict)).collect();
    let values: Vec<f64> = raw.iter().flatten().flatten().copied().collect();
    let (mean, deviation) = mean_and_deviation(&values);
    let mut report = JudgeReport {
        scale: Scale { judge: name.to_owned(), kind, weight: 0.0, reliability: 0.0, mean, deviation },
        n_calls: asked.len(),
        n_read: read.len(),
        parse_rate: share(read.len(), asked.len()),
        n_not_applicable: read.iter().map(|verdict| n_not_applicable(verdict)).sum(),
        order_consistency: None,
        tie_share: None,
        first_share: None,
        n_repeated: 0,
        self_agreement: None,
        n_scored: values.len(),
        length_slope: None,
        unread: BTreeMap::new(),
    };
    for reason in asked.iter().filter_map(|reply| reply.said.as_ref().err()) {
        *report.unread.entry(reason.clone()).or_default() += 1;
    }
    if kind == RaterKind::Pairwise {
        report.measure_order(&asked, &read);
    }
    report.measure_repeats(replies);
    if report.n_scored > 0 {
        let measured = [report.parse_rate, report.order_consistency, report.self_agreement];
        report.scale.reliability =
            weight.unwrap_or_else(|| measured.iter().map(|share| share.unwrap_or(1.0)).product());
    }
    if report.tells_apart() {
        report.length_slope = length_slope(&report.scale, raw, inputs);
        report.scale.weight = report.scale.reliability;
    }
    report
}

fn share(n: usize, of: usize) -> Option<f64> {
    (of > 0).then(|| n as f64 / of as f64)
}

fn n_not_applicable(verdict: &Verdict) -> usize {
    match &verdict.value {
        VerdictValue::Aspects(aspects) => aspects.values().filter(|rating| rating.is_none()).count(),
        VerdictValue::Number(_) | VerdictValue::Preference(_) => 0,
    }
}

impl JudgeReport {
    /// Whether it gives different scores.
    fn tells_apart(&self) -> bool {
        self.n_scored > 0 && self.scale.deviation > ROUNDING * (1.0 + self.scale.mean.abs())
    }

    fn measure_order(&mut self, asked: &[&Reply], read: &[&Verdict]) {
        let mut by_prompt: BTreeMap<usize, Vec<&Verdict>> = BTreeMap::new();
        for reply in asked {
            if let Ok(said) = &reply.said {
                by_prompt.entry(reply.call.prompt).or_default().push(&said.verdict);
            }
        }
        let compared: Vec<bool> = by_prompt
            .values()
            .flat_map(|verdicts| comparisons(verdicts))
            .map(|comparison| comparison.is_consistent)
            .collect();
        self.order_consistency = share(compared.iter().filter(|&&is| is).count(), compared.len());
        let count =
            |wanted| read.iter().filter(|verdict| verdict.value == VerdictValue::Preference(wanted)).count();
        let (n_first, n_ties) = (count(Preference::First), count(Preference::Tie));
        self.tie_share = share(n_ties, read.len());
        self.first_share = share(n_first, read.len() - n_ties);
    }

    fn measure_repeats(&mut self, replies: &[&Reply]) {
        let key = |reply: &Reply| match reply.call.shown {
            Shown::One(place) => (reply.call.prompt, [place, place]),
            Shown::Two(order) => (reply.call.prompt, order),
        };
        let mut values: BTreeMap<(usize, [usize; 2]), [Option<&VerdictValue>; 2]> = BTreeMap::new();
        for reply in replies {
            if let Ok(said) = &reply.said {
                values.entry(key(reply)).or_default()[usize::from(reply.call.is_repeat)] =
                    Some(&said.verdict.value);
            }
        }
        let repeated: Vec<bool> =
            values.values().filter_map(|[first, again]| Some((*first)? == (*again)?)).collect();
        self.n_repeated = repeated.len();
        self.self_agreement = share(repeated.iter().filter(|&&is| is).count(), repeated.len());
    }

    fn warnings(&self) -> Vec<String> {
        let name = &self.scale.judge;
        let unread = main_reasons(&self.unread);
        if self.n_calls > 0 && self.n_read == 0 {
            let reason = main_reason(&self.unread);
            return vec![format!(
                "`{name}` gave no verdict in {} calls and has weight 0: {reason}",
                self.n_calls
            )];
        }
        let mut warnings = Vec::new();
        if let Some(rate) = self.parse_rate.filter(|&rate| rate < MIN_PARSE_RATE) {
            warnings.push(format!("{:.0} % of the replies of `{name}` can be read: {unread}", 100.0 * rate));
        }
        if let Some(consistency) = self.order_consistency.filter(|&share| share < MIN_CONSISTENCY) {
            let first = self.first_share.map_or_else(String::new, |share| {
                format!("; it prefers the first response in {:.0} % of its decisions", 100.0 * share)
            });
            warnings.push(format!(
                "`{name}` has the same verdict in both orders for {:.0} % of the pairs{first}",
                100.0 * consistency
            ));
        }
        if !self.tells_apart() {
            let what = match (self.scale.kind, self.tie_share) {
                _ if self.n_scored == 0 => "scores no response",
                (RaterKind::Pairwise, Some(1.0)) => "always says tie",
                (RaterKind::Pairwise, _) => "prefers no response in both orders",
                _ => "gives every response the same score",
            };
            warnings.push(format!("`{name}` {what} and has weight 0"));
        }
        warnings
    }
}

fn length_slope(scale: &Scale, raw: &[Vec<Option<f64>>], inputs: &PreferInputs) -> Option<f64> {
    let (mut products, mut squares) = (0.0, 0.0);
    for (group, scores) in inputs.groups.iter().zip(raw) {
        let scored: Vec<(f64, f64)> = group
            .responses
            .iter()
            .zip(scores)
            .filter_map(|(response, score)| {
                let length = response.text.chars().count() as f64;
                Some((length.ln(), ((*score)? - scale.mean) / scale.deviation))
            })
            .collect();
        let n = scored.len().max(1) as f64;
        let mean_length = scored.iter().map(|(length, _)| length).sum::<f64>() / n;
        let mean_score = scored.iter().map(|(_, score)| score).sum::<f64>() / n;
        for (length, score) in scored {
            products += (length - mean_length) * (score - mean_score);
            squares += (length - mean_length).powi(2);
        }
    }
    (squares > 0.0).then(|| products / squares)
}

/// Which of two raw scores is larger, up to rounding.
fn order(one: f64, other: f64) -> Ordering {
    if (one - other).abs() <= ROUNDING * (1.0 + one.abs()) { Ordering::Equal } else { one.total_cmp(&other) }
}

/// Agreement of each two judges on the order of two responses.
fn agreements(judges: &[JudgeReport], raw: &[RawScores]) -> Vec<JudgePair> {
    let orders = |one: &RawScores, other: &RawScores| {
        let mut found = Vec::new();
        for (one, other) in one.iter().zip(other) {
            let both: Vec<(f64, f64)> =
                one.iter().zip(other).filter_map(|(one, other)| Some(((*one)?, (*other)?))).collect();
            for (i, a) in both.iter().enumerate() {
                found.extend(both[i + 1..].iter().map(|b| (order(a.0, b.0), order(a.1, b.1))));
            }
        }
        found
    };
    let mut pairs = Vec::new();
    for first in 0..judges.len() {
        for second in first + 1..judges.len() {
            if let Some(agreement) = agreement(orders(&raw[first], &raw[second])) {
                pairs.push(JudgePair {
                    first: judges[first].scale.judge.clone(),
                    second: judges[second].scale.judge.clone(),
                    agreement,
                });
            }
        }
    }
    pairs
}
