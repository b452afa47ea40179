//! 1 when the completion is JSON that is valid against a schema (drafts 4 to 2020-12, formats checked), 0 otherwise.
//!
//! Patterns are Rust's regular expressions, so no pattern takes exponential time; `\<` and `\>` are signs, as
//! in JavaScript's. Schemas of rows refer to nothing outside themselves: neither files nor addresses are
//! opened.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;

use boon::{Compiler, Draft, SchemaIndex, Schemas, UrlLoader};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use truing_types::{Unscored, UnscoredReason};

use crate::RewardError;
use crate::completion::{Completion, RewardFunction};
use crate::verifiers::python_regex;

/// Settings of [`JsonSchema`]: the schema comes from one of three places.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JsonSchemaConfig {
    /// The schema, as a table or as a JSON string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// File with the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "content"))]
    pub file: Option<PathBuf>,
    /// Column with the schema of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Read the last closed ```` ```json ```` block and ignore the text around it. Otherwise the whole answer has to be
    /// JSON.
    pub anywhere: bool,
}

/// Checks completions against a schema.
pub struct JsonSchema {
    source: Source,
    anywhere: bool,
}

enum Source {
    One(Box<CompiledSchema>),
    /// Schemas of rows by their text, each compiled once.
    Column(String, HashMap<String, Result<Box<CompiledSchema>, String>>),
}

impl std::fmt::Debug for JsonSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonSchema").field("anywhere", &self.anywhere).finish_non_exhaustive()
    }
}

/// A schema that values are checked against. It refers to nothing outside itself.
pub struct CompiledSchema {
    schemas: Schemas,
    index: SchemaIndex,
}

impl std::fmt::Debug for CompiledSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledSchema").finish_non_exhaustive()
    }
}

impl CompiledSchema {
    /// Compiles a schema, given as JSON or as a string that holds it.
    ///
    /// # Errors
    /// Why it is no valid schema.
    pub fn new(schema: Value) -> Result<Self, String> {
        let mut schema = match schema {
            Value::String(text) => {
                serde_json::from_str(&text).map_err(|error| format!("is not valid JSON: {error}"))?
            }
            other => other,
        };
        translate_patterns(&mut schema);
        let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
        compiler.set_default_draft(Draft::V2020_12);
        compiler.enable_format_assertions();
        compiler.use_loader(Box::new(NothingElse));
        let no_schema = |error| format!("is not a valid schema: {error:#}");
        compiler.add_resource(ADDRESS, schema).map_err(no_schema)?;
        let index = compiler.compile(ADDRESS, &mut schemas).map_err(no_schema)?;
        Ok(Self { schemas, index })
    }

    /// Checks a value.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        self.schemas.validate(value, self.index).map_err(|error| error.to_string())
    }

    fn is_valid(&self, text: &str) -> bool {
        serde_json::from_str(text).is_ok_and(|value| self.check(&value).is_ok())
    }
}

/// Patterns with `\<` and `\>` as JSON Schema reads them. Values that a schema only compares with stay as they are.
fn translate_patterns(schema: &mut Value) {
    match schema {
        Value::Array(parts) => parts.iter_mut().for_each(translate_patterns),
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("const" | "enum" | "default" | "examples", _) => {}
                    ("pattern", Value::String(pattern)) => {
                        *pattern = python_regex::translated(pattern).into_owned();
                    }
                    ("patternProperties", Value::Object(patterns)) => {
                        let old = std::mem::take(patterns);
                        let translated = |pattern: String| python_regex::translated(&pattern).into_owned();
                        patterns.extend(old.into_iter().map(|(pattern, part)| (translated(pattern), part)));
                        patterns.values_mut().for_each(translate_patterns);
                    }
                    (_, value) => translate_patterns(value),
                }
            }
        }
        _ => {}
    }
}

/// The place of the one schema; only a name.
const ADDRESS: &str = "schema:///reward";

struct NothingElse;

impl UrlLoader for NothingElse {
    fn load(&self, address: &str) -> Result<Value, Box<dyn Error>> {
        Err(format!("{address} is another document, which is not read").into())
    }
}

