//! Bare prompts, and how the prompt of any row is found.
//!
//! A prompt is one of: a `prompt_template`; `prompt`, a string or a list of turns; `messages` or `conversations`;
//! `instruction` with `input` below it; `question`. A `system` text goes before it.

mod prompt;

use serde_json::Value;
use truing_types::{Message, PromptRow, Role};

use super::{Format, list, object, parse_message, sharegpt};
use crate::columns::{Fields, text};
use crate::error::{RowErrorKind, RowProblem};
use crate::json::type_name;
use crate::tools::Tools;
use crate::turns::is_blank_text;

/// Every format of prompts, in the order in which they are tried on a row.
pub static PROMPT_FORMATS: &[Format<PromptRow>] = &[prompt::FORMAT];

pub(super) const TURNS: &str = "a string, a turn {\"role\": ..., \"content\": ...}, or a list of turns";
const PROMPT: &str = "a string or a list of turns";

/// The turns before a response, and the field they came from.
pub(super) struct GivenPrompt<'a> {
    pub(super) messages: Vec<Message>,
    pub(super) field: &'a str,
    /// They are the whole conversation of the row and may hold the response.
    pub(super) is_conversation: bool,
}

/// Whether a row has a prompt of its own.
pub(super) fn has_prompt(fields: Fields<'_>) -> bool {
    match &fields.columns.prompt_template {
        Some(template) => template.fits(fields.row),
        None => ["prompt", "messages", "conversations", "instruction", "question"]
            .iter()
            .any(|column| fields.get(column).is_some()),
    }
}

/// The prompt of a row, with its system turn; `None` where it has none.
pub(super) fn given_prompt<'a>(
    fields: Fields<'a>,
    tools: &Tools,
) -> Result<Option<GivenPrompt<'a>>, RowProblem> {
    let mut messages: Vec<_> = fields
        .optional_text("system")?
        .filter(|system| !system.is_empty())
        .map(|system| Message::new(Role::System, system))
        .into_iter()
        .collect();
    if let Some(template) = &fields.columns.prompt_template {
        messages.push(Message::new(Role::User, template.render(fields.row)?));
        return checked(messages, "prompt_template", false);
    }
    for (column, is_conversation) in [("prompt", false), ("messages", true), ("conversations", true)] {
        let Some(value) = fields.get(column) else { continue };
        let field = fields.path(column);
        match value {
            Value::String(asked) => messages.push(Message::new(Role::User, asked.clone())),
            Value::Array(_) => messages.extend(turns(value, field, tools)?),
            other => {
                return Err(RowProblem::new(field, RowErrorKind::WrongType(type_name(other)), PROMPT));
            }
        }
        return checked(messages, field, is_conversation);
    }
    for column in ["instruction", "question"] {
        let Some(asked) = fields.optional_text(column)? else { continue };
        let asked = match fields.optional_text("input")?.filter(|input| !is_blank_text(input)) {
            Some(input) if column == "instruction" => format!("{asked}\n\n{input}"),
            _ => asked.to_owned(),
        };
        messages.push(Message::new(Role::User, asked));
        return checked(messages, fields.path(column), false);
    }
    Ok(None)
}

fn checked(
    messages: Vec<Message>,
    field: &str,
    is_conversation: bool,
) -> Result<Option<GivenPrompt<'_>>, RowProblem> {
    match messages.last() {
        None => Err(RowProblem::new(field, RowErrorKind::Empty, "at least one turn")),
        Some(last) if last.role == Role::User && is_blank_text(&last.content) => {
            Err(RowProblem::new(field, RowErrorKind::Empty, "a non-empty prompt"))
        }
        Some(_) => Ok(Some(GivenPrompt { messages, field, is_conversation })),
    }
}

/// A list of turns, each OpenAI's or ShareGPT's.
pub(super) fn turns(value: &Value, field: &str, tools: &Tools) -> Result<Vec<Message>, RowProblem> {
    let turn = |(i, turn)| parse_turn(turn, &format!("{field}[{i}]"), tools);
    list(value, field, TURNS)?.iter().enumerate().map(turn).collect()
}

fn parse_turn(turn: &Value, at: &str, tools: &Tools) -> Result<Message, RowProblem> {
    let entries = object(turn, at, "a turn: {\"role\": ..., \"content\": ...}")?;
    match entries.contains_key("from") {
        true => sharegpt::parse_turn(turn, at, tools),
        false => parse_message(entries, at, tools),
    }
}

/// A response: a text, one turn, or several.
pub(super) fn response_turns(value: &Value, field: &str, tools: &Tools) -> Result<Vec<Message>, RowProblem> {
    match value {
        Value::String(said) => Ok(vec![Message::new(Role::Assistant, said.clone())]),
        Value::Object(_) => Ok(vec![parse_turn(value, field, tools)?]),
        Value::Array(_) => turns(value, field, tools),
        other => Err(RowProblem::new(field, RowErrorKind::WrongType(type_name(other)), TURNS)),
    }
}

/// A text that must be there and hold something.
pub(super) fn filled_text<'a>(fields: Fields<'a>, column: &'a str) -> Result<&'a str, RowProblem> {
    let value = fields.get(column).ok_or_else(|| fields.missing(column, "a string"))?;
    let found = text(value, fields.path(column))?;
    if is_blank_text(found) {
        return Err(RowProblem::new(fields.path(column), RowErrorKind::Empty, "text"));
    }
    Ok(found)
}
