//! The page of an evaluation: what `templates/evaluation.html` is filled with.

use askama::Template;
use serde_json::{Value, json};
use truing_eval::benchmarks::{JudgeQuality, MetricInfo, MetricSummary, ScoringMode};
use truing_eval::results::{ItemRecord, TaskRecord, items_file};

use super::charts::{self, TaskChart};
use super::samples;
use super::text::{grouped, maybe, metric_name, range};
use super::{Facts, samples_of_a_task};
use crate::ReportError;
use crate::html::json_for_script;

/// `templates/evaluation.html`.
#[derive(Template)]
#[template(path = "evaluation.html")]
struct Page<'a> {
    title: String,
    /// The model's path, where the title is a part of it.
    path: &'a str,
    has_unscored: bool,
    summary: String,
    facts: Vec<(&'static str, String)>,
    scores: Vec<ScoreLine>,
    tasks: Vec<TaskSection<'a>>,
    recipe: &'a str,
    charts_json: String,
    samples_json: String,
}

/// One metric in the table.
struct ScoreLine {
    /// On the first line of a task.
    task: String,
    metric: String,
    value: String,
    interval: String,
    n: String,
    unscored: String,
    bounds: String,
}

impl ScoreLine {
    fn new(task: String, summary: &MetricSummary) -> Self {
        let n_unscored = summary.n_unscored();
        let reasons: Vec<String> = summary
            .unscored
            .iter()
            .map(|(reason, n)| format!("{} {}", grouped(*n), reason.replace('_', " ")))
            .collect();
        Self {
            task,
            metric: metric_name(&summary.metric),
            value: maybe(summary.value),
            interval: match summary.has_equal_scores() {
                true => "none: all scores are equal".to_owned(),
                false => range(summary.interval),
            },
            n: match summary.n_clusters {
                n_clusters if n_clusters > 0 && n_clusters < summary.n => {
                    format!("{} in {} clusters", grouped(summary.n), grouped(n_clusters))
                }
                _ => grouped(summary.n),
            },
            unscored: if n_unscored == 0 { String::new() } else { reasons.join(", ") },
            bounds: range(summary.bounds),
        }
    }
}

struct TaskSection<'a> {
    name: &'a str,
    facts: Vec<(&'static str, String)>,
    notes: Vec<String>,
    differences: &'a [String],
    charts: Vec<TaskChart>,
    /// Dimension, category and metric.
    categories: Vec<[String; 6]>,
}

pub(super) fn render(
    facts: &Facts,
    tasks: &[(TaskRecord, Vec<ItemRecord>)],
    recipe: &str,
) -> Result<String, ReportError> {
    let n_shown = samples_of_a_task(tasks.len());
    let (mut of_tasks, mut shown) = (Vec::new(), Vec::new());
    for (number, (record, items)) in tasks.iter().enumerate() {
        let metrics: Vec<&MetricInfo> =
            record.summary.metrics.iter().map(|summary| &summary.metric).collect();
        let items = samples::by_item(items);
        let places = samples::evenly_spaced(items.len(), n_shown);
        let rule = samples::rule(places.len(), items.len(), &items_file(&record.task));
        of_tasks.push(samples::task_json(&record.task, &metrics, &rule));
        shown.extend(
            places.iter().map(|&place| samples::sample(number, &metrics, &[&items[place]], &record.task)),
        );
    }
    let sections: Vec<TaskSection<'_>> =
        tasks.iter().enumerate().map(|(number, (record, _))| section(number, record)).collect();
    let figures: Vec<Value> = sections
        .iter()
        .flat_map(|section| &section.charts)
        .map(|chart| Ok(json!({ "id": chart.id, "figure": serde_json::to_value(&chart.figure)? })))
        .collect::<Result<_, ReportError>>()?;
    let n_items: usize = tasks.iter().map(|(record, _)| record.summary.n_items).sum();
    let names: Vec<&str> = tasks.iter().map(|(record, _)| record.task.as_str()).collect();
    let title = match facts.model_name.as_str() {
        "" => "evaluation".to_owned(),
        name => short_name(name),
    };
    let page = Page {
        path: if title == facts.model_name { "" } else { &facts.model_name },
        title,
        has_unscored: tasks.iter().any(|(record, _)| has_unscored(record)),
        summary: format!("{} items on {}.", grouped(n_items), names.join(", ")),
        facts: run_facts(facts),
        scores: tasks.iter().flat_map(|(record, _)| score_lines(record)).collect(),
        tasks: sections,
        recipe,
        charts_json: json_for_script(&Value::Array(figures)),
        samples_json: json_for_script(&json!({ "sides": [""], "tasks": of_tasks, "samples": shown })),
    };
    Ok(page.render()?)
}

