//! The work: categories, then complements and reviews in rounds; pairs, fates and summary.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::json;
use truing_ask::judged_folder;
use truing_ask::judging::{Asker, RetryPolicy, main_reason, main_reasons, reason};
use truing_ask::pas::{Fault, Language, Review, questions};
use truing_run::rows::{PromptSource, write_lines};
use truing_run::{Ended, Recipe, write_skipped};
use truing_store::atomic;
use truing_types::{Event, EventSink, SamplingOptions};

use super::plan::{PasInputs, PasPlan, no_examples};
use crate::{RunContext, StageError};

/// What became of a prompt of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The critic found no fault in its complement.
    Accepted,
    /// Every complement was rejected; the critic's correction of the last one is used.
    Corrected,
    /// Its complement is kept without review, because the recipe says `critic = false`.
    NotReviewed,
    /// The critic gave no readable verdict. `keep_unreviewed` decides whether there is a pair.
    NoCriticVerdict,
    /// Every complement was rejected, and no correction is used: no pair.
    Capped,
    /// No pair, for the reason given.
    Dropped,
}

/// One line of `fates.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FateRow {
    /// The prompt.
    pub prompt: String,
    /// Where it came from.
    pub source: PromptSource,
    /// What became of it.
    pub fate: Fate,
    /// Why, where the fate does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its category, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// The language that its models were asked in.
    pub language: Language,
    /// How often its complement was written again.
    pub n_regenerations: usize,
    /// What the critic found, one for each rejection that names a fault.
    pub faults: Vec<Fault>,
    /// The complement of its pair; `None` where there is no pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complement: Option<String>,
}

/// A run in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PasSummary {
    /// Prompts of the pool.
    pub n_prompts: usize,
    /// Prompts that models were asked about.
    pub n_chosen: usize,
    /// Pairs.
    pub n_pairs: usize,
    /// Complements that were written again.
    pub n_regenerations: usize,
    /// Prompts by fate.
    pub fates: BTreeMap<Fate, usize>,
    /// Prompts that were dropped, by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Rejections by fault.
    pub faults: BTreeMap<Fault, usize>,
    /// Pairs by category.
    pub categories: BTreeMap<String, usize>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// What a finished run leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasOutcome {
    /// One pair a line, in the order of the pool: `messages` to train on, and where they come from.
    pub pairs: PathBuf,
    /// One prompt of the pool a line.
    pub fates: PathBuf,
    /// The run in numbers, also in `summary.json`.
    pub summary: PasSummary,
}

/// A prompt at work.
struct Work<'a> {
    idx: usize,
    text: &'a str,
    category: Option<String>,
    /// The complement of this round.
    complement: Option<String>,
    /// The critic's correction of the last rejected complement.
    correction: Option<String>,
    n_regenerations: usize,
    faults: Vec<Fault>,
    fate: Option<(Fate, Option<String>)>,
}

impl Work<'_> {
    fn end(&mut self, fate: Fate, reason: Option<String>) {
        self.fate = Some((fate, reason));
        if matches!(fate, Fate::Dropped | Fate::Capped) {
            self.complement = None;
        }
    }
}

