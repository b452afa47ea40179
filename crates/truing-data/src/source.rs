//! One source of training rows: what the user wrote about it, and its rows, checked one by one.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_types::{RowOrigin, TrainingRow};

use crate::columns::{Columns, Fields, PromptTemplate};
use crate::error::{DataError, RowError, RowProblem};
use crate::formats::{FORMATS, Format};
use crate::json::parse_object;
use crate::readers::{self, RawRow, RawRows};

/// Most bad rows shown in one error, and kept in a list of skipped ones.
const MAX_SHOWN_ROWS: usize = 20;
const MAX_LISTED_ROWS: usize = 1_000;
/// How far behind the first bad row more of them are looked for.
const MAX_ROWS_SEARCHED: u64 = 100_000;

/// Where training rows come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// A file (JSON Lines or a JSON list, plain, gzip or zstd; Parquet), or a folder of them read in name order.
    pub path: PathBuf,
    /// A name out of [`FORMATS`]; left out, it is told by the first row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Where the format's columns are found, for example `{ prompt = "question", completion = "answer" }`. Paths
    /// such as `instances.0.output` reach inside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Makes the prompt of several fields, for example `"{instruction}\n\n{instances.0.input}"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_template: Option<String>,
    /// Whether two strings are a chat or raw text (`prompt_completion` only); raw when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub render: Option<Render>,
    /// How often an epoch visits each sample: 2 twice, 0.5 every other epoch.
    #[serde(default = "one")]
    pub weight: f64,
    /// Read only this many good rows from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,
}

fn one() -> f64 {
    1.0
}

/// How a prompt and a completion given as strings are shown to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Render {
    /// As they are.
    #[default]
    Raw,
    /// As a user's and an assistant's turn through the chat template.
    Chat,
}

/// What happens when a row is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// Stop, naming up to 20 of them.
    #[default]
    Error,
    /// Go on; they are counted and listed.
    Skip,
}

/// Rows that were skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkippedRows {
    /// How many.
    pub n_rows: u64,
    /// The first thousand of them, with their reasons.
    pub rows: Vec<RowError>,
}

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
            weight: 1.0,
            max_samples: None,
        }
    }

    /// Checks everything that can be checked without the files.
    ///
    /// # Errors
    /// When a setting is unknown, impossible or contradicts another.
    pub fn check(&self) -> Result<(), DataError> {
        self.resolve().map(|_| ())
    }

    fn resolve(&self) -> Result<(Option<&'static Format>, Columns), DataError> {
        let bad =
            |setting, reason: String| DataError::BadSetting { path: self.path.clone(), setting, reason };
        if !(self.weight > 0.0 && self.weight.is_finite()) {
            return Err(bad("weight", format!("is {}; expected a number above 0", self.weight)));
        }
        if self.max_samples == Some(0) {
            return Err(bad("max_samples", "is 0; expected at least 1".to_owned()));
        }
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
            self.columns.keys().find(|c| !FORMATS.iter().flat_map(|f| f.columns).any(|k| k.name == *c))
        {
            let names: Vec<_> = FORMATS.iter().flat_map(|f| f.columns).map(|c| c.name).collect();
            let nearest = nearest(found, &names);
            let known = names.join(", ");
            return Err(DataError::UnknownColumn { format: "any", found: found.clone(), nearest, known });
        }
        let prompt_template = self.prompt_template.as_deref().map(PromptTemplate::parse).transpose();
        let prompt_template = prompt_template.map_err(|reason| bad("prompt_template", reason))?;
        Ok((format, Columns { mapping: self.columns.clone(), prompt_template }))
    }

    /// The first format that a row has the columns of.
    fn detect(
        &self,
        columns: &Columns,
        path: &Path,
        row: &Map<String, Value>,
    ) -> Result<&'static Format, DataError> {
        let fields = Fields { row, columns };
        let fits_settings = |format: &&Format| {
            (self.prompt_template.is_none() || format.takes_prompt_template)
                && (self.render.is_none() || format.takes_render)
        };
        let Some(format) = FORMATS.iter().filter(fits_settings).find(|format| (format.detect)(fields)) else {
            return Err(DataError::UndetectedFormat {
                path: path.to_path_buf(),
                fields: row.keys().cloned().collect(),
                known: FORMATS.iter().map(described).collect::<Vec<_>>().join(", "),
            });
        };
        self.check_columns(format)?;
        Ok(format)
    }

    fn check_columns(&self, format: &'static Format) -> Result<(), DataError> {
        let names: Vec<_> = format.columns.iter().map(|c| c.name).collect();
        match self.columns.keys().find(|column| !names.contains(&column.as_str())) {
            None => Ok(()),
            Some(found) => Err(DataError::UnknownColumn {
                format: format.name,
                found: found.clone(),
                nearest: nearest(found, &names),
                known: names.join(", "),
            }),
        }
    }
}

fn find_format(name: &str) -> Result<&'static Format, DataError> {
    FORMATS.iter().find(|format| format.name == name).ok_or_else(|| {
        let names: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
        DataError::UnknownFormat {
            found: name.to_owned(),
            nearest: nearest(name, &names),
            known: names.join(", "),
        }
    })
}

