//! What every command does that runs a stage: recipe, plan, work, page.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};
use truing_model::is_adapter;
use truing_stages::{
    Ended, PlanContext, Probe, Recipe, RecipeError, RunContext, RunError, Stage, StageError, StagePlan,
    Start, TrainedModel, recipe,
};
use truing_store::{RunDirectory, StoreError};
use truing_types::{EventSink, StageName};

use super::amount::{amount_json, amount_text};
use super::merge;
use super::model;
use super::place::at_its_place;
use super::recipe_arguments::RecipeArguments;
use crate::local_engine::{self, DeviceChoice, LocalEngine};
use crate::metrics_hook::MetricsHook;
use crate::outcome::{Hinted, Outcome, WithHint};
use crate::printer::{Style, clean_path};
use crate::progress::{self, FanOut};
use crate::ranks::Ranks;
use crate::recorder::TensorBoard;
use crate::rendering::render_options;
use crate::table::{Align, Table};
use crate::{Context, asking, interrupt, machine};

/// What is done with a recipe. Apart from [`RecipeArguments`], because clap finds out by a struct's own arguments
/// whether an optional one is given.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Print the plan and stop.
    #[arg(long, conflicts_with = "resume")]
    plan: bool,
    /// Continue an interrupted run; start the run if the folder holds none.
    #[arg(long)]
    resume: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also send metrics to this shell command, for instance to an experiment tracker: one JSON object per line on its
    /// standard input, `{"step": 1, "metrics": {"loss": 2.1}}`. The variable TRUING_RUN names the run's folder.
    #[arg(long, value_name = "COMMAND", conflicts_with = "plan")]
    metrics_command: Option<String>,
}

/// Arguments of a command that does nothing but run its stage.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) recipe: RecipeArguments,
    #[command(flatten)]
    pub(crate) run: RunArguments,
}

/// How the runs of a stage stop and continue.
#[derive(Debug)]
pub(crate) struct RunKind {
    /// Printed when the user stops the run.
    pub(crate) stopping: &'static str,
    /// Printed at the end of a stopped run without steps.
    pub(crate) stopped: &'static str,
    /// Whether the same command continues a run whose folder is there, also without `--resume`: a stage whose answers
    /// are kept as they arrive. Another recipe or other inputs are refused either way.
    pub(crate) continues: bool,
    /// Whether the stage trains: its metrics go to TensorBoard files, and a stopped run has a report as well.
    pub(crate) trains: bool,
}

impl RunKind {
    /// Runs that train.
    pub(crate) const TRAINING: Self = Self {
        stopping: "stopping: saving a checkpoint of the last complete step",
        stopped: "stopped; --resume continues from there",
        continues: false,
        trains: true,
    };
}

/// A stage as its command needs it.
pub(crate) trait StageCommand: Stage {
    /// How its runs stop and continue.
    const KIND: RunKind = RunKind::TRAINING;

    /// Prints a plan.
    fn print_plan(plan: &Self::Plan, context: &Context) -> anyhow::Result<()> {
        print_rows(plan, context)
    }

    /// A plan as one JSON object.
    fn plan_json(plan: &Self::Plan) -> Value {
        rows_json(plan)
    }

    /// Says what is about to be done.
    fn announce(plan: &Self::Plan, context: &Context) {
        context.printer.note(plan.summary());
    }

    /// What to do about a run that cannot start or continue.
    fn advice(error: &StageError, folder: &Path) -> Option<String> {
        advice(error, folder)
    }

    /// Writes the page of a finished run and prints how it ended.
    fn finish(
        outcome: Self::Outcome,
        folder: &Path,
        as_json: bool,
        context: &Context,
    ) -> anyhow::Result<Outcome>;
}

/// Prints the table of a plan and its summary.
pub(crate) fn print_rows(plan: &impl StagePlan, context: &Context) -> anyhow::Result<()> {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    for row in plan.table() {
        table.row([row.name, amount_text(row.amount)]);
    }
    for line in table.lines() {
        context.printer.line(line)?;
    }
    context.printer.line("")?;
    Ok(context.printer.line(context.printer.styled(Style::Bold, plan.summary()))?)
}

/// The table of a plan as one JSON object.
pub(crate) fn rows_json(plan: &impl StagePlan) -> Value {
    let rows: Map<String, Value> =
        plan.table().into_iter().map(|row| (row.name, amount_json(row.amount))).collect();
    json!({ "fits": true, "rows": rows })
}

