//! One JSON list of objects, cut into its items while it is read, so that a large file needs little memory.
//! Rows are numbered from 1: a list may lie on one line.

use std::io::{self, BufRead};
use std::path::PathBuf;

use super::{MAX_ROW_BYTES, RawRow};
use crate::DataError;
use crate::error::{RowErrorKind, RowProblem};
use crate::json::parse_object;

const EXPECTED: &str = "a JSON list of objects: `[{...}, {...}]`";

pub(super) struct JsonListRows<R> {
    path: PathBuf,
    text: R,
    item: Vec<u8>,
    number: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the opening bracket.
    Start,
    /// Between two items.
    Inside,
    /// Behind the closing bracket, or broken.
    Over,
}

/// What ended an item.
enum ItemEnd {
    Comma,
    Bracket,
    EndOfFile,
}

impl<R: BufRead> JsonListRows<R> {
    pub(super) fn new(path: PathBuf, text: R) -> Self {
        Self { path, text, item: Vec::new(), number: 0, state: State::Start }
    }

    fn next_byte(&mut self) -> io::Result<Option<u8>> {
        let byte = loop {
            match self.text.fill_buf() {
                Ok(available) => break available.first().copied(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        };
        if byte.is_some() {
            self.text.consume(1);
        }
        Ok(byte)
    }

    /// Reads up to the comma or bracket behind the next item, which is left in `self.item`.
    fn read_item(&mut self) -> io::Result<(ItemEnd, usize)> {
        self.item.clear();
        let (mut depth, mut is_in_string, mut is_escaped, mut n_bytes) = (0usize, false, false, 0usize);
        while let Some(byte) = self.next_byte()? {
            if is_in_string {
                match byte {
                    _ if is_escaped => is_escaped = false,
                    b'\\' => is_escaped = true,
                    b'"' => is_in_string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => is_in_string = true,
                    b'{' | b'[' => depth += 1,
                    b',' if depth == 0 => return Ok((ItemEnd::Comma, n_bytes)),
                    b']' if depth == 0 => return Ok((ItemEnd::Bracket, n_bytes)),
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            n_bytes += 1;
            if n_bytes <= MAX_ROW_BYTES {
                self.item.push(byte);
            }
        }
        Ok((ItemEnd::EndOfFile, n_bytes))
    }

    /// The end of the list must be the end of the file.
    fn check_rest(&mut self) -> Result<(), DataError> {
        loop {
            match self.next_byte() {
                Ok(None) => return Ok(()),
                Ok(Some(byte)) if byte.is_ascii_whitespace() => {}
                Ok(Some(_)) => {
                    return Err(self.broken(format!("there is text behind the list; expected {EXPECTED}")));
                }
                Err(e) => return Err(self.broken(e)),
            }
        }
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DataError {
        DataError::Broken { path: self.path.clone(), after_row: self.number, source: source.into() }
    }

    fn next_row(&mut self) -> Result<Option<RawRow>, DataError> {
        if self.state == State::Over {
            return Ok(None);
        }
        while self.state == State::Start {
            match self.next_byte().map_err(|e| self.broken(e))? {
                Some(b'[') => self.state = State::Inside,
                Some(_) => {}
                None => return Ok(None),
            }
        }
        let (end, n_bytes) = self.read_item().map_err(|e| self.broken(e))?;
        let is_blank = self.item.iter().all(u8::is_ascii_whitespace);
        match end {
            ItemEnd::EndOfFile => {
                return Err(self.broken(format!("the list is cut off; expected {EXPECTED}")));
            }
            ItemEnd::Bracket => {
                self.state = State::Over;
                self.check_rest()?;
                if is_blank && self.number == 0 {
                    return Ok(None);
                }
            }
            ItemEnd::Comma => {}
        }
        self.number += 1;
        let object = if n_bytes > MAX_ROW_BYTES {
            Err(RowProblem::new("", RowErrorKind::TooLong { limit: MAX_ROW_BYTES }, EXPECTED))
        } else if is_blank {
            Err(RowProblem::new("", RowErrorKind::Empty, EXPECTED))
        } else {
            parse_object(&self.item)
        };
        Ok(Some(RawRow::new(self.number, object)))
    }
}

impl<R: BufRead> Iterator for JsonListRows<R> {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row();
        if row.is_err() {
            self.state = State::Over;
        }
        row.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row texts, or `Err` for a bad row; a broken file ends them with its message.
    fn check_rows(text: &str, expected: &[&str]) {
        let found: Vec<String> = JsonListRows::new("t".into(), text.as_bytes())
            .map(|row| match row {
                Ok(row) => match row.object {
                    Ok(object) => serde_json::to_string(&object).unwrap(),
                    Err(problem) => format!("bad: {problem}"),
                },
                Err(DataError::Broken { source, .. }) => format!("broken: {source}"),
                Err(other) => other.to_string(),
            })
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn items_are_cut_at_the_right_commas() {
        check_rows(
            " [ {\"a\":[1,{\"b\":2}]} ,\n{\"c\":\"],\\\"}[\"}\n]\n",
            &[r#"{"a":[1,{"b":2}]}"#, r#"{"c":"],\"}["}"#],
        );
        check_rows("[]", &[]);
        check_rows("[ \n ]", &[]);
    }

    #[test]
    fn broken_lists_are_errors() {
        let cut = "broken: the list is cut off; expected a JSON list of objects: `[{...}, {...}]`";
        check_rows("[{\"a\":1}", &[cut]);
        check_rows("[{\"a\":1},{\"b\"", &[r#"{"a":1}"#, cut]);
        check_rows("[1]", &["bad: is a number; expected one JSON object per row"]);
        check_rows(
            "[{\"a\":1},]",
            &[r#"{"a":1}"#, "bad: is empty; expected a JSON list of objects: `[{...}, {...}]`"],
        );
        check_rows(
            "[{\"a\":1}] x",
            &["broken: there is text behind the list; expected a JSON list of objects: `[{...}, {...}]`"],
        );
    }
}
