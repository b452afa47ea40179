//! The files of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use truing_run::PromptSource;
use truing_types::{Message, Role};

use super::ask::Reply;
use super::columns::{carried, dataset};
use super::config::PreferConfig;
use super::inputs::{PreferInputs, PromptGroup};
use super::minimal::MinimalSummary;
use super::plan::Shown;
use super::rules::{ChosenPair, Decision, Fate, ranked};
use super::scores::ResponseScore;
use super::verdict::Verdict;

/// One line of `pairs.jsonl`: the format `pair` of preferences, and what it is derived from. Further columns are
/// those of the prompt's row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairRow {
    /// The conversation to be answered.
    pub prompt: Vec<Message>,
    /// The better response, an assistant's turn.
    pub chosen: Vec<Message>,
    /// The worse response, an assistant's turn.
    pub rejected: Vec<Message>,
    /// Calibrated score of the better response, between 1 and 5.
    pub chosen_score: f64,
    /// Calibrated score of the worse response.
    pub rejected_score: f64,
    /// Mean rating of the better response by judges that rate, 1 to 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_rating: Option<f64>,
    /// Mean rating of the worse response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_rating: Option<f64>,
    /// The model that wrote the better response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_model: Option<String>,
    /// The model that wrote the worse response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_model: Option<String>,
    /// Difference of the calibrated scores.
    pub margin: f64,
    /// Where the prompt comes from.
    pub dataset: String,
    /// What became of the prompt.
    pub fate: Fate,
    /// Place of the better response among the judged ones.
    pub chosen_index: usize,
    /// Place of the worse response.
    pub rejected_index: usize,
    /// Judged responses of the prompt.
    pub n_responses: usize,
    /// All verdicts on the prompt's responses.
    pub verdicts: Vec<Verdict>,
    /// Where the prompt's row is.
    pub source: PromptSource,
    /// Other columns of the row.
    #[serde(flatten)]
    pub columns: Map<String, Value>,
}

/// A run in numbers.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct PreferSummary {
    /// Prompts.
    pub n_prompts: usize,
    /// Responses that were judged.
    pub n_responses: usize,
    /// Responses that were left out before, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// Responses of comparable prompts without a score.
    pub n_unscored: usize,
    /// Prompts by fate.
    pub fates: BTreeMap<Fate, usize>,
    /// Pairs.
    pub n_pairs: usize,
    /// Mean margin of the pairs.
    pub mean_margin: Option<f64>,
    /// Pairs in which the better response has more characters.
    pub n_longer_chosen: usize,
    /// Pairs that were dropped because the direct comparison of their responses says the opposite.
    pub n_contradicted: usize,
    /// The pairs that differ in one defect only, where the recipe asks for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimal_difference: Option<MinimalSummary>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// Names of the fields of a [`PairRow`] that [`carried`] could carry over.
fn is_field_of_pair(name: &str) -> bool {
    const FIELDS: [&str; 14] = [
        "chosen_score",
        "rejected_score",
        "chosen_rating",
        "rejected_rating",
        "chosen_model",
        "rejected_model",
        "margin",
        "dataset",
        "fate",
        "chosen_index",
        "rejected_index",
        "n_responses",
        "verdicts",
        "source",
    ];
    FIELDS.contains(&name)
}

/// The pairs of a prompt.
pub(super) fn pair_rows(
    config: &PreferConfig,
    group: &PromptGroup,
    decision: &Decision,
    verdicts: &[Verdict],
) -> Vec<PairRow> {
    let row = |&ChosenPair { chosen, rejected }: &ChosenPair| {
        let (better, worse) = (decision.scores[chosen].as_ref()?, decision.scores[rejected].as_ref()?);
        let turn = |place: usize| vec![Message::new(Role::Assistant, group.responses[place].text.clone())];
        let mut columns = carried(group, is_field_of_pair);
        if !group.prompt.tools.is_empty() {
            columns.insert("tools".into(), group.prompt.tools.clone().into());
        }
        Some(PairRow {
            prompt: group.prompt.messages.clone(),
            chosen: turn(chosen),
            rejected: turn(rejected),
            chosen_score: better.score,
            rejected_score: worse.score,
            chosen_rating: better.rating,
            rejected_rating: worse.rating,
            chosen_model: group.responses[chosen].model.clone(),
            rejected_model: group.responses[rejected].model.clone(),
            margin: better.score - worse.score,
            dataset: dataset(config, group),
            fate: decision.fate,
            chosen_index: chosen,
            rejected_index: rejected,
            n_responses: group.responses.len(),
            verdicts: verdicts.to_vec(),
            source: PromptSource::of(&group.origin),
            columns,
        })
    };
    decision.pairs.iter().filter_map(row).collect()
}

