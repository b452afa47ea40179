//! JSON as rows need it: nothing is guessed. `serde_json` keeps the last of two equal keys; here that is an error. It
//! rounds numbers that are larger or finer than it can hold; [`numbers`](crate::numbers) says what becomes of them
//! here.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{RowErrorKind, RowProblem};
use crate::numbers::{KEPT_NUMBER, first_rounded, rounded_columns};

const EXPECTED_ROW: &str = "one JSON object per row";

/// Parses one row: a JSON object.
pub(crate) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, RowProblem> {
    let whole = |kind| RowProblem::new("", kind, EXPECTED_ROW);
    let text = std::str::from_utf8(bytes)
        .map_err(|e| whole(RowErrorKind::NotUtf8 { column: e.valid_up_to() + 1 }))?;
    let Parsed { value, duplicate, has_floats } = parse(text);
    match (value, duplicate) {
        (_, Some(key)) => Err(RowProblem::new(key, RowErrorKind::DuplicateKey, "every key once")),
        (Ok(Value::Object(mut row)), _) => {
            if !has_floats {
                return Ok(row);
            }
            if let Some(rounded) = first_rounded(text, false) {
                let kind = RowErrorKind::BadValue(rounded.to_string());
                return Err(RowProblem::new(rounded.path, kind, KEPT_NUMBER));
            }
            for (column, number) in rounded_columns(text) {
                if let Some(value) = row.get_mut(column) {
                    *value = Value::from(number);
                }
            }
            Ok(row)
        }
        (Ok(other), _) => Err(RowProblem::new("", RowErrorKind::WrongType(type_name(&other)), EXPECTED_ROW)),
        (Err(error), _) => Err(whole(not_json(text, &error))),
    }
}

/// Parses a JSON text kept inside a string, for example the `tools` of many data sets.
///
/// # Errors
/// What the string is instead, for [`RowErrorKind::BadValue`].
pub(crate) fn parse_nested(text: &str) -> Result<Value, String> {
    let Parsed { value, duplicate, has_floats } = parse(text);
    match (value, duplicate) {
        (_, Some(key)) => {
            Err(format!("a string that is not JSON (the key `{key}` appears twice in one object)"))
        }
        (Err(error), _) => Err(format!("a string that is not JSON ({error})")),
        (Ok(value), _) => match has_floats.then(|| first_rounded(text, true)).flatten() {
            None => Ok(value),
            Some(rounded) => Err(format!("a string with {rounded}")),
        },
    }
}

/// What a JSON text holds.
struct Parsed {
    value: serde_json::Result<Value>,
    /// The first key that an object has twice.
    duplicate: Option<String>,
    /// Whether it holds numbers that are no integers of 64 bits.
    has_floats: bool,
}

fn parse(text: &str) -> Parsed {
    let (duplicate, has_floats) = (RefCell::new(None), Cell::new(false));
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict { duplicate: &duplicate, has_floats: &has_floats }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    Parsed { value, duplicate: duplicate.into_inner(), has_floats: has_floats.get() }
}

/// A JSON type with its article, for messages.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn not_json(text: &str, error: &serde_json::Error) -> RowErrorKind {
    let message = error.to_string();
    let mut reason = message.split(" at line ").next().unwrap_or_default().to_owned();
    // Lines are cut at \n before they come here, so the line of the error tells only of lists spread over lines.
    let line_start: usize =
        text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let column = line_start + error.column();
    let near = text.get(column.saturating_sub(1)..).unwrap_or_default();
    let word: String = near.chars().take_while(|c| c.is_ascii_alphabetic()).collect();
    if matches!(&word[..], "NaN" | "Infinity" | "None" | "True" | "False" | "undefined") {
        reason = format!("`{word}` is not a JSON value");
    } else if reason.contains("hex escape") || reason.contains("surrogate") {
        // serde_json says this of `\ud83d` without its second half, which Python's json writes and reads.
        reason =
            "a `\\u` escape that is not a character: half of a surrogate pair, or not four digits".to_owned();
    }
    RowErrorKind::NotJson { column, reason }
}

/// Builds a [`Value`], and notes the first key that an object has twice, and whether there are floating-point numbers.
#[derive(Clone, Copy)]
struct Strict<'a> {
    duplicate: &'a RefCell<Option<String>>,
    has_floats: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.has_floats.set(true);
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(self)?;
            if object.contains_key(&key) {
                self.duplicate.borrow_mut().get_or_insert(key);
                return Err(A::Error::custom("duplicate key"));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// An entry that is there and not null: Parquet writes null for every key that a row lacks.
pub(crate) fn entry<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|v| !v.is_null())
}

