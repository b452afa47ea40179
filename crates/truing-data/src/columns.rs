//! Finding a format's columns in a row: by their own names, by the user's mapping, or by a prompt template.
//!
//! A path such as `instances.0.output` walks objects by key and lists by index; a key that holds dots itself is
//! found first.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::{RowErrorKind, RowProblem};
use crate::json::type_name;

/// How the columns of a format are found in the rows of one source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Columns {
    /// Column of the format to path in the row.
    pub(crate) mapping: BTreeMap<String, String>,
    /// Makes the prompt (or instruction) out of several fields.
    pub(crate) prompt_template: Option<PromptTemplate>,
}

/// A row seen through the columns of its source.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub(crate) row: &'a Map<String, Value>,
    pub(crate) columns: &'a Columns,
    /// Its structs have null for every key that they lack, as those of Parquet have.
    pub(crate) pads_nulls: bool,
}

impl<'a> Fields<'a> {
    /// The path at which a column is looked for.
    pub(crate) fn path(&self, column: &'a str) -> &'a str {
        self.columns.mapping.get(column).map_or(column, String::as_str)
    }

    /// The value of a column; null counts as not there.
    pub(crate) fn get(&self, column: &'a str) -> Option<&'a Value> {
        find(self.row, self.path(column))
    }

    pub(crate) fn missing(&self, column: &'a str, expected: &'static str) -> RowProblem {
        RowProblem::new(self.path(column), RowErrorKind::Missing, expected)
    }

    /// Whether a field of the row is named in the source's settings, or holds what is named there.
    pub(crate) fn is_named(&self, key: &str) -> bool {
        let is_in =
            |path: &str| path == key || path.strip_prefix(key).is_some_and(|inside| inside.starts_with('.'));
        let template = self.columns.prompt_template.iter().flat_map(|template| &template.pieces);
        let mut in_template = template.filter_map(|piece| match piece {
            Piece::Field(path) => Some(path.as_str()),
            Piece::Text(_) => None,
        });
        self.columns.mapping.values().any(|path| is_in(path)) || in_template.any(is_in)
    }

    /// A text that may be left out.
    pub(crate) fn optional_text(&self, column: &'a str) -> Result<Option<&'a str>, RowProblem> {
        self.get(column).map(|value| text(value, self.path(column))).transpose()
    }

    /// A text that must be there.
    pub(crate) fn required_text(&self, column: &'a str) -> Result<&'a str, RowProblem> {
        self.optional_text(column)?.ok_or_else(|| self.missing(column, "a string"))
    }
}

/// A value that must be a string.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str, RowProblem> {
    value
        .as_str()
        .ok_or_else(|| RowProblem::new(field, RowErrorKind::WrongType(type_name(value)), "a string"))
}

fn find<'a>(row: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = row.get(path) {
        return Some(value).filter(|v| !v.is_null());
    }
    let mut parts = path.split('.');
    let mut value = row.get(parts.next()?)?;
    for part in parts {
        value = match value {
            Value::Object(object) => object.get(part)?,
            Value::Array(list) => list.get(part.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value).filter(|v| !v.is_null())
}

/// Text with `{path}` for fields of the row; `{{` and `}}` are braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PromptTemplate {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(String),
}

impl PromptTemplate {
    /// Reads a template; the error says what is wrong with it.
    pub(crate) fn parse(template: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
            } else if brace == "}" {
                return Err("has a `}` without `{`; expected `}}` for a brace".to_owned());
            } else {
                let end = rest.find('}').ok_or("has a `{` without `}`; expected `{field}`")?;
                if rest[..end].trim().is_empty() {
                    return Err("has an empty `{}`; expected `{field}`".to_owned());
                }
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
                pieces.push(Piece::Field(rest[..end].trim().to_owned()));
                rest = &rest[end + 1..];
            }
        }
        literal.push_str(rest);
        pieces.push(Piece::Text(literal));
        if pieces.len() == 1 {
            return Err("names no field; expected at least one `{field}`".to_owned());
        }
        Ok(Self { pieces })
    }

    /// Fills the template from a row. White space left at the end, for example by an empty last field, is removed.
    pub(crate) fn render(&self, row: &Map<String, Value>) -> Result<String, RowProblem> {
        let mut rendered = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(literal) => rendered.push_str(literal),
                Piece::Field(path) => match find(row, path) {
                    Some(value) => rendered.push_str(text(value, path)?),
                    None => {
                        let expected = "a string, because `prompt_template` names it";
                        return Err(RowProblem::new(path, RowErrorKind::Missing, expected));
                    }
                },
            }
        }
        rendered.truncate(rendered.trim_end().len());
        Ok(rendered)
    }

    /// Whether a row has every field that the template names.
    pub(crate) fn fits(&self, row: &Map<String, Value>) -> bool {
        self.pieces.iter().all(|piece| match piece {
            Piece::Text(_) => true,
            Piece::Field(path) => find(row, path).is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn paths_walk_objects_and_lists() {
        let row = row(json!({"a": {"b": [{"c": 1}, null]}, "x.y": 2, "x": {"y": 3}}));
        assert_eq!(find(&row, "a.b.0.c"), Some(&json!(1)));
        assert_eq!(find(&row, "a.b.1"), None);
        assert_eq!(find(&row, "a.b.z"), None);
        assert_eq!(find(&row, "x.y"), Some(&json!(2)));
    }

    #[test]
    fn templates_fill_escape_and_trim() {
        let row = row(json!({"instruction": "Add.", "instances": [{"input": ""}, {"input": "1 {2}"}]}));
        let render = |template| PromptTemplate::parse(template).unwrap().render(&row);
        assert_eq!(render("{instruction}\n\n{instances.0.input}").unwrap(), "Add.");
        assert_eq!(render("{{x}} {instruction}: {instances.1.input}").unwrap(), "{x} Add.: 1 {2}");
        assert_eq!(
            render("{nope}").unwrap_err().to_string(),
            "`nope` is missing; expected a string, because `prompt_template` names it"
        );
        for bad in ["a }", "{a", "{}", "no field"] {
            assert!(PromptTemplate::parse(bad).is_err(), "{bad}");
        }
    }
}
