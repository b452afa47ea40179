//! Prompts that a policy samples completions of.

use std::path::PathBuf;
use std::sync::Arc;

use truing_data::{SourceConfig, SourceRange, read_prompts};
use truing_text::{RenderNote, TextError};
use truing_types::{Event, EventSink, PromptRow, RowOrigin, TokenId};

use super::RowReader;
use crate::{DataReport, RunError};

/// One prompt as the policy sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The conversation and the row's fields.
    pub row: PromptRow,
    /// Where it came from.
    pub origin: RowOrigin,
    /// Up to where the assistant's turn begins.
    pub tokens: Vec<TokenId>,
}

impl Prompt {
    /// A key that prompts of equal tokens share, by which they are held out together: the hash of Fowler, Noll and Vo
    /// (FNV-1a).
    #[must_use]
    pub fn key(&self) -> u64 {
        self.tokens.iter().fold(0xcbf2_9ce4_8422_2325, |key, &token| {
            (key ^ u64::from(token)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// The row's category under a column; the name of its file where there is none.
    #[must_use]
    pub fn category(&self, column: Option<&str>) -> String {
        let of_column = column.and_then(|column| self.row.columns.get(column));
        match of_column.and_then(serde_json::Value::as_str) {
            Some(category) => category.to_owned(),
            None => {
                let path = PathBuf::from(&*self.origin.source);
                path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
            }
        }
    }
}

/// What was read of some sources.
#[derive(Debug)]
pub struct PromptsRead {
    /// The prompts.
    pub prompts: Vec<Prompt>,
    /// The sources, each a range of the prompts.
    pub sources: Vec<SourceRange>,
    /// Rows left out because their prompts are longer than `max_length`.
    pub n_too_long: usize,
    /// What became of the rows.
    pub report: DataReport,
}

impl RowReader<'_> {
    /// Reads prompts of at most `max_length` tokens. `role` and `what` name the data in the report and in messages.
    ///
    /// # Errors
    /// When a file cannot be read, or a row is unusable and bad rows are errors.
    pub fn prompts(
        &self,
        sources: &[SourceConfig],
        role: &'static str,
        what: &str,
        events: &mut dyn EventSink,
    ) -> Result<PromptsRead, RunError> {
        let mut read = PromptsRead {
            prompts: Vec::new(),
            sources: Vec::new(),
            n_too_long: 0,
            report: DataReport::of(role),
        };
        if sources.is_empty() {
            return Ok(read);
        }
        events.emit(Event::PhaseStarted { phase: format!("reading {what}"), total: None });
        for source in sources {
            let source = self.source(source);
            let start = read.prompts.len();
            let mut rows = read_prompts(&source, self.on_bad_row)?;
            for row in &mut rows {
                let (row, origin) = row?;
                let (tokens, omissions) = match self.renderer.prompt_with_omissions(&row.prompt) {
                    Ok(rendered) => rendered,
                    Err(source) => {
                        let error = TextError::Row { origin, source: Box::new(source) };
                        read.report.skip(self.on_bad_row, RunError::from(error))?;
                        continue;
                    }
                };
                read.report.n_rows += 1;
                for omission in omissions {
                    read.report.note(RenderNote::NotShown(omission).without_message_number(), &origin);
                }
                self.check_tokens(&tokens, || origin.clone())?;
                if tokens.len() > self.max_length as usize {
                    read.n_too_long += 1;
                } else {
                    read.prompts.push(Prompt { row, origin, tokens });
                }
            }
            read.report.end_source(&rows);
            read.sources.push(SourceRange {
                name: Arc::from(source.path.to_string_lossy()),
                sampling_weight: source.weight,
                samples: start..read.prompts.len(),
            });
            events.emit(Event::Progress { done: read.prompts.len() as u64, note: String::new() });
        }
        events.emit(Event::PhaseFinished);
        read.report.warn(what, events);
        Ok(read)
    }
}
