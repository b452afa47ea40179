//! The rows of a source, read one by one, checked, and counted where they are skipped or unusual.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use truing_types::{Message, PreferenceRow, PromptRow, Role, RowOrigin, TrainingRow, UnpairedRow};

use crate::columns::{Columns, Fields};
use crate::error::{DataError, RowError, RowErrorKind, RowProblem};
use crate::formats::{Format, open_lines};
use crate::json::parse_object;
use crate::readers::{self, RawRow, RawRows};
use crate::source::{OnBadRow, SourceConfig};
use crate::source_row::SourceRow;
use crate::turns::{OnRoleOrder, TurnProblem};

/// Most bad rows shown in one error.
const MAX_SHOWN_ROWS: usize = 20;
/// How far behind the first bad row more of them are looked for.
const MAX_ROWS_SEARCHED: u64 = 100_000;
/// Rows at the beginning of a source that its format is detected from.
const N_ROWS_DETECTED: usize = 100;
/// Rows of each remark that are remembered; the others are counted.
const MAX_REMARKED_ROWS: usize = 1_000;
/// Fields of a row that hold pictures or sounds beside the text.
const MEDIA: [&str; 6] = ["images", "image", "videos", "video", "audios", "audio"];

/// Rows that were skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkippedRows {
    /// How many.
    pub n_rows: u64,
    /// All of them, with their reasons.
    pub rows: Vec<RowError>,
}

/// Something about rows that were read that a person should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Remark {
    /// Turns in an unexpected order, or a blank one.
    #[error("{0}")]
    Turns(TurnProblem),
    /// A field with images, audio or video, which no model here reads.
    #[error("`{0}` is not read: models here read text only")]
    Media(&'static str),
}

/// How often a [`Remark`] holds, and where first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remarked {
    /// Rows that it holds for.
    pub n_rows: u64,
    /// The first of them.
    pub first: RowOrigin,
    /// The message of that row, counted from 0, where it is about one.
    pub message: Option<usize>,
}

/// Rows that a [`Remark`] holds for.
#[derive(Default)]
struct RemarkedRows {
    n_rows: u64,
    /// The first of them, with their messages.
    listed: Vec<(RowOrigin, Option<usize>)>,
}

/// Opens a source of training rows.
///
/// # Errors
/// When a setting is wrong or a file cannot be opened. Bad rows come out of the iterator.
pub fn read_rows(config: &SourceConfig, on_bad_row: OnBadRow) -> Result<Rows, DataError> {
    read_rows_as(config, on_bad_row)
}

/// Opens a source of ranked responses; its formats are [`PREFERENCE_FORMATS`](crate::PREFERENCE_FORMATS).
///
/// # Errors
/// As [`read_rows`].
pub fn read_preferences(
    config: &SourceConfig,
    on_bad_row: OnBadRow,
) -> Result<Rows<PreferenceRow>, DataError> {
    read_rows_as(config, on_bad_row)
}

/// Opens a source of single verdicts; its formats are [`UNPAIRED_FORMATS`](crate::UNPAIRED_FORMATS).
///
/// # Errors
/// As [`read_rows`].
pub fn read_unpaired(config: &SourceConfig, on_bad_row: OnBadRow) -> Result<Rows<UnpairedRow>, DataError> {
    read_rows_as(config, on_bad_row)
}

/// Opens a source of prompts; its formats are [`PROMPT_FORMATS`](crate::PROMPT_FORMATS).
///
/// # Errors
/// As [`read_rows`].
pub fn read_prompts(config: &SourceConfig, on_bad_row: OnBadRow) -> Result<Rows<PromptRow>, DataError> {
    read_rows_as(config, on_bad_row)
}

