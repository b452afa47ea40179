//! Ranked lists: `{"prompt", "responses": [...]}`. A response is a string, or `content`, `messages`, `response` or
//! `text` with a `score` (`overall_score`, `rating`, `reward`) and scores by aspect in `scores`; UltraFeedback's
//! `completions` with their `annotations` are one too. The scores may be beside the responses instead: `scores`
//! (`rewards`, `ratings`, or one of their singulars), a list of one number a response.
//!
//! The order comes from `ranks` (`rank`, `ranking`), beside the responses or inside each: one number a response, the
//! smallest the best, equal ones a tie. Without it from the scores, where every response has one; else the list is from
//! best to worst. A `ranking` that could as well list the places of the responses from best to worst is refused.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use truing_types::PreferenceRow;

use super::{Candidate, number, number_in, ranked_row};
use crate::columns::Fields;
use crate::error::{RowErrorKind, RowProblem};
use crate::formats::prompts::{given_prompt, has_prompt, response_turns};
use crate::formats::{Format, entry, list, object, open_lines, optional, required};
use crate::render::Render;
use crate::tools::Tools;

pub(super) const FORMAT: Format<PreferenceRow> = Format {
    name: "ranked",
    example: r#"{"prompt": "Hi", "responses": [{"content": "Hello.", "score": 9}, {"content": "What?", "score": 2}]}"#,
    columns: &[
        optional("prompt"),
        required("responses"),
        optional("ranks"),
        optional("scores"),
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
    let (mut candidates, ranks): (Vec<_>, Vec<_>) =
        parsed.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    if let Some((column, scores)) = score_list(fields)? {
        let scores = one_each(scores, fields.path(column), candidates.len(), SCORES)?;
        if candidates.iter().any(|candidate| candidate.score.is_some()) {
            let kind = RowErrorKind::BadValue("beside scores inside the responses".to_owned());
            return Err(RowProblem::new(fields.path(column), kind, "scores in one of both"));
        }
        for (candidate, score) in candidates.iter_mut().zip(scores) {
            candidate.score = Some(score);
        }
    }
    let keys = match (rank_list(fields, candidates.len())?, every(&ranks, field, RANKS_INSIDE)?) {
        (Some((column, _)), Some(_)) => {
            let kind = RowErrorKind::BadValue("beside ranks inside the responses".to_owned());
            return Err(RowProblem::new(fields.path(column), kind, "ranks in one of both"));
        }
        (Some((_, ranks)), None) | (None, Some(ranks)) => ranks,
        (None, None) => {
            let scores: Vec<_> = candidates.iter().map(|candidate| candidate.score).collect();
            match every(&scores, field, SCORES_INSIDE)? {
                Some(scores) => scores.into_iter().map(|score| -score).collect(),
                None => (0..candidates.len()).map(|i| i as f64).collect(),
            }
        }
    };
    ranked_row(tools, prompt, candidates, &keys, number_in(fields, &["margin"])?)
}

const RANKS: &str = "one number for each response, the smallest for the best";
const SCORES: &str = "one number for each response, the largest for the best";
const RANKS_INSIDE: Inside = Inside { name: "ranks", expected: "a rank for every response, or none" };
const SCORES_INSIDE: Inside =
    Inside { name: "scores", expected: "a score for every response, none, or `ranks`" };

/// Numbers that are inside the responses, for messages.
struct Inside {
    name: &'static str,
    expected: &'static str,
}

/// The numbers, where every response has one; `None` where none has.
fn every(numbers: &[Option<f64>], field: &str, inside: Inside) -> Result<Option<Vec<f64>>, RowProblem> {
    let found: Vec<f64> = numbers.iter().copied().flatten().collect();
    match found.len() {
        0 => Ok(None),
        n if n == numbers.len() => Ok(Some(found)),
        n => {
            let kind = RowErrorKind::BadValue(format!("a list with {n} {}", inside.name));
            Err(RowProblem::new(field, kind, inside.expected))
        }
    }
}

/// The scores of all responses beside them, and their column.
fn score_list(fields: Fields<'_>) -> Result<Option<(&'static str, &Value)>, RowProblem> {
    if fields.columns.mapping.contains_key("scores") {
        return Ok(fields.get("scores").map(|scores| ("scores", scores)));
    }
    let mut found = None;
    for name in ["scores", "rewards", "ratings", "score", "reward", "rating"] {
        // A number is one of the row as a whole.
        let Some(value) = fields.get(name).filter(|value| !value.is_number()) else { continue };
        if let Some((first, _)) = found {
            let kind = RowErrorKind::BadValue(format!("beside `{first}`"));
            let expected = "one list of scores, or its name in the source: columns = { scores = \"...\" }";
            return Err(RowProblem::new(name, kind, expected));
        }
        found = Some((name, value));
    }
    Ok(found)
}

/// The ranks of all responses beside them, and their column.
fn rank_list(fields: Fields<'_>, n_responses: usize) -> Result<Option<(&'static str, Vec<f64>)>, RowProblem> {
    let name = column(fields, "ranks", column(fields, "ranking", "rank"));
    // A number in `rank` is one of the row as a whole.
    let is_of_row = |value: &&Value| name == "rank" && value.is_number();
    let Some(value) = fields.get(name).filter(|value| !is_of_row(value)) else { return Ok(None) };
    let ranks = one_each(value, fields.path(name), n_responses, RANKS)?;
    if name == "ranking" && is_order_as_well(&ranks) {
        let kind = RowErrorKind::BadValue(format!("{value}, ranks or the places of the responses in order"));
        let expected = "`ranks`, one number for each response, the smallest for the best";
        return Err(RowProblem::new(name, kind, expected));
    }
    Ok(Some((name, ranks)))
}

/// Whether ranks also name every response once, by its place counted from 0 or 1, and say something else then: of
/// `[2, 0, 1]` the best is the second response by rank, and the third by place.
fn is_order_as_well(ranks: &[f64]) -> bool {
    let mut sorted = ranks.to_vec();
    sorted.sort_by(f64::total_cmp);
    let first = sorted.first().copied().unwrap_or_default();
    let names_every_response = sorted.iter().enumerate().all(|(i, rank)| *rank == first + i as f64);
    let is_own_inverse =
        || ranks.iter().enumerate().all(|(i, rank)| ranks[(rank - first) as usize] == first + i as f64);
    (first == 0.0 || first == 1.0) && names_every_response && !is_own_inverse()
}

/// A list of one number for each response.
fn one_each(
    value: &Value,
    field: &str,
    n_responses: usize,
    expected: &'static str,
) -> Result<Vec<f64>, RowProblem> {
    let numbers = list(value, field, expected)?;
    if numbers.len() != n_responses {
        let kind = RowErrorKind::BadValue(format!("a list of {} for {n_responses} responses", numbers.len()));
        return Err(RowProblem::new(field, kind, expected));
    }
    numbers.iter().enumerate().map(|(i, item)| number(item, &format!("{field}[{i}]"))).collect()
}

/// A response, and the rank that it has inside.
fn candidate(response: &Value, at: &str, tools: &Tools) -> Result<(Candidate, Option<f64>), RowProblem> {
    let Value::Object(entries) = response else {
        let turns = response_turns(response, at, tools)?;
        return Ok((Candidate { turns, field: at.to_owned(), ..Candidate::default() }, None));
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
    let number_of = |keys: &[&str]| match keys.iter().find_map(|&key| Some((key, entry(entries, key)?))) {
        Some((key, value)) => number(value, &format!("{at}.{key}")).map(Some),
        None => Ok(None),
    };
    let score = number_of(&["score", "overall_score", "rating", "reward"])?;
    let rank = number_of(&["rank"])?;
    Ok((Candidate { turns, field, score, aspects: aspects(entries, at)? }, rank))
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
