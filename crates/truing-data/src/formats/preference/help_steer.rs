//! HelpSteer2: one response a row, with its aspects (0 to 4) beside `prompt` and `response`; the rows of a prompt
//! follow one another and become one. The score is the column `score`, which is `helpfulness` unless `columns` says
//! otherwise. To be named: nothing tells these rows from single scored answers.

use std::iter::Peekable;
use std::path::Path;

use serde_json::{Map, Value, json};
use truing_types::PreferenceRow;

use super::ranked;
use crate::DataError;
use crate::columns::{Columns, Fields};
use crate::error::{RowErrorKind, RowProblem};
use crate::formats::{Format, optional, required};
use crate::readers::{self, RawRow, RawRows};
use crate::render::Render;

pub(super) const FORMAT: Format<PreferenceRow> = Format {
    name: "help_steer",
    example: r#"{"prompt": "Hi", "responses": [{"content": "Hello.", "score": 4}, {"content": "What?", "score": 1}]}"#,
    columns: &[required("prompt"), required("response"), optional("score")],
    takes_prompt_template: false,
    takes_render: false,
    open,
    detect: |_| false,
    parse,
};

/// Columns were mapped when the rows were joined.
fn parse(fields: Fields<'_>, render: Render) -> Result<PreferenceRow, RowProblem> {
    ranked::parse(Fields { columns: &Columns::default(), ..fields }, render)
}

fn open(path: &Path, columns: &Columns) -> Result<RawRows, DataError> {
    let rows = readers::open(path)?.peekable();
    Ok(Box::new(Grouped { rows, columns: columns.clone() }))
}

struct Grouped {
    rows: Peekable<RawRows>,
    columns: Columns,
}

impl Grouped {
    /// The prompt of a row and its response in the shape of a ranked list.
    fn response(&self, row: &Map<String, Value>) -> Result<(Value, Value), RowProblem> {
        let fields = Fields { row, columns: &self.columns, pads_nulls: false };
        let get = |column| fields.get(column).ok_or_else(|| fields.missing(column, "a string"));
        let score = if self.columns.mapping.contains_key("score") { "score" } else { "helpfulness" };
        let score = fields.get(score).ok_or_else(|| fields.missing(score, "a number"))?;
        let used = [fields.path("prompt"), fields.path("response")];
        let aspects: Map<String, Value> = row
            .iter()
            .filter(|(key, value)| value.is_number() && !used.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let response = json!({"content": get("response")?, "score": score, "scores": aspects});
        Ok((get("prompt")?.clone(), response))
    }
}

impl Iterator for Grouped {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let RawRow { number, object, pads_nulls } = match self.rows.next()? {
            Ok(row) => row,
            Err(error) => return Some(Err(error)),
        };
        let (prompt, first) = match object.and_then(|object| self.response(&object)) {
            Ok(found) => found,
            Err(problem) => return Some(Ok(RawRow { number, object: Err(problem), pads_nulls })),
        };
        let mut responses = vec![first];
        loop {
            // A row that is bad in itself is left for the next call to report.
            let same = match self.rows.peek() {
                Some(Ok(RawRow { object: Ok(object), .. })) => {
                    let object = object.clone();
                    self.response(&object).ok().filter(|(next, _)| *next == prompt)
                }
                _ => None,
            };
            let Some((_, response)) = same else { break };
            self.rows.next();
            responses.push(response);
        }
        let object = if responses.len() < 2 {
            let kind = RowErrorKind::BadValue("in this row only".to_owned());
            Err(RowProblem::new("prompt", kind, "two or more rows in a row with the same prompt"))
        } else {
            let mut object = Map::new();
            object.insert("prompt".to_owned(), prompt);
            object.insert("responses".to_owned(), Value::Array(responses));
            Ok(object)
        };
        Some(Ok(RawRow { number, object, pads_nulls }))
    }
}
