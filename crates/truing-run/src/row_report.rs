//! What became of the rows of some files. Every stage that reads rows keeps a [`DataReport`] for each kind of data: it
//! counts the rows that are used, takes in those that are left out with their reasons, and counts what a person should
//! know of the others, each remark with the first row that it holds for. A run lists every row left out in its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use truing_data::{DataError, LongSampleReport, OnBadRow, RowError, Rows, SourceRow, describe_unread};
use truing_text::TextError;
use truing_types::{Conversation, Event, EventSink, Role, RowOrigin, counted};

use crate::rows::write_lines;
use crate::{AsRunError, RunError};

/// A row that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedRow {
    /// What it was read as: `data`, `evaluation` or `ptx`, as in `inputs.json`.
    pub role: String,
    /// Its file.
    pub path: String,
    /// Its line, or its number in files without lines; counted from 1.
    pub line: u64,
    /// The field that is wrong; empty for the row as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// What is wrong, and what was expected.
    pub reason: String,
}

impl SkippedRow {
    /// The file of a run's folder that lists every row that was left out.
    pub const FILE_NAME: &str = "skipped.jsonl";

    fn new(role: &str, origin: &RowOrigin, field: &str, reason: String) -> Self {
        Self {
            role: role.to_owned(),
            path: origin.source.to_string(),
            line: origin.line,
            field: field.to_owned(),
            reason,
        }
    }
}

impl SkippedRow {
    /// What is wrong, with the field that it is wrong with.
    pub fn reason_with_field(&self) -> String {
        match self.field.as_str() {
            "" => self.reason.clone(),
            field => format!("`{field}` {}", self.reason),
        }
    }
}

impl std::fmt::Display for SkippedRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.reason_with_field())
    }
}

/// How often a remark holds, and where first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Noted {
    /// Rows, or messages where the remark is about messages.
    pub n_times: u64,
    /// The first place, as `FILE:LINE`.
    pub first: String,
}

impl std::fmt::Display for Noted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self { n_times: 1, first } => write!(f, "once, in {first}"),
            Self { n_times, first } => write!(f, "{n_times} times, first in {first}"),
        }
    }
}

/// Remarks about rows that are used, by their text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Notes(BTreeMap<String, Noted>);

impl Notes {
    /// Counts a remark.
    pub fn add(&mut self, remark: String, origin: &RowOrigin) {
        self.add_times(remark, 1, origin.to_string());
    }

    fn add_times(&mut self, remark: String, n_times: u64, first: String) {
        self.0.entry(remark).or_insert(Noted { n_times: 0, first }).n_times += n_times;
    }

    /// Counts what the reader of some rows has remarked about those that were not left out after all.
    pub fn add_remarks<Row: SourceRow>(
        &mut self,
        rows: &Rows<Row>,
        is_left_out: impl Fn(&RowOrigin) -> bool,
    ) {
        for (remark, remarked) in rows.remarks_without(is_left_out) {
            let message = remarked.message.map_or_else(String::new, |message| format!(", message {message}"));
            self.add_times(remark.to_string(), remarked.n_rows, format!("{}{message}", remarked.first));
        }
    }

    /// How often a remark was made.
    #[must_use]
    pub fn count(&self, remark: &str) -> u64 {
        self.0.get(remark).map_or(0, |noted| noted.n_times)
    }

    /// Every remark, in the order of their texts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Noted)> {
        self.0.iter().map(|(remark, noted)| (remark.as_str(), noted))
    }
}

/// What became of the rows of some files.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DataReport {
    /// What the rows are read as: `data`, `evaluation` or `ptx`.
    pub role: &'static str,
    /// Rows used.
    pub n_rows: u64,
    /// Rows left out because they cannot be read or rendered, or because their turns are not in order.
    pub skipped: Vec<SkippedRow>,
    /// Samples that were too long, or carry no loss.
    pub long: LongSampleReport,
    /// Remarks about the rows that are used.
    pub notes: Notes,
    /// The files read.
    pub files: BTreeSet<Arc<str>>,
    /// Files of folders that are not read.
    pub unread: BTreeSet<Arc<str>>,
}

