//! `truing reward`: train a reward model, score responses with it, evaluate it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use truing_data::SourceConfig;
use truing_eval::reward::{RewardDiagnostics, RewardEvaluation, SourceDiagnostics};
use truing_predict::{RewardScorer, Scored};
use truing_report::{RunRecord, StageRecord};
use truing_stages::reward::RewardModelStage;

use super::model;
use super::output::check_is_no_input;
use super::stage;
use crate::Context;
use crate::local_engine::LocalEngine;
use crate::outcome::Outcome;
use crate::printer::Style;
use crate::progress;
use crate::rendering::render_options;
use crate::table::{Align, Table};

/// What to do with a reward model.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a reward model on preferences.
    #[command(after_help = "Example: truing reward train recipes/reward_model.toml")]
    Train(stage::Arguments),
    /// Score every response of preference files; one JSON object per line.
    #[command(
        after_help = "Example: truing reward score runs/reward_model/model pairs.jsonl -o scores.jsonl"
    )]
    Score(ScoreArguments),
    /// Evaluate a reward model: accuracy on preference pairs, calibration, by source.
    #[command(
        after_help = "Example: truing reward evaluate runs/reward_model/model pairs.jsonl --report page.html"
    )]
    Evaluate(EvaluateArguments),
}

/// A model and files.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// The reward model: a directory, or the name of a model (`org/name`).
    model: String,
    /// Files with preferences.
    #[arg(required = true)]
    data: Vec<PathBuf>,
    /// Format of the files, if it cannot be detected from the first rows.
    #[arg(long)]
    format: Option<String>,
    /// Skip rows with more tokens than this over all responses.
    #[arg(long, default_value_t = 4096)]
    max_length: u32,
    /// Read only this many rows of each file.
    #[arg(long)]
    max_samples: Option<usize>,
}

/// Arguments of `truing reward score`.
#[derive(Debug, Args)]
pub(crate) struct ScoreArguments {
    #[command(flatten)]
    files: Files,
    /// Output file. Default: the terminal.
    #[arg(long, short)]
    output: Option<PathBuf>,
}

/// Arguments of `truing reward evaluate`.
#[derive(Debug, Args)]
pub(crate) struct EvaluateArguments {
    #[command(flatten)]
    files: Files,
    /// Also write an HTML page with plots.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(command: &Command, context: &mut Context) -> anyhow::Result<Outcome> {
    match command {
        Command::Train(arguments) => stage::run::<RewardModelStage>(arguments, context),
        Command::Score(arguments) => score(arguments, context),
        Command::Evaluate(arguments) => evaluate(arguments, context),
    }
}

type ScoredFiles = (Vec<Scored>, RewardDiagnostics);

fn score_files(files: &Files, context: &Context) -> anyhow::Result<ScoredFiles> {
    let path = model::find(&files.model, context)?;
    let mut events = progress::for_this_terminal(&context.printer);
    let mut scorer =
        RewardScorer::<LocalEngine>::open(&path, render_options(), context.n_threads, events.as_mut())?;
    let source = |path: &PathBuf| SourceConfig {
        format: files.format.clone(),
        max_samples: files.max_samples,
        ..SourceConfig::new(path)
    };
    let sources: Vec<SourceConfig> = files.data.iter().map(source).collect();
    let (scored, diagnostics, _) = scorer.score_files(&sources, files.max_length, events.as_mut())?;
    Ok((scored, diagnostics))
}

fn score(arguments: &ScoreArguments, context: &Context) -> anyhow::Result<Outcome> {
    if let Some(output) = &arguments.output {
        check_is_no_input(output, arguments.files.data.iter().map(PathBuf::as_path))?;
    }
    let (scored, _) = score_files(&arguments.files, context)?;
    let mut text = Vec::new();
    for one in &scored {
        serde_json::to_writer(&mut text, one)?;
        text.push(b'\n');
    }
    match &arguments.output {
        Some(path) => {
            truing_store::atomic::write(path, &text)?;
            context.printer.line(format_args!("{} rewards in {}", scored.len(), path.display()))?;
        }
        None => std::io::stdout().write_all(&text).context("cannot write to the terminal")?,
    }
    Ok(Outcome::Fine)
}

