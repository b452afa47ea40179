//! `truing pipeline export`: a pipeline as a workflow of another program.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;
use truing_pipeline::{KubernetesOptions, StageNeeds, argo_workflow, snakefile};
use truing_store::atomic;

use super::Opened;
use super::host::ProgramHost;
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::clean_path;

/// Memory that is asked for, for each byte that a stage was measured or predicted to need.
const ROOM: f64 = 1.1;
const GIB: f64 = (1u64 << 30) as f64;

/// Arguments of `truing pipeline export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The pipeline's recipe, a TOML file.
    recipe: PathBuf,
    /// The program that the workflow is for.
    #[arg(long, value_enum)]
    format: Format,
    /// Output file. Default: the workflow is printed; a Snakefile is then one for the recipe's folder.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Memory of stages that have no result and no prediction, in GiB.
    #[arg(long, value_name = "GIB")]
    memory_gib: Option<f64>,
    /// Kubernetes: image of the containers, with `truing` on its path.
    #[arg(long, value_name = "NAME", default_value = concat!("truing:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Kubernetes: claim of the volume that holds the recipe's folder.
    #[arg(long, value_name = "NAME", default_value = "truing")]
    volume_claim: String,
    /// Kubernetes: where containers see the recipe's folder.
    #[arg(long, value_name = "PATH", default_value = "/pipeline")]
    mount: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Programs that run workflows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// A Snakefile for Snakemake.
    Snakemake,
    /// A workflow of Argo for Kubernetes.
    Kubernetes,
}

/// Plans the pipeline, and writes or prints the workflow.
pub(super) fn run(arguments: &ExportArguments, context: &Context) -> anyhow::Result<Outcome> {
    if let Some(gib) = arguments.memory_gib.filter(|gib| !gib.is_finite() || *gib <= 0.0) {
        bail!("`--memory-gib` is {gib}, expected a number above 0");
    }
    let host = ProgramHost::new(context, None);
    let opened = Opened::open(&arguments.recipe, &host)?;
    let needs = needs(&opened, &host, arguments, context)?;
    let text = match arguments.format {
        Format::Snakemake => {
            let folder = match &arguments.output {
                Some(output) => {
                    let output = std::path::absolute(output).with_context(|| clean_path(output))?;
                    output.parent().context("expected the path of a file")?.to_path_buf()
                }
                None => opened.pipeline.folder.clone(),
            };
            snakefile(&opened.pipeline, &opened.plan, &needs, &folder)
        }
        Format::Kubernetes => {
            let options = KubernetesOptions {
                image: arguments.image.clone(),
                volume_claim: arguments.volume_claim.clone(),
                mount: arguments.mount.clone(),
            };
            argo_workflow(&opened.pipeline, &needs, &options)
        }
    };
    if let Some(output) = &arguments.output {
        atomic::write(output, text.as_bytes())?;
    }
    let printer = context.printer;
    if arguments.json {
        let stages = opened.pipeline.stages.iter().zip(&needs);
        let stages = stages.map(|(stage, StageNeeds { threads, memory_bytes })| {
            json!({ "stage": stage.name, "threads": threads, "memory_bytes": memory_bytes })
        });
        let stages: Vec<_> = stages.collect();
        let text = arguments.output.is_none().then_some(text);
        let output = arguments.output.as_deref().map(clean_path);
        let format = arguments.format;
        printer.json(&json!({ "format": format, "output": output, "stages": stages, "text": text }))?;
    } else {
        match &arguments.output {
            Some(output) => printer.line(clean_path(output))?,
            None => printer.text(&text)?,
        }
    }
    Ok(Outcome::Fine)
}

/// What each stage needs: the memory that its result was measured with, or what it predicts for itself, with some room.
fn needs(
    opened: &Opened,
    host: &ProgramHost<'_>,
    arguments: &ExportArguments,
    context: &Context,
) -> anyhow::Result<Vec<StageNeeds>> {
    let predicted = host.predictions(&opened.pipeline, &opened.plan, &opened.store, true)?;
    let otherwise = arguments.memory_gib.map(|gib| (gib * GIB) as u64);
    let of_stage = |(idx, stage): (usize, &truing_pipeline::PlannedStage)| {
        let is_gate = opened.pipeline.stages[idx].uses == "gate";
        let measured = stage.done.as_ref().and_then(|done| done.peak_bytes);
        let known = measured.or_else(|| predicted.get(&stage.name)?.get("peak_bytes")?.as_u64());
        let with_room = known.map(|bytes| (bytes as f64 * ROOM) as u64);
        StageNeeds {
            threads: if is_gate { 1 } else { context.n_threads },
            memory_bytes: with_room.or(otherwise.filter(|_| !is_gate)),
        }
    };
    Ok(opened.plan.stages.iter().enumerate().map(of_stage).collect())
}