/// Asks and writes `pairs.jsonl`, `fates.jsonl`, `summary.json`, `recipe.resolved.toml` and `inputs.json`. The folder
/// of a run with the same recipe and inputs is used again.
///
/// # Errors
/// When the folder is in use or of a run with another recipe or inputs, a model refuses everything, no pair was made,
/// or the disk fails.
pub(super) fn run(
    plan: &PasPlan,
    inputs: &PasInputs,
    context: RunContext<'_>,
) -> Result<Ended<PasOutcome>, StageError> {
    let RunContext { events, stop, chat_models: models, .. } = context;
    let config = &plan.config;
    let folder = &config.output_dir;
    let record = plan.record(inputs)?;
    let run = judged_folder::open(folder, config, &record, events)?;
    write_skipped(folder, &inputs.report.skipped, events)?;
    let names: Vec<String> = config.chat_models().iter().map(|model| model.name()).collect();
    let retries = RetryPolicy {
        max_attempts: config.max_attempts,
        max_failures_in_a_row: config.max_failures_in_a_row,
    };
    let [Some(generator), critic] = [models.first(), models.get(1)] else { return Ok(Ended::STOPPED) };
    let generator = Asker::new(&names[0], generator, retries);
    let critic = critic.map(|model| Asker::new(&names[1], model, retries));
    let mut work: Vec<Work<'_>> = plan.chosen.iter().map(|&idx| new_work(inputs, idx)).collect();
    let is_stopped = || stop.load(Ordering::Relaxed);

    ask_categories(inputs, &mut work, &generator, config.max_new_tokens, events)?;
    let n_rounds = if config.critic { 1 + config.max_regenerations } else { 1 };
    for round in 0..n_rounds {
        if is_stopped() {
            return Ok(Ended::STOPPED);
        }
        write_complements(plan, inputs, &mut work, round, &generator, events)?;
        if is_stopped() {
            return Ok(Ended::STOPPED);
        }
        if config.critic {
            review(plan, inputs, &mut work, critic.as_ref().unwrap_or(&generator), events)?;
        }
    }
    if is_stopped() {
        return Ok(Ended::STOPPED);
    }
    settle_rejected(plan, &mut work);
    generator.note_counts(events);
    if let Some(critic) = &critic {
        critic.note_counts(events);
    }

    let fates = fate_rows(plan, inputs, work);
    let summary = summarise(plan, &fates);
    let (pairs_path, fates_path) = (folder.join(crate::files::PAIRS), folder.join(crate::files::FATES));
    // What may differ between a run and its continuation is recorded as it was for these pairs.
    run.write_inputs(&record)?;
    run.write_recipe(&config.to_toml())?;
    write_lines(&fates_path, &fates)?;
    atomic::write_json(&folder.join(crate::files::SUMMARY), &summary)?;
    if summary.n_pairs == 0 {
        let chosen = fates.iter().zip(&plan.dropped).filter(|(_, why)| why.is_none());
        let reasons = reasons_of(chosen.map(|(row, _)| row));
        let problem = format!("no pairs from {} prompts: {}", summary.n_chosen, main_reason(&reasons));
        let saved = format!("{} has all of them; replies are kept", fates_path.display());
        return Err(StageError::Unscored { problem, saved });
    }
    let pairs: Vec<_> = fates.iter().filter_map(pair).collect();
    write_lines(&pairs_path, &pairs)?;
    summary.warnings.iter().for_each(|warning| events.emit(Event::Warning(warning.clone())));
    events.emit(Event::Saved { what: "pairs".into(), path: pairs_path.clone() });
    Ok(Ended::Finished(PasOutcome { pairs: pairs_path, fates: fates_path, summary }))
}

fn new_work(inputs: &PasInputs, idx: usize) -> Work<'_> {
    let prompt = &inputs.prompts[idx];
    Work {
        idx,
        text: &prompt.text,
        category: prompt.category.clone(),
        complement: None,
        correction: None,
        n_regenerations: 0,
        faults: Vec::new(),
        fate: None,
    }
}