pub(crate) fn list<'a>(
    value: &'a Value,
    field: &str,
    expected: &'static str,
) -> Result<&'a Vec<Value>, RowProblem> {
    value
        .as_array()
        .ok_or_else(|| RowProblem::new(field, RowErrorKind::WrongType(type_name(value)), expected))
}

pub(crate) fn object<'a>(
    value: &'a Value,
    field: &str,
    expected: &'static str,
) -> Result<&'a Map<String, Value>, RowProblem> {
    value
        .as_object()
        .ok_or_else(|| RowProblem::new(field, RowErrorKind::WrongType(type_name(value)), expected))
}

/// The value itself, or what a string holds as JSON.
pub(crate) fn unquoted<'a>(
    value: &'a Value,
    field: &str,
    expected: &'static str,
) -> Result<std::borrow::Cow<'a, Value>, RowProblem> {
    let Value::String(text) = value else { return Ok(std::borrow::Cow::Borrowed(value)) };
    parse_nested(text)
        .map(std::borrow::Cow::Owned)
        .map_err(|found| RowProblem::new(field, RowErrorKind::BadValue(found), expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(row: &[u8], message: &str) {
        assert_eq!(parse_object(row).unwrap_err().to_string(), message);
    }

    #[test]
    fn every_kind_of_non_json_is_named() {
        check_refused(
            br#"{"a": NaN}"#,
            "not JSON at byte 7 of the row: `NaN` is not a JSON value; expected one JSON object per row",
        );
        check_refused(
            br#"{"a": -Infinity}"#,
            "not JSON at byte 8 of the row: `Infinity` is not a JSON value; expected one JSON object per row",
        );
        check_refused(
            br#"{"a": True}"#,
            "not JSON at byte 7 of the row: `True` is not a JSON value; expected one JSON object per row",
        );
        check_refused(
            br#"{"a": "x"#,
            "not JSON at byte 8 of the row: EOF while parsing a string; expected one JSON object per row",
        );
        check_refused(
            br#"{"a": 1} {"a": 2}"#,
            "not JSON at byte 10 of the row: trailing characters; expected one JSON object per row",
        );
        check_refused(br#"["a"]"#, "is a list; expected one JSON object per row");
        check_refused(
            b"{\"a\": \"\xff\"}",
            "not UTF-8 at byte 8 of the row; expected one JSON object per row",
        );
        check_refused(
            br#"{"a": {"b": 1, "b": 2}}"#,
            "`b` appears twice in one object; expected every key once",
        );
        assert!(parse_object(br#"{"a": "\ud800"}"#).unwrap_err().to_string().contains("surrogate"));
        assert!(parse_object(br#"{"a": "\udc00x"}"#).unwrap_err().to_string().contains("surrogate"));
        assert!(parse_object(br#"{"a": 1e999}"#).unwrap_err().to_string().contains("out of range"));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500));
        assert!(parse_object(deep.as_bytes()).unwrap_err().to_string().contains("recursion limit"));
    }

    #[test]
    fn a_number_of_a_call_that_would_be_rounded_is_refused() {
        check_refused(
            br#"{"messages": [{"tool_calls": [{"name": "pay", "arguments": {"wei": 100000000000000000000}}]}]}"#,
            "`messages[0].tool_calls[0].arguments.wei` is the number 100000000000000000000, which would be rounded; \
             expected an integer of 64 bits, a decimal number of at most 15 significant digits, one of 16 or 17 as a \
             double is written out, or a string",
        );
        // A column keeps its digits as a text.
        let row =
            parse_object(br#"{"answer": 100000000000000000000, "score": 0.1, "tools": [{"maximum": 1e5}]}"#);
        let row = row.unwrap();
        assert_eq!((&row["answer"], &row["score"]), (&"100000000000000000000".into(), &0.1.into()));
        assert_eq!(
            parse_nested(r#"{"share": 0.1000000000000000055}"#).unwrap_err(),
            "a string with the number 0.1000000000000000055, which would be rounded"
        );
        assert!(parse_nested(r#"{"share": 0.1, "n": 1.0}"#).is_ok());
    }

    #[test]
    fn what_is_json_comes_through_whole() {
        let row = r#"{"b":[1,-2,2.5,true,null],"a":{"text":"é\u2028\u0085\r"}}"#;
        let expected: Value = serde_json::from_str(row).unwrap();
        assert_eq!(Value::Object(parse_object(row.as_bytes()).unwrap()), expected);
    }
}
