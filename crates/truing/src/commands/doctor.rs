//! `truing doctor`: the machine as a run will find it, and what to fix.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use truing_kernels::SimdLevel;

use super::model::DEFAULT_HUB;
use crate::Context;
use crate::environment::Environment;
use crate::machine::{self, Memory};
use crate::outcome::Outcome;
use crate::printer::Style;
use crate::table::{Align, Table};
use crate::units;

/// Memory that the quickstart needs at its peak, with some to spare.
const QUICKSTART_BYTES: u64 = 3 << 30;

/// Arguments of `truing doctor`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Also check whether the hub can be reached. Nothing else in this command uses the network.
    #[arg(long)]
    hub: bool,
    /// Skip the measurements, which take a few seconds.
    #[arg(long)]
    no_measure: bool,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Findings {
    version: &'static str,
    operating_system: &'static str,
    architecture: &'static str,
    processor: Option<String>,
    processor_features: Vec<&'static str>,
    physical_cores: Option<usize>,
    usable_cores: usize,
    threads: usize,
    load: Option<f64>,
    memory: Memory,
    devices: Vec<Device>,
    /// Devices that models cannot run on, with the reason.
    #[cfg(feature = "torch")]
    missing_devices: Vec<Device>,
    measured: Option<Measured>,
    model_cache: ModelCache,
    python: Option<PathBuf>,
    pip: Option<PathBuf>,
    hub: Option<HubAnswer>,
    environment: Vec<&'static str>,
    to_fix: Vec<String>,
}

/// A device that an engine can run on.
#[derive(Debug, Serialize)]
struct Device {
    engine: &'static str,
    device: String,
    note: String,
}

/// Speeds of this machine.
#[derive(Debug, Serialize)]
struct Measured {
    peak_gflops: f64,
    matmul_gflops: f64,
    matmul_share_of_peak: f64,
    memory_read_gb_per_second: f64,
}

/// What lies in the model cache.
#[derive(Debug, Serialize)]
struct ModelCache {
    path: Option<PathBuf>,
    bytes: u64,
    entries: Vec<CacheEntry>,
}

/// One file or folder of the cache.
#[derive(Debug, Serialize)]
struct CacheEntry {
    name: String,
    bytes: u64,
}

/// Whether the hub answers.
#[derive(Debug, Serialize)]
struct HubAnswer {
    endpoint: String,
    is_reachable: bool,
    detail: String,
}

/// Looks, measures, prints.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    if !arguments.no_measure {
        context.printer.note("measuring the processor and the memory (a few seconds)");
    }
    let findings = look(arguments, context);
    if arguments.json {
        context.printer.json(&findings)?;
    } else {
        print(&findings, context)?;
    }
    Ok(if findings.to_fix.is_empty() { Outcome::Fine } else { Outcome::Finding })
}

fn look(arguments: &Arguments, context: &Context) -> Findings {
    let environment = &context.environment;
    let mut findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        operating_system: std::env::consts::OS,
        architecture: std::env::consts::ARCH,
        processor: machine::processor_name(),
        devices: vec![Device {
            engine: "cpu",
            device: "cpu".into(),
            note: format!("{} threads, {} kernels", context.n_threads, SimdLevel::detected()),
        }],
        #[cfg(feature = "torch")]
        missing_devices: Vec::new(),
        processor_features: machine::processor_features(),
        physical_cores: machine::n_physical_cores(),
        usable_cores: std::thread::available_parallelism().map_or(1, usize::from),
        threads: context.n_threads,
        load: machine::load(),
        memory: machine::memory(),
        measured: (!arguments.no_measure).then(measure),
        model_cache: look_at_cache(environment.model_cache.as_deref()),
        python: environment.find_program(&["python3", "python"]),
        pip: environment.find_program(&["pip3", "pip"]),
        hub: arguments.hub.then(|| ask_hub(environment)),
        environment: environment.variables_set.clone(),
        to_fix: Vec::new(),
    };
    #[cfg(feature = "torch")]
    add_libtorch(&mut findings, context);
    findings.to_fix = what_to_fix(&findings);
    findings
}