/// Opens a source of any kind of row.
///
/// # Errors
/// As [`read_rows`].
pub fn read_rows_as<Row: SourceRow>(
    config: &SourceConfig,
    on_bad_row: OnBadRow,
) -> Result<Rows<Row>, DataError> {
    let (format, columns) = config.resolve()?;
    let mut rows = Rows {
        config: config.clone(),
        current: None,
        read_ahead: VecDeque::new(),
        files: readers::files(&config.path)?.into(),
        format,
        columns,
        on_bad_row,
        skipped: SkippedRows::default(),
        remarks: BTreeMap::new(),
        remarks_of_last: Vec::new(),
        opened: Vec::new(),
        unread: readers::unread(&config.path)?,
        n_seen: 0,
        n_good: 0,
    };
    if !rows.open_next()? {
        return Err(DataError::NoDataFiles { path: config.path.clone(), unread: Vec::new() });
    }
    Ok(rows)
}

/// Reads one training row out of memory: a line of JSON Lines as [`read_rows`] takes it.
///
/// # Errors
/// When a setting is wrong or the row is bad.
pub fn parse_row(line: &[u8], config: &SourceConfig, origin: RowOrigin) -> Result<TrainingRow, DataError> {
    parse_row_as(line, config, origin)
}

/// Reads one row of any kind out of memory.
///
/// # Errors
/// When a setting is wrong or the row is bad.
pub fn parse_row_as<Row: SourceRow>(
    line: &[u8],
    config: &SourceConfig,
    origin: RowOrigin,
) -> Result<Row, DataError> {
    let (format, columns) = config.resolve::<Row>()?;
    let parsed = parse_object(line).map(|object| {
        let detected = || config.detect(&columns, Path::new(&*origin.source), [(&object, false)]);
        let format = format.map_or_else(detected, Ok)?;
        let fields = Fields { row: &object, columns: &columns, pads_nulls: false };
        Ok::<_, DataError>(config.parse(format, fields))
    });
    let row = match parsed {
        Ok(row) => row?,
        Err(problem) => Err(problem),
    };
    match row {
        Ok(row) => Ok(with_system(row, config)),
        Err(problem) => Err(DataError::BadRows { rows: vec![RowError { origin, problem }], has_more: false }),
    }
}

fn with_system<Row: SourceRow>(mut row: Row, config: &SourceConfig) -> Row {
    if let (Some(system), Some(conversation)) = (&config.system, row.prompt_mut()) {
        let has_system =
            conversation.messages.first().is_some_and(|m| matches!(m.role, Role::System | Role::Developer));
        if !has_system {
            conversation.messages.insert(0, Message::new(Role::System, system.clone()));
        }
    }
    row
}

/// The rows of a source in file order. The first error ends them.
pub struct Rows<Row: SourceRow = TrainingRow> {
    config: SourceConfig,
    current: Option<(Arc<str>, RawRows)>,
    /// Rows of the current file that were read to detect the format.
    read_ahead: VecDeque<Result<RawRow, DataError>>,
    files: VecDeque<PathBuf>,
    format: Option<&'static Format<Row>>,
    columns: Columns,
    on_bad_row: OnBadRow,
    skipped: SkippedRows,
    remarks: BTreeMap<Remark, RemarkedRows>,
    remarks_of_last: Vec<(Remark, Option<usize>)>,
    opened: Vec<PathBuf>,
    unread: Vec<PathBuf>,
    n_seen: u64,
    n_good: usize,
}

impl<Row: SourceRow> Rows<Row> {
    /// The rows skipped so far; complete once the iterator has ended.
    #[must_use]
    pub fn skipped(&self) -> &SkippedRows {
        &self.skipped
    }

    /// What is unusual about the rows handed out so far; complete once the iterator has ended.
    #[must_use]
    pub fn remarks(&self) -> BTreeMap<Remark, Remarked> {
        self.remarks_without(|_| false)
    }

