//! The work: ask judge by judge, measure the judges, score the responses, decide about the prompts, write and check.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use truing_ask::OpenChatModel;
use truing_ask::judged_folder;
use truing_ask::judging::{RetryPolicy, ask_each, main_reasons};
use truing_run::rows::write_lines;
use truing_run::{Ended, Recipe, RunError, write_skipped};
use truing_stages::StageError;
use truing_store::atomic;
use truing_types::{Event, EventSink, Message};

use super::ask::{Reply, ask_all};
use super::check::{check_minimal_pairs, check_pairs};
use super::inputs::PreferInputs;
use super::judges::{Measured, measure, verdicts_by_prompt};
use super::minimal::{self, MinimalPair, MinimalSummary};
use super::output::{PairRow, PreferSummary, edit_row, fate_row, pair_rows, ranked_row, verdict_row};
use super::plan::PreferPlan;
use super::rules::{Decision, Fate, decide};
use super::verdict::Verdict;

/// What a finished run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferOutcome {
    /// One pair a line.
    pub pairs: PathBuf,
    /// One prompt with pairs a line, with its responses from best to worst.
    pub ranked: PathBuf,
    /// One prompt whose responses are all bad a line.
    pub edit_queue: PathBuf,
    /// One prompt a line: what became of it.
    pub fates: PathBuf,
    /// One pair that differs in one defect only a line, where the recipe asks for them.
    pub minimal_pairs: Option<PathBuf>,
    /// The judges in numbers, also in `judges.json`.
    pub measured: Measured,
    /// The run in numbers, also in `summary.json`.
    pub summary: PreferSummary,
}

/// Asks `models`, the judges in the recipe's order and the model that rewrites, and writes the files of
/// [`PreferOutcome`], `verdicts.jsonl`, `recipe.resolved.toml` and `inputs.json`. The folder of a run with the same
/// recipe and inputs is used again.
///
/// # Errors
/// When the folder is in use or of a run with another recipe or inputs, a judge refuses everything, a pair does not
/// follow from its verdicts, or the disk fails.
pub(super) fn run(
    plan: &PreferPlan,
    inputs: &PreferInputs,
    models: Vec<OpenChatModel>,
    stop: &AtomicBool,
    events: &mut dyn EventSink,
) -> Result<Ended<PreferOutcome>, StageError> {
    let config = &plan.config;
    let record = plan.record(inputs)?;
    let folder = judged_folder::open(&config.output_dir, config, &record, events)?;
    write_skipped(&config.output_dir, &inputs.report.skipped, events)?;
    let names: Vec<String> = plan.judges.iter().map(|judge| judge.name.clone()).collect();
    let retries = RetryPolicy {
        max_attempts: config.max_attempts,
        max_failures_in_a_row: config.max_failures_in_a_row,
    };
    let judges = models.get(..names.len()).ok_or(RunError::MissingSetting {
        key: "judge.model",
        expected: "a model for each [[judge]] table",
    })?;
    let n_calls: Vec<u64> = plan.judges.iter().map(|judge| judge.calls.len() as u64).collect();
    let asked = ask_each(judges, &names, &n_calls, retries, events, |judge, model, session| {
        ask_all(plan, inputs, judge, model, session, stop)
    })?;
    let Some(replies) = asked else { return Ok(Ended::STOPPED) };
    let replies: Vec<Reply> = replies.into_iter().flatten().collect();

    let verdicts = verdicts_by_prompt(plan, inputs, &replies);
    let measured = measure(plan, inputs, &replies, &verdicts);
    let scales = measured.scales();
    let decisions: Vec<Decision> = inputs
        .groups
        .iter()
        .zip(&verdicts)
        .map(|(group, verdicts)| decide(config, &scales, group, verdicts))
        .collect();
    let mut made = None;
    if let Some(settings) = &config.minimal_difference {
        let known = (&decisions[..], &scales[..]);
        made = minimal::make(plan, settings, inputs, known, &models, stop, events)?;
        if made.is_none() {
            return Ok(Ended::STOPPED);
        }
    }

    // What may differ between a run and its continuation is recorded as it was for these pairs.
    folder.write_inputs(&record)?;
    folder.write_recipe(&config.to_toml())?;
    let outcome = write(plan, inputs, &replies, &verdicts, &decisions, measured, made)?;
    check_pairs(&outcome.pairs, &scales, config.prior_deviation)?;
    if let Some(path) = &outcome.minimal_pairs {
        check_minimal_pairs(path, &scales)?;
    }
    outcome.summary.warnings.iter().for_each(|warning| events.emit(Event::Warning(warning.clone())));
    events.emit(Event::Saved { what: "pairs".into(), path: outcome.pairs.clone() });
    Ok(Ended::Finished(outcome))
}

