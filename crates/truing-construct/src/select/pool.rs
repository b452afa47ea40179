//! The pool of prompts and what became of each row.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde_json::{Map, Value};
use truing_data::read_prompts;
use truing_prompts::clean::Cleaner;
use truing_prompts::duplicates::{ExactDuplicates, near_duplicates};
use truing_prompts::tokens::TokenPool;
use truing_run::rows::{prompt_text, value_at};
use truing_run::selection::{DroppedRow, SelectionLayer};
use truing_run::{DataReport, RunError};
use truing_types::{Event, EventSink, PromptRow, RowOrigin};

use super::{SelectConfig, plan};
use crate::StageError;
use crate::sources::Sources;

/// Rows that are cleaned side by side.
const ROWS_AT_A_TIME: usize = 4096;

/// One row that could be read.
#[derive(Debug)]
pub(super) struct PoolRow {
    pub(super) origin: RowOrigin,
    /// Cleaned; as it came where cleaning has dropped it.
    pub(super) text: String,
    pub(super) language: Option<&'static str>,
    /// Value of each of `label_columns`, where the row has one.
    pub(super) labels: Vec<Option<String>>,
    pub(super) quality: Option<f32>,
    pub(super) dropped: Option<DroppedRow>,
}

/// All rows, by number; and those that could not be read.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// `label_columns`.
    pub(super) label_names: Vec<String>,
    pub(super) rows: Vec<PoolRow>,
    /// Whether the recipe names a column for qualities.
    has_qualities: bool,
    /// What became of all rows of the data.
    pub(super) report: DataReport,
    /// What became of all rows of the evaluations.
    pub(super) evaluation_report: DataReport,
}

/// The quality of a row that has none: the last in order.
const NO_QUALITY: f32 = f32::MIN;

/// Reads every source and cleans every prompt.
pub(super) fn read_and_clean(config: &SelectConfig, events: &mut dyn EventSink) -> Result<Pool, StageError> {
    let cleaner = Cleaner::new(config.clean.clone())?;
    let mut pool = Pool {
        label_names: config.label_columns.clone(),
        has_qualities: config.quality_column.is_some(),
        report: DataReport::of("data"),
        ..Pool::default()
    };
    events.emit(Event::PhaseStarted { phase: "reading and cleaning the prompts".into(), total: None });
    for source in &config.data {
        let mut rows = read_prompts(&source.in_folder(&config.data_dir), config.on_bad_row)?;
        loop {
            let read: Vec<(PromptRow, RowOrigin)> =
                rows.by_ref().take(ROWS_AT_A_TIME).collect::<Result<_, _>>()?;
            if read.is_empty() {
                break;
            }
            let cleaned: Vec<_> =
                read.into_par_iter().map(|(row, origin)| clean(&cleaner, config, row, origin)).collect();
            for row in cleaned {
                match row {
                    Ok(row) => pool.rows.push(row),
                    Err(error) => pool.report.skip(config.on_bad_row, error)?,
                }
            }
            events.emit(Event::Progress { done: pool.rows.len() as u64, note: String::new() });
        }
        pool.report.end_source(&rows);
    }
    pool.report.n_rows = pool.rows.len() as u64;
    events.emit(Event::PhaseFinished);
    pool.report.warn("the prompts", events);
    if let Some(column) = &config.quality_column
        && !pool.rows.is_empty()
        && pool.rows.iter().all(|row| row.quality.is_none())
    {
        return Err(RunError::BadSetting {
            key: "quality_column",
            found: format!("`{column}`, which has a value in no row"),
            expected: "a column with numbers".into(),
        }
        .into());
    }
    for missing in pool.missing(config) {
        events.emit(Event::Warning(missing));
    }
    if pool.alive().is_empty() {
        let (n_rows, n_unreadable) = (pool.rows.len(), pool.report.skipped.len());
        return Err(RunError::BadSetting {
            key: "data",
            found: format!(
                "{n_rows} rows, {n_unreadable} of them unreadable, and `[clean]` drops all others{}",
                pool.first_reason()
            ),
            expected: "at least one prompt".into(),
        }
        .into());
    }
    Ok(pool)
}