    /// The same without rows that were left out after they were handed out. Of each remark the first thousand rows are
    /// looked at; rows behind them are counted whether they were left out or not.
    #[must_use]
    pub fn remarks_without(&self, is_left_out: impl Fn(&RowOrigin) -> bool) -> BTreeMap<Remark, Remarked> {
        let mut counted = BTreeMap::new();
        for (&remark, RemarkedRows { n_rows, listed }) in &self.remarks {
            let n_left_out = listed.iter().filter(|(origin, _)| is_left_out(origin)).count() as u64;
            let first = listed.iter().find(|(origin, _)| !is_left_out(origin)).or(listed.first());
            if let Some((first, message)) = first.filter(|_| *n_rows > n_left_out) {
                let remarked =
                    Remarked { n_rows: n_rows - n_left_out, first: first.clone(), message: *message };
                counted.insert(remark, remarked);
            }
        }
        counted
    }

    /// What is unusual about the row handed out last, with the message that it is about, counted from 0.
    #[must_use]
    pub fn remarks_of_last(&self) -> &[(Remark, Option<usize>)] {
        &self.remarks_of_last
    }

    /// Files of the source's folder that are not read, as [`unread_files`](crate::unread_files) finds them.
    #[must_use]
    pub fn unread(&self) -> &[PathBuf] {
        &self.unread
    }

