//! `truing quickstart`: the whole run on a small model, with data that comes with the program.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use truing_parallel::Solo;
use truing_stages::quickstart::{self, Quickstart, QuickstartError, QuickstartOutcome};

use super::model::ModelArguments;
use super::training::render_options;
use crate::outcome::{Outcome, WithHint};
use crate::printer::Style;
use crate::progress::{self, FanOut};
use crate::recorder::TensorBoard;
use crate::table::{Align, Table};
use crate::{Context, interrupt, machine};

const RECIPE: &str = include_str!("../../quickstart/recipe.toml");
const TRAIN: &[u8] = include_bytes!("../../quickstart/train.jsonl");
const HELD_OUT: &[u8] = include_bytes!("../../quickstart/heldout.jsonl");
const CHECKS: &[u8] = include_bytes!("../../quickstart/checks.jsonl");

/// Arguments of `truing quickstart`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Folder for everything that is made.
    #[arg(long, short, value_name = "FOLDER", default_value = "runs/quickstart")]
    output: PathBuf,
    /// Go on where an earlier one stopped.
    #[arg(long)]
    resume: bool,
    /// Take only this many optimiser steps.
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Change a setting of the recipe, for instance `--set learning_rate=2e-5`. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

/// Finds the model, measures, trains, measures, writes the page.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let folder = &arguments.output;
    let mut overrides = arguments.overrides.clone();
    overrides.extend(arguments.max_steps.map(|n_steps| format!("max_steps={n_steps}")));
    let quickstart = Quickstart {
        folder: folder.clone(),
        model: arguments.model.find(context)?,
        model_name: arguments.model.model.clone(),
        recipe: RECIPE,
        overrides,
        train: TRAIN,
        heldout: HELD_OUT,
        checks: CHECKS,
        render: render_options(),
        resume: arguments.resume,
    };
    let gigaflops = machine::measure_step_gigaflops();
    let look_at_machine = || machine::for_stages(context.n_threads, gigaflops);
    let stop = interrupt::stop_flag("stopping: what was done is saved")?;
    let (tensor_board, recording_error) = TensorBoard::new(&folder.join("sft").join("events"));
    let mut events = FanOut(vec![progress::for_this_terminal(&context.printer), Box::new(tensor_board)]);
    let probe = machine::ProcessProbe::new();
    let outcome = quickstart::run(&quickstart, &look_at_machine, &Solo, &probe, &mut events, &stop);
    drop(events);
    let outcome = match outcome {
        Err(error @ QuickstartError::FolderInUse { .. }) => {
            return Err(error).hint(|| "--resume goes on with it, --output names another folder".into());
        }
        other => other?,
    };
    if let Some(error) = recording_error.borrow_mut().take() {
        context.printer.warning(format_args!("TensorBoard events are incomplete: {error}"));
    }
    let page = folder.join("report.html");
    truing_report::write_report(folder, &page)?;
    finish(&outcome, arguments, context, &page)
}

fn finish(
    outcome: &QuickstartOutcome,
    arguments: &Arguments,
    context: &Context,
    page: &std::path::Path,
) -> anyhow::Result<Outcome> {
    let printer = &context.printer;
    let QuickstartOutcome::Finished { model, evaluations } = outcome else {
        if arguments.json {
            printer.json(&json!({ "status": "interrupted", "report": page }))?;
        } else {
            printer.line("stopped; `truing quickstart --resume` goes on")?;
        }
        return Ok(Outcome::Interrupted);
    };
    if arguments.json {
        printer.json(&json!({
            "status": "finished", "model": model, "report": page, "evaluations": evaluations,
        }))?;
        return Ok(Outcome::Fine);
    }
    let mut table =
        Table::new(&[("", Align::Left), ("held-out loss", Align::Right), ("answers right", Align::Right)]);
    for evaluation in evaluations {
        table.row([
            evaluation.label.clone(),
            evaluation.heldout_loss.map_or_else(String::new, |loss| format!("{loss:.3}")),
            format!("{} of {}", evaluation.n_right(), evaluation.answers.len()),
        ]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    printer.line("")?;
    printer.line(format_args!("model   {}", model.display()))?;
    printer.line(format_args!("report  {}", printer.styled(Style::Bold, page.display())))?;
    printer.line(format_args!("talk to it: truing chat --model {}", model.display()))?;
    Ok(Outcome::Fine)
}
