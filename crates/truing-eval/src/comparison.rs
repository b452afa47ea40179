//! Two runs of the same benchmark compared item by item: exact tests on the same items, the items that flipped,
//! and what the items can resolve. Several benchmarks are corrected together.

mod pairing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_statistics::{
    Bootstrap, Interval, McNemar, PairedDifference, PairedInterval, Power, effective_items, holm,
    interval_of_equal_values, mcnemar, paired_difference,
};
use truing_types::counted;

use pairing::{Common, Pairing};

use crate::benchmarks::{Aggregation, BenchmarkError, Item, Measure, MetricInfo, ScoringMode};
use crate::results::{ItemRecord, TaskRecord, items_file, read_items, read_results};

/// Share of items on which two similar models differ, where nothing is known of them yet.
pub const USUAL_DISCORDANCE: f64 = 0.2;
/// Standard deviation of the difference of two models' grades of an item, as a share of the grades' range, where
/// nothing is known of it yet.
pub const USUAL_DEVIATION: f64 = 0.2;
/// Correlation within a cluster, where nothing is known of it yet.
const USUAL_CORRELATION: f64 = 0.2;

/// The smallest differences that a number of items can resolve with 80 % power at 5 %, known before anything is
/// asked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Resolution {
    /// Items.
    pub n_items: usize,
    /// Effective number of independent items; fewer where they come in clusters.
    pub n_effective: f64,
    /// Difference of two models on these items, if they differ on a fifth of them; `None` where no difference
    /// can be found.
    pub paired: Option<f64>,
    /// Difference from a score of one half that was measured on other items.
    pub unpaired: Option<f64>,
}

impl Resolution {
    /// The smallest difference of two models on the same items in a metric with bounds, as a share of the distance
    /// between them. Shares from 0 to 1 are taken for right or wrong; other scores, such as grades, to differ by
    /// [`USUAL_DEVIATION`]. `None` where no difference can be found.
    #[must_use]
    pub fn paired_in(&self, range: Option<[f64; 2]>) -> Option<f64> {
        if range.is_none_or(|range| range == [0.0, 1.0]) {
            return self.paired;
        }
        let smallest = Power::default().paired_means(self.n_effective, USUAL_DEVIATION);
        (self.n_effective >= 2.0 && smallest <= 1.0).then_some(smallest)
    }
}

/// What is said where no difference can be found.
#[must_use]
pub fn cannot_be_resolved(n_items: usize) -> String {
    format!("no difference can be resolved with {}", counted(n_items as u64, "item", "items"))
}

/// What items can resolve of a share of right answers.
#[must_use]
pub fn resolution<'a>(items: impl IntoIterator<Item = &'a Item>) -> Resolution {
    let clusters: Vec<&str> =
        items.into_iter().map(|item| item.cluster.as_deref().unwrap_or(&item.id)).collect();
    let n_items = clusters.len();
    let n_clusters = clusters.into_iter().collect::<BTreeSet<_>>().len();
    let n_effective = match n_items {
        0 => 0.0,
        _ => effective_items(n_items as f64, n_clusters as f64, USUAL_CORRELATION),
    };
    Resolution {
        n_items,
        n_effective,
        paired: Power::default().paired_shares(n_effective as u64, USUAL_DISCORDANCE),
        unpaired: Power::default().unpaired_shares(n_effective, 0.5),
    }
}

/// Which test decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// McNemar's exact test of right-or-wrong items.
    McNemar,
    /// Exchange of the two runs' scores within clusters.
    Exchange,
}

/// An item whose score changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flip {
    /// The item.
    pub id: String,
    /// Its score in the first run.
    pub first: f64,
    /// Its score in the second run.
    pub second: f64,
}

