//! `truing quality`: prompts compared with anchors by language models, as a recipe says; or scored by a model that was
//! trained on such scores.

use clap::Args;
use serde_json::json;
use truing_stages::quality::{self, QualityConfig, QualityInputs, QualityOutcome, QualityPlan, Summary};

use super::classifier::{self, ScoreCommand};
use super::plan;
use super::training::{self, RecipeArguments, no_recipe};
use crate::outcome::Outcome;
use crate::table::{Align, Table};
use crate::{Context, asking, interrupt, progress};

/// Arguments of `truing quality`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<ScoreCommand>,
    #[command(flatten)]
    judge: Option<JudgeArguments>,
}

/// A recipe, and what is done with it.
#[derive(Debug, Args)]
struct JudgeArguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    /// Print what it will cost and ask nothing.
    #[arg(long)]
    plan: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    match (&arguments.command, &arguments.judge) {
        (Some(command), _) => classifier::run_score(command, context),
        (None, Some(arguments)) => judge(arguments, context),
        (None, None) => Err(no_recipe("truing quality recipes/quality.toml")),
    }
}

/// Reads the recipe, says what it will cost, asks, writes the scores.
fn judge(arguments: &JudgeArguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let (plan, inputs) = prepare(&arguments.recipe, context)?;
    if arguments.plan {
        return plan::show_rows(plan.rows(), &plan.summary(), arguments.json, context);
    }
    let printer = context.printer;
    printer.note(plan.summary());
    printer.note(format_args!(
        "about {} tokens of prompts and at most {} of replies, less what is in the cache",
        plan.prompt_tokens, plan.completion_tokens
    ));
    let stop = interrupt::stop_flag("stopping: every reply is kept, the same command goes on")?;
    let mut events = progress::for_this_terminal(&printer);
    let mut judges = Vec::new();
    for judge in &plan.config.judge {
        let surroundings = asking::surroundings(&judge.model, &stop, context)?;
        judges.push(judge.model.open(&surroundings, events.as_mut())?);
    }
    let outcome = quality::run(&plan, &inputs, judges, events.as_mut(), &stop)?;
    drop(events);
    match outcome {
        QualityOutcome::Finished { scores, summary } => {
            if arguments.json {
                printer.json(&json!({ "status": "finished", "scores": scores, "summary": summary }))?;
            } else {
                print(&summary, context)?;
                printer.line(format_args!("scores  {}", scores.display()))?;
            }
            Ok(Outcome::Fine)
        }
        QualityOutcome::Interrupted => {
            if arguments.json {
                printer.json(&json!({ "status": "interrupted" }))?;
            } else {
                printer.line("stopped; the same command goes on, and asks nothing twice")?;
            }
            Ok(Outcome::Interrupted)
        }
    }
}

/// Prints the plan of a recipe.
pub(crate) fn show_recipe(
    recipe: &RecipeArguments,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let (plan, _) = prepare(recipe, context)?;
    plan::show_rows(plan.rows(), &plan.summary(), as_json, context)
}

fn prepare(arguments: &RecipeArguments, context: &Context) -> anyhow::Result<(QualityPlan, QualityInputs)> {
    let path = &arguments.recipe;
    let text = training::read_recipe(path)?;
    let mut config = QualityConfig::from_toml(&text, path, &arguments.overrides)?;
    for judge in &mut config.judge {
        // Its name in the summary is the one that was typed.
        judge.name.get_or_insert(judge.model.name());
        asking::find_model(&mut judge.model, context)?;
    }
    let mut events = progress::for_this_terminal(&context.printer);
    let inputs = QualityInputs::load(&config, events.as_mut())?;
    Ok((QualityPlan::resolve(config, &inputs)?, inputs))
}

fn print(summary: &Summary, context: &Context) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        ("judge", Align::Left),
        ("verdicts", Align::Right),
        ("without", Align::Right),
        ("draws", Align::Right),
        ("same when swapped", Align::Right),
        ("for the first", Align::Right),
    ]);
    let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"));
    for judge in &summary.judges {
        table.row([
            judge.name.clone(),
            judge.n_verdicts.to_string(),
            judge.n_unscored.to_string(),
            share(judge.equal_share),
            share(judge.order_agreement.map(|agreement| agreement.share)),
            share(judge.first_share),
        ]);
    }
    for line in table.lines() {
        context.printer.line(line)?;
    }
    for pair in &summary.agreement {
        context.printer.line(format_args!(
            "{} and {} on {}: the same on {:.2} of {}, kappa {}",
            pair.first,
            pair.second,
            pair.dimension.as_str(),
            pair.agreement.share,
            pair.agreement.n,
            share(pair.agreement.kappa)
        ))?;
    }
    context.printer.line(format_args!(
        "{} prompts, of which {} have no verdict",
        summary.n_prompts, summary.n_unscored
    ))?;
    Ok(())
}
