//! `truing quality`: prompts compared with anchors by language models, as a recipe says; or scored by a model that was
//! trained on such scores.

use std::path::Path;

use clap::Args;
use serde_json::json;
use truing_ask::quality::Summary;
use truing_construct::quality::{QualityOutcome, QualityPlan, QualityStage};
use truing_stages::{StageError, StagePlan};

use super::classifier::{self, ScoreCommand};
use super::judging::{self, share};
use super::recipe_arguments::RecipeArguments;
use super::stage::{RunArguments, RunKind, StageCommand};
use crate::Context;
use crate::outcome::Outcome;
use crate::table::{Align, Table};

/// Arguments of `truing quality`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<ScoreCommand>,
    #[command(flatten)]
    recipe: Option<RecipeArguments>,
    #[command(flatten)]
    run: RunArguments,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let Arguments { command, recipe, run } = arguments;
    match command {
        Some(command) => classifier::run_score(command, context),
        None => {
            judging::run::<QualityStage>(recipe.as_ref(), run, "truing quality recipes/quality.toml", context)
        }
    }
}

impl StageCommand for QualityStage {
    const KIND: RunKind = judging::KIND;

    fn announce(plan: &QualityPlan, context: &Context) {
        context.printer.note(plan.summary());
        judging::announce_tokens(plan.prompt_tokens, plan.completion_tokens, context);
    }

    fn advice(error: &StageError, folder: &Path) -> Option<String> {
        judging::advice(error, folder, Some("judge.0.model.cache"))
    }

    fn finish(
        outcome: QualityOutcome,
        _: &Path,
        as_json: bool,
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        let QualityOutcome { scores, summary } = outcome;
        if as_json {
            context.printer.json(&json!({ "status": "finished", "summary": summary, "scores": scores }))?;
        } else {
            print(&summary, context)?;
            context.printer.line(format_args!("scores  {}", scores.display()))?;
        }
        // Draws alone give every prompt the same score.
        let is_all_draws = summary.judges.iter().all(|judge| judge.equal_share == Some(1.0));
        Ok(judging::outcome(summary.is_half_unanswered() || is_all_draws))
    }
}

fn print(summary: &Summary, context: &Context) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        ("judge", Align::Left),
        ("verdicts", Align::Right),
        ("without", Align::Right),
        ("ties", Align::Right),
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
