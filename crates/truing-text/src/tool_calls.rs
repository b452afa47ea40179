//! Tools in texts: the calls that a model writes, and tools written in words for templates that do not show them.
//!
//! Templates show tools in their own form; models answer in one of these: `<tool_call>` with a JSON object or list
//! (Hermes, Qwen, SmolLM), `[TOOL_CALLS]` with a JSON list (Mistral), `<|python_tag|>` or nothing before a JSON object
//! or list (Llama). A call is taken for one only where its name is that of a tool; everything else stays text.

use serde_json::{Map, Value, json};
use truing_types::{Conversation, Message, Role};

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The tool's name.
    pub name: String,
    /// Its arguments: JSON text.
    pub arguments: String,
}

impl ToolCall {
    /// As OpenAI has it.
    #[must_use]
    pub fn json(&self, id: &str) -> Value {
        let function = json!({"name": self.name, "arguments": self.arguments});
        json!({"id": id, "type": "function", "function": function})
    }
}

/// The names of the tools that a conversation describes.
#[must_use]
pub fn names(tools: &[Value]) -> Vec<String> {
    let name = |tool: &Value| {
        let described = tool.get("function").unwrap_or(tool);
        described.get("name").and_then(Value::as_str).map(str::to_owned)
    };
    tools.iter().filter_map(name).collect()
}

/// Where in a text a call may begin: what is before is certainly content. `None` where nothing looks like one.
#[must_use]
pub fn may_begin(text: &str) -> Option<usize> {
    let marks = ["<tool_call>", "[TOOL_CALLS]", "<|python_tag|>"];
    let marked = marks.iter().filter_map(|mark| text.find(mark)).min();
    let start = text.len() - text.trim_start().len();
    let found = marked.or_else(|| text[start..].starts_with(['{', '[']).then_some(start));
    // The end of the text may be the beginning of a mark.
    let found = found.or_else(|| {
        (start..text.len())
            .filter(|&at| text.is_char_boundary(at))
            .find(|&at| marks.iter().any(|mark| mark.starts_with(&text[at..])))
    });
    // White space before a call is not content.
    match found {
        None if start == text.len() => Some(0),
        found => found.map(|at| if at <= start { 0 } else { at }),
    }
}

/// The text before the calls of an answer, and the calls, of tools with these names; `None` where there is no call, or
/// where one cannot be read.
#[must_use]
pub fn split<'a>(text: &'a str, names: &[String]) -> Option<(&'a str, Vec<ToolCall>)> {
    let (before, rest) = text.split_at(may_begin(text)?);
    let rest = rest.trim_start();
    let mut calls = Vec::new();
    if rest.starts_with("<tool_call>") {
        for part in rest.split("<tool_call>").skip(1) {
            let json = part.split("</tool_call>").next()?;
            calls.extend(of_json(json.trim(), names)?);
        }
    } else {
        let json = rest.trim_start_matches("[TOOL_CALLS]").trim_start_matches("<|python_tag|>").trim();
        calls = of_json(json, names)?;
    }
    (!calls.is_empty()).then_some((before, calls))
}

/// The calls of a JSON object or list; `None` where one of them is not a call of a tool with these names.
#[must_use]
pub fn of_json(text: &str, names: &[String]) -> Option<Vec<ToolCall>> {
    let one = |value: &Value| {
        let object = value.get("function").filter(|inner| inner.is_object()).unwrap_or(value);
        let name = object.get("name")?.as_str().filter(|name| names.iter().any(|n| n == name))?;
        let arguments = object.get("arguments").or_else(|| object.get("parameters"));
        let arguments: Map<String, Value> = match arguments {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(arguments)) => arguments.clone(),
            Some(Value::String(text)) => serde_json::from_str(text).ok()?,
            Some(_) => return None,
        };
        let arguments = Value::Object(arguments).to_string();
        Some(ToolCall { name: name.to_owned(), arguments })
    };
    match serde_json::from_str(text).ok()? {
        Value::Array(values) => values.iter().map(one).collect(),
        value => one(&value).map(|call| vec![call]),
    }
}

/// How tools are described to a model whose template does not show them.
const INTRODUCTION: &str = "You can call functions. The functions, one JSON object per line:";
const INSTRUCTION: &str = "To call a function, write a JSON object with its name and its arguments between \
<tool_call> and </tool_call>, for example:\n<tool_call>\n\
{\"name\": \"function_name\", \"arguments\": {\"argument\": \"value\"}}\n</tool_call>\n\
The result is given to you between <tool_response> and </tool_response>. If no function is needed, answer in words.";

