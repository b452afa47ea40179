//! Everything that can be wrong with training data, with file, line, field and what was expected.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use truing_store::StoreError;
use truing_types::{RowOrigin, counted};

use crate::packing::PackingError;
use crate::readers;
use crate::turns::TurnProblem;

/// What is wrong with one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowProblem {
    /// The field as a path inside the row, for example `messages[2].role`; empty for the row as a whole.
    pub field: String,
    /// What was found.
    pub kind: RowErrorKind,
    /// What should be there.
    pub expected: &'static str,
}

/// The ways in which a row can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowErrorKind {
    /// The line is not JSON.
    #[error("not JSON at byte {column} of the row: {reason}")]
    NotJson {
        /// Byte of the row, counted from 1.
        column: usize,
        /// What the parser says.
        reason: String,
    },
    /// The bytes are not UTF-8.
    #[error("not UTF-8 at byte {column} of the row")]
    NotUtf8 {
        /// Byte of the row, counted from 1.
        column: usize,
    },
    /// A row longer than any training text.
    #[error("longer than {limit} bytes")]
    TooLong {
        /// Largest number of bytes read as one row.
        limit: usize,
    },
    /// The same key twice in one object: which one counts would be a guess.
    #[error("appears twice in one object")]
    DuplicateKey,
    /// The field is not there, or null.
    #[error("is missing")]
    Missing,
    /// The value has another JSON type.
    #[error("is {0}")]
    WrongType(&'static str),
    /// The value cannot be used.
    #[error("is {0}")]
    BadValue(String),
    /// A role that is not known.
    #[error("is the unknown role `{0}`")]
    UnknownRole(String),
    /// A text or list without content.
    #[error("is empty")]
    Empty,
    /// Turns in an unexpected order, or a blank one, where the source does not allow it.
    #[error("{problem} (message {message})")]
    Turns {
        /// What is unexpected.
        problem: TurnProblem,
        /// The message, counted from 0.
        message: usize,
    },
    /// A conversation without text to train on.
    #[error("has no assistant turn that carries loss")]
    NoAssistantTurn,
}

impl RowProblem {
    pub(crate) fn new(field: impl Into<String>, kind: RowErrorKind, expected: &'static str) -> Self {
        Self { field: field.into(), kind, expected }
    }
}

impl fmt::Display for RowProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "`{}` ", self.field)?;
        }
        write!(f, "{}; expected {}", self.kind, self.expected)
    }
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct RowError {
    /// File and line.
    pub origin: RowOrigin,
    /// What is wrong.
    pub problem: RowProblem,
}