fn clean(
    cleaner: &Cleaner,
    config: &SelectConfig,
    row: PromptRow,
    origin: RowOrigin,
) -> Result<PoolRow, StageError> {
    let text = prompt_text(&row.prompt);
    let labels = config.label_columns.iter().map(|column| label(&row.columns, column)).collect();
    let quality = match &config.quality_column {
        Some(column) => quality(&row.columns, column, &origin)?,
        None => None,
    };
    let (text, language, dropped) = match cleaner.clean(&text) {
        Ok(prompt) => (prompt.text, prompt.language, None),
        Err(reason) => {
            let layer = SelectionLayer::Cleaning { rule: reason.name().to_owned() };
            let dropped =
                DroppedRow { layer, threshold: None, representative: None, detail: reason.to_string() };
            (text, None, Some(dropped))
        }
    };
    Ok(PoolRow { origin, text, language, labels, quality, dropped })
}

fn label(columns: &Map<String, Value>, path: &str) -> Option<String> {
    match value_at(columns, path)? {
        Value::String(text) => Some(text.clone()),
        // Labels that hold together, as `truing label` writes them, are one.
        Value::Array(labels) if labels.iter().all(Value::is_string) => {
            Some(labels.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" + "))
        }
        other => Some(other.to_string()),
    }
}

/// A row without a value has no quality, as a prompt has that no judge could compare.
fn quality(columns: &Map<String, Value>, path: &str, origin: &RowOrigin) -> Result<Option<f32>, StageError> {
    let Some(found) = value_at(columns, path) else { return Ok(None) };
    match truing_data::number_of(found) {
        // A number that single precision does not hold is still above every row without one.
        Some(quality) => Ok(Some((quality as f32).clamp(NO_QUALITY.next_up(), f32::MAX))),
        None => Err(RunError::BadColumn {
            origin: origin.clone(),
            column: path.to_owned(),
            found: found.to_string(),
            expected: "a number or null (`quality_column`)",
        }
        .into()),
    }
}

impl Pool {
    /// Numbers of the rows that have not been dropped, ascending.
    pub(super) fn alive(&self) -> Vec<u32> {
        let rows = self.rows.iter().enumerate();
        rows.filter(|(_, row)| row.dropped.is_none()).map(|(id, _)| id as u32).collect()
    }

    /// Their qualities, where the recipe names a column for them; rows without one come last.
    pub(super) fn qualities(&self) -> Option<Vec<f32>> {
        let alive = self.rows.iter().filter(|row| row.dropped.is_none());
        self.has_qualities.then(|| alive.map(|row| row.quality.unwrap_or(NO_QUALITY)).collect())
    }

    /// Which columns of the recipe have no value in how many rows, in words.
    pub(super) fn missing(&self, config: &SelectConfig) -> Vec<String> {
        let n_rows = self.rows.len();
        let mut missing = Vec::new();
        let mut say = |column: &str, n: usize, what: &str| {
            if n > 0 {
                missing.push(format!("`{column}` has no value in {n} of {n_rows} rows: {what}"));
            }
        };
        if let Some(column) = &config.quality_column {
            let n = self.rows.iter().filter(|row| row.quality.is_none()).count();
            say(column, n, "they come after every row with a quality");
        }
        for (idx, column) in config.label_columns.iter().enumerate() {
            let n = self.rows.iter().filter(|row| row.labels[idx].is_none()).count();
            let has_quotas = config.selection.quota_column.as_ref() == Some(column);
            let what = if has_quotas { "no quota has room for them" } else { "they have no label" };
            say(column, n, what);
        }
        missing
    }

    /// Drops rows.
    pub(super) fn apply(&mut self, dropped: BTreeMap<u32, DroppedRow>) {
        for (id, dropped) in dropped {
            self.rows[id as usize].dropped = Some(dropped);
        }
    }