fn nearest(found: &str, known: &[&'static str]) -> Option<&'static str> {
    let closeness = |name: &str| strsim::jaro_winkler(found, name);
    let best = known.iter().copied().max_by(|a, b| closeness(a).total_cmp(&closeness(b)))?;
    (closeness(best) > 0.8).then_some(best)
}

/// Opens a source.
///
/// # Errors
/// When a setting is wrong or a file cannot be opened. Bad rows come out of the iterator.
pub fn read_rows(config: &SourceConfig, on_bad_row: OnBadRow) -> Result<Rows, DataError> {
    let (format, columns) = config.resolve()?;
    let mut files: VecDeque<_> = readers::files(&config.path)?.into();
    let Some(first) = files.pop_front() else {
        return Err(DataError::NoDataFiles { path: config.path.clone() });
    };
    Ok(Rows {
        config: config.clone(),
        current: Some((Arc::from(first.to_string_lossy()), readers::open(&first)?)),
        files,
        format,
        columns,
        on_bad_row,
        skipped: SkippedRows::default(),
        n_seen: 0,
        n_good: 0,
    })
}

/// Reads one row out of memory: a line of JSON Lines as [`read_rows`] takes it.
///
/// # Errors
/// When a setting is wrong or the row is bad.
pub fn parse_row(line: &[u8], config: &SourceConfig, origin: RowOrigin) -> Result<TrainingRow, DataError> {
    let (format, columns) = config.resolve()?;
    let parsed = parse_object(line).map(|object| {
        let detected = || config.detect(&columns, Path::new(&*origin.source), &object);
        let format = format.map_or_else(detected, Ok)?;
        let fields = Fields { row: &object, columns: &columns };
        Ok::<_, DataError>((format.parse)(fields, config.render.unwrap_or_default()))
    });
    let row = match parsed {
        Ok(row) => row?,
        Err(problem) => Err(problem),
    };
    row.map_err(|problem| DataError::BadRows { rows: vec![RowError { origin, problem }], has_more: false })
}

/// The rows of a source in file order. The first error ends them.
pub struct Rows {
    config: SourceConfig,
    current: Option<(Arc<str>, RawRows)>,
    files: VecDeque<PathBuf>,
    format: Option<&'static Format>,
    columns: Columns,
    on_bad_row: OnBadRow,
    skipped: SkippedRows,
    n_seen: u64,
    n_good: usize,
}

impl Rows {
    /// The rows skipped so far; complete once the iterator has ended.
    #[must_use]
    pub fn skipped(&self) -> &SkippedRows {
        &self.skipped
    }

    /// The format, once it is known.
    #[must_use]
    pub fn format(&self) -> Option<&'static Format> {
        self.format
    }

    /// The next row that is JSON, or its problem; `None` at the end of the last file.
    fn next_raw(&mut self) -> Result<Option<(RowOrigin, RawRow)>, DataError> {
        while let Some((source, rows)) = &mut self.current {
            if let Some(row) = rows.next() {
                let row = row?;
                self.n_seen += 1;
                return Ok(Some((RowOrigin { source: source.clone(), line: row.number }, row)));
            }
            self.current = match self.files.pop_front() {
                Some(path) => Some((Arc::from(path.to_string_lossy()), readers::open(&path)?)),
                None => None,
            };
        }
        Ok(None)
    }

    fn parse(&mut self, source: &str, row: RawRow) -> Result<Result<TrainingRow, RowProblem>, DataError> {
        let object = match row.object {
            Ok(object) => object,
            Err(problem) => return Ok(Err(problem)),
        };
        let format = match self.format {
            Some(format) => format,
            None => self.config.detect(&self.columns, Path::new(source), &object)?,
        };
        self.format = Some(format);
        let fields = Fields { row: &object, columns: &self.columns };
        Ok((format.parse)(fields, self.config.render.unwrap_or_default()))
    }

    /// Collects more bad rows behind the first, so that one run shows what there is to mend.
    fn bad_rows(&mut self, first: RowError) -> DataError {
        let mut rows = vec![first];
        let last = self.n_seen + MAX_ROWS_SEARCHED;
        let mut has_more = true;
        while rows.len() < MAX_SHOWN_ROWS && self.n_seen < last {
            match self.next_raw() {
                Ok(Some((origin, row))) => match self.parse(&origin.source.clone(), row) {
                    Ok(Ok(_)) => {}
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

    fn next_row(&mut self) -> Result<Option<(TrainingRow, RowOrigin)>, DataError> {
        if self.config.max_samples.is_some_and(|most| self.n_good >= most) {
            return Ok(None);
        }
        while let Some((origin, row)) = self.next_raw()? {
            match self.parse(&origin.source.clone(), row)? {
                Ok(row) => {
                    self.n_good += 1;
                    return Ok(Some((row, origin)));
                }
                Err(problem) => {
                    let error = RowError { origin, problem };
                    if self.on_bad_row == OnBadRow::Error {
                        return Err(self.bad_rows(error));
                    }
                    self.skipped.n_rows += 1;
                    if self.skipped.rows.len() < MAX_LISTED_ROWS {
                        self.skipped.rows.push(error);
                    }
                }
            }
        }
        if self.n_seen == 0 { Err(DataError::NoRows { path: self.config.path.clone() }) } else { Ok(None) }
    }
}

fn described(format: &Format) -> String {
    let required: Vec<_> = format.columns.iter().filter(|c| c.is_required).map(|c| c.name).collect();
    format!("{} ({})", format.name, required.join(", "))
}

impl Iterator for Rows {
    type Item = Result<(TrainingRow, RowOrigin), DataError>;

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

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("path", &self.config.path)
            .field("format", &self.format)
            .field("n_seen", &self.n_seen)
            .finish_non_exhaustive()
    }
}
