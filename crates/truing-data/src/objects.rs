//! Whole rows of a file as JSON objects, for readers that know their own columns, as those of evaluation sets
//! do. Beside the formats of training data, comma- and tab-separated tables are read: a file whose name ends in
//! `.csv` or `.tsv`, its first row the names of its columns, its values texts.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use truing_types::RowOrigin;

use crate::error::{RowErrorKind, RowProblem};
use crate::{DataError, RowError, readers};

/// A row and where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectRow {
    /// Its fields.
    pub object: Map<String, Value>,
    /// File and line.
    pub origin: RowOrigin,
}

/// All rows of a file, or of the data files of a folder in name order.
///
/// # Errors
/// When a file cannot be read, or a row is no object; the error names file and line.
pub fn read_objects(path: &Path) -> Result<Vec<ObjectRow>, DataError> {
    let files = if path.is_dir() { readers::files(path)? } else { vec![path.to_path_buf()] };
    let mut rows = Vec::new();
    for file in files {
        match separator(&file) {
            Some(separator) => table_rows(&file, separator, OtherRows::Refused, &mut rows)?,
            None => object_rows(&file, OtherRows::Refused, &mut rows)?,
        }
    }
    Ok(rows)
}

/// The rows of a file that may hold something else, such as settings in JSON or an archive. Rows that are not objects
/// are skipped, and a file of another kind has no rows.
///
/// # Errors
/// When the file cannot be opened or read, or is damaged after its first rows.
pub fn readable_objects(path: &Path) -> Result<Vec<ObjectRow>, DataError> {
    let mut rows = Vec::new();
    let read = match separator(path) {
        Some(separator) => table_rows(path, separator, OtherRows::Skipped, &mut rows),
        None => object_rows(path, OtherRows::Skipped, &mut rows),
    };
    match read {
        Err(DataError::UnsupportedFile { .. }) => Ok(rows),
        Err(DataError::Broken { .. }) if rows.is_empty() => Ok(rows),
        read => read.map(|()| rows),
    }
}

/// What becomes of rows that are not objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OtherRows {
    Refused,
    Skipped,
}

fn object_rows(path: &Path, others: OtherRows, rows: &mut Vec<ObjectRow>) -> Result<(), DataError> {
    let source: Arc<str> = path.to_string_lossy().into();
    for row in readers::open(path)? {
        let row = row?;
        let origin = RowOrigin { source: Arc::clone(&source), line: row.number };
        match row.object {
            Ok(object) => rows.push(ObjectRow { object, origin }),
            Err(_) if others == OtherRows::Skipped => {}
            Err(problem) => return Err(bad_row(origin, problem)),
        }
    }
    Ok(())
}

fn bad_row(origin: RowOrigin, problem: RowProblem) -> DataError {
    DataError::BadRows { rows: vec![RowError { origin, problem }], has_more: false }
}

/// What separates the columns of a table; `None` where the name is not that of a table.
fn separator(path: &Path) -> Option<u8> {
    let ending = path.extension()?.to_string_lossy().to_lowercase();
    match ending.as_str() {
        "csv" => Some(b','),
        "tsv" => Some(b'\t'),
        _ => None,
    }
}

fn table_rows(
    path: &Path,
    separator: u8,
    others: OtherRows,
    rows: &mut Vec<ObjectRow>,
) -> Result<(), DataError> {
    let source: Arc<str> = path.to_string_lossy().into();
    let file = File::open(path).map_err(DataError::io("open", path))?;
    // A byte order mark is no part of the first column's name.
    let mut text = Vec::new();
    BufReader::new(file).read_to_end(&mut text).map_err(DataError::io("read", path))?;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let mut table = csv::ReaderBuilder::new()
        .delimiter(separator)
        // Fields of tab-separated files hold quotation marks as they are.
        .quoting(separator == b',')
        .from_reader(text);
    let problem = |error: &csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        let kind = match error.kind() {
            csv::ErrorKind::Utf8 { err, .. } => RowErrorKind::NotUtf8 { column: err.valid_up_to() + 1 },
            csv::ErrorKind::UnequalLengths { len, .. } => {
                RowErrorKind::BadValue(format!("a row of {len} columns"))
            }
            _ => RowErrorKind::BadValue(error.to_string()),
        };
        let origin = RowOrigin { source: Arc::clone(&source), line };
        bad_row(origin, RowProblem::new("", kind, "as many columns as the first row names, in UTF-8"))
    };
    let names = match table.headers() {
        Ok(names) => names.clone(),
        Err(_) if others == OtherRows::Skipped => return Ok(()),
        Err(error) => return Err(problem(&error)),
    };
    for record in table.records() {
        let record = match record {
            Ok(record) => record,
            Err(_) if others == OtherRows::Skipped => continue,
            Err(error) => return Err(problem(&error)),
        };
        let line = record.position().map_or(0, csv::Position::line);
        let fields = names.iter().zip(record.iter());
        let object = fields.map(|(name, value)| (name.trim().to_owned(), Value::from(value))).collect();
        rows.push(ObjectRow { object, origin: RowOrigin { source: Arc::clone(&source), line } });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &[u8]) -> Result<Vec<ObjectRow>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        read_objects(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn rows_of_lists_lines_and_tables_are_objects() {
        for (name, content) in [
            ("a.json", "[{\"q\": \"1, 2\"}, {\"q\": \"x\"}]"),
            ("a.jsonl", "{\"q\": \"1, 2\"}\n{\"q\": \"x\"}\n"),
            ("a.csv", "\u{feff}q\n\"1, 2\"\nx\n"),
            ("a.TSV", "q\n1, 2\nx\n"),
        ] {
            let rows = read(name, content.as_bytes()).unwrap();
            let texts: Vec<&str> = rows.iter().map(|row| row.object["q"].as_str().unwrap()).collect();
            assert_eq!(texts, ["1, 2", "x"], "{name}");
        }
        let quoted = read("a.tsv", b"q\ta\nsay \"hi\"\t3\n").unwrap();
        assert_eq!((quoted[0].object["q"].as_str(), quoted[0].origin.line), (Some("say \"hi\""), 2));
    }

    #[test]
    fn a_bad_row_is_named_with_its_line() {
        let error = read("a.csv", b"q,a\n1,2\n3\n").unwrap_err();
        assert!(error.contains("a.csv:3") && error.contains("a row of 1 columns"), "{error}");
        let error = read("a.jsonl", b"{\"q\": 1}\n[2]\n").unwrap_err();
        assert!(error.contains("a.jsonl:2"), "{error}");
        assert!(read("a.csv", b"q\n\xff\n").is_err());
    }

    #[test]
    fn rows_that_are_not_objects_are_skipped_in_a_file_of_any_kind() {
        let cases: [(&str, &[u8], usize); 6] = [
            ("settings.json", b"{\n  \"a\": 1,\n  \"b\": [2]\n}\n", 0),
            ("a.json", b"{\"q\": 1}\n[2]\n{\"q\": 3}\n", 2),
            ("archive.gz", b"PK\x03\x04 is none", 0),
            ("cut.gz", b"\x1f\x8b\x08", 0),
            ("a.csv", b"q,a\n1,2\n3\n4,5\n", 2),
            ("bytes.csv", b"\xff\n1\n", 0),
        ];
        for (name, content, n_rows) in cases {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            assert_eq!(readable_objects(&path).unwrap().len(), n_rows, "{name}");
        }
        assert!(readable_objects(Path::new("missing.json")).is_err());
    }
}
