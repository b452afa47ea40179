//! What a run reads: the model, the rows, and from those to learn from what the outputs mean.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use truing_data::{HeldOut, OnBadRow, SourceRange, split_held_out};
use truing_eval::classifier::{ClassifierSpec, OutputSpec, PartSpec};
use truing_model::{EncoderFiles, EncoderSpec, HeadKind, ModelFiles};
use truing_predict::{TextReader, encoder_tokenizer};
use truing_run::model::warn_without_padding;
use truing_run::{DataReport, RunError, SkippedRow, inputs};
use truing_statistics::mean_and_deviation;
use truing_store::RunInputs;
use truing_text::{ChatRenderer, RenderOptions, Tokenizer};
use truing_train::{ClassificationPack, PartTarget, SequenceHead, StepShape, Target};
use truing_types::{BatchError, Event, EventSink, PackedBatch, RowOrigin, Seed, TokenId};

use super::label_names::LabelNames;
use super::rows::{LabelledRow, LabelledRows};
use super::{ClassifierConfig, RareLabels};
use crate::StageError;
use crate::training::plan::check_frozen;
use crate::training::{ModelToTrain, TrainingConfig, TrainingData, TrainingInputs, setup};
use crate::wording::counted;

/// What rare labels are called together.
const OTHER: &str = "other";
/// Names that are listed in a message.
const MAX_LISTED: usize = 8;
/// Texts that are tokenized at a time.
const TEXTS_AT_A_TIME: usize = 2048;

/// Texts as tokens, with their targets.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LabelledData {
    pub(super) tokens: Vec<Vec<TokenId>>,
    pub(super) targets: Vec<Vec<PartTarget>>,
    origins: Vec<RowOrigin>,
    sources: Vec<SourceRange>,
}

/// The model, not loaded yet, with a new head.
#[derive(Debug)]
pub enum ClassifierModel {
    /// An encoder with an output layer.
    Encoder {
        /// Its files.
        files: Box<EncoderFiles>,
        /// Its tokenizer.
        tokenizer: Tokenizer,
    },
    /// A decoder with a score head.
    Decoder {
        /// Its files.
        files: Box<ModelFiles>,
        /// Tokenizer and template.
        renderer: Box<ChatRenderer>,
    },
}

/// Everything a plan looks at.
#[derive(Debug)]
pub struct ClassifierInputs {
    /// The model.
    pub model: ClassifierModel,
    /// What its outputs mean.
    pub spec: ClassifierSpec,
    /// What is trained on.
    pub train: LabelledData,
    /// What is evaluated on, if anything.
    pub eval: Option<LabelledData>,
    /// Rows that were left out, of all data.
    pub skipped: Vec<SkippedRow>,
    /// Versions, seeds and digests of all files.
    pub record: RunInputs,
    /// Texts that lost a part.
    pub(super) n_cut: usize,
}

/// Opens the model, and makes what reads its texts, of this many tokens at most.
fn open_model(
    config: &TrainingConfig,
    options: RenderOptions,
) -> Result<(ClassifierModel, TextReader, usize), StageError> {
    let path = Path::new(&config.model_name_or_path);
    if EncoderFiles::is_encoder(path) {
        super::encoder_settings(config)?;
        let files = EncoderFiles::open(path)?;
        let with_output = EncoderSpec { n_outputs: Some(1), ..files.spec.clone() };
        check_frozen(&with_output.parameters(), &config.optimizer.freeze, "embeddings")?;
        let max_tokens = files.spec.max_sequence_length.min(config.max_length as usize);
        let (tokenizer, sentences) = encoder_tokenizer(&files, Some(max_tokens))?;
        let model = ClassifierModel::Encoder { files: Box::new(files), tokenizer };
        Ok((model, TextReader::Sentences(Box::new(sentences)), max_tokens))
    } else {
        let (files, renderer) = setup::open(config, setup::Opened::AnyHead, options)?;
        let max_tokens = (config.max_length as usize).min(files.spec.max_position_embeddings);
        let reader = TextReader::of_decoder(&files, &renderer, max_tokens)?;
        let (files, renderer) = (Box::new(files), Box::new(renderer));
        Ok((ClassifierModel::Decoder { files, renderer }, reader, max_tokens))
    }
}

