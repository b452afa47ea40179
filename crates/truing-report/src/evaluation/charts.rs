//! Bars of categories with intervals, and differences with theirs.

use std::collections::BTreeMap;

use truing_eval::benchmarks::{MetricInfo, MetricSummary, Summary};
use truing_eval::comparison::MetricComparison;
use truing_statistics::Interval;

use super::categories::CategoryComparison;
use super::text::{grouped, is_share, metric_name, number};
use crate::charts::figure::{Axis, Color, Figure, Mark, Series};

/// What charts of differences say of their intervals.
const DIFFERENCES: &str = "Second less first, paired over the items that both have scored, with 95 % intervals that \
                           are not corrected for the number of comparisons.";
/// Categories that a chart shows.
const N_CATEGORIES: usize = 80;

/// A chart with its words.
pub(super) struct TaskChart {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) caption: String,
    pub(super) figure: Figure,
}

/// The ends of intervals; a gap where there is none.
fn ends(summaries: &[&MetricSummary]) -> (Vec<f64>, Vec<f64>) {
    let end = |of: fn(Interval) -> f64| -> Vec<f64> {
        summaries.iter().map(|one| one.interval.map_or(f64::NAN, of)).collect()
    };
    (end(|interval| interval.low), end(|interval| interval.high))
}

/// The axis of a metric's values: all of it where it has bounds.
fn axis(metric: &MetricInfo) -> Axis {
    let axis = Axis::titled(&metric_name(metric));
    match metric.range {
        Some([low, high]) if low == 0.0 => axis.range(low, high),
        _ => axis.with_zero(),
    }
}

fn bars(name: &str, color: Color, summaries: &[&MetricSummary]) -> Series {
    let (low, high) = ends(summaries);
    let values = summaries.iter().map(|one| one.value.unwrap_or(f64::NAN));
    let words = summaries.iter().map(|one| format!("{} items", grouped(one.n))).collect();
    Series::bars(name, color, values).interval(low, high).words(words)
}

/// The main metric of each category, one chart a dimension. With two runs their bars are beside each other.
pub(super) fn categories(task: usize, runs: &[(&str, &Summary)]) -> Vec<TaskChart> {
    let Some((_, first)) = runs.first() else { return Vec::new() };
    let Some(metric) = first.metrics.first().map(|summary| &summary.metric) else { return Vec::new() };
    let key = metric.key();
    let main = |all: &'_ BTreeMap<String, Vec<MetricSummary>>, category: &str| -> Option<usize> {
        all.get(category)?.iter().position(|summary| summary.metric.key() == key)
    };
    let mut charts = Vec::new();
    for (number, (dimension, categories)) in first.by_category.iter().enumerate() {
        // In all runs, with a value.
        let of = |summary: &'_ Summary, category: &str| -> Option<MetricSummary> {
            let all = summary.by_category.get(dimension)?;
            let place = main(all, category)?;
            Some(all[category][place].clone()).filter(|summary| summary.value.is_some())
        };
        let mut names: Vec<&String> = categories
            .keys()
            .filter(|category| runs.iter().all(|(_, summary)| of(summary, category).is_some()))
            .collect();
        let n_all = names.len();
        if n_all == 0 {
            continue;
        }
        let n_items = |category: &str| of(first, category).map_or(0, |summary| summary.n);
        names.sort_by_key(|category| std::cmp::Reverse(n_items(category)));
        names.truncate(N_CATEGORIES);
        names.sort();
        let colors = if runs.len() > 1 { [Color::Grey, Color::Blue] } else { [Color::Blue; 2] };
        let series: Vec<Series> = runs
            .iter()
            .zip(colors)
            .map(|((name, summary), color)| {
                let found: Vec<MetricSummary> = names.iter().filter_map(|name| of(summary, name)).collect();
                let series = bars(name, color, &found.iter().collect::<Vec<_>>());
                // Intervals of two runs beside each other would treat the same items as independent samples.
                if runs.len() > 1 { Series { interval: None, ..series } } else { series }
            })
            .collect();
        let shown = if n_all > names.len() {
            format!("The {} categories with most items of {}.", names.len(), grouped(n_all))
        } else {
            String::new()
        };
        let names = names.into_iter().cloned().collect();
        charts.push(TaskChart {
            id: format!("chart-{task}-{number}"),
            title: format!("{} by {dimension}", metric_name(metric)),
            caption: match runs.len() {
                1 => format!("With 95 % intervals. {shown}").trim_end().to_owned(),
                _ => format!("Values of each run. The differences have intervals. {shown}")
                    .trim_end()
                    .to_owned(),
            },
            figure: Figure { lying: true, ..Figure::of(Axis::named(names), axis(metric), series) },
        });
    }
    charts
}

/// The differences of a task's main metric by category, one chart a dimension.
pub(super) fn category_differences(task: usize, compared: &[CategoryComparison]) -> Vec<TaskChart> {
    let of_dimensions = compared.chunk_by(|one, other| one.dimension == other.dimension);
    let chart = |(number, categories): (usize, &[CategoryComparison])| {
        let first = categories.first()?;
        let comparisons: Vec<&MetricComparison> = categories.iter().map(|one| &one.comparison).collect();
        let names = categories.iter().map(|one| one.category.clone()).collect();
        let metric = metric_name(&first.comparison.metric);
        Some(TaskChart {
            id: format!("chart-{task}-difference-{number}"),
            title: format!("Difference of {metric} by {}", first.dimension),
            caption: format!(
                "{DIFFERENCES} Only categories with enough items. To the right of 0 the second has the higher value."
            ),
            figure: figure_of_differences(names, &comparisons),
        })
    };
    of_dimensions.enumerate().filter_map(chart).collect()
}

/// Second less first, with intervals, one comparison under the other.
fn figure_of_differences(names: Vec<String>, comparisons: &[&MetricComparison]) -> Figure {
    let end = |of: fn(Interval) -> f64| -> Vec<f64> {
        comparisons.iter().map(|comparison| comparison.interval().map_or(f64::NAN, of)).collect()
    };
    let mean = |comparison: &MetricComparison| comparison.difference.estimate.mean;
    let points = comparisons.iter().enumerate().map(|(at, comparison)| (at as f64, mean(comparison)));
    let words = |comparison: &&MetricComparison| {
        let MetricComparison { first, second, n, .. } = comparison;
        format!("{} pairs, {} → {}", grouped(*n), number(*first), number(*second))
    };
    let series = Series::new(Mark::Points, "difference", Color::Blue, points)
        .interval(end(|interval| interval.low), end(|interval| interval.high))
        .words(comparisons.iter().map(words).collect());
    let y = Axis::titled("second less first").with_zero();
    Figure { lying: true, ..Figure::of(Axis::named(names), y, [series]) }
}

/// The differences of all metrics that are shares, with their intervals.
pub(super) fn differences(comparisons: &[&MetricComparison]) -> Option<TaskChart> {
    let shares: Vec<&MetricComparison> = comparisons
        .iter()
        .copied()
        .filter(|comparison| is_share(&comparison.metric) && comparison.interval().is_some())
        .collect();
    if shares.is_empty() {
        return None;
    }
    let name =
        |comparison: &MetricComparison| format!("{} {}", comparison.task, metric_name(&comparison.metric));
    let names = shares.iter().map(|comparison| name(comparison)).collect();
    Some(TaskChart {
        id: "chart-differences".into(),
        title: "Differences".into(),
        caption: format!("{DIFFERENCES} To the right of 0 the second has the higher value."),
        figure: figure_of_differences(names, &shares),
    })
}