/// Reads the recipe, plans, runs, and says how it ended.
pub(crate) fn run<S: StageCommand>(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    run_recipe::<S>(&arguments.recipe, &arguments.run, context)
}

/// [`run`] for a command whose recipe is optional.
pub(crate) fn run_recipe<S: StageCommand>(
    recipe: &RecipeArguments,
    arguments: &RunArguments,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let config = read_config::<S>(recipe, context)?;
    choose_device(&config, recipe, context)?;
    let inputs = config.input_settings();
    run_config::<S>(config, arguments, context).map_err(|error| at_its_place(error, &inputs, recipe))
}

/// Takes the recipe's device and number format, unless the command line names them.
fn choose_device(config: &impl Recipe, recipe: &RecipeArguments, context: &Context) -> anyhow::Result<()> {
    let ((device, compute_dtype), typed) = (config.device(), context.device.clone());
    let choice = DeviceChoice {
        device: typed.device.clone().or(device),
        compute_dtype: typed.compute_dtype.or(compute_dtype),
        ..typed
    };
    local_engine::choose(&choice, &context.environment).map_err(|error| {
        let text = fs::read_to_string(&recipe.recipe).unwrap_or_default();
        let place = recipe::place_of("device", &text, &recipe.recipe, &recipe.overrides);
        match error.downcast::<Hinted>() {
            Ok(Hinted { source, hint }) => {
                anyhow::Error::new(Hinted { source: anyhow::anyhow!("{place}: {source:#}"), hint })
            }
            Err(error) => anyhow::anyhow!("{place}: {error:#}"),
        }
    })
}

/// [`run_recipe`] with settings that were read already.
pub(crate) fn run_config<S: StageCommand>(
    config: S::Config,
    arguments: &RunArguments,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let ranks = Ranks::start(S::KIND.trains, context)?;
    let ended = run_on_ranks::<S>(config, arguments, &ranks, context);
    ranks.end(ended)
}

/// [`run_config`] as one of the ranks does it. Rank 0 alone checks and describes the run's folder.
fn run_on_ranks<S: StageCommand>(
    config: S::Config,
    arguments: &RunArguments,
    ranks: &Ranks,
    context: &Context,
) -> anyhow::Result<Outcome> {
    if !arguments.plan && ranks.is_first() {
        check_folder::<S>(config.output_dir(), arguments.resume)?;
    }
    let purpose = if arguments.plan { Purpose::Plan } else { Purpose::Run };
    let prepared = match prepare_on::<S>(config, purpose, ranks, context) {
        Ok(prepared) => prepared,
        Err(error) => return refuse(error, arguments.json, context),
    };
    if arguments.plan {
        return show::<S>(&prepared, arguments.json, context);
    }
    let Prepared { plan, inputs, folder, .. } = prepared;
    ranks.check_same(|| Ok(S::content_key::<LocalEngine>(&plan, &inputs)?.to_string()))?;
    S::announce(&plan, context);
    let stop = interrupt::stop_flag(S::KIND.stopping);
    let mut sinks: Vec<Box<dyn EventSink>> = vec![progress::for_this_terminal(&context.printer)];
    let (mut recording_error, mut hook_error) = (None, None);
    if let Some(command) = &arguments.metrics_command
        && ranks.is_first()
    {
        let (hook, error) =
            MetricsHook::start(command, &folder).context("cannot start `--metrics-command`")?;
        sinks.push(Box::new(hook));
        hook_error = Some(error);
    }
    if S::KIND.trains && ranks.is_first() {
        let (tensor_board, error) = TensorBoard::new(&folder.join("events"));
        sinks.push(Box::new(tensor_board));
        recording_error = Some(error);
    }
    let mut events = FanOut(sinks);
    let mut chat_models = Vec::new();
    for config in S::chat_models(&plan) {
        let chat_context = asking::chat_context(&config, &stop, context)?;
        chat_models.push(config.open::<LocalEngine>(&chat_context, &mut events)?);
    }
    let probe = machine::ProcessProbe::new();
    let start = if arguments.resume { Start::Resume } else { Start::Fresh };
    // This binary starts itself again as the sandbox's child.
    let program = std::env::current_exe().ok();
    let run_context = RunContext {
        chat_models,
        sandbox_program: program.as_deref(),
        ..RunContext::new(start, ranks.groups(), &probe as &dyn Probe, &mut events, &stop)
    };
    let ended = S::run::<LocalEngine>(&plan, &inputs, run_context).map_err(|error| {
        match S::advice(&error, &folder) {
            Some(hint) => anyhow::Error::new(Hinted { source: error.into(), hint }),
            None => error.into(),
        }
    })?;
    drop(events);
    if let Some(error) = recording_error.and_then(|error| error.borrow_mut().take()) {
        context.printer.warning(format_args!("TensorBoard events are incomplete: {error}"));
    }
    if let Some(error) = hook_error.and_then(|error| error.take()) {
        context.printer.warning(format_args!("the metrics command did not take all metrics: {error}"));
    }
    match ended {
        Ended::Finished(_) if !ranks.is_first() => Ok(Outcome::Fine),
        Ended::Interrupted { .. } if !ranks.is_first() => Ok(Outcome::Interrupted),
        Ended::Finished(outcome) => S::finish(outcome, &folder, arguments.json, context),
        Ended::Interrupted { step } => interrupted::<S>(step, &folder, arguments.json, context),
    }
}

