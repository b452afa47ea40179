//! The fields of a request. Each is honoured, or refused by name; none is silently ignored.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use truing_types::nearest_name;

use crate::error::ApiError;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// It does what it says; with a remark.
    Honoured(&'static str),
    /// It may have the values that change nothing; with those values.
    Neutral(&'static str),
    /// Refused, unless it is `null`; with the reason.
    Refused(&'static str),
}

/// A field that an endpoint knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldInfo {
    /// Its name.
    pub name: &'static str,
    /// What becomes of it.
    pub handling: Handling,
}

/// An endpoint that reads a JSON body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The path.
    pub path: &'static str,
    /// The fields that it knows. All others are refused.
    pub fields: &'static [FieldInfo],
}

/// A field that is honoured.
pub(crate) const fn honoured(name: &'static str, remark: &'static str) -> FieldInfo {
    FieldInfo { name, handling: Handling::Honoured(remark) }
}

/// A field that may have only the values that change nothing.
pub(crate) const fn neutral(name: &'static str, values: &'static str) -> FieldInfo {
    FieldInfo { name, handling: Handling::Neutral(values) }
}

/// A field that is refused.
pub(crate) const fn refused(name: &'static str, reason: &'static str) -> FieldInfo {
    FieldInfo { name, handling: Handling::Refused(reason) }
}

/// The fields of an object that have not been read yet.
#[derive(Debug)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// The path of the object, with a dot at its end; empty for the body itself.
    path: String,
}

impl Fields {
    /// The fields of a request's body.
    pub(crate) fn of_body(body: &[u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(body)
            .map_err(|error| ApiError::bad_request(format!("the body is not UTF-8: {error}")))?;
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(Self { map, path: String::new() }),
            Ok(_) => Err(ApiError::bad_request("the body is not a JSON object")),
            Err(error) => Err(ApiError::bad_request(format!("the body is not valid JSON: {error}"))),
        }
    }

    /// The fields of an object inside a request.
    pub(crate) fn of_value(path: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { map, path: format!("{path}.") }),
            value => Err(ApiError::value(path, &value, "an object")),
        }
    }

    /// The path of a field.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// Takes a field out; `null` is no value.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Looks at a field without taking it.
    pub(crate) fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    fn take_as<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match read(&value) {
            Some(found) => Ok(Some(found)),
            None => Err(ApiError::value(self.path(name), &value, expected)),
        }
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.take_as(name, "true or false", Value::as_bool)
    }

    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        self.take_as(name, &expected, |value| value.as_f64().filter(|number| range.contains(number)))
    }

    pub(crate) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let expected = match *range.end() {
            i64::MAX => format!("an integer of at least {}", range.start()),
            end => format!("an integer from {} to {end}", range.start()),
        };
        // 3.0 is an integer too, as clients in JavaScript write it.
        let read = |value: &Value| {
            let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
            value.as_i64().or_else(|| value.as_f64().and_then(whole)).filter(|number| range.contains(number))
        };
        self.take_as(name, &expected, read)
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.take_as(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A list of texts, or one text.
    pub(crate) fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        self.take_as(name, "a text or a list of texts", |value| match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(values) => values.iter().map(|value| value.as_str().map(str::to_owned)).collect(),
            _ => None,
        })
    }

    pub(crate) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        self.take_as(name, "a list", |value| value.as_array().cloned())
    }

    /// A list of token ids.
    pub(crate) fn tokens(&mut self, name: &str) -> Result<Option<Vec<u32>>, ApiError> {
        self.take_as(name, "a list of token ids", token_ids)
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        self.take_as(name, "an object", |value| value.as_object().cloned())
    }

    /// A field that has to be there.
    pub(crate) fn required<T>(&self, name: &str, value: Option<T>, expected: &str) -> Result<T, ApiError> {
        let path = self.path(name);
        value
            .ok_or_else(|| ApiError::field(path.clone(), format!("`{path}` is missing, expected {expected}")))
    }

    /// A field that may only have values that change nothing.
    pub(crate) fn neutral(&mut self, name: &str, allowed: &[Value]) -> Result<(), ApiError> {
        let Some(value) = self.take(name) else { return Ok(()) };
        let is_empty =
            value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
        if is_empty || allowed.contains(&value) {
            return Ok(());
        }
        let expected = match allowed {
            [] => "nothing: it is not supported".to_owned(),
            allowed => {
                let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
                format!("{}: nothing else is supported", allowed.join(" or "))
            }
        };
        Err(ApiError::value(self.path(name), &value, &expected))
    }

    /// Refuses what was not read.
    pub(crate) fn finish(self, known: &[&[FieldInfo]]) -> Result<(), ApiError> {
        let Some((name, _)) = self.map.iter().find(|(_, value)| !value.is_null()) else { return Ok(()) };
        let path = self.path(name);
        let known = || known.iter().copied().flatten();
        if let Some(FieldInfo { handling: Handling::Refused(reason), .. }) =
            known().find(|field| field.name == name)
        {
            return Err(ApiError::field(path.clone(), format!("`{path}` is not supported: {reason}")));
        }
        let usable = known().filter(|field| !matches!(field.handling, Handling::Refused(_)));
        let hint = nearest_name(name, usable.map(|field| field.name))
            .map(|nearest| format!("; did you mean `{nearest}`?"))
            .unwrap_or_default();
        Err(ApiError::field(path.clone(), format!("`{path}` is not a field of this endpoint{hint}")))
    }
}

/// A list of token ids, where it is one.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array()?.iter().map(id).collect()
}
