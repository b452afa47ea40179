//! Models before and after, ability by ability: the evaluations of a pipeline compared item by item, each with the
//! first one that measured the same benchmarks, and what the models wrote to the same items.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use truing_eval::benchmarks::{MetricInfo, MetricSummary};
use truing_eval::comparison::{Finding, MetricComparison, RunPair, TaskPair};
use truing_eval::results::{ItemRecord, RESULTS, TaskRecord, items_file, read_items, read_results};
use truing_types::with_causes;

use super::text::beginning;
use super::{PipelineRecord, PipelineStageRecord};
use crate::evaluation::categories::{CategoryComparison, compare_categories};
use crate::evaluation::samples;
use crate::evaluation::text::{grouped, metric_name, number, range, signed, signed_range};

/// Models whose samples are shown side by side.
const N_MODELS: usize = 4;
/// Items of a benchmark that are shown.
const N_SAMPLES: usize = 5;
/// Benchmarks whose items are shown.
const N_TASKS: usize = 3;

/// Kinds of stage whose result is another model than they were given.
const CHANGES_MODELS: [&str; 6] = ["sft", "dpo", "grpo", "distill", "merge", "merge_search"];

/// What the evaluations of a pipeline show.
#[derive(Debug, Default)]
pub(super) struct Abilities {
    pub(super) comparisons: Vec<AbilityComparison>,
    pub(super) samples: Vec<SampleTable>,
    /// What could not be read or compared.
    pub(super) remarks: Vec<String>,
}

/// Two evaluations compared.
#[derive(Debug)]
pub(super) struct AbilityComparison {
    /// The stage that is compared with, and the stage.
    pub(super) stages: [String; 2],
    pub(super) lines: Vec<AbilityLine>,
    /// What has to be known to read the lines.
    pub(super) remarks: Vec<String>,
}

/// A metric of a benchmark, over all items or those of a category.
#[derive(Debug, PartialEq)]
pub(super) struct AbilityLine {
    /// On the first line of a benchmark.
    pub(super) task: String,
    pub(super) ability: String,
    pub(super) n: String,
    pub(super) before: String,
    pub(super) before_interval: String,
    pub(super) after: String,
    pub(super) after_interval: String,
    pub(super) change: String,
    pub(super) interval: String,
    pub(super) finding: &'static str,
    pub(super) class: &'static str,
}

/// Items of a benchmark with what each model wrote.
#[derive(Debug)]
pub(super) struct SampleTable {
    pub(super) task: String,
    /// The stages that evaluated the models.
    pub(super) stages: Vec<String>,
    pub(super) rows: Vec<SampleRow>,
}

/// One item.
#[derive(Debug)]
pub(super) struct SampleRow {
    pub(super) prompt: String,
    pub(super) expected: String,
    /// By model.
    pub(super) answers: Vec<SampleAnswer>,
}

/// What a model wrote.
#[derive(Debug)]
pub(super) struct SampleAnswer {
    pub(super) text: String,
    /// The main metric.
    pub(super) score: String,
    /// Style class: right, wrong, or neither.
    pub(super) class: &'static str,
}

/// An evaluation with its results.
struct Evaluated<'a> {
    stage: &'a PipelineStageRecord,
    folder: &'a Path,
    tasks: Vec<TaskRecord>,
    /// Whether no stage before it has changed a model.
    is_start: bool,
}

impl Evaluated<'_> {
    fn has(&self, task: &str) -> bool {
        self.tasks.iter().any(|record| record.task == task)
    }
}

/// Compares all evaluations that have results.
pub(super) fn of_pipeline(record: &PipelineRecord) -> Abilities {
    let mut abilities = Abilities::default();
    let evaluated = evaluated(record, &mut abilities.remarks);
    for (at, after) in evaluated.iter().enumerate() {
        let Some(before) = reference(&evaluated, at) else { continue };
        match RunPair::read(before.folder, after.folder) {
            Ok(pair) => abilities.comparisons.push(comparison([before, after], &pair)),
            Err(error) => abilities.remarks.push(format!(
                "{} and {} are not compared: {}",
                before.stage.name,
                after.stage.name,
                with_causes(&error)
            )),
        }
    }
    abilities.samples = sample_tables(&evaluated, &mut abilities.remarks);
    abilities
}

