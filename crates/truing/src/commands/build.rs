//! `truing build`: training data for one ability, made with models as a recipe says; the list of builders.

use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::json;
use truing_construct::build::{
    BUILDERS, BuildOutcome, BuildPlan, BuildStage, BuildSummary, BuilderInfo, Coverage, CoverageRow,
};
use truing_stages::{StageError, StagePlan};

use super::judging::{self, share};
use super::recipe_arguments::RecipeArguments;
use super::stage::{RunArguments, RunKind, StageCommand};
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::clean_path;
use crate::table::{Align, Table};

/// Kinds of rows, as printed; `summary.json` has all.
const MAX_KINDS: usize = 12;

/// Arguments of `truing build`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    recipe: Option<RecipeArguments>,
    #[command(flatten)]
    run: RunArguments,
}

/// What else can be done with builders.
#[derive(Debug, Subcommand)]
enum Command {
    /// List the builders: what each makes, and what its seed rows have.
    #[command(after_help = "Example: truing build list")]
    List {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let Arguments { command, recipe, run } = arguments;
    match command {
        Some(Command::List { json }) => list(*json, context),
        None => judging::run::<BuildStage>(
            recipe.as_ref(),
            run,
            "truing build recipes/build_constraints.toml",
            context,
        ),
    }
}

fn list(as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
    if as_json {
        let builder = |builder: &BuilderInfo| {
            json!({
                "name": builder.name, "about": builder.about, "seeds": builder.seeds, "asks": builder.asks,
                "works_without_data": builder.works_without_data,
            })
        };
        let all: Vec<_> = BUILDERS.iter().map(builder).collect();
        context.printer.json(&json!({ "builders": all }))?;
        return Ok(Outcome::Fine);
    }
    let mut table = Table::new(&[("builder", Align::Left), ("makes", Align::Left), ("from", Align::Left)]);
    for builder in BUILDERS {
        table.row([builder.name, builder.about, builder.seeds]);
    }
    for line in table.lines() {
        context.printer.line(line)?;
    }
    Ok(Outcome::Fine)
}

impl StageCommand for BuildStage {
    const KIND: RunKind = judging::KIND;

    fn announce(plan: &BuildPlan, context: &Context) {
        context.printer.note(plan.summary());
        judging::announce_tokens(plan.prompt_tokens, plan.completion_tokens, context);
    }

    fn advice(error: &StageError, folder: &Path) -> Option<String> {
        judging::advice(error, folder, Some("writer.cache"))
    }

    fn finish(outcome: BuildOutcome, _: &Path, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
        let BuildOutcome { rows, prompts, fates, summary } = outcome;
        if as_json {
            context.printer.json(&json!({
                "status": "finished", "summary": summary, "rows": rows, "prompts": prompts, "fates": fates,
            }))?;
        } else {
            print(&summary, context)?;
            let files = [("rows", rows), ("prompts", prompts), ("fates", Some(fates))];
            for (name, path) in files.into_iter().filter_map(|(name, path)| Some((name, path?))) {
                context.printer.line(format_args!("{name:<7}  {}", clean_path(&path)))?;
            }
        }
        Ok(judging::outcome(2 * summary.n_kept < summary.n_begun))
    }
}

fn print(summary: &BuildSummary, context: &Context) -> anyhow::Result<()> {
    let printer = context.printer;
    let mut table = Table::new(&[("fate", Align::Left), ("rows", Align::Right)]);
    table.row(["kept".to_owned(), summary.n_kept.to_string()]);
    for (reason, n) in &summary.without_response {
        table.row([format!("kept without a response: {reason}"), n.to_string()]);
    }
    for (reason, n) in &summary.dropped {
        table.row([format!("dropped: {reason}"), n.to_string()]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    let BuildSummary { recheck, coverage, .. } = summary;
    printer.line(format_args!(
        "{} of {} rows were begun; {} have a response, {} are prompts with rewards",
        summary.n_begun, summary.n_units, summary.n_rows, summary.n_prompts
    ))?;
    printer.line(format_args!(
        "share of built rows that pass the check by programs: {} of {} rows; {} of the {} with a response",
        share(recheck.share),
        recheck.n_checked,
        share(recheck.share_with_response),
        recheck.n_with_response
    ))?;
    if let Some(covered) = coverage.covered_share {
        print_coverage(coverage, context)?;
        let n_kinds = coverage.kinds.len();
        printer.line(format_args!("{:.0} % of {n_kinds} kinds have a row", 100.0 * covered))?;
    }
    printer.line(format_args!(
        "largest share of one task template: {:.1} %",
        100.0 * summary.largest_template_share
    ))?;
    Ok(())
}

/// The kinds that have the fewest rows.
fn print_coverage(coverage: &Coverage, context: &Context) -> anyhow::Result<()> {
    let right = Align::Right;
    let mut table =
        Table::new(&[("kind", Align::Left), ("target", right), ("begun", right), ("kept", right)]);
    let mut kinds: Vec<&CoverageRow> = coverage.kinds.iter().collect();
    kinds.sort_by_key(|row| row.n_kept);
    for row in kinds.iter().take(MAX_KINDS) {
        let target = row.target.map_or_else(|| "-".to_owned(), |target| target.to_string());
        table.row([row.kind.clone(), target, row.n_begun.to_string(), row.n_kept.to_string()]);
    }
    for line in table.lines() {
        context.printer.line(line)?;
    }
    let n_more = kinds.len().saturating_sub(MAX_KINDS);
    if n_more > 0 {
        context
            .printer
            .line(format_args!("{n_more} more kinds with as many rows or more: `summary.json`"))?;
    }
    Ok(())
}
