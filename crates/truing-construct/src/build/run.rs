//! The work: the builder's calls, the check of every row, screening; rows, fates and summary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use truing_ask::judged_folder;
use truing_ask::judging::{Asker, NOT_ASKED, RetryPolicy, main_reason};
use truing_ask::pas::Language;
use truing_run::rows::write_lines;
use truing_run::{Ended, PromptSource, Recipe, write_skipped};
use truing_stages::{RunContext, StageError};
use truing_store::atomic;
use truing_types::{Event, counted};

use super::asking::Asking;
use super::builder::{Built, BuiltRow, Dropped, Unit};
use super::coverage::Coverage;
use super::inputs::BuildInputs;
use super::plan::BuildPlan;
use super::screening::{RowTexts, ScreeningOptions, screen};

/// The step that checks rows again.
const RECHECK: &str = "recheck";
/// The share of rows that should pass the check.
const MIN_PASS_SHARE: f64 = 0.95;

/// One line of `fates.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FateRow {
    /// The seed's text, or in words what was to be made.
    pub text: String,
    /// File and line of the seed, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<PromptSource>,
    /// The language that models were asked in.
    pub language: Language,
    /// What the row counts for in the coverage table.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub kinds: Vec<String>,
    /// `kept` or `dropped`.
    pub fate: String,
    /// The step that dropped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Why it was dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is special to this row; of a kept row without a response, why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether a kept row has a response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub has_response: Option<bool>,
}

/// What the check of all built rows by programs found.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Recheck {
    /// Rows that were checked: all that were built.
    pub n_checked: usize,
    /// Rows that passed. The others are dropped.
    pub n_passed: usize,
    /// Their share; `None` without rows.
    pub share: Option<f64>,
    /// Of the checked rows those with a response. Of the others only the prompt can be checked.
    #[serde(default)]
    pub n_with_response: usize,
    /// Rows with a response that passed.
    #[serde(default)]
    pub n_passed_with_response: usize,
    /// Their share of the rows with a response; `None` without such rows.
    #[serde(default)]
    pub share_with_response: Option<f64>,
}

/// A run in numbers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BuildSummary {
    /// The builder.
    pub ability: String,
    /// Rows that might have been made.
    pub n_units: usize,
    /// Rows that models were asked about.
    pub n_begun: usize,
    /// Rows that were kept.
    pub n_kept: usize,
    /// Rows of `rows.jsonl`.
    pub n_rows: usize,
    /// Rows of `prompts.jsonl`.
    pub n_prompts: usize,
    /// Kept rows without a response, by reason.
    pub without_response: BTreeMap<String, usize>,
    /// Rows that were dropped, by step and reason.
    pub dropped: BTreeMap<String, usize>,
    /// The check of the built rows.
    pub recheck: Recheck,
    /// Kinds of rows against their targets.
    pub coverage: Coverage,
    /// The largest share of one task template among the prompts.
    pub largest_template_share: f64,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// What a finished run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildOutcome {
    /// Conversations to train on; `None` where no row has a response.
    pub rows: Option<PathBuf>,
    /// Prompts with the columns of rewards; `None` where there are none.
    pub prompts: Option<PathBuf>,
    /// One line for every row that might have been made.
    pub fates: PathBuf,
    /// The run in numbers, also in `summary.json`.
    pub summary: BuildSummary,
}

/// Builds, checks and screens rows, and writes them. The folder of a run with the same recipe and inputs is used again.
///
/// # Errors
/// When the folder is in use or of a run with another recipe or inputs, a model refuses everything, no row was kept,
/// or the disk fails.
pub(super) fn run(
    plan: &BuildPlan,
    inputs: &BuildInputs,
    context: RunContext<'_>,
) -> Result<Ended<BuildOutcome>, StageError> {
    let RunContext { events, stop, chat_models: models, sandbox_program, .. } = context;
    let config = &plan.config;
    let folder = &config.output_dir;
    let record = plan.record(inputs)?;
    let run = judged_folder::open(folder, config, &record, events)?;
    let skipped = inputs.report.skipped.iter().chain(&inputs.evaluation_report.skipped);
    write_skipped(folder, skipped, events)?;
    let names: Vec<String> = config.chat_models().iter().map(|model| model.name()).collect();
    let retries = RetryPolicy {
        max_attempts: config.max_attempts,
        max_failures_in_a_row: config.max_failures_in_a_row,
    };
    let [Some(writer), checker] = [models.first(), models.get(1)] else { return Ok(Ended::STOPPED) };
    let mut asking = Asking {
        config,
        writer: Asker::new(&names[0], writer, retries),
        checker: checker.map(|model| Asker::new(&names[1], model, retries)),
        sandbox_program,
        stop,
        events,
    };
    let built = plan.job.build(&mut asking)?;
    let Some(mut built) = built.filter(|_| !asking.is_stopped()) else { return Ok(Ended::STOPPED) };
    asking.note_counts();
    let Asking { events, .. } = asking;

    let recheck = check_again(plan, &mut built);
    let largest_template_share = screen_rows(plan, inputs, &mut built)?;
    let fates = fate_rows(plan.job.units(), &built);
    let summary = summarise(plan, &fates, &built, recheck, largest_template_share);
    let fates_path = folder.join(crate::files::FATES);
    // What may differ between a run and its continuation is recorded as it was for these rows.
    run.write_inputs(&record)?;
    run.write_recipe(&config.to_toml())?;
    write_lines(&fates_path, &fates)?;
    atomic::write_json(&folder.join(crate::files::SUMMARY), &summary)?;
    if summary.n_kept == 0 {
        return Err(no_rows(plan.job.units(), &built, summary.n_begun, &fates_path));
    }
    let (rows, prompts) = written_rows(plan, &built);
    let mut write = |name: &str, rows: &[Map<String, Value>]| -> Result<Option<PathBuf>, StageError> {
        let path = folder.join(name);
        if rows.is_empty() {
            return Ok(None);
        }
        write_lines(&path, rows)?;
        events.emit(Event::Saved { what: name.trim_end_matches(".jsonl").into(), path: path.clone() });
        Ok(Some(path))
    };
    let (rows, prompts) = (write(crate::files::ROWS, &rows)?, write(crate::files::PROMPTS, &prompts)?);
    summary.warnings.iter().for_each(|warning| events.emit(Event::Warning(warning.clone())));
    Ok(Ended::Finished(BuildOutcome { rows, prompts, fates: fates_path, summary }))
}