/// Checks, before anything is read, that the run's folder can be used.
fn check_folder<S: StageCommand>(folder: &Path, resume: bool) -> anyhow::Result<()> {
    let blocks = |error: &StoreError| !(S::KIND.continues && matches!(error, StoreError::RunExists { .. }));
    // Stages that ask models may have the file with their replies in the folder.
    let check_empty = |()| if S::KIND.trains { RunDirectory::check_empty(folder) } else { Ok(()) };
    if !resume
        && let Err(error) = RunDirectory::check_free(folder).and_then(check_empty)
        && blocks(&error)
    {
        let error = StageError::from(RunError::from(error));
        return Err(match S::advice(&error, folder) {
            Some(hint) => anyhow::Error::new(Hinted { source: error.into(), hint }),
            None => error.into(),
        });
    }
    let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    // A folder that is a file has an error of its own.
    if existing == folder && !existing.is_dir() {
        return Ok(());
    }
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let refused = |error: std::io::Error| {
        let reason = match error.kind() {
            // As `/proc` says it.
            ErrorKind::NotFound => "no folder can be made there".to_owned(),
            kind => kind.to_string(),
        };
        let expected = format!("another folder: {} cannot be written to ({reason})", clean_path(existing));
        StageError::from(RunError::BadSetting { key: "output_dir", found: clean_path(folder), expected })
    };
    tempfile::tempdir_in(existing).map_err(refused)?;
    Ok(())
}

fn interrupted<S: StageCommand>(
    step: Option<u64>,
    folder: &Path,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let mut fields = json!({ "status": "interrupted" });
    if S::KIND.trains {
        fields["report"] = json!(write_report(folder)?);
    }
    if let Some(step) = step {
        fields["step"] = step.into();
    }
    match step {
        _ if as_json => context.printer.json(&fields)?,
        Some(step) => {
            context.printer.line(format_args!("stopped after step {step}; --resume continues from there"))?;
        }
        None => context.printer.line(S::KIND.stopped)?,
    }
    Ok(Outcome::Interrupted)
}

/// Makes the plan of a recipe for `n_ranks` ranks and prints it; a recipe that cannot fit is a finding, with what
/// would.
pub(crate) fn show_recipe<S: StageCommand>(
    recipe: &RecipeArguments,
    n_ranks: usize,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let config = read_config::<S>(recipe, context)?;
    choose_device(&config, recipe, context)?;
    let inputs = config.input_settings();
    match prepare_on::<S>(config, Purpose::Plan, &Ranks::planned(n_ranks), context) {
        Ok(prepared) => show::<S>(&prepared, as_json, context),
        Err(error) => refuse(error, as_json, context).map_err(|error| at_its_place(error, &inputs, recipe)),
    }
}

fn show<S: StageCommand>(
    prepared: &Prepared<S>,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let Prepared { plan, inputs, lacks_weights, .. } = prepared;
    let warnings = plan.warnings();
    if as_json {
        let mut fields = S::plan_json(plan);
        // The key is of the contents of all files.
        fields["content_key"] = match lacks_weights {
            true => Value::Null,
            false => json!(S::content_key::<LocalEngine>(plan, inputs)?.to_string()),
        };
        fields["warnings"] = json!(warnings);
        context.printer.json(&fields)?;
    } else {
        S::print_plan(plan, context)?;
        warnings.iter().for_each(|warning| context.printer.warning(warning));
    }
    Ok(Outcome::Fine)
}

