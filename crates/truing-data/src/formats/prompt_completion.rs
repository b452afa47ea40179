//! Prompt and completion: two strings, or two lists of messages. `response` is another name for the completion.
//!
//! Two strings are raw text unless the source says `render = "chat"`: then they become a user's and an assistant's
//! turn. Two lists are one conversation whose prompt turns carry no loss.

use serde_json::Value;
use truing_types::{Message, Role, TrainingRow};

use super::{Format, check_turn, conversation, open_lines, optional, parse_messages, required};
use crate::columns::{Fields, text};
use crate::error::{RowErrorKind, RowProblem};
use crate::json::type_name;
use crate::render::Render;
use crate::tools::Tools;
use crate::turns::is_blank_text;

pub(super) const FORMAT: Format = Format {
    name: "prompt_completion",
    example: r#"{"prompt": "The sky is", "completion": " blue."}"#,
    columns: &[required("prompt"), required("completion"), optional("system"), optional("tools")],
    takes_prompt_template: true,
    takes_render: true,
    open: open_lines,
    detect,
    parse,
};

const EXPECTED: &str = "a string or a list of messages";

fn detect(fields: Fields<'_>) -> bool {
    let has_prompt = match &fields.columns.prompt_template {
        Some(template) => template.fits(fields.row),
        None => fields.get("prompt").is_some(),
    };
    has_prompt && fields.get(completion_column(fields)).is_some()
}

/// `response`, where the row has it and neither a completion nor a mapping to one.
fn completion_column(fields: Fields<'_>) -> &'static str {
    let is_mapped = fields.columns.mapping.contains_key("completion");
    if !is_mapped && fields.get("completion").is_none() && fields.get("response").is_some() {
        "response"
    } else {
        "completion"
    }
}

fn parse(fields: Fields<'_>, render: Render) -> Result<TrainingRow, RowProblem> {
    let column = completion_column(fields);
    let completion = fields.get(column).ok_or_else(|| fields.missing(column, EXPECTED))?;
    let completion_field = fields.path(column);
    let rendered = match &fields.columns.prompt_template {
        Some(template) => Some(Value::String(template.render(fields.row)?)),
        None => None,
    };
    let prompt = match &rendered {
        Some(prompt) => prompt,
        None => fields.get("prompt").ok_or_else(|| fields.missing("prompt", EXPECTED))?,
    };
    let prompt_field = fields.path("prompt");
    let system = fields.optional_text("system")?.filter(|s| !s.is_empty());
    match (prompt, completion) {
        (Value::String(prompt), Value::String(completion)) => {
            if is_blank_text(completion) {
                let problem = RowProblem::new(completion_field, RowErrorKind::Empty, "training text");
                return Err(problem);
            }
            let (prompt, completion) = (prompt.clone(), completion.clone());
            match render {
                Render::Raw => {
                    let prompt = system.map_or(prompt.clone(), |system| format!("{system}\n\n{prompt}"));
                    Ok(TrainingRow::PromptCompletion { prompt, completion })
                }
                Render::Chat => {
                    let mut messages: Vec<_> =
                        system.map(|system| Message::new(Role::System, system)).into_iter().collect();
                    messages.push(Message::new(Role::User, prompt));
                    messages.push(Message::new(Role::Assistant, completion));
                    check_turn(&messages[messages.len() - 1], completion_field)?;
                    conversation(messages, Tools::of(fields)?.described, completion_field)
                }
            }
        }
        (Value::Array(_), Value::Array(_)) => {
            let tools = Tools::of(fields)?;
            let mut messages: Vec<_> =
                system.map(|system| Message::new(Role::System, system)).into_iter().collect();
            messages.extend(parse_messages(prompt, prompt_field, &tools)?);
            for message in &mut messages {
                message.weight = Some(0.0);
            }
            messages.extend(parse_messages(completion, completion_field, &tools)?);
            conversation(messages, tools.described, completion_field)
        }
        (Value::String(_), other) => {
            text(other, completion_field)?;
            Err(RowProblem::new(completion_field, RowErrorKind::WrongType(type_name(other)), EXPECTED))
        }
        (Value::Array(_), other) => {
            let kind = RowErrorKind::WrongType(type_name(other));
            Err(RowProblem::new(completion_field, kind, "a list of messages, as the prompt is"))
        }
        (other, _) => Err(RowProblem::new(prompt_field, RowErrorKind::WrongType(type_name(other)), EXPECTED)),
    }
}
