//! How far the judge of a run can be trusted, from the run's own answers: how often its replies can be read, whether it
//! says the same when the order of two responses is exchanged, and whether it says the same when it is asked again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use truing_statistics::{Interval, ShareInterval};

use super::judge_names::{PREFIX, REPEAT, TRY};
use super::summary::MetricSummary;
use super::{Answers, Benchmark, Item, ItemScore, Scored, Scoring, TaskOptions};

/// More replies than any verdict has.
const MANY_REPLIES: usize = 1000;

/// A share with its number of cases and Wilson's 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeasuredShare {
    /// The share.
    pub share: f64,
    /// Of how many.
    pub n: usize,
    /// Its interval.
    pub interval: Interval,
}

impl MeasuredShare {
    /// `None` of nothing.
    fn of(n_yes: usize, n: usize) -> Option<Self> {
        let share = n_yes as f64 / n as f64;
        let ShareInterval { low, high } = ShareInterval::wilson(share, n as f64)?;
        Some(Self { share, n, interval: Interval { low, high } })
    }
}

/// The verdicts on pairs that the judge saw in both orders.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OrderConsistency {
    /// Pairs with the same verdict in both orders.
    pub consistent: MeasuredShare,
    /// Mean preference for the response that is shown first; 0.5 without a bias of position.
    pub for_the_first: f64,
}

/// Items that the judge was asked about a second time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RepeatAgreement {
    /// Items with the same main score both times.
    pub same: MeasuredShare,
    /// Variance of the judge's part in one item's score: half the mean square of the differences.
    pub variance: f64,
}

/// How a judge's verdicts went.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct JudgeQuality {
    /// Verdicts that were wanted.
    pub n_verdicts: usize,
    /// Those that had to be asked for more than once.
    pub n_asked_again: usize,
    /// Calls, without those of repeated verdicts.
    pub n_calls: usize,
    /// Verdicts that no reply gave in a form that can be read.
    #[serde(default)]
    pub n_unread: usize,
    /// Verdicts that the first reply gave in a form that can be read.
    #[serde(default)]
    pub read_at_once: Option<MeasuredShare>,
    /// Of benchmarks that compare two responses.
    #[serde(default)]
    pub order: Option<OrderConsistency>,
    /// Where verdicts were repeated.
    #[serde(default)]
    pub repeat: Option<RepeatAgreement>,
    /// Accuracy on LLMBar, where the run had its file.
    #[serde(default)]
    pub llmbar: Option<MetricSummary>,
}

impl std::fmt::Display for MeasuredShare {
    /// The share with its interval and number, as `0.850 (0.640 to 0.948) of 20`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { share, n, interval: Interval { low, high } } = self;
        write!(f, "{share:.3} ({low:.3} to {high:.3}) of {n}")
    }
}

impl JudgeQuality {
    /// What a reader of the scores has to know of the judge, in sentences.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = vec![format!(
            "judge: {} verdicts in {} calls, {} requested again, {} unreadable",
            self.n_verdicts, self.n_calls, self.n_asked_again, self.n_unread
        )];
        remarks.extend(
            self.read_at_once.map(|share| format!("judge: read from the first reply: {share} verdicts")),
        );
        if let Some(order) = self.order {
            remarks.push(format!(
                "judge: same verdict in both orders: {} pairs; mean preference for the response shown first {:.3}",
                order.consistent, order.for_the_first
            ));
        }
        remarks.extend(
            self.repeat.map(|repeat| format!("judge: same score on a repeated call: {} items", repeat.same)),
        );
        if let Some(MetricSummary { value: Some(value), interval, n, .. }) = &self.llmbar {
            let interval = interval
                .map_or_else(String::new, |Interval { low, high }| format!(" ({low:.3} to {high:.3})"));
            remarks.push(format!("judge: accuracy on LLMBar: {value:.3}{interval} of {n} items"));
        }
        remarks
    }
}

