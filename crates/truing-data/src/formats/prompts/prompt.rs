//! Prompts to be answered: `{"prompt": "..."}` and every other way to write one. The answer that ends a conversation
//! is taken off, and every field of the row is kept for rewards.

use truing_types::{Conversation, PromptRow, Role};

use super::{given_prompt, has_prompt};
use crate::columns::Fields;
use crate::error::{RowErrorKind, RowProblem};
use crate::formats::{Format, open_lines, optional, parse_tools};
use crate::source::Render;

pub(super) const FORMAT: Format<PromptRow> = Format {
    name: "prompt",
    example: r#"{"prompt": "What is 1 + 2?", "answer": "3"}"#,
    columns: &[
        optional("prompt"),
        optional("messages"),
        optional("conversations"),
        optional("instruction"),
        optional("input"),
        optional("question"),
        optional("system"),
        optional("tools"),
    ],
    takes_prompt_template: true,
    takes_render: false,
    open: open_lines,
    detect: has_prompt,
    parse,
};

fn parse(fields: Fields<'_>, _: Render) -> Result<PromptRow, RowProblem> {
    let Some(prompt) = given_prompt(fields)? else {
        return Err(
            fields.missing("prompt", "a prompt, or `messages`, `conversations`, `instruction`, `question`")
        );
    };
    let mut messages = prompt.messages;
    while messages.last().is_some_and(|m| m.role == Role::Assistant) {
        messages.pop();
    }
    if !messages.iter().any(|m| m.role == Role::User) {
        let problem = RowProblem::new(prompt.field, RowErrorKind::Empty, "a user's turn to be answered");
        return Err(problem);
    }
    let prompt = Conversation { messages, tools: parse_tools(fields, "tools")? };
    Ok(PromptRow { prompt, columns: fields.row.clone() })
}