/// The model with the outputs of `spec`.
fn with_outputs(
    model: ClassifierModel,
    spec: &ClassifierSpec,
    config: &TrainingConfig,
    events: &mut dyn EventSink,
) -> ClassifierModel {
    let n_outputs = spec.n_outputs();
    // A classifier of the same outputs is trained further; any other head is replaced by a new one.
    let is_continued = ClassifierSpec::open(Path::new(&config.model_name_or_path))
        .is_ok_and(|own| own.has_the_outputs_of(spec));
    match model {
        ClassifierModel::Encoder { files, tokenizer } => {
            let keeps = is_continued && files.spec.n_outputs == Some(n_outputs);
            let files = if keeps { *files } else { files.with_new_output_layer(n_outputs) };
            ClassifierModel::Encoder { files: Box::new(files), tokenizer }
        }
        ClassifierModel::Decoder { files, renderer } => {
            let keeps = is_continued && files.spec.head == (HeadKind::Score { n_outputs });
            let files = if keeps { *files } else { files.with_new_outputs(n_outputs) };
            warn_without_padding(&files, &renderer, config.saves_adapter(), events);
            ClassifierModel::Decoder { files: Box::new(files), renderer }
        }
    }
}

pub(super) fn load(
    config: &TrainingConfig,
    options: RenderOptions,
    events: &mut dyn EventSink,
) -> Result<ClassifierInputs, StageError> {
    let settings = config.classifier.clone().unwrap_or_default();
    let (model, reader, max_tokens) = open_model(config, options)?;
    let labels = LabelNames::of(&settings)?;
    let RowsRead { train, eval, eval_files, mut skipped } = read_rows(config, &settings, &labels, events)?;
    let parts = Learnt { settings: &settings, labels: &labels, rows: &train.rows, events }.parts()?;
    let spec = ClassifierSpec::new(max_tokens, parts);
    let model = with_outputs(model, &spec, config, events);
    let mut n_cut = 0;
    let mut without_text = DataReport::of("data");
    let mut targets = Targets {
        settings: &settings,
        spec: &spec,
        reader: &reader,
        on_bad_row: config.on_bad_row,
        without_text: &mut without_text,
        n_cut: &mut n_cut,
        events,
    };
    let mut files = train.report.files.clone();
    files.extend(settings.label_set.iter().map(|path| Arc::from(&*path.to_string_lossy())));
    let train = targets.of(train, "the training data")?;
    let eval = eval.map(|eval| targets.of(eval, "the evaluation data")).transpose()?;
    without_text.warn("the data", events);
    skipped.append(&mut without_text.skipped);
    if train.tokens.is_empty() {
        return Err(RunError::BadSetting {
            key: "data",
            found: "no row with a label or score that is certain enough".into(),
            expected: "at least one".into(),
        }
        .into());
    }
    if n_cut > 0 {
        events.emit(Event::Note(format!(
            "{} longer than {max_tokens} tokens and cut",
            counted(n_cut as u64, "text is", "texts are")
        )));
    }
    let weights = match &model {
        ClassifierModel::Encoder { files, .. } => files.deciding_files(),
        ClassifierModel::Decoder { files, .. } => inputs::model_files(files),
    };
    let record = setup::record_of(config, weights, &files, eval_files.as_ref())?;
    Ok(ClassifierInputs {
        model,
        spec,
        train,
        eval: eval.filter(|eval| !eval.tokens.is_empty()),
        record,
        skipped,
        n_cut,
    })
}

/// The rows of all data.
struct RowsRead {
    train: LabelledRows,
    eval: Option<LabelledRows>,
    /// Files with rows to evaluate on, where they are others.
    eval_files: Option<BTreeSet<Arc<str>>>,
    /// Rows that cannot be read.
    skipped: Vec<SkippedRow>,
}

/// Reads the rows to learn from, and those to evaluate on: held out, or of data of their own.
fn read_rows(
    config: &TrainingConfig,
    settings: &ClassifierConfig,
    labels: &LabelNames,
    events: &mut dyn EventSink,
) -> Result<RowsRead, StageError> {
    let what = "the training data";
    let all = LabelledRows::read(config, settings, labels, &config.data, "data", what, events)?;
    let mut skipped = all.report.skipped.clone();
    let mut eval_files = None;
    let (train, eval) = if config.evaluation.eval_fraction > 0.0 {
        let keys: Vec<u64> = all.rows.iter().map(|row| row.key).collect();
        let split =
            split_held_out(&keys, HeldOut::Fraction(config.evaluation.eval_fraction), Seed(config.seed));
        (all.chosen(&split.train), Some(all.chosen(&split.held_out)))
    } else if config.eval_data.is_empty() {
        (all, None)
    } else {
        let what = "the evaluation data";
        let sources = &config.eval_data;
        let eval = LabelledRows::read(config, settings, labels, sources, "evaluation", what, events)?;
        eval_files = Some(eval.report.files.clone());
        skipped.extend_from_slice(&eval.report.skipped);
        (all, Some(eval))
    };
    Ok(RowsRead { train, eval, eval_files, skipped })
}

