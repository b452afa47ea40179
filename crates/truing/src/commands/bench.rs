//! `truing bench`: what this machine can do at most, and what products, a training step, decoding and embedding reach
//! of it, in one table that can be pasted into a report.

mod kernels;
mod models;
mod timing;

use anyhow::ensure;
use clap::Args;
use serde::Serialize;
use truing_kernels::{Bf16Products, SimdLevel};
use truing_model::{ModelFiles, ParameterSpec};

use super::model::{find, open};
use crate::Context;
use crate::machine;
use crate::outcome::{Outcome, WithHint};
use crate::table::{Align, Table};
use crate::units;
use kernels::Peaks;
use timing::Spread;

/// Arguments of `truing bench`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A model directory, a .gguf file, or a name on the Hugging Face hub. Default: the shape of SmolLM2-135M with
    /// random weights, which needs no download and is as fast.
    #[arg(long, short, value_name = "PATH|NAME")]
    model: Option<String>,
    /// Tokens of a training step, in sequences of at most 256 tokens. Default: 512, with `--quick` 128.
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Fewer tokens, batches and repetitions: some seconds instead of most of a minute.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// More tokens of a step do not fit into the memory of a machine.
const MOST_TOKENS: usize = 1 << 24;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    /// Tokens of a training step and rows of a product.
    n_tokens: usize,
    /// Repetitions of a training step.
    n_steps: usize,
    /// Repetitions of a product, and of an embedding.
    n_products: usize,
    /// Texts that are embedded at once.
    n_texts: usize,
    /// Tokens that each sequence decodes.
    n_decoded: usize,
    /// Sequences that are decoded side by side.
    batches: &'static [usize],
}

impl Extent {
    fn of(arguments: &Arguments) -> anyhow::Result<Self> {
        let extent = if arguments.quick {
            Self { n_tokens: 128, n_steps: 2, n_products: 3, n_texts: 8, n_decoded: 6, batches: &[1, 8] }
        } else {
            Self {
                n_tokens: 512,
                n_steps: 3,
                n_products: 7,
                n_texts: 32,
                n_decoded: 16,
                batches: &[1, 8, 32],
            }
        };
        let n_tokens = arguments.tokens.unwrap_or(extent.n_tokens);
        ensure!(n_tokens >= 16, "`--tokens` is {n_tokens}, expected at least 16");
        ensure!(n_tokens <= MOST_TOKENS, "`--tokens` is {n_tokens}, expected at most {MOST_TOKENS}");
        Ok(Self { n_tokens, ..extent })
    }
}

/// What limits a kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Peak {
    /// Fused multiply-adds on registers.
    MultiplyAdd,
    /// Products of bf16 numbers with sums in f32, on registers.
    Bf16,
    /// Reading memory.
    MemoryRead,
}

/// One kind of work.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// What a rate counts per second.
    unit: &'static str,
    /// Units a second.
    rate: Spread,
    /// The median's share of the machine's peak, and of which.
    share_of_peak: Option<f64>,
    peak: Option<Peak>,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    operating_system: &'static str,
    processor: Option<String>,
    processor_features: Vec<&'static str>,
    kernels: String,
    /// How bf16 numbers are multiplied: by an instruction for it, or widened to f32.
    bf16_products: String,
    physical_cores: Option<usize>,
    threads: usize,
    /// Load average of the minute before the measurements.
    load_before: Option<f64>,
    model: String,
    n_parameters: u64,
    n_tokens: usize,
    is_quick: bool,
    peaks: Peaks,
    rows: Vec<Row>,
    seconds: f64,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let extent = Extent::of(arguments)?;
    let files: Option<ModelFiles> = match &arguments.model {
        Some(model) => Some(open(&find(model, context)?)?),
        None => None,
    };
    let report = measure(arguments, &extent, files.as_ref(), context)?;
    if arguments.json {
        context.printer.json(&report)?;
    } else {
        print(&report, context)?;
    }
    Ok(Outcome::Fine)
}

