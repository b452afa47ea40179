//! `truing quality`: prompts compared with anchors by language models, as a recipe says; or scored by a model that was
//! trained on such scores.

use std::sync::atomic::AtomicBool;

use clap::Args;
use truing_stages::quality::{self, QualityConfig, QualityInputs, QualityOutcome, QualityPlan, Summary};
use truing_types::EventSink;

use super::classifier::{self, ScoreCommand};
use super::judging::{self, JudgeArguments, Questions, share};
use super::plan;
use super::training::{self, RecipeArguments, no_recipe};
use crate::outcome::Outcome;
use crate::table::{Align, Table};
use crate::{Context, progress};

/// Arguments of `truing quality`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<ScoreCommand>,
    #[command(flatten)]
    recipe: Option<RecipeArguments>,
    #[command(flatten)]
    judge: JudgeArguments,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    match (&arguments.command, &arguments.recipe) {
        (Some(command), _) => classifier::run_score(command, context),
        (None, Some(recipe)) => judge(recipe, &arguments.judge, context),
        (None, None) => Err(no_recipe("truing quality recipes/quality.toml")),
    }
}

/// Reads the recipe, says what it will cost, asks, writes the scores.
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
        Ok(match quality::run(&plan, &inputs, judges, events, stop)? {
            QualityOutcome::Finished { scores, summary } => {
                let outcome = judging::outcome(summary.is_half_unanswered());
                Some((scores, summary, outcome))
            }
            QualityOutcome::Interrupted => None,
        })
    };
    judging::run(arguments, &questions, judges, "scores", work, print, context)
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
        judging::prepare(&mut judge.name, &mut judge.model, context)?;
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
        judging::print_agreement(
            [&pair.first, &pair.second, pair.dimension.as_str()],
            &pair.agreement,
            context,
        )?;
    }
    context.printer.line(format_args!(
        "{} prompts, of which {} have no verdict",
        summary.n_prompts, summary.n_unscored
    ))?;
    Ok(())
}
