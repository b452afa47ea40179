//! `truing plan`: what a recipe will take, before any work: parameters, memory part by part, every k, time; here, or
//! on a cluster that is described in a file.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use truing_model::ModelError;
use truing_stages::training::TrainingPlan;
use truing_stages::{RunError, StageError, StagePlan};
use truing_train::SegmentChoice;

use super::amount::{amount_json, amount_text};
use super::plan_cluster::{self, Request};
use super::recipe_arguments::{RecipeArguments, no_recipe};
use super::stages;
use crate::Context;
use crate::outcome::{Hinted, Outcome};
use crate::printer::{Style, clean_path};
use crate::table::{Align, Table};
use crate::units;

/// Arguments of `truing plan`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The recipe, a TOML file. With --cluster its model, length, step, adapters and k are planned for.
    #[arg(required_unless_present = "cluster")]
    recipe: Option<PathBuf>,
    /// Override a setting of the recipe, for instance `--set memory_gib=4`. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "recipe")]
    overrides: Vec<String>,
    /// Plan for a run on this many ranks, each with the memory of this machine: what one of them holds.
    #[arg(long, value_name = "N", requires = "recipe", conflicts_with = "cluster")]
    ranks: Option<NonZeroUsize>,
    /// Plan for the cluster that this TOML file describes: degrees of parallelism, memory, time, least number of
    /// devices.
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// With --cluster: a config.json, a model directory, or a name on the hub. Only config.json is read.
    #[arg(long, short, value_name = "PATH|NAME", requires = "cluster")]
    model: Option<String>,
    /// With --cluster: print the least number of devices for several numbers of layers per segment and assumptions.
    #[arg(long, requires = "cluster")]
    least_devices: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Makes the plan of the stage that the recipe names, or of a cluster, and prints it.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let of_recipe = |recipe| RecipeArguments { recipe, overrides: arguments.overrides.clone() };
    let recipe = arguments.recipe.clone().map(of_recipe);
    match (&arguments.cluster, &recipe) {
        (Some(cluster), recipe) => {
            let (model, least_devices, json) =
                (arguments.model.as_deref(), arguments.least_devices, arguments.json);
            plan_cluster::run(
                &Request { cluster, recipe: recipe.as_ref(), model, least_devices, json },
                context,
            )
        }
        (None, Some(recipe)) => {
            let n_ranks = arguments.ranks.map_or(1, NonZeroUsize::get);
            let show = stages::of_recipe(recipe)?.show;
            show(recipe, n_ranks, arguments.json, context).map_err(with_way_without_weights)
        }
        (None, None) => Err(no_recipe("truing plan recipes/tiny.toml")),
    }
}

/// Adds to an error of missing weights how to plan with config.json alone.
fn with_way_without_weights(error: anyhow::Error) -> anyhow::Error {
    let Some(StageError::Run(RunError::Model(ModelError::NoWeights { path }))) = error.downcast_ref() else {
        return error;
    };
    let config = clean_path(&path.join("config.json"));
    let hint = format!("`truing plan --cluster CLUSTER.toml --model {config}` plans without weights");
    anyhow::Error::new(Hinted { source: error, hint })
}

/// Prints the plan of a decoder's training, with every choice of k.
pub(super) fn print(plan: &TrainingPlan, context: &Context) -> anyhow::Result<()> {
    let printer = &context.printer;
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    for row in plan.table() {
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
    printer.line(printer.styled(Style::Bold, plan.summary()))?;
    Ok(())
}

/// The same as one JSON object.
pub(super) fn to_json(plan: &TrainingPlan) -> Value {
    let rows: serde_json::Map<String, Value> =
        plan.table().into_iter().map(|row| (row.name, amount_json(row.amount))).collect();
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
        "peak_bytes": plan.peak_bytes(),
        "budget_bytes": plan.memory.budget_bytes,
        "n_steps": plan.n_steps,
        "reason": plan.summary(),
        "rows": rows,
        "by_layers_per_segment": ways,
    })
}

/// Announces an evaluation: its plan in one sentence, and the smallest differences that its items can show.
pub(super) fn announce_differences(plan: &impl StagePlan, context: &Context) {
    context.printer.note(plan.summary());
    for row in plan.table().iter().filter(|row| row.name.contains("smallest difference")) {
        context.printer.note(format_args!("{}: {}", row.name, amount_text(row.amount)));
    }
}