/// Devices of libtorch's. That there is no GPU is nothing to fix.
#[cfg(feature = "torch")]
fn add_libtorch(findings: &mut Findings, context: &Context) {
    let found = crate::local_engine::look(&context.device, &context.environment);
    let device = |(device, note)| Device { engine: "libtorch", device, note };
    findings.devices.extend(found.devices.into_iter().map(device));
    findings.missing_devices.extend(found.missing.into_iter().map(device));
}

/// Other programs make single measurements too low, never too high; so the best of a few counts, and the peak is
/// at least what a product reached.
fn measure() -> Measured {
    let best = |measure: fn() -> f64| (0..3).map(|_| measure()).fold(0.0, f64::max);
    let matmul_gflops = best(truing_kernels::measure_matmul_gflops);
    let peak_gflops = best(truing_kernels::measure_peak_gflops).max(matmul_gflops);
    Measured {
        peak_gflops,
        matmul_gflops,
        matmul_share_of_peak: matmul_gflops / peak_gflops,
        memory_read_gb_per_second: truing_kernels::measure_read_bandwidth() / 1e9,
    }
}

/// Names and sizes of the cache's entries; an unreadable or missing folder holds nothing.
fn look_at_cache(path: Option<&Path>) -> ModelCache {
    let mut entries: Vec<CacheEntry> = path
        .and_then(|path| fs::read_dir(path).ok())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| CacheEntry {
            name: entry.file_name().to_string_lossy().into_owned(),
            bytes: bytes_below(&entry.path()),
        })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    ModelCache {
        path: path.map(Path::to_owned),
        bytes: entries.iter().map(|entry| entry.bytes).sum(),
        entries,
    }
}

/// Bytes of a file, or of all files below a folder. Links are not followed.
fn bytes_below(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| bytes_below(&entry.path())).sum()
}

fn ask_hub(environment: &Environment) -> HubAnswer {
    let endpoint = environment.hub_endpoint.clone().unwrap_or_else(|| DEFAULT_HUB.into());
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(std::time::Duration::from_secs(10)))
        .http_status_as_error(false)
        .build()
        .into();
    match agent.head(&endpoint).call() {
        Ok(response) => HubAnswer {
            endpoint,
            is_reachable: true,
            detail: format!("status {}", response.status().as_u16()),
        },
        Err(error) => HubAnswer { endpoint, is_reachable: false, detail: error.to_string() },
    }
}

/// One sentence for each problem that would disturb a run.
fn what_to_fix(findings: &Findings) -> Vec<String> {
    let mut advice = Vec::new();
    if findings.architecture == "x86_64" && !findings.processor_features.contains(&"avx2") {
        advice.push(
            "this processor has no AVX2: matrix products run on the portable path, about ten times slower"
                .into(),
        );
    }
    if findings.threads > findings.usable_cores {
        advice.push(format!(
            "{} threads share {} cores: give --threads {}",
            findings.threads, findings.usable_cores, findings.usable_cores
        ));
    }
    if let Some(load) = findings.load.filter(|&load| load > 0.5 * findings.usable_cores as f64) {
        advice.push(format!(
            "other programs use this machine now (load {load:.1} on {} cores): measurements and runs are slower",
            findings.usable_cores
        ));
    }
    if let Some(usable) = findings.memory.usable_bytes().filter(|&usable| usable < QUICKSTART_BYTES) {
        advice.push(format!(
            "{} of memory can be used, the quickstart needs {}: close programs or raise the container's limit",
            units::bytes(usable),
            units::bytes(QUICKSTART_BYTES)
        ));
    }
    match &findings.model_cache.path {
        None => advice.push("no cache folder is known: set TRUING_CACHE".into()),
        Some(path) if !can_write(path) => {
            advice
                .push(format!("{} cannot be written: set TRUING_CACHE to a folder of yours", path.display()));
        }
        Some(_) => {}
    }
    if let Some(hub) = findings.hub.as_ref().filter(|hub| !hub.is_reachable) {
        advice.push(format!(
            "{} cannot be reached ({}): give --model with a path, or set HF_ENDPOINT to a mirror",
            hub.endpoint, hub.detail
        ));
    }
    advice
}

