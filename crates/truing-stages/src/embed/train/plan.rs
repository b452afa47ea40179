//! What a run on triplets reads, and every decision that can be made before work starts.

use std::path::Path;

use truing_data::{
    DataError, HeldOut, OnBadRow, SourceRange, Triplet, data_files, describe_unread, read_triplets,
    split_held_out, unread_files,
};
use truing_model::{EncoderFiles, Engine};
use truing_predict::{encoder_tokenizer, pack_texts};
use truing_run::inputs::resume_key;
use truing_run::rows::text_key;
use truing_run::settings;
use truing_run::{DataReport, Machine, RunError, SkippedRow, inputs};
use truing_store::RunInputs;
use truing_text::{SentenceTokenizer, Tokenizer};
use truing_train::{EmbeddingLoss, PlanRow, StepShape, TripletGroups, TripletPack};
use truing_types::{BatchError, Event, EventSink, RowOrigin, Seed, TokenId};

use super::EmbedTrainConfig;
use crate::training::plan::check_frozen;
use crate::training::{EncoderPlan, ModelToTrain, SampleLengths, TrainingData, TrainingInputs};
use crate::wording::counted;
use crate::{StageError, StagePlan};

/// Triplets that are tokenized at a time.
const TRIPLETS_AT_A_TIME: usize = 2048;

/// Triplets as tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenizedTriplets {
    /// Anchor, positive, negative.
    tokens: Vec<[Vec<TokenId>; 3]>,
    groups: Vec<TripletGroups>,
    origins: Vec<RowOrigin>,
    sources: Vec<SourceRange>,
}

impl TokenizedTriplets {
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens of each triplet.
    fn token_counts(&self) -> Vec<u64> {
        self.lengths().into_iter().map(u64::from).collect()
    }

    /// Says that all of them are one source.
    fn with_one_source(mut self) -> Self {
        self.sources =
            vec![SourceRange { name: "train".into(), sampling_weight: 1.0, samples: 0..self.len() }];
        self
    }

    /// Three texts a triplet, one after the other.
    pub(super) fn pack(&self, triplets: &[u32]) -> Result<TripletPack, BatchError> {
        let batch = pack_texts(triplets.iter().flat_map(|&triplet| {
            let origin = &self.origins[triplet as usize];
            self.tokens[triplet as usize].iter().map(|text| (&text[..], origin.clone()))
        }))?;
        let groups = triplets.iter().map(|&triplet| self.groups[triplet as usize]).collect();
        Ok(TripletPack { batch, groups })
    }

    fn chosen(&self, triplets: &[u32]) -> Self {
        Self {
            tokens: triplets.iter().map(|&i| self.tokens[i as usize].clone()).collect(),
            groups: triplets.iter().map(|&i| self.groups[i as usize]).collect(),
            origins: triplets.iter().map(|&i| self.origins[i as usize].clone()).collect(),
            sources: Vec::new(),
        }
    }
}

impl TrainingData for TokenizedTriplets {
    fn lengths(&self) -> Vec<u32> {
        let of_triplet = |texts: &[Vec<TokenId>; 3]| texts.iter().map(|text| text.len() as u32).sum();
        self.tokens.iter().map(of_triplet).collect()
    }

    fn sources(&self) -> &[SourceRange] {
        &self.sources
    }

    fn shape(&self, sample: usize) -> StepShape {
        let lengths = self.tokens[sample].iter().map(|text| text.len() as f64);
        StepShape {
            tokens: lengths.clone().sum(),
            loss_tokens: 3.0,
            attention_pairs: lengths.map(|n| n * n).sum(),
        }
    }
}

impl TrainingInputs for EmbedTrainInputs {
    type Data = TokenizedTriplets;

    fn model(&self) -> ModelToTrain<'_> {
        ModelToTrain::Encoder { files: &self.model, tokenizer: &self.tokenizer }
    }

    fn train(&self) -> &TokenizedTriplets {
        &self.train
    }

    fn eval(&self) -> Option<&TokenizedTriplets> {
        self.eval.as_ref()
    }

    fn record(&self) -> &RunInputs {
        &self.record
    }

    fn skipped(&self) -> Vec<&SkippedRow> {
        self.skipped.iter().collect()
    }
}

