//! `truing plan --cluster`: degrees of parallelism, memory and time of a training run on devices that are not here,
//! from config.json and a description of the cluster.

mod tables;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use truing_model::families::{ConfigFile, spec_from_config};
use truing_model::{DecoderSpec, EngineError, LoraSpec, ModelFiles, TrainableSpec};
use truing_stages::Recipe as _;
use truing_stages::recipe::{FileKind, place_of, read_kind, stage_of};
use truing_stages::training::TrainingConfig;
use truing_train::LayersPerSegment;
use truing_train::cluster::{
    ClusterChoice, ClusterConfig, ClusterError, ClusterPlan, Degrees, LayerActivations, LeastDevicesRow,
    LeastDevicesTable, REPORT_DEVICES, least_devices_table,
};
use truing_types::StageName;

use super::model;
use super::recipe_arguments::RecipeArguments;
use super::stage::read_toml_recipe;
use crate::Context;
use crate::outcome::{Outcome, WithHint};
use crate::printer::Style;
use crate::table::{Align, Table};
use crate::units;

/// What is asked for.
pub(super) struct Request<'a> {
    /// The cluster's file.
    pub(super) cluster: &'a Path,
    /// A recipe whose model, length, step, adapters and k are planned for.
    pub(super) recipe: Option<&'a RecipeArguments>,
    /// The model, in place of the recipe's.
    pub(super) model: Option<&'a str>,
    /// Print the table of the least number of devices.
    pub(super) least_devices: bool,
    /// Print one JSON object.
    pub(super) json: bool,
}

/// Reads cluster, recipe and config.json, plans, and prints.
pub(super) fn run(request: &Request<'_>, context: &Context) -> anyhow::Result<Outcome> {
    let path = request.cluster;
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))
        .hint(|| "a cluster is a TOML file; `recipes/cluster_h100.toml` is an example".into())?;
    let mut config: ClusterConfig = read_kind(&text, path, FileKind::Cluster)?;
    let training = request.recipe.map(read_training).transpose()?;
    let trainable = training.as_ref().map_or_else(TrainableSpec::default, TrainingConfig::trainable);
    if let Some(training) = &training {
        take_over(training, &mut config);
    }
    let of_recipe = training.as_ref().map(|training| training.model_name_or_path.as_str());
    let reference = request.model.or(of_recipe).filter(|name| !name.is_empty());
    let reference = reference
        .context("no model is given")
        .hint(|| "`--model` takes a config.json, a model directory, or a name of the hub".into())?;
    let spec = read_spec(reference, context)?;
    check_targets(&spec, &trainable)?;
    let length = config.training.sample_length.unwrap_or(config.training.sequence_length);
    if length > spec.max_position_embeddings {
        context.printer.warning(format_args!(
            "samples of {length} tokens are longer than the model's context of {}",
            spec.max_position_embeddings
        ));
    }
    let planned = match request.least_devices {
        true => least_devices_table(&config, &spec, &trainable)
            .map(|table| print_least_devices(&table, &config, request.json, context)),
        false => ClusterPlan::resolve(&config, &spec, &trainable)
            .map(|plan| print_plan(&plan, &config, reference, request.json, context)),
    };
    match planned {
        Ok(printed) => printed.map(|()| Outcome::Fine),
        Err(error) => {
            // What the recipe has set is no setting of the cluster's file.
            let recipe = request.recipe.map(|arguments| arguments.recipe.as_path());
            match error.setting().zip(recipe).filter(|(key, _)| TAKEN_OVER.contains(key)) {
                Some((_, recipe)) => Err(anyhow::anyhow!("{}: {error}", recipe.display())),
                None => refuse(&error, &text, path, request.json, context),
            }
        }
    }
}

/// The recipe of a stage whose work is that of a step of training.
fn read_training(arguments: &RecipeArguments) -> anyhow::Result<TrainingConfig> {
    let path = &arguments.recipe;
    let text = read_toml_recipe(path)?;
    let stage = stage_of(&text, path)?;
    if !matches!(stage, StageName::Sft | StageName::Dpo) {
        bail!(
            "{}: a cluster is planned for recipes of stage \"sft\" or \"dpo\", and this is one of \"{stage}\"; \
             `--model` and the tables [training] and [rollouts] of the cluster's file plan without a recipe",
            path.display()
        );
    }
    Ok(TrainingConfig::from_toml(&text, path, &arguments.overrides)?)
}

/// What [`take_over`] sets.
const TAKEN_OVER: [&str; 3] =
    ["training.sequence_length", "training.sequences_per_step", "degrees.layers_per_segment"];

