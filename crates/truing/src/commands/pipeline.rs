//! `truing pipeline`: several stages as one recipe; what is unchanged is not done again.

mod host;
mod merge;
mod show;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use truing_pipeline::{
    Applied, ApplyOptions, Digests, GarbageOptions, Host as _, LockFile, Notice, Pipeline, PipelinePlan,
    Store, apply, collect_garbage,
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
    Plan(Arguments),
    /// Run the stages that have no result yet. A stage that was stopped continues where it was.
    #[command(
        after_help = "Examples:\n  truing pipeline apply recipes/pipeline_tiny.toml\n  truing pipeline apply recipes/pipeline_tiny.toml --jobs 2\n\nExit status: 75 if a stage waits for a file from people."
    )]
    Apply(ApplyArguments),
    /// Print the state of every stage: size, time, memory and main figures of its result.
    #[command(after_help = "Example: truing pipeline status recipes/pipeline_tiny.toml")]
    Status(Arguments),
    /// Print everything that differs from the lock file for one stage, and which stages follow from it.
    #[command(after_help = "Example: truing pipeline why recipes/pipeline_tiny.toml sft")]
    Why(WhyArguments),
    /// Remove results that no lock file names.
    #[command(after_help = "Example: truing pipeline gc recipes/pipeline_tiny.toml --dry-run")]
    Gc(GcArguments),
}

/// Arguments of `truing pipeline plan` and `status`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The pipeline's recipe, a TOML file.
    recipe: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `truing pipeline apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    #[command(flatten)]
    shared: Arguments,
    /// Stages that may run at the same time, if they do not need each other. They share the threads.
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
}

/// Arguments of `truing pipeline why`.
#[derive(Debug, Args)]
pub(crate) struct WhyArguments {
    /// The pipeline's recipe, a TOML file.
    recipe: PathBuf,
    /// The stage.
    stage: String,
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
}

/// Runs the command.
pub(crate) fn run(command: &Command, context: &Context) -> anyhow::Result<Outcome> {
    match command {
        Command::Plan(arguments) => run_plan(arguments, context),
        Command::Apply(arguments) => run_apply(arguments, context),
        Command::Status(arguments) => run_status(arguments, context),
        Command::Why(arguments) => run_why(arguments, context),
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
    /// Reads a recipe, and finds out what is there.
    fn open(recipe: &Path, host: &ProgramHost<'_>) -> anyhow::Result<Self> {
        let pipeline = read(recipe, host)?;
        let store = Store::at(&pipeline.store);
        let lock = LockFile::read(&pipeline.lock_path())?;
        let digests = Digests::open(&store.digests_path()).with_threads(host.n_threads());
        let plan = PipelinePlan::new(&pipeline, &store, &lock, &digests, host)?;
        if let Err(error) = digests.save() {
            host.notice(&Notice::NotRemembered { reason: &with_causes(&error) });
        }
        Ok(Self { pipeline, store, digests, plan })
    }
}

fn read(recipe: &Path, host: &ProgramHost<'_>) -> anyhow::Result<Pipeline> {
    let absolute = std::path::absolute(recipe).with_context(|| clean_path(recipe))?;
    Pipeline::read(recipe, &absolute, host).hint(|| {
        "docs/pipeline.md describes the recipe of a pipeline; recipes/pipeline_tiny.toml is one".into()
    })
}

fn run_plan(arguments: &Arguments, context: &Context) -> anyhow::Result<Outcome> {
    let host = ProgramHost::new(context, None);
    let opened = Opened::open(&arguments.recipe, &host)?;
    let predicted = host.predictions(&opened.pipeline, &opened.plan, &opened.store, arguments.json)?;
    if arguments.json {
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
    let Opened { pipeline, store, digests, plan } = Opened::open(&arguments.shared.recipe, &host)?;
    let stop = interrupt::stop_flag("stopping: each running stage saves what it has");
    let options = ApplyOptions { jobs: arguments.jobs, stop: &stop };
    let applied = apply(&pipeline, &plan, &store, &digests, &host, options)?;
    if arguments.shared.json {
        context.printer.json(&applied)?;
    } else {
        show::applied(&pipeline, &plan, &applied, context)?;
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
    Ok(match applied {
        Applied { is_interrupted: true, .. } => Outcome::Interrupted,
        Applied { waiting, .. } if !waiting.is_empty() => Outcome::Waiting,
        _ => Outcome::Fine,
    })
}

fn run_status(arguments: &Arguments, context: &Context) -> anyhow::Result<Outcome> {
    let opened = Opened::open(&arguments.recipe, &ProgramHost::new(context, None))?;
    if arguments.json {
        context.printer.json(&show::plan_json(&opened.pipeline, &opened.plan))?;
    } else {
        show::status(&opened.pipeline, &opened.plan, context)?;
    }
    Ok(Outcome::Fine)
}

fn run_why(arguments: &WhyArguments, context: &Context) -> anyhow::Result<Outcome> {
    let opened = Opened::open(&arguments.recipe, &ProgramHost::new(context, None))?;
    let idx = opened.pipeline.stage_index(&arguments.stage)?;
    if arguments.json {
        context.printer.json(&show::why_json(&opened.pipeline, &opened.plan, idx))?;
    } else {
        show::why(&opened.pipeline, &opened.plan, idx, context)?;
    }
    Ok(Outcome::Fine)
}

fn run_gc(arguments: &GcArguments, context: &Context) -> anyhow::Result<Outcome> {
    let pipeline = read(&arguments.shared.recipe, &ProgramHost::new(context, None))?;
    let options = GarbageOptions { is_dry_run: arguments.dry_run, removes_unfinished: arguments.unfinished };
    let collected = collect_garbage(&Store::at(&pipeline.store), options)?;
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
    Ok(Outcome::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::local_engine::DeviceChoice;
    use crate::printer::Printer;

    #[test]
    fn the_pipeline_that_comes_with_truing_is_read() {
        let environment = Environment::default();
        let context = Context {
            printer: Printer::new(true, true),
            environment,
            n_threads: 1,
            device: DeviceChoice::default(),
            place: None,
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/pipeline_tiny.toml");
        let pipeline = read(&path, &ProgramHost::new(&context, None)).unwrap();
        let in_order: Vec<&str> =
            pipeline.order.iter().map(|&idx| pipeline.stages[idx].name.as_str()).collect();
        assert_eq!(in_order, ["sft", "sft_seed_2", "merge", "before", "after"]);
        assert_eq!((&*pipeline.stages[2].upstream, &*pipeline.stages[4].upstream), (&[0, 1][..], &[2][..]));
    }
}