/// What the rows to learn from say of labels and scores.
struct Learnt<'a> {
    settings: &'a ClassifierConfig,
    labels: &'a LabelNames,
    rows: &'a [LabelledRow],
    events: &'a mut dyn EventSink,
}

impl Learnt<'_> {
    /// Dimensions, then scores, by name.
    fn parts(&mut self) -> Result<Vec<PartSpec>, StageError> {
        let settings = self.settings;
        let mut counts: BTreeMap<&String, BTreeMap<&String, usize>> = BTreeMap::new();
        for row in self.rows {
            for (name, labels) in row.labels.iter().filter(|(name, _)| settings.is_certain(row, name)) {
                let of_dimension = counts.entry(name).or_default();
                labels.iter().for_each(|label| *of_dimension.entry(label).or_default() += 1);
            }
        }
        for name in settings.dimensions.iter().chain(settings.columns.keys()) {
            if !counts.contains_key(name) {
                return Err(no_row_has("labels", name));
            }
        }
        let mut parts = Vec::new();
        for (name, counts) in counts {
            parts.push(PartSpec { name: name.clone(), outputs: self.dimension(name, &counts)? });
        }
        for name in settings.scores.keys() {
            parts.push(PartSpec { name: name.clone(), outputs: self.score(name)? });
        }
        if parts.is_empty() {
            return Err(RunError::BadSetting {
                key: "data",
                found: "rows without `labels`".into(),
                expected:
                    "labels by dimension, or columns named in `[classifier.columns]` or `[classifier.scores]`"
                        .into(),
            }
            .into());
        }
        Ok(parts)
    }

    fn dimension(
        &mut self,
        name: &String,
        counts: &BTreeMap<&String, usize>,
    ) -> Result<OutputSpec, StageError> {
        let is_rare = |n: usize| n < self.settings.min_count;
        let mut kept: BTreeMap<String, usize> = BTreeMap::new();
        let mut rare = Vec::new();
        for (label, &n) in counts {
            if is_rare(n) {
                rare.push(label.as_str());
                if self.settings.rare_labels == RareLabels::Other {
                    *kept.entry(OTHER.to_owned()).or_default() += n;
                }
            } else {
                *kept.entry((*label).clone()).or_default() += n;
            }
        }
        if !rare.is_empty() {
            let fate = match self.settings.rare_labels {
                RareLabels::Drop => "are dropped",
                RareLabels::Other => "are replaced by `other`",
            };
            self.events.emit(Event::Warning(format!(
                "`{name}`: {} of fewer than {} {fate}: {}",
                counted(rare.len() as u64, "label", "labels"),
                counted(self.settings.min_count as u64, "row", "rows"),
                listed(&rare)
            )));
        }
        let has_several = match (&self.settings.multiple, self.labels.may_be_several(name)) {
            (Some(names), _) => names.contains(name),
            (None, Some(of_the_set)) => of_the_set,
            (None, None) => {
                self.rows.iter().any(|row| row.labels.get(name).is_some_and(|labels| labels.len() > 1))
            }
        };
        let labels: Vec<String> = kept.keys().cloned().collect();
        let n_needed = if has_several { 1 } else { 2 };
        if labels.len() < n_needed {
            let found = match labels.as_slice() {
                [only] => format!("the one label `{only}`"),
                _ => "no label".to_owned(),
            };
            return Err(RunError::BadSetting {
                key: "data",
                found: format!("training rows with {found} of `{name}` that is frequent enough"),
                expected: format!(
                    "at least {} (see `classifier.min_count`)",
                    counted(n_needed as u64, "label", "labels")
                ),
            }
            .into());
        }
        if has_several {
            return Ok(OutputSpec::SeveralLabels { labels });
        }
        let most = kept.values().copied().max().unwrap_or(0);
        let most_frequent = kept.values().position(|&n| n == most).unwrap_or(0);
        Ok(OutputSpec::OneLabel { labels, most_frequent })
    }

    fn score(&self, name: &str) -> Result<OutputSpec, StageError> {
        let certain = self.rows.iter().filter(|row| self.settings.is_certain(row, name));
        let scores: Vec<f64> = certain.filter_map(|row| row.scores.get(name).copied()).collect();
        if scores.is_empty() {
            return Err(no_row_has("scores", name));
        }
        let (mean, deviation) = mean_and_deviation(&scores);
        if deviation > 0.0 {
            return Ok(OutputSpec::Score { mean, deviation });
        }
        Err(RunError::BadSetting {
            key: "classifier.scores",
            found: format!("`{name}`, which is {mean} in every training row"),
            expected: "scores that differ".into(),
        }
        .into())
    }
}