/// Asks for the categories that no column has.
fn ask_categories(
    inputs: &PasInputs,
    work: &mut [Work<'_>],
    generator: &Asker<'_>,
    max_new_tokens: usize,
    events: &mut dyn EventSink,
) -> Result<(), StageError> {
    let mut asked: Vec<&mut Work<'_>> = work.iter_mut().filter(|work| work.category.is_none()).collect();
    let sampling = SamplingOptions { max_new_tokens, ..SamplingOptions::default() };
    let requests = asked
        .iter()
        .map(|work| questions::request(questions::classify(&inputs.golden, work.text), sampling.clone()))
        .collect();
    let read = |_: usize, reply: &str| questions::read_category(&inputs.golden, reply).map(str::to_owned);
    let answers =
        generator.ask("asking for categories", requests, questions::CATEGORY_REMINDER, read, events)?;
    for (work, answer) in asked.iter_mut().zip(answers) {
        match answer {
            Ok(category) => {
                if let Some(problem) = no_examples(inputs, &category, work.text) {
                    work.end(Fate::Dropped, Some(problem));
                }
                work.category = Some(category);
            }
            Err(error) => {
                work.end(Fate::Dropped, Some(format!("no category: {}", reason(&error, "a category"))));
            }
        }
    }
    Ok(())
}

/// Writes a complement for each prompt that has no fate yet.
fn write_complements(
    plan: &PasPlan,
    inputs: &PasInputs,
    work: &mut [Work<'_>],
    round: usize,
    generator: &Asker<'_>,
    events: &mut dyn EventSink,
) -> Result<(), StageError> {
    let config = &plan.config;
    let mut open: Vec<&mut Work<'_>> = work.iter_mut().filter(|work| work.fate.is_none()).collect();
    let sampling = SamplingOptions {
        max_new_tokens: config.max_new_tokens,
        temperature: config.temperature,
        // Another seed in each round, so that a rejected complement is not written again.
        seed: config.seed.wrapping_add(round as u64),
        ..SamplingOptions::default()
    };
    let request = |work: &&mut Work<'_>| {
        let category = work.category.as_deref().unwrap_or_default();
        let examples = inputs.golden.of(category, Language::of(work.text), config.n_examples);
        questions::request(questions::generate(category, &examples, work.text), sampling.clone())
    };
    let requests = open.iter().map(request).collect();
    let read = |_: usize, reply: &str| questions::read_complement(reply);
    let phase = if round == 0 { "writing complements" } else { "writing rejected complements again" };
    let answers = generator.ask(phase, requests, questions::COMPLEMENT_REMINDER, read, events)?;
    for (work, answer) in open.iter_mut().zip(answers) {
        match answer {
            Ok(complement) => {
                work.complement = Some(complement);
                work.n_regenerations = round;
                if !config.critic {
                    work.end(Fate::NotReviewed, None);
                }
            }
            Err(error) => {
                work.complement = None;
                // An earlier round's correction may still be used.
                if work.correction.is_none() {
                    work.end(
                        Fate::Dropped,
                        Some(format!("no complement: {}", reason(&error, "a complement"))),
                    );
                }
            }
        }
    }
    Ok(())
}

/// Reviews the complements of this round.
fn review(
    plan: &PasPlan,
    inputs: &PasInputs,
    work: &mut [Work<'_>],
    critic: &Asker<'_>,
    events: &mut dyn EventSink,
) -> Result<(), StageError> {
    let categories = inputs.golden.categories();
    let sampling =
        SamplingOptions { max_new_tokens: plan.config.max_new_tokens, ..SamplingOptions::default() };
    let request = |work: &Work<'_>| {
        let idx = categories.iter().position(|id| Some(id) == work.category.as_ref())?;
        let cases = inputs.cases.of(Language::of(work.text), idx)?;
        let complement = work.complement.as_deref().filter(|_| work.fate.is_none())?;
        Some(questions::request(questions::review(cases, work.text, complement), sampling.clone()))
    };
    let (mut asked, requests): (Vec<_>, Vec<_>) =
        work.iter_mut().filter_map(|work| request(work).map(|request| (work, request))).unzip();
    let read = |_: usize, reply: &str| Review::read(reply);
    let answers = critic.ask("reviewing complements", requests, questions::REVIEW_REMINDER, read, events)?;
    for (work, answer) in asked.iter_mut().zip(answers) {
        match answer {
            Ok(review) => match review.correction {
                None => work.end(Fate::Accepted, None),
                Some(correction) => {
                    work.faults.extend(review.fault);
                    work.correction = Some(correction);
                    work.complement = None;
                }
            },
            Err(error) => {
                let why = reason(&error, "a verdict");
                work.end(Fate::NoCriticVerdict, Some(why));
                if !plan.config.keep_unreviewed {
                    work.complement = None;
                }
            }
        }
    }
    Ok(())
}

/// What becomes of prompts whose complements were all rejected.
fn settle_rejected(plan: &PasPlan, work: &mut [Work<'_>]) {
    for work in work.iter_mut().filter(|work| work.fate.is_none()) {
        let correction = work.correction.as_deref().and_then(questions::read_complement);
        match correction.filter(|_| plan.config.use_corrections) {
            Some(correction) => {
                work.complement = Some(correction);
                work.end(Fate::Corrected, None);
            }
            None => work.end(Fate::Capped, None),
        }
    }
}

/// One row for every prompt of the pool, in its order.
fn fate_rows(plan: &PasPlan, inputs: &PasInputs, work: Vec<Work<'_>>) -> Vec<FateRow> {
    let mut by_place: BTreeMap<usize, Work<'_>> = work.into_iter().map(|work| (work.idx, work)).collect();
    let row = |(idx, prompt): (usize, &super::PoolPrompt)| {
        let mut row = FateRow {
            prompt: prompt.text.clone(),
            source: PromptSource::of(&prompt.origin),
            fate: Fate::Dropped,
            reason: plan.dropped[idx].clone(),
            category: prompt.category.clone(),
            language: Language::of(&prompt.text),
            n_regenerations: 0,
            faults: Vec::new(),
            complement: None,
        };
        if let Some(work) = by_place.remove(&idx) {
            (row.fate, row.reason) = work.fate.unwrap_or((Fate::Dropped, None));
            (row.category, row.complement) = (work.category, work.complement);
            (row.n_regenerations, row.faults) = (work.n_regenerations, work.faults);
        }
        row
    };
    inputs.prompts.iter().enumerate().map(row).collect()
}

/// A row to train on.
fn pair(row: &FateRow) -> Option<serde_json::Value> {
    let complement = row.complement.as_ref()?;
    Some(json!({
        "messages": [
            { "role": "user", "content": questions::complement(&row.prompt) },
            { "role": "assistant", "content": complement },
        ],
        "prompt": row.prompt, "complement": complement, "category": row.category, "language": row.language,
        "fate": row.fate, "source": row.source,
    }))
}

/// Why rows have no pair, counted.
fn reasons_of<'a>(rows: impl Iterator<Item = &'a FateRow>) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for row in rows {
        let reason = row.reason.as_deref().unwrap_or("every complement was rejected");
        *reasons.entry(reason.to_owned()).or_default() += 1;
    }
    reasons
}