/// The evaluations that have results, in the order of the pipeline; those of models that no stage has changed first.
fn evaluated<'a>(record: &'a PipelineRecord, remarks: &mut Vec<String>) -> Vec<Evaluated<'a>> {
    let mut found = Vec::new();
    let follow = follow_a_change(record);
    for (idx, stage) in record.stages.iter().enumerate() {
        let Some(folder) = stage.folder.as_deref().filter(|folder| folder.join(RESULTS).is_file()) else {
            continue;
        };
        if !stage.state.has_result() || stage.uses != "evaluate" {
            continue;
        }
        match read_results(folder) {
            Ok(tasks) => {
                found.push(Evaluated { stage, folder, tasks, is_start: !follow[idx] });
            }
            Err(error) => remarks.push(format!("{}: {}", stage.name, with_causes(&error))),
        }
    }
    // Stable: otherwise the order of the pipeline.
    found.sort_by_key(|one| !one.is_start);
    found
}

/// Whether each stage needs one that changes a model, directly or through others. Each needs earlier ones.
fn follow_a_change(record: &PipelineRecord) -> Vec<bool> {
    let mut follow: Vec<bool> = Vec::new();
    for stage in &record.stages {
        let changes = |needed: usize| CHANGES_MODELS.contains(&record.stages[needed].uses.as_str());
        let mut needs = stage.needs.iter().filter(|&&needed| needed < follow.len());
        let follows = needs.any(|&needed| changes(needed) || follow[needed]);
        follow.push(follows);
    }
    follow
}

/// The first evaluation before another one that has a benchmark in common with it.
fn reference<'a, 'b>(evaluated: &'a [Evaluated<'b>], at: usize) -> Option<&'a Evaluated<'b>> {
    let after = &evaluated[at];
    evaluated[..at].iter().find(|before| after.tasks.iter().any(|record| before.has(&record.task)))
}

fn comparison(sides: [&Evaluated<'_>; 2], pair: &RunPair) -> AbilityComparison {
    let with_names = |remark: &String| {
        let named = sides.iter().fold(remark.clone(), |text, side| {
            text.replace(&side.folder.display().to_string(), &format!("`{}`", side.stage.name))
        });
        format!("{named}.")
    };
    AbilityComparison {
        stages: sides.map(|side| side.stage.name.clone()),
        lines: pair.tasks.iter().flat_map(task_lines).collect(),
        remarks: pair.remarks.iter().map(with_names).collect(),
    }
}

/// All metrics of a benchmark, then its main metric by category.
fn task_lines(task: &TaskPair) -> Vec<AbilityLine> {
    let [first, second] = &task.records;
    let whole = task.comparisons.iter().map(|comparison| {
        let key = comparison.metric.key();
        let summaries = [first, second].map(|record| record.summary.metric(&key));
        line(metric_name(&comparison.metric), comparison, summaries)
    });
    let mut lines: Vec<AbilityLine> = whole.collect();
    lines.extend(category_lines(task));
    if let Some(first) = lines.first_mut() {
        first.task.clone_from(&task.records[0].task);
    }
    lines
}

/// The main metric by category.
fn category_lines(task: &TaskPair) -> Vec<AbilityLine> {
    let line_of = |one: CategoryComparison| {
        let CategoryComparison { dimension, category, comparison } = one;
        let key = comparison.metric.key();
        let summary_of = |record: &'_ TaskRecord| -> Option<MetricSummary> {
            let all = record.summary.by_category.get(&dimension)?.get(&category)?;
            all.iter().find(|summary| summary.metric.key() == key).cloned()
        };
        let summaries = task.records.each_ref().map(summary_of);
        line(format!("{dimension}: {category}"), &comparison, summaries.each_ref().map(Option::as_ref))
    };
    compare_categories(task).into_iter().map(line_of).collect()
}