impl JsonSchema {
    /// Reads and compiles the schema.
    ///
    /// # Errors
    /// When not exactly one place is named, or what is found there is not a valid schema.
    pub fn new(config: JsonSchemaConfig) -> Result<Self, RewardError> {
        let bad = |key: &'static str, reason: String| RewardError::BadSetting {
            reward: "json_schema",
            key,
            reason,
        };
        let compile = |key: &'static str, schema: Value| {
            CompiledSchema::new(schema)
                .map(|compiled| Source::One(Box::new(compiled)))
                .map_err(|reason| bad(key, reason))
        };
        let source = match (config.schema, config.file, config.column) {
            (Some(schema), None, None) => compile("schema", schema)?,
            (None, Some(file), None) => {
                let text = std::fs::read_to_string(&file).map_err(|error| RewardError::UnreadFile {
                    reward: "json_schema",
                    key: "file",
                    path: file,
                    reason: error.to_string(),
                })?;
                compile("file", Value::String(text))?
            }
            (None, None, Some(column)) => Source::Column(column, HashMap::new()),
            _ => {
                return Err(bad(
                    "schema",
                    "is one of three: expected `schema`, `file` or `column`, and only one".into(),
                ));
            }
        };
        Ok(Self { source, anywhere: config.anywhere })
    }

    fn score_one(&mut self, completion: &Completion<'_>) -> Result<f64, Unscored> {
        let compiled = match &mut self.source {
            Source::One(compiled) => compiled,
            Source::Column(column, known) => {
                let missing = || {
                    let detail = format!("{}: the row has no `{column}`", completion.origin);
                    Unscored::new(UnscoredReason::MissingReference, detail)
                };
                let schema =
                    completion.columns.get(column).filter(|schema| !schema.is_null()).ok_or_else(missing)?;
                let compiled = known
                    .entry(schema.to_string())
                    .or_insert_with(|| CompiledSchema::new(schema.clone()).map(Box::new));
                compiled.as_ref().map_err(|reason| {
                    let detail = format!("{}: `{column}` {reason}", completion.origin);
                    Unscored::new(UnscoredReason::BadReference, detail)
                })?
            }
        };
        let text = json_part(completion.text, self.anywhere);
        Ok(f64::from(u8::from(text.is_some_and(|text| compiled.is_valid(text)))))
    }
}

impl RewardFunction for JsonSchema {
    fn name(&self) -> &str {
        "json_schema"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        completions.iter().map(|completion| self.score_one(completion)).collect()
    }
}

