use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::SEPARATOR;

/// Where the text of the last user turn ends in a JSON object: a row of SFT or RL data, or the body of a request. A
/// complement is inserted there, and no other byte changes. Only the places of values are looked for; nothing is parsed
/// and written again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastUserText {
    /// The text. Texts of several parts are joined by line breaks.
    pub text: String,
    /// Byte of the object where a complement is inserted: the closing quotation mark of the text, or of its last part.
    pub end: usize,
}

/// Why no text of a user was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoUserText {
    /// The text is no JSON object, or it has a field twice.
    #[error("{0}")]
    NotAnObject(String),
    /// None of the fields is there, or it holds neither a text nor a list of turns.
    #[error("no text and no list of turns in `prompt`, `messages`, `conversations` or `question`")]
    NoConversation,
    /// No turn is a user's, or the last one of a user has no text.
    #[error("no turn of a user with text")]
    NoTurn,
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    conversations: Option<&'a RawValue>,
    #[serde(borrow)]
    question: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow, alias = "from")]
    role: Option<Cow<'a, str>>,
    #[serde(borrow, alias = "value")]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

impl LastUserText {
    /// Finds it in a row. A prompt is `prompt` or `question` as a text, or a list of turns in `prompt`, `messages`
    /// (`role`, `content` as a text or a list of parts) or `conversations` (`from`, `value`). The first of `prompt`,
    /// `messages`, `conversations` and `question` that is there counts.
    ///
    /// # Errors
    /// When the row cannot be read or holds no text of a user.
    pub fn find(row: &str) -> Result<Self, NoUserText> {
        let Row { prompt, messages, conversations, question } =
            serde_json::from_str(row).map_err(|error| NoUserText::NotAnObject(error.to_string()))?;
        let conversation = prompt.or(messages).or(conversations).or(question);
        Self::find_in(row, conversation.ok_or(NoUserText::NoConversation)?)
    }

    /// Finds it in a value of an object, which is the user's text or a list of turns. `conversation` borrows from
    /// `object`.
    ///
    /// # Errors
    /// When the value is something else or holds no text of a user.
    pub fn find_in(object: &str, conversation: &RawValue) -> Result<Self, NoUserText> {
        if is_string(conversation) {
            return Self::of_strings(object, &[conversation]).ok_or(NoUserText::NoTurn);
        }
        let turns: Vec<&RawValue> = read(conversation)?;
        for turn in turns.into_iter().rev() {
            let turn: Turn<'_> = read(turn)?;
            if !matches!(turn.role.as_deref(), Some("user" | "human")) {
                continue;
            }
            let content = turn.content.ok_or(NoUserText::NoTurn)?;
            match Self::of_strings(object, &strings(content)?) {
                Some(found) => return Ok(found),
                // Results of tools are a turn of the user in `/v1/messages`; the user's own text came before.
                None if content.get().contains("tool_result") => {}
                None => return Err(NoUserText::NoTurn),
            }
        }
        Err(NoUserText::NoTurn)
    }

    /// The text in some JSON strings of an object; `None` where it is only white space.
    fn of_strings(object: &str, strings: &[&RawValue]) -> Option<Self> {
        let mut found: Option<Self> = None;
        for raw in strings {
            let text: String = serde_json::from_str(raw.get()).ok()?;
            if text.trim().is_empty() {
                continue;
            }
            // The string is a part of the object, so the distance of their beginnings is its place.
            let start = raw.get().as_ptr() as usize - object.as_ptr() as usize;
            let end = start + raw.get().len() - 1;
            let text = match found {
                Some(before) => format!("{}\n{text}", before.text),
                None => text,
            };
            found = Some(Self { text, end });
        }
        found
    }

    /// The object with a complement appended to the user's text, as [`append`](super::append) does.
    #[must_use]
    pub fn appended(&self, object: &str, complement: &str) -> String {
        let quoted = serde_json::Value::from(format!("{SEPARATOR}{complement}")).to_string();
        let (before, after) = object.split_at(self.end);
        [before, &quoted[1..quoted.len() - 1], after].concat()
    }
}

