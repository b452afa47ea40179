//! The pool of prompts and what became of each row.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde_json::{Map, Value};
use truing_data::read_prompts;
use truing_prompts::clean::Cleaner;
use truing_prompts::decontamination::EvaluationIndex;
use truing_prompts::duplicates::{ExactDuplicates, near_duplicates};
use truing_prompts::tokens::TokenPool;
use truing_types::{DroppedRow, Event, EventSink, PromptRow, RowOrigin, SelectionLayer};

use super::{SelectConfig, plan};
use crate::StageError;
use crate::evaluations::SHIPPED;
use crate::rows::{prompt_text, value_at};

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
    /// As far as they are listed.
    pub(super) unreadable: Vec<(RowOrigin, String)>,
    pub(super) n_unreadable: u64,
}

/// Reads every source and cleans every prompt.
pub(super) fn read_and_clean(config: &SelectConfig, events: &mut dyn EventSink) -> Result<Pool, StageError> {
    let cleaner = Cleaner::new(config.clean.clone())?;
    let mut pool = Pool { label_names: config.label_columns.clone(), ..Pool::default() };
    events.emit(Event::PhaseStarted { phase: "reading and cleaning the prompts".into(), total: None });
    for source in &config.data {
        let mut rows = read_prompts(&config.source(source), config.on_bad_row)?;
        loop {
            let read: Vec<(PromptRow, RowOrigin)> =
                rows.by_ref().take(ROWS_AT_A_TIME).collect::<Result<_, _>>()?;
            if read.is_empty() {
                break;
            }
            let cleaned: Vec<_> =
                read.into_par_iter().map(|(row, origin)| clean(&cleaner, config, row, origin)).collect();
            for row in cleaned {
                pool.rows.push(row?);
            }
            events.emit(Event::Progress { done: pool.rows.len() as u64, note: String::new() });
        }
        let skipped = rows.skipped();
        pool.n_unreadable += skipped.n_rows;
        pool.unreadable.extend(skipped.rows.iter().map(|row| (row.origin.clone(), row.problem.to_string())));
    }
    events.emit(Event::PhaseFinished);
    if pool.n_unreadable > 0 {
        let n = pool.n_unreadable;
        events.emit(Event::Warning(format!("{n} rows cannot be read and are left out")));
    }
    if pool.alive().is_empty() {
        let (n_rows, n_unreadable) = (pool.rows.len(), pool.n_unreadable);
        return Err(StageError::BadSetting {
            key: "data",
            found: format!(
                "{n_rows} rows, {n_unreadable} of them unreadable, and none that `clean` lets pass{}",
                pool.first_reason()
            ),
            expected: "at least one prompt".into(),
        });
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
        Some(column) => Some(quality(&row.columns, column, &origin)?),
        None => None,
    };
    let (text, language, dropped) = match cleaner.clean(&text) {
        Ok(prompt) => (prompt.text, prompt.language, None),
        Err(reason) => {
            let layer = SelectionLayer::Cleaning { rule: reason.name().to_owned() };
            let dropped = DroppedRow { layer, threshold: None, stand_in: None, detail: reason.to_string() };
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

fn quality(columns: &Map<String, Value>, path: &str, origin: &RowOrigin) -> Result<f32, StageError> {
    let found = value_at(columns, path);
    match found.and_then(Value::as_f64) {
        Some(quality) => Ok(quality as f32),
        None => Err(StageError::BadColumn {
            origin: origin.clone(),
            column: path.to_owned(),
            found: found.map_or("nothing".to_owned(), Value::to_string),
            expected: "a number (`quality_column`)",
        }),
    }
}

impl Pool {
    /// Numbers of the rows that have not been dropped, ascending.
    pub(super) fn alive(&self) -> Vec<u32> {
        let rows = self.rows.iter().enumerate();
        rows.filter(|(_, row)| row.dropped.is_none()).map(|(id, _)| id as u32).collect()
    }

    /// Their qualities, where the recipe names a column for them.
    pub(super) fn qualities(&self) -> Option<Vec<f32>> {
        let alive = self.rows.iter().filter(|row| row.dropped.is_none());
        alive.map(|row| row.quality).collect()
    }

    /// Drops rows.
    pub(super) fn apply(&mut self, dropped: BTreeMap<u32, DroppedRow>) {
        for (id, dropped) in dropped {
            self.rows[id as usize].dropped = Some(dropped);
        }
    }

    /// The first of equal texts stays.
    pub(super) fn drop_exact_duplicates(&mut self) {
        let (mut seen, alive) = (ExactDuplicates::default(), self.alive());
        let mut dropped = BTreeMap::new();
        for &id in &alive {
            if let Some(first) = seen.insert(&self.rows[id as usize].text) {
                dropped.insert(
                    id,
                    standing_in(SelectionLayer::ExactDuplicate, None, alive[first as usize], String::new()),
                );
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
        events.emit(Event::PhaseStarted { phase: "looking for text of evaluations".into(), total: None });
        let mut index = EvaluationIndex::new(plan::decontamination_options(config))?;
        for shipped in SHIPPED {
            index.add(shipped.name, shipped.questions()?)?;
        }
        for source in &config.evaluation_data {
            let source = config.source(source);
            let rows = read_prompts(&source, config.on_bad_row)?;
            let texts =
                rows.map(|row| Ok(prompt_text(&row?.0.prompt))).collect::<Result<Vec<_>, StageError>>()?;
            index.add(&source.path.to_string_lossy(), texts)?;
        }
        let alive = self.alive();
        let found: Vec<_> = alive.par_iter().map(|&id| index.find(&self.rows[id as usize].text)).collect();
        let dropped = alive.iter().zip(found).filter_map(|(&id, found)| {
            let found = found?;
            let layer = SelectionLayer::Contaminated { evaluation_file: found.evaluation };
            let detail = format!("item {}: {}", found.item + 1, found.words);
            let threshold = Some(config.decontamination.ngram_words as f64);
            Some((id, DroppedRow { layer, threshold, stand_in: None, detail }))
        });
        self.apply(dropped.collect());
        events.emit(Event::PhaseFinished);
        if self.alive().is_empty() {
            return Err(StageError::BadSetting {
                key: "data",
                found: format!(
                    "{} prompts, of which evaluations leave none{}",
                    self.rows.len(),
                    self.first_reason()
                ),
                expected: "at least one prompt that stays".into(),
            });
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
            let stand_in = alive[near.stand_in as usize];
            let reason = standing_in(layer, Some(options.threshold), stand_in, detail);
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

/// A row that another one stands for.
pub(super) fn standing_in(
    layer: SelectionLayer,
    threshold: Option<f64>,
    stand_in: u32,
    detail: String,
) -> DroppedRow {
    DroppedRow { layer, threshold, stand_in: Some(u64::from(stand_in)), detail }
}