/// One metric of two runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricComparison {
    /// The benchmark.
    pub task: String,
    /// The metric.
    pub metric: MetricInfo,
    /// Items with a score in both runs.
    pub n: usize,
    /// Items that the first run has and the second does not.
    pub n_only_first: usize,
    /// Items that the second run has and the first does not.
    pub n_only_second: usize,
    /// Items of both runs without a score in one of them or in both.
    #[serde(default)]
    pub n_unscored: usize,
    /// Items that have one name in both runs and different contents. They are not compared.
    #[serde(default)]
    pub n_changed: usize,
    /// Lowest and highest difference over all items, had those without a score been scored: each of them may have been
    /// as bad or as good as the metric allows. `None` where none is missing, or the metric has no range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Interval>,
    /// The first run's value on the common items.
    pub first: f64,
    /// The second run's.
    pub second: f64,
    /// Second minus first, on the scale of the item's scores: for perplexities, of log-likelihood per unit.
    pub difference: PairedDifference,
    /// The discordant items, where items are right or wrong.
    pub mcnemar: Option<McNemar>,
    /// Which test the p-value is of.
    pub test: Test,
    /// Two-sided p-value.
    pub p_value: f64,
    /// The p-value corrected for all comparisons of the run (Holm); that of [`holm_over_tasks`].
    pub p_adjusted: Option<f64>,
    /// The smallest difference that these items could have resolved, with their discordance or deviation as observed,
    /// or with the smallest larger discordance at which any difference can be. `None` where no difference can be
    /// resolved.
    pub resolvable: Option<f64>,
    /// Items whose score changed, the largest changes first.
    pub flips: Vec<Flip>,
}

impl Common {
    fn is_right_or_wrong(&self) -> bool {
        let is_one =
            |measure: Measure| measure.weight == 1.0 && (measure.value == 0.0 || measure.value == 1.0);
        is_one(self.first) && is_one(self.second)
    }

    fn flip(&self) -> Flip {
        let [first, second] = [self.first, self.second].map(|measure| measure.value / measure.weight);
        Flip { id: self.id.clone(), first, second }
    }
}

/// The values of items whose mean is the metric: of ratios an item counts by its part of the sums.
fn scaled(measures: impl ExactSizeIterator<Item = Measure> + Clone, aggregation: &Aggregation) -> Vec<f64> {
    let scale = match aggregation {
        Aggregation::Mean | Aggregation::MeanOfCategories(_) => 1.0,
        Aggregation::Ratio | Aggregation::Perplexity | Aggregation::Bits => {
            measures.len() as f64 / measures.clone().map(|measure| measure.weight).sum::<f64>()
        }
    };
    measures.map(|measure| measure.value * scale).collect()
}