fn summarise(plan: &PasPlan, fates: &[FateRow]) -> PasSummary {
    let mut summary =
        PasSummary { n_prompts: fates.len(), n_chosen: plan.chosen.len(), ..PasSummary::default() };
    for row in fates {
        *summary.fates.entry(row.fate).or_default() += 1;
        summary.n_regenerations += row.n_regenerations;
        row.faults.iter().for_each(|&fault| *summary.faults.entry(fault).or_default() += 1);
        if row.fate == Fate::Dropped {
            *summary.dropped.entry(row.reason.clone().unwrap_or_default()).or_default() += 1;
        }
        if row.complement.is_some() {
            summary.n_pairs += 1;
            *summary.categories.entry(row.category.clone().unwrap_or_default()).or_default() += 1;
        }
    }
    let count = |fate: Fate| summary.fates.get(&fate).copied().unwrap_or(0);
    let n_unread = count(Fate::NoCriticVerdict);
    if n_unread > 0 {
        let kept = if plan.config.keep_unreviewed { "are kept" } else { "are dropped" };
        let reasons = reasons_of(fates.iter().filter(|row| row.fate == Fate::NoCriticVerdict));
        let reasons = main_reasons(&reasons);
        summary.warnings.push(format!(
            "{n_unread} complements have no verdict of the critic and {kept} (`keep_unreviewed`): {reasons}"
        ));
    }
    let n_lost = summary.n_chosen - summary.n_pairs;
    if n_lost > 0 {
        summary.warnings.push(format!(
            "{n_lost} of {} chosen prompts have no pair; `fates.jsonl` says why",
            summary.n_chosen
        ));
    }
    summary
}
