//! What a recipe names on disk: the model's files, and the data read, rendered and tokenized.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::sync::Arc;

use truing_data::{Dataset, DatasetBuilder, HeldOut, LongSampleReport, OnBadRow, SourceConfig, read_rows};
use truing_model::ModelFiles;
use truing_store::{Digest, RunInputs};
use truing_text::{ChatRenderer, RenderNote, RenderOptions, TextError};
use truing_types::{Event, EventSink, RowOrigin, Seed, TrainingRow};

use crate::StageError;
use crate::training::{TrainingConfig, TrainingInputs, opening};

/// Rows rendered at a time, on all threads.
const ROWS_AT_A_TIME: usize = 2048;
/// Skipped rows listed by name; all are counted.
const MAX_LISTED_ROWS: usize = 1000;

/// Everything a plan looks at.
#[derive(Debug)]
pub struct SftInputs {
    /// The model, not loaded yet.
    pub model: ModelFiles,
    /// Its tokenizer and template.
    pub renderer: ChatRenderer,
    /// What is trained on.
    pub train: Dataset,
    /// What is evaluated on, if anything.
    pub eval: Option<Dataset>,
    /// What became of the rows of `train`.
    pub train_report: DataReport,
    /// What became of the rows of `eval`, where they are files of their own.
    pub eval_report: Option<DataReport>,
    /// Versions, seeds and digests of all files.
    pub record: RunInputs,
}

/// What became of the rows of some files.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DataReport {
    /// Rows used.
    pub n_rows: u64,
    /// Rows skipped because they could not be read or rendered.
    pub n_skipped: u64,
    /// The first thousand of them, with their reasons.
    pub skipped: Vec<String>,
    /// Samples that were too long, or carry no loss.
    pub long: LongSampleReport,
    /// Remarks of the renderer, with the number of rows each holds for.
    pub notes: BTreeMap<String, u64>,
    /// The files read.
    pub files: BTreeSet<Arc<str>>,
}

impl SftInputs {
    /// Opens the model and reads, renders and tokenizes the data. Problems of single rows are also emitted as
    /// warnings.
    ///
    /// # Errors
    /// When the model is unusable, or a row is and `on_bad_row` is `error`.
    pub fn load(
        config: &TrainingConfig,
        options: RenderOptions,
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        config.refuse_tables_but("")?;
        let (model, renderer) = opening::open(config, options)?;
        let (mut train, train_report) = read(config, &config.data, &renderer, "the training data", events)?;
        let (mut eval, mut eval_report) = (None, None);
        if config.eval_fraction > 0.0 {
            let split = train.split(HeldOut::Fraction(config.eval_fraction), Seed(config.seed));
            train = split.0;
            eval = Some(split.1).filter(|held_out| held_out.n_samples() > 0);
        } else if !config.eval_data.is_empty() {
            let found = read(config, &config.eval_data, &renderer, "the evaluation data", events)?;
            (eval, eval_report) = (Some(found.0), Some(found.1));
        }
        for dataset in iter::once(&train).chain(&eval) {
            check_tokens(dataset, model.spec.vocab_size)?;
        }
        let eval_files = eval_report.as_ref().map(|report| &report.files);
        let record = opening::record(config, &model, &train_report.files, eval_files)?;
        Ok(Self { model, renderer, train, eval, train_report, eval_report, record })
    }
}

impl TrainingInputs for SftInputs {
    type Data = Dataset;

    fn model(&self) -> &ModelFiles {
        &self.model
    }

    fn renderer(&self) -> &ChatRenderer {
        &self.renderer
    }

    fn train(&self) -> &Dataset {
        &self.train
    }

    fn eval(&self) -> Option<&Dataset> {
        self.eval.as_ref()
    }

    fn record(&self) -> &RunInputs {
        &self.record
    }

    fn digest(&self, config: &TrainingConfig) -> Digest {
        opening::digest(config, self.train.digest(), &self.record)
    }
}

