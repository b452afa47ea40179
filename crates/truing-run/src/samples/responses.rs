//! Preference data, read, rendered and tokenized: what `truing dpo` and `truing reward` learn from.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_data::{
    HeldOut, OnBadRow, PREFERENCE_FORMATS, ResponseDataset, ResponseDatasetBuilder, ResponseGroup, Rows,
    SourceConfig, SourceRow, TokenizedResponse, read_preferences, read_unpaired,
};
use truing_model::ModelFiles;
use truing_run::{DataReport, SkippedRow};
use truing_store::{Digest, RunInputs};
use truing_text::{ChatRenderer, RenderNote, RenderOptions, TextError};
use truing_types::{
    Conversation, Event, EventSink, Message, PreferenceRow, RowOrigin, Seed, TrainingRow, UnpairedRow,
};

use crate::StageError;
use crate::training::opening::{self, Opened};
use crate::training::{TrainingConfig, TrainingInputs};

/// Which responses of a ranking are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// Every response with every worse one.
    #[default]
    All,
    /// The best with the worst.
    BestAndWorst,
}

/// How rows become groups.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    /// Single verdicts instead of pairs.
    pub(crate) single_verdicts: bool,
    /// Which responses are compared.
    pub(crate) compared: Compared,
    /// At most this many of a prompt, drawn by seed and row.
    pub(crate) max_responses: Option<usize>,
    /// A group without an order is of use when it has scores.
    pub(crate) scores_suffice: bool,
    /// A score made of scores by aspect.
    pub(crate) aspect_weights: Vec<(String, f64)>,
    /// Which model may be begun with.
    pub(crate) model: Opened,
}

/// Everything a plan looks at.
#[derive(Debug)]
pub struct ResponseInputs {
    /// The model, not loaded yet.
    pub model: ModelFiles,
    /// Its tokenizer and template.
    pub renderer: ChatRenderer,
    /// What is trained on.
    pub train: ResponseDataset,
    /// What is evaluated on, if anything.
    pub eval: Option<ResponseDataset>,
    /// What became of the rows of `train`.
    pub train_report: DataReport,
    /// What became of the rows of `eval`, where they are files of their own.
    pub eval_report: Option<DataReport>,
    /// Versions, seeds and digests of all files.
    pub record: RunInputs,
}

impl ResponseInputs {
    pub(crate) fn load(
        config: &TrainingConfig,
        wanted: &Wanted,
        options: RenderOptions,
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        let (model, renderer) = opening::open(config, wanted.model, options)?;
        let reading = Reading { config, wanted, renderer: &renderer, vocab_size: model.spec.vocab_size };
        let (mut train, train_report) = reading.read(&config.data, "data", "the training data", events)?;
        let (mut eval, mut eval_report) = (None, None);
        if config.eval_fraction > 0.0 {
            let split = train.split(HeldOut::Fraction(config.eval_fraction), Seed(config.seed));
            train = split.0;
            eval = Some(split.1).filter(|held_out| !held_out.groups().is_empty());
        } else if !config.eval_data.is_empty() {
            let found = reading.read(&config.eval_data, "evaluation", "the evaluation data", events)?;
            (eval, eval_report) = (Some(found.0), Some(found.1));
        }
        let eval_files = eval_report.as_ref().map(|report| &report.files);
        let record = opening::record(config, &model, &train_report.files, eval_files)?;
        Ok(Self { model, renderer, train, eval, train_report, eval_report, record })
    }
}

impl TrainingInputs for ResponseInputs {
    type Data = ResponseDataset;

    fn model(&self) -> &ModelFiles {
        &self.model
    }

    fn renderer(&self) -> &ChatRenderer {
        &self.renderer
    }

    fn train(&self) -> &ResponseDataset {
        &self.train
    }

    fn eval(&self) -> Option<&ResponseDataset> {
        self.eval.as_ref()
    }

    fn record(&self) -> &RunInputs {
        &self.record
    }

    fn skipped(&self) -> Vec<&SkippedRow> {
        let reports = std::iter::once(&self.train_report).chain(&self.eval_report);
        reports.flat_map(|report| &report.skipped).collect()
    }

    fn samples_digest(&self) -> Option<Digest> {
        Some(self.train.digest())
    }
}