/// Drops the rows that do not pass the builder's own check.
fn check_again(plan: &BuildPlan, built: &mut [Built]) -> Recheck {
    let mut recheck = Recheck::default();
    for one in built {
        let Ok(row) = &*one else { continue };
        let with_response = usize::from(row.response.is_some());
        recheck.n_checked += 1;
        recheck.n_with_response += with_response;
        match plan.job.recheck(&row.record()) {
            Ok(()) => {
                recheck.n_passed += 1;
                recheck.n_passed_with_response += with_response;
            }
            Err(problem) => {
                *one =
                    Err(Dropped::new(RECHECK, "the check of the finished row failed").with_detail(problem));
            }
        }
    }
    let share = |n_passed: usize, n: usize| (n > 0).then(|| n_passed as f64 / n as f64);
    recheck.share = share(recheck.n_passed, recheck.n_checked);
    recheck.share_with_response = share(recheck.n_passed_with_response, recheck.n_with_response);
    recheck
}

/// Drops what screening finds. Returns the largest share of one template.
fn screen_rows(plan: &BuildPlan, inputs: &BuildInputs, built: &mut [Built]) -> Result<f64, StageError> {
    let options = ScreeningOptions {
        near_duplicate_threshold: plan.config.near_duplicate_threshold,
        max_template_share: plan.config.max_template_share,
    };
    let asked = |row: &BuiltRow| match &row.system {
        Some(system) => format!("{system}\n\n{}", row.prompt),
        None => row.prompt.clone(),
    };
    let prompts: Vec<String> = built.iter().flatten().map(asked).collect();
    // Every later turn is searched for texts of evaluations.
    let later = |row: &BuiltRow| -> Option<String> {
        let contents = row.between.iter().filter_map(|turn| turn["content"].as_str());
        let texts: Vec<&str> = contents.chain(row.response.as_deref()).collect();
        (!texts.is_empty()).then(|| texts.join("\n\n"))
    };
    let responses: Vec<Option<String>> = built.iter().flatten().map(later).collect();
    let texts = prompts.iter().zip(&responses);
    let texts: Vec<RowTexts<'_>> =
        texts.map(|(prompt, response)| RowTexts { prompt, response: response.as_deref() }).collect();
    let screened = screen(&texts, &inputs.evaluations, options)?;
    for (one, dropped) in built.iter_mut().filter(|one| one.is_ok()).zip(screened.dropped) {
        if let Some(dropped) = dropped {
            *one = Err(dropped);
        }
    }
    Ok(screened.largest_template_share)
}

/// Why there is nothing to train on. What no model was asked about is counted apart from what failed.
fn no_rows(units: &[Unit], built: &[Built], n_begun: usize, fates_path: &Path) -> StageError {
    let reasons = reasons_of_begun(units, built);
    let not_asked = match reasons.get(NOT_ASKED) {
        None => String::new(),
        Some(n) => format!("; {n} were never asked about, because a model kept failing"),
    };
    let problem = format!("no rows of {n_begun} that were begun: {}{not_asked}", main_reason(&reasons));
    let saved = format!("{} has all of them; replies are kept", fates_path.display());
    StageError::Unscored { problem, saved }
}

/// Why units that were begun have no row, counted.
fn reasons_of_begun(units: &[Unit], built: &[Built]) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    let begun = units.iter().zip(built).filter(|(unit, _)| unit.dropped.is_none());
    for dropped in begun.filter_map(|(_, built)| built.as_ref().err()) {
        *reasons.entry(dropped.reason.clone()).or_default() += 1;
    }
    reasons
}

