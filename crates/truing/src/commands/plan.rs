//! `truing plan`: what a recipe will take, before any work: parameters, memory part by part, every k, time.

use clap::Args;
use serde_json::{Value, json};
use truing_stages::training::{TrainingInputs, TrainingPlan};
use truing_stages::{StageError, recipe};
use truing_train::{Amount, PlanRow, SegmentChoice};
use truing_types::StageName;

use super::training::{self, RecipeArguments, Stage};
use super::{classifier, dpo, embed, grpo, label, quality, reward, select, sft};
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::Style;
use crate::table::{Align, Table};
use crate::units;

/// Arguments of `truing plan`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    recipe: RecipeArguments,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Makes the plan of the stage that the recipe names, and prints it.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let (recipe, as_json) = (&arguments.recipe, arguments.json);
    match recipe::stage_of(&training::read_recipe(&recipe.recipe)?, &recipe.recipe)? {
        StageName::Select => select::show_recipe(recipe, as_json, context),
        StageName::Label => label::show_recipe(recipe, as_json, context),
        StageName::Quality => quality::show_recipe(recipe, as_json, context),
        StageName::Embed => embed::show_recipe(recipe, as_json, context),
        StageName::Classifier => classifier::show_recipe(recipe, as_json, context),
        StageName::Sft => show_recipe(&sft::STAGE, recipe, as_json, context),
        StageName::Dpo => show_recipe(&dpo::STAGE, recipe, as_json, context),
        StageName::RewardModel => show_recipe(&reward::STAGE, recipe, as_json, context),
        StageName::Grpo => grpo::show_recipe(recipe, as_json, context),
    }
}

/// Prints the plan of a recipe; a recipe that cannot fit is a finding, with what would.
fn show_recipe<I: TrainingInputs>(
    stage: &Stage<I>,
    recipe: &RecipeArguments,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    match training::prepare(stage.load, recipe, context) {
        Ok((plan, _)) => show(&plan, as_json, context),
        Err(error) => refuse(error, as_json, context),
    }
}

/// Prints a plan.
pub(crate) fn show(plan: &TrainingPlan, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
    if as_json {
        context.printer.json(&to_json(plan))?
    } else {
        print(plan, context)?
    }
    Ok(Outcome::Fine)
}

/// Prints the plan of a stage that is lines and a sentence.
pub(crate) fn show_rows(
    rows: Vec<PlanRow>,
    summary: &str,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    if as_json {
        let rows: serde_json::Map<String, Value> =
            rows.into_iter().map(|row| (row.name, amount_json(row.amount))).collect();
        context.printer.json(&json!({ "rows": rows }))?;
        return Ok(Outcome::Fine);
    }
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    for row in rows {
        table.row([row.name, amount_text(row.amount)]);
    }
    for line in table.lines() {
        context.printer.line(line)?;
    }
    context.printer.line("")?;
    context.printer.line(context.printer.styled(Style::Bold, summary))?;
    Ok(Outcome::Fine)
}

/// Says what would fit, where `error` is that a run does not; hands every other error on.
pub(crate) fn refuse(error: anyhow::Error, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
    let Some(refusal @ StageError::DoesNotFit { source, hints }) = error.downcast_ref() else {
        return Err(error);
    };
    if as_json {
        let text = source.to_string();
        context.printer.json(&json!({ "fits": false, "reason": text, "would_fit": hints }))?;
    } else {
        context.printer.line(context.printer.styled(Style::Red, "this run does not fit"))?;
        context.printer.line(refusal)?;
    }
    Ok(Outcome::Finding)
}

fn print(plan: &TrainingPlan, context: &Context) -> anyhow::Result<()> {
    let printer = &context.printer;
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    for row in plan.rows() {
        table.row([row.name.clone(), amount_text(row.amount)]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    printer.line("")?;
    let mut ways = Table::new(&[
        ("k", Align::Right),
        ("recomputed layers", Align::Right),
        ("activations", Align::Right),
        ("peak", Align::Right),
        ("", Align::Left),
    ]);
    // Where nothing is computed twice, k makes no difference; equal neighbours share a line.
    let is_same = |a: &SegmentChoice, b: &SegmentChoice| {
        (a.segments.n_recomputed_layers(), a.peak_bytes) == (b.segments.n_recomputed_layers(), b.peak_bytes)
    };
    for alike in plan.by_layers_per_segment().chunk_by(is_same) {
        let (first, last) = (&alike[0], &alike[alike.len() - 1]);
        let remark = if alike.contains(&plan.memory.chosen) {
            "chosen"
        } else if first.peak_bytes > plan.memory.budget_bytes {
            "does not fit"
        } else {
            ""
        };
        let (from, to) = (first.segments.layers_per_segment, last.segments.layers_per_segment);
        ways.row([
            if from == to { from.to_string() } else { format!("{from} to {to}") },
            first.segments.n_recomputed_layers().to_string(),
            units::bytes(first.activation_bytes),
            units::bytes(first.peak_bytes),
            remark.to_owned(),
        ]);
    }
    for line in ways.lines() {
        printer.line(line)?;
    }
    printer.line("")?;
    printer.line(printer.styled(Style::Bold, plan.reason()))?;
    Ok(())
}

fn to_json(plan: &TrainingPlan) -> Value {
    let rows: serde_json::Map<String, Value> =
        plan.rows().into_iter().map(|row| (row.name, amount_json(row.amount))).collect();
    let ways: Vec<Value> = plan
        .by_layers_per_segment()
        .iter()
        .map(|way| {
            json!({
                "layers_per_segment": way.segments.layers_per_segment,
                "layers_computed_twice": way.segments.n_recomputed_layers(),
                "activation_bytes": way.activation_bytes,
                "peak_bytes": way.peak_bytes,
                "fits": way.peak_bytes <= plan.memory.budget_bytes,
            })
        })
        .collect();
    json!({
        "fits": true,
        "layers_per_segment": plan.memory.chosen.segments.layers_per_segment,
        "peak_bytes": plan.memory.chosen.peak_bytes,
        "budget_bytes": plan.memory.budget_bytes,
        "n_steps": plan.n_steps,
        "reason": plan.reason(),
        "rows": rows,
        "by_layers_per_segment": ways,
    })
}

/// An amount as a person reads it.
pub(super) fn amount_text(amount: Amount) -> String {
    match amount {
        Amount::Bytes(bytes) => units::bytes(bytes),
        Amount::Count(count) => units::count(count),
        Amount::Flops(flops) => format!("{:.1} GFLOP", flops / 1e9),
        Amount::Seconds(seconds) => units::duration(seconds),
        Amount::Share(share) => format!("{:.1} %", 100.0 * share),
    }
}

/// An amount as a number.
pub(super) fn amount_json(amount: Amount) -> Value {
    match amount {
        Amount::Bytes(whole) | Amount::Count(whole) => whole.into(),
        Amount::Flops(number) | Amount::Seconds(number) | Amount::Share(number) => number.into(),
    }
}
