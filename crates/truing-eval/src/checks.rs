//! Questions whose answers a program can grade. White space around an answer is cut off; nothing else is forgiven.

use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use truing_types::{Conversation, Message};

use crate::pipeline::GradedAnswer;

/// The name of the set.
const SET: &str = "graded questions";

/// A line that is not a test item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {reason}", path.display())]
pub struct BadItem {
    /// The file.
    pub path: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// One question.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Its name.
    pub id: String,
    /// The conversation; the model writes the next turn.
    pub messages: Vec<Message>,
    /// What counts as right.
    pub grade: Grade,
    /// What is tested, in a few words.
    pub about: String,
}

/// What counts as right.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Grade {
    /// The answer is this, letter for letter.
    Exact {
        /// The text.
        answer: String,
    },
    /// The whole answer reads as a number and equals this one.
    Number {
        /// The number.
        answer: f64,
    },
    /// The whole answer is one JSON object with exactly these keys, in any order, and these values.
    JsonKeys {
        /// The keys.
        keys: Vec<String>,
        /// A value for each key.
        values: Map<String, Value>,
    },
    /// The pattern matches.
    Regex {
        /// The pattern, anchored by itself.
        #[serde(deserialize_with = "pattern")]
        pattern: Regex,
    },
    /// The answer contains the text.
    Contains {
        /// The text.
        text: String,
    },
}

fn pattern<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Regex, D::Error> {
    Regex::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// Reads test items, one JSON object a line; `path` is for messages.
///
/// # Errors
/// When a line is no such item; the error names file and line.
pub fn read_items<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Vec<T>, BadItem> {
    let lines = bytes.split(|&byte| byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(idx, line)| {
            serde_json::from_slice(line).map_err(|error| BadItem {
                path: path.to_owned(),
                line: idx + 1,
                reason: error.to_string(),
            })
        })
        .collect()
}

/// A conversation as a person reads it; a single question is shown alone.
#[must_use]
pub fn text_of(messages: &[Message]) -> String {
    match messages {
        [only] => only.content.clone(),
        turns => {
            let lines = turns.iter().map(|turn| format!("{}: {}", turn.role.as_str(), turn.content));
            lines.collect::<Vec<_>>().join("\n")
        }
    }
}

impl Check {
    /// What the model is asked.
    #[must_use]
    pub fn conversation(&self) -> Conversation {
        Conversation { messages: self.messages.clone(), tools: Vec::new() }
    }

    /// Grades an answer.
    #[must_use]
    pub fn grade(&self, answer: &str) -> GradedAnswer {
        GradedAnswer {
            id: self.id.clone(),
            set: SET.into(),
            about: self.about.clone(),
            prompt: text_of(&self.messages),
            expected: self.grade.to_string(),
            answer: answer.to_owned(),
            is_right: self.grade.passes(answer),
        }
    }
}

impl Grade {
    /// Whether an answer is right.
    #[must_use]
    pub fn passes(&self, answer: &str) -> bool {
        let answer = answer.trim();
        match self {
            Self::Exact { answer: expected } => answer == expected,
            Self::Number { answer: expected } => {
                answer.parse::<f64>().is_ok_and(|number| number.is_finite() && number == *expected)
            }
            Self::JsonKeys { keys, values } => {
                serde_json::from_str::<Map<String, Value>>(answer).is_ok_and(|object| {
                    object.len() == keys.len()
                        && keys.iter().all(|key| match (object.get(key), values.get(key)) {
                            (Some(found), Some(expected)) => is_same(found, expected),
                            (found, None) => found.is_some(),
                            (None, Some(_)) => false,
                        })
                })
            }
            Self::Regex { pattern } => pattern.is_match(answer),
            Self::Contains { text } => answer.contains(text),
        }
    }
}

/// Equality of JSON values in which 4 and 4.0 are one number.
fn is_same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        _ => left == right,
    }
}

impl std::fmt::Display for Grade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact { answer } => write!(f, "{answer}"),
            Self::Number { answer } => write!(f, "{answer}"),
            Self::JsonKeys { keys, values } => {
                let parts: Vec<String> = keys
                    .iter()
                    .map(|key| match values.get(key) {
                        Some(value) => format!("{key} = {value}"),
                        None => key.clone(),
                    })
                    .collect();
                write!(f, "one JSON object with exactly {}", parts.join(", "))
            }
            Self::Regex { pattern } => write!(f, "what matches {pattern}"),
            Self::Contains { text } => write!(f, "anything with {text:?} in it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_grade(grade: &str, right: &[&str], wrong: &[&str]) {
        let grade: Grade = serde_json::from_str(grade).unwrap();
        for answer in right {
            assert!(grade.passes(answer), "{answer:?} should pass: {grade}");
        }
        for answer in wrong {
            assert!(!grade.passes(answer), "{answer:?} should not pass: {grade}");
        }
    }

    #[test]
    fn each_kind_of_grade_passes_what_it_should_and_nothing_else() {
        check_grade(r#"{"kind":"exact","answer":"no"}"#, &["no", " no\n"], &["No", "no.", ""]);
        check_grade(r#"{"kind":"number","answer":5}"#, &["5", "5.0", " 5 "], &["five", "5 days", "6", "NaN"]);
        check_grade(
            r#"{"kind":"json_keys","keys":["a","n"],"values":{"a":"x","n":4}}"#,
            &[r#"{"a": "x", "n": 4}"#, r#"{"n":4.0,"a":"x"}"#],
            &[
                r#"{"a":"x"}"#,
                r#"{"a":"x","n":4,"z":1}"#,
                r#"{"a":"x","n":"4"}"#,
                r#"Sure: {"a":"x","n":4}"#,
                "[]",
            ],
        );
        check_grade(
            r#"{"kind":"regex","pattern":"^(- [^\\n]+\\n){1}- [^\\n]+$"}"#,
            &["- a\n- b", "- a\n- b\n"],
            &["- a", "- a\n- b\n- c", "Two:\n- a\n- b"],
        );
        check_grade(r#"{"kind":"contains","text":"ab"}"#, &["xaby"], &["xay"]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let text = b"{\"id\":\"a\",\"messages\":[],\"grade\":{\"kind\":\"exact\",\"answer\":\"x\"},\
            \"about\":\"\"}\n\n{\"id\":1}\n";
        let error = read_items::<Check>(Path::new("checks.jsonl"), text).unwrap_err().to_string();
        assert!(error.starts_with("checks.jsonl:3: "), "{error}");
    }
}