/// The same conversation with tools, calls and results written into its texts, in the form of Hermes: for templates
/// that do not show them.
#[must_use]
pub fn in_words(conversation: Conversation) -> Conversation {
    let Conversation { messages, tools } = conversation;
    let mut shown: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    if !tools.is_empty() {
        let functions: Vec<String> = tools.iter().map(|tool| tool["function"].to_string()).collect();
        let text = format!("{INTRODUCTION}\n{}\n\n{INSTRUCTION}", functions.join("\n"));
        shown.push(Message::new(Role::System, text));
    }
    for message in messages {
        match message.role {
            Role::System | Role::Developer if shown.len() == 1 && !tools.is_empty() => {
                let text = format!("{}\n\n{}", message.content, shown[0].content);
                shown[0] = Message { content: text, ..message };
            }
            Role::Tool => {
                let text = format!("<tool_response>\n{}\n</tool_response>", message.content);
                match shown.last_mut() {
                    // The results of one turn's calls are one turn.
                    Some(last) if last.role == Role::User && last.content.starts_with("<tool_response>") => {
                        last.content.push('\n');
                        last.content.push_str(&text);
                    }
                    _ => shown.push(Message::new(Role::User, text)),
                }
            }
            _ => {
                let mut message = message;
                for call in message.tool_calls.take().unwrap_or_default() {
                    let function = &call["function"];
                    let call = json!({"name": function["name"], "arguments": function["arguments"]});
                    if !message.content.is_empty() {
                        message.content.push('\n');
                    }
                    message.content.push_str(&format!("<tool_call>\n{call}\n</tool_call>"));
                }
                shown.push(message);
            }
        }
    }
    Conversation { messages: shown, tools: Vec::new() }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_in_every_form() {
        let names = ["weather".to_owned(), "tide".to_owned()];
        let weather =
            |city: &str| ToolCall { name: "weather".into(), arguments: json!({"city": city}).to_string() };
        let both = [weather("Rome"), weather("Oslo")];
        for (text, before, expected) in [
            (r#"<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>"#, "", &both[..1]),
            (
                "I look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>\n\
                 <tool_call>{\"name\":\"weather\",\"arguments\":\"{\\\"city\\\":\\\"Oslo\\\"}\"}</tool_call>",
                "I look.\n",
                &both[..],
            ),
            (r#"[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]"#, "", &both[..1]),
            (r#"<|python_tag|>{"name": "weather", "parameters": {"city": "Rome"}}"#, "", &both[..1]),
            (r#" {"name": "weather", "parameters": {"city": "Rome"}}"#, "", &both[..1]),
            (r#"[{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]"#, "", &both[..1]),
        ] {
            assert_eq!(split(text, &names), Some((before, expected.to_vec())), "{text}");
        }
        for text in ["Hello", r#"{"name": "other", "arguments": {}}"#, "[1, 2]", "<tool_call>{", ""] {
            assert_eq!(split(text, &names), None, "{text}");
        }
        let described =
            [json!({"type": "function", "function": {"name": "f"}}), json!({"name": "g"}), json!({"x": 1})];
        assert_eq!(super::names(&described), ["f", "g"]);
    }

    #[test]
    fn tools_can_be_written_in_words() {
        let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}});
        let messages = vec![
            Message::new(Role::System, "Be brief."),
            Message::new(Role::User, "Go."),
            Message { tool_calls: Some(vec![call.clone(), call]), ..Message::new(Role::Assistant, "") },
            Message::new(Role::Tool, "one"),
            Message::new(Role::Tool, "two"),
        ];
        let tools = vec![json!({"type": "function", "function": {"name": "f"}})];
        let shown = in_words(Conversation { messages, tools });
        assert!(shown.tools.is_empty());
        let texts: Vec<&str> = shown.messages.iter().map(|message| message.content.as_str()).collect();
        assert!(
            texts[0].starts_with("Be brief.\n\nYou can call functions.")
                && texts[0].contains("{\"name\":\"f\"}")
        );
        let one = "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"x\":1}}\n</tool_call>";
        assert_eq!(texts[2], format!("{one}\n{one}"));
        assert_eq!(
            texts[3],
            "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"
        );
        assert_eq!(shown.messages.len(), 4);
    }

    #[test]
    fn text_is_held_back_only_where_a_call_may_begin() {
        for (text, expected) in [
            ("Hello", None),
            ("Hello <tool", Some(6)),
            ("Hello <", Some(6)),
            ("a < b", None),
            (" {", Some(0)),
            (" ", Some(0)),
            ("so {", None),
            ("x [TOOL_CALLS]", Some(2)),
        ] {
            assert_eq!(may_begin(text), expected, "{text}");
        }
    }
}