/// The scored responses of a prompt from best to worst: the format `ranked` of preferences. `rank` counts from 0, and
/// equal scores share it.
pub(super) fn ranked_row(config: &PreferConfig, group: &PromptGroup, decision: &Decision) -> Value {
    let order = ranked(&decision.scores);
    let scored: Vec<(usize, &ResponseScore)> =
        order.into_iter().filter_map(|place| Some((place, decision.scores[place].as_ref()?))).collect();
    let rank = |score: f64| scored.iter().filter(|(_, better)| better.score > score).count();
    let responses: Vec<Value> = scored
        .iter()
        .map(|&(place, found)| {
            let response = &group.responses[place];
            let mut row = Map::new();
            row.insert("content".into(), response.text.clone().into());
            row.insert("score".into(), found.score.into());
            row.insert("scores".into(), json!(found.aspects));
            row.insert("rank".into(), rank(found.score).into());
            row.insert("index".into(), place.into());
            row.extend(found.rating.map(|rating| ("mean_rating".to_owned(), rating.into())));
            row.extend(response.model.clone().map(|model| ("model".to_owned(), model.into())));
            Value::Object(row)
        })
        .collect();
    let mut row = Map::new();
    row.insert("prompt".into(), json!(group.prompt.messages));
    row.insert("responses".into(), responses.into());
    if !group.prompt.tools.is_empty() {
        row.insert("tools".into(), group.prompt.tools.clone().into());
    }
    row.insert("dataset".into(), dataset(config, group).into());
    row.insert("source".into(), json!(PromptSource::of(&group.origin)));
    // `margin` is read as that of the row, and `ranking` as ranks.
    let is_own = |name: &str| matches!(name, "dataset" | "source" | "margin" | "ranking" | "fate");
    row.extend(carried(group, is_own));
    Value::Object(row)
}

/// A prompt whose responses are all bad, with the best of them and what the judges said about it.
pub(super) fn edit_row(group: &PromptGroup, decision: &Decision, replies: &[&Reply]) -> Option<Value> {
    let best_rated = || {
        let rated =
            decision.ratings.iter().enumerate().filter_map(|(place, rating)| Some((place, (*rating)?)));
        // The first of the best ones.
        rated.rev().max_by(|one, other| one.1.total_cmp(&other.1)).map(|(place, _)| place)
    };
    let best = ranked(&decision.scores).first().copied().or_else(best_rated)?;
    let found = decision.scores[best].as_ref();
    let is_of_best = |reply: &&&Reply| reply.call.shown == Shown::One(best) && !reply.call.is_repeat;
    let said = replies.iter().filter(is_of_best).filter_map(|reply| reply.said.as_ref().ok());
    let critiques: Vec<Value> = said
        .filter(|said| !said.reason.is_empty())
        .map(
            |said| json!({ "judge": said.verdict.judge, "value": said.verdict.value, "reason": said.reason }),
        )
        .collect();
    Some(json!({
        "prompt": group.prompt.messages,
        "response": group.responses[best].text,
        "model": group.responses[best].model,
        "score": found.map(|found| found.score),
        "rating": decision.ratings[best],
        "scores": found.map(|found| &found.aspects),
        "critiques": critiques,
        "source": PromptSource::of(&group.origin),
    }))
}

/// What became of a prompt.
pub(super) fn fate_row(group: &PromptGroup, decision: &Decision) -> Value {
    let scores: Vec<Option<f64>> =
        decision.scores.iter().map(|found| found.as_ref().map(|found| found.score)).collect();
    json!({
        "prompt": group.question,
        "source": PromptSource::of(&group.origin),
        "fate": decision.fate,
        "n_responses": group.responses.len(),
        "left_out": group.left_out,
        "scores": scores,
        "ratings": decision.ratings,
        "gap": decision.gap,
        "n_pairs": decision.pairs.len(),
        "n_contradicted": decision.n_contradicted,
    })
}

/// A question to a judge with its reply, or why there is no verdict.
pub(super) fn verdict_row(inputs: &PreferInputs, judge: &str, reply: &Reply) -> Value {
    let mut row = Map::new();
    let group = &inputs.groups[reply.call.prompt];
    row.insert("source".into(), json!(PromptSource::of(&group.origin)));
    row.insert("judge".into(), judge.into());
    match reply.call.shown {
        Shown::One(place) => row.insert("response".into(), place.into()),
        Shown::Two(order) => row.insert("order".into(), json!(order)),
    };
    row.insert("is_repeat".into(), reply.call.is_repeat.into());
    match &reply.said {
        Ok(said) => {
            row.insert("value".into(), json!(said.verdict.value));
            row.insert("reason".into(), said.reason.clone().into());
            row.insert("raw".into(), said.raw.clone().into());
            row.insert("raw_digest".into(), json!(said.verdict.raw_digest));
        }
        Err(problem) => {
            row.insert("value".into(), Value::Null);
            row.insert("problem".into(), problem.clone().into());
        }
    }
    Value::Object(row)
}