fn write(
    plan: &PreferPlan,
    inputs: &PreferInputs,
    replies: &[Reply],
    verdicts: &[Vec<Verdict>],
    decisions: &[Decision],
    measured: Measured,
    made: Option<(Vec<MinimalPair>, MinimalSummary)>,
) -> Result<PreferOutcome, StageError> {
    let config = &plan.config;
    let at = |name: &str| config.output_dir.join(name);
    let decided = || inputs.groups.iter().zip(decisions);
    let pairs: Vec<PairRow> = decided()
        .zip(verdicts)
        .flat_map(|((group, decision), verdicts)| pair_rows(config, group, decision, verdicts))
        .collect();
    let ranked: Vec<Value> = decided()
        .filter(|(_, decision)| decision.fate == Fate::Paired)
        .map(|(group, decision)| ranked_row(config, group, decision))
        .collect();
    let mut by_prompt: Vec<Vec<&Reply>> = inputs.groups.iter().map(|_| Vec::new()).collect();
    replies.iter().for_each(|reply| by_prompt[reply.call.prompt].push(reply));
    let edits: Vec<Value> = decided()
        .zip(&by_prompt)
        .filter(|((_, decision), _)| decision.fate == Fate::AllLow)
        .filter_map(|((group, decision), replies)| edit_row(group, decision, replies))
        .collect();
    let fates: Vec<Value> = decided().map(|(group, decision)| fate_row(group, decision)).collect();
    let said: Vec<Value> =
        replies.iter().map(|reply| verdict_row(inputs, &plan.judges[reply.judge].name, reply)).collect();
    let mut summary = summarise(inputs, decisions, &pairs, &measured);
    let mut minimal_pairs = None;
    if let Some((pairs, minimal)) = made {
        let path = at(crate::files::MINIMAL_PAIRS);
        write_lines(&path, &pairs)?;
        if pairs.is_empty() {
            let reasons = main_reasons(&minimal.dropped);
            summary.warnings.push(format!("no pair differs in one defect only: {reasons}"));
        }
        summary.minimal_difference = Some(minimal);
        minimal_pairs = Some(path);
    }
    let outcome = PreferOutcome {
        pairs: at(crate::files::PAIRS),
        ranked: at(crate::files::RANKED),
        edit_queue: at(crate::files::EDIT_QUEUE),
        fates: at(crate::files::FATES),
        minimal_pairs,
        measured,
        summary,
    };
    write_lines(&at("verdicts.jsonl"), &said)?;
    write_lines(&outcome.fates, &fates)?;
    write_lines(&outcome.edit_queue, &edits)?;
    write_lines(&outcome.ranked, &ranked)?;
    write_lines(&outcome.pairs, &pairs)?;
    atomic::write_json(&at("judges.json"), &outcome.measured)?;
    atomic::write_json(&at(crate::files::SUMMARY), &outcome.summary)?;
    Ok(outcome)
}

fn summarise(
    inputs: &PreferInputs,
    decisions: &[Decision],
    pairs: &[PairRow],
    measured: &Measured,
) -> PreferSummary {
    let mut summary =
        PreferSummary { n_prompts: decisions.len(), n_pairs: pairs.len(), ..PreferSummary::default() };
    for (group, decision) in inputs.groups.iter().zip(decisions) {
        for (reason, n) in &group.left_out {
            *summary.left_out.entry(reason.clone()).or_default() += n;
        }
        *summary.fates.entry(decision.fate).or_default() += 1;
        summary.n_contradicted += decision.n_contradicted;
        if group.is_comparable() {
            summary.n_responses += group.responses.len();
            summary.n_unscored += decision.scores.iter().filter(|score| score.is_none()).count();
        }
    }
    let length = |turns: &[Message]| turns.iter().map(|turn| turn.content.chars().count()).sum::<usize>();
    summary.n_longer_chosen =
        pairs.iter().filter(|pair| length(&pair.chosen) > length(&pair.rejected)).count();
    if !pairs.is_empty() {
        let sum: f64 = pairs.iter().map(|pair| pair.margin).sum();
        summary.mean_margin = Some(sum / pairs.len() as f64);
    }
    summary.warnings = measured.warnings();
    if summary.n_unscored > 0 {
        summary.warnings.push(format!(
            "{} of {} responses have no score; `verdicts.jsonl` says why",
            summary.n_unscored, summary.n_responses
        ));
    }
    if pairs.is_empty() {
        let fates: Vec<String> =
            summary.fates.iter().map(|(fate, n)| format!("{} {n}", fate.as_str())).collect();
        summary.warnings.push(format!("no pairs from {} prompts: {}", summary.n_prompts, fates.join(", ")));
    }
    summary
}
