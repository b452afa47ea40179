//! LLMBar: `input`, `output_1`, `output_2`, and the better of them in `label`, 1 or 2.

use truing_types::{Message, PreferenceRow, Role};

use super::{Candidate, number, ranked_row};
use crate::columns::Fields;
use crate::error::{RowErrorKind, RowProblem};
use crate::formats::prompts::{GivenPrompt, filled_text};
use crate::formats::{Format, open_lines, required};
use crate::render::Render;
use crate::tools::Tools;

pub(super) const FORMAT: Format<PreferenceRow> = Format {
    name: "llm_bar",
    example: r#"{"input": "Is a wheel round?", "output_1": "No.", "output_2": "Yes.", "label": 2}"#,
    columns: &[required("input"), required("output_1"), required("output_2"), required("label")],
    takes_prompt_template: false,
    takes_render: false,
    open: open_lines,
    detect,
    parse,
};

fn detect(fields: Fields<'_>) -> bool {
    FORMAT.columns.iter().all(|column| fields.get(column.name).is_some())
}

fn parse(fields: Fields<'_>, _: Render) -> Result<PreferenceRow, RowProblem> {
    let field = fields.path("input");
    let messages = vec![Message::new(Role::User, filled_text(fields, "input")?)];
    let prompt = GivenPrompt { messages, field, is_conversation: false };
    let mut candidates = Vec::new();
    for column in ["output_1", "output_2"] {
        let turns = vec![Message::new(Role::Assistant, fields.required_text(column)?)];
        candidates.push(Candidate { turns, field: fields.path(column).to_owned(), ..Candidate::default() });
    }
    let expected = "1 or 2, the better output";
    let label = fields.get("label").ok_or_else(|| fields.missing("label", expected))?;
    let keys = match number(label, fields.path("label"))? {
        1.0 => [0.0, 1.0],
        2.0 => [1.0, 0.0],
        _ => {
            let kind = RowErrorKind::BadValue(label.to_string());
            return Err(RowProblem::new(fields.path("label"), kind, expected));
        }
    };
    ranked_row(Tools::of(fields)?, Some(prompt), candidates, &keys, None)
}
