//! `truing quickstart`: the whole run on a small model, with data that comes with the program.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use truing_eval::pipeline::Evaluation;
use truing_parallel::Solo;
use truing_stages::Ended;
use truing_statistics::Estimate;

use super::model::ModelArguments;
use super::stage::render_options;
use crate::local_engine::LocalEngine;
use crate::outcome::{Outcome, WithHint};
use crate::printer::{Printer, Style};
use crate::progress::{self, FanOut};
use crate::quickstart::{self, Quickstart, QuickstartError, QuickstartOutcome};
use crate::recorder::TensorBoard;
use crate::table::{Align, Table};
use crate::units::one_line;
use crate::{Context, interrupt, machine};

/// The stages' recipes.
const RECIPES: [(&str, &str); 3] = [
    ("sft", include_str!("../../../../quickstart/sft.toml")),
    ("reward", include_str!("../../../../quickstart/reward.toml")),
    ("grpo", include_str!("../../../../quickstart/grpo.toml")),
];
/// What the recipes name, and what is measured on.
const DATA: [(&str, &[u8]); 8] = [
    ("data/train.jsonl", include_bytes!("../../../../quickstart/train.jsonl")),
    ("data/heldout.jsonl", include_bytes!("../../../../quickstart/heldout.jsonl")),
    ("data/checks.jsonl", include_bytes!("../../../../quickstart/checks.jsonl")),
    ("data/preferences.jsonl", include_bytes!("../../../../quickstart/preferences.jsonl")),
    ("data/instructions.jsonl", include_bytes!("../../../../quickstart/instructions.jsonl")),
    ("data/heldout_instructions.jsonl", include_bytes!("../../../../quickstart/heldout_instructions.jsonl")),
    ("data/knowledge.jsonl", include_bytes!("../../../../quickstart/knowledge.jsonl")),
    ("data/open_questions.jsonl", include_bytes!("../../../../quickstart/open_questions.jsonl")),
];

/// Characters of an answer that are printed.
const N_SHOWN: usize = 300;

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
    /// Random seed of all stages.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
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
    let of_all = [("max_steps", arguments.max_steps), ("seed", arguments.seed)];
    for (key, value) in of_all.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        overrides.extend(RECIPES.iter().map(|(stage, _)| ((*stage).to_owned(), format!("{key}={value}"))));
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
    let Ended::Finished(QuickstartOutcome { model, evaluations, reward_accuracy }) = ended else {
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
            "reward_accuracy": reward_accuracy,
        }))?;
        return Ok(Outcome::Fine);
    }
    for line in scores(&evaluations).lines() {
        printer.line(line)?;
    }
    printer.line("")?;
    for line in gains(&evaluations).lines() {
        printer.line(line)?;
    }
    printer.line("")?;
    if let Some(accuracy) = reward_accuracy {
        printer.line(format_args!(
            "reward model: {accuracy:.2} of held-out pairs ranked right (chance: 0.50)"
        ))?;
        printer.line("")?;
    }
    open_answers(&evaluations, printer)?;
    printer.line(format_args!("model   {}", model.display()))?;
    printer.line(format_args!("report  {}", printer.styled(Style::Bold, page.display())))?;
    printer.line(format_args!("talk to it: truing chat --model {}", model.display()))?;
    Ok(Outcome::Fine)
}

/// Held-out loss and the shares of each set that are right, after each stage.
fn scores(evaluations: &[Evaluation]) -> Table {
    let labels = evaluations.iter().map(|evaluation| (evaluation.label.as_str(), Align::Right));
    let columns: Vec<(&str, Align)> =
        [("on held-out items", Align::Left)].into_iter().chain(labels).collect();
    let mut table = Table::new(&columns);
    let loss = |evaluation: &Evaluation| {
        evaluation.heldout_loss.map_or_else(String::new, |loss| format!("{loss:.3}"))
    };
    let row = |name: String, cells: Vec<String>| [vec![name], cells].concat();
    table.row(row("loss of conversations".into(), evaluations.iter().map(loss).collect()));
    for first in evaluations.first().iter().flat_map(|evaluation| evaluation.sets()) {
        let share = |evaluation: &Evaluation| {
            let score = evaluation.sets().into_iter().find(|score| score.set == first.set);
            score.map_or_else(String::new, |score| format!("{:.2}", score.share()))
        };
        table.row(row(format!("{} (of {})", first.set, first.n), evaluations.iter().map(share).collect()));
    }
    table
}

/// The change of each set by each stage, with its interval.
fn gains(evaluations: &[Evaluation]) -> Table {
    let mut table = Table::new(&[
        ("change of the share right", Align::Left),
        ("", Align::Left),
        ("gain", Align::Right),
        ("95 % interval", Align::Left),
        ("", Align::Left),
    ]);
    for pair in evaluations.windows(2) {
        let [earlier, later] = pair else { continue };
        for score in later.sets() {
            let passes = later.passes_since(earlier, score.set);
            let Some(gain) = Estimate::difference_of_paired_shares(passes) else { continue };
            let meaning = match (gain.is_shown(), gain.value > 0.0) {
                (false, _) => "no change shown",
                (true, true) => "better",
                (true, false) => "worse",
            };
            table.row([
                score.set.to_owned(),
                later.label.clone(),
                format!("{:+.2}", gain.value),
                format!("{:+.2} to {:+.2}", gain.low, gain.high),
                meaning.to_owned(),
            ]);
        }
    }
    table
}

/// The first open question, answered by the first and the last model.
fn open_answers(evaluations: &[Evaluation], printer: &Printer) -> anyhow::Result<()> {
    let [before, .., after] = evaluations else { return Ok(()) };
    let Some(question) = before.open_answers.first() else { return Ok(()) };
    printer.line(format_args!("prompt: {}", question.prompt))?;
    for evaluation in [before, after] {
        if let Some(answer) = evaluation.open_answers.iter().find(|answer| answer.id == question.id) {
            printer.line(format_args!("  {}: {}", evaluation.label, one_line(&answer.answer, N_SHOWN)))?;
        }
    }
    printer.line("")?;
    Ok(())
}