/// What a run has read.
#[derive(Debug)]
pub struct EmbedTrainInputs {
    pub(super) model: EncoderFiles,
    pub(super) tokenizer: Tokenizer,
    pub(super) train: TokenizedTriplets,
    pub(super) eval: Option<TokenizedTriplets>,
    pub(super) record: RunInputs,
    /// Rows that were left out, of all data.
    pub(super) skipped: Vec<SkippedRow>,
    /// Texts that lost their end.
    n_cut: usize,
}

impl EmbedTrainInputs {
    /// Reads the model's headers, its tokenizer and the triplets.
    ///
    /// # Errors
    /// When a setting is missing, or the model or a row cannot be used.
    pub fn load(config: &EmbedTrainConfig, events: &mut dyn EventSink) -> Result<Self, StageError> {
        check_recipe(config)?;
        let model = EncoderFiles::open(config.model_name_or_path.as_ref())?;
        check_frozen(&model.spec.parameters(), &config.optimizer.freeze, "embeddings")?;
        let (tokenizer, sentences) = encoder_tokenizer(&model, config.max_seq_length)?;
        let (mut n_cut, mut skipped) = (0, Vec::new());
        let mut read = |role: &'static str, path: &Path| {
            let mut report = DataReport::of(role);
            let read = tokenize(path, &sentences, config.on_bad_row, &mut n_cut, &mut report, events)?;
            report.warn(&path.display().to_string(), events);
            skipped.append(&mut report.skipped);
            Ok::<_, StageError>(read)
        };
        let train_data = config.data_dir.join(&config.train_data);
        let eval_data = config.eval_data.as_ref().map(|path| config.data_dir.join(path));
        let (mut train, keys) = read("data", &train_data)?;
        let mut eval = None;
        if let Some(path) = &eval_data {
            eval = Some(read("evaluation", path)?.0);
        } else if config.evaluation.eval_fraction > 0.0 {
            let split =
                split_held_out(&keys, HeldOut::Fraction(config.evaluation.eval_fraction), Seed(config.seed));
            eval = Some(train.chosen(&split.held_out)).filter(|held_out| held_out.len() > 0);
            train = train.chosen(&split.train);
        }
        if train.len() == 0 {
            return Err(RunError::BadSetting {
                key: "train_data",
                found: format!("{} with no triplet left to learn from", train_data.display()),
                expected: "at least one".into(),
            }
            .into());
        }
        let weights = model.deciding_files().into_iter().map(|path| ("model", path));
        let data = data_files(&train_data)?.into_iter().map(|path| ("data", path));
        let evaluation = eval_data.iter().map(|path| data_files(path)).collect::<Result<Vec<_>, _>>()?;
        let evaluation = evaluation.into_iter().flatten().map(|path| ("evaluation", path));
        let files = weights.chain(data).chain(evaluation);
        let record = inputs::run_inputs(config.stage, config.seed, files)?;
        if n_cut > 0 {
            let n_cut = counted(n_cut as u64, "text is", "texts are");
            events.emit(Event::Note(format!(
                "{n_cut} longer than the maximum length of the model and truncated"
            )));
        }
        let mut not_read = Vec::new();
        for path in std::iter::once(&train_data).chain(&eval_data) {
            not_read.extend(unread_files(path)?);
        }
        if let Some(text) = describe_unread(&not_read) {
            events.emit(Event::Note(text));
        }
        let (train, eval) = (train.with_one_source(), eval.map(TokenizedTriplets::with_one_source));
        Ok(Self { model, tokenizer, train, eval, record, skipped, n_cut })
    }
}

/// The triplets of a file or folder, and a key of each anchor.
fn tokenize(
    path: &Path,
    tokenizer: &SentenceTokenizer,
    on_bad_row: OnBadRow,
    n_cut: &mut usize,
    report: &mut DataReport,
    events: &mut dyn EventSink,
) -> Result<(TokenizedTriplets, Vec<u64>), StageError> {
    events.emit(Event::PhaseStarted { phase: format!("reading {}", path.display()), total: None });
    let (mut all, mut keys) = (TokenizedTriplets::default(), Vec::new());
    let mut rows = read_triplets(path)?.filter_map(|row| match row {
        Err(DataError::BadRows { rows, .. }) if on_bad_row == OnBadRow::Skip => {
            report.skip_rows(&rows);
            None
        }
        row => Some(row),
    });
    loop {
        let rows: Vec<Triplet> = rows.by_ref().take(TRIPLETS_AT_A_TIME).collect::<Result<_, _>>()?;
        if rows.is_empty() {
            break;
        }
        let texts: Vec<&str> =
            rows.iter().flat_map(|row| [&row.anchor, &row.positive, &row.negative].map(|t| &t[..])).collect();
        let mut tokenized = tokenizer.encode_many(&texts)?.into_iter();
        *n_cut += tokenized.as_slice().iter().filter(|text| text.is_cut).count();
        for row in rows {
            keys.push(text_key(&row.anchor));
            let [anchor, negative] =
                [&row.group, &row.negative_group].map(|group| group.as_deref().map(text_key));
            all.groups.push(TripletGroups { anchor, negative });
            all.tokens.push([(); 3].map(|()| tokenized.next().unwrap_or_default().tokens));
            all.origins.push(row.origin);
        }
        events.emit(Event::Progress { done: all.len() as u64, note: String::new() });
    }
    events.emit(Event::PhaseFinished);
    Ok((all, keys))
}

