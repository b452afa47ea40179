//! The rows that a recipe names: `[[data]]`, and `[[evaluation_data]]` for decontamination.

use std::path::Path;

use truing_data::{OnBadRow, SourceConfig, read_prompts};
use truing_eval::bundled::BUNDLED;
use truing_prompts::decontamination::{DecontaminationOptions, EvaluationIndex};
use truing_run::DataReport;
use truing_run::rows::prompt_text;
use truing_types::{Event, EventSink, PromptRow, RowOrigin};

use crate::StageError;

/// The settings of a recipe that name its rows.
pub(crate) struct Sources<'a> {
    pub(crate) data: &'a [SourceConfig],
    pub(crate) data_dir: &'a Path,
    pub(crate) on_bad_row: OnBadRow,
}

impl Sources<'_> {
    /// Reads all rows, and reports on those that were left out. `what` they are, as in "the prompts". `take` makes an
    /// item of a row, or notes in the report why it makes none.
    ///
    /// # Errors
    /// When a file cannot be read, or a row cannot and `on_bad_row` is `error`; and the first error of `take`.
    pub(crate) fn read<T>(
        &self,
        what: &str,
        events: &mut dyn EventSink,
        mut take: impl FnMut(PromptRow, RowOrigin, &mut DataReport) -> Result<Option<T>, StageError>,
    ) -> Result<(Vec<T>, DataReport), StageError> {
        events.emit(Event::PhaseStarted { phase: format!("reading {what}"), total: None });
        let (mut items, mut report) = (Vec::new(), DataReport::of("data"));
        for source in self.data {
            let mut rows = read_prompts(&source.in_folder(self.data_dir), self.on_bad_row)?;
            for row in &mut rows {
                let (row, origin) = row?;
                items.extend(take(row, origin, &mut report)?);
            }
            report.end_source(&rows);
            events.emit(Event::Progress { done: items.len() as u64, note: String::new() });
        }
        report.n_rows = items.len() as u64;
        events.emit(Event::PhaseFinished);
        report.warn(what, events);
        Ok((items, report))
    }

    /// An index of the bundled evaluation sets and of the texts of all rows.
    ///
    /// # Errors
    /// When an option is out of range, a file cannot be read, or a row cannot and `on_bad_row` is `error`.
    pub(crate) fn evaluation_index(
        &self,
        options: DecontaminationOptions,
    ) -> Result<(EvaluationIndex, DataReport), StageError> {
        let mut index = EvaluationIndex::new(options)?;
        for bundled in BUNDLED {
            index.add(bundled.name, bundled.questions()?)?;
        }
        let mut report = DataReport::of("evaluation");
        for source in self.data {
            let source = source.in_folder(self.data_dir);
            let mut rows = read_prompts(&source, self.on_bad_row)?;
            let texts = rows.by_ref().map(|row| Ok(prompt_text(&row?.0.prompt)));
            let texts = texts.collect::<Result<Vec<String>, StageError>>()?;
            report.n_rows += texts.len() as u64;
            report.end_source(&rows);
            index.add(&source.path.to_string_lossy(), texts)?;
        }
        Ok((index, report))
    }
}
