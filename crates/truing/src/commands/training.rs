//! What every command that trains on a fixed set of samples does: recipe, plan, work, page.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use truing_model::is_adapter;
use truing_parallel::Solo;
use truing_stages::training::{Start, TrainingConfig, TrainingInputs, TrainingOutcome, TrainingPlan};
use truing_stages::{Probe, StageError};
use truing_store::StoreError;
use truing_text::RenderOptions;
use truing_types::{Communicator, EventSink};

use super::{model, plan};
use crate::outcome::{Hinted, Outcome, WithHint};
use crate::progress::{self, FanOut};
use crate::recorder::TensorBoard;
use crate::{Context, interrupt, machine};

/// A recipe and what is changed of it.
#[derive(Debug, Args)]
pub(crate) struct RecipeArguments {
    /// The recipe, a TOML file.
    pub(crate) recipe: PathBuf,
    /// Change a setting, for instance `--set learning_rate=2e-5` or `--set data.0.path=mine.jsonl`. May be given
    /// several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

/// Arguments of every command that trains as a recipe says.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) recipe: RecipeArguments,
    /// Print the plan and do nothing.
    #[arg(long, conflicts_with = "resume")]
    pub(crate) plan: bool,
    /// Continue from the newest complete checkpoint; start the run if the folder holds none.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    pub(crate) json: bool,
}

type Load<I> = fn(&TrainingConfig, RenderOptions, &mut dyn EventSink) -> Result<I, StageError>;
type Run<I> = fn(
    &TrainingPlan,
    &I,
    Start,
    &dyn Communicator,
    &dyn Probe,
    &mut dyn EventSink,
    &AtomicBool,
) -> Result<TrainingOutcome, StageError>;

/// A stage as its command needs it.
pub(crate) struct Stage<I> {
    /// Reads what the recipe names.
    pub(crate) load: Load<I>,
    /// The work.
    pub(crate) run: Run<I>,
}

/// Reads the recipe, plans, trains, writes the page.
pub(crate) fn run<I: TrainingInputs>(
    stage: &Stage<I>,
    arguments: &Arguments,
    context: &mut Context,
) -> anyhow::Result<Outcome> {
    let (plan, inputs) = match prepare(stage.load, &arguments.recipe, context) {
        Ok(prepared) => prepared,
        Err(error) => return plan::refuse(error, arguments.json, context),
    };
    if arguments.plan {
        return plan::show(&plan, arguments.json, context);
    }
    let folder = plan.config.output_dir.clone();
    context.printer.note(plan.reason());
    let stop = interrupt::stop_flag("stopping: the run is saved after this pack")?;
    let outcome = watched(&folder, arguments.resume, context, |start, probe, events| {
        (stage.run)(&plan, &inputs, start, &Solo, probe, events, &stop)
    })?;
    finish(&outcome, &folder, arguments.json, context)
}

/// Does the work of a stage with progress in the terminal and TensorBoard events in the run's folder.
pub(crate) fn watched<T>(
    folder: &Path,
    resume: bool,
    context: &Context,
    work: impl FnOnce(Start, &dyn Probe, &mut dyn EventSink) -> Result<T, StageError>,
) -> anyhow::Result<T> {
    let (tensor_board, recording_error) = TensorBoard::new(&folder.join("events"));
    let mut events = FanOut(vec![progress::for_this_terminal(&context.printer), Box::new(tensor_board)]);
    let start = if resume { Start::Resume } else { Start::Fresh };
    let outcome = work(start, &machine::ProcessProbe::new(), &mut events)
        .map_err(|error| with_advice(error, folder, resume))?;
    drop(events);
    if let Some(error) = recording_error.borrow_mut().take() {
        context.printer.warning(format_args!("TensorBoard events are incomplete: {error}"));
    }
    Ok(outcome)
}

