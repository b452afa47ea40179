//! The work: in rounds of prompts, sample, filter, score and select; then the limits over all, and the files.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde_json::Value;
use truing_ask::judged_folder;
use truing_ask::judging::{main_reason, note_counts};
use truing_model::Engine;
use truing_reward::Rewards;
use truing_run::rows::write_lines;
use truing_run::{Ended, Recipe, RunError, write_skipped};
use truing_stages::rewards::{OpenedRewards, RewardResources};
use truing_stages::{RunContext, StageError};
use truing_store::atomic;
use truing_types::{Event, EventSink, ReasoningMarks};

use super::candidate::{PromptFate, PromptWork};
use super::filter::drop_near_duplicates;
use super::plan::{RespondInputs, RespondPlan, SourcePrompt};
use super::sample::Sampler;
use super::score::score;
use super::select;
use super::summary::{RespondSummary, is_in_range, not_asked, summarise};
use super::write::{candidates_row, prompt_row, response_rows};

/// What a finished run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct RespondOutcome {
    /// One prompt a line, in the order of the data, with all its responses.
    pub candidates: PathBuf,
    /// One accepted response a line: `messages` to train on.
    pub responses: PathBuf,
    /// The prompts whose pass rate is in the range; `None` without `pass_rate`.
    pub prompts: Option<PathBuf>,
    /// The run in numbers, also in `summary.json`.
    pub summary: RespondSummary,
}

/// Samples and writes `candidates.jsonl`, `responses.jsonl`, `prompts.jsonl`, `summary.json`, `recipe.resolved.toml`
/// and `inputs.json`. The folder of a run with the same recipe and inputs is used again.
///
/// # Errors
/// When the folder is in use or of a run with another recipe or inputs, a model or the judge refuses everything,
/// nothing was accepted, or the disk fails.
pub(super) fn run<E: Engine + 'static>(
    plan: &RespondPlan,
    inputs: &RespondInputs,
    context: RunContext<'_>,
) -> Result<Ended<RespondOutcome>, StageError> {
    let RunContext { events, stop, chat_models: mut models, sandbox_program, .. } = context;
    let config = &plan.config;
    let record = plan.record(inputs)?;
    let run = judged_folder::open(&config.output_dir, config, &record, events)?;
    write_skipped(&config.output_dir, &inputs.report.skipped, events)?;
    let judge = if config.judge.is_some() { models.pop() } else { None };
    let resources = RewardResources {
        render: inputs.render.clone(),
        marks: ReasoningMarks::default(),
        n_threads: plan.n_threads,
        sandbox_program,
    };
    let OpenedRewards { mut rewards, judge_counts } =
        OpenedRewards::open::<E>(config.rewards(), judge, resources, events)?;
    let mut sampler = Sampler::new(config, &models);
    let mut works: Vec<PromptWork> = inputs.prompts.iter().map(before_sampling).collect();
    let is_stopped = || stop.load(Ordering::Relaxed);

    let places: Vec<usize> = inputs.distinct().take(plan.n_prompts).collect();
    let rounds = places.chunks(config.round_prompts);
    let n_rounds = rounds.len();
    for (round, places) in rounds.enumerate() {
        let prompts: Vec<&SourcePrompt> = places.iter().map(|&place| &inputs.prompts[place]).collect();
        let phase = format!("round {} of {n_rounds}, sampling", round + 1);
        let mut sampled = sampler.sample(&prompts, &phase, events)?;
        if is_stopped() {
            return Ok(Ended::STOPPED);
        }
        for work in &mut sampled {
            drop_near_duplicates(&mut work.candidates, config.max_rouge_l);
        }
        if !config.rewards().is_empty() {
            score_round(plan, &mut rewards, &prompts, &mut sampled, events)?;
        }
        if is_stopped() {
            return Ok(Ended::STOPPED);
        }
        for (&place, mut work) in places.iter().zip(sampled) {
            select::select_in_prompt(config, &mut work);
            works[place] = work;
        }
        let is_enough = config.accept.is_some_and(|accept| select::n_accepted(config, &works) >= accept);
        if is_enough || sampler.is_over_budget() {
            break;
        }
    }
    sampler.note_counts(events);
    if let Some(counts) = &judge_counts {
        note_counts("judge", counts, events);
    }
    select::limit(config, &mut works);

    let summary = summarise(config, &works, sampler.cost(), sampler.is_over_budget());
    // What may differ between a run and its continuation is recorded as it was for these responses.
    run.write_inputs(&record)?;
    run.write_recipe(&config.to_toml())?;
    write(plan, inputs, &works, summary, events).map(Ended::Finished)
}