/// Data that cannot be read or used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file ends or breaks in the middle, for example a compressed file cut off.
    #[error("cannot read `{}` after row {after_row}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The last row that could be read.
        after_row: u64,
        /// What the reader said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Bad rows where none are allowed.
    #[error("{}", bad_rows(rows, *has_more))]
    BadRows {
        /// The first of them.
        rows: Vec<RowError>,
        /// The search was stopped before the end of the data.
        has_more: bool,
    },
    /// Not a file that is read here.
    #[error("`{}`: {found}; expected JSON Lines, a JSON list of objects, Parquet or plain text (.txt)", path.display())]
    UnsupportedFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A Parquet file, where the feature `parquet` is left out.
    #[error("`{}` is a Parquet file, and this program was built without the feature `parquet` of \
             truing-data", path.display())]
    WithoutParquet {
        /// The file.
        path: PathBuf,
    },
    /// A folder without data files.
    #[error(
        "`{}` holds no data file{}; expected names that end in .jsonl, .json, .ndjson, .txt (also .gz, .zst) \
         or .parquet",
        path.display(), but_unread(unread)
    )]
    NoDataFiles {
        /// The folder.
        path: PathBuf,
        /// Files that it holds and that are not read.
        unread: Vec<PathBuf>,
    },
    /// No row at all.
    #[error("`{}` holds no rows", path.display())]
    NoRows {
        /// The file or folder.
        path: PathBuf,
    },
    /// None of the first rows has the fields of a known format.
    #[error(
        "`{}`: no known format has the fields {}; expected one of: {known}; or name `format` and `columns`",
        path.display(), quoted(fields)
    )]
    UndetectedFormat {
        /// The file.
        path: PathBuf,
        /// Fields of its first row.
        fields: Vec<String>,
        /// The formats and their fields.
        known: String,
    },
    /// A format that does not exist.
    #[error("unknown format `{found}`; {}expected one of: {known}", did_you_mean(nearest))]
    UnknownFormat {
        /// As written.
        found: String,
        /// A known name that is close.
        nearest: Option<&'static str>,
        /// All names.
        known: String,
    },
    /// A column that the format does not have.
    #[error("format `{format}` has no column `{found}`; {}expected one of: {known}", did_you_mean(nearest))]
    UnknownColumn {
        /// The format.
        format: &'static str,
        /// As written in `columns`.
        found: String,
        /// A column that is close.
        nearest: Option<&'static str>,
        /// All columns.
        known: String,
    },
    /// A setting of a source that cannot be.
    #[error("source `{}`: `{setting}` {reason}", path.display())]
    BadSetting {
        /// The source.
        path: PathBuf,
        /// The key.
        setting: &'static str,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// Samples longer than allowed, under the policy `error`.
    #[error(
        "{} longer than {max_length} tokens, the first {origin} with {n_tokens}; expected \
         shorter ones, a larger `max_length`, or `long_samples` = drop, truncate or split",
        counted(*n_samples as u64, "sample is", "samples are")
    )]
    LongSamples {
        /// How many.
        n_samples: usize,
        /// Most tokens allowed.
        max_length: u32,
        /// The first one.
        origin: RowOrigin,
        /// Its tokens.
        n_tokens: usize,
    },
    /// Nothing is left to train on.
    #[error("nothing is left to train on: {}", nothing_left(*.n_rows, *.n_unused, *.n_long, *.n_without_loss))]
    NothingToLearn {
        /// Rows read, the ones left out included; samples, where rows are not known.
        n_rows: u64,
        /// Rows of which no sample was made: they cannot be read, or have nothing to compare.
        n_unused: u64,
        /// Samples that are too long.
        n_long: usize,
        /// Samples without a token that carries loss.
        n_without_loss: usize,
    },
    /// A file of vectors in an unknown format.
    #[error("`{}` cannot be a file of vectors: expected a name that ends in .npy or .jsonl", path.display())]
    UnknownVectorFile {
        /// The file.
        path: PathBuf,
    },
    /// A `.npy` that cannot be read as vectors.
    #[error("`{}` ({found}): expected a .npy of little-endian f32 with two dimensions, in C order", path.display())]
    BadNpy {
        /// The file.
        path: PathBuf,
        /// Its header, or what was found instead of an array file.
        found: String,
    },
    /// A file that cannot be replaced at once.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Sequences that cannot be packed.
    #[error(transparent)]
    Packing(#[from] PackingError),
}

impl DataError {
    /// Adds the action and path to a system error.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.into(), source }
    }
}

fn bad_rows(rows: &[RowError], has_more: bool) -> String {
    if let ([only], false) = (rows, has_more) {
        return only.to_string();
    }
    let mut text = counted(rows.len() as u64, "invalid row", "invalid rows");
    text.push_str(if has_more { " and perhaps more:" } else { ":" });
    for row in rows {
        text.push_str("\n  ");
        text.push_str(&row.to_string());
    }
    text
}

fn but_unread(unread: &[PathBuf]) -> String {
    readers::describe_unread(unread).map_or_else(String::new, |files| format!("; {files}"))
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |name| format!("did you mean `{name}`? "))
}

/// What became of the rows where none is left.
fn nothing_left(n_rows: u64, n_unused: u64, n_long: usize, n_without_loss: usize) -> String {
    let mut text = match n_rows {
        0 => "no row was read".to_owned(),
        1 => "of 1 row that was read".to_owned(),
        _ => format!("of {n_rows} rows that were read"),
    };
    let parts = [
        (n_unused, "cannot be used"),
        (n_long as u64, "too long"),
        (n_without_loss as u64, "without a token that carries loss"),
    ];
    for (n, what) in parts.into_iter().filter(|(n, _)| *n > 0) {
        let _ = write!(text, ", {n} {what}");
    }
    text
}
