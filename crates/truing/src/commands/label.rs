//! `truing label`: prompts labelled by what they ask for, by language models with votes, as a recipe says; or by a
//! classifier that was trained on such labels.

use std::path::Path;

use clap::Args;
use serde_json::json;
use truing_ask::labels::Summary;
use truing_construct::label::{LabelOutcome, LabelPlan, LabelStage};
use truing_stages::{StageError, StagePlan};

use super::classifier::{self, LabelCommand};
use super::judging::{self, share};
use super::recipe_arguments::RecipeArguments;
use super::stage::{RunArguments, RunKind, StageCommand};
use crate::Context;
use crate::outcome::Outcome;
use crate::table::{Align, Table};

/// Arguments of `truing label`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<LabelCommand>,
    #[command(flatten)]
    recipe: Option<RecipeArguments>,
    #[command(flatten)]
    run: RunArguments,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let Arguments { command, recipe, run } = arguments;
    match command {
        Some(command) => classifier::run_label(command, context),
        None => judging::run::<LabelStage>(recipe.as_ref(), run, "truing label recipes/label.toml", context),
    }
}

impl StageCommand for LabelStage {
    const KIND: RunKind = judging::KIND;

    fn announce(plan: &LabelPlan, context: &Context) {
        context.printer.note(plan.summary());
        judging::announce_tokens(plan.prompt_tokens, plan.completion_tokens, context);
    }

    fn advice(error: &StageError, folder: &Path) -> Option<String> {
        judging::advice(error, folder, Some("judge.0.model.cache"))
    }

    fn finish(outcome: LabelOutcome, _: &Path, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
        let LabelOutcome { labels, summary } = outcome;
        if as_json {
            context.printer.json(&json!({ "status": "finished", "summary": summary, "labels": labels }))?;
        } else {
            print(&summary, context)?;
            context.printer.line(format_args!("labels  {}", labels.display()))?;
        }
        Ok(judging::outcome(summary.is_half_unanswered()))
    }
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
