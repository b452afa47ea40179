//! `truing select`: from a pool of prompts to the chosen ones, as a recipe says.

use std::path::Path;

use clap::Args;
use serde_json::json;
use truing_stages::select::{self, SelectConfig, SelectOutcome, SelectPlan, SelectReport};
use truing_stages::training::Start;

use super::model;
use super::training::{self, RecipeArguments};
use crate::outcome::Outcome;
use crate::printer::Style;
use crate::progress;
use crate::table::{Align, Table};
use crate::{Context, interrupt, machine};

/// Lines of the template table that are shown; all of it is in the run's folder.
const N_TEMPLATE_LINES: usize = 40;

/// Arguments of `truing select`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    /// Continue an interrupted run; start the run if the folder holds none.
    #[arg(long)]
    resume: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

/// Reads the recipe, checks it, selects.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let plan = prepare(&arguments.recipe, context)?;
    let stop = interrupt::stop_flag("stopping at the end of this part")?;
    let start = if arguments.resume { Start::Resume } else { Start::Fresh };
    let probe = machine::ProcessProbe::new();
    let mut events = progress::for_this_terminal(&context.printer);
    let outcome = select::run(&plan, start, &probe, events.as_mut(), &stop)
        .map_err(|error| training::with_advice(error, &plan.config.output_dir, arguments.resume))?;
    drop(events);
    match outcome {
        SelectOutcome::Finished(report) => {
            let folder = &plan.config.output_dir;
            let page = folder.join("coverage.html");
            truing_report::write_coverage(folder, &page)?;
            show(&report, &page, arguments.json, context)
        }
        SelectOutcome::Interrupted if arguments.json => {
            context.printer.json(&json!({ "status": "interrupted" }))?;
            Ok(Outcome::Interrupted)
        }
        SelectOutcome::Interrupted => {
            context.printer.line("stopped; --resume continues from there")?;
            Ok(Outcome::Interrupted)
        }
    }
}

/// Checks a recipe and says what would be done; what it takes depends on the pool, which is not read here.
pub(crate) fn show_recipe(
    recipe: &RecipeArguments,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let plan = prepare(recipe, context)?;
    let parts = plan.parts();
    if as_json {
        context.printer.json(&json!({ "parts": parts }))?;
    } else {
        for (number, part) in parts.iter().enumerate() {
            context.printer.line(format_args!("{}. {part}", number + 1))?;
        }
    }
    Ok(Outcome::Fine)
}

fn prepare(arguments: &RecipeArguments, context: &Context) -> anyhow::Result<SelectPlan> {
    let path = &arguments.recipe;
    let mut config = SelectConfig::from_toml(&training::read_recipe(path)?, path, &arguments.overrides)?;
    let name = &mut config.embedding.model_name_or_path;
    if !name.is_empty() {
        *name = model::find(name, context)?.to_string_lossy().into_owned();
    }
    Ok(SelectPlan::resolve(
        config,
        machine::for_stages(context.n_threads, machine::measure_step_gigaflops()),
    )?)
}

fn show(report: &SelectReport, page: &Path, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
    let (printer, summary) = (&context.printer, &report.summary);
    if as_json {
        printer.json(&json!({
            "status": "finished",
            "selected": report.selected,
            "page": page,
            "n_rows": summary.n_rows,
            "n_kept": summary.n_kept,
            "n_tasks": summary.n_tasks,
            "layers": summary.layers,
            "n_templates": report.n_templates,
            "n_triplets": report.n_triplets,
        }))?;
        return Ok(Outcome::Fine);
    }
    printer.line(printer.styled(Style::Bold, "templates"))?;
    for line in report.template_table.lines().take(N_TEMPLATE_LINES) {
        printer.line(line)?;
    }
    printer.line("")?;
    let mut table = Table::new(&[
        ("layer", Align::Left),
        ("threshold", Align::Right),
        ("dropped", Align::Right),
        ("left", Align::Right),
    ]);
    let mut left = summary.n_rows;
    for layer in &summary.layers {
        left = left.saturating_sub(layer.n_dropped);
        let threshold = layer.threshold.map_or_else(String::new, |threshold| format!("{threshold:.3}"));
        table.row([layer.layer.to_string(), threshold, layer.n_dropped.to_string(), left.to_string()]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    printer.line("")?;
    for note in &summary.notes {
        printer.line(note)?;
    }
    printer.line(format_args!("kept      {} of {} prompts", summary.n_kept, summary.n_rows))?;
    if summary.n_tasks > 0 {
        printer.line(format_args!("tasks     {}", summary.n_tasks))?;
    }
    printer.line(format_args!("selected  {}", report.selected.display()))?;
    printer.line(format_args!("coverage  {}", page.display()))?;
    Ok(Outcome::Fine)
}
