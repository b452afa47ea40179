//! The one JSON object of a reply.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

/// The fields of a JSON object in their order. A key that appears twice is an error.
pub(super) struct Fields(Vec<(String, Value)>);

impl Fields {
    /// The only JSON object of a reply. A code fence or words around it are ignored. `None` where the reply has no
    /// object, one that is cut or has a key twice, or a second one: it is not clear which of two is meant.
    pub(super) fn read(reply: &str) -> Option<Self> {
        let start = reply.find('{')?;
        let mut objects = serde_json::Deserializer::from_str(&reply[start..]).into_iter::<Self>();
        let object = objects.next()?.ok()?;
        let rest = &reply[start + objects.byte_offset()..];
        (!rest.contains(['{', '}'])).then_some(object)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The text of a key; empty where there is none.
    pub(super) fn text(&self, key: &str) -> String {
        self.get(key).and_then(Value::as_str).unwrap_or_default().trim().to_owned()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields: Vec<(String, Value)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if fields.iter().any(|(name, _)| *name == key) {
                        return Err(A::Error::custom("a key appears twice"));
                    }
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_whole_object_is_read_and_nothing_else() {
        for (reply, expected) in [
            (r#"{"a": 1}"#, Some(1)),
            ("```json\n{\"a\": 2}\n```", Some(2)),
            ("My rating:\n{\"a\": 3}\nThat is all.", Some(3)),
            (r#"{"b": {"a": 9}, "a": 4}"#, Some(4)),
            (r#"{"a": 1} {"a": 2}"#, None),
            (r#"{"a": 1}}"#, None),
            (r#"{"a": 1, "a": 2}"#, None),
            (r#"{"a": 1"#, None),
            (r#"{"a": "x"#, None),
            ("[1]", None),
            ("", None),
        ] {
            let found = Fields::read(reply).and_then(|fields| fields.get("a").and_then(Value::as_i64));
            assert_eq!(found, expected, "{reply}");
        }
    }
}