/// Compares one metric of two runs of a benchmark on the items that both have scored; of a mean of categories the mean
/// over items. `None` without a common item.
#[must_use]
pub fn compare_metric(
    task: &str,
    metric: &MetricInfo,
    first: &[ItemRecord],
    second: &[ItemRecord],
    settings: &Bootstrap,
) -> Option<MetricComparison> {
    let pairing = Pairing::new(metric, first, second);
    let common = &pairing.common;
    if common.is_empty() {
        return None;
    }
    let first = scaled(common.iter().map(|item| item.first), &metric.aggregation);
    let second = scaled(common.iter().map(|item| item.second), &metric.aggregation);
    let clusters: Vec<&str> = common.iter().map(|item| item.cluster.as_str()).collect();
    let mut difference = paired_difference(&first, &second, &clusters, settings)?;
    if difference.interval.is_none() {
        let on_items_scale = !matches!(metric.aggregation, Aggregation::Perplexity | Aggregation::Bits);
        let range = metric.range.filter(|_| on_items_scale);
        let estimate = difference.estimate;
        difference.interval = range.and_then(|[low, high]| {
            let range = Interval { low: low - high, high: high - low };
            interval_of_equal_values(estimate.mean, estimate.n_clusters, range)
        });
        difference.interval_kind = difference.interval.map(|_| PairedInterval::EqualValues);
    }
    let is_exact =
        common.iter().all(Common::is_right_or_wrong) && difference.estimate.n_clusters == common.len();
    let exact = is_exact.then(|| {
        let only = |one: f64, other: f64| {
            common.iter().filter(|item| item.first.value == one && item.second.value == other).count() as u64
        };
        mcnemar(only(1.0, 0.0), only(0.0, 1.0))
    });
    let resolvable = match &exact {
        Some(exact) => {
            let n = common.len() as u64;
            resolvable_share(n, (exact.n_first_only + exact.n_second_only) as f64 / n as f64)
        }
        None => {
            let error = difference.estimate.standard_error.filter(|error| *error > 0.0);
            error.map(|error| Power::default().paired_means(1.0, error))
        }
    };
    let mut flips: Vec<Flip> =
        common.iter().map(Common::flip).filter(|flip| flip.first != flip.second).collect();
    flips.sort_by(|a, b| (b.second - b.first).abs().total_cmp(&(a.second - a.first).abs()));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    Some(MetricComparison {
        task: task.to_owned(),
        metric: metric.clone(),
        n: common.len(),
        n_only_first: pairing.n_only_first,
        n_only_second: pairing.n_only_second,
        n_unscored: pairing.n_unscored,
        n_changed: pairing.n_changed,
        bounds: pairing.bounds,
        first: mean(&first),
        second: mean(&second),
        p_value: exact.map_or(difference.p_value, |exact| exact.p_value),
        test: if exact.is_some() { Test::McNemar } else { Test::Exchange },
        difference,
        mcnemar: exact,
        p_adjusted: None,
        resolvable,
        flips,
    })
}

/// The smallest difference of two shares that `n` items resolve if the models differ on the share `discordant` of them,
/// or, where none can be found then, on the next larger whole percentage with which one can.
fn resolvable_share(n: u64, discordant: f64) -> Option<f64> {
    let smallest = |discordant| Power::default().paired_shares(n, discordant);
    let mut larger = (1..=100).map(|percent| f64::from(percent) / 100.0).filter(|share| *share > discordant);
    smallest(discordant).or_else(|| larger.find_map(smallest))
}

/// Corrects the p-values of comparisons together: the main metrics of several benchmarks, say.
pub fn holm_over_tasks<'a>(comparisons: impl IntoIterator<Item = &'a mut MetricComparison>) {
    let comparisons: Vec<&mut MetricComparison> = comparisons.into_iter().collect();
    let p_values: Vec<f64> = comparisons.iter().map(|comparison| comparison.p_value).collect();
    for (comparison, adjusted) in comparisons.into_iter().zip(holm(&p_values)) {
        comparison.p_adjusted = Some(adjusted);
    }
}

/// A benchmark of two runs.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskPair {
    /// The first run's record and the second's.
    pub records: [TaskRecord; 2],
    /// The items of each.
    pub items: [Vec<ItemRecord>; 2],
    /// Its metrics compared.
    pub comparisons: Vec<MetricComparison>,
}

/// Two runs compared, benchmark by benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPair {
    /// The benchmarks that both have, in the first run's order.
    pub tasks: Vec<TaskPair>,
    /// What has to be known to read the comparison.
    pub remarks: Vec<String>,
}

