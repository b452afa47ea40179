//! The shapes in which training rows are written down: one file each, one line in [`FORMATS`].
//!
//! What they share lies here: reading messages, and the check that a conversation teaches something;
//! [`tools`](crate::tools) reads tools and tool calls.

mod alpaca;
mod messages;
pub(crate) mod preference;
mod prompt_completion;
pub(crate) mod prompts;
mod sharegpt;
mod text;
pub(crate) mod unpaired;

use std::path::Path;

use serde_json::{Map, Value};
use truing_types::{Conversation, Message, Role, TrainingRow};

use crate::DataError;
use crate::columns::{Columns, Fields, text as text_of};
use crate::error::{RowErrorKind, RowProblem};
use crate::json::{entry, list, object, type_name};
use crate::loss_weight::parse_weight;
use crate::readers::{self, RawRows};
use crate::render::Render;
use crate::tools::Tools;
use crate::turns;

/// A data format: how its rows are recognised and read. `Row` is what it yields.
pub struct Format<Row = TrainingRow> {
    /// The name to write after `format =`.
    pub name: &'static str,
    /// What a row looks like, in one line.
    pub example: &'static str,
    /// Its columns; any may be mapped to another field with `columns`.
    pub columns: &'static [FormatColumn],
    /// Whether `prompt_template` may make its prompt.
    pub takes_prompt_template: bool,
    /// Whether its rows may be rendered as a chat or raw; `None` where the format decides.
    pub takes_render: bool,
    /// The rows of a file; more than reading where a row is joined from several lines or files.
    pub(crate) open: fn(&Path, &Columns) -> Result<RawRows, DataError>,
    pub(crate) detect: fn(Fields<'_>) -> bool,
    pub(crate) parse: fn(Fields<'_>, Render) -> Result<Row, RowProblem>,
}

/// A column of a format.
pub struct FormatColumn {
    /// Its name, and the field where it is looked for unless `columns` says otherwise.
    pub name: &'static str,
    /// A row without it is bad.
    pub is_required: bool,
}

/// Every format, in the order in which they are tried on a row.
pub static FORMATS: &[Format] =
    &[messages::FORMAT, sharegpt::FORMAT, alpaca::FORMAT, prompt_completion::FORMAT, text::FORMAT];

/// A file whose lines are the rows.
pub(crate) fn open_lines(path: &Path, _: &Columns) -> Result<RawRows, DataError> {
    readers::open(path)
}

impl<Row> std::fmt::Debug for Format<Row> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Format").field(&self.name).finish()
    }
}

const fn required(name: &'static str) -> FormatColumn {
    FormatColumn { name, is_required: true }
}

const fn optional(name: &'static str) -> FormatColumn {
    FormatColumn { name, is_required: false }
}

const ROLES: &str = "one of system, developer, user, assistant, tool, function";

/// The role names of OpenAI's messages. `ipython` is Llama 3's tool turn.
fn openai_role(name: &str) -> Option<Role> {
    Some(match name {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" | "ipython" => Role::Tool,
        _ => return None,
    })
}

/// Reads a list of `{role, content, ...}`.
fn parse_messages(value: &Value, field: &str, tools: &Tools) -> Result<Vec<Message>, RowProblem> {
    let expected = "a list of messages: [{\"role\": ..., \"content\": ...}, ...]";
    list(value, field, expected)?
        .iter()
        .enumerate()
        .map(|(i, message)| {
            let at = format!("{field}[{i}]");
            let message = object(message, &at, "a message: {\"role\": ..., \"content\": ...}")?;
            let message = parse_message(message, &at, tools)?;
            check_turn(&message, &format!("{at}.content"))?;
            Ok(message)
        })
        .collect()
}

