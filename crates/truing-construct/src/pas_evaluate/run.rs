//! The work: complements, replies without and with them, checks and verdicts; results and summary.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use truing_ask::judged_folder;
use truing_ask::judging::{Asker, RetryPolicy, main_reason, main_reasons, reason};
use truing_ask::pas::{append, questions};
use truing_eval::benchmarks::{Experience, Opinion, Rating, compare_replies, experience, read_comparison};
use truing_reward::asking::NoAnswer;
use truing_reward::verifiers::ifeval::{Mode, check_row};
use truing_run::rows::{PromptSource, write_lines};
use truing_run::{Ended, Recipe, write_skipped};
use truing_statistics::{Estimate, PairedPasses, ShareInterval, mcnemar};
use truing_store::atomic;
use truing_types::{ChatRequest, Event, EventSink, SamplingOptions};

use super::plan::{EvaluationPrompt, PasEvaluateInputs, PasEvaluatePlan};
use crate::{RunContext, StageError};

const COMPARE_REMINDER: &str = "Your reply has no verdict in the required form. Write only one of [[A>>B]], \
                                [[A>B]], [[A=B]], [[B>A]], [[B>>A]].";

/// One prompt with both replies: a line of `results.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedReplies {
    /// The prompt.
    pub prompt: String,
    /// Where it came from.
    pub source: PromptSource,
    /// Its category; empty where the row names none.
    pub category: String,
    /// What was appended to it; `None` where the complement model failed.
    pub complement: Option<String>,
    /// The reply to the prompt alone, and to the prompt with its complement; `None` where the target failed.
    pub replies: [Option<String>; 2],
    /// Whether each reply follows every instruction, without and with the complement; `None` where nothing is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passes: Option<[bool; 2]>,
    /// How the reply with the complement compares to the other; `None` where they are not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opinion: Option<Opinion>,
    /// What failed.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub failures: Vec<String>,
}

/// A number with the bounds of its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The number.
    pub value: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// Prompts whose instructions were checked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// How many.
    pub n: u64,
    /// Share of replies to the prompt alone that follow every instruction (Wilson's interval).
    pub without: Difference,
    /// The same with complements.
    pub with: Difference,
    /// With less without (Newcombe's interval for paired shares).
    pub difference: Difference,
    /// Prompts that only the complement made pass.
    pub n_gained: u64,
    /// Prompts that only passed without it.
    pub n_lost: u64,
    /// McNemar's exact test, two-sided.
    pub p_value: f64,
}

/// Prompts whose replies a judge compared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Better with the complement.
    pub n_good: usize,
    /// As good.
    pub n_same: usize,
    /// Worse with the complement.
    pub n_bad: usize,
    /// (good + same / 2) / all, with Student's interval; `None` for fewer than two prompts.
    pub win_rate: Option<Difference>,
    /// (good - bad) / all.
    pub net: f64,
}

/// Both kinds of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Compared {
    /// Checked by a program.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verified: Option<Verified>,
    /// Compared by a judge.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub judged: Option<Judged>,
}

/// A run in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PasEvaluateSummary {
    /// Prompts.
    pub n_prompts: usize,
    /// Prompts without a usable complement, which were answered as they are.
    pub n_without_complement: usize,
    /// Characters of a complement, on average.
    pub mean_complement_characters: Option<f64>,
    /// All prompts.
    pub overall: Compared,
    /// By category.
    pub categories: BTreeMap<String, Compared>,
    /// What failed, by kind.
    pub failures: BTreeMap<String, usize>,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// What a finished run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct PasEvaluateOutcome {
    /// One prompt a line.
    pub results: PathBuf,
    /// The run in numbers, also in `summary.json`.
    pub summary: PasEvaluateSummary,
}

/// Asks and writes `results.jsonl`, `summary.json`, `recipe.resolved.toml` and `inputs.json`. The folder of a run with
/// the same recipe and inputs is used again.
///
/// # Errors
/// When the folder is in use or of a run with another recipe or inputs, a model refuses everything, nothing could be
/// compared, or the disk fails.
pub(super) fn run(
    plan: &PasEvaluatePlan,
    inputs: &PasEvaluateInputs,
    context: RunContext<'_>,
) -> Result<Ended<PasEvaluateOutcome>, StageError> {
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
    let askers: Vec<Asker<'_>> =
        names.iter().zip(&models).map(|(name, model)| Asker::new(name, model, retries)).collect();
    let [complementer, target, judge @ ..] = askers.as_slice() else { return Ok(Ended::STOPPED) };

    let mut rows: Vec<ComparedReplies> = inputs.prompts.iter().map(new_row).collect();
    write_complements(plan, &mut rows, complementer, events)?;
    if !is_stopped(stop) {
        answer(plan, &mut rows, target, events)?;
    }
    check(&inputs.prompts, &mut rows);
    if let Some(judge) = judge.first().filter(|_| !is_stopped(stop)) {
        compare(plan, &inputs.prompts, &mut rows, judge, events)?;
    }
    if is_stopped(stop) {
        return Ok(Ended::STOPPED);
    }
    askers.iter().for_each(|asker| asker.note_counts(events));

    let summary = summarise(&rows);
    // What may differ between a run and its continuation is recorded as it was for these results.
    run.write_inputs(&record)?;
    run.write_recipe(&config.to_toml())?;
    let path = folder.join(crate::files::RESULTS);
    write_lines(&path, &rows)?;
    atomic::write_json(&folder.join(crate::files::SUMMARY), &summary)?;
    if summary.overall == Compared::default() {
        let problem = format!("nothing could be compared: {}", main_reason(&summary.failures));
        let saved = format!("{} has every prompt; replies are kept", path.display());
        return Err(StageError::Unscored { problem, saved });
    }
    summary.warnings.iter().for_each(|warning| events.emit(Event::Warning(warning.clone())));
    events.emit(Event::Saved { what: "results".into(), path: path.clone() });
    Ok(Ended::Finished(PasEvaluateOutcome { results: path, summary }))
}

