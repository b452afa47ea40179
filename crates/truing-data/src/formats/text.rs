//! Raw text: `{"text": "..."}`. Every token carries loss.

use truing_types::TrainingRow;

use super::{Format, open_lines, required};
use crate::columns::Fields;
use crate::error::{RowErrorKind, RowProblem};
use crate::render::Render;
use crate::turns::is_blank_text;

pub(super) const FORMAT: Format = Format {
    name: "text",
    example: r#"{"text": "Once upon a time there was a wheel."}"#,
    columns: &[required("text")],
    takes_prompt_template: false,
    takes_render: false,
    open: open_lines,
    detect,
    parse,
};

fn detect(fields: Fields<'_>) -> bool {
    fields.get("text").is_some_and(|text| text.is_string())
}

fn parse(fields: Fields<'_>, _: Render) -> Result<TrainingRow, RowProblem> {
    let text = fields.required_text("text")?;
    if is_blank_text(text) {
        return Err(RowProblem::new(fields.path("text"), RowErrorKind::Empty, "training text"));
    }
    Ok(TrainingRow::Text(text.to_owned()))
}
