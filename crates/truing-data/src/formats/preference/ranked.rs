//! Ranked lists: `{"prompt", "responses": [...]}`. A response is a string, or `content`, `messages`, `response` or
//! `text` with a `score` (`overall_score`, `rating`) and scores by aspect in `scores`; UltraFeedback's
//! `completions` with their `annotations` are one too.
//!
//! The order comes from `ranks` (or `ranking`): one number a response, the smallest the best, equal ones a tie.
//! Without it from the scores, where every response has one; else the list is from best to worst.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use truing_types::PreferenceRow;

use super::{Candidate, number, number_in, ranked_row};
use crate::columns::Fields;
use crate::error::{RowErrorKind, RowProblem};
use crate::formats::prompts::{given_prompt, has_prompt, response_turns};
use crate::formats::{Format, entry, list, object, open_lines, optional, required};
use crate::source::Render;
use crate::tools::Tools;

pub(super) const FORMAT: Format<PreferenceRow> = Format {
    name: "ranked",
    example: r#"{"prompt": "Hi", "responses": [{"content": "Hello.", "score": 9}, {"content": "What?", "score": 2}]}"#,
    columns: &[
        optional("prompt"),
        required("responses"),
        optional("ranks"),
        optional("messages"),
        optional("conversations"),
        optional("instruction"),
        optional("input"),
        optional("question"),
        optional("system"),
        optional("tools"),
        optional("margin"),
    ],
    takes_prompt_template: true,
    takes_render: false,
    open: open_lines,
    detect,
    parse,
};

const RESPONSES: &str = "a list of at least two responses";

fn detect(fields: Fields<'_>) -> bool {
    has_prompt(fields) && fields.get(column(fields, "responses", "completions")).is_some_and(Value::is_array)
}

fn column(fields: Fields<'_>, name: &'static str, other: &'static str) -> &'static str {
    let is_other = !fields.columns.mapping.contains_key(name) && fields.get(name).is_none();
    if is_other && fields.get(other).is_some() { other } else { name }
}

pub(super) fn parse(fields: Fields<'_>, _: Render) -> Result<PreferenceRow, RowProblem> {
    let tools = Tools::of(fields)?;
    let prompt = given_prompt(fields, &tools)?;
    let name = column(fields, "responses", "completions");
    let field = fields.path(name);
    let responses = fields.get(name).ok_or_else(|| fields.missing(name, RESPONSES))?;
    let responses = list(responses, field, RESPONSES)?;
    if responses.len() < 2 {
        let kind = RowErrorKind::BadValue(format!("a list of {}", responses.len()));
        return Err(RowProblem::new(field, kind, RESPONSES));
    }
    let parsed = responses.iter().enumerate().map(|(i, r)| candidate(r, &format!("{field}[{i}]"), &tools));
    let candidates = parsed.collect::<Result<Vec<_>, _>>()?;
    let keys = match fields.get(column(fields, "ranks", "ranking")) {
        Some(ranks) => given_ranks(ranks, fields.path(column(fields, "ranks", "ranking")), candidates.len())?,
        None => {
            let scores: Vec<f64> = candidates.iter().filter_map(|c| c.score).collect();
            match scores.len() {
                0 => (0..candidates.len()).map(|i| i as f64).collect(),
                n if n == candidates.len() => scores.into_iter().map(|score| -score).collect(),
                n => {
                    let kind = RowErrorKind::BadValue(format!("a list with {n} scores"));
                    return Err(RowProblem::new(field, kind, "a score for every response, none, or `ranks`"));
                }
            }
        }
    };
    ranked_row(tools, prompt, candidates, &keys, number_in(fields, &["margin"])?)
}

fn given_ranks(value: &Value, field: &str, n_responses: usize) -> Result<Vec<f64>, RowProblem> {
    const EXPECTED: &str = "one number for each response, the smallest for the best";
    let ranks = list(value, field, EXPECTED)?;
    if ranks.len() != n_responses {
        let kind = RowErrorKind::BadValue(format!("a list of {} for {n_responses} responses", ranks.len()));
        return Err(RowProblem::new(field, kind, EXPECTED));
    }
    ranks.iter().enumerate().map(|(i, rank)| number(rank, &format!("{field}[{i}]"))).collect()
}

fn candidate(response: &Value, at: &str, tools: &Tools) -> Result<Candidate, RowProblem> {
    let Value::Object(entries) = response else {
        return Ok(Candidate {
            turns: response_turns(response, at, tools)?,
            field: at.to_owned(),
            ..Candidate::default()
        });
    };
    let keys = ["messages", "content", "response", "text", "completion"];
    let (turns, field) = match keys.iter().find_map(|&key| entry(entries, key).map(|value| (key, value))) {
        // A turn as it stands: its role is read too.
        Some(("content", _)) if entries.contains_key("role") => {
            (response_turns(response, at, tools)?, at.to_owned())
        }
        Some((key, value)) => {
            let field = format!("{at}.{key}");
            (response_turns(value, &field, tools)?, field)
        }
        None if entries.contains_key("from") => (response_turns(response, at, tools)?, at.to_owned()),
        None => {
            let expected = "a string, or a list of turns in `messages`";
            return Err(RowProblem::new(format!("{at}.content"), RowErrorKind::Missing, expected));
        }
    };
    let scores = ["score", "overall_score", "rating"];
    let score = match scores.iter().find_map(|&key| entry(entries, key).map(|value| (key, value))) {
        Some((key, value)) => Some(number(value, &format!("{at}.{key}"))?),
        None => None,
    };
    Ok(Candidate { turns, field, score, aspects: aspects(entries, at)? })
}

/// Scores by aspect: `scores` of numbers, or UltraFeedback's `annotations` with a `Rating` each (`N/A` is none).
fn aspects(entries: &Map<String, Value>, at: &str) -> Result<BTreeMap<String, f64>, RowProblem> {
    const EXPECTED: &str = "an object of numbers";
    let mut aspects = BTreeMap::new();
    if let Some(scores) = entry(entries, "scores") {
        let field = format!("{at}.scores");
        for (aspect, value) in object(scores, &field, EXPECTED)?.iter().filter(|(_, v)| !v.is_null()) {
            aspects.insert(aspect.clone(), number(value, &format!("{field}.{aspect}"))?);
        }
    }
    if let Some(annotations) = entry(entries, "annotations") {
        let field = format!("{at}.annotations");
        for (aspect, annotation) in object(annotations, &field, "an object of annotations")? {
            let rating = annotation.get("Rating").filter(|v| !v.is_null() && v.as_str() != Some("N/A"));
            if let Some(rating) = rating {
                aspects.insert(aspect.clone(), number(rating, &format!("{field}.{aspect}.Rating"))?);
            }
        }
    }
    Ok(aspects)
}
