//! A run in numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use truing_ask::judging::{NOT_ASKED, main_reasons};

use super::candidate::{Candidate, Fate, PromptFate, PromptWork};
use super::config::RespondConfig;

/// A run in numbers, also in `summary.json`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RespondSummary {
    /// Prompts of the data.
    pub n_prompts: usize,
    /// Prompts that were sampled, also those of `n_partial`.
    pub n_sampled: usize,
    /// Prompts of which the budget left samples out. They are neither in `prompts.jsonl` nor answered well.
    #[serde(default)]
    pub n_partial: usize,
    /// Responses that were sampled or tried.
    pub n_candidates: usize,
    /// Rows of `responses.jsonl`.
    pub n_accepted: usize,
    /// Rows of `prompts.jsonl`; `None` without `pass_rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_in_pass_rate: Option<usize>,
    /// Responses by fate.
    pub candidates: BTreeMap<Fate, usize>,
    /// Prompts by fate.
    pub prompts: BTreeMap<PromptFate, usize>,
    /// Each model with each decoding setting.
    pub samplers: Vec<SamplerSummary>,
    /// Why responses are missing, by how often.
    pub failures: BTreeMap<String, usize>,
    /// Responses that were never requested, because their model kept failing. They are not in `failures`.
    #[serde(default)]
    pub n_not_asked: usize,
    /// What the samples cost, with those from the cache; `None` without prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// A model with a decoding setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplerSummary {
    /// The model.
    pub model: String,
    /// The decoding setting.
    pub decoding: String,
    /// Replies.
    pub n_replies: usize,
    /// Their tokens; 0 where the server does not tell.
    pub n_tokens: usize,
    /// Mean of the scores that are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_score: Option<f64>,
    /// Share of the replies that is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_share: Option<f64>,
    /// Share of the replies that refuses to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal_share: Option<f64>,
}

/// Counts. `cost` is that of the samples, `is_over_budget` says whether it ended the run.
pub(super) fn summarise(
    config: &RespondConfig,
    works: &[PromptWork],
    cost: Option<f64>,
    is_over_budget: bool,
) -> RespondSummary {
    let candidates = || works.iter().flat_map(|work| &work.candidates);
    let mut summary = RespondSummary {
        n_prompts: works.len(),
        n_candidates: candidates().count(),
        samplers: samplers(config, works),
        cost,
        ..RespondSummary::default()
    };
    for work in works {
        *summary.prompts.entry(work.fate).or_default() += 1;
    }
    let is_left_out = |work: &&PromptWork| matches!(work.fate, PromptFate::NotSampled | PromptFate::Repeated);
    summary.n_sampled = works.len() - works.iter().filter(is_left_out).count();
    summary.n_partial = works.iter().filter(|work| work.is_partial()).count();
    for candidate in candidates() {
        *summary.candidates.entry(candidate.fate).or_default() += 1;
        match failure(candidate) {
            Some(reason) if reason == NOT_ASKED => summary.n_not_asked += 1,
            Some(reason) => *summary.failures.entry(reason).or_default() += 1,
            None => {}
        }
    }
    summary.n_accepted = summary.candidates.get(&Fate::Accepted).copied().unwrap_or(0);
    let in_range = works.iter().filter(|work| is_in_range(config, work)).count();
    summary.n_in_pass_rate = config.pass_rate.map(|_| in_range);
    summary.warnings = warnings(config, &summary, is_over_budget);
    summary
}

/// Why a response is missing or has no score; of a score the kind of reason, without what is said of the row.
fn failure(candidate: &Candidate) -> Option<String> {
    let unscored = candidate.unscored.as_deref().and_then(|reason| reason.split(':').next());
    match candidate.fate {
        Fate::Failed => Some(candidate.reason.clone().unwrap_or_else(|| "cancelled".to_owned())),
        _ => unscored.map(|kind| format!("no score: {kind}")),
    }
}

/// Whether the pass rate of a prompt is in the recipe's range.
pub(super) fn is_in_range(config: &RespondConfig, work: &PromptWork) -> bool {
    match (config.pass_rate, work.pass_rate) {
        (Some([low, high]), Some(rate)) => (low..=high).contains(&rate),
        _ => false,
    }
}

/// What is said of responses that no model was asked for.
pub(super) fn not_asked(n: usize) -> String {
    format!("{n} were never requested, because their model kept failing")
}

fn samplers(config: &RespondConfig, works: &[PromptWork]) -> Vec<SamplerSummary> {
    let names = config.decoding_names();
    let all =
        config.model.iter().flat_map(|model| names.iter().map(move |decoding| (model.name(), decoding)));
    all.map(|(model, decoding)| {
        let of_all = works.iter().flat_map(|work| &work.candidates);
        let is_own = |candidate: &&Candidate| {
            candidate.model == model && candidate.decoding == *decoding && candidate.finish_reason.is_some()
        };
        let own: Vec<&Candidate> = of_all.filter(is_own).collect();
        let share = |is_counted: &dyn Fn(&Candidate) -> bool| {
            let n = own.iter().filter(|candidate| is_counted(candidate)).count();
            (!own.is_empty()).then(|| n as f64 / own.len() as f64)
        };
        let scores: Vec<f64> = own.iter().filter_map(|candidate| candidate.score).collect();
        SamplerSummary {
            n_replies: own.len(),
            n_tokens: own.iter().map(|candidate| candidate.n_tokens).sum(),
            mean_score: (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64),
            accepted_share: share(&|candidate: &Candidate| candidate.fate == Fate::Accepted),
            refusal_share: share(&|candidate: &Candidate| candidate.is_refusal),
            model,
            decoding: decoding.clone(),
        }
    })
    .collect()
}

fn warnings(config: &RespondConfig, summary: &RespondSummary, is_over_budget: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let n_left = summary.prompts.get(&PromptFate::NotSampled).copied().unwrap_or(0);
    if is_over_budget && n_left + summary.n_partial > 0 {
        let (cost, budget) = (summary.cost.unwrap_or_default(), config.budget.unwrap_or_default());
        warnings.push(format!(
            "the budget of {budget} was reached (the samples cost {cost:.2}): of {} prompts {n_left} are not sampled, \
             and {} only in part; with a higher `budget` the same command continues",
            summary.n_prompts, summary.n_partial
        ));
    }
    if !summary.failures.is_empty() {
        let n: usize = summary.failures.values().sum();
        let reasons = main_reasons(&summary.failures);
        warnings
            .push(format!("{n} of {} responses are missing or unscored: {reasons}", summary.n_candidates));
    }
    if summary.n_not_asked > 0 {
        warnings.push(format!("of {} responses {}", summary.n_candidates, not_asked(summary.n_not_asked)));
    }
    let n_cut = summary.candidates.get(&Fate::Cut).copied().unwrap_or(0);
    if n_cut > 0 {
        warnings.push(format!(
            "{n_cut} of {} responses were cut at `max_new_tokens` and cannot be accepted",
            summary.n_candidates
        ));
    }
    if let Some(accept) = config.accept.filter(|&accept| summary.n_accepted < accept) {
        warnings.push(format!("{} responses are accepted; `accept` is {accept}", summary.n_accepted));
    }
    warnings
}
