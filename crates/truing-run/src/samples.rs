//! Training data, read, rendered and tokenized: samples of whole conversations, and responses with their preferences.

mod prompts;
mod responses;

use std::path::Path;

use truing_data::{Dataset, LongSamplePolicy, OnBadRow, SourceConfig, read_rows};
use truing_text::ChatRenderer;
use truing_types::{Event, EventSink, RowOrigin, TokenId};

use crate::{DataReport, RunError};

pub use prompts::{Prompt, PromptsRead};
pub use responses::{Compared, ResponseOptions, tokenize};

/// Rows rendered at a time, on all threads.
const ROWS_AT_A_TIME: usize = 2048;

/// Reads rows and renders them for a model.
#[derive(Debug, Clone, Copy)]
pub struct RowReader<'a> {
    /// The folder that the sources' paths are relative to.
    pub data_dir: &'a Path,
    /// What to do with invalid rows: rows that cannot be read or rendered.
    pub on_bad_row: OnBadRow,
    /// Most tokens of a sample.
    pub max_length: u32,
    /// What happens to longer ones.
    pub long_samples: LongSamplePolicy,
    /// The model's tokenizer and template.
    pub renderer: &'a ChatRenderer,
    /// Rows of the model's embedding.
    pub vocab_size: usize,
}

impl RowReader<'_> {
    /// Reads training rows as samples. `role` and `what` name the data in the report and in messages.
    ///
    /// # Errors
    /// When a file cannot be read, a row is unusable and bad rows are errors, or no sample is left.
    pub fn samples(
        &self,
        sources: &[SourceConfig],
        role: &'static str,
        what: &str,
        events: &mut dyn EventSink,
    ) -> Result<(Dataset, DataReport), RunError> {
        events.emit(Event::PhaseStarted { phase: format!("reading {what}"), total: None });
        let mut builder = Dataset::builder(self.max_length, self.long_samples);
        let mut report = DataReport::of(role);
        for source in sources {
            let source = self.source(source);
            builder.begin_source(source.path.to_string_lossy(), source.weight);
            let mut rows = read_rows(&source, self.on_bad_row)?;
            loop {
                let chunk: Vec<_> = rows.by_ref().take(ROWS_AT_A_TIME).collect::<Result<_, _>>()?;
                if chunk.is_empty() {
                    break;
                }
                for ((_, origin), rendered) in chunk.iter().zip(self.renderer.training_many(&chunk)) {
                    match rendered {
                        Ok(rendered) => {
                            report.n_rows += 1;
                            for note in rendered.notes {
                                report.note(note.without_message_number(), origin);
                            }
                            builder.push(&rendered.sample);
                        }
                        Err(error) => report.skip(self.on_bad_row, RunError::from(error))?,
                    }
                }
                events.emit(Event::Progress { done: report.n_rows, note: format!("{} rows", report.n_rows) });
            }
            report.end_source(&rows);
        }
        let (dataset, long) = builder.finish().map_err(|error| report.completed(error, 0))?;
        for sample in dataset.samples() {
            self.check_tokens(sample.tokens(), || sample.origin())?;
        }
        report.long = long;
        events.emit(Event::PhaseFinished);
        report.warn(what, events);
        Ok((dataset, report))
    }

    fn source(&self, source: &SourceConfig) -> SourceConfig {
        source.in_folder(self.data_dir)
    }

    /// A tokenizer may be larger than the embedding, for instance where special tokens were added to one alone.
    fn check_tokens(&self, tokens: &[TokenId], origin: impl Fn() -> RowOrigin) -> Result<(), RunError> {
        let vocab_size = self.vocab_size;
        match tokens.iter().find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(RunError::TokenOutsideVocabulary { origin: origin(), token, vocab_size }),
            None => Ok(()),
        }
    }
}
