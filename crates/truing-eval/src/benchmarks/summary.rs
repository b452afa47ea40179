//! From scores of items to metrics with their uncertainty.

use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};
use truing_statistics::{
    Interval, MeanEstimate, ShareInterval, VarianceComponents, clustered_mean, clustered_ratio,
    interval_of_equal_values, mean_bounds, mean_estimate, normal_quantile, variance_components,
};
use truing_types::Unscored;

use super::judge_quality::JudgeQuality;
use super::measure::{Aggregation, ItemScore, Measure, MetricInfo};
use super::{Answers, Item};

const LEVEL: f64 = 0.95;

/// How an interval was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalKind {
    /// Wilson's, of independent right-or-wrong items.
    Wilson,
    /// Student's t, with the standard error by clusters where there are some.
    StudentT,
    /// The normal one, of a mean of categories.
    Normal,
    /// A bootstrap over items.
    Bootstrap,
    /// That of equal values ([`interval_of_equal_values`]): the items have no spread, and their number alone says how
    /// many others may differ.
    EqualValues,
}

/// One metric over a set of items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricSummary {
    /// The metric.
    pub metric: MetricInfo,
    /// Its value; `None` where no item has one.
    pub value: Option<f64>,
    /// Standard error.
    pub standard_error: Option<f64>,
    /// 95 % interval.
    pub interval: Option<Interval>,
    /// How the interval was made.
    pub interval_kind: Option<IntervalKind>,
    /// Items with a value, each counted once a seed.
    pub n: usize,
    /// Items that the metric applies to and that have none, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unscored: BTreeMap<String, usize>,
    /// Lowest and highest value, had the unscored items been scored; `None` without unscored items or without a
    /// range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Interval>,
    /// Clusters of the items with a value. Answers to one item with several seeds form a cluster.
    pub n_clusters: usize,
    /// Variance between items, seeds and answers, over the items with a value for every seed; `None` with one seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variance: Option<VarianceComponents>,
}

impl MetricSummary {
    /// A metric over `n` items with its values for resampled items, sorted.
    pub(super) fn bootstrapped(metric: MetricInfo, value: f64, statistics: &[f64], n: usize) -> Self {
        let quantile = |level| truing_statistics::quantile(statistics, level);
        let resampled = quantile(0.025).zip(quantile(0.975)).map(|(low, high)| Interval { low, high });
        let range = metric.range.map(|[low, high]| Interval { low, high });
        let (interval, interval_kind) = match resampled {
            // Items that all say the same: every resample is the same.
            Some(Interval { low, high }) if is_without_width(low, high) => {
                let interval = range.and_then(|range| interval_of_equal_values(value, n, range));
                (interval, interval.map(|_| IntervalKind::EqualValues))
            }
            interval => (interval, interval.map(|_| IntervalKind::Bootstrap)),
        };
        let (_, deviation) = truing_statistics::mean_and_deviation(statistics);
        Self {
            metric,
            value: Some(value),
            standard_error: (!statistics.is_empty()).then_some(deviation),
            interval,
            interval_kind,
            n,
            unscored: BTreeMap::new(),
            bounds: None,
            n_clusters: n,
            variance: None,
        }
    }

    /// Where the variance over several seeds comes from, in a sentence; `judge` is the variance of the judge's part.
    #[must_use]
    pub fn variance_remark(&self, judge: Option<f64>) -> Option<String> {
        let parts = self.variance?;
        let judge =
            judge.map_or_else(String::new, |judge| format!(", of the judge {:.3} of that", judge.sqrt()));
        Some(format!(
            "over {} seeds the standard deviation between items is {:.3}, between seeds {:.3}, between answers to one \
             item {:.3}{judge}; the standard error of the mean over items and seeds is {:.3}",
            parts.n[1],
            parts.item.sqrt(),
            parts.seed.sqrt(),
            parts.answer.sqrt(),
            parts.variance_of_mean().sqrt()
        ))
    }

    /// Whether there is no interval because all scores are equal and the metric has no range.
    #[must_use]
    pub fn has_equal_scores(&self) -> bool {
        self.interval.is_none() && self.standard_error.is_some()
    }

    /// Items without a value.
    #[must_use]
    pub fn n_unscored(&self) -> usize {
        self.unscored.values().sum()
    }
}

