//! `truing report`: writes a run's page anew from its folder.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::Context;
use crate::outcome::{Outcome, WithHint};
use crate::printer::clean_path;

/// Arguments of `truing report`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Folder of a run, or of a whole pipeline such as the quickstart's.
    folder: PathBuf,
    /// Output file. Default: `report.html` in the folder.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Reads the folder and writes the page.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let page = arguments.output.clone().unwrap_or_else(|| arguments.folder.join("report.html"));
    truing_report::write_report(&arguments.folder, &page)
        .hint(|| "a run's folder is what `output_dir` named in its recipe".into())?;
    if arguments.json {
        context.printer.json(&json!({ "page": clean_path(&page) }))?;
    } else {
        context.printer.line(clean_path(&page))?;
    }
    Ok(Outcome::Fine)
}