fn is_stopped(stop: &AtomicBool) -> bool {
    stop.load(Ordering::Relaxed)
}

fn new_row(prompt: &EvaluationPrompt) -> ComparedReplies {
    ComparedReplies {
        prompt: prompt.text.clone(),
        source: PromptSource::of(&prompt.origin),
        category: prompt.category.clone(),
        complement: None,
        replies: [None, None],
        passes: None,
        opinion: None,
        failures: Vec::new(),
    }
}

fn write_complements(
    plan: &PasEvaluatePlan,
    rows: &mut [ComparedReplies],
    complementer: &Asker<'_>,
    events: &mut dyn EventSink,
) -> Result<(), StageError> {
    let sampling =
        SamplingOptions { max_new_tokens: plan.config.max_complement_tokens, ..SamplingOptions::default() };
    let request =
        |row: &ComparedReplies| questions::request(questions::complement(&row.prompt), sampling.clone());
    let requests = rows.iter().map(request).collect();
    // As in use, a model has one try.
    let once = complementer.with_replies(1);
    let read = |_: usize, reply: &str| questions::read_complement(reply);
    let answers = once.ask("writing complements", requests, "", read, events)?;
    for (row, answer) in rows.iter_mut().zip(answers) {
        match answer {
            Ok(complement) => row.complement = Some(complement),
            Err(error) => row.failures.push(format!("no complement: {}", reason(&error, "a complement"))),
        }
    }
    Ok(())
}

/// Lets the target answer every prompt alone, then every prompt that has a complement with it.
fn answer(
    plan: &PasEvaluatePlan,
    rows: &mut [ComparedReplies],
    target: &Asker<'_>,
    events: &mut dyn EventSink,
) -> Result<(), StageError> {
    let config = &plan.config;
    let sampling = SamplingOptions {
        max_new_tokens: config.max_new_tokens,
        temperature: config.temperature,
        seed: config.seed,
        ..SamplingOptions::default()
    };
    let request = |text: String| questions::request(text, sampling.clone());
    let alone = rows.iter().map(|row| request(row.prompt.clone())).collect();
    let replies = target.replies("answering without complements", alone, events)?;
    for (row, reply) in rows.iter_mut().zip(replies) {
        match reply {
            Ok(reply) => row.replies[0] = Some(reply.text),
            Err(error) => row.failures.push(format!("no reply: {}", reason(&error.into(), "a reply"))),
        }
    }
    let mut complemented: Vec<&mut ComparedReplies> = Vec::new();
    for row in rows.iter_mut() {
        match row.complement {
            Some(_) => complemented.push(row),
            None => row.replies[1] = row.replies[0].clone(),
        }
    }
    let text = |row: &&mut ComparedReplies| {
        request(append(&row.prompt, row.complement.as_deref().unwrap_or_default()))
    };
    let requests: Vec<ChatRequest> = complemented.iter().map(text).collect();
    let replies = target.replies("answering with complements", requests, events)?;
    for (row, reply) in complemented.iter_mut().zip(replies) {
        match reply {
            Ok(reply) => row.replies[1] = Some(reply.text),
            Err(error) => row.failures.push(format!("no reply: {}", reason(&error.into(), "a reply"))),
        }
    }
    Ok(())
}

/// Checks instructions where there are any and both replies came.
fn check(prompts: &[EvaluationPrompt], rows: &mut [ComparedReplies]) {
    for (prompt, row) in prompts.iter().zip(rows).filter(|(prompt, _)| prompt.is_verifiable) {
        let [Some(without), Some(with)] = &row.replies else { continue };
        let passes = |reply: &str| {
            let verdicts = check_row(&prompt.columns, reply, Mode::Strict)?;
            Ok(verdicts.iter().all(|(_, is_followed)| *is_followed))
        };
        let both: Result<_, truing_types::Unscored> =
            passes(without).and_then(|without| Ok([without, passes(with)?]));
        match both {
            Ok(both) => row.passes = Some(both),
            Err(unscored) => row.failures.push(format!("not checked: {unscored}")),
        }
    }
}

