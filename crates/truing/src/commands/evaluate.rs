//! `truing evaluate`: a model on benchmarks, as a recipe or the command line says; two evaluations compared; stored
//! answers scored again; the list of benchmarks.

mod quick;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use truing_data::read_objects;
use truing_eval::benchmarks::{BENCHMARKS, Benchmark, JudgeQuality, MetricSummary, find as find_benchmark};
use truing_eval::comparison::{Finding, MetricComparison, RunPair};
use truing_eval::contamination::{ContaminationOptions, TaskContamination, contamination};
use truing_eval::results::{ItemRecord, RESULTS, TaskRecord, items_file, read_items, read_results};
use truing_evaluate::evaluate::{EvaluateOutcome, EvaluatePlan, EvaluateStage, rescore};
use truing_stages::StageError;
use truing_statistics::Interval;

use quick::Quick;

use super::judging;
use super::recipe_arguments::RecipeArguments;
use super::stage::{self, RunArguments, RunKind, StageCommand};
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::clean_path;
use crate::table::{Align, Table};

/// Held items of a task, as printed.
const N_HELD_ITEMS: usize = 10;
/// Training rows of a held item, as printed.
const N_HELD_ROWS: usize = 3;
/// Items that changed, as printed.
const N_FLIPS: usize = 5;

/// Arguments of `truing evaluate`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    recipe: Option<RecipeArguments>,
    #[command(flatten)]
    quick: Quick,
    #[command(flatten)]
    run: RunArguments,
}

/// What else can be done with evaluations.
#[derive(Debug, Subcommand)]
enum Command {
    /// List the benchmarks, or how scores of one differ from those of its published program.
    #[command(after_help = "Examples:\
                            \n  truing evaluate list\
                            \n  truing evaluate list cfbench\
                            \n  truing evaluate list --differences")]
    List {
        /// A benchmark: what it measures, and the differences from its published program.
        benchmark: Option<String>,
        /// With all benchmarks, also list the differences.
        #[arg(long)]
        differences: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Compare two evaluations item by item: paired tests, corrected over all metrics, and the items that changed.
    #[command(
        after_help = "Example: truing evaluate compare runs/eval_before runs/eval_after --html changes.html"
    )]
    Compare {
        /// The folder of the first evaluation.
        first: PathBuf,
        /// The folder of the second evaluation.
        second: PathBuf,
        /// Also write a page with the differences and the items that changed.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Look for the items of an evaluation in training data, and print the scores without the contaminated items.
    #[command(
        after_help = "Example: truing evaluate contamination runs/evaluate --data train.jsonl --data more.jsonl"
    )]
    Contamination {
        /// The folder of the evaluation.
        folder: PathBuf,
        /// A file or folder of training data, in any form: all texts of a row are read. May be given several times.
        #[arg(long, value_name = "FILE", required = true)]
        data: Vec<PathBuf>,
        /// Words in a row that a training text and an item must share. Shorter items are looked for whole.
        #[arg(long, value_name = "N", default_value_t = ContaminationOptions::default().ngram_words)]
        ngram_words: usize,
        /// Words in a row that more items share are the benchmark's wording and count for none of them.
        #[arg(long, value_name = "N", default_value_t = ContaminationOptions::default().max_items)]
        max_items: usize,
        /// Print one JSON object with every item and training row.
        #[arg(long)]
        json: bool,
    },
    /// Score the stored answers of an evaluation again, without calling the model.
    #[command(after_help = "Example: truing evaluate rescore recipes/evaluate.toml")]
    Rescore {
        #[command(flatten)]
        recipe: RecipeArguments,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    match (&arguments.command, &arguments.recipe) {
        (Some(Command::List { benchmark, differences, json }), _) => {
            list(benchmark.as_deref(), *differences, *json, context)
        }
        (Some(Command::Compare { first, second, html, json }), _) => {
            compare([first, second], html.as_deref(), *json, context)
        }
        (Some(Command::Contamination { folder, data, ngram_words, max_items, json }), _) => {
            let min_item_words = ContaminationOptions::default().min_item_words.min(*ngram_words);
            let options =
                ContaminationOptions { ngram_words: *ngram_words, min_item_words, max_items: *max_items };
            look_for_items(folder, data, &options, *json, context)
        }
        (Some(Command::Rescore { recipe, json }), _) => score_again(recipe, *json, context),
        (None, Some(recipe)) => stage::run_recipe::<EvaluateStage>(recipe, &arguments.run, context),
        (None, None) => {
            let config = arguments.quick.config(context)?;
            stage::run_config::<EvaluateStage>(config, &arguments.run, context)
        }
    }
}

