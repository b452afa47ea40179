//! The page of two evaluations: what `templates/comparison.html` is filled with.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use serde_json::{Value, json};
use truing_eval::benchmarks::MetricInfo;
use truing_eval::comparison::{Finding, MetricComparison, RunPair, TaskPair, Test};
use truing_eval::results::ItemRecord;

use super::categories::compare_categories;
use super::charts::{self, TaskChart};
use super::samples;
use super::samples_of_a_task;
use super::text::{grouped, metric_name, number, p_value, signed, signed_range};
use crate::ReportError;
use crate::html::json_for_script;

/// One of the two runs.
pub(super) struct Side {
    /// Its folder's name.
    pub(super) name: String,
    /// Its model.
    pub(super) model: String,
}

/// `templates/comparison.html`.
#[derive(Template)]
#[template(path = "comparison.html")]
struct Page<'a> {
    sides: &'a [Side],
    summary: String,
    remarks: &'a [String],
    lines: Vec<Line>,
    differences: Option<TaskChart>,
    tasks: Vec<TaskSection<'a>>,
    charts_json: String,
    samples_json: String,
}

/// One metric in the table.
struct Line {
    task: String,
    metric: String,
    n: String,
    first: String,
    second: String,
    difference: String,
    interval: String,
    test: &'static str,
    p: String,
    p_adjusted: String,
    changed: String,
    /// Items that are not compared, with the worst case; empty where all are.
    missing: String,
    resolvable: String,
    finding: &'static str,
    class: &'static str,
}

struct TaskSection<'a> {
    name: &'a str,
    charts: Vec<TaskChart>,
}

pub(super) fn render(sides: &[Side], pair: &RunPair) -> Result<String, ReportError> {
    let comparisons: Vec<&MetricComparison> = pair.comparisons().collect();
    let sections: Vec<TaskSection<'_>> = pair
        .tasks
        .iter()
        .enumerate()
        .map(|(number, task)| {
            let [first, second] = &task.records;
            let runs = [("first", &first.summary), ("second", &second.summary)];
            let mut of_task = charts::categories(number, &runs);
            of_task.extend(charts::category_differences(number, &compare_categories(task)));
            TaskSection { name: &first.task, charts: of_task }
        })
        .filter(|section| !section.charts.is_empty())
        .collect();
    let differences = charts::differences(&comparisons);
    let figures: Vec<Value> = differences
        .iter()
        .chain(sections.iter().flat_map(|section| &section.charts))
        .map(|chart| Ok(json!({ "id": chart.id, "figure": serde_json::to_value(&chart.figure)? })))
        .collect::<Result<_, ReportError>>()?;
    let n_shown = samples_of_a_task(pair.tasks.len());
    let (mut tasks, mut shown) = (Vec::new(), Vec::new());
    for (number, task) in pair.tasks.iter().enumerate() {
        let (of_task, samples) = changed(number, task, n_shown);
        tasks.push(of_task);
        shown.extend(samples);
    }
    let page = Page {
        sides,
        summary: summary(&comparisons),
        remarks: &pair.remarks,
        lines: pair.tasks.iter().flat_map(lines).collect(),
        differences,
        tasks: sections,
        charts_json: json_for_script(&Value::Array(figures)),
        samples_json: json_for_script(
            &json!({ "sides": ["first", "second"], "tasks": tasks, "samples": shown }),
        ),
    };
    Ok(page.render()?)
}

fn summary(comparisons: &[&MetricComparison]) -> String {
    let count = |finding| comparisons.iter().filter(|one| one.finding() == finding).count();
    format!(
        "Of {} metrics the second evaluation is better in {}, worse in {}; not significantly different in {}.",
        comparisons.len(),
        count(Finding::SecondBetter),
        count(Finding::FirstBetter),
        count(Finding::Unresolved)
    )
}

fn lines(task: &TaskPair) -> impl Iterator<Item = Line> {
    task.comparisons.iter().enumerate().map(|(place, comparison)| {
        let (finding, class) = match comparison.finding() {
            Finding::SecondBetter => ("second better", "good"),
            Finding::FirstBetter => ("second worse", "bad"),
            Finding::Unresolved => ("not significant", ""),
        };
        let (gained, lost) = comparison.flips.iter().partition::<Vec<_>, _>(|flip| flip.second > flip.first);
        Line {
            task: if place == 0 { comparison.task.clone() } else { String::new() },
            metric: metric_name(&comparison.metric),
            n: format!("{} pairs", grouped(comparison.n)),
            first: number(comparison.first),
            second: number(comparison.second),
            difference: signed(comparison.difference.estimate.mean),
            interval: match comparison.interval() {
                None => "none: all differences are equal".to_owned(),
                interval => signed_range(interval),
            },
            test: match comparison.test {
                Test::McNemar => "McNemar",
                Test::Exchange => "permutation",
            },
            p: p_value(comparison.p_value),
            p_adjusted: comparison.p_adjusted.map_or_else(String::new, p_value),
            changed: format!("{} up, {} down", grouped(gained.len()), grouped(lost.len())),
            missing: comparison.not_compared().unwrap_or_default(),
            resolvable: comparison.resolvable_text(),
            finding,
            class,
        }
    })
}

/// The items of a task that changed in any metric, the largest changes of its main metric first.
fn changed(number: usize, task: &TaskPair, n_shown: usize) -> (Value, Vec<Value>) {
    let name = &task.records[0].task;
    let metrics: Vec<&MetricInfo> = task.comparisons.iter().map(|comparison| &comparison.metric).collect();
    let items = [samples::by_item(&task.items[0]), samples::by_item(&task.items[1])];
    let places = [places_of(&items[0]), places_of(&items[1])];
    let mut seen = BTreeSet::new();
    let ids: Vec<&str> = task
        .comparisons
        .iter()
        .flat_map(|comparison| &comparison.flips)
        .map(|flip| flip.id.as_str())
        .filter(|id| seen.insert(*id))
        .collect();
    let shown = &ids[..ids.len().min(n_shown)];
    let rule = match shown.len() == ids.len() {
        true => format!("All {} items whose score changed.", grouped(ids.len())),
        false => format!(
            "{} of {} items whose score changed, those with the largest changes.",
            grouped(shown.len()),
            grouped(ids.len())
        ),
    };
    let sample = |id: &&str| {
        let records = [&items[0][*places[0].get(*id)?], &items[1][*places[1].get(*id)?]];
        Some(samples::sample(number, &metrics, &records, name))
    };
    (samples::task_json(name, &metrics, &rule), shown.iter().filter_map(sample).collect())
}

fn places_of<'a>(items: &[Vec<&'a ItemRecord>]) -> BTreeMap<&'a str, usize> {
    items.iter().enumerate().map(|(place, records)| (records[0].item.id.as_str(), place)).collect()
}
