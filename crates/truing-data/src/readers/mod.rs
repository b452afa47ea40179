//! Rows out of files, one at a time: JSON Lines and JSON lists (plain, gzip, zstd; recognised by their first bytes, not
//! their names), Parquet, and plain text with one row per line (recognised by its name, `.txt`).

mod folder;
mod json_list;
mod lines;
#[cfg(feature = "parquet")]
mod parquet;
#[cfg(not(feature = "parquet"))]
#[path = "without_parquet.rs"]
mod parquet;

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use serde_json::{Map, Value};

pub(crate) use self::folder::{describe_unread, files, unread};
use self::lines::{LineKind, LineRows};
use crate::DataError;
use crate::error::RowProblem;

/// A row that holds more bytes than this is a mistake, not a text.
const MAX_ROW_BYTES: usize = 256 << 20;
const BUFFER_BYTES: usize = 1 << 17;

/// One row of a file.
pub(crate) struct RawRow {
    /// Line of JSON Lines, else row number; counted from 1.
    pub(crate) number: u64,
    /// Its object, or why there is none.
    pub(crate) object: Result<Map<String, Value>, RowProblem>,
    /// Its structs have null for every key that they lack, as those of Parquet have.
    pub(crate) pads_nulls: bool,
}

impl RawRow {
    /// A row whose nulls are in the data, not added by Arrow.
    pub(crate) fn new(number: u64, object: Result<Map<String, Value>, RowProblem>) -> Self {
        Self { number, object, pads_nulls: false }
    }
}

/// The rows of a file. An error ends them.
pub(crate) type RawRows = Box<dyn Iterator<Item = Result<RawRow, DataError>> + Send>;

/// Opens a data file of any kind.
pub(crate) fn open(path: &Path) -> Result<RawRows, DataError> {
    let mut file = File::open(path).map_err(DataError::io("open", path))?;
    let mut magic = Vec::new();
    file.by_ref().take(4).read_to_end(&mut magic).map_err(DataError::io("read", path))?;
    let unsupported = |found| DataError::UnsupportedFile { path: path.to_path_buf(), found };
    if magic.starts_with(b"PAR1") {
        return match file.rewind() {
            Ok(()) => parquet::rows(path, file),
            // Its table of contents is at its end.
            Err(_) => Err(unsupported("it is Parquet in a pipe, expected Parquet in a file")),
        };
    }
    // A pipe gives its first bytes once only.
    let whole = Cursor::new(magic.clone()).chain(file);
    let text: Box<dyn Read + Send> = match magic[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            Box::new(zstd::Decoder::new(whole).map_err(DataError::io("decompress", path))?)
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err(unsupported("it is UTF-16")),
        [b'P', b'K', 3, 4] => return Err(unsupported("it is a zip archive")),
        [b'B', b'Z', b'h', _] => return Err(unsupported("it is compressed with bzip2")),
        [0xfd, b'7', b'z', b'X'] => return Err(unsupported("it is compressed with xz")),
        [b'A', b'R', b'R', b'O'] => return Err(unsupported("it is an Arrow file")),
        _ => Box::new(whole),
    };
    let mut text = BufReader::with_capacity(BUFFER_BYTES, text);
    let broken = |e| DataError::Broken { path: path.to_path_buf(), after_row: 0, source: Box::new(e) };
    let n_bom = if text.fill_buf().map_err(broken)?.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    text.consume(n_bom);
    if stem(path).ends_with(".txt") {
        return Ok(Box::new(LineRows::new(path.to_path_buf(), LineKind::Text, text)));
    }
    // A row of JSON Lines is an object and never begins with a bracket.
    let first = text.fill_buf().map_err(broken)?.iter().find(|b| !b.is_ascii_whitespace());
    if first == Some(&b'[') {
        Ok(Box::new(json_list::JsonListRows::new(path.to_path_buf(), text)))
    } else {
        Ok(Box::new(LineRows::new(path.to_path_buf(), LineKind::Object, text)))
    }
}

/// A file's name in small letters, without what says that it is compressed.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name).to_owned()
}
