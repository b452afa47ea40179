//! Plain texts and triplets of texts, one at a time: what an embedding is made of and learns from. Whatever a row holds
//! beside them is passed over.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use truing_types::RowOrigin;

use crate::columns::text;
use crate::error::{RowErrorKind, RowProblem};
use crate::readers::{self, RawRow, RawRows};
use crate::{DataError, RowError};

/// Fields that hold a row's text, the first that there is.
pub const TEXT_FIELDS: [&str; 6] = ["text", "prompt", "instruction", "question", "query", "sentence"];

/// Three texts, of which the first two belong together and the first and third do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Triplet {
    /// What the others are compared with.
    pub anchor: String,
    /// A text of the anchor's kind.
    pub positive: String,
    /// A text of another kind.
    pub negative: String,
    /// What kind the anchor is of, where the row says so (`group`).
    pub group: Option<String>,
    /// What kind the negative is of, where the row says so (`negative_group`).
    pub negative_group: Option<String>,
    /// The row it was read from.
    pub origin: RowOrigin,
}

/// One text and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRow {
    /// The text.
    pub text: String,
    /// The row it was read from.
    pub origin: RowOrigin,
}

/// The data files behind a path: itself, or those of a folder in name order.
///
/// # Errors
/// When the folder cannot be listed or holds no data file.
pub fn data_files(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    readers::files(path)
}

/// The files of a folder that are not read, sorted by path: names with other endings, hidden files, descriptions of
/// data sets, and every file of a subfolder. At most 10,000 are collected.
///
/// # Errors
/// When the folder cannot be listed.
pub fn unread_files(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    readers::unread(path)
}

/// Says how many files are not read, why, and which; `None` where there are none.
#[must_use]
pub fn describe_unread<P: AsRef<Path>>(files: &[P]) -> Option<String> {
    readers::describe_unread(files)
}

/// Rows of triplets, of a file or of all files of a folder: objects with `anchor`, `positive` and `negative`, and if
/// they like `group` and `negative_group`, of any type. After a bad row ([`DataError::BadRows`]) reading continues; any
/// other error ends them.
///
/// # Errors
/// When a file cannot be opened; later, when a row cannot be read or misses a field.
pub fn read_triplets(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Triplet, DataError>> + use<>, DataError> {
    Ok(FilesRows::open(path)?.map(|row| {
        let (origin, row) = row?;
        let read = |object: &Map<String, Value>| {
            let field = |name: &str| match object.get(name) {
                Some(value) if !value.is_null() => text(value, name).map(str::to_owned),
                _ => Err(RowProblem::new(name, RowErrorKind::Missing, "a string")),
            };
            let group = |name: &str| object.get(name).filter(|value| !value.is_null()).map(Value::to_string);
            Ok(Triplet {
                anchor: field("anchor")?,
                positive: field("positive")?,
                negative: field("negative")?,
                group: group("group"),
                negative_group: group("negative_group"),
                origin: origin.clone(),
            })
        };
        match row.object.and_then(|object| read(&object)) {
            Ok(triplet) => Ok(triplet),
            Err(problem) => Err(bad_row(origin, problem)),
        }
    }))
}

/// The texts of a file: of every row the field that is named or else the first of [`TEXT_FIELDS`]; of a file whose name
/// ends in `.txt` every line. An error ends them.
///
/// # Errors
/// When the file cannot be opened; later, when a row cannot be read or misses its field.
pub fn read_texts(path: &Path, field: Option<&str>) -> Result<TextRows, DataError> {
    let is_plain = path.extension().is_some_and(|extension| extension == "txt");
    let rows = if is_plain {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        Texts::Lines(BufReader::new(file), 0)
    } else {
        Texts::Rows(readers::open(path)?, field.map(str::to_owned))
    };
    Ok(TextRows { path: path.to_path_buf(), origin: Origins::new(path), rows })
}

/// Texts of a file, in its order.
pub struct TextRows {
    path: PathBuf,
    origin: Origins,
    rows: Texts,
}

enum Texts {
    Lines(BufReader<File>, u64),
    Rows(RawRows, Option<String>),
}

impl std::fmt::Debug for TextRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextRows").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Iterator for TextRows {
    type Item = Result<TextRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.rows {
            Texts::Lines(lines, number) => {
                let mut text = String::new();
                *number += 1;
                match lines.read_line(&mut text) {
                    Ok(0) => None,
                    Ok(_) => {
                        text.truncate(text.trim_end_matches(['\n', '\r']).len());
                        Some(Ok(TextRow { text, origin: self.origin.of(*number) }))
                    }
                    Err(error) => Some(Err(DataError::Broken {
                        path: self.path.clone(),
                        after_row: *number - 1,
                        source: Box::new(error),
                    })),
                }
            }
            Texts::Rows(rows, field) => Some(rows.next()?.and_then(|row| {
                let origin = self.origin.of(row.number);
                match row.object.and_then(|object| text_of(&object, field.as_deref())) {
                    Ok(text) => Ok(TextRow { text, origin }),
                    Err(problem) => Err(bad_row(origin, problem)),
                }
            })),
        }
    }
}