impl StageCommand for EvaluateStage {
    const KIND: RunKind = judging::KIND;

    fn announce(plan: &EvaluatePlan, context: &Context) {
        super::plan::announce_differences(plan, context);
    }

    fn print_plan(plan: &EvaluatePlan, context: &Context) -> anyhow::Result<()> {
        stage::print_rows(plan, context)?;
        let texts: Vec<(&str, Vec<&str>)> = plan
            .differences
            .iter()
            .map(|(name, differences)| (name.as_str(), differences.iter().map(String::as_str).collect()))
            .collect();
        print_differences(texts.iter().map(|(name, differences)| (*name, &differences[..])), context)
    }

    fn plan_json(plan: &EvaluatePlan) -> Value {
        let mut fields = stage::rows_json(plan);
        let differences: Map<String, Value> =
            plan.differences.iter().map(|(name, texts)| (name.clone(), json!(texts))).collect();
        fields["differences"] = differences.into();
        fields
    }

    fn advice(error: &StageError, folder: &Path) -> Option<String> {
        judging::advice(error, folder, Some("judge.model.cache"))
    }

    fn finish(
        outcome: EvaluateOutcome,
        _: &Path,
        as_json: bool,
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        print_outcome(&outcome, as_json, context)
    }
}

fn print_outcome(outcome: &EvaluateOutcome, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
    let printer = context.printer;
    let page = outcome.folder.join("report.html");
    truing_report::write_report(&outcome.folder, &page)?;
    let has_unscored = |task: &TaskRecord| task.summary.metrics.iter().any(|metric| metric.n == 0);
    let exit = if outcome.tasks.iter().any(has_unscored) { Outcome::Finding } else { Outcome::Fine };
    if as_json {
        printer.json(&json!({
            "status": "finished", "folder": outcome.folder, "report": page, "tasks": outcome.tasks
        }))?;
        return Ok(exit);
    }
    let mut table = Table::new(&[
        ("task", Align::Left),
        ("metric", Align::Left),
        ("value", Align::Right),
        ("95 % interval", Align::Left),
        ("items", Align::Right),
        ("unscored", Align::Right),
    ]);
    for task in &outcome.tasks {
        for metric in &task.summary.metrics {
            table.row([
                task.task.clone(),
                metric.metric.key().trim_end_matches(",none").to_owned(),
                value(metric.value),
                match metric.has_equal_scores() {
                    true => "none: all scores are equal".to_owned(),
                    false => metric.interval.map_or_else(String::new, range),
                },
                match task.summary.n_seeds {
                    1 => metric.n.to_string(),
                    n_seeds => format!("{} x {n_seeds}", task.summary.n_items),
                },
                metric.n_unscored().to_string(),
            ]);
        }
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    outcome.tasks.iter().try_for_each(|task| print_remarks(task, context))?;
    printer.line("")?;
    printer.line(format_args!("results  {}", clean_path(&outcome.folder.join(RESULTS))))?;
    printer.line(format_args!("report   {}", clean_path(&page)))?;
    Ok(exit)
}

/// What has to be known to read the scores of a task.
fn print_remarks(task: &TaskRecord, context: &Context) -> anyhow::Result<()> {
    let printer = context.printer;
    let name = &task.task;
    let n_unread = task.summary.n_unread_of_main();
    let n = task.summary.n_replies();
    if n_unread > 0 {
        printer.line(format_args!(
            "{name}: no answer could be read out of {n_unread} of {n} replies; they count as wrong"
        ))?;
    }
    if task.summary.n_cut > 0 {
        printer
            .line(format_args!("{name}: {} of {n} replies were cut at their limit", task.summary.n_cut))?;
    }
    let bounded = |metric: &&MetricSummary| metric.bounds.is_some();
    for metric in task.summary.metrics.iter().filter(bounded) {
        let bounds = metric.bounds.map_or_else(String::new, range);
        printer.line(format_args!(
            "{name}: {} items have no score; with them {} would be {bounds}",
            metric.n_unscored(),
            metric.metric.key()
        ))?;
    }
    let judge = task.summary.judge.as_ref();
    for remark in judge.into_iter().flat_map(JudgeQuality::remarks) {
        printer.line(format_args!("{name}: {remark}"))?;
    }
    let of_judge = judge.and_then(|judge| judge.repeat).map(|repeat| repeat.variance);
    if let Some(metric) = task.summary.metrics.first()
        && let Some(remark) = metric.variance_remark(of_judge)
    {
        printer.line(format_args!("{name} {}: {remark}", metric.metric.key().trim_end_matches(",none")))?;
    }
    for difference in &task.differences {
        printer.note(format_args!("{name}: {difference}"));
    }
    Ok(())
}

fn value(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value.abs() < 10.0 => format!("{value:.4}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// A p-value: never 0.
pub(super) fn p_value(value: f64) -> String {
    if value < 0.001 { "< 0.001".to_owned() } else { format!("{value:.3}") }
}

fn range(interval: Interval) -> String {
    format!("{} to {}", value(Some(interval.low)), value(Some(interval.high)))
}

fn list(
    name: Option<&str>,
    with_differences: bool,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let benchmarks: Vec<&dyn Benchmark> = match name {
        Some(name) => vec![find_benchmark(name)?],
        None => BENCHMARKS.to_vec(),
    };
    if as_json {
        let all: Vec<_> = benchmarks
            .iter()
            .map(|benchmark| {
                json!({
                    "name": benchmark.name(), "about": benchmark.about(), "needs_judge": benchmark.needs_judge(),
                    "needs_baseline": benchmark.needs_baseline(), "default_shots": benchmark.default_shots(),
                    "differences": benchmark.differences(),
                })
            })
            .collect();
        context.printer.json(&json!({ "benchmarks": all }))?;
        return Ok(Outcome::Fine);
    }
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    for benchmark in &benchmarks {
        let judge = if benchmark.needs_judge() { " (judge)" } else { "" };
        table.row([benchmark.name().to_owned(), format!("{}{judge}", benchmark.about())]);
    }
    for line in table.lines() {
        context.printer.line(line)?;
    }
    if with_differences || name.is_some() {
        let differences = benchmarks.iter().map(|benchmark| (benchmark.name(), benchmark.differences()));
        print_differences(differences, context)?;
    }
    Ok(Outcome::Fine)
}

/// How strict scores differ from those of the published programs.
fn print_differences<'a>(
    benchmarks: impl Iterator<Item = (&'a str, &'a [&'a str])>,
    context: &Context,
) -> anyhow::Result<()> {
    let printer = context.printer;
    for (name, differences) in benchmarks.filter(|(_, differences)| !differences.is_empty()) {
        printer.line("")?;
        printer.line(format_args!(
            "{name}: differences from the published program (`scoring = \"official\"` scores as it does)"
        ))?;
        for difference in differences {
            printer.line(format_args!("- {difference}"))?;
        }
    }
    Ok(())
}

fn compare(
    [first, second]: [&Path; 2],
    html: Option<&Path>,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let pair = RunPair::read(first, second)?;
    for remark in &pair.remarks {
        context.printer.warning(remark);
    }
    if let Some(page) = html {
        truing_report::write_comparison([first, second], &pair, page)?;
    }
    let comparisons: Vec<&MetricComparison> = pair.comparisons().collect();
    if as_json {
        context
            .printer
            .json(&json!({ "comparisons": comparisons, "remarks": pair.remarks, "page": html }))?;
        return Ok(Outcome::Fine);
    }
    print_comparisons(&comparisons, context)?;
    if let Some(page) = html {
        context.printer.line(format_args!("page  {}", clean_path(page)))?;
    }
    Ok(Outcome::Fine)
}

fn print_comparisons(comparisons: &[&MetricComparison], context: &Context) -> anyhow::Result<()> {
    let printer = context.printer;
    for task in comparisons.chunk_by(|one, other| one.task == other.task) {
        let mut table = Table::new(&[
            (task[0].task.as_str(), Align::Left),
            ("first", Align::Right),
            ("second", Align::Right),
            ("95 % interval", Align::Left),
            ("p (Holm)", Align::Right),
            ("second", Align::Left),
        ]);
        for comparison in task {
            let found = match comparison.finding() {
                Finding::FirstBetter => "worse",
                Finding::SecondBetter => "better",
                Finding::Unresolved => "-",
            };
            let interval = comparison.interval().map_or_else(
                || "none: all differences are equal".to_owned(),
                |Interval { low, high }| format!("{low:+.3} to {high:+.3}"),
            );
            table.row([
                comparison.metric.key().trim_end_matches(",none").to_owned(),
                format!("{:.3}", comparison.first),
                format!("{:.3}", comparison.second),
                interval,
                p_value(comparison.p_adjusted.unwrap_or(comparison.p_value)),
                found.to_owned(),
            ]);
        }
        for line in table.lines() {
            printer.line(line)?;
        }
        printer.line("")?;
    }
    for comparison in comparisons {
        let key = comparison.metric.key();
        printer.line(format_args!(
            "{} {key}: {} items in common, {} changed; {}",
            comparison.task,
            comparison.n,
            comparison.flips.len(),
            comparison.resolvable_text()
        ))?;
        if let Some(missing) = comparison.not_compared() {
            printer.line(format_args!("  {missing}"))?;
        }
        let flips = comparison.flips.iter().take(N_FLIPS);
        let shown: Vec<String> = flips
            .map(|flip| format!("{} ({} to {})", flip.id, value(Some(flip.first)), value(Some(flip.second))))
            .collect();
        if !shown.is_empty() {
            printer.line(format_args!("  {}", shown.join(", ")))?;
        }
    }
    Ok(())
}

fn look_for_items(
    folder: &Path,
    data: &[PathBuf],
    options: &ContaminationOptions,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let tasks: Vec<(TaskRecord, Vec<ItemRecord>)> = read_results(folder)?
        .into_iter()
        .map(|record| {
            let items = read_items(&folder.join(items_file(&record.task)))?;
            Ok((record, items))
        })
        .collect::<anyhow::Result<_>>()?;
    let mut rows = Vec::new();
    for path in data {
        rows.push(read_objects(path)?);
    }
    let n_rows: usize = rows.iter().map(Vec::len).sum();
    let training = rows.into_iter().flatten().map(anyhow::Ok);
    let found = contamination(&tasks, training, options)?;
    let is_held = found.iter().any(|task| !task.held.is_empty());
    let exit = if is_held { Outcome::Finding } else { Outcome::Fine };
    if as_json {
        context.printer.json(&json!({ "training_rows": n_rows, "tasks": found }))?;
        return Ok(exit);
    }
    print_effects(&found, context)?;
    print_held_items(&found, options, context)?;
    Ok(exit)
}

/// The metrics with all items, and without those that training data holds.
fn print_effects(found: &[TaskContamination], context: &Context) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        ("task", Align::Left),
        ("held items", Align::Right),
        ("metric", Align::Left),
        ("all items", Align::Left),
        ("without them", Align::Left),
    ]);
    let of = |summary: &MetricSummary| {
        let interval = summary
            .interval
            .map_or_else(String::new, |Interval { low, high }| format!(" ({low:.2} to {high:.2})"));
        summary.value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}{interval}"))
    };
    for task in found {
        for (place, effect) in task.metrics.iter().enumerate() {
            let is_first = place == 0;
            table.row([
                if is_first { task.task.clone() } else { String::new() },
                if is_first { format!("{} of {}", task.held.len(), task.n_items) } else { String::new() },
                effect.all.metric.key().trim_end_matches(",none").to_owned(),
                of(&effect.all),
                effect.without.as_ref().map_or_else(|| "-".to_owned(), of),
            ]);
        }
    }
    for line in table.lines() {
        context.printer.line(line)?;
    }
    Ok(())
}

