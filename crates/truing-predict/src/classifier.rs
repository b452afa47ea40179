//! A trained classifier or scorer at work: texts in, labels and scores out.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::{Map, Value, json};
use truing_data::{OnBadRow, SourceConfig, read_prompts};
use truing_eval::classifier::{Answer, ClassifierSpec, Prediction};
use truing_model::{EncoderFiles, Engine, EngineOptions, HeadKind, ModelFiles, TrainableSpec};
use truing_parallel::Solo;
use truing_run::rows::prompt_text;
use truing_run::{RunError, model};
use truing_store::atomic;
use truing_text::{RenderOptions, SentenceTokens};
use truing_train::SequenceHead;
use truing_types::{Event, EventSink, PromptRow, RowOrigin, Seed};

use crate::embed::{encoder_tokenizer, pack_texts, packs_by_length, sequence_values};
use crate::texts::TextReader;

/// Rows that are read and sorted by length together.
const ROWS_AT_A_TIME: usize = 2048;

/// A classifier or scorer, loaded.
#[derive(Debug)]
pub struct Classifier<E> {
    spec: ClassifierSpec,
    reader: TextReader,
    engine: E,
    head: SequenceHead,
}

/// What predicting a file came to.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct PredictionSummary {
    /// Rows written.
    pub n_rows: u64,
    /// Texts that were longer than the model reads and lost a part.
    pub n_cut: u64,
    /// Labels and scores that rows had already and kept.
    pub n_kept: u64,
    /// How often each label was said, by dimension.
    pub labels: BTreeMap<String, BTreeMap<String, u64>>,
    /// Mean of the scores said, by name.
    pub mean_scores: BTreeMap<String, f64>,
}

/// How a file is predicted.
#[derive(Debug, Clone, Default)]
pub struct PredictionOptions {
    /// Overwrite labels that a row has already.
    pub overwrite: bool,
    /// Write the probability of every label.
    pub probabilities: bool,
}

impl<E: Engine> Classifier<E> {
    /// Opens the directory of a classifier or scorer.
    ///
    /// # Errors
    /// When it is none, or its files contradict each other.
    pub fn open(
        path: &Path,
        options: RenderOptions,
        n_threads: usize,
        events: &mut dyn EventSink,
    ) -> Result<Self, RunError> {
        let spec = ClassifierSpec::open(path)?;
        let frozen = TrainableSpec::frozen();
        let engine_options = EngineOptions::with_threads(n_threads, Seed::default());
        let (reader, engine, n_outputs, head) = if EncoderFiles::is_encoder(path) {
            let files = EncoderFiles::open(path)?;
            let sentences = encoder_tokenizer(&files, Some(spec.max_tokens))?.1;
            let engine = model::load_encoder(&files, &frozen, &engine_options, &Solo::groups(), events)?;
            let (reader, head) =
                (TextReader::Sentences(Box::new(sentences)), SequenceHead::of_encoder(&files.spec));
            (reader, engine, files.spec.n_outputs.unwrap_or(0), head)
        } else {
            let files = ModelFiles::open(path)?;
            let renderer = model::renderer_of_any_head(&files, options)?;
            let reader = TextReader::of_decoder(&files, &renderer, spec.max_tokens)?;
            let HeadKind::Score { n_outputs } = files.spec.head else {
                return Err(other_outputs(path, "a language model", spec.n_outputs()));
            };
            let phase = "loading the model";
            let groups = Solo::groups();
            let engine = model::announce_and_load(&files, &frozen, &engine_options, &groups, phase, events)?;
            (reader, engine, n_outputs, SequenceHead::LastTokenScores)
        };
        if n_outputs != spec.n_outputs() {
            return Err(other_outputs(path, &format!("a model of {n_outputs} outputs"), spec.n_outputs()));
        }
        Ok(Self { spec, reader, engine, head })
    }

    /// What its outputs mean.
    #[must_use]
    pub fn spec(&self) -> &ClassifierSpec {
        &self.spec
    }

    /// What it says of each text, in their order.
    ///
    /// # Errors
    /// When a text cannot be tokenized, has no token, or the engine fails.
    pub fn predict<T: AsRef<str> + Sync>(&mut self, texts: &[T]) -> Result<Vec<Prediction>, RunError> {
        let origins: Vec<RowOrigin> =
            (1..=texts.len() as u64).map(|line| RowOrigin { source: "texts".into(), line }).collect();
        let tokens = self.reader.read(texts)?;
        let outputs = self.outputs(&tokens, &origins)?;
        Ok(outputs.chunks_exact(self.spec.n_outputs()).map(|outputs| self.spec.read(outputs)).collect())
    }

    /// The head's outputs, in the texts' order `[n_texts, n_outputs]`.
    fn outputs(&mut self, texts: &[SentenceTokens], origins: &[RowOrigin]) -> Result<Vec<f32>, RunError> {
        if let Some(idx) = texts.iter().position(|text| text.tokens.is_empty()) {
            return Err(RunError::BadColumn {
                origin: origins[idx].clone(),
                column: "prompt".into(),
                found: "a text without a token".into(),
                expected: "something to read",
            });
        }
        let width = self.spec.n_outputs();
        let mut outputs = vec![0.0; texts.len() * width];
        for pack in packs_by_length(texts) {
            let batch = pack_texts(pack.iter().map(|&idx| (&texts[idx].tokens[..], origins[idx].clone())))?;
            let found = sequence_values(&mut self.engine, &batch, self.head)?;
            for (&idx, row) in pack.iter().zip(found.chunks_exact(width)) {
                outputs[idx * width..(idx + 1) * width].copy_from_slice(row);
            }
        }
        Ok(outputs)
    }

