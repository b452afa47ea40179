//! One source of training rows: what the user wrote about it, and its rows, checked one by one.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_types::{
    Message, PreferenceRow, PromptRow, Role, RowOrigin, TrainingRow, UnpairedRow, nearest_name,
};

use crate::columns::{Columns, Fields, PromptTemplate};
use crate::error::{DataError, RowError, RowErrorKind, RowProblem};
use crate::formats::preference::mt_bench;
use crate::formats::{Format, open_lines};
use crate::json::parse_object;
use crate::loss_weight;
use crate::readers::{self, RawRow, RawRows};
use crate::render::Render;
use crate::source_row::SourceRow;
use crate::turns::{OnRoleOrder, TurnProblem};

/// Most bad rows shown in one error.
const MAX_SHOWN_ROWS: usize = 20;
/// How far behind the first bad row more of them are looked for.
const MAX_ROWS_SEARCHED: u64 = 100_000;
/// Rows at the beginning of a source that its format is detected from.
const N_ROWS_DETECTED: usize = 100;

/// Where training rows come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// A file, a folder, or a data set of the Hugging Face hub (`org/name[/configuration][:split][@revision]`, split
    /// `train` if not given). Files: JSON Lines, a JSON list, or plain text with one row per line (`.txt`), each also as gzip or
    /// zstd; or Parquet. The files of a folder are read in name order. Files with other endings, hidden files,
    /// descriptions such as `dataset_info.json`, subfolders and, beside a train split, files of other splits (`test-*`,
    /// `validation-*`) are not read; a note names them.
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub path: PathBuf,
    /// Name of the row format, for instance `messages` or `alpaca`. Default: the format that most of the first 100 rows
    /// fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Mapping of the format's columns to fields of the file, for example
    /// `{ prompt = "question", completion = "answer" }`. Paths such as `instances.0.output` name nested fields.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Builds the prompt from several fields, for example `"{instruction}\n\n{instances.0.input}"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_template: Option<String>,
    /// How a prompt and a completion given as strings are rendered (`prompt_completion` only). Default: `"raw"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub render: Option<Render>,
    /// System prompt of rows that have none (preference, unpaired and prompt rows).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What to do with rows whose turns are in an unexpected order (assistant first, two turns of one role in a row, a
    /// system turn after others, a tool result without a call, no assistant turn at the end) or that have a blank turn.
    /// Independent of this key, a blank assistant turn that would be trained on is an invalid row, and so is a blank
    /// response that is preferred or desirable. A response that is only ever the worse one may be blank.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_role_order: OnRoleOrder,
    /// How often an epoch visits each sample: 2 twice, 0.5 every other epoch.
    #[serde(default = "one")]
    pub weight: f64,
    /// Read only this many valid rows from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,
}

fn one() -> f64 {
    1.0
}

fn is_default(on_role_order: &OnRoleOrder) -> bool {
    *on_role_order == OnRoleOrder::default()
}

/// What to do with invalid rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// Stop with an error that names up to 20 of them.
    #[default]
    Error,
    /// Drop them; they are counted, and listed in `skipped.jsonl`.
    Skip,
}

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

/// Rows of each remark that are remembered; the others are counted.
const MAX_REMARKED_ROWS: usize = 1_000;

/// Fields of a row that hold pictures or sounds beside the text.
const MEDIA: [&str; 6] = ["images", "image", "videos", "video", "audios", "audio"];

