//! ShareGPT: `{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}`, with
//! `system` and `tools` beside it. `function_call` is an assistant turn that calls a tool, `observation` the tool's
//! answer. Turns may carry loss weights as in [`messages`](super::messages).

use serde_json::Value;
use truing_types::{Message, Role, TrainingRow};

use super::{Format, check_turn, conversation, entry, list, object, open_lines, optional, required};
use crate::columns::{Fields, text};
use crate::error::{RowErrorKind, RowProblem};
use crate::json::parse_nested;
use crate::loss_weight::parse_weight;
use crate::render::Render;
use crate::tools::Tools;

pub(super) const FORMAT: Format = Format {
    name: "sharegpt",
    example: r#"{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}"#,
    columns: &[required("conversations"), optional("system"), optional("tools")],
    takes_prompt_template: false,
    takes_render: false,
    open: open_lines,
    detect,
    parse,
};

const SPEAKERS: &str = "one of human, user, gpt, assistant, system, observation, tool, function_call";
const TURNS: &str = "a list of turns: [{\"from\": ..., \"value\": ...}, ...]";

fn detect(fields: Fields<'_>) -> bool {
    fields.get("conversations").is_some_and(Value::is_array)
}

fn parse(fields: Fields<'_>, _: Render) -> Result<TrainingRow, RowProblem> {
    let turns = fields.get("conversations").ok_or_else(|| fields.missing("conversations", TURNS))?;
    let field = fields.path("conversations");
    let tools = Tools::of(fields)?;
    let mut messages = Vec::new();
    if let Some(system) = fields.optional_text("system")?.filter(|s| !s.is_empty()) {
        messages.push(Message::new(Role::System, system));
    }
    for (i, turn) in list(turns, field, TURNS)?.iter().enumerate() {
        let at = format!("{field}[{i}]");
        let message = parse_turn(turn, &at, &tools)?;
        check_turn(&message, &format!("{at}.value"))?;
        messages.push(message);
    }
    conversation(messages, tools.described, field)
}

pub(super) fn parse_turn(turn: &Value, at: &str, tools: &Tools) -> Result<Message, RowProblem> {
    let turn = object(turn, at, "a turn: {\"from\": ..., \"value\": ...}")?;
    // Some sets keep ShareGPT's outer key and OpenAI's inner ones.
    let either = |ours: &'static str, openai: &'static str| {
        entry(turn, ours).map(|v| (v, ours)).or_else(|| entry(turn, openai).map(|v| (v, openai)))
    };
    let (speaker, key) = either("from", "role")
        .ok_or_else(|| RowProblem::new(format!("{at}.from"), RowErrorKind::Missing, SPEAKERS))?;
    let speaker_field = format!("{at}.{key}");
    let speaker = text(speaker, &speaker_field)?;
    let (value, key) = either("value", "content")
        .ok_or_else(|| RowProblem::new(format!("{at}.value"), RowErrorKind::Missing, "a string"))?;
    let value_field = format!("{at}.{key}");
    let value = text(value, &value_field)?;

    let mut message = match speaker {
        "human" | "user" => Message::new(Role::User, value),
        "gpt" | "assistant" | "chatgpt" | "model" => Message::new(Role::Assistant, value),
        "system" => Message::new(Role::System, value),
        "observation" | "tool" | "function_response" => Message::new(Role::Tool, value),
        "function_call" => called(value, &value_field, tools)?,
        unknown => {
            let kind = RowErrorKind::UnknownRole(unknown.to_owned());
            return Err(RowProblem::new(speaker_field, kind, SPEAKERS));
        }
    };
    message.weight = parse_weight(turn, at)?;
    Ok(message)
}

/// A call written as text: one `{"name", "arguments"}` or a list of them.
fn called(value: &str, field: &str, tools: &Tools) -> Result<Message, RowProblem> {
    let calls = parse_nested(value).map_err(|found| {
        let expected = "a call: {\"name\": ..., \"arguments\": {...}}";
        RowProblem::new(field, RowErrorKind::BadValue(found), expected)
    })?;
    let calls = if calls.is_object() { Value::Array(vec![calls]) } else { calls };
    let mut message = Message::new(Role::Assistant, "");
    message.tool_calls = Some(tools.calls(&calls, field)?);
    Ok(message)
}
