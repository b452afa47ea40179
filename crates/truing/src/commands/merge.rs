//! `truing merge`: several models become one, as a recipe or a file of mergekit says.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use truing_model::merge::{MergeError, MergePlan, MergeRecipe, MergeReport, Spread};
use truing_run::recipe::{read_toml, resolve_model};
use truing_types::Event;

use super::model;
use super::stage::read_recipe;
use crate::Context;
use crate::interrupt;
use crate::outcome::{Outcome, WithHint};
use crate::printer::Style;
use crate::progress;
use crate::table::{Align, Table};
use crate::units;

/// Arguments of `truing merge`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The recipe, a TOML file, or a YAML file of mergekit.
    recipe: PathBuf,
    /// The folder of the merged model, in place of the recipe's `output_dir`. It must not exist yet.
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Check everything, print what would be merged, and stop. No tensor is read.
    #[arg(long, visible_alias = "dry-run")]
    plan: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

/// Reads the recipe, plans, merges, and says what came out.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let mut recipe = read(arguments, context)?;
    // Before a model is looked for or fetched.
    recipe.check()?;
    recipe.find_models(&mut |name| model::find(name, context))?;
    let output = recipe.output_dir.clone();
    let plan = MergePlan::new(recipe)?;
    for remark in &plan.remarks {
        context.printer.warning(remark);
    }
    if arguments.plan {
        show_plan(&plan, arguments.json, context)?;
        return Ok(Outcome::Fine);
    }
    let output =
        output.context("the recipe has no `output_dir`").hint(|| "`--output FOLDER` names it".into())?;
    if !arguments.json {
        context.printer.note(summary_line(&plan));
    }
    let stop = interrupt::stop_flag("stopping: nothing will be saved");
    let mut events = progress::for_this_terminal(&context.printer);
    events.emit(Event::PhaseStarted { phase: "merging".into(), total: Some(plan.n_tensors() as u64) });
    let merged =
        plan.run(&output, &stop, &mut |done| events.emit(Event::Progress { done, note: String::new() }));
    let report = match merged {
        Err(MergeError::Interrupted) => return Ok(Outcome::Interrupted),
        merged => merged?,
    };
    events.emit(Event::PhaseFinished);
    if arguments.json {
        context.printer.json(&json!({
            "method": report.method, "output": output, "bytes": report.bytes_out, "dtype": plan.dtype,
            "remarks": report.remarks, "summary": report.summary(), "tensors": report.tensors,
        }))?;
    } else {
        show_report(&report, &output, context)?;
    }
    Ok(Outcome::Fine)
}

/// The recipe, with paths relative to where the program runs.
fn read(arguments: &Arguments, context: &Context) -> anyhow::Result<MergeRecipe> {
    let path = &arguments.recipe;
    let text = read_recipe(path)?;
    let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let mut recipe: MergeRecipe = if is_yaml {
        let imported = truing_import::merge_recipe(&text, path)?;
        imported.remarks.iter().for_each(|remark| context.printer.note(remark));
        let recipe = serde_json::from_value(imported.recipe).with_context(|| path.display().to_string())?;
        MergeRecipe { tolerates_unused_parameters: true, ..recipe }
    } else {
        read_toml(&text, path)?
    };
    resolve_paths(&mut recipe, path.parent().unwrap_or(Path::new("")), is_yaml);
    if let Some(output) = &arguments.output {
        recipe.output_dir = Some(output.clone());
    }
    Ok(recipe)
}

/// Paths in a recipe are relative to its folder; those of mergekit's files to where the program runs, else to the folder.
fn resolve_paths(recipe: &mut MergeRecipe, folder: &Path, is_yaml: bool) {
    let resolve = |name: &mut String| {
        if !(is_yaml && Path::new(name).exists()) {
            resolve_model(name, folder);
        }
    };
    recipe.base_model.iter_mut().for_each(resolve);
    for model in &mut recipe.models {
        resolve(&mut model.model);
        model.adapter.iter_mut().for_each(resolve);
    }
    for slice in &mut recipe.slices {
        slice.base_model.iter_mut().for_each(resolve);
        for source in &mut slice.sources {
            resolve(&mut source.model);
            source.adapter.iter_mut().for_each(resolve);
        }
    }
    recipe.tokenizer.iter_mut().chain(&mut recipe.chat_template).for_each(|name| {
        // `base`, `union` and `auto` are words, whatever folders there are.
        if !["base", "union", "none", "auto"].contains(&name.as_str()) {
            resolve(name);
        }
    });
    if let Some(output) = &mut recipe.output_dir {
        *output = folder.join(&*output);
    }
}

fn summary_line(plan: &MergePlan) -> String {
    format!(
        "{} of {} models: {} tensors, {} parameters, {} in {}",
        plan.method(),
        plan.models().len(),
        units::count(plan.n_tensors() as u64),
        units::count(plan.spec.n_parameters() as u64),
        units::bytes(plan.bytes_out()),
        plan.dtype.torch_name(),
    )
}