/// Reads preference rows for evaluation, whatever the recipe.
pub(crate) fn read_for_evaluation(
    sources: &[SourceConfig],
    max_length: u32,
    renderer: &ChatRenderer,
    vocab_size: usize,
    events: &mut dyn EventSink,
) -> Result<(ResponseDataset, DataReport), StageError> {
    let config = TrainingConfig {
        max_length,
        long_samples: truing_data::LongSamplePolicy::Drop,
        on_bad_row: OnBadRow::Skip,
        ..TrainingConfig::default()
    };
    let wanted = Wanted {
        single_verdicts: false,
        compared: Compared::All,
        max_responses: None,
        scores_suffice: true,
        aspect_weights: Vec::new(),
        model: Opened::AnyHead,
    };
    Reading { config: &config, wanted: &wanted, renderer, vocab_size }.read(
        sources,
        "data",
        "the preferences",
        events,
    )
}

/// One conversation as a whole sequence without loss.
pub(crate) fn tokenize(
    renderer: &ChatRenderer,
    prompt: &Conversation,
    response: &[Message],
    origin: &RowOrigin,
) -> Result<TokenizedResponse, TextError> {
    tokenize_with_notes(renderer, prompt, response, origin).map(|(tokenized, _)| tokenized)
}

fn tokenize_with_notes(
    renderer: &ChatRenderer,
    prompt: &Conversation,
    response: &[Message],
    origin: &RowOrigin,
) -> Result<(TokenizedResponse, Vec<RenderNote>), TextError> {
    let mut messages = prompt.messages.clone();
    for message in &mut messages {
        message.weight = Some(0.0);
    }
    messages.extend_from_slice(response);
    let row = TrainingRow::Conversation(Conversation { messages, tools: prompt.tools.clone() });
    let rendered = renderer.training(&row, origin.clone())?;
    let (tokens, loss_weights) = (rendered.sample.tokens, rendered.sample.loss_weights);
    Ok((TokenizedResponse { tokens, loss_weights, ..TokenizedResponse::default() }, rendered.notes))
}

/// Remarks about a row's responses, each once: most are about the prompt that they share.
type Remarks = BTreeSet<String>;

struct Reading<'a> {
    config: &'a TrainingConfig,
    wanted: &'a Wanted,
    renderer: &'a ChatRenderer,
    vocab_size: usize,
}

