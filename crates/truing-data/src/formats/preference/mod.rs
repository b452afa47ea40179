//! Ranked responses: one file a format, one line in [`PREFERENCE_FORMATS`].
//!
//! What they share lies here: where a conversation becomes prompt and response, and how ranks come about.

mod help_steer;
mod hh_rlhf;
mod llm_bar;
pub(crate) mod mt_bench;
mod pair;
mod panda_lm;
mod ranked;

use std::cmp::Ordering;

use serde_json::Value;
use truing_types::{Conversation, Message, PreferenceRow, RankedResponse, Role};

use super::Format;
use super::prompts::GivenPrompt;
use crate::columns::Fields;
use crate::error::{RowErrorKind, RowProblem};
use crate::json::type_name;
use crate::tools::Tools;
use crate::turns;

/// Every format of ranked responses, in the order in which they are tried on a row.
pub static PREFERENCE_FORMATS: &[Format<PreferenceRow>] = &[
    hh_rlhf::FORMAT,
    pair::FORMAT,
    panda_lm::FORMAT,
    llm_bar::FORMAT,
    ranked::FORMAT,
    help_steer::FORMAT,
    mt_bench::FORMAT,
];

const PROMPT: &str = "a prompt, or responses that begin with it";

/// Divides turns into the prompt that all responses share and what follows in each.
///
/// Responses that begin with the given prompt lose it; the turns they have in common go over to the prompt, but
/// for their last one. What is left begins with an assistant's turn in every response and ends with one; shared
/// turns that could not go over carry no loss.
pub(super) fn split_turns(
    given: Option<GivenPrompt<'_>>,
    mut sides: Vec<(Vec<Message>, String)>,
) -> Result<(Vec<Message>, Vec<Vec<Message>>), RowProblem> {
    for (turns, field) in &sides {
        if turns.last().is_none_or(|last| last.role != Role::Assistant) {
            let expected = "an assistant's turn at the end";
            return Err(RowProblem::new(field, RowErrorKind::NoAssistantTurn, expected));
        }
    }
    let (mut prompt, prompt_field) = match given {
        Some(given) => (given.messages, Some(given.field)),
        None => (Vec::new(), None),
    };
    if let Some(field) = prompt_field {
        for (turns, _) in &mut sides {
            // The system turn may be written in one place only.
            let without_system = usize::from(prompt.first().is_some_and(|m| m.role == Role::System));
            for part in [&prompt[..], &prompt[without_system..]] {
                if turns.len() > part.len() && !part.is_empty() && turns[..part.len()] == *part {
                    turns.drain(..part.len());
                    break;
                }
            }
        }
        if prompt.last().is_some_and(|last| last.role == Role::Assistant) {
            let kind = RowErrorKind::BadValue("ended by the assistant".to_owned());
            return Err(RowProblem::new(field, kind, "a turn at its end that is to be answered"));
        }
        for (turns, field) in &sides {
            if turns[0].role != Role::Assistant {
                let kind = RowErrorKind::BadValue(format!("begun by the {}", turns[0].role.as_str()));
                return Err(RowProblem::new(
                    field,
                    kind,
                    "an assistant's turn, or the whole prompt before it",
                ));
            }
        }
    }
    let n_most = sides.iter().map(|(turns, _)| turns.len() - 1).min().unwrap_or(0);
    let (first, _) = &sides[0];
    let is_shared = |i: usize| sides.iter().all(|(turns, _)| turns[i] == first[i]);
    let n_shared = (0..n_most).take_while(|&i| is_shared(i)).count();
    let starts_with_assistant = |i: usize| sides.iter().all(|(turns, _)| turns[i].role == Role::Assistant);
    let n_prompt = (0..=n_shared).rev().find(|&i| starts_with_assistant(i)).unwrap_or(0);
    if prompt_field.is_none() && n_prompt == 0 {
        return Err(RowProblem::new(
            &sides[0].1,
            RowErrorKind::BadValue("without a prompt".to_owned()),
            PROMPT,
        ));
    }
    prompt.extend_from_slice(&first[..n_prompt]);
    let mut responses = Vec::with_capacity(sides.len());
    for (mut turns, _) in sides {
        turns.drain(..n_prompt);
        for turn in &mut turns[..n_shared - n_prompt] {
            turn.weight = Some(0.0);
        }
        responses.push(turns);
    }
    Ok((prompt, responses))
}