impl SourceConfig {
    /// A source with every setting at its default.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            columns: BTreeMap::new(),
            prompt_template: None,
            render: None,
            system: None,
            on_role_order: OnRoleOrder::default(),
            weight: 1.0,
            max_samples: None,
        }
    }

    /// The source with its path in a folder.
    #[must_use]
    pub fn in_folder(&self, folder: &Path) -> Self {
        Self { path: truing_store::paths::in_folder(folder, &self.path), ..self.clone() }
    }

    /// The files that the source names, in the order in which they are read: itself, or those of a folder, and what its
    /// format reads beside them.
    ///
    /// # Errors
    /// When a folder cannot be listed or holds no data file.
    pub fn files(&self) -> Result<Vec<PathBuf>, DataError> {
        let mut files = readers::files(&self.path)?;
        files.extend(self.files_beside(&self.path)?);
        Ok(files)
    }

    fn files_beside(&self, path: &Path) -> Result<Vec<PathBuf>, DataError> {
        match self.format.as_deref() {
            Some(mt_bench::NAME) => mt_bench::files_beside(path),
            _ => Ok(Vec::new()),
        }
    }

    /// Checks everything about a source of training rows that can be checked without the files.
    ///
    /// # Errors
    /// When a setting is unknown, impossible or contradicts another.
    pub fn check(&self) -> Result<(), DataError> {
        self.check_as::<TrainingRow>()
    }

    /// As [`SourceConfig::check`], for a source of any kind of row.
    ///
    /// # Errors
    /// When a setting is unknown, impossible or contradicts another.
    pub fn check_as<Row: SourceRow>(&self) -> Result<(), DataError> {
        self.resolve::<Row>().map(|_| ())
    }

    fn resolve<Row: SourceRow>(&self) -> Result<(Option<&'static Format<Row>>, Columns), DataError> {
        let bad =
            |setting, reason: String| DataError::BadSetting { path: self.path.clone(), setting, reason };
        if !(self.weight > 0.0 && self.weight.is_finite()) {
            return Err(bad("weight", format!("is {}; expected a number above 0", self.weight)));
        }
        if self.max_samples == Some(0) {
            return Err(bad("max_samples", "is 0; expected at least 1".to_owned()));
        }
        if self.system.is_some() && !Row::TAKES_SYSTEM {
            let reason = "does not go with training rows; expected the system turn in the rows".to_owned();
            return Err(bad("system", reason));
        }
        let formats = Row::formats();
        let format = self.format.as_deref().map(find_format).transpose()?;
        if let Some(format) = format {
            self.check_columns(format)?;
            if self.prompt_template.is_some() && !format.takes_prompt_template {
                return Err(bad("prompt_template", format!("does not go with format `{}`", format.name)));
            }
            if self.render.is_some() && !format.takes_render {
                return Err(bad("render", format!("does not go with format `{}`", format.name)));
            }
        } else if let Some(found) =
            self.columns.keys().find(|c| !formats.iter().flat_map(|f| f.columns).any(|k| k.name == *c))
        {
            let names: Vec<_> = formats.iter().flat_map(|f| f.columns).map(|c| c.name).collect();
            let nearest = nearest_name(found, names.iter().copied());
            let known = names.join(", ");
            return Err(DataError::UnknownColumn { format: "any", found: found.clone(), nearest, known });
        }
        let prompt_template = self.prompt_template.as_deref().map(PromptTemplate::parse).transpose();
        let prompt_template = prompt_template.map_err(|reason| bad("prompt_template", reason))?;
        Ok((format, Columns { mapping: self.columns.clone(), prompt_template }))
    }

    /// The first format that a row has the columns of.
    fn format_of<Row: SourceRow>(&self, fields: Fields<'_>) -> Option<&'static Format<Row>> {
        let fits_settings = |format: &&Format<Row>| {
            (self.prompt_template.is_none() || format.takes_prompt_template)
                && (self.render.is_none() || format.takes_render)
        };
        Row::formats().iter().filter(fits_settings).find(|format| (format.detect)(fields))
    }

    /// The format of some rows: the one that most of them can be read as, so that no single bad row decides it. Where none
    /// can be read, it is the first format that a row has the columns of.
    fn detect<'a, Row: SourceRow>(
        &self,
        columns: &Columns,
        path: &Path,
        rows: impl IntoIterator<Item = (&'a Map<String, Value>, bool)>,
    ) -> Result<&'static Format<Row>, DataError> {
        // In the order in which they are met: of two that fit equally many rows, the first counts.
        let mut fitting: Vec<(&'static Format<Row>, u64)> = Vec::new();
        let mut first = None;
        for (row, pads_nulls) in rows {
            first = first.or(Some(row));
            let fields = Fields { row, columns, pads_nulls };
            let Some(format) = self.format_of(fields) else { continue };
            let is_read = (format.parse)(fields, self.render.unwrap_or_default()).is_ok();
            match fitting.iter_mut().find(|(known, _)| known.name == format.name) {
                Some((_, n_read)) => *n_read += u64::from(is_read),
                None => fitting.push((format, u64::from(is_read))),
            }
        }
        // Where there is but one format, what a row lacks is said of the row, with its line and field.
        let has_settings = self.prompt_template.is_some() || self.render.is_some();
        if let ([], [only], false) = (&fitting[..], Row::formats(), has_settings) {
            self.check_columns(only)?;
            return Ok(only);
        }
        let most = fitting.iter().map(|(_, n_read)| *n_read).max();
        let Some((format, _)) = fitting.into_iter().find(|(_, n_read)| Some(*n_read) == most) else {
            return Err(DataError::UndetectedFormat {
                path: path.to_path_buf(),
                fields: first.into_iter().flat_map(Map::keys).cloned().collect(),
                known: Row::formats().iter().map(described).collect::<Vec<_>>().join(", "),
            });
        };
        self.check_columns(format)?;
        Ok(format)
    }

    /// Reads a row, and refuses a loss mask beside what is learnt.
    fn parse<Row: SourceRow>(&self, format: &Format<Row>, fields: Fields<'_>) -> Result<Row, RowProblem> {
        let row = (format.parse)(fields, self.render.unwrap_or_default())?;
        if Row::IS_LEARNT {
            loss_weight::check_row(fields)?;
        }
        Ok(row)
    }

    fn check_columns<Row>(&self, format: &'static Format<Row>) -> Result<(), DataError> {
        let names: Vec<_> = format.columns.iter().map(|c| c.name).collect();
        match self.columns.keys().find(|column| !names.contains(&column.as_str())) {
            None => Ok(()),
            Some(found) => Err(DataError::UnknownColumn {
                format: format.name,
                found: found.clone(),
                nearest: nearest_name(found, names.iter().copied()),
                known: names.join(", "),
            }),
        }
    }
}

fn find_format<Row: SourceRow>(name: &str) -> Result<&'static Format<Row>, DataError> {
    Row::formats().iter().find(|format| format.name == name).ok_or_else(|| {
        let names: Vec<_> = Row::formats().iter().map(|format| format.name).collect();
        DataError::UnknownFormat {
            found: name.to_owned(),
            nearest: nearest_name(name, names.iter().copied()),
            known: names.join(", "),
        }
    })
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

fn described<Row>(format: &Format<Row>) -> String {
    let required: Vec<_> = format.columns.iter().filter(|c| c.is_required).map(|c| c.name).collect();
    format!("{} ({})", format.name, required.join(", "))
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