impl Reading<'_> {
    fn read(
        &self,
        sources: &[SourceConfig],
        role: &'static str,
        what: &str,
        events: &mut dyn EventSink,
    ) -> Result<(ResponseDataset, DataReport), StageError> {
        events.emit(Event::PhaseStarted { phase: format!("reading {what}"), total: None });
        let mut builder = ResponseDataset::builder(self.config.max_length, self.config.long_samples);
        let mut report = DataReport::of(role);
        for source in sources {
            let source = SourceConfig { path: self.config.data_dir.join(&source.path), ..source.clone() };
            builder.begin_source(source.path.to_string_lossy(), source.weight);
            let is_pairs = source
                .format
                .as_ref()
                .is_some_and(|name| PREFERENCE_FORMATS.iter().any(|format| format.name == name));
            if self.wanted.single_verdicts && !is_pairs {
                let rows = read_unpaired(&source, self.config.on_bad_row)?;
                self.take(rows, &mut builder, &mut report, events, |row, origin, remarks| {
                    self.verdict(row, origin, remarks)
                })?;
            } else {
                let rows = read_preferences(&source, self.config.on_bad_row)?;
                self.take(rows, &mut builder, &mut report, events, |row, origin, remarks| {
                    self.preference(row, origin, remarks)
                })?;
            }
        }
        let (dataset, long) = builder.finish()?;
        report.long = long;
        events.emit(Event::PhaseFinished);
        report.warn(what, events);
        Ok((dataset, report))
    }

    fn take<Row: SourceRow>(
        &self,
        mut rows: Rows<Row>,
        builder: &mut ResponseDatasetBuilder,
        report: &mut DataReport,
        events: &mut dyn EventSink,
        groups_of: impl Fn(&Row, &RowOrigin, &mut Remarks) -> Result<Vec<ResponseGroup>, TextError>,
    ) -> Result<(), StageError> {
        for row in &mut rows {
            let (row, origin) = row?;
            let mut remarks = Remarks::new();
            match groups_of(&row, &origin, &mut remarks) {
                Ok(groups) => {
                    report.n_rows += 1;
                    if groups.is_empty() {
                        report.note("rows have neither a preference nor a score and are not used", &origin);
                    }
                    for remark in remarks {
                        report.note(remark, &origin);
                    }
                    for group in groups {
                        self.check(&group)?;
                        builder.push(group);
                    }
                }
                Err(error) => report.skip(self.config.on_bad_row, StageError::from(error))?,
            }
            if report.n_rows.is_multiple_of(256) {
                events.emit(Event::Progress { done: report.n_rows, note: format!("{} rows", report.n_rows) });
            }
        }
        report.end_source(&rows);
        Ok(())
    }

    fn check(&self, group: &ResponseGroup) -> Result<(), StageError> {
        let parts = group.responses.iter().map(|response| &response.tokens);
        for &token in std::iter::once(&group.prefix).chain(parts).flatten() {
            if token as usize >= self.vocab_size {
                let (origin, vocab_size) = (group.origin.clone(), self.vocab_size);
                return Err(StageError::TokenOutsideVocabulary { origin, token, vocab_size });
            }
        }
        Ok(())
    }

    fn verdict(
        &self,
        row: &UnpairedRow,
        origin: &RowOrigin,
        remarks: &mut Remarks,
    ) -> Result<Vec<ResponseGroup>, TextError> {
        let mut response = self.response(&row.prompt, &row.completion, origin, remarks)?;
        response.is_desirable = Some(row.is_desirable);
        Ok(vec![ResponseGroup::new(vec![response], None, origin.clone())])
    }

    fn response(
        &self,
        prompt: &Conversation,
        response: &[Message],
        origin: &RowOrigin,
        remarks: &mut Remarks,
    ) -> Result<TokenizedResponse, TextError> {
        let (tokenized, notes) = tokenize_with_notes(self.renderer, prompt, response, origin)?;
        remarks.extend(notes.iter().map(RenderNote::without_message_number));
        Ok(tokenized)
    }

    fn preference(
        &self,
        row: &PreferenceRow,
        origin: &RowOrigin,
        remarks: &mut Remarks,
    ) -> Result<Vec<ResponseGroup>, TextError> {
        let mut responses = Vec::new();
        for (response, &rank) in row.responses.iter().zip(&row.ranks) {
            let mut tokenized = self.response(&row.prompt, &response.messages, origin, remarks)?;
            tokenized.rank = rank;
            tokenized.score = self.score_of(response.score, &response.aspects);
            responses.push(tokenized);
        }
        responses.sort_by_key(|response| response.rank);
        if self.wanted.compared == Compared::BestAndWorst && responses.len() > 2 {
            responses.drain(1..responses.len() - 1);
        }
        if let Some(most) = self.wanted.max_responses {
            self.draw(&mut responses, most, origin);
        }
        if self.wanted.single_verdicts {
            return Ok(as_verdicts(responses, origin));
        }
        let has_scores = responses.iter().any(|response| response.score.is_some());
        let group = ResponseGroup::new(responses, row.margin, origin.clone());
        let is_of_use = !group.pairs().is_empty() || self.wanted.scores_suffice && has_scores;
        Ok(is_of_use.then_some(group).into_iter().collect())
    }

    fn score_of(&self, score: Option<f64>, aspects: &std::collections::BTreeMap<String, f64>) -> Option<f64> {
        let weights = &self.wanted.aspect_weights;
        let weighted = weights.iter().map(|(name, weight)| Some(weight * aspects.get(name)?));
        let sum: Option<f64> = weighted.sum();
        if weights.is_empty() { score } else { sum.or(score) }
    }

    /// Keeps `most` responses in their order, drawn by seed and row.
    fn draw(&self, responses: &mut Vec<TokenizedResponse>, most: usize, origin: &RowOrigin) {
        use rand_chacha::rand_core::Rng;
        let mut generator = Seed(self.config.seed).generator("responses", &[origin.line]);
        while responses.len() > most.max(1) {
            let n = responses.len() as u64;
            responses.remove((generator.next_u64() % n) as usize);
        }
    }
}

/// The best of a ranking are wanted, the worst are not; what lies between says neither.
fn as_verdicts(responses: Vec<TokenizedResponse>, origin: &RowOrigin) -> Vec<ResponseGroup> {
    let ranks = responses.iter().map(|response| response.rank);
    let (Some(best), Some(worst)) = (ranks.clone().min(), ranks.max()) else { return Vec::new() };
    if best == worst {
        return Vec::new();
    }
    let clear = responses.into_iter().filter(|response| [best, worst].contains(&response.rank));
    clear
        .map(|mut response| {
            response.is_desirable = Some(response.rank == best);
            ResponseGroup::new(vec![response], None, origin.clone())
        })
        .collect()
}