fn evaluate(arguments: &EvaluateArguments, context: &Context) -> anyhow::Result<Outcome> {
    if let Some(report) = &arguments.report {
        check_is_no_input(report, arguments.files.data.iter().map(PathBuf::as_path))?;
    }
    let (_, found) = score_files(&arguments.files, context)?;
    let printer = &context.printer;
    if let Some(page) = &arguments.report {
        write_page(&arguments.files, &found, page)?;
    }
    if arguments.json {
        printer.json(&serde_json::to_value(&found)?)?;
        return Ok(Outcome::Fine);
    }
    print_tables(&found, context)?;
    if let Some(page) = &arguments.report {
        printer.line("")?;
        printer.line(page.display())?;
    }
    Ok(Outcome::Fine)
}

/// The same page that a reward model's run has, with nothing but this evaluation.
fn write_page(files: &Files, found: &RewardDiagnostics, page: &Path) -> anyhow::Result<()> {
    let names: Vec<String> = files
        .data
        .iter()
        .map(|path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned())
        .collect();
    let evaluation = RewardEvaluation { step: 0, diagnostics: found.clone() };
    let record = RunRecord {
        title: names.join(", "),
        model: files.model.clone(),
        stages: vec![StageRecord {
            kind: "reward_evaluation".into(),
            diagnostics: vec![evaluation],
            ..StageRecord::default()
        }],
        ..RunRecord::default()
    };
    truing_store::atomic::write(page, truing_report::render(&record)?.as_bytes())?;
    Ok(())
}

fn print_tables(found: &RewardDiagnostics, context: &Context) -> anyhow::Result<()> {
    let printer = &context.printer;
    let right = Align::Right;
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("pairs", right),
        ("in order", right),
        ("lead", right),
        ("longer preferred", right),
        ("with length", right),
        ("with scores", right),
        ("error", right),
        ("ties apart", right),
    ]);
    for (name, source) in &found.by_source {
        table.row(row(name, source));
    }
    if found.by_source.len() > 1 {
        table.row(row("all", &found.all));
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    if !found.calibration.is_empty() {
        printer.line("")?;
        printer.line(printer.styled(Style::Bold, "calibration: predicted probability and accuracy"))?;
        let mut table = Table::new(&[("sure", right), ("right", right), ("pairs", right)]);
        for bin in &found.calibration {
            table.row([share(Some(bin.predicted)), share(Some(bin.observed)), bin.n.to_string()]);
        }
        for line in table.lines() {
            printer.line(line)?;
        }
    }
    if !found.score_calibration.is_empty() {
        printer.line("")?;
        printer.line(printer.styled(Style::Bold, "absolute scores by tenths of the reward"))?;
        let mut table = Table::new(&[("predicted", right), ("given", right)]);
        for (predicted, given) in &found.score_calibration {
            table.row([format!("{predicted:.2}"), format!("{given:.2}")]);
        }
        for line in table.lines() {
            printer.line(line)?;
        }
    }
    Ok(())
}

fn row(name: &str, source: &SourceDiagnostics) -> [String; 9] {
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let accuracy = match source.accuracy_interval {
        Some(interval) => format!("{} ({})", share(source.accuracy), interval.percent()),
        None => String::new(),
    };
    [
        name.to_owned(),
        source.n_pairs.to_string(),
        accuracy,
        number(source.margin),
        share(source.prefers_longer),
        number(source.length_correlation),
        number(source.score_correlation),
        number(source.score_rmse),
        number(source.spread_of_ties),
    ]
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{:.1} %", 100.0 * value))
}
