//! `truing label`: prompts labelled by what they ask for, by language models with votes, as a recipe says; or by a
//! classifier that was trained on such labels.

use clap::Args;
use serde_json::json;
use truing_stages::label::{self, LabelConfig, LabelInputs, LabelOutcome, LabelPlan, Summary};

use super::classifier::{self, LabelCommand};
use super::plan;
use super::training::{self, RecipeArguments, no_recipe};
use crate::outcome::Outcome;
use crate::table::{Align, Table};
use crate::{Context, asking, interrupt, progress};

/// Arguments of `truing label`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<LabelCommand>,
    #[command(flatten)]
    label: Option<LabelArguments>,
}

/// A recipe, and what is done with it.
#[derive(Debug, Args)]
struct LabelArguments {
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
    match (&arguments.command, &arguments.label) {
        (Some(command), _) => classifier::run_label(command, context),
        (None, Some(arguments)) => run_labels(arguments, context),
        (None, None) => Err(no_recipe("truing label recipes/label.toml")),
    }
}

/// Reads the recipe, says what it will cost, asks, writes the labels.
fn run_labels(arguments: &LabelArguments, context: &mut Context) -> anyhow::Result<Outcome> {
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
    let outcome = label::run(&plan, &inputs, judges, events.as_mut(), &stop)?;
    drop(events);
    match outcome {
        LabelOutcome::Finished { labels, summary } => {
            if arguments.json {
                printer.json(&json!({ "status": "finished", "labels": labels, "summary": summary }))?;
            } else {
                print(&summary, context)?;
                printer.line(format_args!("labels  {}", labels.display()))?;
            }
            Ok(Outcome::Fine)
        }
        LabelOutcome::Interrupted => {
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

fn prepare(arguments: &RecipeArguments, context: &Context) -> anyhow::Result<(LabelPlan, LabelInputs)> {
    let path = &arguments.recipe;
    let text = training::read_recipe(path)?;
    let mut config = LabelConfig::from_toml(&text, path, &arguments.overrides)?;
    for judge in &mut config.judge {
        // Its name in the summary is the one that was typed.
        judge.name.get_or_insert(judge.model.name());
        asking::find_model(&mut judge.model, context)?;
    }
    let mut events = progress::for_this_terminal(&context.printer);
    let inputs = LabelInputs::load(&config, events.as_mut())?;
    Ok((LabelPlan::resolve(config, &inputs)?, inputs))
}

fn print(summary: &Summary, context: &Context) -> anyhow::Result<()> {
    let printer = context.printer;
    let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"));
    let mut table = Table::new(&[
        ("dimension", Align::Left),
        ("labels", Align::Right),
        ("rare", Align::Right),
        ("unknown", Align::Right),
        ("without", Align::Right),
        ("confidence", Align::Right),
        ("most frequent", Align::Left),
    ]);
    for dimension in &summary.dimensions {
        let most = dimension.labels.iter().rev().max_by_key(|label| label.n).filter(|label| label.n > 0);
        table.row([
            dimension.name.clone(),
            dimension.labels.iter().filter(|label| label.n > 0).count().to_string(),
            dimension.rare.len().to_string(),
            dimension.unknown_labels.len().to_string(),
            dimension.n_unlabelled.to_string(),
            share(dimension.mean_confidence),
            most.map_or_else(String::new, |most| format!("{} ({})", most.label, most.n)),
        ]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    for pair in &summary.agreement {
        printer.line(format_args!(
            "{} and {} on {}: the same on {:.2} of {}, kappa {}",
            pair.first,
            pair.second,
            pair.dimension,
            pair.agreement.share,
            pair.agreement.n,
            share(pair.agreement.kappa)
        ))?;
    }
    for compared in &summary.comparison {
        printer.line(format_args!(
            "{} on {}: right on {:.2} of {} labels of the data; the most frequent label alone would be on {:.2}",
            compared.judge.as_deref().unwrap_or("all votes"),
            compared.dimension,
            compared.accuracy,
            compared.n,
            compared.most_frequent_share
        ))?;
    }
    printer.line(format_args!(
        "{} prompts in {} combinations; {} in doubt (`review.jsonl`), {} not labelled in every dimension \
         (`unlabelled.jsonl`)",
        summary.n_prompts, summary.n_combinations, summary.n_in_review, summary.n_unlabelled
    ))?;
    Ok(())
}