/// One benchmark's result.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Over all items.
    pub metrics: Vec<MetricSummary>,
    /// The same by dimension and category.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_category: BTreeMap<String, BTreeMap<String, Vec<MetricSummary>>>,
    /// Replies of which nothing could be read out of the answer, by filter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub n_unread: BTreeMap<String, usize>,
    /// Items with a reply that was cut at its limit, each counted once a seed.
    pub n_cut: usize,
    /// Items.
    pub n_items: usize,
    /// Seeds with which each item was answered.
    #[serde(default = "one")]
    pub n_seeds: usize,
    /// Judgements and how they went; `None` where no judge was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeQuality>,
}

impl Summary {
    /// Replies to the items, one for each seed.
    #[must_use]
    pub fn n_replies(&self) -> usize {
        self.n_items * self.n_seeds
    }

    /// Replies from which the main metric's way of reading got no answer. Of a metric without a filter it is the only
    /// way.
    #[must_use]
    pub fn n_unread_of_main(&self) -> usize {
        match self.metrics.first().map(|summary| &*summary.metric.filter) {
            Some("none") | None => self.n_unread.values().max().copied().unwrap_or(0),
            Some(filter) => self.n_unread.get(filter).copied().unwrap_or(0),
        }
    }

    /// A metric by its key.
    #[must_use]
    pub fn metric(&self, key: &str) -> Option<&MetricSummary> {
        self.metrics.iter().find(|summary| summary.metric.key() == key)
    }
}

fn one() -> usize {
    1
}

/// An item with what came back and what was made of it.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    /// The item.
    pub item: &'a Item,
    /// Its answers.
    pub answers: &'a Answers,
    /// Its score.
    pub score: &'a ItemScore,
}