fn no_row_has(what: &str, name: &str) -> StageError {
    RunError::BadSetting {
        key: "classifier",
        found: format!("a table with `{name}`, for which no training row has {what}"),
        expected: "a value with sufficient confidence in some training row".into(),
    }
    .into()
}

fn listed(names: &[&str]) -> String {
    let more = names.len().saturating_sub(MAX_LISTED);
    let shown = names[..names.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

impl ClassifierConfig {
    fn is_certain(&self, row: &LabelledRow, name: &str) -> bool {
        row.confidence
            .get(name)
            .is_none_or(|&c| c >= self.min_confidence && (c > 0.0 || !self.weight_by_confidence))
    }

    /// What a row's outputs of a part should say; `Err` names labels that the model does not have.
    fn target(&self, row: &LabelledRow, part: &PartSpec) -> Result<Target, Vec<String>> {
        if !self.is_certain(row, &part.name) {
            return Ok(Target::Missing);
        }
        let Some(labels) = part.labels() else {
            let OutputSpec::Score { mean, deviation } = part.outputs else { return Ok(Target::Missing) };
            let score = row.scores.get(&part.name);
            return Ok(score.map_or(Target::Missing, |s| Target::Score(((s - mean) / deviation) as f32)));
        };
        let Some(own) = row.labels.get(&part.name) else { return Ok(Target::Missing) };
        let idx = |label: &str| labels.iter().position(|known| known == label);
        let other = idx(OTHER).filter(|_| self.rare_labels == RareLabels::Other);
        let indices: Vec<Option<usize>> = own.iter().map(|label| idx(label).or(other)).collect();
        let unknown = || -> Vec<String> {
            own.iter()
                .zip(&indices)
                .filter(|(_, idx)| idx.is_none())
                .map(|(label, _)| label.clone())
                .collect()
        };
        match (&part.outputs, indices.as_slice()) {
            (OutputSpec::SeveralLabels { .. }, indices) => {
                let mut known: Vec<u32> = indices.iter().flatten().map(|&idx| idx as u32).collect();
                known.dedup();
                // Untrained labels carry no information about the others.
                if known.is_empty() && !own.is_empty() { Err(unknown()) } else { Ok(Target::Labels(known)) }
            }
            (_, [Some(idx)]) => Ok(Target::Label(*idx as u32)),
            (_, [None]) => Err(unknown()),
            // One label is asked for, and the row has none or several.
            _ => Ok(Target::Missing),
        }
    }
}

/// Makes samples of rows.
struct Targets<'a> {
    settings: &'a ClassifierConfig,
    spec: &'a ClassifierSpec,
    reader: &'a TextReader,
    on_bad_row: OnBadRow,
    /// Rows without a token to read.
    without_text: &'a mut DataReport,
    n_cut: &'a mut usize,
    events: &'a mut dyn EventSink,
}

impl Targets<'_> {
    fn of(&mut self, rows: LabelledRows, what: &str) -> Result<LabelledData, StageError> {
        let mut data = LabelledData::default();
        let mut unknown: BTreeMap<String, usize> = BTreeMap::new();
        let mut kept = Vec::new();
        for (i, row) in rows.rows.iter().enumerate() {
            let mut targets = Vec::with_capacity(self.spec.parts.len());
            for part in &self.spec.parts {
                let target = self.settings.target(row, part).unwrap_or_else(|labels| {
                    for label in labels {
                        *unknown.entry(format!("{}={label}", part.name)).or_default() += 1;
                    }
                    Target::Missing
                });
                let confidence = row.confidence.get(&part.name).copied();
                let loss_weight =
                    confidence.filter(|_| self.settings.weight_by_confidence).unwrap_or(1.0) as f32;
                targets.push(PartTarget { target, loss_weight });
            }
            if targets.iter().any(|target| target.target != Target::Missing) {
                kept.push(i as u32);
                data.targets.push(targets);
            }
        }
        if !unknown.is_empty() && what != "the training data" {
            let names: Vec<&str> = unknown.keys().map(String::as_str).collect();
            let n: usize = unknown.values().sum();
            self.events.emit(Event::Warning(format!(
                "{what}: {n} labels are not among the trained ones and are ignored: {}",
                listed(&names)
            )));
        }
        let n_left_out = rows.rows.len() - kept.len();
        if n_left_out > 0 {
            let rows = counted(
                n_left_out as u64,
                "row has no trained label or score and is left out",
                "rows have no trained label or score and are left out",
            );
            let text = format!("{what}: {rows}");
            self.events.emit(Event::Note(text));
        }
        let rows = rows.chosen(&kept);
        let mut read = Vec::new();
        self.without_text.role = rows.report.role;
        for part in rows.rows.chunks(TEXTS_AT_A_TIME) {
            let texts: Vec<&str> = part.iter().map(|row| row.text.as_str()).collect();
            for (text, row) in self.reader.read(&texts)?.into_iter().zip(part) {
                if text.tokens.is_empty() {
                    let error = RunError::BadColumn {
                        origin: row.origin.clone(),
                        column: "prompt".into(),
                        found: "a text without a token".into(),
                        expected: "something to read",
                    };
                    self.without_text.skip(self.on_bad_row, error)?;
                    read.push(false);
                    continue;
                }
                *self.n_cut += usize::from(text.is_cut);
                data.tokens.push(text.tokens);
                read.push(true);
            }
        }
        let mut is_read = read.iter();
        data.targets.retain(|_| is_read.next() == Some(&true));
        let numbers: Vec<u32> = (0..).zip(&read).filter(|(_, is_read)| **is_read).map(|(i, _)| i).collect();
        let rows = rows.chosen(&numbers);
        data.origins = rows.rows.into_iter().map(|row| row.origin).collect();
        data.sources = rows.sources;
        Ok(data)
    }
}