/// Lets the judge compare the replies to prompts without instructions, in both orders.
fn compare(
    plan: &PasEvaluatePlan,
    prompts: &[EvaluationPrompt],
    rows: &mut [ComparedReplies],
    judge: &Asker<'_>,
    events: &mut dyn EventSink,
) -> Result<(), StageError> {
    let sampling =
        SamplingOptions { max_new_tokens: plan.config.max_judge_tokens, ..SamplingOptions::default() };
    let (mut compared, mut requests) = (Vec::new(), Vec::new());
    for (_, row) in prompts.iter().zip(rows).filter(|(prompt, _)| !prompt.is_verifiable) {
        let [Some(without), Some(with)] = &row.replies else { continue };
        if without == with {
            row.opinion = Some(Opinion::Same);
            continue;
        }
        for (first, second) in [(with, without), (without, with)] {
            requests.push(questions::request(compare_replies(&row.prompt, first, second), sampling.clone()));
        }
        compared.push(row);
    }
    let read = |_: usize, reply: &str| read_comparison(reply);
    let answers = judge.ask("comparing replies", requests, COMPARE_REMINDER, read, events)?;
    for (row, pair) in compared.into_iter().zip(answers.chunks(2)) {
        match pair {
            // The score of what is first.
            [Ok(with_first), Ok(without_first)] => {
                let sum = with_first + 1.0 - without_first;
                row.opinion = Some(match sum {
                    sum if sum > 1.0 => Opinion::Good,
                    sum if sum < 1.0 => Opinion::Bad,
                    _ => Opinion::Same,
                });
            }
            pair => {
                let failed: Option<&NoAnswer> = pair.iter().find_map(|answer| answer.as_ref().err());
                row.failures
                    .extend(failed.map(|error| format!("no verdict: {}", reason(error, "a verdict"))));
            }
        }
    }
    Ok(())
}

fn summarise(rows: &[ComparedReplies]) -> PasEvaluateSummary {
    let mut by_category: BTreeMap<String, Vec<&ComparedReplies>> = BTreeMap::new();
    let mut failures = BTreeMap::new();
    for row in rows {
        by_category.entry(row.category.clone()).or_default().push(row);
        row.failures.iter().for_each(|failure| *failures.entry(failure.clone()).or_default() += 1);
    }
    let lengths: Vec<f64> =
        rows.iter().filter_map(|row| Some(row.complement.as_ref()?.chars().count() as f64)).collect();
    let n_without_complement = rows.len() - lengths.len();
    let warnings = (!failures.is_empty()).then(|| format!("some calls failed: {}", main_reasons(&failures)));
    PasEvaluateSummary {
        n_prompts: rows.len(),
        n_without_complement,
        mean_complement_characters: (!lengths.is_empty())
            .then(|| lengths.iter().sum::<f64>() / lengths.len() as f64),
        overall: compared(&rows.iter().collect::<Vec<_>>()),
        categories: by_category.into_iter().map(|(name, rows)| (name, compared(&rows))).collect(),
        failures,
        warnings: warnings.into_iter().collect(),
    }
}

fn compared(rows: &[&ComparedReplies]) -> Compared {
    let passes = PairedPasses::count(rows.iter().filter_map(|row| row.passes).map(|[a, b]| (a, b)));
    let ratings: Vec<Rating> = rows
        .iter()
        .filter(|row| row.opinion.is_some())
        .map(|row| Rating { category: None, passes: None, opinion: row.opinion })
        .collect();
    Compared { verified: verified(passes), judged: judged(&experience(&ratings).0) }
}

fn verified(passes: PairedPasses) -> Option<Verified> {
    let n = passes.n();
    let share = |n_passed: u64| {
        let value = n_passed as f64 / n as f64;
        let interval = ShareInterval::wilson(value, n as f64)?;
        Some(Difference { value, low: interval.low, high: interval.high })
    };
    Some(Verified {
        n,
        without: share(passes.n_both + passes.n_lost)?,
        with: share(passes.n_both + passes.n_gained)?,
        difference: Estimate::difference_of_paired_shares(passes)?.into(),
        n_gained: passes.n_gained,
        n_lost: passes.n_lost,
        p_value: mcnemar(passes.n_lost, passes.n_gained).p_value,
    })
}

fn judged(counts: &Experience) -> Option<Judged> {
    let scores = [(1.0, counts.n_good), (0.5, counts.n_same), (0.0, counts.n_bad)];
    let scores: Vec<(f64, f64)> =
        scores.iter().flat_map(|&(score, n)| std::iter::repeat_n((1.0, score), n)).collect();
    Some(Judged {
        n_good: counts.n_good,
        n_same: counts.n_same,
        n_bad: counts.n_bad,
        win_rate: Estimate::weighted_mean(&scores).map(Difference::from),
        net: counts.net_gsb()?,
    })
}

impl From<Estimate> for Difference {
    fn from(Estimate { value, low, high }: Estimate) -> Self {
        Self { value, low, high }
    }
}
