//! Preference data, read, rendered and tokenized.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::rand_core::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_data::{
    DataError, PREFERENCE_FORMATS, ResponseDataset, ResponseDatasetBuilder, ResponseGroup, Rows,
    SourceConfig, SourceRow, TokenizedResponse, read_preferences, read_unpaired,
};
use truing_text::{ChatRenderer, RenderNote, TextError};
use truing_types::{
    Conversation, Event, EventSink, Message, PreferenceRow, RowOrigin, Seed, TrainingRow, UnpairedRow,
};

use super::RowReader;
use crate::{DataReport, RunError};

/// Which responses of a ranking are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// Each response with every worse one.
    #[default]
    All,
    /// The best response with the worst.
    BestAndWorst,
}

/// How preference rows become groups of responses.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResponseOptions {
    /// Single verdicts instead of pairs.
    pub single_verdicts: bool,
    /// Which responses are compared.
    pub compared: Compared,
    /// At most this many of a prompt, sampled by `seed` and row.
    pub max_responses: Option<usize>,
    /// Keep a group without an order if it has scores.
    pub keep_scored: bool,
    /// A score made of scores by aspect, each with its weight.
    pub aspect_weights: Vec<(String, f64)>,
    /// Decides which responses are kept where there are too many.
    pub seed: u64,
}

impl ResponseOptions {
    /// Checks the settings of a source of responses, without its files.
    ///
    /// # Errors
    /// When a setting is unknown, impossible or contradicts another.
    pub fn check_source(&self, source: &SourceConfig) -> Result<(), DataError> {
        match self.reads_verdicts(source) {
            true => source.check_as::<UnpairedRow>(),
            false => source.check_as::<PreferenceRow>(),
        }
    }

    /// Whether the rows of a source are read as single verdicts. A format of pairs is read as pairs in any case.
    fn reads_verdicts(&self, source: &SourceConfig) -> bool {
        let is_pairs = |name: &String| PREFERENCE_FORMATS.iter().any(|format| format.name == name);
        self.single_verdicts && !source.format.as_ref().is_some_and(is_pairs)
    }
}

impl RowReader<'_> {
    /// Reads preference rows, or single verdicts, as groups of responses. `role` and `what` name the data in the report
    /// and in messages.
    ///
    /// # Errors
    /// When a file cannot be read, a row is unusable and bad rows are errors, or no sample is left.
    pub fn responses(
        &self,
        sources: &[SourceConfig],
        options: &ResponseOptions,
        role: &'static str,
        what: &str,
        events: &mut dyn EventSink,
    ) -> Result<(ResponseDataset, DataReport), RunError> {
        Reading { reader: self, options }.read(sources, role, what, events)
    }
}

/// A prompt and a response as one sequence; only the response carries loss.
///
/// # Errors
/// When the conversation cannot be rendered.
pub fn tokenize(
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

/// Said of rows that give no group.
const UNUSED: &str = "rows have neither a preference nor a score and are not used";

/// Remarks about a row's responses, each once: most are about the prompt that they share.
type Remarks = BTreeSet<String>;

struct Reading<'a> {
    reader: &'a RowReader<'a>,
    options: &'a ResponseOptions,
}

impl Reading<'_> {
    fn read(
        &self,
        sources: &[SourceConfig],
        role: &'static str,
        what: &str,
        events: &mut dyn EventSink,
    ) -> Result<(ResponseDataset, DataReport), RunError> {
        events.emit(Event::PhaseStarted { phase: format!("reading {what}"), total: None });
        let mut builder = ResponseDataset::builder(self.reader.max_length, self.reader.long_samples);
        let mut report = DataReport::of(role);
        for source in sources {
            let source = self.reader.source(source);
            builder.begin_source(source.path.to_string_lossy(), source.weight);
            if self.options.reads_verdicts(&source) {
                let rows = read_unpaired(&source, self.reader.on_bad_row)?;
                self.take(rows, &mut builder, &mut report, events, |row, origin, remarks| {
                    self.verdict(row, origin, remarks)
                })?;
            } else {
                let rows = read_preferences(&source, self.reader.on_bad_row)?;
                self.take(rows, &mut builder, &mut report, events, |row, origin, remarks| {
                    self.preference(row, origin, remarks)
                })?;
            }
        }
        let n_unused = report.notes.count(UNUSED);
        let (dataset, long) = builder.finish().map_err(|error| report.completed(error, n_unused))?;
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
    ) -> Result<(), RunError> {
        for row in &mut rows {
            let (row, origin) = row?;
            let mut remarks = Remarks::new();
            match groups_of(&row, &origin, &mut remarks) {
                Ok(groups) => {
                    report.n_rows += 1;
                    if groups.is_empty() {
                        report.note(UNUSED, &origin);
                    }
                    for remark in remarks {
                        report.note(remark, &origin);
                    }
                    for group in groups {
                        for tokens in
                            group.responses.iter().map(|response| &response.tokens).chain([&group.prefix])
                        {
                            self.reader.check_tokens(tokens, || group.origin.clone())?;
                        }
                        builder.push(group);
                    }
                }
                Err(error) => report.skip(self.reader.on_bad_row, RunError::from(error))?,
            }
            if report.n_rows.is_multiple_of(256) {
                events.emit(Event::Progress { done: report.n_rows, note: format!("{} rows", report.n_rows) });
            }
        }
        report.end_source(&rows);
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
        let (tokenized, notes) = tokenize_with_notes(self.reader.renderer, prompt, response, origin)?;
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
        if self.options.compared == Compared::BestAndWorst && responses.len() > 2 {
            responses.drain(1..responses.len() - 1);
        }
        if let Some(most) = self.options.max_responses {
            self.sample(&mut responses, most, origin);
        }
        if self.options.single_verdicts {
            return Ok(as_verdicts(responses, origin));
        }
        let has_scores = responses.iter().any(|response| response.score.is_some());
        let group = ResponseGroup::new(responses, row.margin, origin.clone());
        let is_of_use = !group.pairs().is_empty() || self.options.keep_scored && has_scores;
        Ok(is_of_use.then_some(group).into_iter().collect())
    }

    fn score_of(&self, score: Option<f64>, aspects: &BTreeMap<String, f64>) -> Option<f64> {
        let weights = &self.options.aspect_weights;
        let weighted = weights.iter().map(|(name, weight)| Some(weight * aspects.get(name)?));
        let sum: Option<f64> = weighted.sum();
        if weights.is_empty() { score } else { sum.or(score) }
    }

    /// Keeps `most` responses in their order, sampled by seed and row.
    fn sample(&self, responses: &mut Vec<TokenizedResponse>, most: usize, origin: &RowOrigin) {
        let mut generator = Seed(self.options.seed).generator("responses", &[origin.line]);
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