    /// Of equal texts the one of the highest quality stays, then the first.
    pub(super) fn drop_exact_duplicates(&mut self) {
        let (mut seen, alive) = (ExactDuplicates::default(), self.alive());
        // Rows with the text of an earlier one, by that row.
        let mut equal: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for &id in &alive {
            if let Some(first) = seen.insert(&self.rows[id as usize].text) {
                equal.entry(alive[first as usize]).or_default().push(id);
            }
        }
        let quality = |id: u32| self.rows[id as usize].quality.unwrap_or(NO_QUALITY);
        let mut dropped = BTreeMap::new();
        for (first, others) in equal {
            let best =
                others.iter().fold(first, |best, &id| if quality(id) > quality(best) { id } else { best });
            for id in std::iter::once(first).chain(others).filter(|&id| id != best) {
                dropped.insert(id, standing_in(SelectionLayer::ExactDuplicate, None, best, String::new()));
            }
        }
        self.apply(dropped);
    }

    /// Rows that hold text of an evaluation go: of those that come with the program, and of the recipe's.
    pub(super) fn drop_contaminated(
        &mut self,
        config: &SelectConfig,
        events: &mut dyn EventSink,
    ) -> Result<(), StageError> {
        events.emit(Event::PhaseStarted {
            phase: "decontaminating against evaluation sets".into(),
            total: None,
        });
        let SelectConfig { evaluation_data: data, data_dir, on_bad_row, .. } = config;
        let sources = Sources { data, data_dir, on_bad_row: *on_bad_row };
        let (index, report) = sources.evaluation_index(plan::decontamination_options(config))?;
        self.evaluation_report = report;
        let alive = self.alive();
        let found: Vec<_> = alive.par_iter().map(|&id| index.find(&self.rows[id as usize].text)).collect();
        let dropped = alive.iter().zip(found).filter_map(|(&id, found)| {
            let found = found?;
            let layer = SelectionLayer::Contaminated { evaluation_file: found.evaluation };
            let detail = format!("item {}: {}", found.item + 1, found.words);
            let threshold = Some(config.decontamination.ngram_words as f64);
            Some((id, DroppedRow { layer, threshold, representative: None, detail }))
        });
        self.apply(dropped.collect());
        events.emit(Event::PhaseFinished);
        self.evaluation_report.warn("the evaluations", events);
        if self.alive().is_empty() {
            return Err(RunError::BadSetting {
                key: "data",
                found: format!(
                    "{} prompts, all of which overlap evaluation data{}",
                    self.rows.len(),
                    self.first_reason()
                ),
                expected: "at least one prompt that does not overlap it".into(),
            }
            .into());
        }
        Ok(())
    }

    /// Of nearly equal texts the best stays. Hands back the words of what is left.
    pub(super) fn drop_near_duplicates(
        &mut self,
        config: &SelectConfig,
        events: &mut dyn EventSink,
    ) -> Result<TokenPool, StageError> {
        events.emit(Event::PhaseStarted { phase: "looking for near duplicates".into(), total: None });
        let alive = self.alive();
        let texts = alive.iter().map(|&id| &self.rows[id as usize].text);
        let mut tokens = TokenPool::of(texts)?;
        let options = plan::near_duplicate_options(config);
        let found = near_duplicates(&tokens, self.qualities().as_deref(), &options)?;
        let mut dropped = BTreeMap::new();
        for near in &found {
            let (layer, detail) = (SelectionLayer::NearDuplicate, format!("Jaccard {:.3}", near.jaccard));
            let representative = alive[near.representative as usize];
            let reason = standing_in(layer, Some(options.threshold), representative, detail);
            dropped.insert(alive[near.row as usize], reason);
        }
        self.apply(dropped);
        tokens.retain(|row| self.rows[alive[row] as usize].dropped.is_none());
        events.emit(Event::PhaseFinished);
        Ok(tokens)
    }

    fn first_reason(&self) -> String {
        let first = self.rows.iter().find_map(|row| Some((&row.origin, row.dropped.as_ref()?)));
        first.map_or_else(String::new, |(origin, dropped)| {
            format!(" (the first, {origin}: {}; {})", dropped.layer, dropped.detail)
        })
    }
}

/// A row that another one represents.
pub(super) fn standing_in(
    layer: SelectionLayer,
    threshold: Option<f64>,
    representative: u32,
    detail: String,
) -> DroppedRow {
    DroppedRow { layer, threshold, representative: Some(u64::from(representative)), detail }
}
