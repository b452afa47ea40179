//! `truing grpo`: reinforcement learning from groups of completions, as a recipe says.

use std::path::Path;

use serde_json::json;
use truing_parallel::Solo;
use truing_stages::grpo::{self, GrpoConfig, GrpoInputs, GrpoOutcome, GrpoPlan};

use super::training::{self, RecipeArguments};
use super::{model, plan};
use crate::outcome::Outcome;
use crate::printer::Style;
use crate::table::{Align, Table};
use crate::{Context, asking, interrupt, machine, progress};

/// Reads the recipe, plans, trains, writes the page.
pub(crate) fn run(arguments: &training::Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let (plan, inputs) = match prepare(&arguments.recipe, context) {
        Ok(prepared) => prepared,
        Err(error) => return plan::refuse(error, arguments.json, context),
    };
    if arguments.plan {
        return show(&plan, arguments.json, context);
    }
    let folder = plan.config.output_dir.clone();
    context.printer.note(plan.summary());
    let stop = interrupt::stop_flag("stopping: the run is saved as it was after the last whole step")?;
    let judge = match &plan.config.judge {
        Some(judge) => {
            let surroundings = asking::surroundings(&judge.model, &stop, context)?;
            let mut events = progress::for_this_terminal(&context.printer);
            Some(judge.model.open(&surroundings, events.as_mut())?)
        }
        None => None,
    };
    let outcome = training::watched(&folder, arguments.resume, context, |start, probe, events| {
        grpo::run_with_judge(&plan, &inputs, start, &Solo, probe, events, &stop, judge)
    })?;
    finish(&outcome, &folder, arguments.json, context)
}

/// Prints the plan of a recipe.
pub(crate) fn show_recipe(
    recipe: &RecipeArguments,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    match prepare(recipe, context) {
        Ok((plan, _)) => show(&plan, as_json, context),
        Err(error) => plan::refuse(error, as_json, context),
    }
}

fn prepare(arguments: &RecipeArguments, context: &Context) -> anyhow::Result<(GrpoPlan, GrpoInputs)> {
    let path = &arguments.recipe;
    let text = training::read_recipe(path)?;
    let mut config = GrpoConfig::from_toml(&text, path, &arguments.overrides)?;
    if !config.model_name_or_path.is_empty() {
        let found = model::find(&config.model_name_or_path, context)?;
        config.model_name_or_path = found.to_string_lossy().into_owned();
    }
    if let Some(reward_model) = &mut config.reward_model {
        let name = &mut reward_model.model_name_or_path;
        *name = model::find(&name.to_string_lossy(), context)?;
    }
    if let Some(judge) = &mut config.judge {
        asking::find_model(&mut judge.model, context)?;
    }
    let mut events = progress::for_this_terminal(&context.printer);
    let inputs = GrpoInputs::load(&config, training::render_options(), events.as_mut())?;
    let machine = machine::for_stages(context.n_threads, machine::measure_step_gigaflops());
    let mut plan = GrpoPlan::resolve(config, &inputs, &machine)?;
    // This binary starts itself again as the sandbox's child.
    plan.sandbox_program = std::env::current_exe().ok();
    Ok((plan, inputs))
}

fn show(plan: &GrpoPlan, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
    if as_json {
        let rows: serde_json::Map<String, serde_json::Value> =
            plan.rows().into_iter().map(|row| (row.name, plan::amount_json(row.amount))).collect();
        context.printer.json(&json!({ "peak_bytes": plan.peak_bytes(), "rows": rows }))?;
        return Ok(Outcome::Fine);
    }
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    for row in plan.rows() {
        table.row([row.name.clone(), plan::amount_text(row.amount)]);
    }
    for line in table.lines() {
        context.printer.line(line)?;
    }
    context.printer.line("")?;
    context.printer.line(context.printer.styled(Style::Bold, plan.summary()))?;
    Ok(Outcome::Fine)
}

fn finish(outcome: &GrpoOutcome, folder: &Path, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
    let page = folder.join("report.html");
    truing_report::write_report(folder, &page)?;
    let printer = &context.printer;
    match outcome {
        GrpoOutcome::Finished { model, metrics, nothing_learnt } => {
            if as_json {
                printer.json(&json!({
                    "status": "finished", "model": model, "report": page, "metrics": metrics,
                    "nothing_learnt": nothing_learnt,
                }))?;
            } else {
                printer.line(format_args!("{:<9} {}", training::kind_of(model), model.display()))?;
                printer.line(format_args!("report    {}", page.display()))?;
                printer.line(format_args!("rollouts  truing rollouts {}", folder.display()))?;
            }
            Ok(if nothing_learnt.is_some() { Outcome::Finding } else { Outcome::Fine })
        }
        GrpoOutcome::Interrupted { step } => {
            if as_json {
                printer.json(&json!({ "status": "interrupted", "step": step, "report": page }))?;
            } else {
                printer.line(format_args!("stopped after step {step}; --resume continues from there"))?;
            }
            Ok(Outcome::Interrupted)
        }
    }
}