/// Says what would fit, where `error` is that a run does not; hands every other error on.
fn refuse(error: anyhow::Error, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
    let Some(refusal @ StageError::DoesNotFit { source, hints }) = error.downcast_ref() else {
        return Err(error);
    };
    if as_json {
        let text = source.to_string();
        context.printer.json(&json!({ "fits": false, "reason": text, "would_fit": hints }))?;
    } else {
        context.printer.line(context.printer.styled(Style::Red, "this run does not fit"))?;
        context.printer.line(refusal)?;
    }
    Ok(Outcome::Finding)
}

/// Reads a recipe. A number format on the command line takes the place of the recipe's, so that a run which began with
/// it is not resumed in another one.
pub(crate) fn read_config<S: StageCommand>(
    arguments: &RecipeArguments,
    context: &Context,
) -> anyhow::Result<S::Config> {
    let path = &arguments.recipe;
    let text = read_toml_recipe(path)?;
    let mut overrides = arguments.overrides.clone();
    if let Some(dtype) = context.device.compute_dtype
        && recipe::has_setting::<S::Config>("compute_dtype")
    {
        overrides.push(format!("compute_dtype={dtype}"));
    }
    let config = S::Config::from_toml(&text, path, &overrides)
        .map_err(|error| with_command_of_stage(error, S::NAME, path))?;
    // Several stages share their settings. This one is named before any model is looked for.
    if config.stage() != S::NAME {
        let error = StageError::from(RunError::OtherStage { found: config.stage() });
        return Err(at_its_place(error.into(), &config.input_settings(), arguments));
    }
    Ok(config)
}

/// Finds and reads models and data, and makes the plan; returns it with the inputs and the run's folder.
pub(crate) fn prepare<S: StageCommand>(
    config: S::Config,
    context: &Context,
) -> anyhow::Result<(S::Plan, S::Inputs, PathBuf)> {
    let Prepared { plan, inputs, folder, .. } =
        prepare_on::<S>(config, Purpose::Run, &Ranks::solo(), context)?;
    Ok((plan, inputs, folder))
}

/// What a stage is prepared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To be shown. No value of a weight is needed, and the time is estimated.
    Plan,
    /// To be run.
    Run,
}

/// A stage that is ready.
struct Prepared<S: Stage> {
    plan: S::Plan,
    inputs: S::Inputs,
    /// The run's.
    folder: PathBuf,
    /// Whether of some model only the headers are here.
    lacks_weights: bool,
}

/// [`prepare`] on every rank of a run.
fn prepare_on<S: StageCommand>(
    mut config: S::Config,
    purpose: Purpose,
    ranks: &Ranks,
    context: &Context,
) -> anyhow::Result<Prepared<S>> {
    // Before any model is looked for or fetched.
    S::check(&config)?;
    let mut lacks_weights = false;
    ranks.first_before_others(|| {
        config.find_models(&mut |name| match purpose {
            Purpose::Plan => model::find_to_plan(name, &mut lacks_weights, context),
            Purpose::Run => model::find(name, context),
        })?;
        config.find_data(&mut |name| model::find_data(name, context))
    })?;
    if purpose == Purpose::Run {
        ranks.first_before_others(|| {
            // The first rank writes.
            match ranks.is_first().then(|| S::disk_space(&config)).transpose()?.flatten() {
                Some(disk) => Ok(disk.require()?),
                None => Ok(()),
            }
        })?;
    }
    let folder = config.output_dir().to_path_buf();
    let mut events = progress::for_this_terminal(&context.printer);
    let machine = || {
        let mut machine = ranks.machine(context.n_threads);
        if purpose == Purpose::Plan {
            machine.gigabytes_per_second = Some(machine::measure_gigabytes_per_second());
        }
        local_engine::with_memory_of_device(machine)
    };
    let mut planning = PlanContext { render: render_options(), machine: &machine, events: events.as_mut() };
    let (plan, inputs) = S::prepare::<LocalEngine>(config, &mut planning)?;
    Ok(Prepared { plan, inputs, folder, lacks_weights })
}

/// Adds to the error of a recipe without its stage the command that runs it, where that is not the command of `stage`.
fn with_command_of_stage(error: RecipeError, stage: StageName, path: &Path) -> anyhow::Error {
    let RecipeError::MissingStage { likely, .. } = &error else { return error.into() };
    if *likely == stage {
        return error.into();
    }
    let hint = format!("then run it with `{} {}`", likely.info().command, path.display());
    anyhow::Error::new(Hinted { source: error.into(), hint })
}

