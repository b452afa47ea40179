//! Where in a request's body the user's text ends. The complement is written there, and every other byte stays as it
//! is: unknown fields, their order, numbers and white space are the client's own.
//!
//! Bodies of `/v1/chat/completions` and `/v1/messages` (`messages`) and of `/v1/responses` (`input`) are read.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;
use truing_ask::pas::{LastUserText, NoUserText};

/// A body in which a complement can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outline {
    /// The last turn of the user.
    pub(crate) user: LastUserText,
    /// The model's name, and its bytes in the body with their quotes.
    pub(crate) model: Option<(String, Range<usize>)>,
}

/// Why there is no place for a complement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// Not the JSON of a conversation. The upstream server answers with the error.
    NotAConversation,
    /// No turn of the user, or one without text.
    NoUserText,
}

impl From<NoUserText> for NoPlace {
    fn from(error: NoUserText) -> Self {
        match error {
            NoUserText::NotAnObject(_) | NoUserText::NoConversation => Self::NotAConversation,
            NoUserText::NoTurn => Self::NoUserText,
        }
    }
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// Finds the last turn of the user in a body.
pub(crate) fn outline(body: &str) -> Result<Outline, NoPlace> {
    let Request { model, messages, input } =
        serde_json::from_str(body).map_err(|_| NoPlace::NotAConversation)?;
    let model = model.and_then(|raw| {
        let name: String = serde_json::from_str(raw.get()).ok()?;
        let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
        Some((name, start..start + raw.get().len()))
    });
    let user = LastUserText::find_in(body, messages.or(input).ok_or(NoPlace::NotAConversation)?)?;
    Ok(Outline { user, model })
}

/// The body with a complement after the user's text, and another name of the model where one is given.
pub(crate) fn with_complement(
    body: &str,
    outline: &Outline,
    complement: Option<&str>,
    model: Option<&str>,
) -> String {
    let mut edited =
        complement.map_or_else(|| body.to_owned(), |complement| outline.user.appended(body, complement));
    if let (Some(name), Some((_, range))) = (model, &outline.model) {
        let n_before = if range.start > outline.user.end { edited.len() - body.len() } else { 0 };
        let range = range.start + n_before..range.end + n_before;
        edited.replace_range(range, &serde_json::Value::from(name).to_string());
    }
    edited
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn edited(body: &str) -> String {
        let outline = outline(body).unwrap();
        with_complement(body, &outline, Some("Say \"why\".\n轮"), None)
    }

    #[test]
    fn the_complement_follows_the_users_text_and_nothing_else_changes() {
        for (body, expected) in [
            (
                r#"{"messages":[{"role":"user","content":"Hi \"you\""}],"x":1.50}"#,
                r#"{"messages":[{"role":"user","content":"Hi \"you\"\nSay \"why\".\n轮"}],"x":1.50}"#,
            ),
            (
                concat!(
                    r#"{ "x" : {"messages":[]}, "messages": [ {"content":"A","role":"user"},"#,
                    r#" {"role":"assistant","content":"B"}, {"role":"user","content":"C"}, {"role":"tool","#,
                    r#""content":"D"}] }"#,
                ),
                concat!(
                    r#"{ "x" : {"messages":[]}, "messages": [ {"content":"A","role":"user"},"#,
                    r#" {"role":"assistant","content":"B"}, {"role":"user","content":"C\nSay \"why\".\n轮"},"#,
                    r#" {"role":"tool","content":"D"}] }"#,
                ),
            ),
            (
                concat!(
                    r#"{"messages":[{"role":"user","content":[{"type":"text","text":"A"},{"type":"text","#,
                    r#""text":"B"},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
                ),
                concat!(
                    r#"{"messages":[{"role":"user","content":[{"type":"text","text":"A"},{"type":"text","#,
                    r#""text":"B\nSay \"why\".\n轮"},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
                ),
            ),
            (r#"{"input":"A","model":"m"}"#, r#"{"input":"A\nSay \"why\".\n轮","model":"m"}"#),
            (
                r#"{"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"A"}]}]}"#,
                concat!(
                    r#"{"input":[{"type":"message","role":"user","content":[{"type":"input_text","#,
                    r#""text":"A\nSay \"why\".\n轮"}]}]}"#,
                ),
            ),
            (
                concat!(
                    r#"{"messages":[{"role":"user","content":"A"},{"role":"assistant","#,
                    r#""content":[{"type":"tool_use","id":"1","name":"f","input":{}}]},{"role":"user","#,
                    r#""content":[{"type":"tool_result","tool_use_id":"1","content":"r"}]}]}"#,
                ),
                concat!(
                    r#"{"messages":[{"role":"user","content":"A\nSay \"why\".\n轮"},{"role":"assistant","#,
                    r#""content":[{"type":"tool_use","id":"1","name":"f","input":{}}]},{"role":"user","#,
                    r#""content":[{"type":"tool_result","tool_use_id":"1","content":"r"}]}]}"#,
                ),
            ),
        ] {
            assert_eq!(edited(body), expected);
        }
        let parts = concat!(
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"A"},{"type":"text","#,
            r#""text":"B"}]}]}"#,
        );
        assert_eq!(outline(parts).unwrap().user.text, "A\nB");
    }

    #[test]
    fn a_models_name_can_be_replaced() {
        let body = r#"{"messages":[{"role":"user","content":"A"}], "model" : "pas/m\u0031" }"#;
        let found = outline(body).unwrap();
        assert_eq!(found.model.as_ref().unwrap().0, "pas/m1");
        let expected = r#"{"messages":[{"role":"user","content":"A\nB"}], "model" : "m\"1" }"#;
        assert_eq!(with_complement(body, &found, Some("B"), Some("m\"1")), expected);
        assert_eq!(with_complement(body, &found, None, None), body);
        let body = r#"{"model": "pas/m", "messages":[{"role":"user","content":"A"}]}"#;
        let expected = r#"{"model": "mm", "messages":[{"role":"user","content":"A\nB"}]}"#;
        assert_eq!(with_complement(body, &outline(body).unwrap(), Some("B"), Some("mm")), expected);
    }

    #[test]
    fn what_is_no_conversation_is_left_alone() {
        for (body, expected) in [
            ("", NoPlace::NotAConversation),
            ("{", NoPlace::NotAConversation),
            ("[]", NoPlace::NotAConversation),
            (r#"{"prompt":"x"}"#, NoPlace::NotAConversation),
            (r#"{"messages":3}"#, NoPlace::NotAConversation),
            (r#"{"messages":[{"role":"user","content":3}]}"#, NoPlace::NotAConversation),
            (r#"{"messages":[3]}"#, NoPlace::NotAConversation),
            (r#"{"messages":[]}"#, NoPlace::NoUserText),
            (r#"{"messages":[{"role":"assistant","content":"x"}]}"#, NoPlace::NoUserText),
            (r#"{"messages":[{"role":"user","content":"  "}]}"#, NoPlace::NoUserText),
            (r#"{"messages":[{"role":"user","content":null}]}"#, NoPlace::NoUserText),
            (r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#, NoPlace::NoUserText),
            // Servers differ in which of two values they take.
            (r#"{"messages":[],"messages":[{"role":"user","content":"x"}]}"#, NoPlace::NotAConversation),
        ] {
            assert_eq!(outline(body).unwrap_err(), expected, "{body}");
        }
    }

    /// 10,000 generated bodies: the original text is a prefix, and nothing else changes.
    #[test]
    fn generated_bodies_keep_every_field() {
        use rand_chacha::rand_core::Rng as _;
        let mut random = truing_types::Seed(11).generator("bodies", &[]);
        let mut below = move |n: u64| random.next_u64() % n;
        let texts = [
            "plain",
            "with \"quotes\" and \\",
            "two\nlines\t",
            "轮子 🚲",
            "{\"a\": [1]}",
            "\u{1}\u{7f}",
            "x",
        ];
        let complement = "Be \"brief\",\nplease 轮.";
        for _ in 0..10_000 {
            let mut text = || Value::from(texts[below(7) as usize].repeat(1 + below(3) as usize));
            let mut turns = Vec::new();
            for _ in 0..text().as_str().unwrap().len() % 5 {
                let role = ["system", "user", "assistant", "tool"][text().as_str().unwrap().len() % 4];
                turns.push(json!({"role": role, "content": text(), "extra": text()}));
            }
            let last = text();
            let is_parts = text().as_str().unwrap().len().is_multiple_of(2);
            turns.push(match is_parts {
                true => json!({
                    "content": [{"text": text(), "type": "text"}, {"type": "text", "text": last}],
                    "role": "user"
                }),
                false => json!({"role": "user", "name": text(), "content": last}),
            });
            let mut body = serde_json::Map::new();
            for key in ["z", "temperature", "unknown", "messages", "tools", "a"] {
                let value = match key {
                    "messages" => Value::Array(turns.clone()),
                    "temperature" => json!(0.1 + turns.len() as f64),
                    _ => json!({"messages": [text()], "n": [1.5e300, -0.0, 123_456_789_012_345_678_u64]}),
                };
                body.insert(key.into(), value);
            }
            let body = Value::Object(body);
            let written =
                if is_parts { body.to_string() } else { serde_json::to_string_pretty(&body).unwrap() };
            let found = outline(&written).unwrap();
            let edited = with_complement(&written, &found, Some(complement), None);
            let (before, after) = written.split_at(found.user.end);
            assert!(edited.starts_with(before) && edited.ends_with(after));
            let mut expected = body.clone();
            let turns = expected["messages"].as_array_mut().unwrap();
            let content = &mut turns.last_mut().unwrap()["content"];
            let place = if is_parts { &mut content[1]["text"] } else { content };
            *place = format!("{}\n{complement}", place.as_str().unwrap()).into();
            assert_eq!(serde_json::from_str::<Value>(&edited).unwrap(), expected);
        }
    }
}
