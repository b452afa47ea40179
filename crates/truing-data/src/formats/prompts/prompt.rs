//! Prompts to be answered: `{"prompt": "..."}` and every other way to write one. The answer that ends a conversation
//! is taken off, and every field of the row is kept for rewards. A bare `text` is a prompt too.

use truing_types::{Conversation, Message, PromptRow, Role};

use super::{GivenPrompt, filled_text, given_prompt, has_prompt};
use crate::columns::Fields;
use crate::error::{RowErrorKind, RowProblem};
use crate::formats::{Format, open_lines, optional};
use crate::render::Render;
use crate::tools::Tools;

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
        optional("text"),
        optional("system"),
        optional("tools"),
    ],
    takes_prompt_template: true,
    takes_render: false,
    open: open_lines,
    detect: |fields| has_prompt(fields) || fields.get("text").is_some(),
    parse,
};

fn parse(fields: Fields<'_>, _: Render) -> Result<PromptRow, RowProblem> {
    let tools = Tools::of(fields)?;
    let prompt = match given_prompt(fields, &tools)? {
        Some(prompt) => prompt,
        None if fields.get("text").is_some() => GivenPrompt {
            messages: vec![Message::new(Role::User, filled_text(fields, "text")?)],
            field: fields.path("text"),
            is_conversation: false,
        },
        None => {
            let expected = "a prompt, or `messages`, `conversations`, `instruction`, `question`, `text`";
            return Err(fields.missing("prompt", expected));
        }
    };
    let mut messages = prompt.messages;
    while messages.last().is_some_and(|m| m.role == Role::Assistant) {
        messages.pop();
    }
    if !messages.iter().any(|m| m.role == Role::User) {
        let problem = RowProblem::new(prompt.field, RowErrorKind::Empty, "a user's turn to be answered");
        return Err(problem);
    }
    let prompt = Conversation { messages, tools: tools.described };
    Ok(PromptRow { prompt, columns: fields.row.clone() })
}
