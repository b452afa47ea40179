//! The tables of a cluster's plan, within 80 columns.

use serde_json::{Map, Value};
use truing_stages::recipe::schema_of;
use truing_train::cluster::{
    Assumptions, ClusterChoice, ClusterConfig, ClusterPlan, Degrees, DeviceBytes, PeakMoment,
};

use crate::table::{Align, Table};
use crate::units;

/// Ways to run that are printed; JSON has all of them.
const N_SHOWN: usize = 8;

/// What is planned for.
pub(super) fn head_table(plan: &ClusterPlan, config: &ClusterConfig, model: &str) -> Table {
    let (training, device, links) = (&config.training, &config.device, &config.links);
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    table.row(["model".to_owned(), model.to_owned()]);
    table.row(["parameters".to_owned(), units::count(plan.sizes.elements)]);
    table.row(["trainable parameters".to_owned(), units::count(plan.sizes.trainable)]);
    table.row(["device".to_owned(), device_text(config)]);
    table.row([
        "rates of a device".to_owned(),
        format!(
            "{} TFLOP/s; memory {} GB/s; links {} GB/s within a host, {} between hosts",
            device.tflops,
            device.memory_gb_per_sec,
            links.within_host_gb_per_sec,
            links.between_hosts_gb_per_sec
        ),
    ]);
    table.row([
        "step".to_owned(),
        format!("{} sequences of {} tokens", training.sequences_per_step, training.sequence_length),
    ]);
    table.row([
        "combinations of degrees".to_owned(),
        format!("{}, of which {} fit", plan.n_combinations, plan.choices.len()),
    ]);
    table
}

fn device_text(config: &ClusterConfig) -> String {
    let ClusterConfig { hosts, devices_per_host, device, .. } = config;
    let name = if device.name.is_empty() { "unnamed" } else { device.name.as_str() };
    let memory = device.memory_gb;
    format!("{name}, {memory} GB; {hosts} x {devices_per_host} = {} devices", config.n_devices())
}

/// The fastest ways to run; the first is chosen.
pub(super) fn choices_table(plan: &ClusterPlan) -> Table {
    let mut table = Table::new(&[
        ("data", Align::Right),
        ("sequence", Align::Right),
        ("ZeRO", Align::Right),
        ("micro-batch", Align::Right),
        ("k", Align::Right),
        ("again", Align::Right),
        ("peak", Align::Right),
        ("step", Align::Right),
        ("tokens/s", Align::Right),
        ("", Align::Left),
    ]);
    for (idx, choice) in plan.choices.iter().take(N_SHOWN).enumerate() {
        let Degrees { data, sequence, zero_stage, micro_batch } = choice.degrees;
        table.row([
            data.to_string(),
            sequence.to_string(),
            zero_stage.number().to_string(),
            micro_batch.to_string(),
            choice.segments.layers_per_segment.to_string(),
            choice.segments.n_recomputed_layers().to_string(),
            gigabytes(choice.bytes.total()),
            format!("{:.2} s", choice.time.total()),
            units::count(choice.tokens_per_sec.round() as u64),
            if idx == 0 { "chosen".to_owned() } else { String::new() },
        ]);
    }
    table
}

/// The memory of a device, term by term.
pub(super) fn memory_table(choice: &ClusterChoice, usable_bytes: u64) -> Table {
    let mut table = Table::new(&[("memory of a device", Align::Left), ("GB", Align::Right)]);
    for (name, bytes) in choice.bytes.terms().into_iter().filter(|(_, bytes)| *bytes > 0) {
        table.row([name.to_owned(), gigabytes(bytes)]);
    }
    table.row([format!("peak, {}", choice.bytes.moment.words()), gigabytes(choice.bytes.total())]);
    let is_other = |moment: &&DeviceBytes| match moment.moment {
        PeakMoment::EndOfForward => true,
        PeakMoment::Recomputing => choice.segments.n_recomputed() > 0,
        PeakMoment::Sampling => moment.kv_cache > 0,
    };
    for other in choice.moments.iter().filter(is_other).filter(|other| other.moment != choice.bytes.moment) {
        table.row([other.moment.words().to_owned(), gigabytes(other.total())]);
    }
    table.row(["can be used".to_owned(), gigabytes(usable_bytes)]);
    table
}