impl RunPair {
    /// Compares the evaluations of two folders in all metrics of the benchmarks that both have. The p-values are
    /// corrected together.
    ///
    /// # Errors
    /// When a folder holds no finished evaluation, the two scored a benchmark differently or on other items, or they
    /// have no scored item in common.
    pub fn read(first: &Path, second: &Path) -> Result<Self, BenchmarkError> {
        let (ours, mut theirs) = (read_results(first)?, read_results(second)?);
        let (mut tasks, mut remarks) = (Vec::new(), Vec::new());
        for record in ours {
            let Some(place) = theirs.iter().position(|other| other.task == record.task) else {
                remarks.push(format!("{} has no results of {}", second.display(), record.task));
                continue;
            };
            let other = theirs.remove(place);
            check_same_scoring(&record, &other)?;
            let file = items_file(&record.task);
            let items = [read_items(&first.join(&file))?, read_items(&second.join(&file))?];
            let task = TaskPair::of([record, other], items, &mut remarks)?;
            tasks.push(task);
        }
        remarks.extend(
            theirs.iter().map(|other| format!("{} has no results of {}", first.display(), other.task)),
        );
        let mut pair = Self { tasks, remarks };
        holm_over_tasks(pair.tasks.iter_mut().flat_map(|task| &mut task.comparisons));
        if pair.comparisons().next().is_none() {
            let mut reason = "they have no scored item in common".to_owned();
            for remark in &pair.remarks {
                reason.push_str("; ");
                reason.push_str(remark);
            }
            return Err(BenchmarkError::NotComparable { reason });
        }
        Ok(pair)
    }

    /// All comparisons, in order.
    pub fn comparisons(&self) -> impl Iterator<Item = &MetricComparison> {
        self.tasks.iter().flat_map(|task| &task.comparisons)
    }
}

impl TaskPair {
    /// Compares a benchmark of two runs in all of its metrics; what has to be known of it goes to `remarks`.
    fn of(
        records: [TaskRecord; 2],
        items: [Vec<ItemRecord>; 2],
        remarks: &mut Vec<String>,
    ) -> Result<Self, BenchmarkError> {
        let [ours, theirs] = &records;
        let task = &ours.task;
        if ours.file.sha256 != theirs.file.sha256 {
            remarks.push(format!("{task}: the items come from different files"));
        }
        let n_changed = check_same_items(&records, &items)?;
        if n_changed > 0 {
            remarks.push(format!(
                "{task}: {n_changed} items have the same name in both runs but different contents; they are \
                 not compared"
            ));
        }
        for remark in different_settings(&ours.settings, &theirs.settings) {
            // Most settings are the same for all benchmarks of a run.
            if !remarks.contains(&remark) {
                remarks.push(remark);
            }
        }
        let mut comparisons = Vec::new();
        for metric in ours.summary.metrics.iter().map(|summary| &summary.metric) {
            match compare_metric(task, metric, &items[0], &items[1], &Bootstrap::default()) {
                Some(comparison) => comparisons.push(comparison),
                None => {
                    let missing = Pairing::new(metric, &items[0], &items[1]).missing();
                    let missing =
                        if missing.is_empty() { String::new() } else { format!(": {}", missing.join(", ")) };
                    let name = metric.key();
                    remarks.push(format!("{task} {name}: no item has a score in both runs{missing}"));
                }
            }
        }
        Ok(Self { records, items, comparisons })
    }
}

/// Two records of a benchmark whose scores mean the same.
fn check_same_scoring(ours: &TaskRecord, theirs: &TaskRecord) -> Result<(), BenchmarkError> {
    let shots = |record: &TaskRecord| match record.mean_shots {
        Some(mean) => format!("{} ({mean:.2} on average)", record.n_shots),
        None => record.n_shots.to_string(),
    };
    let mode = |record: &TaskRecord| match record.mode {
        ScoringMode::Strict => "strict".to_owned(),
        ScoringMode::Official => "official".to_owned(),
    };
    let version = |record: &TaskRecord| record.version.to_string();
    let all: [(&str, [String; 2]); 3] = [
        ("scoring", [mode(ours), mode(theirs)]),
        ("number of solved examples", [shots(ours), shots(theirs)]),
        ("version of the benchmark", [version(ours), version(theirs)]),
    ];
    let different: Vec<String> = all
        .into_iter()
        .filter(|(_, [one, other])| one != other)
        .map(|(what, [one, other])| format!("{what}: {one} and {other}"))
        .collect();
    match different.is_empty() {
        true => Ok(()),
        false => Err(BenchmarkError::NotComparable {
            reason: format!("{} differs in {}, expected the same", ours.task, different.join(", ")),
        }),
    }
}

