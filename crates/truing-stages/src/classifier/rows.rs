//! Rows with what is known of them: labels by dimension, scores, and how certain they are.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value};
use truing_data::{SourceConfig, SourceRange, read_prompts};
use truing_run::rows::{prompt_text, text_key, value_at};
use truing_run::{DataReport, RunError, unread_parts};
use truing_types::{Event, EventSink, RowOrigin};

use super::ClassifierConfig;
use super::label_names::LabelNames;
use crate::StageError;
use crate::training::TrainingConfig;

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LabelledRow {
    pub(super) text: String,
    pub(super) origin: RowOrigin,
    /// Rows with equal keys are on one side of a split.
    pub(super) key: u64,
    /// Labels by dimension, where they are known; a dimension of several labels may have none.
    pub(super) labels: BTreeMap<String, Vec<String>>,
    pub(super) scores: BTreeMap<String, f64>,
    /// Of dimensions and scores.
    pub(super) confidence: BTreeMap<String, f64>,
}

/// All rows of some sources.
#[derive(Debug, Default)]
pub(super) struct LabelledRows {
    pub(super) rows: Vec<LabelledRow>,
    /// The sources, each a range of rows.
    pub(super) sources: Vec<SourceRange>,
    /// What became of all rows of the files.
    pub(super) report: DataReport,
}

impl LabelledRows {
    /// Reads every source of `sources`.
    pub(super) fn read(
        config: &TrainingConfig,
        settings: &ClassifierConfig,
        labels: &LabelNames,
        sources: &[SourceConfig],
        role: &'static str,
        what: &str,
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        events.emit(Event::PhaseStarted { phase: format!("reading {what}"), total: None });
        let mut all = Self { report: DataReport::of(role), ..Self::default() };
        for source in sources {
            let source = source.in_folder(&config.data_dir);
            let first = all.rows.len();
            let mut rows = read_prompts(&source, config.on_bad_row)?;
            for row in &mut rows {
                let (row, origin) = row?;
                for remark in unread_parts(&row.prompt) {
                    all.report.note(remark, &origin);
                }
                match settings.row(labels, prompt_text(&row.prompt), &row.columns, origin) {
                    Ok(row) => all.rows.push(row),
                    Err(error) => all.report.skip(config.on_bad_row, error)?,
                }
                if all.rows.len().is_multiple_of(256) {
                    events.emit(Event::Progress { done: all.rows.len() as u64, note: String::new() });
                }
            }
            all.report.end_source(&rows);
            all.sources.push(SourceRange {
                name: source.path.to_string_lossy().into(),
                sampling_weight: source.weight,
                samples: first..all.rows.len(),
            });
        }
        all.report.n_rows = all.rows.len() as u64;
        events.emit(Event::PhaseFinished);
        all.report.warn(what, events);
        Ok(all)
    }

    /// Some of them, by ascending number.
    pub(super) fn chosen(&self, numbers: &[u32]) -> Self {
        let rows = numbers.iter().map(|&i| self.rows[i as usize].clone()).collect();
        let range = |samples: &Range<usize>| {
            let before = |end: usize| numbers.partition_point(|&i| (i as usize) < end);
            before(samples.start)..before(samples.end)
        };
        let sources = self.sources.iter().map(|source| SourceRange {
            samples: range(&source.samples),
            name: Arc::clone(&source.name),
            sampling_weight: source.sampling_weight,
        });
        Self { rows, sources: sources.collect(), report: self.report.clone() }
    }
}

impl ClassifierConfig {
    /// Whether `labels` is looked at.
    fn reads_labels(&self) -> bool {
        !self.dimensions.is_empty() || (self.columns.is_empty() && self.scores.is_empty())
    }

    fn row(
        &self,
        names: &LabelNames,
        text: String,
        columns: &Map<String, Value>,
        origin: RowOrigin,
    ) -> Result<LabelledRow, StageError> {
        let mut labels = BTreeMap::new();
        if self.reads_labels() {
            let found = match columns.get("labels") {
                None | Some(Value::Null) => None,
                Some(Value::Object(by_dimension)) => Some(by_dimension),
                Some(other) => {
                    let expected = "an object of labels by dimension";
                    return Err(bad_column(&origin, "labels", Some(other), expected));
                }
            };
            for (name, value) in found.into_iter().flatten() {
                if self.dimensions.is_empty() || self.dimensions.contains(name) {
                    let path = format!("labels.{name}");
                    let found = labels_of(&origin, &path, value)?;
                    labels.extend(
                        names.of_dimension(&origin, &path, name, found)?.map(|labels| (name.clone(), labels)),
                    );
                }
            }
        }
        for (name, path) in &self.columns {
            if let Some(value) = value_at(columns, path) {
                let found = labels_of(&origin, path, value)?;
                labels.extend(
                    names.of_dimension(&origin, path, name, found)?.map(|labels| (name.clone(), labels)),
                );
            }
        }
        let number = |path: &str| match value_at(columns, path) {
            None => Ok(None),
            Some(value) => match truing_data::number_of(value) {
                Some(number) => Ok(Some(number)),
                None => Err(bad_column(&origin, path, Some(value), "a number")),
            },
        };
        let mut scores = BTreeMap::new();
        for (name, path) in &self.scores {
            scores.extend(number(path)?.map(|score| (name.clone(), score)));
        }
        let mut confidence = BTreeMap::new();
        for name in labels.keys().chain(scores.keys()) {
            let own = self.confidences.get(name);
            let path = own.cloned().unwrap_or_else(|| format!("confidence.{name}"));
            confidence.extend(number(&path)?.map(|confidence| (name.clone(), confidence)));
        }
        let key = match &self.group_column {
            None => text_key(&text),
            Some(path) => match value_at(columns, path) {
                Some(value) => text_key(&value.to_string()),
                None => {
                    return Err(bad_column(&origin, path, None, "what rows are grouped by (`group_column`)"));
                }
            },
        };
        Ok(LabelledRow { text, origin, key, labels, scores, confidence })
    }
}

/// A label, a list of them, or nothing that is known; as they are written.
fn labels_of(origin: &RowOrigin, path: &str, value: &Value) -> Result<Option<Vec<String>>, StageError> {
    let label = |value: &Value| match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    let found = match value {
        Value::Null => return Ok(None),
        Value::Array(list) => list.iter().map(label).collect::<Option<Vec<String>>>(),
        one => label(one).map(|one| vec![one]),
    };
    match found {
        None => Err(bad_column(origin, path, Some(value), "a label or a list of labels")),
        // An empty string is how tables say that nothing is known.
        Some(labels) if labels.iter().any(String::is_empty) => Ok(None),
        labels => Ok(labels),
    }
}

fn bad_column(origin: &RowOrigin, column: &str, found: Option<&Value>, expected: &'static str) -> StageError {
    RunError::BadColumn {
        origin: origin.clone(),
        column: column.to_owned(),
        found: found.map_or("missing".to_owned(), Value::to_string),
        expected,
    }
    .into()
}