fn text_of(row: &Map<String, Value>, field: Option<&str>) -> Result<String, RowProblem> {
    let value = |name: &str| row.get(name).filter(|value| !value.is_null());
    let name = match field {
        Some(name) => value(name).map(|_| name),
        None => TEXT_FIELDS.into_iter().find(|name| value(name).is_some()),
    };
    match name.and_then(|name| Some((name, value(name)?))) {
        Some((name, value)) => text(value, name).map(str::to_owned),
        None => {
            let expected = "a string, or another field to be named";
            Err(RowProblem::new(field.unwrap_or(TEXT_FIELDS[0]), RowErrorKind::Missing, expected))
        }
    }
}

/// The rows of several files, one file after the other.
struct FilesRows {
    files: VecDeque<PathBuf>,
    current: Option<(Origins, RawRows)>,
}

impl FilesRows {
    fn open(path: &Path) -> Result<Self, DataError> {
        let mut rows = Self { files: readers::files(path)?.into(), current: None };
        rows.open_next()?;
        Ok(rows)
    }

    fn open_next(&mut self) -> Result<(), DataError> {
        self.current = match self.files.pop_front() {
            Some(path) => Some((Origins::new(&path), readers::open(&path)?)),
            None => None,
        };
        Ok(())
    }
}

impl Iterator for FilesRows {
    type Item = Result<(RowOrigin, RawRow), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((origins, rows)) = &mut self.current {
            match rows.next() {
                Some(row) => return Some(row.map(|row| (origins.of(row.number), row))),
                None => {
                    self.current = None;
                    if let Err(error) = self.open_next() {
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }
}

/// Names the rows of a file.
struct Origins(Arc<str>);

impl Origins {
    fn new(path: &Path) -> Self {
        Self(path.to_string_lossy().into())
    }

    fn of(&self, line: u64) -> RowOrigin {
        RowOrigin { source: Arc::clone(&self.0), line }
    }
}

fn bad_row(origin: RowOrigin, problem: RowProblem) -> DataError {
    DataError::BadRows { rows: vec![RowError { origin, problem }], has_more: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn triplets_are_read_and_a_missing_field_is_named_with_its_line() {
        let row = r#"{"anchor":"a","positive":"p","negative":"n","more":1}"#;
        let (_folder, path) = file("t.jsonl", &format!("{row}\n\n{}\n", row.replace("positive", "other")));
        let rows: Vec<_> = read_triplets(&path).unwrap().collect();
        let first = rows[0].as_ref().unwrap();
        assert_eq!(
            (first.anchor.as_str(), first.positive.as_str(), first.negative.as_str()),
            ("a", "p", "n")
        );
        let message = rows[1].as_ref().unwrap_err().to_string();
        assert!(message.ends_with("t.jsonl:3: `positive` is missing; expected a string"), "{message}");
    }

    #[test]
    fn texts_are_the_named_field_the_first_known_one_or_lines() {
        let texts = |path: &Path, field| -> Vec<String> {
            read_texts(path, field).unwrap().map(|row| row.unwrap().text).collect()
        };
        let (_folder, path) =
            file("a.jsonl", "{\"prompt\":\"x\",\"b\":\"y\"}\n{\"text\":\"z\",\"b\":\"w\"}\n");
        assert_eq!(texts(&path, None), ["x", "z"]);
        assert_eq!(texts(&path, Some("b")), ["y", "w"]);
        let error = read_texts(&path, Some("prompt")).unwrap().nth(1).unwrap().unwrap_err().to_string();
        assert!(error.contains("a.jsonl:2: `prompt` is missing"), "{error}");
        let (_folder, path) = file("a.txt", "one\r\n\ntwo");
        assert_eq!(texts(&path, None), ["one", "", "two"]);
    }
}
