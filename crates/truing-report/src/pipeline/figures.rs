//! The main figure of a stage: what its result says first, with its interval where the run has what that needs.

use std::collections::BTreeMap;
use std::path::Path;

use truing_eval::results::{RESULTS, read_results};
use truing_run::selection::SelectionSummary;

use super::PipelineStageRecord;
use crate::ReportError;
use crate::evaluation::text::{grouped, maybe, metric_name, number, range};
use crate::outcome::{self, Outcome};
use crate::run_record::{RunRecord, StageRecord, read_json};

/// Figures of a stage that keeps no record of its own.
const N_FIGURES: usize = 3;

/// What a stage says first.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct MainFigure {
    /// What was measured.
    pub(super) measure: String,
    /// Its value, or the values before and after.
    pub(super) value: String,
    /// The interval, of the value or of the change.
    pub(super) interval: String,
    /// What it shows; empty where that is no question.
    pub(super) finding: &'static str,
    /// Style class of the finding.
    pub(super) class: &'static str,
}

impl MainFigure {
    /// In one line, for a box of the graph.
    pub(super) fn line(&self) -> String {
        let shown = if self.value.is_empty() { &self.interval } else { &self.value };
        format!("{} {shown}", self.measure).trim().to_owned()
    }
}

/// A stage's result, read.
#[derive(Debug, Default)]
pub(super) struct StageResult {
    pub(super) figure: Option<MainFigure>,
    /// The record of a run that trained.
    pub(super) run: Option<StageRecord>,
    /// Why the result cannot be read.
    pub(super) problem: Option<String>,
}

/// Reads the result of a stage.
pub(super) fn read(stage: &PipelineStageRecord) -> StageResult {
    let mut result = StageResult::default();
    match stage
        .folder
        .as_deref()
        .filter(|_| stage.state.has_result())
        .map(|folder| read_folder(stage, folder))
    {
        None => {}
        Some(Ok((figure, run))) => (result.figure, result.run) = (figure, run),
        Some(Err(error)) => result.problem = Some(error.to_string()),
    }
    if result.figure.is_none() {
        result.figure = of_figures(&stage.figures);
    }
    result
}

type Read = (Option<MainFigure>, Option<StageRecord>);

fn read_folder(stage: &PipelineStageRecord, folder: &Path) -> Result<Read, ReportError> {
    if folder.join(RESULTS).is_file() {
        return Ok((of_evaluation(folder)?, None));
    }
    if stage.uses == "select" {
        return Ok((of_selection(folder)?, None));
    }
    if !folder.join("metrics.jsonl").is_file() {
        return Ok((None, None));
    }
    let run = RunRecord::read(folder)?.stages.into_iter().next();
    let outcome = run.as_ref().and_then(|run| outcome::of_stage(run).into_iter().next());
    Ok((outcome.as_ref().map(of_outcome), run))
}

/// The first outcome of a run that trained.
fn of_outcome(outcome: &Outcome) -> MainFigure {
    let (before, after) = (outcome.before.map(|(value, _)| outcome.unit.text(value)), outcome.after_text());
    let interval = outcome.change_text();
    let value = match before {
        Some(before) => format!("{before} → {after}"),
        None => String::new(),
    };
    MainFigure {
        measure: outcome.measure.clone(),
        value,
        interval: if interval.is_empty() { interval } else { format!("change {interval}") },
        finding: outcome.words(),
        class: outcome.class(),
    }
}

/// The first metric of the first benchmark.
fn of_evaluation(folder: &Path) -> Result<Option<MainFigure>, ReportError> {
    let tasks = read_results(folder)?;
    let first = tasks.first().and_then(|task| Some((task, task.summary.metrics.first()?)));
    Ok(first.map(|(task, summary)| {
        let more = match tasks.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        MainFigure {
            measure: format!("{} {}{more}", task.task, metric_name(&summary.metric)),
            value: maybe(summary.value),
            interval: range(summary.interval),
            ..MainFigure::default()
        }
    }))
}

fn of_selection(folder: &Path) -> Result<Option<MainFigure>, ReportError> {
    let summary: Option<SelectionSummary> = read_json(&folder.join(SelectionSummary::FILE_NAME))?;
    let count = |n: u64| grouped(usize::try_from(n).unwrap_or(usize::MAX));
    Ok(summary.map(|summary| MainFigure {
        measure: "prompts kept".into(),
        value: format!("{} of {}", count(summary.n_kept), count(summary.n_rows)),
        ..MainFigure::default()
    }))
}

/// The first figures of a stage, counts before others.
fn of_figures(figures: &BTreeMap<String, f64>) -> Option<MainFigure> {
    // The size of the outputs has a column of its own.
    let is_shown = |name: &&String| figures[*name].is_finite() && name.as_str() != "bytes";
    let mut names: Vec<&String> = figures.keys().filter(is_shown).collect();
    names.sort_by_key(|name| !name.starts_with("n_"));
    let shown = names.into_iter().take(N_FIGURES).map(|name| {
        let value = figures[name];
        let value = match value.fract() == 0.0 && (0.0..1e15).contains(&value) {
            true => grouped(value as usize),
            false => number(value),
        };
        format!("{} {value}", name.strip_prefix("n_").unwrap_or(name).replace('_', " "))
    });
    let value = shown.collect::<Vec<_>>().join(", ");
    (!value.is_empty()).then(|| MainFigure { value, ..MainFigure::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_before_other_figures() {
        let figures =
            [("cost", 0.25), ("n_rows", 12_000.0), ("bad", f64::NAN), ("n_kept_rows", 3.0), ("zeta", 1.5)];
        let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
        let shown = of_figures(&figures).unwrap();
        assert_eq!(shown.line(), "kept rows 3, rows 12,000, cost 0.250");
        assert_eq!(of_figures(&BTreeMap::new()), None);
        assert_eq!(of_figures(&[("bytes".to_owned(), 538.0)].into()), None);
    }
}
