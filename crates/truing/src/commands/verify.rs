//! `truing verify`: the user's own check, on their model and data, of what a trainer can silently get wrong.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use truing_data::{OnBadRow, SourceConfig, read_rows};
use truing_model::{ModelFiles, TrainableSpec};
use truing_parallel::Solo;
use truing_train::verify::{Check, verify};
use truing_types::TokenizedSample;

use super::model::{self, ModelArguments};
use crate::Context;
use crate::outcome::{Outcome, WithHint};
use crate::printer::{Printer, Style};
use crate::progress;
use crate::rendering::render_options;
use crate::table::{Align, Table};

/// Arguments of `truing verify`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Rows to check with: a file or folder in any training format.
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Format of the data, if it cannot be detected from the first rows.
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// Sequences in the pack that is checked.
    #[arg(long, value_name = "N", default_value_t = 6)]
    sequences: usize,
    /// Longer sequences are skipped, to keep the check short.
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    max_length: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Loads model and rows, carries out the checks, prints their table.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let mut source = SourceConfig::new(&arguments.data);
    source.format.clone_from(&arguments.format);
    // Before the model is looked for or fetched.
    source.check()?;
    let files = model::open(&arguments.model.find(context)?)?;
    let samples = read_samples(&source, arguments, &files)?;
    let mut engine = model::load_engine(context, &files, &TrainableSpec::default())?;
    let mut events = progress::for_this_terminal(&context.printer);
    let checks = verify(&mut engine, &samples, &Solo, events.as_mut())
        .hint(|| "give --data with more rows, or a larger --max-length".into())?;
    let all_hold = checks.iter().all(Check::holds);
    if arguments.json {
        let checks: Vec<_> =
            checks.iter().map(|check| json!({ "check": check, "holds": check.holds() })).collect();
        context.printer.json(&json!({ "all_hold": all_hold, "checks": checks }))?;
    } else {
        print(&checks, &context.printer)?;
    }
    Ok(if all_hold { Outcome::Fine } else { Outcome::Finding })
}

/// The first rows that are short enough and carry loss.
fn read_samples(
    source: &SourceConfig,
    arguments: &Arguments,
    files: &ModelFiles,
) -> anyhow::Result<Vec<TokenizedSample>> {
    let renderer = truing_stages::model::renderer(files, render_options())?;
    let mut samples = Vec::new();
    for row in read_rows(source, OnBadRow::Error)? {
        let (row, origin) = row?;
        let sample = renderer.training(&row, origin)?.sample;
        if sample.tokens.len() <= arguments.max_length {
            samples.push(sample);
        }
        if samples.len() == arguments.sequences {
            break;
        }
    }
    Ok(samples)
}

fn print(checks: &[Check], printer: &Printer) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        ("", Align::Left),
        ("claim", Align::Left),
        ("largest deviation", Align::Right),
        ("allowed", Align::Right),
        ("of", Align::Left),
        ("tried with", Align::Left),
    ]);
    let figure = |value: f64| if value == 0.0 { "0".to_owned() } else { format!("{value:.1e}") };
    for check in checks {
        table.row([
            if check.holds() { "holds" } else { "FAILS" }.to_owned(),
            check.claim.clone(),
            figure(check.largest_deviation),
            figure(check.tolerance),
            check.quantity.to_owned(),
            check.trial.clone(),
        ]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    printer.line("")?;
    let failing: Vec<&Check> = checks.iter().filter(|check| !check.holds()).collect();
    if failing.is_empty() {
        printer.line(printer.styled(Style::Green, "all checks hold on this model and data"))?;
    }
    for check in failing {
        let text = format!(
            "{}: {} differs by {:e} at {}",
            check.claim, check.quantity, check.largest_deviation, check.place
        );
        printer.line(printer.styled(Style::Red, text))?;
    }
    Ok(())
}