    /// Adds `labels`, `confidence` and `scores` to every row of a file; all else that a row holds is kept, and so is
    /// what it says already of a dimension or a score, unless it shall be overwritten. Any number of rows takes the
    /// same memory; the output is there whole or not at all. `None` when it was stopped.
    ///
    /// # Errors
    /// When a row cannot be read, naming it, or the disk fails.
    pub fn predict_file(
        &mut self,
        source: &SourceConfig,
        output: &Path,
        options: &PredictionOptions,
        events: &mut dyn EventSink,
        stop: &AtomicBool,
    ) -> Result<Option<PredictionSummary>, RunError> {
        let write_error = |source| RunError::Write { path: output.to_path_buf(), source };
        let mut writer = atomic::Writer::new(output)?;
        let (mut summary, mut sums) = (PredictionSummary::default(), BTreeMap::new());
        events.emit(Event::PhaseStarted { phase: "reading and predicting".into(), total: None });
        let mut rows = read_prompts(source, OnBadRow::Error)?;
        loop {
            let part: Vec<(PromptRow, RowOrigin)> =
                rows.by_ref().take(ROWS_AT_A_TIME).collect::<Result<_, _>>()?;
            if part.is_empty() {
                break;
            }
            let texts: Vec<String> = part.iter().map(|(row, _)| prompt_text(&row.prompt)).collect();
            let origins: Vec<RowOrigin> = part.iter().map(|(_, origin)| origin.clone()).collect();
            let tokens = self.reader.read(&texts)?;
            summary.n_cut += tokens.iter().filter(|text| text.is_cut).count() as u64;
            let outputs = self.outputs(&tokens, &origins)?;
            for ((row, origin), outputs) in part.into_iter().zip(outputs.chunks_exact(self.spec.n_outputs()))
            {
                let prediction = self.spec.read(outputs);
                for (name, answer) in &prediction.answers {
                    if let Answer::Score(score) = answer {
                        *sums.entry(name.clone()).or_insert(0.0) += score;
                    }
                }
                let row = add_to(row.columns, &prediction, options, &origin, &mut summary)?;
                serde_json::to_writer(&mut writer, &row).map_err(|error| write_error(error.into()))?;
                writer.write_all(b"\n").map_err(write_error)?;
                summary.n_rows += 1;
            }
            events.emit(Event::Progress { done: summary.n_rows, note: format!("{} rows", summary.n_rows) });
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }
        writer.commit()?;
        events.emit(Event::PhaseFinished);
        events.emit(Event::Saved { what: "predictions".into(), path: output.to_path_buf() });
        let n_rows = summary.n_rows.max(1) as f64;
        summary.mean_scores = sums.into_iter().map(|(name, sum)| (name, sum / n_rows)).collect();
        Ok(Some(summary))
    }
}

fn other_outputs(path: &Path, found: &str, n_outputs: usize) -> RunError {
    let problem = format!("is {found}, but its classifier.json is of {n_outputs} outputs");
    RunError::NotAClassifier { path: path.to_path_buf(), problem }
}

/// The row with what was said of it.
fn add_to(
    mut row: Map<String, Value>,
    prediction: &Prediction,
    options: &PredictionOptions,
    origin: &RowOrigin,
    summary: &mut PredictionSummary,
) -> Result<Map<String, Value>, RunError> {
    for (name, answer) in &prediction.answers {
        let (field, value, confidence) = match answer {
            Answer::Label { label, confidence } => ("labels", json!(label), Some(*confidence)),
            Answer::Labels { labels, confidence } => ("labels", json!(labels), Some(*confidence)),
            Answer::Score(score) => ("scores", json!(score), None),
        };
        let own = object_in(&mut row, field, origin)?;
        if own.get(name).is_some_and(|value| !value.is_null()) && !options.overwrite {
            summary.n_kept += 1;
            continue;
        }
        own.insert(name.clone(), value);
        if let Some(confidence) = confidence {
            object_in(&mut row, "confidence", origin)?.insert(name.clone(), json!(confidence));
        }
        let said = match answer {
            Answer::Label { label, .. } => std::slice::from_ref(label),
            Answer::Labels { labels, .. } => labels,
            Answer::Score(_) => &[],
        };
        for label in said {
            *summary.labels.entry(name.clone()).or_default().entry(label.clone()).or_default() += 1;
        }
    }
    if options.probabilities {
        let own = object_in(&mut row, "probabilities", origin)?;
        own.extend(prediction.probabilities.iter().map(|(name, all)| (name.clone(), json!(all))));
    }
    Ok(row)
}

/// A field that is an object, made where there is none.
fn object_in<'a>(
    row: &'a mut Map<String, Value>,
    field: &str,
    origin: &RowOrigin,
) -> Result<&'a mut Map<String, Value>, RunError> {
    let value = row.entry(field).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(fields) => Ok(fields),
        other => Err(RunError::BadColumn {
            origin: origin.clone(),
            column: field.to_owned(),
            found: other.to_string(),
            expected: "an object, or no such field, so that what is predicted has a place",
        }),
    }
}
