//! `truing label`: prompts labelled by what they ask for, by language models with votes, as a recipe says; or by a
//! classifier that was trained on such labels.

use std::sync::atomic::AtomicBool;

use clap::Args;
use truing_stages::label::{self, LabelConfig, LabelInputs, LabelOutcome, LabelPlan, Summary};
use truing_types::EventSink;

use super::classifier::{self, LabelCommand};
use super::judging::{self, JudgeArguments, Questions, share};
use super::plan;
use super::training::{self, RecipeArguments, no_recipe};
use crate::outcome::Outcome;
use crate::table::{Align, Table};
use crate::{Context, progress};

/// Arguments of `truing label`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<LabelCommand>,
    #[command(flatten)]
    recipe: Option<RecipeArguments>,
    #[command(flatten)]
    judge: JudgeArguments,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    match (&arguments.command, &arguments.recipe) {
        (Some(command), _) => classifier::run_label(command, context),
        (None, Some(recipe)) => judge(recipe, &arguments.judge, context),
        (None, None) => Err(no_recipe("truing label recipes/label.toml")),
    }
}

/// Reads the recipe, says what it will cost, asks, writes the labels.
fn judge(recipe: &RecipeArguments, arguments: &JudgeArguments, context: &Context) -> anyhow::Result<Outcome> {
    let (plan, inputs) = prepare(recipe, context)?;
    let questions = Questions {
        rows: plan.rows(),
        summary: plan.summary(),
        prompt_tokens: plan.prompt_tokens,
        completion_tokens: plan.completion_tokens,
    };
    let judges = plan.config.judge.iter().map(|judge| &judge.model);
    let work = |judges, events: &mut dyn EventSink, stop: &AtomicBool| {
        Ok(match label::run(&plan, &inputs, judges, events, stop)? {
            LabelOutcome::Finished { labels, summary } => {
                let outcome = judging::outcome(summary.is_half_unanswered());
                Some((labels, summary, outcome))
            }
            LabelOutcome::Interrupted => None,
        })
    };
    judging::run(
        arguments,
        &questions,
        judges,
        "labels",
        work,
        |summary, context| print(summary, context),
        context,
    )
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
        judging::prepare(&mut judge.name, &mut judge.model, context)?;
    }
    let mut events = progress::for_this_terminal(&context.printer);
    let inputs = LabelInputs::load(&config, events.as_mut())?;
    Ok((LabelPlan::resolve(config, &inputs)?, inputs))
}

fn print(summary: &Summary, context: &Context) -> anyhow::Result<()> {
    let printer = context.printer;
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
        judging::print_agreement([&pair.first, &pair.second, &pair.dimension], &pair.agreement, context)?;
    }
    for compared in &summary.comparison {
        printer.line(format_args!(
            "{} on {}: accuracy {:.2} on {} gold labels (majority baseline {:.2})",
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
