//! `truing pipeline`: several stages as one recipe; what is unchanged is not done again.

mod card;
mod export;
mod history;
mod host;
mod impact;
mod iterate;
mod lineage;
mod merge;
mod rehearse;
mod remote;
mod report;
mod show;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use truing_pipeline::{
    Applied, ApplyOptions, Digests, GarbageOptions, Host as _, LockFile, Notice, Pipeline, PipelineError,
    PipelinePlan, RemoteCollected, Store, apply, apply_only, collect_garbage,
};
use truing_types::with_causes;

use crate::outcome::{Outcome, WithHint};
use crate::printer::clean_path;
use crate::{Context, interrupt, units};

use host::ProgramHost;

/// What is done with a pipeline.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print which stages would run and why, and what they would need. Nothing is run.
    #[command(after_help = "Example: truing pipeline plan recipes/pipeline_tiny.toml")]
    Plan(PlanArguments),
    /// Run the stages that have no result yet. A stage that was stopped continues where it was.
    #[command(
        after_help = "Examples:\n  truing pipeline apply recipes/pipeline_tiny.toml\n  truing pipeline apply recipes/pipeline_tiny.toml --jobs 2\n  truing pipeline apply recipes/pipeline_tiny.toml --only sft\n\nExit status: 75 if a stage waits for a file from people."
    )]
    Apply(ApplyArguments),
    /// Run the whole recipe on small models and few rows in a folder of its own, and print what is wrong.
    #[command(
        after_help = "Examples:\n  truing pipeline rehearse recipes/pipeline_tiny.toml\n  truing pipeline rehearse recipes/pipeline_tiny.toml --with-servers\n\nExit status: 1 if a stage fails."
    )]
    Rehearse(rehearse::RehearseArguments),
    /// Print the state of every stage: size, time, memory and main figures of its result.
    #[command(after_help = "Example: truing pipeline status recipes/pipeline_tiny.toml")]
    Status(PlanArguments),
    /// Print everything that differs from the lock file for one stage, and which stages follow from it.
    #[command(after_help = "Example: truing pipeline why recipes/pipeline_tiny.toml sft")]
    Why(WhyArguments),
    /// Print where a row came from: the row of each stage before it, with scores, decisions and verdicts.
    #[command(
        after_help = "Examples:\n  truing pipeline lineage songs.toml sft 12\n  truing pipeline lineage songs.toml respond/responses id=q-7 --json"
    )]
    Lineage(lineage::Arguments),
    /// Print what falls when rows are removed: rows of every stage, stages that run again, models.
    #[command(
        after_help = "Examples:\n  truing pipeline impact songs.toml --remove model=teacher-a\n  truing pipeline impact songs.toml --remove license=cc-by-nc-4.0 --write songs-without.toml"
    )]
    Impact(impact::Arguments),
    /// Print the card of a model: what it was made of and what was measured, as Markdown for a hub.
    #[command(after_help = "Example: truing pipeline card songs.toml sft --license apache-2.0 -o README.md")]
    Card(card::Arguments),
    /// Write one page: the graph with its states, what each stage measured, models before and after.
    #[command(after_help = "Example: truing pipeline report recipes/pipeline_tiny.toml --output tiny.html")]
    Report(report::ReportArguments),
    /// Write the pipeline as a workflow of Snakemake or Kubernetes.
    #[command(
        after_help = "Examples:\n  truing pipeline export recipes/pipeline_tiny.toml --format snakemake --output Snakefile\n  truing pipeline export recipes/pipeline_tiny.toml --format kubernetes --image registry/truing:1"
    )]
    Export(export::ExportArguments),
    /// Read the newest evaluation by category and propose the next mix of prompts; stop where a turn shows nothing.
    #[command(
        after_help = "Examples:\n  truing pipeline iterate songs.toml\n  truing pipeline iterate songs.toml --max-change 0.1 --apply\n\nExit status: 1 if no next mix is proposed."
    )]
    Iterate(iterate::IterateArguments),
    /// Print the turns of a pipeline: scores, differences and mixes.
    #[command(after_help = "Example: truing pipeline history songs.toml")]
    History(Arguments),
    /// Upload the results of a pipeline, or of one stage, to its remote.
    #[command(after_help = "Example: truing pipeline push songs.toml sft")]
    Push(remote::Arguments),
    /// Fetch the results of a pipeline, or of one stage, from its remote. Nothing is run.
    #[command(after_help = "Example: truing pipeline pull songs.toml")]
    Pull(remote::Arguments),
    /// Remove results that no lock file names.
    #[command(after_help = "Example: truing pipeline gc recipes/pipeline_tiny.toml --dry-run")]
    Gc(GcArguments),
}