/// The time of a step, term by term.
pub(super) fn time_table(choice: &ClusterChoice) -> Table {
    let mut table = Table::new(&[("time of a step", Align::Left), ("s", Align::Right)]);
    for (name, secs) in choice.time.terms().into_iter().filter(|(_, secs)| *secs != 0.0) {
        table.row([name.to_owned(), format!("{secs:.3}")]);
    }
    table.row(["step".to_owned(), format!("{:.3}", choice.time.total())]);
    table.row(["model FLOPs utilisation".to_owned(), format!("{:.1} %", 100.0 * choice.flops_utilisation)]);
    table
}

/// Some k for the chosen degrees: powers of two, all layers, and the chosen one.
pub(super) fn segments_table(plan: &ClusterPlan) -> Table {
    let mut table = Table::new(&[
        ("k", Align::Right),
        ("recomputed layers", Align::Right),
        ("activations, GB", Align::Right),
        ("peak, GB", Align::Right),
        ("", Align::Left),
    ]);
    let chosen_k = plan.best().segments.layers_per_segment;
    for way in &plan.by_layers_per_segment {
        let k = way.segments.layers_per_segment;
        if !(k.is_power_of_two() || k == way.segments.n_layers || k == chosen_k) {
            continue;
        }
        let remark = match way.peak_bytes > plan.usable_bytes {
            true => "does not fit",
            false if k == chosen_k => "chosen",
            false => "",
        };
        table.row([
            k.to_string(),
            way.segments.n_recomputed_layers().to_string(),
            gigabytes(way.activation_bytes),
            gigabytes(way.peak_bytes),
            remark.to_owned(),
        ]);
    }
    table
}

/// What would change the answer.
pub(super) fn variations_table(plan: &ClusterPlan) -> Table {
    let mut table = Table::new(&[
        ("with", Align::Left),
        ("data x sequence, ZeRO, micro-batch", Align::Left),
        ("tokens/s", Align::Right),
        ("least devices", Align::Right),
    ]);
    let least = |least: Option<usize>| least.map_or_else(|| "none".to_owned(), |least| least.to_string());
    let row = |what: &str, best: Option<&ClusterChoice>, n_devices: Option<usize>| {
        let degrees = best.map_or_else(|| "does not fit".to_owned(), |best| degrees_text(&best.degrees));
        let rate = best.map_or_else(String::new, |best| units::count(best.tokens_per_sec.round() as u64));
        [what.to_owned(), degrees, rate, least(n_devices)]
    };
    table.row(row("the inputs as given", Some(plan.best()), plan.least_devices.map(|least| least.n_devices)));
    for variation in &plan.variations {
        table.row(row(variation.what, variation.best.as_ref(), variation.least_devices));
    }
    table
}

fn degrees_text(degrees: &Degrees) -> String {
    let Degrees { data, sequence, zero_stage, micro_batch } = degrees;
    format!("{data} x {sequence}, {}, {micro_batch}", zero_stage.number())
}

/// Every assumption with its value and what it means, as its setting is documented.
pub(super) fn assumptions_table(assumptions: &Assumptions) -> Table {
    let mut table =
        Table::new(&[("assumption", Align::Left), ("value", Align::Right), ("meaning", Align::Left)]);
    let schema = schema_of::<Assumptions>();
    for (key, value) in values(assumptions) {
        let meaning = schema["properties"][&key]["description"].as_str().unwrap_or_default();
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        table.row([key, value, meaning.split_whitespace().collect::<Vec<_>>().join(" ")]);
    }
    table
}

/// The assumptions by the names of their settings, in the order of the documentation.
fn values(assumptions: &Assumptions) -> Map<String, Value> {
    match serde_json::to_value(assumptions) {
        Ok(Value::Object(values)) => values,
        _ => Map::new(),
    }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e9)
}
