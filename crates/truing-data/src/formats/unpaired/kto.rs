//! KTO's rows: `{"prompt", "completion", "label": true}`. The completion may be the last turn of `messages` or
//! `conversations`; the verdict may be called `kto_tag`, and be 0 or 1, or `"true"` or
//! `"false"` as a string.

use serde_json::Value;
use truing_types::{Conversation, Role, UnpairedRow};

use crate::columns::Fields;
use crate::error::{RowErrorKind, RowProblem};
use crate::formats::preference::split_turns;
use crate::formats::prompts::{given_prompt, response_turns};
use crate::formats::{Format, open_lines, optional, required};
use crate::json::type_name;
use crate::render::Render;
use crate::tools::Tools;
use crate::turns;

pub(super) const FORMAT: Format<UnpairedRow> = Format {
    name: "kto",
    example: r#"{"prompt": "Is a wheel round?", "completion": "Yes.", "label": true}"#,
    columns: &[
        optional("prompt"),
        optional("completion"),
        required("label"),
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
    detect,
    parse,
};

const LABEL: &str = "true or false, as such or as a string, or 1 or 0";

fn detect(fields: Fields<'_>) -> bool {
    let has_turns = ["messages", "conversations"].iter().any(|column| fields.get(column).is_some());
    fields.get(label_column(fields)).is_some()
        && (has_turns || fields.get(completion_column(fields)).is_some())
}

fn label_column(fields: Fields<'_>) -> &'static str {
    aliased(fields, "label", &["kto_tag"])
}

fn completion_column(fields: Fields<'_>) -> &'static str {
    aliased(fields, "completion", &["response", "output"])
}

/// The first other name that the row has, where it has neither the column nor a mapping to one.
fn aliased(fields: Fields<'_>, column: &'static str, others: &[&'static str]) -> &'static str {
    if fields.columns.mapping.contains_key(column) || fields.get(column).is_some() {
        return column;
    }
    others.iter().copied().find(|other| fields.get(other).is_some()).unwrap_or(column)
}

fn parse(fields: Fields<'_>, _: Render) -> Result<UnpairedRow, RowProblem> {
    let column = label_column(fields);
    let field = fields.path(column);
    let is_desirable = match fields.get(column) {
        None => return Err(fields.missing(column, LABEL)),
        Some(Value::Bool(label)) => *label,
        Some(Value::Number(label)) if label.as_f64() == Some(1.0) => true,
        Some(Value::Number(label)) if label.as_f64() == Some(0.0) => false,
        Some(Value::Number(label)) => {
            return Err(RowProblem::new(field, RowErrorKind::BadValue(label.to_string()), LABEL));
        }
        Some(Value::String(label)) if label.trim().eq_ignore_ascii_case("true") => true,
        Some(Value::String(label)) if label.trim().eq_ignore_ascii_case("false") => false,
        Some(Value::String(label)) => {
            return Err(RowProblem::new(field, RowErrorKind::BadValue(format!("{label:?}")), LABEL));
        }
        Some(other) => return Err(RowProblem::new(field, RowErrorKind::WrongType(type_name(other)), LABEL)),
    };
    let tools = Tools::of(fields)?;
    let mut prompt = given_prompt(fields, &tools)?;
    let column = completion_column(fields);
    let (completion, field) = match (fields.get(column), &mut prompt) {
        (Some(value), _) => (response_turns(value, fields.path(column), &tools)?, fields.path(column)),
        (None, Some(prompt)) if prompt.is_conversation => {
            let last = prompt.messages.pop_if(|last| last.role == Role::Assistant);
            let problem = || RowProblem::new(prompt.field, RowErrorKind::NoAssistantTurn, "one at the end");
            (vec![last.ok_or_else(problem)?], prompt.field)
        }
        (None, _) => return Err(fields.missing(column, "a string or a list of turns")),
    };
    let (prompt, mut completions) = split_turns(prompt, vec![(completion, field.to_owned())])?;
    let completion = completions.pop().unwrap_or_default();
    if is_desirable && completion.iter().any(turns::is_blank_and_learnt) {
        return Err(RowProblem::new(field, RowErrorKind::Empty, "what is desirable"));
    }
    let prompt = Conversation { messages: prompt, tools: tools.described };
    Ok(UnpairedRow { prompt, completion, is_desirable })
}
