//! Parquet through its record interface: columns become JSON values, nested lists and structs included. One row
//! group is in memory at a time. Rows are numbered from 1.

use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use serde_json::Value;

use super::{RawRow, RawRows};
use crate::DataError;

pub(super) fn rows(path: &Path, file: File) -> Result<RawRows, DataError> {
    let broken =
        |source| DataError::Broken { path: path.to_path_buf(), after_row: 0, source: Box::new(source) };
    let reader = guarded(|| SerializedFileReader::new(file)).and_then(|reader| reader).map_err(broken)?;
    Ok(Box::new(ParquetRows { path: path.to_path_buf(), rows: Some(reader.into_iter()), number: 0 }))
}

/// The library panics on some damaged files; to a reader of files that is one more error.
fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, ParquetError> {
    std::panic::catch_unwind(AssertUnwindSafe(read)).map_err(|panic| {
        let reason =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        ParquetError::General(format!(
            "the file is damaged: {}",
            reason.unwrap_or("its levels do not fit its schema")
        ))
    })
}

struct ParquetRows {
    path: PathBuf,
    /// `None` after an error.
    rows: Option<RowIter<'static>>,
    number: u64,
}

impl Iterator for ParquetRows {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.rows.as_mut()?;
        match guarded(|| rows.next()).unwrap_or_else(|panic| Some(Err(panic)))? {
            Ok(row) => {
                self.number += 1;
                let object = match row.to_json_value() {
                    Value::Object(object) => object,
                    // A row is a group and a group is an object.
                    _ => serde_json::Map::new(),
                };
                Some(Ok(RawRow { number: self.number, object: Ok(object), pads_nulls: true }))
            }
            Err(source) => {
                self.rows = None;
                let path = self.path.clone();
                Some(Err(DataError::Broken { path, after_row: self.number, source: Box::new(source) }))
            }
        }
    }
}
