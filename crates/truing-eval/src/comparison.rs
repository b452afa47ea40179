//! Two runs of the same benchmark compared item by item: exact tests on the same items, the items that flipped,
//! and what the items can resolve. Several benchmarks are corrected together.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use truing_statistics::{
    Bootstrap, Interval, McNemar, PairedDifference, Power, effective_items, holm, mcnemar, paired_difference,
};

use crate::benchmarks::{Aggregation, BenchmarkError, Item, Measure, MetricInfo};
use crate::results::{ItemRecord, TaskRecord, items_file, read_items, read_results};

/// Share of items on which two similar models differ, where nothing is known of them yet.
pub const USUAL_DISCORDANCE: f64 = 0.2;
/// Correlation within a cluster, where nothing is known of it yet.
const USUAL_CORRELATION: f64 = 0.2;

/// The smallest differences that a number of items can resolve with 80 % power at 5 %, known before anything is
/// asked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Resolution {
    /// Items.
    pub n_items: usize,
    /// Independent items that they are worth; fewer where they come in clusters.
    pub n_effective: f64,
    /// Difference of two models on these items, if they differ on a fifth of them; `None` where no difference
    /// can be found.
    pub paired: Option<f64>,
    /// Difference from a score of one half that was measured on other items.
    pub unpaired: Option<f64>,
}

/// What items can resolve of a share of right answers.
#[must_use]
pub fn resolution(items: &[Item]) -> Resolution {
    let clusters: std::collections::BTreeSet<&str> =
        items.iter().map(|item| item.cluster.as_deref().unwrap_or(&item.id)).collect();
    let (n, n_clusters) = (items.len() as f64, clusters.len() as f64);
    let n_effective = if items.is_empty() { 0.0 } else { effective_items(n, n_clusters, USUAL_CORRELATION) };
    Resolution {
        n_items: items.len(),
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
    /// Items with a score in the first run alone; those of the other are missing or unscored.
    pub n_only_first: usize,
    /// Items with a score in the second run alone.
    pub n_only_second: usize,
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
    /// The smallest difference that these items could have resolved, with their discordance or deviation as
    /// observed.
    pub resolvable: Option<f64>,
    /// Items whose score changed, the largest changes first.
    pub flips: Vec<Flip>,
}

/// An item that both runs have scored.
struct Common {
    id: String,
    cluster: String,
    first: Measure,
    second: Measure,
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

/// A run's items with a value, the mean over its seeds, and their clusters.
fn measured(records: &[ItemRecord], key: &str) -> BTreeMap<String, (Measure, String)> {
    let mut found: BTreeMap<&str, (Vec<Measure>, &str)> = BTreeMap::new();
    for record in records {
        let item = &record.item;
        if let Some(Ok(measure)) = record.score.measures.get(key)
            && measure.weight != 0.0
        {
            let cluster = item.cluster.as_deref().unwrap_or(&item.id);
            found.entry(&item.id).or_insert((Vec::new(), cluster)).0.push(*measure);
        }
    }
    let mean = |measures: &[Measure], of: fn(&Measure) -> f64| {
        measures.iter().map(of).sum::<f64>() / measures.len() as f64
    };
    let of_item = |(id, (measures, cluster)): (&str, (Vec<Measure>, &str))| {
        let measure = Measure {
            value: mean(&measures, |measure| measure.value),
            weight: mean(&measures, |measure| measure.weight),
        };
        (id.to_owned(), (measure, cluster.to_owned()))
    };
    found.into_iter().map(of_item).collect()
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
    let key = metric.key();
    let (ones, others) = (measured(first, &key), measured(second, &key));
    let common: Vec<Common> = ones
        .iter()
        .filter_map(|(id, (first, cluster))| {
            let second = others.get(id)?.0;
            Some(Common { id: id.clone(), cluster: cluster.clone(), first: *first, second })
        })
        .collect();
    if common.is_empty() {
        return None;
    }
    let first = scaled(common.iter().map(|item| item.first), &metric.aggregation);
    let second = scaled(common.iter().map(|item| item.second), &metric.aggregation);
    let clusters: Vec<&str> = common.iter().map(|item| item.cluster.as_str()).collect();
    let difference = paired_difference(&first, &second, &clusters, settings)?;
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
            Power::default().paired_shares(n, (exact.n_first_only + exact.n_second_only) as f64 / n as f64)
        }
        None => difference.estimate.standard_error.map(|error| Power::default().paired_means(1.0, error)),
    };
    let mut flips: Vec<Flip> =
        common.iter().map(Common::flip).filter(|flip| flip.first != flip.second).collect();
    flips.sort_by(|a, b| (b.second - b.first).abs().total_cmp(&(a.second - a.first).abs()));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    Some(MetricComparison {
        task: task.to_owned(),
        metric: metric.clone(),
        n: common.len(),
        n_only_first: ones.len() - common.len(),
        n_only_second: others.len() - common.len(),
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
    /// When a folder holds no finished evaluation, the two scored a benchmark differently, or they have no scored item
    /// in common.
    pub fn read(first: &Path, second: &Path) -> Result<Self, BenchmarkError> {
        let (ours, mut theirs) = (read_results(first)?, read_results(second)?);
        let (mut tasks, mut remarks) = (Vec::new(), Vec::new());
        for record in ours {
            let Some(place) = theirs.iter().position(|other| other.task == record.task) else {
                remarks.push(format!("{} has no results of {}", second.display(), record.task));
                continue;
            };
            let other = theirs.remove(place);
            if record.file.sha256 != other.file.sha256 {
                remarks.push(format!("{}: the items come from different files", record.task));
            }
            if (record.mode, record.n_shots, record.version) != (other.mode, other.n_shots, other.version) {
                let reason = format!(
                    "{} differs in scoring, solved examples or version, expected the same",
                    record.task
                );
                return Err(BenchmarkError::NotComparable { reason });
            }
            let file = items_file(&record.task);
            let items = [read_items(&first.join(&file))?, read_items(&second.join(&file))?];
            let metrics = record.summary.metrics.iter().map(|summary| &summary.metric);
            let comparisons = metrics
                .filter_map(|metric| {
                    compare_metric(&record.task, metric, &items[0], &items[1], &Bootstrap::default())
                })
                .collect();
            tasks.push(TaskPair { records: [record, other], items, comparisons });
        }
        remarks.extend(
            theirs.iter().map(|other| format!("{} has no results of {}", first.display(), other.task)),
        );
        let mut pair = Self { tasks, remarks };
        holm_over_tasks(pair.tasks.iter_mut().flat_map(|task| &mut task.comparisons));
        if pair.comparisons().next().is_none() {
            return Err(BenchmarkError::NotComparable {
                reason: "they have no scored item in common".into(),
            });
        }
        Ok(pair)
    }

    /// All comparisons, in order.
    pub fn comparisons(&self) -> impl Iterator<Item = &MetricComparison> {
        self.tasks.iter().flat_map(|task| &task.comparisons)
    }
}

impl MetricComparison {
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
