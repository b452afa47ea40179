//! What a recipe names on disk: the model's files, and the data read, rendered and tokenized.

use std::iter;

use truing_data::{Dataset, DatasetBuilder, HeldOut, OnBadRow, SourceConfig, read_rows};
use truing_model::ModelFiles;
use truing_run::{DataReport, SkippedRow};
use truing_store::{Digest, RunInputs};
use truing_text::{ChatRenderer, RenderOptions};
use truing_types::{Event, EventSink, RowOrigin, Seed, StageName, TrainingRow};

use crate::StageError;
use crate::training::opening::{self, Opened};
use crate::training::{ModelToTrain, TrainingConfig, TrainingInputs};

/// Rows rendered at a time, on all threads.
const ROWS_AT_A_TIME: usize = 2048;

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
        config.check_stage(StageName::Sft)?;
        let (model, renderer) = opening::open(config, Opened::LanguageModel, options)?;
        let (mut train, train_report) = read(config, &config.data, &renderer, "data", events)?;
        let (mut eval, mut eval_report) = (None, None);
        if config.eval_fraction > 0.0 {
            let split = train.split(HeldOut::Fraction(config.eval_fraction), Seed(config.seed));
            train = split.0;
            eval = Some(split.1).filter(|held_out| held_out.n_samples() > 0);
        } else if !config.eval_data.is_empty() {
            let found = read(config, &config.eval_data, &renderer, "evaluation", events)?;
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

    fn model(&self) -> ModelToTrain<'_> {
        ModelToTrain::Decoder { files: &self.model, renderer: &self.renderer }
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

    fn skipped(&self) -> Vec<&SkippedRow> {
        let reports = iter::once(&self.train_report).chain(&self.eval_report);
        reports.flat_map(|report| &report.skipped).collect()
    }

    fn samples_digest(&self) -> Option<Digest> {
        Some(self.train.digest())
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
    role: &'static str,
    events: &mut dyn EventSink,
) -> Result<(Dataset, DataReport), StageError> {
    let what = if role == "evaluation" { "the evaluation data" } else { "the training data" };
    events.emit(Event::PhaseStarted { phase: format!("reading {what}"), total: None });
    let mut builder = Dataset::builder(config.max_length, config.long_samples);
    let mut report = DataReport::of(role);
    for source in sources {
        let source = SourceConfig { path: config.data_dir.join(&source.path), ..source.clone() };
        builder.begin_source(source.path.to_string_lossy(), source.weight);
        let mut rows = read_rows(&source, config.on_bad_row)?;
        loop {
            let chunk: Vec<_> = rows.by_ref().take(ROWS_AT_A_TIME).collect::<Result<_, _>>()?;
            if chunk.is_empty() {
                break;
            }
            take(&mut report, &chunk, renderer, config.on_bad_row, &mut builder)?;
            events.emit(Event::Progress { done: report.n_rows, note: format!("{} rows", report.n_rows) });
        }
        report.end_source(&rows);
    }
    let (dataset, long) = builder.finish().map_err(|error| report.completed(error, 0))?;
    report.long = long;
    events.emit(Event::PhaseFinished);
    report.warn(what, events);
    Ok((dataset, report))
}

fn take(
    report: &mut DataReport,
    rows: &[(TrainingRow, RowOrigin)],
    renderer: &ChatRenderer,
    on_bad_row: OnBadRow,
    builder: &mut DatasetBuilder,
) -> Result<(), StageError> {
    for ((_, origin), rendered) in rows.iter().zip(renderer.training_many(rows)) {
        match rendered {
            Ok(rendered) => {
                report.n_rows += 1;
                for note in rendered.notes {
                    report.note(note.without_message_number(), origin);
                }
                builder.push(&rendered.sample);
            }
            Err(error) => report.skip(on_bad_row, StageError::from(error))?,
        }
    }
    Ok(())
}