/// Whether the folder, or the nearest one above it that exists, lets this process write.
fn can_write(path: &Path) -> bool {
    let existing = path.ancestors().find(|folder| folder.exists());
    existing.is_some_and(|folder| tempfile::Builder::new().tempfile_in(folder).is_ok())
}

fn print(findings: &Findings, context: &Context) -> anyhow::Result<()> {
    let printer = &context.printer;
    let unknown = || "unknown".to_owned();
    let size = |bytes: Option<u64>| bytes.map_or_else(unknown, units::bytes);
    let path =
        |path: &Option<PathBuf>| path.as_ref().map_or("none".into(), |path| path.display().to_string());
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    table
        .row(["truing".into(), findings.version.to_owned()])
        .row(["system".into(), format!("{} on {}", findings.operating_system, findings.architecture)])
        .row(["processor".into(), findings.processor.clone().unwrap_or_else(unknown)])
        .row(["  features".into(), findings.processor_features.join(" ")])
        .row([
            "  cores".into(),
            format!(
                "{} physical, {} usable by this process, {} threads",
                findings.physical_cores.map_or_else(unknown, |n| n.to_string()),
                findings.usable_cores,
                findings.threads
            ),
        ])
        .row([
            "memory".into(),
            format!(
                "{} in all, {} available",
                size(findings.memory.total_bytes),
                size(findings.memory.available_bytes)
            ),
        ]);
    if let Some(limit) = findings.memory.control_group_limit_bytes {
        let used = findings.memory.control_group_used_bytes;
        table.row(["  group limit".into(), format!("{}, {} used", units::bytes(limit), size(used))]);
    }
    for device in &findings.devices {
        table
            .row(["device".into(), format!("{} ({} engine, {})", device.device, device.engine, device.note)]);
    }
    #[cfg(feature = "torch")]
    for device in &findings.missing_devices {
        table.row([format!("no {}", device.device), device.note.clone()]);
    }
    if let Some(measured) = &findings.measured {
        table.row(["  peak".into(), format!("{:.0} GFLOP/s, f32 multiply-add", measured.peak_gflops)]).row([
            "  matrix product".into(),
            format!(
                "{:.0} GFLOP/s, {:.0} % of the peak",
                measured.matmul_gflops,
                100.0 * measured.matmul_share_of_peak
            ),
        ]);
        table.row(["  memory, read".into(), format!("{:.1} GB/s", measured.memory_read_gb_per_second)]);
    }
    table.row([
        "model cache".into(),
        format!("{}, {}", path(&findings.model_cache.path), units::bytes(findings.model_cache.bytes)),
    ]);
    for entry in &findings.model_cache.entries {
        table.row([format!("  {}", units::bytes(entry.bytes)), entry.name.clone()]);
    }
    table.row(["python".into(), path(&findings.python)]).row(["pip".into(), path(&findings.pip)]);
    if let Some(hub) = &findings.hub {
        let answer = if hub.is_reachable { "reachable" } else { "not reachable" };
        table.row(["hub".into(), format!("{} {answer}: {}", hub.endpoint, hub.detail)]);
    }
    if !findings.environment.is_empty() {
        table.row(["variables set".into(), findings.environment.join(" ")]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    printer.line("")?;
    if findings.to_fix.is_empty() {
        printer.line(printer.styled(Style::Green, "nothing to fix"))?;
    }
    for advice in &findings.to_fix {
        printer.line(format_args!("{} {advice}", printer.styled(Style::Yellow, "to fix:")))?;
    }
    Ok(())
}
