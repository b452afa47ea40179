//! A number of a merge that may differ from layer to layer and from tensor to tensor, as in mergekit's files: a number, a
//! list that is interpolated over the layers, or such values for tensors whose names contain a text.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A value for every tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Setting {
    /// The same everywhere.
    Number(f64),
    /// Values at equal distances over the layers of the slice, interpolated between. Tensors outside the layers
    /// (embedding, final norm, head) have the first value, as in mergekit.
    Gradient(Vec<f64>),
    /// The first entry counts whose filter is in the tensor's name. A tensor without one has the value of the next level:
    /// the slice's, the recipe's, the method's default.
    Filtered(Vec<FilteredValue>),
}

/// A value for the tensors whose names contain a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilteredValue {
    /// A part of the tensor's name, for instance `mlp`; all tensors where it is left out or `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The value.
    pub value: FilteredNumber,
}

/// A number, or one interpolated over the layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number or a list of numbers")]
pub enum FilteredNumber {
    /// The same everywhere.
    Number(f64),
    /// See [`Setting::Gradient`].
    Gradient(Vec<f64>),
}

impl From<f64> for Setting {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl Setting {
    /// The value for a tensor at `position` in its slice, from 0 (first layer) to 1 (last); `None` where no filter fits.
    #[must_use]
    pub fn value(&self, tensor: &str, position: f64) -> Option<f64> {
        match self {
            Self::Number(value) => Some(*value),
            Self::Gradient(values) => interpolate(values, position),
            Self::Filtered(entries) => {
                let fits = |filter: &str| filter == "*" || tensor.contains(filter);
                let entry = entries.iter().find(|entry| entry.filter.as_deref().is_none_or(fits))?;
                match &entry.value {
                    FilteredNumber::Number(value) => Some(*value),
                    FilteredNumber::Gradient(values) => interpolate(values, position),
                }
            }
        }
    }

    /// Filters of the entries.
    pub(super) fn filters(&self) -> impl Iterator<Item = &str> {
        let entries = match self {
            Self::Filtered(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().filter_map(|entry| entry.filter.as_deref()).filter(|filter| *filter != "*")
    }
}

/// Between the values at equal distances; `None` of no values.
fn interpolate(values: &[f64], position: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let place = position.clamp(0.0, 1.0) * last as f64;
    let lower = (place as usize).min(last);
    let upper = (lower + 1).min(last);
    let share = place - lower as f64;
    Some((1.0 - share) * values[lower] + share * values[upper])
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SettingVisitor)
    }
}

struct SettingVisitor;

impl<'de> Visitor<'de> for SettingVisitor {
    type Value = Setting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a list of numbers, or a list of { filter, value }")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Setting, E> {
        Ok(Setting::Number(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Setting, E> {
        Ok(Setting::Number(value as f64))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Setting, E> {
        Ok(Setting::Number(value as f64))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Setting, A::Error> {
        let entry = FilteredValue::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(Setting::Filtered(vec![entry]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Setting, A::Error> {
        let (mut numbers, mut entries) = (Vec::new(), Vec::new());
        while let Some(item) = list.next_element::<Item>()? {
            match item {
                Item::Number(value) => numbers.push(value),
                Item::Entry(entry) => entries.push(entry),
            }
        }
        match (numbers.is_empty(), entries.is_empty()) {
            (false, true) => Ok(Setting::Gradient(numbers)),
            (true, false) => Ok(Setting::Filtered(entries)),
            (true, true) => Err(de::Error::custom("an empty list, expected at least one value")),
            (false, false) => {
                Err(de::Error::custom("a list of both numbers and tables, expected only one kind of them"))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number or { filter, value }")]
enum Item {
    Number(f64),
    Entry(FilteredValue),
}

impl JsonSchema for Setting {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Setting".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let entry = generator.subschema_for::<FilteredValue>();
        json_schema!({
            "anyOf": [
                { "type": "number" },
                { "type": "array", "items": { "type": "number" } },
                { "type": "array", "items": entry },
                entry,
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str, tensor: &str, position: f64) -> Option<f64> {
        serde_json::from_str::<Setting>(json).unwrap().value(tensor, position)
    }

    #[test]
    fn values_are_interpolated_and_filtered() {
        assert_eq!(value("2", "a", 0.3), Some(2.0));
        assert_eq!(value("[0, 1]", "a", 0.25), Some(0.25));
        assert_eq!(value("[0, 0.5, 0.2]", "a", 0.5), Some(0.5));
        assert_eq!(value("[0, 0.5, 0.2]", "a", 1.0), Some(0.2));
        assert_eq!(value("[7]", "a", 0.5), Some(7.0));
        let filtered = r#"[{"filter": "mlp", "value": [0, 1]}, {"value": 3}]"#;
        assert_eq!(value(filtered, "layers.3.mlp.up_proj.weight", 0.5), Some(0.5));
        assert_eq!(value(filtered, "layers.3.self_attn.q_proj.weight", 0.5), Some(3.0));
        assert_eq!(value(r#"[{"filter": "mlp", "value": 1}]"#, "norm", 0.5), None);
        assert_eq!(value(r#"{"filter": "*", "value": 1}"#, "norm", 0.5), Some(1.0));
    }

    #[test]
    fn what_is_no_setting_says_what_was_expected() {
        let error = |json: &str| serde_json::from_str::<Setting>(json).unwrap_err().to_string();
        for (json, expected) in [
            ("\"half\"", "a number, a list of numbers, or a list of { filter, value }"),
            ("[]", "an empty list"),
            ("[1, {\"value\": 2}]", "a list of both numbers and tables"),
            ("[\"x\"]", "a number or { filter, value }"),
        ] {
            assert!(error(json).contains(expected), "{}", error(json));
        }
    }
}