/// What the answers say of the judge; `None` where none was asked.
#[must_use]
pub fn judge_quality(
    benchmark: &dyn Benchmark,
    scored: &[Scored<'_>],
    options: &TaskOptions,
) -> Option<JudgeQuality> {
    let mut quality = JudgeQuality::default();
    // More replies are allowed than there are: what would be asked again has not been read.
    let patient = TaskOptions { max_judge_attempts: Some(MANY_REPLIES), ..options.clone() };
    let mut n_late = 0;
    for one in scored {
        let mut late: BTreeSet<&str> = BTreeSet::new();
        for id in one.answers.0.keys() {
            let Some((name, attempt)) = id.strip_prefix(PREFIX).and_then(|id| id.rsplit_once(TRY)) else {
                continue;
            };
            quality.n_calls += 1;
            match attempt {
                "1" => quality.n_verdicts += 1,
                "2" => {
                    quality.n_asked_again += 1;
                    late.insert(name);
                }
                _ => {}
            }
        }
        let open = benchmark.requests(one.item, one.answers, &patient);
        let names =
            open.iter().filter(|request| !one.answers.0.contains_key(&request.id)).filter_map(|request| {
                let (name, attempt) = request.id.strip_prefix(PREFIX)?.rsplit_once(TRY)?;
                (attempt != "1").then_some(name)
            });
        let unread: BTreeSet<&str> = names.collect();
        quality.n_unread += unread.len();
        late.extend(&unread);
        n_late += late.len();
    }
    if quality.n_calls == 0 {
        return None;
    }
    quality.read_at_once = MeasuredShare::of(quality.n_verdicts.saturating_sub(n_late), quality.n_verdicts);
    quality.order = order_consistency(benchmark, scored, options);
    quality.repeat = repeat_agreement(benchmark, scored, options);
    Some(quality)
}

fn order_consistency(
    benchmark: &dyn Benchmark,
    scored: &[Scored<'_>],
    options: &TaskOptions,
) -> Option<OrderConsistency> {
    let pairs: Vec<[f64; 2]> =
        scored.iter().flat_map(|one| benchmark.both_orders(one.item, one.answers, options)).collect();
    let n_same = pairs.iter().filter(|[first, second]| first == second).count();
    let bias: f64 = pairs.iter().map(|[first, second]| f64::midpoint(*first, 1.0 - second)).sum();
    Some(OrderConsistency {
        consistent: MeasuredShare::of(n_same, pairs.len())?,
        for_the_first: bias / pairs.len() as f64,
    })
}

/// The answers with the judge's second verdicts in place of the first; `None` where there are none.
fn repeated(answers: &Answers) -> Option<Answers> {
    let mut found: BTreeMap<String, _> = BTreeMap::new();
    let mut has_repeats = false;
    for (id, answer) in &answers.0 {
        match id.strip_prefix(REPEAT) {
            Some(plain) => {
                has_repeats = true;
                found.insert(plain.to_owned(), answer.clone());
            }
            None if id.starts_with(PREFIX) => {}
            None => {
                found.insert(id.clone(), answer.clone());
            }
        }
    }
    has_repeats.then_some(Answers(found))
}

fn repeat_agreement(
    benchmark: &dyn Benchmark,
    scored: &[Scored<'_>],
    options: &TaskOptions,
) -> Option<RepeatAgreement> {
    let again: Vec<(&Scored<'_>, Answers)> =
        scored.iter().filter_map(|one| Some((one, repeated(one.answers)?))).collect();
    let pairs: Vec<(&Item, &Answers)> = again.iter().map(|(one, answers)| (one.item, answers)).collect();
    let scores = benchmark.score(&pairs, options, &Scoring::default());
    let main = benchmark.metrics(options).first()?.key();
    let value = |score: &ItemScore| {
        let measure = score.measures.get(&main)?.as_ref().ok()?;
        (measure.weight != 0.0).then(|| measure.value / measure.weight)
    };
    let both: Vec<(f64, f64)> = again
        .iter()
        .zip(&scores)
        .filter_map(|((one, _), score)| Some((value(one.score)?, value(score)?)))
        .collect();
    let n_same = both.iter().filter(|(first, second)| first == second).count();
    let squares: f64 = both.iter().map(|(first, second)| (first - second).powi(2)).sum();
    Some(RepeatAgreement {
        same: MeasuredShare::of(n_same, both.len())?,
        variance: squares / 2.0 / both.len() as f64,
    })
}