/// A run as it will be.
#[derive(Debug)]
pub struct EmbedTrainPlan {
    /// The settings.
    pub config: EmbedTrainConfig,
    /// The loss.
    pub loss: EmbeddingLoss,
    /// Steps, memory, work.
    pub run: EncoderPlan,
}

impl EmbedTrainPlan {
    /// Makes the plan, or says why there is none. Pure: it opens no file.
    ///
    /// # Errors
    /// When a setting is invalid, or the memory does not suffice.
    pub fn resolve<E: Engine>(
        config: EmbedTrainConfig,
        inputs: &EmbedTrainInputs,
        machine: &Machine,
    ) -> Result<Self, StageError> {
        check(&config)?;
        let loss = config.embedding_loss();
        let lengths = SampleLengths {
            unit: "triplet",
            train: inputs.train.token_counts(),
            eval: inputs.eval.as_ref().map(TokenizedTriplets::token_counts).unwrap_or_default(),
            sources: inputs.train.sources.clone(),
            n_cut: inputs.n_cut,
        };
        let digest = resume_key::<E>(&config, &inputs.record, None);
        let (settings, spec) = (config.run_settings(), &inputs.model.spec);
        let run =
            EncoderPlan::resolve::<E>(settings, spec, lengths, loss.couples_triplets(), digest, machine)?;
        Ok(Self { config, loss, run })
    }
}

/// Checks a recipe without opening a file.
///
/// # Errors
/// When a setting is missing or invalid.
pub(super) fn check_recipe(config: &EmbedTrainConfig) -> Result<(), StageError> {
    for (key, is_missing, expected) in [
        ("model_name_or_path", config.model_name_or_path.is_empty(), "an encoder's folder or name"),
        ("output_dir", config.output_dir.as_os_str().is_empty(), "a folder for the run"),
        ("train_data", config.train_data.as_os_str().is_empty(), "a file of triplets"),
    ] {
        if is_missing {
            return Err(RunError::MissingSetting { key, expected }.into());
        }
    }
    if config.evaluation.eval_fraction > 0.0 && config.eval_data.is_some() {
        let reason = "rows are held out of `train_data`, or there are others";
        return Err(RunError::Conflict { first: "eval_fraction", second: "eval_data", reason }.into());
    }
    check(config)
}

/// Checks the settings without model and data.
///
/// # Errors
/// When a setting is invalid.
pub fn check(config: &EmbedTrainConfig) -> Result<(), StageError> {
    let has_eval = config.eval_data.is_some() || config.evaluation.eval_fraction > 0.0;
    settings::check(
        &config.schedule,
        &config.optimizer,
        &config.evaluation,
        &config.checkpoint,
        &config.resources,
        has_eval,
    )?;
    let is_positive = |x: f64| x.is_finite() && x > 0.0;
    let margin = config.triplet_margin.unwrap_or(1.0);
    for (key, is_fine, found, expected) in [
        ("triplet_margin", is_positive(margin), margin.to_string(), "a number above 0"),
        ("scale", is_positive(config.scale), config.scale.to_string(), "a number above 0"),
        ("batch_size", config.batch_size > 0, config.batch_size.to_string(), "at least 1"),
        ("logging_steps", config.logging_steps > 0, config.logging_steps.to_string(), "at least 1"),
    ] {
        if !is_fine {
            return Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into());
        }
    }
    Ok(())
}

impl StagePlan for EmbedTrainPlan {
    fn table(&self) -> Vec<PlanRow> {
        self.run.table()
    }

    fn summary(&self) -> String {
        self.run.summary()
    }
}