/// The text of a recipe that has to be a TOML file.
pub(crate) fn read_toml_recipe(path: &Path) -> anyhow::Result<String> {
    let text = read_recipe(path)?;
    if !path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
        return Ok(text);
    }
    let source = anyhow::anyhow!("{} is not a recipe: recipes are TOML files", path.display());
    let hint = match merge::is_of_mergekit(&text) {
        true => format!("`truing merge {}` merges by a file of mergekit", path.display()),
        false => format!("`truing import {}` makes a recipe of a YAML file of another tool", path.display()),
    };
    Err(anyhow::Error::new(Hinted { source, hint }))
}

/// The text of a recipe.
pub(crate) fn read_recipe(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))
        .hint(|| "a recipe is a TOML file; the folder `recipes/` has examples".into())
}

/// What to do about a run that cannot start or continue.
fn advice(error: &StageError, folder: &Path) -> Option<String> {
    let resume_hint = || {
        format!(
            "{} holds the run; --resume continues it; `--set output_dir=...` starts another",
            folder.display()
        )
    };
    Some(match error {
        StageError::Run(
            RunError::RecipeChanged { .. } | RunError::InputsChanged { .. } | RunError::FileChanged { .. },
        ) => {
            "--resume needs the recipe, data and model of its start; `--set output_dir=...` starts another run"
                .to_owned()
        }
        StageError::Run(RunError::TooShort { .. }) => "`--set output_dir=...` starts another run".to_owned(),
        StageError::Run(RunError::NothingToExtend { .. }) => format!(
            "`--set model_name_or_path={} --set output_dir=...` trains its model further",
            folder.join("model").display()
        ),
        StageError::Run(RunError::Store(StoreError::RunExists { .. })) => resume_hint(),
        StageError::Run(RunError::Store(StoreError::Locked { .. })) => {
            "wait until that process has ended, or stop it; `--set output_dir=...` starts another run".to_owned()
        }
        StageError::Run(RunError::Store(
            StoreError::NotARun { .. }
            | StoreError::Occupied { .. }
            | StoreError::NotEmpty { .. }
            | StoreError::Foreign { .. }
            | StoreError::NotADirectory { .. },
        )) => "`--set output_dir=...` names another folder".to_owned(),
        error if is_disk_full(error) => {
            "the disk is full; what was saved before is kept: free some space, then --resume continues".to_owned()
        }
        // A resume has just found it so.
        StageError::Run(error) if is_damage(error) => {
            format!("{} is damaged; `--set output_dir=...` starts another run", folder.display())
        }
        _ if folder.join("recipe.resolved.toml").is_file() => resume_hint(),
        _ => return None,
    })
}

/// Whether there was no room for a file.
fn is_disk_full(error: &StageError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether a file of a run's folder is missing or is not what was saved.
fn is_damage(error: &RunError) -> bool {
    match error {
        RunError::Checkpoint(_) | RunError::Json { .. } | RunError::Read { .. } => true,
        RunError::Store(error) => matches!(
            error,
            StoreError::MissingManifest { .. }
                | StoreError::BadManifest { .. }
                | StoreError::UnknownFormatVersion { .. }
                | StoreError::MissingFile { .. }
                | StoreError::SizeMismatch { .. }
                | StoreError::DigestMismatch { .. }
                | StoreError::BadMetricsLine { .. }
                | StoreError::Json { .. }
        ),
        _ => false,
    }
}

/// Writes the page of a run.
fn write_report(folder: &Path) -> anyhow::Result<PathBuf> {
    let page = folder.join("report.html");
    truing_report::write_report(folder, &page)?;
    Ok(page)
}

/// Writes the page of a run that trained a model, and prints where everything is. `more` are further lines, with names.
pub(crate) fn finish_training(
    trained: &TrainedModel,
    more: &[(&str, String)],
    folder: &Path,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let page = write_report(folder)?;
    let printer = &context.printer;
    let TrainedModel { model, metrics, nothing_learnt } = trained;
    if as_json {
        printer.json(&json!({
            "status": "finished", "model": model, "report": page, "metrics": metrics,
            "nothing_learnt": nothing_learnt,
        }))?;
    } else {
        let kind = if is_adapter(model) { "adapter" } else { "model" };
        let own = [(kind, clean_path(model)), ("report", clean_path(&page))];
        let lines: Vec<_> = own.iter().chain(more).collect();
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, text) in lines {
            printer.line(format_args!("{name:<width$}  {text}"))?;
        }
    }
    Ok(if nothing_learnt.is_some() { Outcome::Finding } else { Outcome::Fine })
}
