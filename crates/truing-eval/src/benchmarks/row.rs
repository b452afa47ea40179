//! A row of a benchmark's file, its columns read with errors that name file, line, column and what was expected.

use std::fmt::Write as _;

use serde_json::{Map, Value};
use truing_data::ObjectRow;
use truing_types::{RowOrigin, nearest_name};

use super::BenchmarkError;

/// Characters of a wrong value that an error repeats.
const MAX_QUOTED: usize = 60;

/// A row.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a>(pub &'a ObjectRow);

impl<'a> Row<'a> {
    /// Its fields.
    #[must_use]
    pub fn object(self) -> &'a Map<String, Value> {
        &self.0.object
    }

    /// Where it is.
    #[must_use]
    pub fn origin(self) -> &'a RowOrigin {
        &self.0.origin
    }

    /// A column that is there and not null.
    #[must_use]
    pub fn get(self, column: &str) -> Option<&'a Value> {
        self.0.object.get(column).filter(|value| !value.is_null())
    }

    /// A column of which there must be a value.
    ///
    /// # Errors
    /// When there is none.
    pub fn value(self, column: &str, expected: &'static str) -> Result<&'a Value, BenchmarkError> {
        self.get(column).ok_or_else(|| BenchmarkError::MissingColumn {
            origin: self.origin().clone(),
            column: column.to_owned(),
            expected,
            nearest: nearest_name(column, self.0.object.keys().map(String::as_str)).map(str::to_owned),
        })
    }

    /// A text.
    ///
    /// # Errors
    /// When the column is missing or no text.
    pub fn text(self, column: &str) -> Result<&'a str, BenchmarkError> {
        let value = self.value(column, "a text")?;
        value.as_str().ok_or_else(|| self.bad(column, value, "a text"))
    }

    /// A text that may be left out.
    ///
    /// # Errors
    /// When the column is there and no text.
    pub fn optional_text(self, column: &str) -> Result<Option<&'a str>, BenchmarkError> {
        self.get(column).map(|_| self.text(column)).transpose()
    }

    /// A text or a number, as text: names of items come in both forms.
    ///
    /// # Errors
    /// When the column is missing or something else.
    pub fn name(self, column: &str) -> Result<String, BenchmarkError> {
        match self.value(column, "a text or a number")? {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            other => Err(self.bad(column, other, "a text or a number")),
        }
    }

    /// The first of several columns that is there, as the item's name; the line where none is.
    ///
    /// # Errors
    /// When it is neither text nor number.
    pub fn name_or_line(self, columns: &[&str]) -> Result<String, BenchmarkError> {
        match columns.iter().find(|column| self.get(column).is_some()) {
            Some(column) => self.name(column),
            None => Ok(self.origin().line.to_string()),
        }
    }

    /// A list.
    ///
    /// # Errors
    /// When the column is missing or no list.
    pub fn list(self, column: &str) -> Result<&'a [Value], BenchmarkError> {
        let value = self.value(column, "a list")?;
        value.as_array().map(Vec::as_slice).ok_or_else(|| self.bad(column, value, "a list"))
    }

    /// A list of texts that is not empty.
    ///
    /// # Errors
    /// When the column is missing or something else.
    pub fn texts(self, column: &str) -> Result<Vec<&'a str>, BenchmarkError> {
        let list = self.list(column)?;
        let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
        texts
            .filter(|texts| !texts.is_empty())
            .ok_or_else(|| self.bad(column, &Value::from(list.to_vec()), "a list of texts, at least one"))
    }

    /// A whole number of 0 or more, also written as a text.
    ///
    /// # Errors
    /// When the column is missing or something else.
    pub fn count(self, column: &str) -> Result<usize, BenchmarkError> {
        let value = self.value(column, "a whole number")?;
        let number = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number
            .and_then(|number| usize::try_from(number).ok())
            .ok_or_else(|| self.bad(column, value, "a whole number"))
    }

    /// The error of a value that is not what is expected.
    #[must_use]
    pub fn bad(self, column: &str, found: &Value, expected: impl Into<String>) -> BenchmarkError {
        let text = found.to_string();
        let mut shown: String = text.chars().take(MAX_QUOTED).collect();
        if shown.len() < text.len() {
            let _ = write!(shown, "... ({} characters)", text.chars().count());
        }
        BenchmarkError::BadColumn {
            origin: self.origin().clone(),
            column: column.to_owned(),
            found: format!("`{shown}`"),
            expected: expected.into(),
        }
    }
}
