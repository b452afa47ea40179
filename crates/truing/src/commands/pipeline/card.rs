//! `truing pipeline card`: the card of a model.

use std::path::PathBuf;

use clap::Args;
use truing_pipeline::{Lineage, ModelCard};
use truing_store::atomic;

use super::Opened;
use super::host::ProgramHost;
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::clean_path;

/// Arguments of `truing pipeline card`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The pipeline's recipe, a TOML file.
    recipe: PathBuf,
    /// The stage that left the model.
    stage: String,
    /// The model's licence. Default: the one that all models and rows it was made of state.
    #[arg(long, value_name = "ID")]
    license: Option<String>,
    /// Write the card to this file, for instance `README.md`, instead of printing it.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object: what the card is made of.
    #[arg(long)]
    json: bool,
}

/// Writes or prints the card.
pub(super) fn run(arguments: &Arguments, context: &Context) -> anyhow::Result<Outcome> {
    let host = ProgramHost::new(context, None);
    let opened = Opened::open(&arguments.recipe, &host)?;
    let lineage = Lineage::open(&opened.pipeline, &opened.plan, &opened.store, &opened.digests, &host)?;
    let card = ModelCard::of(&lineage, &arguments.stage, arguments.license.as_deref())?;
    opened.save_digests(&host);
    let printer = context.printer;
    if card.license.is_none() {
        printer.warning("no licence is stated by all models and rows; `--license` gives the model's");
    }
    let text = card.to_markdown();
    if let Some(output) = &arguments.output {
        atomic::write(output, text.as_bytes())?;
    }
    match (&arguments.output, arguments.json) {
        (_, true) => printer.json(&card)?,
        (Some(output), false) => printer.line(format_args!("card  {}", clean_path(output)))?,
        (None, false) => printer.text(&text)?,
    }
    Ok(Outcome::Fine)
}