/// Puts a recipe's length, step and k in place of the cluster's.
fn take_over(recipe: &TrainingConfig, config: &mut ClusterConfig) {
    let training = &mut config.training;
    training.sequence_length = recipe.max_length as usize;
    training.sample_length = training.sample_length.map(|length| length.min(training.sequence_length));
    training.sequences_per_step = match recipe.tokens_per_step {
        Some(tokens) => tokens.div_ceil(u64::from(recipe.max_length.max(1))) as usize,
        None => recipe.packs_per_step,
    };
    let most = training.sequences_per_step;
    training.micro_batches.retain(|&micro_batch| micro_batch <= most);
    if training.micro_batches.is_empty() {
        training.micro_batches.push(1);
    }
    if let LayersPerSegment::Fixed(k) = recipe.layers_per_segment.0 {
        config.degrees.layers_per_segment = Some(k);
    }
}

/// The model's sizes. Of a directory with config.json, and of a model of the hub, nothing else is read.
fn read_spec(reference: &str, context: &Context) -> anyhow::Result<DecoderSpec> {
    let path = Path::new(reference);
    let in_directory = path.join("config.json");
    let config = if in_directory.is_file() {
        in_directory
    } else if path.extension().is_some_and(|extension| extension == "json") {
        path.to_path_buf()
    } else if path.exists() {
        // A GGUF file, or an adapter on a model.
        return Ok(ModelFiles::open(path)?.spec);
    } else {
        model::find_config(reference, context)?
    };
    Ok(spec_from_config(&ConfigFile::open(&config)?)?)
}

/// Refuses adapters of projections that the model does not have.
fn check_targets(spec: &DecoderSpec, trainable: &TrainableSpec) -> anyhow::Result<()> {
    let Some(lora) = &trainable.lora else { return Ok(()) };
    for target in &lora.targets {
        let one = LoraSpec { targets: vec![target.clone()], ..lora.clone() };
        if spec.lora_parameters(&one).is_empty() {
            return Err(EngineError::UnknownLoraTarget { target: target.clone() }.into());
        }
    }
    Ok(())
}

/// Says what would fit, where nothing does; every other error gets the line of its setting.
fn refuse(
    error: &ClusterError,
    text: &str,
    path: &Path,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let ClusterError::DoesNotFit { least_devices, .. } = error else {
        return Err(match error.setting() {
            Some(key) => anyhow::anyhow!("{}: {error}", place_of(key, text, path, &[])),
            None => anyhow::anyhow!("{}: {error}", path.display()),
        });
    };
    if as_json {
        let reason = error.to_string();
        context.printer.json(&json!({ "fits": false, "reason": reason, "least_devices": least_devices }))?;
        return Ok(Outcome::Finding);
    }
    let printer = &context.printer;
    printer.line(printer.styled(Style::Red, "this run does not fit"))?;
    printer.line(error)?;
    printer.line(match least_devices {
        Some(least) => format!("at least {least} devices of this kind are enough"),
        None => "no number of devices up to `assumptions.most_devices` is enough: more layers per segment, a larger \
                 sequence degree or shorter sequences"
            .to_owned(),
    })?;
    Ok(Outcome::Finding)
}

