//! `truing quickstart`: the whole run on a small model, with data that comes with the program.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use truing_parallel::Solo;
use truing_stages::Ended;

use super::model::ModelArguments;
use super::stage::render_options;
use crate::local_engine::LocalEngine;
use crate::outcome::{Outcome, WithHint};
use crate::printer::Style;
use crate::progress::{self, FanOut};
use crate::quickstart::{self, Quickstart, QuickstartError, QuickstartOutcome};
use crate::recorder::TensorBoard;
use crate::table::{Align, Table};
use crate::{Context, interrupt, machine};

/// The stages' recipes.
const RECIPES: [(&str, &str); 3] = [
    ("sft", include_str!("../../../../quickstart/sft.toml")),
    ("reward", include_str!("../../../../quickstart/reward.toml")),
    ("grpo", include_str!("../../../../quickstart/grpo.toml")),
];
/// What the recipes name, and what is measured on.
const DATA: [(&str, &[u8]); 6] = [
    ("data/train.jsonl", include_bytes!("../../../../quickstart/train.jsonl")),
    ("data/heldout.jsonl", include_bytes!("../../../../quickstart/heldout.jsonl")),
    ("data/checks.jsonl", include_bytes!("../../../../quickstart/checks.jsonl")),
    ("data/preferences.jsonl", include_bytes!("../../../../quickstart/preferences.jsonl")),
    ("data/prompts.jsonl", include_bytes!("../../../../quickstart/prompts.jsonl")),
    ("data/heldout_prompts.jsonl", include_bytes!("../../../../quickstart/heldout_prompts.jsonl")),
];

/// Arguments of `truing quickstart`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Output folder.
    #[arg(long, short, value_name = "FOLDER", default_value = "runs/quickstart")]
    output: PathBuf,
    /// Continue an interrupted quickstart.
    #[arg(long)]
    resume: bool,
    /// Run at most this many steps in each stage.
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Override a setting of a stage's recipe, for instance `--set sft.learning_rate=2e-5` or
    /// `--set grpo.max_steps=30`. Without a stage it applies to `sft`. May be given several times.
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    overrides: Vec<String>,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

/// The stage that a change is for, and the change.
fn stage_of(typed: &str) -> (String, String) {
    match typed.split_once('.') {
        Some((stage, change)) if RECIPES.iter().any(|(name, _)| *name == stage) => {
            (stage.to_owned(), change.to_owned())
        }
        _ => ("sft".to_owned(), typed.to_owned()),
    }
}

/// Finds the model, measures, trains, measures, writes the page.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let folder = &arguments.output;
    let mut overrides: Vec<(String, String)> = arguments.overrides.iter().map(|o| stage_of(o)).collect();
    if let Some(n_steps) = arguments.max_steps {
        let of_stage = |(stage, _): &(&str, &str)| ((*stage).to_owned(), format!("max_steps={n_steps}"));
        overrides.extend(RECIPES.iter().map(of_stage));
    }
    let quickstart = Quickstart {
        folder: folder.clone(),
        model: arguments.model.find(context)?,
        model_name: arguments.model.model.clone(),
        recipes: &RECIPES,
        overrides,
        data: &DATA,
        render: render_options(),
        resume: arguments.resume,
    };
    let gigaflops = machine::measure_step_gigaflops();
    let look_at_machine = || machine::for_stages(context.n_threads, gigaflops);
    let stop = interrupt::stop_flag("stopping: what was done is saved");
    let (tensor_board, recording_error) = TensorBoard::new(&folder.join("sft").join("events"));
    let mut events = FanOut(vec![progress::for_this_terminal(&context.printer), Box::new(tensor_board)]);
    let probe = machine::ProcessProbe::new();
    let groups = Solo::groups();
    let outcome =
        quickstart::run::<LocalEngine>(&quickstart, &look_at_machine, &groups, &probe, &mut events, &stop);
    drop(events);
    let outcome = match outcome {
        Err(error @ QuickstartError::FolderInUse { .. }) => {
            return Err(error).hint(|| "--resume continues it; --output names another folder".into());
        }
        other => other?,
    };
    if let Some(error) = recording_error.borrow_mut().take() {
        context.printer.warning(format_args!("TensorBoard events are incomplete: {error}"));
    }
    let page = folder.join("report.html");
    truing_report::write_report(folder, &page)?;
    finish(outcome, arguments, context, &page)
}

fn finish(
    ended: Ended<QuickstartOutcome>,
    arguments: &Arguments,
    context: &Context,
    page: &std::path::Path,
) -> anyhow::Result<Outcome> {
    let printer = &context.printer;
    let Ended::Finished(QuickstartOutcome { model, evaluations }) = ended else {
        if arguments.json {
            printer.json(&json!({ "status": "interrupted", "report": page }))?;
        } else {
            printer.line("stopped; `truing quickstart --resume` continues")?;
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
    for evaluation in &evaluations {
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