fn show_plan(plan: &MergePlan, as_json: bool, context: &Context) -> anyhow::Result<()> {
    let models: Vec<_> = plan.models().iter().enumerate().collect();
    if as_json {
        let models: Vec<_> = models
            .iter()
            .map(|(i, model)| {
                json!({ "model": model.path, "tensors": plan.n_tensors_of(*i), "weights": plan.weights_of(*i) })
            })
            .collect();
        return context.printer.json(&json!({
            "method": plan.method(), "models": models, "tensors": plan.n_tensors(), "bytes": plan.bytes_out(),
            "dtype": plan.dtype, "files": plan.n_shards(), "parameters": plan.spec.n_parameters(),
            "layers": plan.spec.n_layers, "vocabulary": plan.spec.vocab_size, "remarks": plan.remarks,
        }));
    }
    let mut table =
        Table::new(&[("model", Align::Left), ("tensors", Align::Right), ("weight", Align::Right)]);
    for (i, model) in models {
        let weight = match plan.weights_of(i) {
            None => "-".to_owned(),
            Some([low, high]) if low == high => format!("{low}"),
            Some([low, high]) => format!("{low} to {high}"),
        };
        table.row([model.path.display().to_string(), units::count(plan.n_tensors_of(i) as u64), weight]);
    }
    for line in table.lines() {
        context.printer.line(line)?;
    }
    context.printer.line("")?;
    let mut facts = Table::new(&[("", Align::Left), ("", Align::Right)]);
    facts.row(["layers", &plan.spec.n_layers.to_string()]);
    facts.row(["vocabulary", &units::count(plan.spec.vocab_size as u64)]);
    facts.row(["files of weights", &plan.n_shards().to_string()]);
    for line in facts.lines() {
        context.printer.line(line)?;
    }
    context.printer.line("")?;
    Ok(context.printer.line(context.printer.styled(Style::Bold, summary_line(plan)))?)
}

fn show_report(report: &MergeReport, output: &Path, context: &Context) -> anyhow::Result<()> {
    let summary = report.summary();
    let mut table = Table::new(&[
        ("", Align::Left),
        ("mean", Align::Right),
        ("lowest", Align::Right),
        ("highest", Align::Right),
    ]);
    let spread = |name: &str, spread: &Spread| {
        let figure = |value: f64| format!("{value:.4}");
        [name.to_owned(), figure(spread.mean), figure(spread.lowest), figure(spread.highest)]
    };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let figures: Vec<[String; 4]> = summary
        .cosine
        .iter()
        .map(|of| spread(if summary.ratio.is_some() { "c, cosine of deltas" } else { "cosine" }, of))
        .chain(summary.ratio.iter().map(|of| spread("t, share of the mean", of)))
        .collect();
    let has_figures = !figures.is_empty();
    for row in figures {
        table.row(row);
    }
    if has_figures {
        for line in table.lines() {
            context.printer.line(line)?;
        }
    }
    if let Some(lowest) = &summary.ratio {
        context.printer.line(format!("lowest t: {}", lowest.lowest_tensor))?;
    }
    if let Some(share) = summary.share_guarded.filter(|share| *share > 0.0) {
        context
            .printer
            .line(format!("deltas that oppose each other, base kept: {} of the values", percent(share)))?;
    }
    if let Some(n_linear) = summary.n_linear {
        context.printer.line(format!(
            "interpolated linearly, since nearly parallel: {n_linear} of {} tensors",
            report.tensors.len()
        ))?;
    }
    for kept in &summary.kept {
        context.printer.line(format!("kept of {}: {}", kept.model.display(), percent(kept.share)))?;
    }
    if let Some(share) = summary.sign_conflicts {
        context.printer.line(format!("sign conflicts: {} of the places with an entry", percent(share)))?;
    }
    Ok(context.printer.line(format!(
        "merged model  {}  ({})",
        output.display(),
        units::bytes(report.bytes_out)
    ))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipes_of_the_page_are_recipes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/merge.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let blocks = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        let mut n_recipes = 0;
        for text in blocks {
            // A block of settings alone stands for a part of a recipe.
            let whole = match text.starts_with("parameters") {
                true => format!("method = \"slerp\"\nbase_model = \"a\"\n{text}[[models]]\nmodel = \"b\"\n"),
                false => text.to_owned(),
            };
            let recipe: MergeRecipe = read_toml(&whole, &path).unwrap_or_else(|error| panic!("{error}"));
            recipe.check().unwrap_or_else(|error| panic!("{error}\n{whole}"));
            n_recipes += 1;
        }
        assert_eq!(n_recipes, 3);
    }
}