fn parse_message(message: &Map<String, Value>, at: &str, tools: &Tools) -> Result<Message, RowProblem> {
    let role_field = format!("{at}.role");
    let role = entry(message, "role")
        .ok_or_else(|| RowProblem::new(&role_field, RowErrorKind::Missing, ROLES))
        .and_then(|role| text_of(role, &role_field))?;
    let role = openai_role(role)
        .ok_or_else(|| RowProblem::new(role_field, RowErrorKind::UnknownRole(role.to_owned()), ROLES))?;
    let mut parsed = Message::new(role, "");
    parsed.weight = parse_weight(message, at)?;
    parsed.tool_calls = parse_calls(message, at, tools)?;
    let string = |key: &str| {
        entry(message, key).map(|v| text_of(v, &format!("{at}.{key}")).map(str::to_owned)).transpose()
    };
    parsed.reasoning_content = string("reasoning_content")?.or_else(|| {
        let other_names = ["reasoning", "thinking"].iter().find_map(|key| entry(message, key)?.as_str());
        other_names.map(str::to_owned)
    });
    parsed.name = string("name")?;
    parsed.tool_call_id = string("tool_call_id")?;
    let content_field = format!("{at}.content");
    match entry(message, "content") {
        Some(content) => parsed.content = parse_content(content, &content_field)?,
        None if parsed.tool_calls.is_some() => {}
        None => return Err(RowProblem::new(content_field, RowErrorKind::Missing, CONTENT)),
    }
    Ok(parsed)
}

/// The calls of a message: `tool_calls`, or the one of OpenAI's older `function_call`.
fn parse_calls(
    message: &Map<String, Value>,
    at: &str,
    tools: &Tools,
) -> Result<Option<Vec<Value>>, RowProblem> {
    let calls = entry(message, "tool_calls").map(|calls| tools.calls(calls, &format!("{at}.tool_calls")));
    let calls = calls.transpose()?.filter(|calls| !calls.is_empty());
    let Some(older) = entry(message, "function_call") else { return Ok(calls) };
    let field = format!("{at}.function_call");
    if calls.is_some() {
        let kind = RowErrorKind::BadValue("beside `tool_calls`".to_owned());
        return Err(RowProblem::new(field, kind, "calls in one of both"));
    }
    tools.older_call(older, &field).map(Some)
}

const CONTENT: &str = "a string, or a list of {\"type\": \"text\", \"text\": ...}";

/// Content is a string or OpenAI's list of text parts.
fn parse_content(content: &Value, field: &str) -> Result<String, RowProblem> {
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => return Err(RowProblem::new(field, RowErrorKind::WrongType(type_name(other)), CONTENT)),
    };
    let mut joined = String::new();
    for (i, part) in parts.iter().enumerate() {
        let at = format!("{field}[{i}]");
        let part = object(part, &at, CONTENT)?;
        match entry(part, "type").and_then(Value::as_str) {
            Some("text") => {}
            Some(other) => {
                let kind = RowErrorKind::BadValue(format!("a part of type `{other}`"));
                return Err(RowProblem::new(at, kind, "text parts only"));
            }
            None => return Err(RowProblem::new(format!("{at}.type"), RowErrorKind::Missing, "`text`")),
        }
        let text_field = format!("{at}.text");
        let text = entry(part, "text")
            .ok_or_else(|| RowProblem::new(&text_field, RowErrorKind::Missing, "a string"))?;
        joined.push_str(text_of(text, &text_field)?);
    }
    Ok(joined)
}

/// A turn of the assistant that is trained on must say or do something: white space and invisible characters are
/// nothing.
fn check_turn(message: &Message, content_field: &str) -> Result<(), RowProblem> {
    if turns::is_blank_and_learnt(message) {
        return Err(RowProblem::new(content_field, RowErrorKind::Empty, "what the assistant says"));
    }
    Ok(())
}

/// A conversation with text to train on.
fn conversation(messages: Vec<Message>, tools: Vec<Value>, field: &str) -> Result<TrainingRow, RowProblem> {
    if messages.is_empty() {
        return Err(RowProblem::new(field, RowErrorKind::Empty, "at least one message"));
    }
    if !messages.iter().any(|m| m.loss_weight() > 0.0) {
        let expected = "an assistant turn whose loss weight is not 0";
        return Err(RowProblem::new(field, RowErrorKind::NoAssistantTurn, expected));
    }
    Ok(TrainingRow::Conversation(Conversation { messages, tools }))
}