/// The first items of each task that training data holds, with the rows that do.
fn print_held_items(
    found: &[TaskContamination],
    options: &ContaminationOptions,
    context: &Context,
) -> anyhow::Result<()> {
    let printer = context.printer;
    for task in found {
        if task.n_too_short > 0 {
            printer.line(format_args!(
                "{}: {} items have fewer than {} words and were not looked for",
                task.task, task.n_too_short, options.min_item_words
            ))?;
        }
        for item in task.held.iter().take(N_HELD_ITEMS) {
            let more = item.n_rows.saturating_sub(N_HELD_ROWS);
            let mut rows = item.rows[..item.rows.len().min(N_HELD_ROWS)].join(", ");
            if more > 0 {
                rows.push_str(&format!(" and {more} more"));
            }
            printer.line(format_args!("{} {}: {rows}: {}", task.task, item.id, item.words))?;
        }
        if task.held.len() > N_HELD_ITEMS {
            let more = task.held.len() - N_HELD_ITEMS;
            printer.line(format_args!("{}: {more} more items; `--json` names all", task.task))?;
        }
    }
    Ok(())
}

fn score_again(recipe: &RecipeArguments, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
    let config = stage::read_config::<EvaluateStage>(recipe, context)?;
    let (plan, inputs, _) = stage::prepare::<EvaluateStage>(config, context)?;
    let program = std::env::current_exe().ok();
    let outcome = rescore(&plan.config, &inputs, program.as_deref())?;
    print_outcome(&outcome, as_json, context)
}
