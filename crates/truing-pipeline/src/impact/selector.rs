//! What is to be removed: rows with a value in a field.

use serde_json::{Map, Value};

use crate::PipelineError;
use crate::lineage::files::RowFile;

/// Names for several fields.
const GROUPS: [(&[&str], &[&str]); 5] = [
    (&["model", "teacher"], &["model", "chosen_model", "rejected_model"]),
    (&["judge"], &["judge", "verdicts.judge"]),
    (&["annotator"], &["annotator", "annotators"]),
    (&["source", "dataset"], &["source", "dataset"]),
    (&["license", "licence"], &["license", "licence"]),
];
/// A list of responses, of which single ones can be removed.
const RESPONSES: &str = "responses";

/// Rows that are to be removed: those with a value in one of some fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    text: String,
    fields: Vec<String>,
    value: String,
    /// Fields of a single response.
    response_fields: Vec<String>,
    /// Whether it may name a file from outside.
    may_be_file: bool,
}

/// What a selector finds in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Match {
    /// Nothing.
    No,
    /// The row is to go.
    Row,
    /// Some of its responses are to go, by their places.
    Responses(Vec<usize>),
}

impl Selector {
    /// Reads `FIELD=VALUE`. `a.b` reaches into fields, and into all entries of lists. `model` (or `teacher`), `judge`,
    /// `annotator`, `source` and `license` select every field in which stages record them.
    ///
    /// # Errors
    /// When the text has another form.
    pub fn parse(text: &str) -> Result<Self, PipelineError> {
        let bad = || {
            let reason = format!(
                "`{text}` selects nothing: expected `FIELD=VALUE`, for instance `model=NAME` or `license=NAME`"
            );
            PipelineError::Lineage { reason }
        };
        let (field, value) = text.split_once('=').ok_or_else(bad)?;
        let (field, value) = (field.trim(), value.trim());
        if field.is_empty() || value.is_empty() || field.split('.').any(str::is_empty) {
            return Err(bad());
        }
        let group = GROUPS.iter().find(|(names, _)| names.contains(&field));
        let fields = match group {
            Some((_, fields)) => fields.iter().map(ToString::to_string).collect(),
            None => vec![field.to_owned()],
        };
        let of_model = group.is_some_and(|(names, _)| names.contains(&"model"));
        let inside = field.strip_prefix("responses.").map(str::to_owned);
        let response_fields = if of_model { vec!["model".to_owned()] } else { inside.into_iter().collect() };
        let may_be_file = group.is_some_and(|(names, _)| names.contains(&"source"));
        Ok(Self { text: text.to_owned(), fields, value: value.to_owned(), response_fields, may_be_file })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a text of a stage's settings is the value.
    pub(crate) fn is_value(&self, text: &str) -> bool {
        text == self.value
    }

    /// Whether it names a file from outside, by its name with or without its ending.
    pub(crate) fn is_file(&self, file: &RowFile) -> bool {
        let name = file.file_name();
        let plain = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
        let stem = plain.rsplit_once('.').map_or(plain, |(stem, _)| stem);
        self.may_be_file && file.owner.is_none() && (name == self.value || stem == self.value)
    }

    /// What is to go of a row.
    pub(crate) fn find(&self, row: &Map<String, Value>) -> Match {
        let is_in = |field: &String| {
            let parts: Vec<&str> = field.split('.').collect();
            // A column may have the dots in its name.
            row.get(field).is_some_and(|value| self.is_at(value, &[]))
                || parts
                    .split_first()
                    .is_some_and(|(first, rest)| row.get(*first).is_some_and(|value| self.is_at(value, rest)))
        };
        let Some(Value::Array(responses)) = row.get(RESPONSES).filter(|_| !self.response_fields.is_empty())
        else {
            return if self.fields.iter().any(is_in) { Match::Row } else { Match::No };
        };
        let mut others = self.fields.iter().filter(|field| !field.starts_with("responses."));
        if others.any(is_in) {
            return Match::Row;
        }
        let is_hit = |response: &Value| {
            let at = |field: &String| {
                let parts: Vec<&str> = field.split('.').collect();
                self.is_at(response, &parts)
            };
            self.response_fields.iter().any(at)
        };
        let hits: Vec<usize> = (0..responses.len()).filter(|&place| is_hit(&responses[place])).collect();
        match hits.len() {
            0 => Match::No,
            n if n == responses.len() => Match::Row,
            _ => Match::Responses(hits),
        }
    }

    /// Whether the value is at the end of a path, in any entry of a list.
    fn is_at(&self, value: &Value, path: &[&str]) -> bool {
        match (value, path) {
            (Value::Array(list), _) => list.iter().any(|entry| self.is_at(entry, path)),
            (Value::Object(fields), [first, rest @ ..]) => {
                fields.get(*first).is_some_and(|inner| self.is_at(inner, rest))
            }
            (Value::String(text), []) => *text == self.value,
            (Value::Number(number), []) => number.to_string() == self.value,
            (Value::Bool(flag), []) => (if *flag { "true" } else { "false" }) == self.value,
            _ => false,
        }
    }
}

impl Match {
    /// What two selectors find together in a row of so many responses.
    pub(crate) fn and(self, other: Self, n_responses: usize) -> Self {
        match (self, other) {
            (Self::Row, _) | (_, Self::Row) => Self::Row,
            (Self::No, found) | (found, Self::No) => found,
            (Self::Responses(mut places), Self::Responses(more)) => {
                places.extend(more);
                places.sort_unstable();
                places.dedup();
                if places.len() == n_responses { Self::Row } else { Self::Responses(places) }
            }
        }
    }
}

/// A row without some of its responses.
pub(crate) fn without_responses(row: &mut Map<String, Value>, places: &[usize]) {
    if let Some(Value::Array(responses)) = row.get_mut(RESPONSES) {
        let mut place = 0;
        responses.retain(|_| {
            place += 1;
            !places.contains(&(place - 1))
        });
    }
}

/// Responses of a row.
pub(crate) fn n_responses(row: &Map<String, Value>) -> usize {
    row.get(RESPONSES).and_then(Value::as_array).map_or(0, Vec::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(selector: &str, row: &str) -> Match {
        Selector::parse(selector).unwrap().find(&serde_json::from_str(row).unwrap())
    }

    #[test]
    fn a_selector_reaches_the_fields_that_stages_write() {
        for (selector, row, expected) in [
            ("model=a", r#"{"model": "a"}"#, Match::Row),
            ("teacher=a", r#"{"chosen_model": "b", "rejected_model": "a"}"#, Match::Row),
            ("model=a", r#"{"model": "ab"}"#, Match::No),
            ("model=a", r#"{"responses": [{"model": "b"}, {"model": "a"}]}"#, Match::Responses(vec![1])),
            ("model=a", r#"{"responses": [{"model": "a"}]}"#, Match::Row),
            ("responses.seed=3", r#"{"responses": [{"seed": 3}, {"seed": 4}]}"#, Match::Responses(vec![0])),
            ("judge=j", r#"{"verdicts": [{"judge": "i"}, {"judge": "j"}]}"#, Match::Row),
            ("annotator=eve", r#"{"annotators": ["bob", "eve"]}"#, Match::Row),
            ("source=web", r#"{"source": "web"}"#, Match::Row),
            ("source=web", r#"{"source": {"path": "web", "line": 1}}"#, Match::No),
            ("licence=MIT", r#"{"license": "MIT"}"#, Match::Row),
            ("meta.year=2020", r#"{"meta": {"year": 2020}}"#, Match::Row),
            ("meta.year=2020", r#"{"meta.year": "2020"}"#, Match::Row),
            ("meta=2020", r#"{"meta": {"year": 2020}}"#, Match::No),
        ] {
            assert_eq!(found(selector, row), expected, "{selector} in {row}");
        }
        for bad in ["model", "=a", "model=", "a..b=c"] {
            let error = Selector::parse(bad).unwrap_err().to_string();
            assert!(error.contains("expected `FIELD=VALUE`"), "{error}");
        }
    }

    #[test]
    fn a_source_may_be_a_file_by_its_name_with_or_without_its_ending() {
        let is_file = |selector: &str, name: &str| {
            let file = RowFile { owner: None, name: name.into(), path: format!("/data/{name}").into() };
            Selector::parse(selector).unwrap().is_file(&file)
        };
        assert!(is_file("source=rows", "rows.jsonl") && is_file("dataset=rows.jsonl", "rows.jsonl"));
        assert!(is_file("source=rows.v2", "rows.v2.jsonl.gz") && !is_file("source=rows", "rows.v2.jsonl"));
        assert!(!is_file("model=rows", "rows.jsonl"));
    }

    #[test]
    fn responses_of_several_selectors_are_removed_together() {
        let (one, two) = (Match::Responses(vec![0]), Match::Responses(vec![2, 0]));
        assert_eq!(one.clone().and(two.clone(), 3), Match::Responses(vec![0, 2]));
        assert_eq!(one.clone().and(two, 2), Match::Row);
        assert_eq!(one.clone().and(Match::No, 3), one);
        let mut row: Map<String, Value> = serde_json::from_str(r#"{"responses": [1, 2, 3]}"#).unwrap();
        without_responses(&mut row, &[0, 2]);
        assert_eq!((n_responses(&row), &row["responses"][0]), (1, &2.into()));
    }
}
