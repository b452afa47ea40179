//! The remote of a pipeline, and `truing pipeline push` and `pull`.

use std::fs;
use std::path::PathBuf;
use std::process;

use clap::Args;
use serde_json::json;
use truing_pipeline::{Pipeline, Remote, Store, Transfer, Transfers, pull, push};

use super::Opened;
use super::host::ProgramHost;
use crate::environment::Environment;
use crate::outcome::{Outcome, WithHint};
use crate::table::{Align, Table};
use crate::{Context, interrupt, units};

/// Arguments of `truing pipeline push` and `pull`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The pipeline's recipe, a TOML file.
    recipe: PathBuf,
    /// The stage. Default: all.
    stage: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// The store with the remote that the recipe names; as it is where the recipe names none.
pub(super) fn connected(pipeline: &Pipeline, store: Store) -> anyhow::Result<Store> {
    let Some(url) = &pipeline.remote else { return Ok(store) };
    let remote = Remote::open(url, &Environment::of_storage(), owner()?)
        .hint(|| "`--offline` leaves the remote out; docs/pipeline.md describes remotes".into())?;
    Ok(store.with_remote(remote))
}

/// The same; an error where the recipe names none.
pub(super) fn required(pipeline: &Pipeline, store: Store) -> anyhow::Result<Store> {
    if pipeline.remote.is_none() {
        anyhow::bail!("the recipe has no remote: expected `remote` in the table `[pipeline]`");
    }
    connected(pipeline, store)
}

/// This process, by a name that no other one has.
fn owner() -> anyhow::Result<String> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "a machine" } else { host.trim() };
    let number = getrandom::u64().map_err(|error| anyhow::anyhow!("no random number: {error}"))?;
    Ok(format!("{host} (process {}, {number:016x})", process::id()))
}

pub(super) fn run_push(arguments: &Arguments, context: &Context) -> anyhow::Result<Outcome> {
    let host = ProgramHost::new(context, None);
    // What is here is uploaded: the remote is not asked for the rest.
    let opened = Opened::open(&arguments.recipe, &host)?;
    let Opened { pipeline, store, digests, plan } = &opened;
    let store = required(pipeline, store.clone())?;
    let stage = stage(arguments, pipeline)?;
    let stop = interrupt::stop_flag("stopping after this result");
    let transfers = push(pipeline, plan, &store, digests, &host, stage, &stop)?;
    opened.save_digests(&host);
    end(&transfers, arguments, context)
}

pub(super) fn run_pull(arguments: &Arguments, context: &Context) -> anyhow::Result<Outcome> {
    let host = ProgramHost::new(context, None);
    let Opened { pipeline, store, plan, .. } = Opened::open_shared(&arguments.recipe, false, &host)?;
    let stage = stage(arguments, &pipeline)?;
    let stop = interrupt::stop_flag("stopping: what was fetched is kept");
    let transfers = pull(&pipeline, &plan, &store, &host, stage, &stop)?;
    end(&transfers, arguments, context)
}

fn stage(arguments: &Arguments, pipeline: &Pipeline) -> anyhow::Result<Option<usize>> {
    Ok(arguments.stage.as_ref().map(|stage| pipeline.stage_index(stage)).transpose()?)
}

/// Prints what became of the results. A result that differs from that of the remote is a finding.
fn end(transfers: &Transfers, arguments: &Arguments, context: &Context) -> anyhow::Result<Outcome> {
    if arguments.json {
        let stages = transfers.stages.iter().map(|(stage, transfer)| {
            let mut fields = json!({ "stage": stage });
            if let (Some(fields), Ok(serde_json::Value::Object(outcome))) =
                (fields.as_object_mut(), serde_json::to_value(transfer))
            {
                fields.extend(outcome);
            }
            fields
        });
        let stages: Vec<serde_json::Value> = stages.collect();
        context.printer.json(&json!({ "stages": stages, "is_interrupted": transfers.is_interrupted }))?;
    } else {
        let mut table = Table::new(&[("stage", Align::Left), ("result", Align::Left)]);
        for (stage, transfer) in &transfers.stages {
            table.row([stage.clone(), words(transfer)]);
        }
        for line in table.lines() {
            context.printer.line(line)?;
        }
    }
    let differs = transfers.stages.iter().any(|(_, transfer)| *transfer == Transfer::Differs);
    Ok(match transfers {
        Transfers { is_interrupted: true, .. } => Outcome::Interrupted,
        _ if differs => Outcome::Finding,
        _ => Outcome::Fine,
    })
}

fn words(transfer: &Transfer) -> String {
    match transfer {
        Transfer::Uploaded { bytes } => format!("uploaded, {}", units::bytes(*bytes)),
        Transfer::Fetched { bytes } => format!("fetched, {}", units::bytes(*bytes)),
        Transfer::WasThere => "there already".to_owned(),
        Transfer::Differs => {
            "the remote has another result of this key, which counts; not uploaded".to_owned()
        }
        Transfer::NoResult => "no result".to_owned(),
        Transfer::Gate => "a gate: its file comes from people".to_owned(),
    }
}
