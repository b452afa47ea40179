//! `truing merge`: several models become one, as a recipe or a file of mergekit says.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use truing_evaluate::merge_search::MergeSearchStage;
use truing_model::merge::{MergeError, MergePlan, MergeRecipe, MergeReport, REPORT_FILE, Spread};
use truing_run::recipe::{FileKind, read_kind, resolve_model};
use truing_types::Event;

use super::merge_probe as probe;
use super::model;
use super::stage::{self, read_recipe};
use crate::Context;
use crate::interrupt;
use crate::outcome::{Outcome, WithHint};
use crate::printer::Style;
use crate::progress;
use crate::table::{Align, Table};
use crate::units;

/// Arguments of `truing merge`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The recipe, a TOML file, or a YAML file of mergekit.
    #[arg(required = true)]
    recipe: Option<PathBuf>,
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

/// What else can be done with merges.
#[derive(Debug, Subcommand)]
enum Command {
    /// Search for the merge that loses least: methods and weights, chosen on a part of the items, confirmed on the
    /// others.
    #[command(after_help = "Examples:\
                            \n  truing merge search recipes/merge_search.toml --plan\
                            \n  truing merge search recipes/merge_search.toml")]
    Search(stage::Arguments),
}

/// Whether a YAML file is one of mergekit, by the key that all of its files have.
pub(crate) fn is_of_mergekit(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("merge_method:"))
}

/// Whether a path where a model is expected is the recipe of a merge.
pub(crate) fn is_recipe(path: &Path) -> bool {
    let is_of = |known: &str| path.extension().is_some_and(|extension| extension == known);
    (is_of("toml") || is_of("yaml") || is_of("yml")) && path.is_file()
}

/// The model that a recipe makes: merged into the recipe's `output_dir` where it is not there. A folder with another
/// merge is refused.
pub(crate) fn made(path: &Path, context: &Context) -> anyhow::Result<PathBuf> {
    let mut recipe = read(path, None, context)?;
    recipe.check()?;
    recipe.find_models(&mut |name| model::find(name, context))?;
    let output = recipe
        .output_dir
        .clone()
        .with_context(|| format!("{} has no `output_dir`", path.display()))
        .hint(|| "a run that starts from a merge keeps the merged model there".into())?;
    let plan = MergePlan::new(recipe)?;
    if output.exists() {
        if recipe_of(&output)? != without_output(serde_json::to_value(plan.recipe())?) {
            bail!("{} holds another merge than {} describes", output.display(), path.display());
        }
        context.printer.note(format_args!("{} holds this merge already", output.display()));
        return Ok(output);
    }
    context.printer.note(summary_line(&plan));
    // Before the run begins Ctrl-C ends the process; the folder is there when it is complete.
    carry_out(&plan, &output, &AtomicBool::new(false), context)?;
    Ok(output)
}

/// The recipe of a merged model.
fn recipe_of(folder: &Path) -> anyhow::Result<serde_json::Value> {
    let path = folder.join(REPORT_FILE);
    let bytes = std::fs::read(&path)
        .with_context(|| format!("{} is there and holds no merged model", folder.display()))?;
    let report: serde_json::Value =
        serde_json::from_slice(&bytes).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(without_output(report["recipe"].clone()))
}

fn without_output(mut recipe: serde_json::Value) -> serde_json::Value {
    if let Some(fields) = recipe.as_object_mut() {
        fields.remove("output_dir");
    }
    recipe
}

/// Merges; `None` where the user stopped it.
fn carry_out(
    plan: &MergePlan,
    output: &Path,
    stop: &AtomicBool,
    context: &Context,
) -> anyhow::Result<Option<MergeReport>> {
    let mut events = progress::for_this_terminal(&context.printer);
    events.emit(Event::PhaseStarted { phase: "merging".into(), total: Some(plan.n_tensors() as u64) });
    let merged =
        plan.run(output, stop, &mut |done| events.emit(Event::Progress { done, note: String::new() }));
    let report = match merged {
        Err(MergeError::Interrupted) => return Ok(None),
        merged => merged?,
    };
    events.emit(Event::PhaseFinished);
    Ok(Some(report))
}

/// Reads the recipe, plans, merges, and says what came out.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    if let Some(Command::Search(arguments)) = &arguments.command {
        return stage::run::<MergeSearchStage>(arguments, context);
    }
    let path = arguments.recipe.as_deref().context("no recipe is given")?;
    let mut recipe = read(path, arguments.output.as_deref(), context)?;
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
    let Some(report) = carry_out(&plan, &output, &stop, context)? else { return Ok(Outcome::Interrupted) };
    let probed = match plan.matches_tokens() && plan.recipe().save_adapter.is_none() {
        true => probe::compare(&plan, &output, context)?,
        false => Vec::new(),
    };
    if arguments.json {
        context.printer.json(&json!({
            "method": report.method, "output": output, "bytes": report.bytes_out, "dtype": plan.dtype,
            "remarks": report.remarks, "summary": report.summary(), "tensors": report.tensors,
            "bits_per_byte": probed,
        }))?;
    } else {
        show_report(&report, &output, context)?;
        probe::show(&probed, context)?;
    }
    Ok(Outcome::Fine)
}

/// The recipe, with paths relative to where the program runs.
fn read(path: &Path, output: Option<&Path>, context: &Context) -> anyhow::Result<MergeRecipe> {
    let text = read_recipe(path)?;
    let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let mut recipe: MergeRecipe = if is_yaml {
        let imported = match truing_import::merge_recipe(&text, path) {
            Err(_) if !is_of_mergekit(&text) => {
                return Err(anyhow::anyhow!(
                    "{} is no file of mergekit: it has no `merge_method`",
                    path.display()
                ))
                .hint(|| {
                    format!("`truing import {}` makes a recipe of a file of another tool", path.display())
                });
            }
            imported => imported?,
        };
        imported.remarks.iter().for_each(|remark| context.printer.note(remark));
        let recipe = serde_json::from_value(imported.recipe).with_context(|| path.display().to_string())?;
        MergeRecipe { tolerates_unused_parameters: true, ..recipe }
    } else {
        read_kind(&text, path, FileKind::Merge)?
    };
    resolve_paths(&mut recipe, path.parent().unwrap_or(Path::new("")), is_yaml);
    if let Some(output) = output {
        recipe.output_dir = Some(output.to_path_buf());
    }
    Ok(recipe)
}

/// Paths in a recipe are relative to its folder; those of mergekit's files to where the program runs, else to the
/// folder.
pub(super) fn resolve_paths(recipe: &mut MergeRecipe, folder: &Path, is_yaml: bool) {
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
        context.printer.line(format!("sign conflicts: {} of nonzero entries", percent(share)))?;
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
            // A search is a stage, whose recipes are read elsewhere.
            if text.contains("stage =") {
                continue;
            }
            let whole = match text.starts_with("parameters") {
                true => format!("method = \"slerp\"\nbase_model = \"a\"\n{text}[[models]]\nmodel = \"b\"\n"),
                false => text.to_owned(),
            };
            let recipe: MergeRecipe =
                read_kind(&whole, &path, FileKind::Merge).unwrap_or_else(|error| panic!("{error}"));
            recipe.check().unwrap_or_else(|error| panic!("{error}\n{whole}"));
            n_recipes += 1;
        }
        assert_eq!(n_recipes, 3);
    }
}