fn is_string(value: &RawValue) -> bool {
    value.get().starts_with('"')
}

fn read<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Result<T, NoUserText> {
    serde_json::from_str(value.get()).map_err(|_| NoUserText::NoConversation)
}

/// The strings of a turn's content: the content itself, or the texts of its parts.
fn strings(content: &RawValue) -> Result<Vec<&RawValue>, NoUserText> {
    if is_string(content) {
        return Ok(vec![content]);
    }
    let parts: Vec<Part<'_>> = read(content)?;
    let is_text = |part: &Part<'_>| matches!(part.r#type.as_deref(), None | Some("text" | "input_text"));
    Ok(parts
        .into_iter()
        .filter(is_text)
        .filter_map(|part| part.text)
        .filter(|text| is_string(text))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_appended_and_every_other_byte_kept() {
        for (object, text, expected) in [
            (r#"{"prompt": "a", "x": 1.0}"#, "a", r#"{"prompt": "a\n\"B\"", "x": 1.0}"#),
            (
                concat!(
                    r#"{ "n":1e5,"messages":[{"role":"user","content":"a\u00e9"},{"content":"q \"x\"","#,
                    r#" "role":"user"},{"role":"assistant","content":"r"}],"n2":12345678901234567890123 }"#,
                ),
                "q \"x\"",
                concat!(
                    r#"{ "n":1e5,"messages":[{"role":"user","content":"a\u00e9"},"#,
                    r#"{"content":"q \"x\"\n\"B\"", "role":"user"},{"role":"assistant","content":"r"}],"#,
                    r#""n2":12345678901234567890123 }"#,
                ),
            ),
            (
                concat!(
                    r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},"#,
                    r#"{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
                ),
                "a",
                concat!(
                    r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a\n\"B\""},"#,
                    r#"{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
                ),
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
            (r#"{"prompt": null, "question":"a"}"#, "a", r#"{"prompt": null, "question":"a\n\"B\""}"#),
            (
                concat!(
                    r#"{"messages":[{"role":"user","content":[{"text":"a"},{"type":"input_text","#,
                    r#""text":"b"},{"type":"text","text":" "}]}]}"#,
                ),
                "a\nb",
                concat!(
                    r#"{"messages":[{"role":"user","content":[{"text":"a"},{"type":"input_text","#,
                    r#""text":"b\n\"B\""},{"type":"text","text":" "}]}]}"#,
                ),
            ),
            (
                concat!(
                    r#"{"messages":[{"role":"user","content":"a"},{"role":"user","#,
                    r#""content":[{"type":"tool_result","content":"r"}]}]}"#,
                ),
                "a",
                concat!(
                    r#"{"messages":[{"role":"user","content":"a\n\"B\""},{"role":"user","#,
                    r#""content":[{"type":"tool_result","content":"r"}]}]}"#,
                ),
            ),
        ] {
            let found = LastUserText::find(object).unwrap();
            assert_eq!((found.text.as_str(), found.appended(object, "\"B\"").as_str()), (text, expected));
        }
    }

    #[test]
    fn objects_without_a_user_s_text_are_errors() {
        for object in [
            r#"{"messages":[]}"#,
            r#"{"messages":[{"role":"system","content":"a"}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"thinking","text":"a"}]}]}"#,
            r#"{"messages":[{"role":"user","content":null}]}"#,
            r#"{"messages":[{"role":"user","content":" "}]}"#,
            r#"{"question":""}"#,
        ] {
            assert_eq!(LastUserText::find(object), Err(NoUserText::NoTurn), "{object}");
        }
        for object in
            ["{}", r#"{"prompt":7}"#, r#"{"messages":[3]}"#, r#"{"messages":[{"role":"user","content":3}]}"#]
        {
            assert_eq!(LastUserText::find(object), Err(NoUserText::NoConversation), "{object}");
        }
        for object in ["", "[1]", "{\"prompt\": \"a\"", r#"{"prompt":"a","prompt":"b"}"#] {
            assert!(matches!(LastUserText::find(object), Err(NoUserText::NotAnObject(_))), "{object}");
        }
    }
}