/// `summaries` are those of each run over all of its items: their intervals are shown where these are the items that
/// are compared.
fn line(
    ability: String,
    comparison: &MetricComparison,
    summaries: [Option<&MetricSummary>; 2],
) -> AbilityLine {
    let (finding, class) = match comparison.finding() {
        Finding::SecondBetter => ("better", "good"),
        Finding::FirstBetter => ("worse", "bad"),
        Finding::Unresolved => ("not shown", ""),
    };
    let of_all = |summary: Option<&MetricSummary>| {
        range(summary.filter(|summary| summary.n == comparison.n).and_then(|summary| summary.interval))
    };
    let [before_interval, after_interval] = summaries.map(of_all);
    AbilityLine {
        task: String::new(),
        ability,
        n: grouped(comparison.n),
        before: number(comparison.first),
        before_interval,
        after: number(comparison.second),
        after_interval,
        change: signed(comparison.difference.estimate.mean),
        interval: match comparison.interval() {
            None => "no interval: all differences are equal".to_owned(),
            interval => signed_range(interval),
        },
        finding,
        class,
    }
}

/// The benchmarks that several models were measured on, each with a few items.
fn sample_tables(evaluated: &[Evaluated<'_>], remarks: &mut Vec<String>) -> Vec<SampleTable> {
    let mut tables = Vec::new();
    let mut seen = BTreeSet::new();
    for task in evaluated.iter().flat_map(|one| &one.tasks) {
        let all: Vec<&Evaluated<'_>> = evaluated.iter().filter(|one| one.has(&task.task)).collect();
        if tables.len() >= N_TASKS || all.len() < 2 || !seen.insert(&task.task) {
            continue;
        }
        // The first, and the last of the others.
        let n_skipped = all.len().saturating_sub(N_MODELS);
        let shown: Vec<&Evaluated<'_>> = all.iter().take(1).chain(&all[1 + n_skipped..]).copied().collect();
        match sample_table(task, &shown) {
            Ok(table) => tables.extend(table),
            Err(reason) => remarks.push(reason),
        }
    }
    tables
}

fn sample_table(task: &TaskRecord, shown: &[&Evaluated<'_>]) -> Result<Option<SampleTable>, String> {
    let Some(metric) = task.summary.metrics.first().map(|summary| &summary.metric) else { return Ok(None) };
    let read = |one: &&Evaluated<'_>| {
        let items = read_items(&one.folder.join(items_file(&task.task)));
        items.map_err(|error| format!("{}: {}", one.stage.name, with_causes(&error)))
    };
    let records: Vec<Vec<ItemRecord>> = shown.iter().map(read).collect::<Result<_, _>>()?;
    let items: Vec<Vec<Vec<&ItemRecord>>> = records.iter().map(|records| samples::by_item(records)).collect();
    let places: Vec<BTreeMap<&str, usize>> = items.iter().map(|items| places_of(items)).collect();
    // The places of an item in all runs, with how much the last one is better at it than the first.
    let changes: Vec<(f64, Vec<usize>)> = items[0]
        .iter()
        .filter_map(|first| {
            let id = first[0].item.id.as_str();
            let of_run = |(items, places): (&Vec<Vec<&ItemRecord>>, &BTreeMap<&str, usize>)| {
                let place = *places.get(id)?;
                items[place][0].item.has_same_content(&first[0].item).then_some(place)
            };
            let found: Vec<usize> = items.iter().zip(&places).map(of_run).collect::<Option<_>>()?;
            let of_last = main_value(&items.last()?[*found.last()?], metric);
            let change = main_value(first, metric).zip(of_last).map_or(0.0, |(first, last)| last - first);
            Some((if metric.higher_is_better { change } else { -change }, found))
        })
        .collect();
    let rows: Vec<SampleRow> = most_changed(changes)
        .into_iter()
        .map(|found| {
            let runs: Vec<&Vec<&ItemRecord>> =
                items.iter().zip(found).map(|(items, place)| &items[place]).collect();
            sample_row(metric, &runs, &task.task)
        })
        .collect();
    let stages = shown.iter().map(|one| one.stage.name.clone()).collect();
    Ok((!rows.is_empty()).then(|| SampleTable { task: task.task.clone(), stages, rows }))
}

/// The mean of a metric over the answers to one item.
fn main_value(records: &[&ItemRecord], metric: &MetricInfo) -> Option<f64> {
    let key = metric.key();
    let known = records.iter().filter_map(|record| record.score.measures.get(&key)?.as_ref().ok());
    let (value, weight) =
        known.fold((0.0, 0.0), |(value, weight), one| (value + one.value, weight + one.weight));
    (weight > 0.0).then(|| value / weight)
}

fn places_of<'a>(items: &[Vec<&'a ItemRecord>]) -> BTreeMap<&'a str, usize> {
    items.iter().enumerate().map(|(place, records)| (records[0].item.id.as_str(), place)).collect()
}