/// A tokenizer may be larger than the embedding, for instance where special tokens were added to one alone.
fn check_tokens(dataset: &Dataset, vocab_size: usize) -> Result<(), StageError> {
    for sample in dataset.samples() {
        if let Some(&token) = sample.tokens().iter().find(|&&token| token as usize >= vocab_size) {
            let origin = sample.origin();
            return Err(StageError::TokenOutsideVocabulary { origin, token, vocab_size });
        }
    }
    Ok(())
}

fn read(
    config: &TrainingConfig,
    sources: &[SourceConfig],
    renderer: &ChatRenderer,
    what: &str,
    events: &mut dyn EventSink,
) -> Result<(Dataset, DataReport), StageError> {
    events.emit(Event::PhaseStarted { phase: format!("reading {what}"), total: None });
    let mut builder = Dataset::builder(config.max_length, config.long_samples);
    let mut report = DataReport::default();
    for source in sources {
        let source = SourceConfig { path: config.data_dir.join(&source.path), ..source.clone() };
        builder.begin_source(source.path.to_string_lossy(), source.weight);
        let mut rows = read_rows(&source, config.on_bad_row)?;
        loop {
            let chunk: Vec<_> = rows.by_ref().take(ROWS_AT_A_TIME).collect::<Result<_, _>>()?;
            if chunk.is_empty() {
                break;
            }
            report.take(&chunk, renderer, config.on_bad_row, &mut builder)?;
            events.emit(Event::Progress { done: report.n_rows, note: format!("{} rows", report.n_rows) });
        }
        report.n_skipped += rows.skipped().n_rows;
        for row in &rows.skipped().rows {
            report.list_skipped(row);
        }
    }
    let (dataset, long) = builder.finish()?;
    report.long = long;
    events.emit(Event::PhaseFinished);
    report.warn(what, events);
    Ok((dataset, report))
}

impl DataReport {
    fn take(
        &mut self,
        rows: &[(TrainingRow, RowOrigin)],
        renderer: &ChatRenderer,
        on_bad_row: OnBadRow,
        builder: &mut DatasetBuilder,
    ) -> Result<(), TextError> {
        for ((_, origin), rendered) in rows.iter().zip(renderer.training_many(rows)) {
            if !self.files.contains(&origin.source) {
                self.files.insert(Arc::clone(&origin.source));
            }
            match rendered {
                Ok(rendered) => {
                    self.n_rows += 1;
                    for note in rendered.notes {
                        *self.notes.entry(without_message_number(&note)).or_default() += 1;
                    }
                    builder.push(&rendered.sample);
                }
                Err(error) if on_bad_row == OnBadRow::Error => return Err(error),
                Err(error) => {
                    self.n_skipped += 1;
                    self.list_skipped(&error);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn list_skipped(&mut self, reason: &dyn std::fmt::Display) {
        if self.skipped.len() < MAX_LISTED_ROWS {
            self.skipped.push(reason.to_string());
        }
    }

    pub(crate) fn warn(&self, what: &str, events: &mut dyn EventSink) {
        let mut warn = |text: String| events.emit(Event::Warning(text));
        if self.n_skipped > 0 {
            let first = self.skipped.first().map_or("", String::as_str);
            warn(format!("{what}: {} rows were skipped, the first because: {first}", self.n_skipped));
        }
        if let Some((origin, length)) = self.long.long.first() {
            let (n_long, n_lost) = (self.long.n_long, self.long.n_tokens_lost);
            warn(format!(
                "{what}: {n_long} samples are longer than a pack, the first {origin} with {length} tokens; \
                 {n_lost} tokens are not trained on"
            ));
        }
        if let Some(origin) = self.long.without_loss.first() {
            let n = self.long.n_without_loss;
            warn(format!("{what}: {n} samples carry no loss and were left out, the first {origin}"));
        }
        for (note, n_rows) in &self.notes {
            warn(format!("{what}: {note} ({n_rows} times)"));
        }
    }
}

/// Remarks about different messages are counted together.
fn without_message_number(note: &RenderNote) -> String {
    let text = note.to_string();
    match text.split_once(": ") {
        Some((place, remark)) if place.starts_with("message ") => remark.to_owned(),
        _ => text,
    }
}
