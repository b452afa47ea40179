//! `truing pipeline impact`: what falls when rows are removed.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use truing_pipeline::{Impact, Lineage, ModelImpact, Selector, Written, impact, write_without};
use truing_types::counted;

use super::Opened;
use super::host::ProgramHost;
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::clean_path;
use crate::table::{Align, Table};

/// Arguments of `truing pipeline impact`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The pipeline's recipe, a TOML file.
    recipe: PathBuf,
    /// Rows that are removed: those with this value in this field (`a.b` reaches inside). `model`, `judge`,
    /// `annotator`, `source` and `license` select every field in which stages record them. May be given several times.
    #[arg(long, value_name = "FIELD=VALUE", required = true)]
    remove: Vec<String>,
    /// Write filtered copies of the files with such rows, the list of all rows that fall, and this new recipe, which
    /// reads the copies. It has to be beside the recipe.
    #[arg(long, value_name = "NEW.toml")]
    write: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Follows the rows forward, and prints or writes what falls.
pub(super) fn run(arguments: &Arguments, context: &Context) -> anyhow::Result<Outcome> {
    let selectors =
        arguments.remove.iter().map(|text| Selector::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let host = ProgramHost::new(context, None);
    let opened = Opened::open(&arguments.recipe, &host)?;
    let lineage = Lineage::open(&opened.pipeline, &opened.plan, &opened.store, &opened.digests, &host)?;
    let found = impact(&lineage, &selectors)?;
    opened.save_digests(&host);
    let written = match &arguments.write {
        Some(path) => {
            let absolute = std::path::absolute(path).with_context(|| clean_path(path))?;
            Some(write_without(&lineage, &found, &absolute)?)
        }
        None => None,
    };
    if arguments.json {
        context.printer.json(&json!({ "impact": found, "written": written }))?;
    } else {
        print(&found, written.as_ref(), arguments, context)?;
    }
    Ok(Outcome::Fine)
}

fn print(
    found: &Impact,
    written: Option<&Written>,
    arguments: &Arguments,
    context: &Context,
) -> anyhow::Result<()> {
    let printer = context.printer;
    let mut table = Table::new(&[
        ("file", Align::Left),
        ("rows", Align::Right),
        ("match", Align::Right),
        ("fall", Align::Right),
        ("share", Align::Right),
        ("changed", Align::Right),
    ]);
    for file in &found.files {
        let name = match &file.stage {
            Some(stage) => format!("{stage}/{}", file.file),
            None => file.file.clone(),
        };
        let count = |n: u64| if n == 0 { "-".to_owned() } else { n.to_string() };
        let share = format!("{:.1} %", 100.0 * file.share);
        let (matching, removed, changed) = (file.n_matching, file.n_removed, file.n_changed);
        table.row([name, file.n_rows.to_string(), count(matching), count(removed), share, count(changed)]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    printer.line("")?;
    let again = if found.runs_again.is_empty() { "nothing".to_owned() } else { found.runs_again.join(", ") };
    printer.line(format_args!("runs again: {again}"))?;
    for ModelImpact { stage, uses, n_rows, n_removed, from } in &found.models {
        let from =
            if from.is_empty() { String::new() } else { format!("; follows from {}", from.join(", ")) };
        printer.line(format_args!(
            "model of {stage} ({uses}): {n_removed} of {n_rows} rows that it reads{from}"
        ))?;
    }
    for named in &found.named {
        printer.line(format_args!("{} names it in `{}`", named.stage, named.setting))?;
    }
    for remark in &found.remarks {
        printer.warning(remark);
    }
    let Some(Written { recipe, removed, filtered }) = written else { return Ok(()) };
    printer.line("")?;
    for file in filtered {
        let (path, copy) = (clean_path(&file.path), clean_path(&file.copy));
        printer.line(format_args!(
            "{copy}: {path} without {}; {} with fewer responses",
            counted(file.n_removed, "row", "rows"),
            file.n_changed
        ))?;
    }
    printer.line(format_args!("rows that fall  {}", clean_path(removed)))?;
    // As it was typed where it was.
    let recipe = arguments.write.as_ref().unwrap_or(recipe);
    printer.line(format_args!("to run without them: truing pipeline apply {}", clean_path(recipe)))?;
    Ok(())
}
