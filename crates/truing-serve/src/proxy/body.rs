//! Where in a request's body the user's text ends. The complement is written there, and every other byte stays as it is.
//!
//! Bodies of `/v1/chat/completions` and `/v1/messages` (`messages`) and of `/v1/responses` (`input`) are read. Only the places of
//! values are looked for; nothing is parsed and written again, so that unknown fields, their order, numbers and white space are
//! the client's own.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

/// A body in which a complement can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outline {
    /// The text of the last turn of the user.
    pub(crate) prompt: String,
    /// Byte of the body before which the complement goes: the quote that ends the text.
    pub(crate) end_of_prompt: usize,
    /// The model's name, and its bytes in the body with their quotes.
    pub(crate) model: Option<(String, Range<usize>)>,
}

/// Why there is no place for a complement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// Not the JSON of a conversation. Whoever answers says what is wrong with it.
    NotAConversation,
    /// No turn of the user, or one without text.
    NoUserText,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Turn<'a> {
    role: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

/// Finds the last turn of the user in a body.
pub(crate) fn outline(body: &str) -> Result<Outline, NoPlace> {
    let parsed: Body<'_> = serde_json::from_str(body).map_err(|_| NoPlace::NotAConversation)?;
    let model = parsed.model.and_then(|raw| {
        let name: String = serde_json::from_str(raw.get()).ok()?;
        let start = offset(body, raw.get());
        Some((name, start..start + raw.get().len()))
    });
    let turns = match (parsed.messages, parsed.input) {
        (Some(messages), _) => messages.get(),
        // The input of a response may be the user's text alone.
        (None, Some(input)) if input.get().starts_with('"') => {
            let (prompt, end_of_prompt) = text_at(body, input.get()).ok_or(NoPlace::NoUserText)?;
            return Ok(Outline { prompt, end_of_prompt, model });
        }
        (None, Some(input)) => input.get(),
        (None, None) => return Err(NoPlace::NotAConversation),
    };
    let turns: Vec<&RawValue> = serde_json::from_str(turns).map_err(|_| NoPlace::NotAConversation)?;
    for raw in turns.into_iter().rev() {
        let turn: Turn<'_> = serde_json::from_str(raw.get()).map_err(|_| NoPlace::NotAConversation)?;
        if turn.role.as_deref() != Some("user") {
            continue;
        }
        let content = turn.content.ok_or(NoPlace::NoUserText)?.get();
        // Results of tools are a user's turn in `/v1/messages`; the user's own text came before.
        match end_of_content(body, content)? {
            Some((prompt, end_of_prompt)) => return Ok(Outline { prompt, end_of_prompt, model }),
            None if content.contains("tool_result") => {}
            None => return Err(NoPlace::NoUserText),
        }
    }
    Err(NoPlace::NoUserText)
}

