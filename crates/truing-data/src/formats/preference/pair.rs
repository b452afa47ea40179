//! Pairs: `{"prompt", "chosen", "rejected"}`, each a string or turns.
//!
//! The prompt may be written as in [`prompts`](crate::formats::prompts), or be what `chosen` and `rejected` have in
//! common (TRL's implicit prompt). LLaMA-Factory's ShareGPT pairs are `conversations` with one turn a side. Absolute
//! scores lie in `score_chosen` and `score_rejected`, the margin of the preference in `margin`.

use truing_types::PreferenceRow;

use super::{Candidate, number_in, ranked_row};
use crate::columns::Fields;
use crate::error::RowProblem;
use crate::formats::prompts::{TURNS, given_prompt, has_prompt, response_turns};
use crate::formats::{Format, open_lines, optional, required};
use crate::render::Render;
use crate::tools::Tools;

pub(super) const FORMAT: Format<PreferenceRow> = Format {
    name: "pair",
    example: r#"{"prompt": "Is a wheel round?", "chosen": "Yes.", "rejected": "No.", "margin": 1.5}"#,
    columns: &[
        optional("prompt"),
        required("chosen"),
        required("rejected"),
        optional("messages"),
        optional("conversations"),
        optional("instruction"),
        optional("input"),
        optional("question"),
        optional("system"),
        optional("tools"),
        optional("score_chosen"),
        optional("score_rejected"),
        optional("margin"),
    ],
    takes_prompt_template: true,
    takes_render: false,
    open: open_lines,
    detect,
    parse,
};

fn detect(fields: Fields<'_>) -> bool {
    let is_turns = |column| fields.get(column).is_some_and(|v| v.is_array());
    fields.get("chosen").is_some()
        && fields.get("rejected").is_some()
        && (has_prompt(fields) || (is_turns("chosen") && is_turns("rejected")))
}

fn parse(fields: Fields<'_>, _: Render) -> Result<PreferenceRow, RowProblem> {
    let tools = Tools::of(fields)?;
    let prompt = given_prompt(fields, &tools)?;
    let side = |column, scores: &[&'static str]| {
        let value = fields.get(column).ok_or_else(|| fields.missing(column, TURNS))?;
        let field = fields.path(column);
        let turns = response_turns(value, field, &tools)?;
        let score = number_in(fields, scores)?;
        Ok(Candidate { turns, field: field.to_owned(), score, ..Candidate::default() })
    };
    let chosen = side("chosen", &["score_chosen", "chosen_score", "chosen_rating", "chosen-rating"])?;
    let rejected =
        side("rejected", &["score_rejected", "rejected_score", "rejected_rating", "rejected-rating"])?;
    let margin = number_in(fields, &["margin"])?;
    ranked_row(tools, prompt, vec![chosen, rejected], &[0.0, 1.0], margin)
}