fn measure(
    arguments: &Arguments,
    extent: &Extent,
    files: Option<&ModelFiles>,
    context: &Context,
) -> anyhow::Result<Report> {
    let started = std::time::Instant::now();
    let spec = files.map_or_else(models::smollm2_135m, |files| files.spec.clone());
    let model = arguments.model.clone().unwrap_or_else(|| models::DEFAULT_NAME.into());
    let segments = models::plan(&spec, extent.n_tokens, machine::memory().usable_bytes())
        .hint(|| "give a smaller --model, or fewer --tokens".into())?;
    let load_before = machine::load();
    let note = |text: &str| context.printer.note(format_args!("measuring {text}"));
    note("the processor and the memory");
    let peaks = Peaks::measure(context.n_threads)?;
    note("the products of a training step");
    let mut rows = kernels::products(&spec, extent, &peaks);
    let mut engine = models::load(&spec, files, context)?;
    note("a training step");
    rows.push(models::training_step(&mut engine, &spec, &segments, extent, &peaks)?);
    note("decoding");
    rows.extend(models::decoding(&mut engine, &spec, extent, &peaks)?);
    drop(engine);
    note("embedding");
    rows.push(models::embedding(extent, &peaks, context)?);
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        operating_system: std::env::consts::OS,
        processor: machine::processor_name(),
        processor_features: machine::processor_features(),
        kernels: SimdLevel::detected().to_string(),
        bf16_products: Bf16Products::current().to_string(),
        physical_cores: machine::n_physical_cores(),
        threads: context.n_threads,
        load_before,
        model,
        n_parameters: spec.parameters().iter().map(ParameterSpec::n_elements).sum::<usize>() as u64,
        n_tokens: extent.n_tokens,
        is_quick: arguments.quick,
        peaks,
        rows,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn print(report: &Report, context: &Context) -> anyhow::Result<()> {
    let printer = &context.printer;
    for line in lines(report) {
        printer.line(line)?;
    }
    Ok(())
}

/// The tables, at most 80 columns wide.
fn lines(report: &Report) -> Vec<String> {
    let mut about = Table::new(&[("", Align::Left), ("", Align::Left)]);
    let cores = report.physical_cores.map_or_else(|| "unknown".into(), |n| n.to_string());
    about
        .row(["truing".to_owned(), format!("{} on {}", report.version, report.operating_system)])
        .row(["processor".into(), report.processor.clone().unwrap_or_else(|| "unknown".into())])
        .row(["features".into(), report.processor_features.join(" ")])
        .row(["kernels".into(), format!("{}, {} threads, {cores} cores", report.kernels, report.threads)])
        .row(["model".into(), format!("{}, {} parameters", report.model, units::count(report.n_parameters))]);
    if let Some(load) = report.load_before {
        about.row(["load before".into(), format!("{load:.1}")]);
    }
    let mut table = Table::new(&[
        ("work", Align::Left),
        ("median", Align::Right),
        ("lowest", Align::Right),
        ("highest", Align::Right),
        ("unit", Align::Left),
        ("of peak", Align::Right),
    ]);
    for peak in &report.peaks.by_threads {
        let row = |what: &str, value: f64, unit: &str| {
            let name = format!("peak {what}, threads: {}", peak.n_threads);
            [name, figure(value), String::new(), String::new(), unit.to_owned(), String::new()]
        };
        table.row(row("multiply-add f32", peak.multiply_add_gflops, "GFLOP/s"));
        let bf16 = format!("bf16, {}", report.bf16_products);
        table.row(row(&bf16, peak.bf16_gflops, "GFLOP/s"));
        table.row(row("memory read", peak.memory_read_gb_per_second, "GB/s"));
    }
    for row in &report.rows {
        let of_memory = match row.peak {
            Some(Peak::MemoryRead) => " read",
            Some(Peak::Bf16) => " bf16",
            Some(Peak::MultiplyAdd) | None => "",
        };
        let share = |share| format!("{:.0} %{of_memory}", 100.0 * share);
        let share = row.share_of_peak.map_or_else(String::new, share);
        let [median, lowest, highest] = [row.rate.median, row.rate.lowest, row.rate.highest].map(figure);
        table.row([row.name.clone(), median, lowest, highest, row.unit.to_owned(), share]);
    }
    let mut lines = about.lines();
    lines.push(String::new());
    lines.extend(table.lines());
    lines.push(String::new());
    lines.push(format!("measured in {}", units::duration(report.seconds)));
    lines
}

/// Three digits, or all of the whole part.
fn figure(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::PeakOfThreads;

    fn report() -> Report {
        let rate = |median: f64| Spread { median, lowest: 0.9 * median, highest: 1.1 * median };
        let row = |name: &str, unit, median, share_of_peak| Row {
            name: name.into(),
            unit,
            rate: rate(median),
            share_of_peak,
            peak: share_of_peak.map(|_| Peak::MultiplyAdd),
        };
        Report {
            version: "0.1.0",
            operating_system: "linux",
            processor: Some(
                "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz with a very long name of its own".into(),
            ),
            processor_features: vec![
                "sse4.2",
                "avx",
                "avx2",
                "fma",
                "f16c",
                "avx512f",
                "avx512vnni",
                "avx512bf16",
            ],
            kernels: "avx512".into(),
            bf16_products: "dot products".into(),
            physical_cores: Some(64),
            threads: 128,
            load_before: Some(0.25),
            model: models::DEFAULT_NAME.into(),
            n_parameters: 134_515_008,
            n_tokens: 512,
            is_quick: false,
            peaks: Peaks {
                by_threads: vec![PeakOfThreads {
                    n_threads: 128,
                    multiply_add_gflops: 11_234.5,
                    bf16_gflops: 22_468.25,
                    memory_read_gb_per_second: 312.25,
                }],
            },
            rows: vec![
                row("product [49152, 576], gradient of the weight", "GFLOP/s", 8421.0, Some(0.749)),
                Row {
                    peak: Some(Peak::Bf16),
                    ..row("product bf16 [49152, 576], d weight", "GFLOP/s", 16_000.0, Some(0.71))
                },
                row("decoding int8, batch 32", "tokens/s", 1234.5, None),
            ],
            seconds: 41.0,
        }
    }

    #[test]
    fn the_tables_fit_a_terminal_and_say_shares() {
        let lines = lines(&report());
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        let text = lines.join("\n");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for expected in [
            "134 515 008 parameters",
            "75 %",
            "71 % bf16",
            "bf16, dot products",
            "8421 7579 9263",
            "avx512bf16",
            "measured in 41 s",
        ] {
            assert!(words.contains(expected), "no `{expected}` in {text}");
        }
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!([0.1234, 12.34, 123.4, 12_345.6].map(figure), ["0.12", "12.3", "123", "12346"]);
    }
}
