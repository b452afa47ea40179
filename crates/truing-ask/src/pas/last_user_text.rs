use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// Where the text of the last user turn ends in a JSON object: a row of SFT or RL data, or the body of a request. A complement
/// is inserted there, and no other byte changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastUserText {
    /// The text.
    pub text: String,
    /// Byte of the closing quotation mark of its JSON string.
    end: usize,
}

/// Why no text of a user was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoUserText {
    /// The text is no JSON object, or a field has a wrong type.
    #[error("{0}")]
    NotAnObject(String),
    /// None of the fields is there, or no turn is a user's.
    #[error("no turn of a user with text in `prompt`, `messages`, `conversations` or `question`")]
    NoTurn,
}

type Fields<'a> = HashMap<String, &'a RawValue>;

impl LastUserText {
    /// Finds it in one JSON object. A prompt is `prompt` or `question` as a text, or a list of turns in `prompt`, `messages`
    /// (`role`, `content` as a text or a list of parts) or `conversations` (`from`, `value`). The first of `prompt`,
    /// `messages`, `conversations` and `question` that is there counts.
    ///
    /// # Errors
    /// When the object cannot be read or holds no text of a user.
    pub fn find(object: &str) -> Result<Self, NoUserText> {
        let fields: Fields<'_> =
            serde_json::from_str(object).map_err(|error| NoUserText::NotAnObject(error.to_string()))?;
        let column = ["prompt", "messages", "conversations", "question"]
            .into_iter()
            .find_map(|column| fields.get(column).filter(|value| value.get() != "null"));
        let value = column.ok_or(NoUserText::NoTurn)?;
        let found = string_in(value).or_else(|| last_turn(value)).ok_or(NoUserText::NoTurn)?;
        let text = read(found).ok_or(NoUserText::NoTurn)?;
        // The value is a part of `object`, so the distance of their beginnings is its place.
        let start = found.get().as_ptr() as usize - object.as_ptr() as usize;
        Ok(Self { text, end: start + found.get().len() - 1 })
    }

    /// The object with a text added to the end of the user's text.
    #[must_use]
    pub fn appended(&self, object: &str, text: &str) -> String {
        let quoted = serde_json::Value::from(text).to_string();
        let (before, after) = object.split_at(self.end);
        format!("{before}{}{after}", &quoted[1..quoted.len() - 1])
    }
}

fn read<T: DeserializeOwned>(value: &RawValue) -> Option<T> {
    serde_json::from_str(value.get()).ok()
}

fn string_in(value: &RawValue) -> Option<&RawValue> {
    value.get().starts_with('"').then_some(value)
}

/// The text of the last user turn of a list.
fn last_turn(turns: &RawValue) -> Option<&RawValue> {
    let turns: Vec<Fields<'_>> = serde_json::from_str(turns.get()).ok()?;
    let is_user = |turn: &&Fields<'_>| {
        let role = turn.get("role").or_else(|| turn.get("from")).and_then(|role| read::<String>(role));
        role.is_some_and(|role| role == "user" || role == "human")
    };
    let turn = turns.iter().rev().find(is_user)?;
    let content = turn.get("content").or_else(|| turn.get("value"))?;
    string_in(content).or_else(|| {
        let parts: Vec<Fields<'_>> = serde_json::from_str(content.get()).ok()?;
        parts.iter().rev().find_map(|part| string_in(part.get("text")?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_appended_and_every_other_byte_kept() {
        for (object, text, expected) in [
            (r#"{"prompt": "a", "x": 1.0}"#, "a", r#"{"prompt": "a\n\"B\"", "x": 1.0}"#),
            (
                r#"{ "n":1e5,"messages":[{"role":"user","content":"a\u00e9"},{"content":"q \"x\"", "role":"user"},{"role":"assistant","content":"r"}],"n2":12345678901234567890123 }"#,
                "q \"x\"",
                r#"{ "n":1e5,"messages":[{"role":"user","content":"a\u00e9"},{"content":"q \"x\"\n\"B\"", "role":"user"},{"role":"assistant","content":"r"}],"n2":12345678901234567890123 }"#,
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
                "a",
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a\n\"B\""},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
            ),
            (
                r#"{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#,
                "a",
                r#"{"conversations":[{"from":"human","value":"a\n\"B\""},{"from":"gpt","value":"b"}]}"#,
            ),
            (
                r#"{"prompt":[{"role":"user","content":"问"}]}"#,
                "问",
                r#"{"prompt":[{"role":"user","content":"问\n\"B\""}]}"#,
            ),
            (r#"{"prompt": null, "question":""}"#, "", r#"{"prompt": null, "question":"\n\"B\""}"#),
        ] {
            let found = LastUserText::find(object).unwrap();
            assert_eq!((found.text.as_str(), found.appended(object, "\n\"B\"").as_str()), (text, expected));
        }
    }

    #[test]
    fn objects_without_a_user_s_text_are_errors() {
        for object in [
            "{}",
            r#"{"messages":[{"role":"system","content":"a"}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#,
            r#"{"messages":[{"role":"user","content":null}]}"#,
            r#"{"messages":"a b","prompt":7}"#,
        ] {
            assert_eq!(LastUserText::find(object), Err(NoUserText::NoTurn), "{object}");
        }
        for object in ["", "[1]", "{\"prompt\": \"a\""] {
            assert!(matches!(LastUserText::find(object), Err(NoUserText::NotAnObject(_))), "{object}");
        }
    }
}