/// What becomes of a prompt unless it is sampled.
fn before_sampling(prompt: &SourcePrompt) -> PromptWork {
    PromptWork::without_samples(match prompt.repeats {
        Some(_) => PromptFate::Repeated,
        None => PromptFate::NotSampled,
    })
}

/// Scores the responses of a round. Where scoring cannot succeed, the run ends.
fn score_round(
    plan: &RespondPlan,
    rewards: &mut Rewards,
    prompts: &[&SourcePrompt],
    works: &mut [PromptWork],
    events: &mut dyn EventSink,
) -> Result<(), StageError> {
    events.emit(Event::PhaseStarted { phase: "scoring the responses".into(), total: None });
    let unscored = score(rewards, prompts, works, plan.config.pass_rate.is_some());
    events.emit(Event::PhaseFinished);
    match unscored.will_not_pass() {
        false => Ok(()),
        true => {
            let saved = "the replies so far are kept, run the same command to continue".to_owned();
            Err(StageError::Unscored { problem: unscored.text(), saved })
        }
    }
}

/// Writes all files; an error where there is nothing to train on.
fn write(
    plan: &RespondPlan,
    inputs: &RespondInputs,
    works: &[PromptWork],
    summary: RespondSummary,
    events: &mut dyn EventSink,
) -> Result<RespondOutcome, StageError> {
    let config = &plan.config;
    let path = |name: &str| config.output_dir.join(name);
    let (candidates, responses) = (path(crate::files::CANDIDATES), path(crate::files::RESPONSES));
    let rows = || inputs.prompts.iter().zip(works);
    let all: Vec<Value> = rows().map(|(prompt, work)| candidates_row(prompt, work)).collect();
    write_lines(&candidates, &all)?;
    let accepted: Vec<Value> = rows().flat_map(|(prompt, work)| response_rows(prompt, work)).collect();
    write_lines(&responses, &accepted)?;
    let prompts = config.pass_rate.map(|_| path(crate::files::PROMPTS));
    match &prompts {
        Some(prompts) => {
            let in_range = rows().filter(|(_, work)| is_in_range(config, work));
            let in_range: Vec<Value> = in_range.map(|(prompt, work)| prompt_row(prompt, work)).collect();
            write_lines(prompts, &in_range)?;
        }
        // One of an earlier run with a range.
        None => remove(&path(crate::files::PROMPTS))?,
    }
    atomic::write_json(&path(crate::files::SUMMARY), &summary)?;
    if summary.n_accepted == 0 && summary.n_in_pass_rate.is_none_or(|n| n == 0) {
        return Err(nothing_accepted(&summary, &candidates));
    }
    summary.warnings.iter().for_each(|warning| events.emit(Event::Warning(warning.clone())));
    events.emit(Event::Saved { what: "responses".into(), path: responses.clone() });
    Ok(RespondOutcome { candidates, responses, prompts, summary })
}

fn remove(path: &Path) -> Result<(), RunError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(RunError::Write { path: path.to_path_buf(), source })
        }
        _ => Ok(()),
    }
}

/// Why there is nothing to train on.
fn nothing_accepted(summary: &RespondSummary, candidates: &Path) -> StageError {
    let count = |fate: PromptFate| summary.prompts.get(&fate).copied().unwrap_or(0);
    let failures = match (main_reason(&summary.failures), summary.n_not_asked) {
        ("", _) => String::new(),
        (reason, 0) => format!("; failures: {reason}"),
        (reason, n) => {
            format!("; failures: {reason}; of {} responses {}", summary.n_candidates, not_asked(n))
        }
    };
    let problem = format!(
        "no response is accepted: of {} sampled prompts {} have none that can be used, {} none that could be scored, \
         {} are answered well already, of {} none is selected{failures}",
        summary.n_sampled,
        count(PromptFate::NoResponse),
        count(PromptFate::Unscored),
        count(PromptFate::AnsweredWell),
        count(PromptFate::NoneSelected)
    );
    let saved = format!("{} has all of them; replies are kept", candidates.display());
    StageError::Unscored { problem, saved }
}