/// The text, or the inside of a fence marked as JSON.
fn json_part(text: &str, anywhere: bool) -> Option<&str> {
    const OPENS: &str = "```json";
    const CLOSES: &str = "```";
    let text = text.trim();
    if anywhere && let Some(at) = text.rfind(OPENS) {
        return text[at + OPENS.len()..].split_once(CLOSES).map(|(inside, _)| inside);
    }
    match text.strip_prefix(OPENS) {
        Some(rest) => rest.strip_suffix(CLOSES),
        None => Some(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};
    use truing_types::{Conversation, FinishReason, RowOrigin};

    fn score(config: Value, text: &str, columns: Value) -> Result<f64, Unscored> {
        let mut schema = JsonSchema::new(serde_json::from_value(config).unwrap()).unwrap();
        let columns: Map<String, Value> = serde_json::from_value(columns).unwrap();
        let (prompt, origin) = (Conversation::default(), RowOrigin { source: "a.jsonl".into(), line: 2 });
        let finish_reason = FinishReason::EndOfTurn;
        let completion = Completion {
            prompt: &prompt,
            text,
            n_tokens: 9,
            finish_reason,
            columns: &columns,
            origin: &origin,
        };
        schema.score(&[completion, completion]).pop().unwrap()
    }

    fn person() -> Value {
        json!({
            "type": "object",
            "properties": {"name": {"type": "string"}, "born": {"type": "string", "format": "date"}},
            "required": ["name"],
            "additionalProperties": false,
        })
    }

    #[test]
    fn only_valid_json_is_right() {
        let inline = json!({"schema": person()});
        for (text, expect) in [
            (r#"{"name": "Ada", "born": "1815-12-10"}"#, 1.0),
            ("\n```json\n{\"name\": \"Ada\"}\n```\n", 1.0),
            (r#"{"name": "Ada", "born": "in winter"}"#, 0.0),
            (r#"{"name": 3}"#, 0.0),
            (r#"{"name": "Ada", "age": 3}"#, 0.0),
            (r#"{"name": "Ada",}"#, 0.0),
            ("```json\n{\"name\": \"Ada\"}", 0.0),
            ("Here:\n```json\n{\"name\": \"Ada\"}\n```", 0.0),
            ("", 0.0),
        ] {
            assert_eq!(score(inline.clone(), text, json!({})), Ok(expect), "{text}");
        }
        let anywhere = json!({"schema": person().to_string(), "anywhere": true});
        for (text, expect) in [
            ("First\n```json\n{}\n```\nbetter:\n```json\n{\"name\": \"Ada\"}\n```\nDone.", 1.0),
            ("First\n```json\n{\"name\": \"Ada\"}\n```\nworse:\n```json\n{}\n```", 0.0),
            (r#"{"name": "Ada"}"#, 1.0),
            ("```json\n{\"name\": \"Ada\"}", 0.0),
        ] {
            assert_eq!(score(anywhere.clone(), text, json!({})), Ok(expect), "{text}");
        }
    }

    #[test]
    fn schemas_come_from_files_and_rows_as_well() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), person().to_string()).unwrap();
        let text = r#"{"name": "Ada"}"#;
        assert_eq!(score(json!({"file": file.path()}), text, json!({})), Ok(1.0));
        assert_eq!(score(json!({"file": file.path()}), "[]", json!({})), Ok(0.0));
        let column = json!({"column": "shape"});
        assert_eq!(score(column.clone(), text, json!({"shape": person()})), Ok(1.0));
        assert_eq!(score(column.clone(), "[]", json!({"shape": person().to_string()})), Ok(0.0));
        let reason = |columns: Value| score(column.clone(), text, columns).unwrap_err().to_string();
        assert_eq!(reason(json!({})), "missing_reference: a.jsonl:2: the row has no `shape`");
        assert!(
            reason(json!({"shape": {"type": 3}}))
                .starts_with("bad_reference: a.jsonl:2: `shape` is not a valid schema")
        );
        assert!(
            reason(json!({"shape": "{"})).starts_with("bad_reference: a.jsonl:2: `shape` is not valid JSON")
        );
        let elsewhere = format!("file://{}", file.path().display());
        for address in [elsewhere.as_str(), "https://example.org/x.json", "other.json"] {
            let found = reason(json!({"shape": {"$ref": address}}));
            assert!(found.contains("is another document, which is not read"), "{found}");
        }
        assert_eq!(
            score(column, "3", json!({"shape": {"$ref": "#/$defs/n", "$defs": {"n": {"minimum": 3}}}})),
            Ok(1.0)
        );
    }

    #[test]
    fn escaped_brackets_in_patterns_are_signs() {
        let schema = json!({
            "type": "object",
            "properties": {"a": {"pattern": r"^\<b\>$"}, "pattern": {"const": {"pattern": r"\<"}}},
            "patternProperties": {r"^\<": {"type": "number"}},
            "additionalProperties": false,
        });
        for (text, expect) in [
            (r#"{"a": "<b>"}"#, 1.0),
            (r#"{"a": "b"}"#, 0.0),
            (r#"{"<x": 3}"#, 1.0),
            (r#"{"<x": "3"}"#, 0.0),
            (r#"{"pattern": {"pattern": "\\<"}}"#, 1.0),
        ] {
            assert_eq!(score(json!({"schema": schema.clone()}), text, json!({})), Ok(expect), "{text}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let refused =
            |config: Value| JsonSchema::new(serde_json::from_value(config).unwrap()).unwrap_err().to_string();
        let one = "reward `json_schema`: `schema` is one of three: expected `schema`, `file` or `column`, and only one";
        assert_eq!(refused(json!({})), one);
        assert_eq!(refused(json!({"schema": {}, "column": "a"})), one);
        assert!(
            refused(json!({"file": "/no/such/file"}))
                .starts_with("reward `json_schema`: `file` is /no/such/file: ")
        );
        assert!(
            refused(json!({"schema": {"type": "objekt"}}))
                .starts_with("reward `json_schema`: `schema` is not a valid schema")
        );
        assert!(
            refused(json!({"schema": {"pattern": "("}}))
                .starts_with("reward `json_schema`: `schema` is not a valid schema")
        );
    }
}