/// Summarises items.
#[must_use]
pub fn summarise(scored: &[Scored<'_>], metrics: &[MetricInfo]) -> Summary {
    let all: Vec<&Scored<'_>> = scored.iter().collect();
    let n_items = scored.iter().map(|one| &one.item.id).collect::<BTreeSet<_>>().len();
    let mut summary = Summary {
        metrics: summaries(&all, metrics),
        n_items,
        n_seeds: scored.len().checked_div(n_items).unwrap_or(1),
        ..Summary::default()
    };
    let dimensions: BTreeSet<&String> = scored.iter().flat_map(|one| one.item.categories.keys()).collect();
    for dimension in dimensions {
        let mut groups: BTreeMap<&str, Vec<&Scored<'_>>> = BTreeMap::new();
        for one in scored {
            if let Some(category) = one.item.categories.get(dimension) {
                groups.entry(category).or_default().push(one);
            }
        }
        let of_groups =
            groups.into_iter().map(|(category, group)| (category.to_owned(), summaries(&group, metrics)));
        summary.by_category.insert(dimension.clone(), of_groups.collect());
    }
    for one in scored {
        summary.n_cut += usize::from(one.answers.is_cut());
        for (filter, _) in one.score.extracted.iter().filter(|(_, extracted)| extracted.is_none()) {
            *summary.n_unread.entry(filter.clone()).or_default() += 1;
        }
    }
    summary
}

fn summaries(scored: &[&Scored<'_>], metrics: &[MetricInfo]) -> Vec<MetricSummary> {
    let summarised = metrics.iter().map(|metric| summarise_metric(scored, metric));
    // A category may have no item that a metric applies to.
    summarised.filter(|summary| summary.n + summary.n_unscored() > 0 || scored.is_empty()).collect()
}

/// The measures of the items that a metric applies to.
struct Measured<'a> {
    values: Vec<(&'a Item, Measure)>,
    unscored: Vec<&'a Unscored>,
}

fn summarise_metric(scored: &[&Scored<'_>], metric: &MetricInfo) -> MetricSummary {
    let key = metric.key();
    let mut measured = Measured { values: Vec::new(), unscored: Vec::new() };
    for one in scored {
        match one.score.measures.get(&key) {
            Some(Ok(measure)) => measured.values.push((one.item, *measure)),
            Some(Err(unscored)) => measured.unscored.push(unscored),
            None => {}
        }
    }
    let mut unscored: BTreeMap<String, usize> = BTreeMap::new();
    for one in &measured.unscored {
        *unscored.entry(one.reason.as_str().to_owned()).or_default() += 1;
    }
    let mut summary = MetricSummary {
        metric: metric.clone(),
        value: None,
        standard_error: None,
        interval: None,
        interval_kind: None,
        n: measured.values.len(),
        unscored,
        bounds: None,
        n_clusters: 0,
        variance: variance(&measured),
    };
    estimate(&mut summary, &measured, metric);
    summary
}

/// Parts of the variance of what was measured with several seeds. The seed of a value is its place among those of its
/// item.
fn variance(measured: &Measured<'_>) -> Option<VarianceComponents> {
    let mut of_items: BTreeMap<&str, Vec<Vec<f64>>> = BTreeMap::new();
    for (item, measure) in measured.values.iter().filter(|(_, measure)| measure.weight != 0.0) {
        of_items.entry(&item.id).or_default().push(vec![measure.value / measure.weight]);
    }
    let n_seeds = of_items.values().map(Vec::len).max()?;
    let complete: Vec<Vec<Vec<f64>>> =
        of_items.into_values().filter(|values| values.len() == n_seeds).collect();
    variance_components(&complete)
}

fn estimate(summary: &mut MetricSummary, measured: &Measured<'_>, metric: &MetricInfo) {
    let values: Vec<f64> = measured.values.iter().map(|(_, measure)| measure.value).collect();
    let weights: Vec<f64> = measured.values.iter().map(|(_, measure)| measure.weight).collect();
    let clusters: Vec<&str> =
        measured.values.iter().map(|(item, _)| item.cluster.as_deref().unwrap_or(&item.id)).collect();
    summary.n_clusters = clusters.iter().collect::<BTreeSet<_>>().len();
    let range = metric.range.map(|[low, high]| Interval { low, high });
    let n_unscored = measured.unscored.len();
    let is_clustered = summary.n_clusters < values.len();
    match &metric.aggregation {
        Aggregation::Mean => {
            let found =
                if is_clustered { clustered_mean(&values, &clusters) } else { mean_estimate(&values) };
            put(summary, found, |value| value, 1.0);
            let is_binary = values.iter().all(|value| *value == 0.0 || *value == 1.0);
            if is_binary
                && !is_clustered
                && let Some(found) = found
            {
                let wilson = ShareInterval::wilson(found.mean, found.n as f64);
                summary.interval = wilson.map(|ShareInterval { low, high }| Interval { low, high });
                summary.interval_kind = Some(IntervalKind::Wilson);
            }
            if n_unscored > 0 {
                summary.bounds = range.and_then(|range| mean_bounds(&values, n_unscored, range));
            }
        }
        Aggregation::Ratio | Aggregation::Perplexity | Aggregation::Bits => {
            let found = clustered_ratio(&values, &weights, &clusters);
            match metric.aggregation {
                Aggregation::Perplexity => {
                    let slope = found.map_or(0.0, |found| (-found.mean).exp());
                    put(summary, found, |ratio| (-ratio).exp(), slope);
                }
                Aggregation::Bits => put(summary, found, |ratio| -ratio / LN_2, 1.0 / LN_2),
                _ => put(summary, found, |ratio| ratio, 1.0),
            }
            // An unscored item is taken to weigh as much as the others do on average; without others anything is
            // possible.
            if n_unscored > 0
                && let Some(range) = range
            {
                let (n, m) = (values.len() as f64, n_unscored as f64);
                let ratio =
                    |missing: f64| found.map_or(missing, |found| (found.mean * n + missing * m) / (n + m));
                summary.bounds = Some(Interval { low: ratio(range.low), high: ratio(range.high) });
            }
        }
        Aggregation::MeanOfCategories(dimension) => mean_of_categories(summary, measured, dimension, range),
    }
    if let Some(Interval { low, high }) = summary.interval
        && is_without_width(low, high)
    {
        let equal = range.zip(summary.value);
        summary.interval =
            equal.and_then(|(range, value)| interval_of_equal_values(value, summary.n_clusters, range));
        summary.interval_kind = summary.interval.map(|_| IntervalKind::EqualValues);
    }
    // No value lies beyond the range; Student's and the normal interval may.
    let is_on_the_scale_of_items = !matches!(metric.aggregation, Aggregation::Perplexity | Aggregation::Bits);
    if let (Some(range), true) = (range, is_on_the_scale_of_items) {
        let clamped = |interval: Interval| Interval {
            low: interval.low.max(range.low),
            high: interval.high.min(range.high),
        };
        summary.interval = summary.interval.map(clamped);
    }
}

/// Whether an interval is that of values without spread: nothing but rounding lies between its bounds.
fn is_without_width(low: f64, high: f64) -> bool {
    const ROUNDING: f64 = 1e-12;
    high - low <= ROUNDING * high.abs().max(low.abs()).max(1.0)
}

/// Sets value, error and interval from an estimate whose scale is changed by a monotone function with this
/// slope at the estimate.
fn put(summary: &mut MetricSummary, found: Option<MeanEstimate>, scale: impl Fn(f64) -> f64, slope: f64) {
    let Some(found) = found else { return };
    summary.value = Some(scale(found.mean));
    summary.standard_error = found.standard_error.map(|error| error * slope.abs());
    summary.interval = found.interval(LEVEL).map(|Interval { low, high }| {
        let ends = [scale(low), scale(high)];
        Interval { low: ends[0].min(ends[1]), high: ends[0].max(ends[1]) }
    });
    summary.interval_kind = summary.interval.map(|_| IntervalKind::StudentT);
}

fn mean_of_categories(
    summary: &mut MetricSummary,
    measured: &Measured<'_>,
    dimension: &str,
    range: Option<Interval>,
) {
    let mut groups: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (item, measure) in &measured.values {
        let category = item.categories.get(dimension).map_or("", String::as_str);
        groups.entry(category).or_default().push(measure.value);
    }
    let of_groups: Vec<MeanEstimate> = groups.values().filter_map(|values| mean_estimate(values)).collect();
    if of_groups.is_empty() {
        summary.bounds = range.filter(|_| !measured.unscored.is_empty());
        return;
    }
    let n = of_groups.len() as f64;
    let mean = of_groups.iter().map(|group| group.mean).sum::<f64>() / n;
    summary.value = Some(mean);
    // The categories are all there are; the items in each are drawn.
    let variances: Option<Vec<f64>> =
        of_groups.iter().map(|group| group.standard_error.map(|error| error * error)).collect();
    if let Some(variances) = variances {
        let error = variances.iter().sum::<f64>().sqrt() / n;
        let half = normal_quantile(f64::midpoint(1.0, LEVEL)) * error;
        summary.standard_error = Some(error);
        summary.interval = Some(Interval { low: mean - half, high: mean + half });
        summary.interval_kind = Some(IntervalKind::Normal);
    }
    if let (Some(range), true) = (range, !measured.unscored.is_empty()) {
        let share = measured.unscored.len() as f64 / (measured.unscored.len() + measured.values.len()) as f64;
        let with = |missing: f64| mean * (1.0 - share) + missing * share;
        summary.bounds = Some(Interval { low: with(range.low), high: with(range.high) });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use truing_data::ObjectRow;
    use truing_types::{RowOrigin, UnscoredReason};

    use super::*;
    use crate::benchmarks::{Prompt, Row};

    fn item(id: usize, cluster: Option<&str>, category: &str) -> Item {
        let row = ObjectRow {
            object: json!({"q": "x"}).as_object().unwrap().clone(),
            origin: RowOrigin { source: "a.jsonl".into(), line: 1 },
        };
        let mut item = Item::new(id.to_string(), Row(&row), Prompt::user("x"), String::new());
        item.cluster = cluster.map(str::to_owned);
        item.with_category("kind", category)
    }

    fn summary(
        metric: &MetricInfo,
        items: &[(Option<&str>, &str)],
        values: &[Result<Measure, Unscored>],
    ) -> Summary {
        let items: Vec<Item> =
            items.iter().enumerate().map(|(i, (cluster, category))| item(i, *cluster, category)).collect();
        let scores: Vec<ItemScore> = values
            .iter()
            .map(|value| {
                let mut score = ItemScore::default();
                score.set(metric, value.clone());
                score
            })
            .collect();
        let answers = Answers::default();
        let scored: Vec<Scored<'_>> = items
            .iter()
            .zip(&scores)
            .map(|(item, score)| Scored { item, answers: &answers, score })
            .collect();
        summarise(&scored, std::slice::from_ref(metric))
    }

    fn ok(value: f64) -> Result<Measure, Unscored> {
        Ok(value.into())
    }

    #[test]
    fn unscored_items_are_counted_and_bound_the_value_and_are_never_0() {
        let metric = MetricInfo::share("acc");
        let failed = Err(Unscored::new(UnscoredReason::JudgeFailed, "no reply"));
        let found = summary(&metric, &[(None, "a"); 4], &[ok(1.0), ok(1.0), ok(0.0), failed]);
        let acc = found.metric("acc,none").unwrap();
        assert!((acc.value.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!((acc.n, acc.n_unscored(), acc.unscored["judge_failed"]), (3, 1, 1));
        assert_eq!(acc.bounds, Some(Interval { low: 0.5, high: 0.75 }));
        assert_eq!(acc.interval_kind, Some(IntervalKind::Wilson));
        // lm-evaluation-harness: the sample deviation by the root of n.
        assert!((acc.standard_error.unwrap() - (1.0 / 3.0_f64).sqrt() / 3.0_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn clusters_categories_and_means_of_categories_count() {
        let items = [(Some("d1"), "a"), (Some("d1"), "a"), (Some("d2"), "a"), (Some("d3"), "b")];
        let values = [ok(1.0), ok(1.0), ok(0.0), ok(0.0)];
        let found = summary(&MetricInfo::share("acc"), &items, &values);
        let acc = &found.metrics[0];
        assert_eq!((acc.n, acc.n_clusters, acc.interval_kind), (4, 3, Some(IntervalKind::StudentT)));
        assert!((found.by_category["kind"]["a"][0].value.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        let macro_mean = MetricInfo::share("acc").aggregated(Aggregation::MeanOfCategories("kind".into()));
        let found = summary(&macro_mean, &items, &values);
        assert!((found.metrics[0].value.unwrap() - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(found.metrics[0].interval, None, "one item says nothing of its category's spread");
    }

    #[test]
    fn metrics_without_a_scored_item_have_their_range_as_bounds() {
        let failed = [(); 3].map(|()| Err(Unscored::new(UnscoredReason::JudgeFailed, "no reply")));
        for aggregation in
            [Aggregation::Mean, Aggregation::Ratio, Aggregation::MeanOfCategories("kind".into())]
        {
            let metric = MetricInfo::share("csr").aggregated(aggregation.clone());
            let found = summary(&metric, &[(None, "a"); 3], &failed);
            let bounds = found.metrics[0].bounds;
            assert_eq!(bounds, Some(Interval { low: 0.0, high: 1.0 }), "{aggregation:?}");
        }
        let half = [Ok(Measure { value: 2.0, weight: 4.0 }), failed[0].clone()];
        let metric = MetricInfo::share("csr").aggregated(Aggregation::Ratio);
        let found = summary(&metric, &[(None, "a"); 2], &half);
        assert_eq!(found.metrics[0].bounds, Some(Interval { low: 0.25, high: 0.75 }));
    }

    #[test]
    fn equal_scores_have_no_interval_without_width() {
        let grades = MetricInfo::share("score").range(Some([1.0, 10.0]));
        let found = summary(&grades, &[(None, "a"); 11], &[(); 11].map(|()| ok(8.0)));
        let score = &found.metrics[0];
        let Interval { low, high } = score.interval.unwrap();
        // 1 - 0.025^(1/11) = 0.284914 of all answers may have any other grade.
        assert!((low - 6.005_601).abs() < 1e-5 && (high - 8.569_828).abs() < 1e-5, "{low} {high}");
        assert_eq!(score.interval_kind, Some(IntervalKind::EqualValues));
        assert!(!score.has_equal_scores());
        // Without a range there is nothing to say.
        let found = summary(&grades.range(None), &[(None, "a"); 11], &[(); 11].map(|()| ok(8.0)));
        assert_eq!((found.metrics[0].interval, found.metrics[0].has_equal_scores()), (None, true));
    }

    #[test]
    fn replies_are_counted_with_their_seeds_and_read_by_the_main_filter() {
        let metric = MetricInfo::share("exact_match").filter("verifier");
        let mut found = summary(&metric, &[(None, "a"); 4], &[(); 4].map(|()| ok(0.0)));
        found.n_seeds = 5;
        found.n_unread = [("verifier".to_owned(), 3), ("strict-match".to_owned(), 20)].into();
        assert_eq!((found.n_replies(), found.n_unread_of_main()), (20, 3));
        found.n_unread.remove("verifier");
        assert_eq!(found.n_unread_of_main(), 0);
    }

    #[test]
    fn ratios_and_perplexities_are_over_weights() {
        let measures = [
            Ok(Measure { value: -20.0, weight: 10.0 }),
            Ok(Measure { value: -60.0, weight: 20.0 }),
            Ok(Measure { value: -5.0, weight: 5.0 }),
        ];
        let metric = MetricInfo::share("word_perplexity").aggregated(Aggregation::Perplexity).range(None);
        let found = summary(&metric, &[(None, "a"); 3], &measures);
        let value = found.metrics[0].value.unwrap();
        assert!((value - (85.0_f64 / 35.0).exp()).abs() < 1e-9);
        let Interval { low, high } = found.metrics[0].interval.unwrap();
        assert!(low < value && value < high && low > 0.0);
        let bits = MetricInfo::share("bits").aggregated(Aggregation::Bits).range(None);
        let found = summary(&bits, &[(None, "a"); 3], &measures);
        assert!((found.metrics[0].value.unwrap() - 85.0 / 35.0 / 2.0_f64.ln()).abs() < 1e-9);
    }
}