impl LabelledData {
    /// Texts joined into a pack.
    pub(super) fn pack(&self, samples: &[u32]) -> Result<ClassificationPack, BatchError> {
        let longest = samples.iter().map(|&i| self.tokens[i as usize].len()).max().unwrap_or(0);
        let weights = vec![0.0; longest];
        let texts = samples.iter().map(|&i| {
            let tokens = &self.tokens[i as usize][..];
            (tokens, &weights[..tokens.len()], self.origins[i as usize].clone())
        });
        let targets = samples.iter().map(|&i| self.targets[i as usize].clone()).collect();
        Ok(ClassificationPack { batch: PackedBatch::new(texts)?, targets })
    }

    /// Tokens of each text.
    pub(super) fn token_counts(&self) -> Vec<u64> {
        self.tokens.iter().map(|text| text.len() as u64).collect()
    }
}

impl TrainingData for LabelledData {
    fn lengths(&self) -> Vec<u32> {
        self.tokens.iter().map(|text| text.len() as u32).collect()
    }

    fn sources(&self) -> &[SourceRange] {
        &self.sources
    }

    fn shape(&self, sample: usize) -> StepShape {
        let length = self.tokens[sample].len() as f64;
        StepShape { tokens: length, loss_tokens: 1.0, attention_pairs: length * (length + 1.0) / 2.0 }
    }
}

impl ClassifierModel {
    /// Where its outputs come from.
    #[must_use]
    pub fn head(&self) -> SequenceHead {
        match self {
            Self::Encoder { files, .. } => SequenceHead::of_encoder(&files.spec),
            Self::Decoder { .. } => SequenceHead::LastTokenScores,
        }
    }
}

impl TrainingInputs for ClassifierInputs {
    type Data = LabelledData;

    fn model(&self) -> ModelToTrain<'_> {
        match &self.model {
            ClassifierModel::Encoder { files, tokenizer } => ModelToTrain::Encoder { files, tokenizer },
            ClassifierModel::Decoder { files, renderer } => ModelToTrain::Decoder { files, renderer },
        }
    }

    fn train(&self) -> &LabelledData {
        &self.train
    }

    fn eval(&self) -> Option<&LabelledData> {
        self.eval.as_ref()
    }

    fn record(&self) -> &RunInputs {
        &self.record
    }

    fn skipped(&self) -> Vec<&SkippedRow> {
        self.skipped.iter().collect()
    }
}