fn has_unscored(record: &TaskRecord) -> bool {
    record.summary.metrics.iter().any(|summary| summary.n_unscored() > 0)
}

/// The last part of a path; of a folder called `model`, as runs save it, the run's too. Other names as they are.
fn short_name(name: &str) -> String {
    let path = std::path::Path::new(name);
    if !path.is_absolute() && !name.starts_with('.') {
        return name.to_owned();
    }
    let parts: Vec<String> = path
        .components()
        .rev()
        .take(if path.ends_with("model") { 2 } else { 1 })
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("/")
}

fn run_facts(facts: &Facts) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if !facts.model_source.is_empty() && facts.model_source != "truing" {
        found.push(("server", facts.model_source.clone()));
    }
    if let Some(seconds) =
        facts.total_evaluation_time_seconds.as_deref().and_then(|text| text.parse::<f64>().ok())
    {
        found.push((
            "time",
            if seconds < 100.0 { format!("{seconds:.1} s") } else { format!("{:.1} min", seconds / 60.0) },
        ));
    }
    found.push((
        "chat template",
        if facts.chat_template.is_some() { "applied" } else { "not applied here" }.into(),
    ));
    if let Some(system) = &facts.system_instruction {
        found.push(("system prompt", system.clone()));
    }
    found.push(("seed", facts.config.random_seed.to_string()));
    if !facts.git_hash.is_empty() {
        found.push(("program", facts.git_hash.clone()));
    }
    found
}

fn score_lines(record: &TaskRecord) -> impl Iterator<Item = ScoreLine> {
    record.summary.metrics.iter().enumerate().map(|(place, summary)| {
        let task = if place == 0 { record.task.clone() } else { String::new() };
        ScoreLine::new(task, summary)
    })
}

fn section(number: usize, record: &TaskRecord) -> TaskSection<'_> {
    let summary = &record.summary;
    let mut facts = vec![("file", record.file.path.display().to_string())];
    facts.push(match &record.file.known_as {
        Some(known) => ("published as", known.clone()),
        None => ("SHA-256", record.file.sha256.chars().take(16).collect::<String>() + "…"),
    });
    facts.push((
        "solved examples",
        match record.mean_shots {
            Some(mean) => format!("{} or more, {mean:.2} on average", record.n_shots),
            None => record.n_shots.to_string(),
        },
    ));
    if let Some(judge) = record.judge() {
        facts.push(("judge", judge.to_owned()));
    }
    let mode = match record.mode {
        ScoringMode::Strict => "strict",
        ScoringMode::Official => "official",
    };
    facts.push(("scoring", mode.to_owned()));
    if summary.n_items < record.n_items_in_file {
        facts.push((
            "items",
            format!("{} of {} rows", grouped(summary.n_items), grouped(record.n_items_in_file)),
        ));
    }
    let categories = summary.by_category.iter().flat_map(|(dimension, categories)| {
        categories.iter().flat_map(move |(category, metrics)| {
            metrics.iter().map(move |summary| {
                let line = ScoreLine::new(String::new(), summary);
                [
                    format!("{dimension}: {category}"),
                    line.metric,
                    line.value,
                    line.interval,
                    line.n,
                    line.unscored,
                ]
            })
        })
    });
    TaskSection {
        name: &record.task,
        facts,
        notes: notes(record),
        differences: &record.differences,
        charts: charts::categories(number, &[(&record.task, summary)]),
        categories: categories.collect(),
    }
}

/// What has to be known to read the scores.
fn notes(record: &TaskRecord) -> Vec<String> {
    let summary = &record.summary;
    let n_unread = summary.n_unread_of_main();
    let n_replies = grouped(summary.n_replies());
    let mut notes = Vec::new();
    if n_unread > 0 {
        notes.push(format!(
            "No answer could be read out of {} of {n_replies} replies; they count as wrong.",
            grouped(n_unread)
        ));
    }
    if summary.n_cut > 0 {
        notes.push(format!(
            "{} of {n_replies} replies were cut at their token limit.",
            grouped(summary.n_cut)
        ));
    }
    let judge = summary.judge.as_ref();
    notes.extend(judge.into_iter().flat_map(JudgeQuality::remarks).map(sentence));
    let of_judge = judge.and_then(|judge| judge.repeat).map(|repeat| repeat.variance);
    if let Some(main) = summary.metrics.first() {
        notes.extend(
            main.variance_remark(of_judge)
                .map(|remark| sentence(format!("{}: {remark}", metric_name(&main.metric)))),
        );
    }
    notes
}

/// With a large first letter and a full stop.
fn sentence(text: String) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}