/// A response and what is said of it, before it is ranked.
#[derive(Default)]
struct Candidate {
    turns: Vec<Message>,
    field: String,
    score: Option<f64>,
    aspects: std::collections::BTreeMap<String, f64>,
}

/// A row of candidates; `keys` are small for the best and need not be ranks yet.
fn ranked_row(
    tools: Tools,
    prompt: Option<GivenPrompt<'_>>,
    candidates: Vec<Candidate>,
    keys: &[f64],
    margin: Option<f64>,
) -> Result<PreferenceRow, RowProblem> {
    let field = candidates.first().map(|c| c.field.clone()).unwrap_or_default();
    let says_nothing = |c: &Candidate| c.turns.iter().all(turns::is_blank);
    if candidates.iter().all(says_nothing) {
        return Err(RowProblem::new(field, RowErrorKind::Empty, "a non-empty response"));
    }
    let fields: Vec<String> = candidates.iter().map(|candidate| candidate.field.clone()).collect();
    let mut sides = Vec::with_capacity(candidates.len());
    let mut verdicts = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        sides.push((candidate.turns, candidate.field));
        verdicts.push((candidate.score, candidate.aspects));
    }
    let (prompt, responses) = split_turns(prompt, sides)?;
    let ranks = dense_ranks(keys);
    if ranks.iter().any(|&rank| rank != 0) {
        let best = ranks.iter().position(|&rank| rank == 0).unwrap_or(0);
        let worse_twin = (0..ranks.len()).find(|&i| ranks[i] != 0 && responses[i] == responses[best]);
        if worse_twin.is_some() {
            let kind = RowErrorKind::BadValue("the same as one ranked differently".to_owned());
            return Err(RowProblem::new(field, kind, "responses that differ, or a tie"));
        }
        // The worst may say nothing, which may be why it is the worst. What is preferred to another is learnt.
        let worst = ranks.iter().copied().max().unwrap_or(0);
        let is_preferred_and_blank =
            |i: &usize| ranks[*i] < worst && responses[*i].iter().any(turns::is_blank_and_learnt);
        if let Some(i) = (0..ranks.len()).find(is_preferred_and_blank) {
            let expected = "a non-empty response, since it is preferred to another";
            return Err(RowProblem::new(&fields[i], RowErrorKind::Empty, expected));
        }
    }
    let mut responses: Vec<_> = responses
        .into_iter()
        .zip(verdicts)
        .map(|(messages, (score, aspects))| RankedResponse { messages, score, aspects })
        .zip(ranks)
        .collect();
    responses.sort_by_key(|(_, rank)| *rank);
    let (responses, ranks) = responses.into_iter().unzip();
    let prompt = Conversation { messages: prompt, tools: tools.described };
    Ok(PreferenceRow { prompt, responses, ranks, margin })
}

/// Ranks without gaps: 0 for the smallest key, equal ranks for equal keys.
fn dense_ranks(keys: &[f64]) -> Vec<u32> {
    let mut levels = keys.to_vec();
    levels.sort_by(f64::total_cmp);
    levels.dedup_by(|a, b| a.partial_cmp(&b) == Some(Ordering::Equal));
    keys.iter().map(|key| levels.partition_point(|level| level < key) as u32).collect()
}

/// A finite number, as such or written as text.
fn number(value: &Value, field: &str) -> Result<f64, RowProblem> {
    const EXPECTED: &str = "a finite number";
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        other => return Err(RowProblem::new(field, RowErrorKind::WrongType(type_name(other)), EXPECTED)),
    };
    number
        .filter(|n| n.is_finite())
        .ok_or_else(|| RowProblem::new(field, RowErrorKind::BadValue(value.to_string()), EXPECTED))
}

/// The number in the first of several columns that the row has; the first name is the one that `columns` maps.
fn number_in(fields: Fields<'_>, columns: &[&'static str]) -> Result<Option<f64>, RowProblem> {
    for &column in columns {
        if let Some(value) = fields.get(column) {
            return number(value, fields.path(column)).map(Some);
        }
    }
    Ok(None)
}
