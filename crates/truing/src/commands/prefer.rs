//! `truing prefer`: preference data from judged responses, as a recipe says; and the stage on judges whose faults are
//! known.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use truing_construct::prefer::self_test::{self, SelfTestRow};
use truing_construct::prefer::{Measured, PreferOutcome, PreferPlan, PreferStage, PreferSummary};
use truing_stages::{StageError, StagePlan};
use truing_types::Silent;

use super::judging::{self, share};
use super::recipe_arguments::RecipeArguments;
use super::stage::{self, RunArguments, RunKind, StageCommand};
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::clean_path;
use crate::table::{Align, Table};

/// Arguments of `truing prefer`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The recipe, a TOML file.
    #[arg(required_unless_present = "self_test")]
    recipe: Option<PathBuf>,
    /// Override a setting, for instance `--set min_margin=0.5` or `--set data.0.path=mine.jsonl`. May be given several
    /// times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Run the stage on planted judges with known faults, without a model, and check what it makes of them. The exit
    /// status is 1 if a check fails.
    #[arg(long, conflicts_with_all = ["recipe", "overrides", "plan", "resume", "metrics_command"])]
    self_test: bool,
    #[command(flatten)]
    run: RunArguments,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    match &arguments.recipe {
        Some(recipe) => {
            let recipe = RecipeArguments { recipe: recipe.clone(), overrides: arguments.overrides.clone() };
            stage::run_recipe::<PreferStage>(&recipe, &arguments.run, context)
        }
        None => run_self_test(arguments.run.json, context),
    }
}

fn run_self_test(as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    // What the stage says of bad judges is expected here.
    let rows = self_test::run(folder.path(), &mut Silent)?;
    let n_failed = rows.iter().filter(|row| !row.failures.is_empty()).count();
    if as_json {
        context.printer.json(&json!({ "n_failed": n_failed, "rows": rows }))?;
    } else {
        print_self_test(&rows, context)?;
        context.printer.line(match n_failed {
            0 => format!("{} planted judges, each as expected", rows.len()),
            n => format!("{n} of {} planted judges are not as expected", rows.len()),
        })?;
    }
    Ok(if n_failed == 0 { Outcome::Fine } else { Outcome::Finding })
}

fn print_self_test(rows: &[SelfTestRow], context: &Context) -> anyhow::Result<()> {
    let right = Align::Right;
    let mut table = Table::new(&[
        ("planted judge", Align::Left),
        ("kind", Align::Left),
        ("parse rate", right),
        ("order consistency", right),
        ("accuracy", right),
        ("length slope", right),
        ("pairs", right),
        ("agree with verdicts", right),
    ]);
    for row in rows {
        table.row([
            row.judge.as_str().to_owned(),
            format!("{:?}", row.kind).to_lowercase(),
            share(row.parse_rate),
            share(row.order_consistency),
            share(row.accuracy),
            share(row.length_slope),
            row.n_pairs.to_string(),
            row.n_agreeing.to_string(),
        ]);
    }
    table.lines().into_iter().try_for_each(|line| context.printer.line(line))?;
    for row in rows {
        let kind = format!("{:?}", row.kind).to_lowercase();
        for failure in &row.failures {
            context.printer.line(format_args!("{} ({kind}): {failure}", row.judge.as_str()))?;
        }
    }
    Ok(())
}

impl StageCommand for PreferStage {
    const KIND: RunKind = judging::KIND;

    fn announce(plan: &PreferPlan, context: &Context) {
        context.printer.note(plan.summary());
        judging::announce_tokens(plan.prompt_tokens(), plan.completion_tokens(), context);
    }

    fn advice(error: &StageError, folder: &Path) -> Option<String> {
        judging::advice(error, folder, Some("judge.0.model.cache"))
    }

    fn finish(outcome: PreferOutcome, _: &Path, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
        let PreferOutcome { pairs, ranked, edit_queue, fates, minimal_pairs, measured, summary } = outcome;
        if as_json {
            context.printer.json(&json!({
                "status": "finished", "summary": summary, "judges": measured, "pairs": pairs, "ranked": ranked,
                "edit_queue": edit_queue, "fates": fates, "minimal_pairs": minimal_pairs,
            }))?;
        } else {
            print_judges(&measured, context)?;
            print_fates(&summary, context)?;
            let files = [("pairs", pairs), ("ranked", ranked), ("edit queue", edit_queue), ("fates", fates)];
            let minimal = minimal_pairs.map(|path| ("minimal", path));
            for (name, path) in files.into_iter().chain(minimal) {
                context.printer.line(format_args!("{name:<10}  {}", clean_path(&path)))?;
            }
        }
        Ok(judging::outcome(summary.n_pairs == 0))
    }
}

fn print_judges(measured: &Measured, context: &Context) -> anyhow::Result<()> {
    let right = Align::Right;
    let mut table = Table::new(&[
        ("judge", Align::Left),
        ("calls", right),
        ("parse rate", right),
        ("order consistency", right),
        ("self-agreement", right),
        ("length slope", right),
        ("weight", right),
    ]);
    for judge in &measured.judges {
        table.row([
            judge.scale.judge.clone(),
            judge.n_calls.to_string(),
            share(judge.parse_rate),
            share(judge.order_consistency),
            share(judge.self_agreement),
            share(judge.length_slope),
            share(Some(judge.scale.weight)),
        ]);
    }
    table.lines().into_iter().try_for_each(|line| context.printer.line(line))?;
    for pair in &measured.agreement {
        judging::print_agreement([&pair.first, &pair.second, "the order"], &pair.agreement, context)?;
    }
    Ok(())
}

fn print_fates(summary: &PreferSummary, context: &Context) -> anyhow::Result<()> {
    let mut table = Table::new(&[("fate", Align::Left), ("prompts", Align::Right)]);
    for (fate, n) in &summary.fates {
        table.row([fate.as_str().to_owned(), n.to_string()]);
    }
    table.lines().into_iter().try_for_each(|line| context.printer.line(line))?;
    let margin = summary.mean_margin.map_or_else(String::new, |margin| format!(", mean margin {margin:.2}"));
    context.printer.line(format_args!(
        "{} pairs from {} prompts{margin}; the longer response is chosen in {}",
        summary.n_pairs, summary.n_prompts, summary.n_longer_chosen
    ))?;
    Ok(())
}
