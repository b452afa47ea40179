//! Alpaca: `{"instruction", "input", "output"}`, with `system` and `history` (`[[question, answer], ...]`) beside
//! them. The user's turn is the instruction, and below an empty line the input where there is one; a
//! `prompt_template` may put it differently. Answers in the history are learnt too.

use truing_types::{Message, Role, TrainingRow};

use super::{Format, check_turn, conversation, list, open_lines, optional, required};
use crate::columns::{Fields, text};
use crate::error::{RowErrorKind, RowProblem};
use crate::render::Render;
use crate::turns::is_blank_text;

pub(super) const FORMAT: Format = Format {
    name: "alpaca",
    example: r#"{"instruction": "Add the numbers.", "input": "1 2", "output": "3"}"#,
    columns: &[
        required("instruction"),
        optional("input"),
        required("output"),
        optional("system"),
        optional("history"),
    ],
    takes_prompt_template: true,
    takes_render: false,
    open: open_lines,
    detect,
    parse,
};

fn detect(fields: Fields<'_>) -> bool {
    fields.get("instruction").is_some() && fields.get("output").is_some()
}

fn parse(fields: Fields<'_>, _: Render) -> Result<TrainingRow, RowProblem> {
    let mut messages = Vec::new();
    if let Some(system) = fields.optional_text("system")?.filter(|s| !s.is_empty()) {
        messages.push(Message::new(Role::System, system));
    }
    push_history(fields, &mut messages)?;
    let asked = match &fields.columns.prompt_template {
        Some(template) => template.render(fields.row)?,
        None => {
            let instruction = fields.required_text("instruction")?;
            match fields.optional_text("input")?.filter(|input| !is_blank_text(input)) {
                Some(input) => format!("{instruction}\n\n{input}"),
                None => instruction.to_owned(),
            }
        }
    };
    if is_blank_text(&asked) {
        let problem = RowProblem::new(fields.path("instruction"), RowErrorKind::Empty, "a non-empty prompt");
        return Err(problem);
    }
    messages.push(Message::new(Role::User, asked));
    messages.push(Message::new(Role::Assistant, fields.required_text("output")?));
    check_turn(&messages[messages.len() - 1], fields.path("output"))?;
    conversation(messages, Vec::new(), fields.path("output"))
}

fn push_history(fields: Fields<'_>, messages: &mut Vec<Message>) -> Result<(), RowProblem> {
    const EXPECTED: &str = "a list of pairs: [[\"question\", \"answer\"], ...]";
    let Some(history) = fields.get("history") else { return Ok(()) };
    let field = fields.path("history");
    for (i, pair) in list(history, field, EXPECTED)?.iter().enumerate() {
        let at = format!("{field}[{i}]");
        let pair = list(pair, &at, EXPECTED)?;
        let [question, answer] = &pair[..] else {
            let kind = RowErrorKind::BadValue(format!("a list of {}", pair.len()));
            return Err(RowProblem::new(at, kind, EXPECTED));
        };
        messages.push(Message::new(Role::User, text(question, &format!("{at}[0]"))?));
        messages.push(Message::new(Role::Assistant, text(answer, &format!("{at}[1]"))?));
        check_turn(&messages[messages.len() - 1], &format!("{at}[1]"))?;
    }
    Ok(())
}
