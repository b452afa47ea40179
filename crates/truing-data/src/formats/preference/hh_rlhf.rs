//! Anthropic's hh-rlhf: `chosen` and `rejected` are dialogues as text, marked by `\n\nHuman:` and
//! `\n\nAssistant:`. What they share is the prompt; they may differ in how many turns follow.

use truing_types::{Message, PreferenceRow, Role};

use super::{Candidate, ranked_row};
use crate::columns::Fields;
use crate::error::{RowErrorKind, RowProblem};
use crate::formats::{Format, open_lines, required};
use crate::render::Render;
use crate::tools::Tools;

pub(super) const FORMAT: Format<PreferenceRow> = Format {
    name: "hh_rlhf",
    example: r#"{"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi\n\nAssistant: No."}"#,
    columns: &[required("chosen"), required("rejected")],
    takes_prompt_template: false,
    takes_render: false,
    open: open_lines,
    detect,
    parse,
};

const MARKS: [(&str, Role); 2] = [("\n\nHuman:", Role::User), ("\n\nAssistant:", Role::Assistant)];
const DIALOGUE: &str =
    "a dialogue that begins with `\\n\\nHuman:` and ends with what follows `\\n\\nAssistant:`";

fn detect(fields: Fields<'_>) -> bool {
    let is_dialogue = |column| {
        let text = fields.get(column).and_then(|v| v.as_str());
        text.is_some_and(|text| MARKS.iter().any(|(mark, _)| text.starts_with(mark)))
    };
    fields.get("prompt").is_none() && is_dialogue("chosen") && is_dialogue("rejected")
}

fn parse(fields: Fields<'_>, _: Render) -> Result<PreferenceRow, RowProblem> {
    let side = |column| {
        let field = fields.path(column);
        let turns = dialogue(fields.required_text(column)?, field)?;
        Ok(Candidate { turns, field: field.to_owned(), ..Candidate::default() })
    };
    ranked_row(Tools::of(fields)?, None, vec![side("chosen")?, side("rejected")?], &[0.0, 1.0], None)
}

/// The turns of a dialogue, without the white space around them.
fn dialogue(text: &str, field: &str) -> Result<Vec<Message>, RowProblem> {
    let next_mark = |text: &str| {
        let found = MARKS.iter().filter_map(|&(mark, role)| text.find(mark).map(|at| (at, mark, role)));
        found.min_by_key(|(at, ..)| *at)
    };
    let mut turns = Vec::new();
    let mut rest = text;
    match next_mark(text) {
        Some((0, ..)) => {}
        _ => {
            let kind = RowErrorKind::BadValue("text without a mark at its beginning".to_owned());
            return Err(RowProblem::new(field, kind, DIALOGUE));
        }
    }
    while let Some((_, mark, role)) = next_mark(rest) {
        rest = &rest[mark.len()..];
        let end = next_mark(rest).map_or(rest.len(), |(at, ..)| at);
        turns.push(Message::new(role, rest[..end].trim()));
        rest = &rest[end..];
    }
    Ok(turns)
}