impl DataReport {
    /// Of rows that are read as `role`.
    pub fn of(role: &'static str) -> Self {
        Self { role, ..Self::default() }
    }

    /// Takes over what the reader of a source found out, once it has come to its end.
    pub fn end_source<Row: SourceRow>(&mut self, rows: &Rows<Row>) {
        self.skip_rows(&rows.skipped().rows);
        let left_out: BTreeSet<(&str, u64)> =
            self.skipped.iter().map(|row| (row.path.as_str(), row.line)).collect();
        self.notes.add_remarks(rows, |origin| left_out.contains(&(&*origin.source, origin.line)));
        self.unread.extend(rows.unread().iter().map(|file| Arc::from(&*file.to_string_lossy())));
        self.files.extend(rows.files().iter().map(|file| Arc::from(&*file.to_string_lossy())));
    }

    /// An error of a data set in which no sample is left, with the rows of this report: also those that were left out
    /// or gave no sample before the data set was made. `n_unused` counts the latter.
    #[must_use]
    pub fn completed(&self, error: DataError, n_unused: u64) -> DataError {
        match error {
            DataError::NothingToLearn { n_long, n_without_loss, .. } => {
                let n_skipped = self.skipped.len() as u64;
                let (n_rows, n_unused) = (self.n_rows + n_skipped, n_unused + n_skipped);
                DataError::NothingToLearn { n_rows, n_unused, n_long, n_without_loss }
            }
            error => error,
        }
    }

    /// Leaves rows out that could not be read.
    pub fn skip_rows(&mut self, rows: &[RowError]) {
        self.skipped.extend(rows.iter().map(|RowError { origin, problem }| {
            let reason = format!("{}; expected {}", problem.kind, problem.expected);
            SkippedRow::new(self.role, origin, &problem.field, reason)
        }));
    }

    /// Leaves a row out whose error is about nothing but this row, where bad rows are skipped.
    ///
    /// # Errors
    /// The error itself, where bad rows are errors or every row would have it.
    pub fn skip<E: AsRunError>(&mut self, on_bad_row: OnBadRow, error: E) -> Result<(), E> {
        let skipped = match error.as_run_error() {
            Some(RunError::Text(TextError::Row { origin, source })) if !is_of_every_row(source) => {
                SkippedRow::new(self.role, origin, "", source.to_string())
            }
            Some(RunError::BadColumn { origin, column, found, expected }) => {
                SkippedRow::new(self.role, origin, column, format!("is {found}; expected {expected}"))
            }
            _ => return Err(error),
        };
        if on_bad_row == OnBadRow::Error {
            return Err(error);
        }
        self.skipped.push(skipped);
        Ok(())
    }

    /// Leaves a row out that the caller cannot use, and says why.
    pub fn leave_out(&mut self, origin: &RowOrigin, reason: String) {
        self.skipped.push(SkippedRow::new(self.role, origin, "", reason));
    }

    /// Counts a remark about a row.
    pub fn note(&mut self, remark: impl Into<String>, origin: &RowOrigin) {
        self.notes.add(remark.into(), origin);
    }

    /// Says what a person should know.
    pub fn warn(&self, what: &str, events: &mut dyn EventSink) {
        let unread: Vec<&str> = self.unread.iter().map(|file| &**file).collect();
        if let Some(text) = describe_unread(&unread) {
            events.emit(Event::Note(format!("{what}: {text}")));
        }
        let mut warn = |text: String| events.emit(Event::Warning(text));
        if let Some(first) = self.skipped.first() {
            let n = counted(
                self.skipped.len() as u64,
                "row is left out, because",
                "rows are left out, the first because",
            );
            warn(format!("{what}: {n}: {first}"));
        }
        if let Some((origin, length)) = self.long.long.first() {
            let n_long = counted(self.long.n_long as u64, "sample is", "samples are");
            let n_lost = counted(self.long.n_tokens_lost, "token is", "tokens are");
            warn(format!(
                "{what}: {n_long} longer than `max_length`, the first {origin} with {length} tokens; {n_lost} dropped"
            ));
        }
        if let Some(origin) = self.long.without_loss.first() {
            let n = counted(
                self.long.n_without_loss as u64,
                "sample carries no loss and was",
                "samples carry no loss and were",
            );
            warn(format!("{what}: {n} left out, the first {origin}"));
        }
        for (remark, noted) in self.notes.iter() {
            warn(format!("{what}: {remark} ({noted})"));
        }
    }
}