/// The text of a content and where it ends: a text, or the last text of its parts.
fn end_of_content(body: &str, content: &str) -> Result<Option<(String, usize)>, NoPlace> {
    if content.starts_with('"') {
        return Ok(text_at(body, content));
    }
    let parts: Vec<&RawValue> = serde_json::from_str(content).map_err(|_| NoPlace::NotAConversation)?;
    let mut prompt = String::new();
    let mut end = None;
    for raw in parts {
        let part: Part<'_> = serde_json::from_str(raw.get()).map_err(|_| NoPlace::NotAConversation)?;
        let is_text = matches!(part.r#type.as_deref(), Some("text" | "input_text"));
        let Some(text) = part.text.filter(|_| is_text) else { continue };
        let Some((text, at)) = text_at(body, text.get()) else { continue };
        if !prompt.is_empty() {
            prompt.push('\n');
        }
        prompt.push_str(&text);
        end = Some(at);
    }
    Ok(end.map(|end| (prompt, end)))
}

/// A JSON text inside the body, and the place of the quote that ends it; `None` where it holds nothing but white space.
fn text_at(body: &str, raw: &str) -> Option<(String, usize)> {
    let text: String = serde_json::from_str(raw).ok()?;
    (!text.trim().is_empty()).then(|| (text, offset(body, raw) + raw.len() - 1))
}

/// Where a part of a text begins in it.
fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

/// The body with a complement after the user's text, and another name of the model where one is given.
pub(crate) fn with_complement(
    body: &str,
    outline: &Outline,
    complement: Option<&str>,
    model: Option<&str>,
) -> String {
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    if let Some(complement) = complement {
        let place = outline.end_of_prompt..outline.end_of_prompt;
        edits.push((place, json_inside(&format!("\n{complement}"))));
    }
    if let (Some(name), Some((_, range))) = (model, &outline.model) {
        edits.push((range.clone(), format!("\"{}\"", json_inside(name))));
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut edited =
        String::with_capacity(body.len() + edits.iter().map(|(_, text)| text.len()).sum::<usize>());
    let mut done = 0;
    for (range, text) in edits {
        edited.push_str(&body[done..range.start]);
        edited.push_str(&text);
        done = range.end;
    }
    edited.push_str(&body[done..]);
    edited
}

/// A text as it stands between the quotes of JSON.
fn json_inside(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
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
                r#"{ "x" : {"messages":[]}, "messages": [ {"content":"A","role":"user"}, {"role":"assistant","content":"B"}, {"role":"user","content":"C"}, {"role":"tool","content":"D"}] }"#,
                r#"{ "x" : {"messages":[]}, "messages": [ {"content":"A","role":"user"}, {"role":"assistant","content":"B"}, {"role":"user","content":"C\nSay \"why\".\n轮"}, {"role":"tool","content":"D"}] }"#,
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"A"},{"type":"text","text":"B"},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"A"},{"type":"text","text":"B\nSay \"why\".\n轮"},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
            ),
            (r#"{"input":"A","model":"m"}"#, r#"{"input":"A\nSay \"why\".\n轮","model":"m"}"#),
            (
                r#"{"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"A"}]}]}"#,
                r#"{"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"A\nSay \"why\".\n轮"}]}]}"#,
            ),
            (
                r#"{"messages":[{"role":"user","content":"A"},{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"f","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":"r"}]}]}"#,
                r#"{"messages":[{"role":"user","content":"A\nSay \"why\".\n轮"},{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"f","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":"r"}]}]}"#,
            ),
        ] {
            assert_eq!(edited(body), expected);
        }
        let parts = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"A"},{"type":"text","text":"B"}]}]}"#;
        assert_eq!(outline(parts).unwrap().prompt, "A\nB");
    }

    #[test]
    fn a_models_name_can_be_replaced() {
        let body = r#"{"messages":[{"role":"user","content":"A"}], "model" : "pas/m\u0031" }"#;
        let found = outline(body).unwrap();
        assert_eq!(found.model.as_ref().unwrap().0, "pas/m1");
        let expected = r#"{"messages":[{"role":"user","content":"A\nB"}], "model" : "m\"1" }"#;
        assert_eq!(with_complement(body, &found, Some("B"), Some("m\"1")), expected);
        assert_eq!(with_complement(body, &found, None, None), body);
    }

    #[test]
    fn what_is_no_conversation_is_left_alone() {
        for (body, expected) in [
            ("", NoPlace::NotAConversation),
            ("{", NoPlace::NotAConversation),
            ("[]", NoPlace::NotAConversation),
            (r#"{"prompt":"x"}"#, NoPlace::NotAConversation),
            (r#"{"messages":3}"#, NoPlace::NotAConversation),
            (r#"{"messages":[3]}"#, NoPlace::NotAConversation),
            (r#"{"messages":[]}"#, NoPlace::NoUserText),
            (r#"{"messages":[{"role":"assistant","content":"x"}]}"#, NoPlace::NoUserText),
            (r#"{"messages":[{"role":"user","content":"  "}]}"#, NoPlace::NoUserText),
            (r#"{"messages":[{"role":"user","content":null}]}"#, NoPlace::NoUserText),
            (r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#, NoPlace::NoUserText),
            // Which of two values a server takes is its own affair.
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
                true => json!({"content": [{"text": text(), "type": "text"}, {"type": "text", "text": last}], "role": "user"}),
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
            let (before, after) = written.split_at(found.end_of_prompt);
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