    /// The files opened so far, in that order, with what the format reads beside them.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.opened
    }

    /// The format, once it is known.
    #[must_use]
    pub fn format(&self) -> Option<&'static Format<Row>> {
        self.format
    }

    /// The next row that is JSON, or its problem; `None` at the end of the last file.
    fn next_raw(&mut self) -> Result<Option<(RowOrigin, RawRow)>, DataError> {
        while let Some((source, rows)) = &mut self.current {
            if let Some(row) = self.read_ahead.pop_front().or_else(|| rows.next()) {
                let row = row?;
                self.n_seen += 1;
                return Ok(Some((RowOrigin { source: source.clone(), line: row.number }, row)));
            }
            self.open_next()?;
        }
        Ok(None)
    }

    /// Goes on to the next file; false when there is none.
    fn open_next(&mut self) -> Result<bool, DataError> {
        let open = self.format.map_or(open_lines as fn(&Path, &Columns) -> _, |format| format.open);
        self.current = match self.files.pop_front() {
            Some(path) => {
                let rows = open(&path, &self.columns)?;
                self.opened.push(path.clone());
                self.opened.extend(self.config.files_beside(&path)?);
                Some((Arc::from(path.to_string_lossy()), rows))
            }
            None => None,
        };
        Ok(self.current.is_some())
    }

    fn parse(&mut self, origin: &RowOrigin, row: RawRow) -> Result<Result<Row, RowProblem>, DataError> {
        let object = match row.object {
            Ok(object) => object,
            Err(problem) => return Ok(Err(problem)),
        };
        let format = match self.format {
            Some(format) => format,
            None => self.detect(origin, &object, row.pads_nulls)?,
        };
        self.format = Some(format);
        let fields = Fields { row: &object, columns: &self.columns, pads_nulls: row.pads_nulls };
        let row = match self.config.parse(format, fields) {
            Ok(row) => with_system(row, &self.config),
            Err(problem) => return Ok(Err(problem)),
        };
        let problems = row.turn_problems();
        if let (Some(&(problem, message)), OnRoleOrder::Error | OnRoleOrder::Skip) =
            (problems.first(), self.config.on_role_order)
        {
            let expected = "turns of user and assistant by turns, each with content (see `on_role_order`)";
            return Ok(Err(RowProblem::new("", RowErrorKind::Turns { problem, message }, expected)));
        }
        self.remarks_of_last.clear();
        for (problem, message) in problems {
            self.remark(Remark::Turns(problem), origin, Some(message));
        }
        for field in MEDIA.into_iter().filter(|&field| object.get(field).is_some_and(is_filled)) {
            self.remark(Remark::Media(field), origin, None);
        }
        Ok(Ok(row))
    }

    /// The format of the current file, by this row and those that follow.
    fn detect(
        &mut self,
        origin: &RowOrigin,
        object: &Map<String, Value>,
        pads_nulls: bool,
    ) -> Result<&'static Format<Row>, DataError> {
        if let Some((_, rows)) = &mut self.current {
            let n_missing = (N_ROWS_DETECTED - 1).saturating_sub(self.read_ahead.len());
            self.read_ahead.extend(rows.take(n_missing));
        }
        let following = self.read_ahead.iter().filter_map(|row| {
            let row = row.as_ref().ok()?;
            Some((row.object.as_ref().ok()?, row.pads_nulls))
        });
        let rows = std::iter::once((object, pads_nulls)).chain(following);
        self.config.detect(&self.columns, Path::new(&*origin.source), rows)
    }

    fn remark(&mut self, remark: Remark, origin: &RowOrigin, message: Option<usize>) {
        self.remarks_of_last.push((remark, message));
        let rows = self.remarks.entry(remark).or_default();
        rows.n_rows += 1;
        if rows.listed.len() < MAX_REMARKED_ROWS {
            rows.listed.push((origin.clone(), message));
        }
    }

    /// Whether a row with this problem is left out although bad rows are errors.
    fn skips(&self, problem: &RowProblem) -> bool {
        matches!(problem.kind, RowErrorKind::Turns { .. }) && self.config.on_role_order == OnRoleOrder::Skip
    }

    /// Collects more bad rows behind the first, so that one run shows what there is to mend.
    fn bad_rows(&mut self, first: RowError) -> DataError {
        let mut rows = vec![first];
        let last = self.n_seen + MAX_ROWS_SEARCHED;
        let mut has_more = true;
        while rows.len() < MAX_SHOWN_ROWS && self.n_seen < last {
            match self.next_raw() {
                Ok(Some((origin, row))) => match self.parse(&origin, row) {
                    Ok(Ok(_)) => {}
                    Ok(Err(problem)) if self.skips(&problem) => {}
                    Ok(Err(problem)) => rows.push(RowError { origin, problem }),
                    Err(_) => break,
                },
                Ok(None) => {
                    has_more = false;
                    break;
                }
                Err(_) => break,
            }
        }
        DataError::BadRows { rows, has_more }
    }

    fn next_row(&mut self) -> Result<Option<(Row, RowOrigin)>, DataError> {
        if self.config.max_samples.is_some_and(|most| self.n_good >= most) {
            return Ok(None);
        }
        while let Some((origin, row)) = self.next_raw()? {
            match self.parse(&origin, row)? {
                Ok(row) => {
                    self.n_good += 1;
                    return Ok(Some((row, origin)));
                }
                Err(problem) => {
                    let is_skipped = self.on_bad_row == OnBadRow::Skip || self.skips(&problem);
                    let error = RowError { origin, problem };
                    if !is_skipped {
                        return Err(self.bad_rows(error));
                    }
                    self.skipped.n_rows += 1;
                    self.skipped.rows.push(error);
                }
            }
        }
        if self.n_seen == 0 { Err(DataError::NoRows { path: self.config.path.clone() }) } else { Ok(None) }
    }
}

/// Whether a field with pictures or sounds holds any.
fn is_filled(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Object(object) => object.values().any(|value| !value.is_null()),
        _ => false,
    }
}

impl<Row: SourceRow> Iterator for Rows<Row> {
    type Item = Result<(Row, RowOrigin), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row();
        if !matches!(row, Ok(Some(_))) {
            self.current = None;
            self.files.clear();
            // Nothing follows an end or an error.
            self.n_seen = self.n_seen.max(1);
        }
        row.transpose()
    }
}

impl<Row: SourceRow> std::fmt::Debug for Rows<Row> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("path", &self.config.path)
            .field("format", &self.format)
            .field("n_seen", &self.n_seen)
            .finish_non_exhaustive()
    }
}