/// Whether an error would be met in every row, so that skipping rows leaves none.
fn is_of_every_row(error: &TextError) -> bool {
    matches!(
        error,
        TextError::NoChatTemplate
            | TextError::NoDefaultTemplate { .. }
            | TextError::TemplateSyntax { .. }
            | TextError::NoDate { .. }
            | TextError::NoEosToken
    )
}

/// Lists rows that were left out in a run's folder; a run without such rows has no list.
///
/// # Errors
/// When the list cannot be written or removed.
pub fn write_skipped<'a>(
    folder: &Path,
    skipped: impl IntoIterator<Item = &'a SkippedRow>,
    events: &mut dyn EventSink,
) -> Result<(), RunError> {
    let rows: Vec<&SkippedRow> = skipped.into_iter().collect();
    let path = folder.join(SkippedRow::FILE_NAME);
    if rows.is_empty() {
        // A list of an earlier start, whose rows have been mended since.
        return match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(RunError::Write { path, source })
            }
            _ => Ok(()),
        };
    }
    write_lines(&path, &rows)?;
    events.emit(Event::Saved {
        what: format!("list of {} left out", counted(rows.len() as u64, "row", "rows")),
        path,
    });
    Ok(())
}

/// Parts of a conversation that are lost where only the texts of its turns are read, without the assistant's.
pub fn unread_parts(conversation: &Conversation) -> Vec<&'static str> {
    let turns = &conversation.messages;
    let mut unread = Vec::new();
    if !conversation.tools.is_empty() {
        unread.push("`tools` are not read: only the turns are used");
    }
    if turns.iter().any(|turn| turn.role == Role::Assistant) {
        unread.push("the assistant's turns are not read: only the prompt is used");
    }
    unread
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(line: u64) -> RowOrigin {
        RowOrigin { source: "a.jsonl".into(), line }
    }

    fn row_error(source: TextError) -> RunError {
        TextError::Row { origin: origin(7), source: Box::new(source) }.into()
    }

    #[test]
    fn a_row_is_left_out_for_its_own_errors_only() {
        let mut report = DataReport::of("data");
        report.skip(OnBadRow::Skip, row_error(TextError::NoAssistantTurn)).unwrap();
        let column = RunError::BadColumn {
            origin: origin(9),
            column: "score".into(),
            found: "\"high\"".into(),
            expected: "a number",
        };
        report.skip(OnBadRow::Skip, column).unwrap();
        let texts: Vec<String> = report.skipped.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "a.jsonl:7: the conversation has no assistant turn that carries loss",
                "a.jsonl:9: `score` is \"high\"; expected a number",
            ]
        );
        assert!(report.skip(OnBadRow::Error, row_error(TextError::NoAssistantTurn)).is_err());
        assert!(report.skip(OnBadRow::Skip, row_error(TextError::NoChatTemplate)).is_err(), "no row has one");
        let other = RunError::MissingSetting { key: "data", expected: "rows" };
        assert!(report.skip(OnBadRow::Skip, other).is_err());
        assert_eq!(report.skipped.len(), 2);
    }

    #[test]
    fn remarks_are_counted_with_the_first_row() {
        let mut report = DataReport::of("data");
        report.note("odd", &origin(3));
        report.note("odd", &origin(5));
        let found: Vec<_> = report.notes.iter().collect();
        assert_eq!(found, [("odd", &Noted { n_times: 2, first: "a.jsonl:3".into() })]);
    }
}