/// Arguments of most commands.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The pipeline's recipe, a TOML file.
    recipe: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `truing pipeline plan` and `status`.
#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    shared: Arguments,
    /// Leave the recipe's remote out.
    #[arg(long)]
    offline: bool,
}

/// Arguments of `truing pipeline apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    #[command(flatten)]
    shared: Arguments,
    /// Stages that may run at the same time, if they do not need each other. They share the threads.
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Run this stage alone. The results that it needs have to be there. The pipeline's page stays as it is.
    #[arg(long, value_name = "STAGE")]
    only: Option<String>,
    /// Leave the recipe's remote out: nothing is looked for there, fetched or uploaded.
    #[arg(long)]
    offline: bool,
}

/// Arguments of `truing pipeline why`.
#[derive(Debug, Args)]
pub(crate) struct WhyArguments {
    /// The pipeline's recipe, a TOML file.
    recipe: PathBuf,
    /// The stage.
    stage: String,
    /// Leave the recipe's remote out.
    #[arg(long)]
    offline: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `truing pipeline gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArguments {
    #[command(flatten)]
    shared: Arguments,
    /// Only print what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Also remove runs that were started and not finished.
    #[arg(long)]
    unfinished: bool,
    /// Also remove results from the recipe's remote. Lock files that the store on this machine does not know are not
    /// considered.
    #[arg(long)]
    remote: bool,
}

/// Runs the command.
pub(crate) fn run(command: &Command, context: &Context) -> anyhow::Result<Outcome> {
    match command {
        Command::Plan(arguments) => run_plan(arguments, context),
        Command::Apply(arguments) => run_apply(arguments, context),
        Command::Rehearse(arguments) => rehearse::run(arguments, context),
        Command::Status(arguments) => run_status(arguments, context),
        Command::Why(arguments) => run_why(arguments, context),
        Command::Lineage(arguments) => lineage::run(arguments, context),
        Command::Impact(arguments) => impact::run(arguments, context),
        Command::Card(arguments) => card::run(arguments, context),
        Command::Report(arguments) => report::run(arguments, context),
        Command::Export(arguments) => export::run(arguments, context),
        Command::Iterate(arguments) => iterate::run(arguments, context),
        Command::History(arguments) => history::run(arguments, context),
        Command::Push(arguments) => remote::run_push(arguments, context),
        Command::Pull(arguments) => remote::run_pull(arguments, context),
        Command::Gc(arguments) => run_gc(arguments, context),
    }
}

/// A pipeline with its plan.
struct Opened {
    pipeline: Pipeline,
    store: Store,
    digests: Digests,
    plan: PipelinePlan,
}

impl Opened {
    /// Reads a recipe, and finds out what is there on this machine.
    fn open(recipe: &Path, host: &ProgramHost<'_>) -> anyhow::Result<Self> {
        let pipeline = read(recipe, host)?;
        let store = Store::at(&pipeline.store);
        Self::with_store(pipeline, store, host)
    }

    /// Reads a recipe, and finds out what is there and, unless it is left out, in the remote.
    fn open_shared(recipe: &Path, is_offline: bool, host: &ProgramHost<'_>) -> anyhow::Result<Self> {
        let pipeline = read(recipe, host)?;
        let store = Store::at(&pipeline.store);
        let store = if is_offline { store } else { remote::connected(&pipeline, store)? };
        Self::with_store(pipeline, store, host)
    }

    fn with_store(pipeline: Pipeline, store: Store, host: &ProgramHost<'_>) -> anyhow::Result<Self> {
        let lock = LockFile::read(&pipeline.lock_path())?;
        let digests = Digests::open(&store.digests_path()).with_threads(host.n_threads());
        let plan = PipelinePlan::new(&pipeline, &store, &lock, &digests, host);
        let is_of_remote = matches!(plan, Err(PipelineError::Remote(_)));
        let plan = match is_of_remote {
            true => plan.hint(|| "`--offline` leaves the remote out".into())?,
            false => plan?,
        };
        let opened = Self { pipeline, store, digests, plan };
        opened.save_digests(host);
        Ok(opened)
    }

    /// Remembers the digests of the files that were read. Where that fails they are computed again the next time.
    fn save_digests(&self, host: &ProgramHost<'_>) {
        if let Err(error) = self.digests.save() {
            host.notice(&Notice::NotRemembered { reason: &with_causes(&error) });
        }
    }
}

fn read(recipe: &Path, host: &ProgramHost<'_>) -> anyhow::Result<Pipeline> {
    let absolute = std::path::absolute(recipe).with_context(|| clean_path(recipe))?;
    Pipeline::read(recipe, &absolute, host).hint(|| {
        "docs/pipeline.md describes the recipe of a pipeline; recipes/pipeline_tiny.toml is one".into()
    })
}

fn run_plan(arguments: &PlanArguments, context: &Context) -> anyhow::Result<Outcome> {
    let host = ProgramHost::new(context, None);
    let PlanArguments { shared: Arguments { recipe, json }, offline } = arguments;
    let opened = Opened::open_shared(recipe, *offline, &host)?;
    let predicted = host.predictions(&opened.pipeline, &opened.plan, &opened.store, *json)?;
    if *json {
        let mut shown = show::plan_json(&opened.pipeline, &opened.plan);
        shown["predicted"] = predicted.into_iter().collect();
        context.printer.json(&shown)?;
    } else {
        show::plan(&opened.pipeline, &opened.plan, &predicted, context)?;
    }
    Ok(Outcome::Fine)
}

fn run_apply(arguments: &ApplyArguments, context: &Context) -> anyhow::Result<Outcome> {
    if arguments.jobs == 0 {
        bail!("`--jobs` is 0, expected at least 1");
    }
    let host = ProgramHost::new(context, Some(arguments.jobs));
    let Opened { pipeline, store, digests, plan } =
        Opened::open_shared(&arguments.shared.recipe, arguments.offline, &host)?;
    let stop = interrupt::stop_flag("stopping: each running stage saves what it has");
    let options = ApplyOptions { jobs: arguments.jobs, stop: &stop };
    let only = arguments.only.as_ref().map(|stage| pipeline.stage_index(stage)).transpose()?;
    let (applied, page) = match only {
        Some(stage) => (apply_only(&pipeline, &plan, &store, &digests, &host, options, stage)?, None),
        None => {
            let applied = apply(&pipeline, &plan, &store, &digests, &host, options)?;
            let page = report::after_apply(&arguments.shared.recipe, &host, &applied, context);
            (applied, page)
        }
    };
    if arguments.shared.json {
        context.printer.json(&applied)?;
    } else {
        show::applied(&pipeline, &plan, &applied, context)?;
        if let Some(page) = page {
            context.printer.line(format_args!("page     {}", clean_path(&page)))?;
        }
    }
    ending(&applied)
}

/// The exit status of a pipeline: a failure before an interruption, and that before a file that is waited for.
fn ending(applied: &Applied) -> anyhow::Result<Outcome> {
    let failed: Vec<String> =
        applied.failed.iter().map(|(stage, reason)| format!("stage `{stage}` failed: {reason}")).collect();
    if !failed.is_empty() {
        let not_run: Vec<&str> = applied.not_run.keys().map(String::as_str).collect();
        return Err(anyhow::anyhow!("{}", failed.join("\n"))).hint(|| match not_run.is_empty() {
            true => "the same command continues from there".into(),
            false => format!(
                "not run because of it: {}; the same command continues from there",
                not_run.join(", ")
            ),
        });
    }
    if let Some((stage, reason)) = applied.not_uploaded.iter().next() {
        let n_more = applied.not_uploaded.len() - 1;
        let more = if n_more == 0 { String::new() } else { format!(" (and of {n_more} more)") };
        return Err(anyhow::anyhow!("the result of stage `{stage}`{more} is not in the remote: {reason}"))
            .hint(|| "the results are in the store; `truing pipeline push` uploads them".into());
    }
    Ok(match applied {
        Applied { is_interrupted: true, .. } => Outcome::Interrupted,
        Applied { waiting, .. } if !waiting.is_empty() => Outcome::Waiting,
        _ => Outcome::Fine,
    })
}

fn run_status(arguments: &PlanArguments, context: &Context) -> anyhow::Result<Outcome> {
    let host = ProgramHost::new(context, None);
    let opened = Opened::open_shared(&arguments.shared.recipe, arguments.offline, &host)?;
    if arguments.shared.json {
        context.printer.json(&show::plan_json(&opened.pipeline, &opened.plan))?;
    } else {
        show::status(&opened.pipeline, &opened.plan, context)?;
    }
    Ok(Outcome::Fine)
}

fn run_why(arguments: &WhyArguments, context: &Context) -> anyhow::Result<Outcome> {
    let host = ProgramHost::new(context, None);
    let opened = Opened::open_shared(&arguments.recipe, arguments.offline, &host)?;
    let idx = opened.pipeline.stage_index(&arguments.stage)?;
    if arguments.json {
        context.printer.json(&show::why_json(&opened.pipeline, &opened.plan, idx))?;
    } else {
        show::why(&opened.pipeline, &opened.plan, idx, context)?;
    }
    Ok(Outcome::Fine)
}

fn run_gc(arguments: &GcArguments, context: &Context) -> anyhow::Result<Outcome> {
    let host = ProgramHost::new(context, None);
    let pipeline = read(&arguments.shared.recipe, &host)?;
    let options = GarbageOptions {
        is_dry_run: arguments.dry_run,
        removes_unfinished: arguments.unfinished,
        in_remote: arguments.remote,
    };
    let store = Store::at(&pipeline.store);
    let store = if arguments.remote { remote::required(&pipeline, store)? } else { store };
    let collected = collect_garbage(&store, options, host.now())?;
    let printer = context.printer;
    if arguments.shared.json {
        printer.json(&json!({ "is_dry_run": arguments.dry_run, "collected": collected }))?;
        return Ok(Outcome::Fine);
    }
    for removed in &collected.removed {
        printer.line(format_args!("{}  {}", clean_path(&removed.folder), units::bytes(removed.bytes)))?;
    }
    for gone in &collected.gone {
        printer.note(format_args!("{} is gone: its runs are not kept for it", clean_path(gone)));
    }
    let bytes = units::bytes(collected.removed.iter().map(|removed| removed.bytes).sum());
    let verb = if arguments.dry_run { "would remove" } else { "removed" };
    let (n_removed, n_kept) = (collected.removed.len(), collected.n_kept);
    printer.line(format_args!("{verb} {n_removed} runs, {bytes}; kept {n_kept}"))?;
    if let Some(RemoteCollected { results, n_objects, n_kept }) = &collected.from_remote {
        let n_results = results.len();
        let what = format!("{verb} {n_results} results and {n_objects} objects; kept {n_kept} results");
        printer.line(format_args!("in the remote: {what}"))?;
    }
    Ok(Outcome::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::local_engine::DeviceChoice;
    use crate::printer::Printer;

    /// The stages of a recipe of this repository, in their order, with the names of those that each needs.
    fn stages_of(recipe: &str) -> Vec<(String, Vec<String>)> {
        let context = Context {
            printer: Printer::new(true, true),
            environment: Environment::default(),
            n_threads: 1,
            device: DeviceChoice::default(),
            place: None,
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(recipe);
        let pipeline = read(&path, &ProgramHost::new(&context, None)).unwrap();
        let name_of = |&idx: &usize| pipeline.stages[idx].name.clone();
        let upstream_of =
            |idx: &usize| -> Vec<String> { pipeline.stages[*idx].upstream.iter().map(name_of).collect() };
        pipeline.order.iter().map(|idx| (name_of(idx), upstream_of(idx))).collect()
    }

    fn check_stages(recipe: &str, expected: &[(&str, &[&str])]) {
        let stages = stages_of(recipe);
        assert_eq!(stages.len(), expected.len(), "{stages:?}");
        for ((name, mut upstream), (expected_name, expected_upstream)) in stages.into_iter().zip(expected) {
            upstream.sort();
            assert_eq!(name, *expected_name);
            assert_eq!(upstream, *expected_upstream, "{name}");
        }
    }

    #[test]
    fn the_pipelines_that_come_with_truing_are_read() {
        check_stages(
            "pipeline_tiny.toml",
            &[
                ("sft", &[]),
                ("sft_seed_2", &[]),
                ("merge", &["sft", "sft_seed_2"]),
                ("before", &[]),
                ("after", &["merge"]),
            ],
        );
        check_stages(
            "../quickstart/pipeline.toml",
            &[
                ("before", &[]),
                ("sft", &[]),
                ("after_sft", &["sft"]),
                ("reward", &["sft"]),
                ("grpo", &["sft"]),
                ("after_grpo", &["grpo"]),
            ],
        );
        check_stages(
            "pipeline_report.toml",
            &[
                ("select", &[]),
                ("open", &["select"]),
                ("golden", &[]),
                ("complement", &["golden"]),
                ("augmented", &["complement", "open"]),
                ("sft", &["augmented", "select"]),
                ("sft_2", &["augmented", "select"]),
                ("merge", &["sft", "sft_2"]),
                ("reward", &["merge"]),
                ("grpo", &["merge", "reward"]),
                ("start", &[]),
                ("evaluate", &["grpo"]),
            ],
        );
    }

    #[test]
    fn the_complement_model_of_the_report_learns_the_prompt_that_it_is_used_with() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
        let used =
            read("crates/truing-ask/src/pas/prompts/complement.en.txt").replace("{{prompt}}", "{prompt}");
        let recipe = read("recipes/pipeline_report.toml");
        assert!(recipe.contains(&format!("prompt_template = \"\"\"\n{}\"\"\"\n", used.trim_end())), "{used}");
    }
}
