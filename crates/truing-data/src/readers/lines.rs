//! A row a line: JSON Lines with one object each, or plain text. Only `\n` ends a line: U+2028, U+2029, U+0085 and
//! `\r` inside strings do not, and a `\r` before the `\n` is white space. Empty lines are passed over but counted.

use std::io::{self, BufRead};
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{MAX_ROW_BYTES, RawRow};
use crate::DataError;
use crate::error::{RowErrorKind, RowProblem};
use crate::json::parse_object;

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineKind {
    /// A JSON object.
    Object,
    /// A text; the row is `{"text": line}`.
    Text,
}

impl LineKind {
    fn parse(self, line: &[u8]) -> Result<Map<String, Value>, RowProblem> {
        match self {
            Self::Object => parse_object(line),
            Self::Text => match std::str::from_utf8(line) {
                Ok(text) => {
                    Ok(Map::from_iter([("text".to_owned(), Value::from(text.trim_end_matches('\r')))]))
                }
                Err(error) => {
                    let kind = RowErrorKind::NotUtf8 { column: error.valid_up_to() + 1 };
                    Err(RowProblem::new("", kind, "a line of text in UTF-8"))
                }
            },
        }
    }
}

pub(super) struct LineRows<R> {
    path: PathBuf,
    kind: LineKind,
    text: R,
    line: Vec<u8>,
    number: u64,
    is_over: bool,
}

impl<R: BufRead> LineRows<R> {
    pub(super) fn new(path: PathBuf, kind: LineKind, text: R) -> Self {
        Self { path, kind, text, line: Vec::new(), number: 0, is_over: false }
    }
}

/// Reads to the next `\n`, keeping at most `limit` bytes; returns how many there were, 0 at the end.
fn read_line(text: &mut impl BufRead, line: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    line.clear();
    let mut n_bytes = 0;
    loop {
        let available = match text.fill_buf() {
            Ok(available) => available,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if available.is_empty() {
            return Ok(n_bytes);
        }
        let end = available.iter().position(|&b| b == b'\n');
        let n_taken = end.map_or(available.len(), |at| at + 1);
        let n_kept = n_taken.min(limit - line.len());
        line.extend_from_slice(&available[..n_kept]);
        text.consume(n_taken);
        n_bytes += n_taken;
        if end.is_some() {
            return Ok(n_bytes);
        }
    }
}

impl<R: BufRead> Iterator for LineRows<R> {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over {
            let n_bytes = match read_line(&mut self.text, &mut self.line, MAX_ROW_BYTES) {
                Ok(0) => break,
                Ok(n_bytes) => n_bytes,
                Err(e) => {
                    self.is_over = true;
                    let path = self.path.clone();
                    return Some(Err(DataError::Broken {
                        path,
                        after_row: self.number,
                        source: Box::new(e),
                    }));
                }
            };
            self.number += 1;
            if self.line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let object = if n_bytes > MAX_ROW_BYTES {
                let kind = RowErrorKind::TooLong { limit: MAX_ROW_BYTES };
                Err(RowProblem::new("", kind, "one row per line"))
            } else {
                let without_end = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
                self.kind.parse(without_end)
            };
            return Some(Ok(RawRow::new(self.number, object)));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_newlines_end_lines() {
        let text = "{\"a\":\"x\u{2028}y\u{85}z\"}\r\n\n \n{\"a\":2}";
        let rows: Vec<_> =
            LineRows::new("t".into(), LineKind::Object, text.as_bytes()).map(Result::unwrap).collect();
        assert_eq!(rows.iter().map(|r| r.number).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(rows[0].object.as_ref().unwrap()["a"], "x\u{2028}y\u{85}z");
    }

    #[test]
    fn a_line_of_text_is_a_row() {
        let rows: Vec<_> = LineRows::new("t".into(), LineKind::Text, &b"Hello {}\r\n\n\xff\n"[..])
            .map(Result::unwrap)
            .collect();
        assert_eq!(rows[0].object.as_ref().unwrap()["text"], "Hello {}");
        assert_eq!(rows[1].number, 3);
        assert!(rows[1].object.is_err());
    }

    #[test]
    fn a_line_beyond_the_limit_is_passed_in_bounded_memory() {
        let text = format!("{}\nshort\n", "x".repeat(100_000));
        let mut text = io::BufReader::with_capacity(64, text.as_bytes());
        let mut line = Vec::new();
        assert_eq!(read_line(&mut text, &mut line, 10).unwrap(), 100_001);
        assert_eq!(line, b"xxxxxxxxxx");
        assert_eq!(read_line(&mut text, &mut line, 10).unwrap(), 6);
        assert_eq!(line, b"short\n");
        assert_eq!(read_line(&mut text, &mut line, 10).unwrap(), 0);
    }
}