/// An item with what each model wrote.
fn sample_row(metric: &MetricInfo, runs: &[&Vec<&ItemRecord>], task: &str) -> SampleRow {
    let sample = samples::sample(0, &[metric], runs, task);
    let text = |value: &Value| beginning(value.as_str().unwrap_or_default().trim());
    let answers = sample["runs"].as_array().into_iter().flatten().map(|run| {
        let value = run["values"][0].as_f64();
        SampleAnswer {
            text: text(&run["answers"][0]["text"]),
            score: value.map_or_else(|| "no score".to_owned(), number),
            class: match (metric.range, value) {
                (Some([_, best]), Some(value)) if metric.higher_is_better && value >= best => "good",
                (Some([worst, _]), Some(value)) if metric.higher_is_better && value <= worst => "bad",
                _ => "",
            },
        }
    });
    SampleRow {
        prompt: text(&sample["prompt"]),
        expected: text(&sample["target"]),
        answers: answers.collect(),
    }
}

/// The items that changed most, better ones first and then the worst; without changes the first ones.
fn most_changed<T>(mut changes: Vec<(f64, T)>) -> Vec<T> {
    changes.sort_by(|one, other| other.0.total_cmp(&one.0));
    let n_worse = changes.iter().rev().take_while(|(change, _)| *change < 0.0).count().min(N_SAMPLES / 2);
    let worst = changes.split_off(changes.len() - n_worse);
    changes.truncate(N_SAMPLES - n_worse);
    changes.into_iter().chain(worst.into_iter().rev()).map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_items_come_first_and_then_the_worst() {
        let changes = |values: &[f64]| most_changed(values.iter().copied().zip(0..).collect::<Vec<_>>());
        assert_eq!(changes(&[0.0, 1.0, -1.0, 0.5, -0.5, 0.0, 0.2]), [1, 3, 6, 2, 4]);
        assert_eq!(changes(&[0.0; 8]), [0, 1, 2, 3, 4], "the first where nothing changed");
        assert_eq!(changes(&[-1.0]), [0]);
    }

    #[test]
    fn the_model_at_the_start_is_compared_with_wherever_it_stands() {
        let stage = |name: &str, uses: &str, needs: &[usize]| PipelineStageRecord {
            name: name.into(),
            uses: uses.into(),
            needs: needs.to_vec(),
            ..PipelineStageRecord::default()
        };
        let record = PipelineRecord {
            stages: vec![
                stage("sft", "sft", &[]),
                stage("review", "gate", &[0]),
                stage("after", "evaluate", &[1]),
                stage("before", "evaluate", &[]),
                stage("selected", "select", &[]),
                stage("other", "evaluate", &[4]),
            ],
            ..PipelineRecord::default()
        };
        assert_eq!(follow_a_change(&record), [false, true, true, false, false, false]);
        // Each stage is needed by two: as many ways as a walk along each of them would not come to the end of.
        let many =
            (0..100).map(|idx: usize| stage("s", "select", &[idx.wrapping_sub(1), idx.wrapping_sub(2)]));
        let record = PipelineRecord { stages: many.collect(), ..PipelineRecord::default() };
        assert!(!follow_a_change(&record).contains(&true));
    }
}