/// Reads recipe, model and data, and makes the plan.
pub(crate) fn prepare<I: TrainingInputs>(
    load: Load<I>,
    arguments: &RecipeArguments,
    context: &Context,
) -> anyhow::Result<(TrainingPlan, I)> {
    let path = &arguments.recipe;
    let text = read_recipe(path)?;
    let mut config = TrainingConfig::from_toml(&text, path, &arguments.overrides)?;
    if !config.model_name_or_path.is_empty() {
        let found = model::find(&config.model_name_or_path, context)?;
        config.model_name_or_path = found.to_string_lossy().into_owned();
    }
    let mut events = progress::for_this_terminal(&context.printer);
    let inputs = load(&config, render_options(), events.as_mut())?;
    let machine = machine::for_stages(context.n_threads, machine::measure_step_gigaflops());
    Ok((TrainingPlan::resolve(config, &inputs, &machine)?, inputs))
}

/// The text of a recipe.
pub(crate) fn read_recipe(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))
        .hint(|| "a recipe is a TOML file; the folder `recipes/` has examples".into())
}

/// A command that was given neither a recipe nor a subcommand.
pub(crate) fn no_recipe(example: &str) -> anyhow::Error {
    let source = anyhow::anyhow!("a recipe is needed");
    anyhow::Error::new(Hinted { source, hint: example.to_owned() })
}

/// What to do about a run that cannot begin or go on.
pub(crate) fn with_advice(error: StageError, folder: &Path, resume: bool) -> anyhow::Error {
    let go_on = || {
        format!(
            "{} holds the run; --resume continues it; `--set output_dir=...` starts another",
            folder.display()
        )
    };
    let hint = match &error {
        StageError::RecipeChanged { .. } | StageError::InputsChanged { .. } | StageError::FileChanged { .. } => {
            "--resume needs the recipe, data and model of its start; `--set output_dir=...` starts another run"
                .to_owned()
        }
        StageError::Store(StoreError::RunExists { .. }) => go_on(),
        StageError::Store(StoreError::Locked { .. }) => {
            "wait until that process has ended, or stop it; `--set output_dir=...` starts another run".to_owned()
        }
        StageError::Store(
            StoreError::NotARun { .. } | StoreError::Occupied { .. } | StoreError::NotADirectory { .. },
        ) => "`--set output_dir=...` names another folder".to_owned(),
        StageError::Store(StoreError::Foreign { .. }) if resume => {
            "without --resume a run starts there".to_owned()
        }
        _ if folder.join("recipe.resolved.toml").is_file() => go_on(),
        _ => return error.into(),
    };
    anyhow::Error::new(Hinted { source: error.into(), hint })
}

/// Templates that print today's date get one that never changes, Llama 3's own default: a run that is resumed on
/// another day, or made again, shall read the same texts.
pub(crate) fn render_options() -> RenderOptions {
    let date = jiff::civil::date(2024, 7, 26);
    RenderOptions { now: Some(date.at(0, 0, 0, 0)), ..RenderOptions::default() }
}

/// What a finished run saved.
pub(crate) fn kind_of(path: &Path) -> &'static str {
    if is_adapter(path) { "adapter" } else { "model" }
}

/// Writes the run's page and says how it ended.
pub(crate) fn finish(
    outcome: &TrainingOutcome,
    folder: &Path,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let page = folder.join("report.html");
    truing_report::write_report(folder, &page)?;
    let printer = &context.printer;
    match outcome {
        TrainingOutcome::Finished { model, metrics } => {
            if as_json {
                printer.json(&json!({
                    "status": "finished", "model": model, "report": page, "metrics": metrics,
                }))?;
            } else {
                printer.line(format_args!("{:<7} {}", kind_of(model), model.display()))?;
                printer.line(format_args!("report  {}", page.display()))?;
            }
            Ok(Outcome::Fine)
        }
        TrainingOutcome::Interrupted { step } => {
            if as_json {
                printer.json(&json!({ "status": "interrupted", "step": step, "report": page }))?;
            } else {
                printer.line(format_args!("stopped after step {step}; --resume continues from there"))?;
            }
            Ok(Outcome::Interrupted)
        }
    }
}