/// One row for every unit, in their order.
fn fate_rows(units: &[Unit], built: &[Built]) -> Vec<FateRow> {
    let row = |(unit, built): (&Unit, &Built)| {
        let dropped = built.as_ref().err();
        FateRow {
            text: unit.text.clone(),
            source: unit.source.clone(),
            language: unit.language,
            kinds: unit.kinds.clone(),
            fate: if dropped.is_some() { "dropped" } else { "kept" }.to_owned(),
            step: dropped.map(|dropped| dropped.step.to_owned()),
            reason: dropped.map(|dropped| dropped.reason.clone()),
            detail: match built {
                Ok(row) => row.no_response.clone(),
                Err(dropped) => dropped.detail.clone(),
            },
            has_response: built.as_ref().ok().map(|row| row.response.is_some()),
        }
    };
    units.iter().zip(built).map(row).collect()
}

/// The lines of a file.
type Lines = Vec<Map<String, Value>>;

/// The lines of `rows.jsonl` and of `prompts.jsonl`.
fn written_rows(plan: &BuildPlan, built: &[Built]) -> (Lines, Lines) {
    let (mut rows, mut prompts) = (Vec::new(), Vec::new());
    for (unit, built) in plan.job.units().iter().zip(built) {
        let Ok(BuiltRow { system, prompt, between, response, has_reward_columns, columns, .. }) = built
        else {
            continue;
        };
        let mut common = unit.kept.clone();
        common.extend([
            ("ability".to_owned(), json!(plan.builder.name)),
            ("language".to_owned(), json!(unit.language)),
        ]);
        common.extend(columns.clone());
        common.extend(unit.source.as_ref().map(|source| ("source".to_owned(), json!(source))));
        let turn = |role: &str, text: &str| json!({ "role": role, "content": text });
        let mut turns: Vec<Value> = system.iter().map(|system| turn("system", system)).collect();
        turns.push(turn("user", prompt));
        if *has_reward_columns {
            let asked = if system.is_some() { json!(turns) } else { json!(prompt) };
            prompts.push(with_first("prompt", asked, common.clone()));
        }
        if let Some(response) = response {
            turns.extend(between.iter().cloned());
            turns.push(turn("assistant", response));
            let (turns, columns) = plan.job.layout(turns, common, unit);
            rows.push(with_first("messages", json!(turns), columns));
        }
    }
    (rows, prompts)
}

/// A row that begins with its turns; those of its seed are not written beside them.
fn with_first(name: &str, value: Value, mut others: Map<String, Value>) -> Map<String, Value> {
    others.retain(|key, _| key != "messages" && key != "prompt");
    std::iter::once((name.to_owned(), value)).chain(others).collect()
}

fn summarise(
    plan: &BuildPlan,
    fates: &[FateRow],
    built: &[Built],
    recheck: Recheck,
    largest_template_share: f64,
) -> BuildSummary {
    let is_kept: Vec<bool> = built.iter().map(Result::is_ok).collect();
    let kept = || built.iter().flatten();
    let mut summary = BuildSummary {
        ability: plan.builder.name.to_owned(),
        n_units: built.len(),
        n_begun: plan.n_begun,
        n_kept: kept().count(),
        n_rows: kept().filter(|row| row.response.is_some()).count(),
        n_prompts: kept().filter(|row| row.has_reward_columns).count(),
        recheck,
        coverage: Coverage::of(plan.job.units(), &is_kept, &plan.job.targets()),
        largest_template_share,
        ..BuildSummary::default()
    };
    for reason in kept().filter_map(|row| row.no_response.clone()) {
        *summary.without_response.entry(reason).or_default() += 1;
    }
    for row in fates {
        if let (Some(step), Some(reason)) = (&row.step, &row.reason) {
            *summary.dropped.entry(format!("{step}: {reason}")).or_default() += 1;
        }
    }
    if let Some(share) = recheck.share.filter(|share| *share < MIN_PASS_SHARE) {
        summary.warnings.push(format!(
            "{:.0} % of {} built rows pass the check, expected at least 95 %; `fates.jsonl` says what is wrong",
            100.0 * share,
            recheck.n_checked
        ));
    }
    if plan.config.checker.is_none() {
        summary.warnings.push("the writer checked its own rows; `[checker]` names another model".into());
    }
    let n_uncovered = summary.coverage.kinds.iter().filter(|row| row.n_kept == 0).count();
    if n_uncovered > 0 {
        let kinds = counted(n_uncovered as u64, "kind has", "kinds have");
        summary.warnings.push(format!("{kinds} no row; `summary.json` lists them"));
    }
    if 2 * summary.n_kept < summary.n_begun {
        let (n_kept, n_begun) = (summary.n_kept, summary.n_begun);
        summary.warnings.push(format!("{n_kept} of {n_begun} rows that were begun are kept"));
    }
    summary
}