/// Prints the plan.
fn print_plan(
    plan: &ClusterPlan,
    config: &ClusterConfig,
    model: &str,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<()> {
    if as_json {
        return context.printer.json(&plan_json(plan, config));
    }
    let sections = [
        tables::head_table(plan, config, model),
        tables::choices_table(plan),
        tables::memory_table(plan.best(), plan.usable_bytes),
        tables::time_table(plan.best()),
        tables::segments_table(plan),
        tables::variations_table(plan),
        tables::assumptions_table(&config.assumptions),
    ];
    for table in sections {
        print_table(&table, context)?;
    }
    let printer = &context.printer;
    printer.line("Computed from the given rates and the assumptions above; nothing was measured.")?;
    let mut answer = Table::new(&[("", Align::Left)]);
    answer.row([summary(plan)]);
    for line in answer.lines() {
        printer.line(printer.styled(Style::Bold, line))?;
    }
    Ok(())
}

fn print_table(table: &Table, context: &Context) -> anyhow::Result<()> {
    for line in table.lines() {
        context.printer.line(line)?;
    }
    Ok(context.printer.line("")?)
}

/// The answer in a sentence.
fn summary(plan: &ClusterPlan) -> String {
    let best = plan.best();
    let (time, memory) = best.binds();
    let least = plan.least_devices.map_or_else(
        || "the search for the least number of devices found none".to_owned(),
        |least| format!("the least number of devices is {}", least.n_devices),
    );
    let Degrees { data, sequence, zero_stage, micro_batch } = best.degrees;
    format!(
        "data {data} x sequence {sequence}, ZeRO {}, micro-batch {micro_batch}, k = {}: {} tokens/s; most of the time \
         is {time}, most of the memory is {memory}; {least}",
        zero_stage.number(),
        best.segments.layers_per_segment,
        units::count(best.tokens_per_sec.round() as u64),
    )
}

/// The plan as one JSON object.
fn plan_json(plan: &ClusterPlan, config: &ClusterConfig) -> Value {
    let ways: Vec<Value> = plan
        .by_layers_per_segment
        .iter()
        .map(|way| {
            json!({
                "layers_per_segment": way.segments.layers_per_segment,
                "layers_computed_twice": way.segments.n_recomputed_layers(),
                "activation_bytes": way.activation_bytes,
                "peak_bytes": way.peak_bytes,
                "fits": way.peak_bytes <= plan.usable_bytes,
            })
        })
        .collect();
    let variations: Vec<Value> = plan
        .variations
        .iter()
        .map(|variation| {
            json!({
                "with": variation.what,
                "chosen": variation.best.as_ref().map(choice_json),
                "least_devices": variation.least_devices,
            })
        })
        .collect();
    let least = plan.least_devices.map(|least| {
        json!({ "n_devices": least.n_devices, "degrees": least.degrees, "peak_bytes": least.peak_bytes })
    });
    json!({
        "fits": true,
        "measured": false,
        "n_devices": config.n_devices(),
        "usable_bytes": plan.usable_bytes,
        "n_parameters": plan.sizes.elements,
        "n_trainable_parameters": plan.sizes.trainable,
        "n_combinations": plan.n_combinations,
        "chosen": choice_json(plan.best()),
        "choices": plan.choices.iter().map(choice_json).collect::<Vec<_>>(),
        "by_layers_per_segment": ways,
        "least_devices": least,
        "variations": variations,
        "cluster": config,
    })
}

fn choice_json(choice: &ClusterChoice) -> Value {
    let (time, memory) = choice.binds();
    let moments: Vec<Value> = choice
        .moments
        .iter()
        .map(|moment| json!({ "moment": moment.moment, "bytes": moment.total() }))
        .collect();
    json!({
        "degrees": choice.degrees,
        "layers_per_segment": choice.segments.layers_per_segment,
        "layers_computed_twice": choice.segments.n_recomputed_layers(),
        "keeps_attention": choice.segments.keeps_attention,
        "packs_per_step": choice.packs_per_step,
        "peak_bytes": choice.bytes.total(),
        "bytes": choice.bytes,
        "moments": moments,
        "step_secs": choice.time.total(),
        "secs": choice.time,
        "tokens_per_sec": choice.tokens_per_sec,
        "flops_utilisation": choice.flops_utilisation,
        "binds": { "time": time, "memory": memory },
    })
}

/// Prints the least number of devices by what is assumed, and which cells give the report's numbers.
fn print_least_devices(
    least: &LeastDevicesTable,
    config: &ClusterConfig,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<()> {
    let printer = &context.printer;
    if as_json {
        return printer.json(&json!({ "measured": false, "table": least, "cluster": config }));
    }
    let (length, per_host) = (config.training.sequence_length, config.devices_per_host);
    printer.line(format_args!(
        "Least devices for sequences of {length} tokens, in hosts of {per_host}, ZeRO-3."
    ))?;
    printer.line("`all` keeps all activations, `k=` is the number of layers per segment.")?;
    printer.line("")?;
    let names: Vec<String> = least.columns.iter().map(|column| column_text(*column)).collect();
    let mut columns =
        vec![("layers save", Align::Left), ("bytes/parameter", Align::Right), ("sequence", Align::Right)];
    columns.extend(names.iter().map(|name| (name.as_str(), Align::Right)));
    let mut table = Table::new(&columns);
    for row in &least.rows {
        let own = [
            activations_text(row.layer_activations).to_owned(),
            row.state_bytes.to_string(),
            row.sequence.to_string(),
        ];
        let cells = row.least.iter().map(|n| n.map_or_else(|| "-".to_owned(), |n| n.to_string()));
        table.row(own.into_iter().chain(cells));
    }
    print_table(&table, context)?;
    for n_devices in REPORT_DEVICES {
        let cells: Vec<String> = least.cells(n_devices).map(|(row, column)| cell_text(row, column)).collect();
        let found = if cells.is_empty() { "no cell".to_owned() } else { cells.join("; ") };
        let mut line = Table::new(&[("", Align::Right), ("", Align::Left)]);
        line.row([format!("{n_devices}:"), found]);
        print_table(&line, context)?;
    }
    print_table(&tables::assumptions_table(&config.assumptions), context)?;
    Ok(printer.line("Computed; nothing was measured.")?)
}

fn activations_text(activations: LayerActivations) -> &'static str {
    match activations {
        LayerActivations::Products => "products",
        LayerActivations::Megatron => "megatron",
    }
}

fn column_text(column: Option<usize>) -> String {
    column.map_or_else(|| "all".to_owned(), |k| format!("k={k}"))
}

fn cell_text(row: &LeastDevicesRow, column: Option<usize>) -> String {
    format!(
        "{}, {} bytes, sequence {}, {}",
        activations_text(row.layer_activations),
        row.state_bytes,
        row.sequence,
        column_text(column)
    )
}
