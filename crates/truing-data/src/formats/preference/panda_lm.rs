//! PandaLM's human verdicts: `instruction`, `input`, `response1`, `response2`, and one vote an annotator in
//! `annotator1`, `annotator2`, ...: 0 a tie, 1 the first, 2 the second.
//!
//! The vote of more than half of them counts; without such a majority it is a tie. The margin is how many more of
//! all votes the better one got, from 0 to 1.

use truing_types::PreferenceRow;

use super::{Candidate, ranked_row};
use crate::columns::Fields;
use crate::error::{RowErrorKind, RowProblem};
use crate::formats::prompts::given_prompt;
use crate::formats::{Format, open_lines, optional, required};
use crate::render::Render;
use crate::tools::Tools;

pub(super) const FORMAT: Format<PreferenceRow> = Format {
    name: "panda_lm",
    example: r#"{"instruction": "Add.", "input": "1 2", "response1": "3", "response2": "4", "annotator1": 1}"#,
    columns: &[
        required("instruction"),
        optional("input"),
        required("response1"),
        required("response2"),
        required("annotator1"),
    ],
    takes_prompt_template: true,
    takes_render: false,
    open: open_lines,
    detect,
    parse,
};

const MAX_ANNOTATORS: usize = 64;

fn detect(fields: Fields<'_>) -> bool {
    ["instruction", "response1", "response2", "annotator1"].iter().all(|column| fields.get(column).is_some())
}

fn parse(fields: Fields<'_>, _: Render) -> Result<PreferenceRow, RowProblem> {
    let tools = Tools::of(fields)?;
    let prompt = given_prompt(fields, &tools)?.ok_or_else(|| fields.missing("instruction", "a string"))?;
    let mut candidates = Vec::new();
    for column in ["response1", "response2"] {
        let said = fields.required_text(column)?;
        let turns = vec![truing_types::Message::new(truing_types::Role::Assistant, said)];
        candidates.push(Candidate { turns, field: fields.path(column).to_owned(), ..Candidate::default() });
    }
    let mut votes = [0u32; 3];
    for annotator in 1..=MAX_ANNOTATORS {
        let name = format!("annotator{annotator}");
        let (vote, field) = match annotator {
            1 => (fields.get("annotator1"), fields.path("annotator1")),
            _ => (fields.row.get(&name).filter(|v| !v.is_null()), &name[..]),
        };
        let Some(vote) = vote else { break };
        let count = vote.as_u64().and_then(|v| votes.get_mut(v as usize));
        let problem = || {
            let kind = RowErrorKind::BadValue(vote.to_string());
            RowProblem::new(field, kind, "0 for a tie, 1 or 2 for the better response")
        };
        *count.ok_or_else(problem)? += 1;
    }
    let n_votes: u32 = votes.iter().sum();
    if n_votes == 0 {
        return Err(fields.missing("annotator1", "0 for a tie, 1 or 2 for the better response"));
    }
    let (keys, margin) = match votes {
        [_, first, second] if 2 * first > n_votes => ([0.0, 1.0], first - second),
        [_, first, second] if 2 * second > n_votes => ([1.0, 0.0], second - first),
        _ => ([0.0, 0.0], 0),
    };
    let margin = f64::from(margin) / f64::from(n_votes);
    ranked_row(tools, Some(prompt), candidates, &keys, Some(margin))
}