/// Counts the items that have one name in two runs and different contents, as lines of different files have.
fn check_same_items(
    records: &[TaskRecord; 2],
    items: &[Vec<ItemRecord>; 2],
) -> Result<usize, BenchmarkError> {
    let ones: BTreeMap<&str, &Item> =
        items[0].iter().map(|record| (record.item.id.as_str(), &record.item)).collect();
    let others: BTreeMap<&str, &Item> =
        items[1].iter().map(|record| (record.item.id.as_str(), &record.item)).collect();
    let both: Vec<(&Item, &Item)> =
        ones.iter().filter_map(|(id, one)| Some((*one, *others.get(id)?))).collect();
    let n_changed = both.iter().filter(|(one, other)| !one.has_same_content(other)).count();
    if 2 * n_changed > both.len() {
        let [ours, theirs] = records;
        return Err(BenchmarkError::NotComparable {
            reason: format!(
                "{}: {n_changed} of {} items of the same name have different contents, so `{}` and `{}` are different \
                 files; a column with names of items (`id`) would pair the same ones",
                ours.task,
                both.len(),
                ours.file.path.display(),
                theirs.file.path.display()
            ),
        });
    }
    Ok(n_changed)
}

/// The settings that two runs do not share. Records of earlier versions have none.
fn different_settings(ours: &Map<String, Value>, theirs: &Map<String, Value>) -> Vec<String> {
    if ours.is_empty() || theirs.is_empty() {
        return Vec::new();
    }
    let text = |value: &Value| match value {
        Value::Null => "not set".to_owned(),
        value => value.to_string(),
    };
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    keys.into_iter()
        .filter_map(|key| {
            let [one, other] = [ours, theirs].map(|of| of.get(key).unwrap_or(&Value::Null));
            (one != other).then(|| format!("`{key}` differs: {} and {}", text(one), text(other)))
        })
        .collect()
}

impl MetricComparison {
    /// The items that were not compared, with the difference that they could make, in a sentence without its full stop;
    /// `None` where every item was compared.
    #[must_use]
    pub fn not_compared(&self) -> Option<String> {
        let counts = [self.n_only_first, self.n_only_second, self.n_unscored, self.n_changed];
        let missing = pairing::missing(counts);
        let bounds = self.bounds.map_or_else(String::new, |Interval { low, high }| {
            format!("; scored, those could make the difference anything from {low:+.3} to {high:+.3}")
        });
        (!missing.is_empty()).then(|| format!("not compared: {}{bounds}", missing.join(", ")))
    }

    /// The smallest difference that the items could have shown, in words.
    #[must_use]
    pub fn resolvable_text(&self) -> String {
        match self.resolvable {
            Some(smallest) => format!("smallest detectable difference {smallest:.3}"),
            None => cannot_be_resolved(self.n),
        }
    }

    /// What can be said, with a p-value below 0.05 after correction where there was one.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let p_value = self.p_adjusted.unwrap_or(self.p_value);
        let difference = self.difference.estimate.mean;
        if p_value >= 0.05 || difference == 0.0 {
            return Finding::Unresolved;
        }
        // Log-likelihoods per unit are better when larger, though perplexities are better when smaller.
        let is_of_likelihood = matches!(self.metric.aggregation, Aggregation::Perplexity | Aggregation::Bits);
        let larger_is_better = is_of_likelihood || self.metric.higher_is_better;
        match (difference > 0.0) == larger_is_better {
            true => Finding::SecondBetter,
            false => Finding::FirstBetter,
        }
    }

    /// The interval of the difference.
    #[must_use]
    pub fn interval(&self) -> Option<Interval> {
        self.difference.interval
    }
}

/// What a comparison says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The first run is better.
    FirstBetter,
    /// The second run is better.
    SecondBetter,
    /// No significant difference.
    Unresolved,
}
