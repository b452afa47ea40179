//! What `truing label` and `truing quality` have in common once there are labels or scores: a classifier or scorer
//! trained on them, and put to work on other rows.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use truing_data::SourceConfig;
use truing_eval::classifier::{ClassifierEvaluation, DimensionEvaluation, ScoreEvaluation};
use truing_predict::{Classifier, PredictionOptions, PredictionSummary};
use truing_stages::TrainedModel;
use truing_stages::classifier::ClassifierStage;

use super::model;
use super::output::check_is_no_input;
use super::stage::{self, StageCommand, finish_training};
use crate::local_engine::LocalEngine;
use crate::outcome::Outcome;
use crate::printer::Style;
use crate::rendering::render_options;
use crate::table::{Align, Table};
use crate::{Context, interrupt, progress};

/// A classifier of prompts.
#[derive(Debug, Subcommand)]
pub(crate) enum LabelCommand {
    /// Train a classifier on labelled rows: an encoder or a decoder.
    #[command(after_help = "Example: truing label train recipes/label_encoder.toml")]
    Train(stage::Arguments),
    /// Label rows with a trained classifier.
    #[command(
        after_help = "Example: truing label predict --model runs/labels/model --data prompts.jsonl --output \
                      labels.jsonl"
    )]
    Predict(PredictArguments),
}

/// A scorer of prompts.
#[derive(Debug, Subcommand)]
pub(crate) enum ScoreCommand {
    /// Train a scorer on rows with scores: an encoder or a decoder.
    #[command(after_help = "Example: truing quality train recipes/quality_scorer.toml")]
    Train(stage::Arguments),
    /// Score rows with a trained scorer.
    #[command(
        after_help = "Example: truing quality score --model runs/quality/model --data prompts.jsonl --output \
                      scores.jsonl"
    )]
    Score(PredictArguments),
}

/// A model, rows, and where they go.
#[derive(Debug, Args)]
pub(crate) struct PredictArguments {
    /// A model that `train` has saved.
    #[arg(long, short, value_name = "PATH|NAME")]
    model: String,
    /// Rows with prompts: JSON Lines, a JSON list, Parquet, or a .txt file with one prompt per line.
    #[arg(long, short, value_name = "FILE")]
    data: PathBuf,
    /// Column with the prompt of a row. Default: the first known one (prompt, messages, instruction, ...).
    #[arg(long)]
    field: Option<String>,
    /// Output file (.jsonl): the rows with `labels`, `confidence` and `scores` added.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Replace labels that a row already has.
    #[arg(long)]
    overwrite: bool,
    /// Write the probability of every label.
    #[arg(long)]
    probabilities: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

/// Runs a command of `truing label`.
pub(crate) fn run_label(command: &LabelCommand, context: &mut Context) -> anyhow::Result<Outcome> {
    match command {
        LabelCommand::Train(arguments) => stage::run::<ClassifierStage>(arguments, context),
        LabelCommand::Predict(arguments) => predict(arguments, context),
    }
}

/// Runs a command of `truing quality`.
pub(crate) fn run_score(command: &ScoreCommand, context: &mut Context) -> anyhow::Result<Outcome> {
    match command {
        ScoreCommand::Train(arguments) => stage::run::<ClassifierStage>(arguments, context),
        ScoreCommand::Score(arguments) => predict(arguments, context),
    }
}

impl StageCommand for ClassifierStage {
    fn finish(
        trained: TrainedModel,
        folder: &Path,
        as_json: bool,
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        if !as_json && let Ok(text) = std::fs::read_to_string(folder.join(ClassifierEvaluation::FILE_NAME)) {
            print_evaluation(&serde_json::from_str(&text)?, context)?;
        }
        finish_training(&trained, &[], folder, as_json, context)
    }
}

fn predict(arguments: &PredictArguments, context: &Context) -> anyhow::Result<Outcome> {
    check_is_no_input(&arguments.output, [arguments.data.as_path()])?;
    let path = model::find(&arguments.model, context)?;
    let mut events = progress::for_this_terminal(&context.printer);
    let mut classifier =
        Classifier::<LocalEngine>::open(&path, render_options(), context.n_threads, events.as_mut())?;
    let columns = arguments.field.iter().map(|field| ("prompt".to_owned(), field.clone())).collect();
    let source = SourceConfig { columns, ..SourceConfig::new(&arguments.data) };
    let options =
        PredictionOptions { overwrite: arguments.overwrite, probabilities: arguments.probabilities };
    let stop = interrupt::stop_flag("stopping: nothing is written");
    let summary = classifier.predict_file(&source, &arguments.output, &options, events.as_mut(), &stop)?;
    drop(events);
    let Some(summary) = summary else { return Ok(Outcome::Interrupted) };
    if arguments.json {
        context.printer.json(&json!({ "output": arguments.output, "summary": summary }))?;
        return Ok(Outcome::Fine);
    }
    print_summary(&summary, context)?;
    context.printer.line(format_args!("{} rows in {}", summary.n_rows, arguments.output.display()))?;
    Ok(Outcome::Fine)
}

fn print_summary(summary: &PredictionSummary, context: &Context) -> anyhow::Result<()> {
    let printer = &context.printer;
    if summary.n_cut > 0 {
        printer.warning(format_args!("{} texts are longer than the model reads and were cut", summary.n_cut));
    }
    if summary.n_kept > 0 {
        printer.note(format_args!(
            "{} existing labels or scores were kept; use `--overwrite` to replace them",
            summary.n_kept
        ));
    }
    for (dimension, labels) in &summary.labels {
        let mut by_count: Vec<_> = labels.iter().collect();
        by_count.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        let counts: Vec<String> = by_count.iter().map(|(label, n)| format!("{label} {n}")).collect();
        printer.line(format_args!("{dimension}: {}", counts.join(", ")))?;
    }
    for (name, mean) in &summary.mean_scores {
        printer.line(format_args!("{name}: mean {mean:.3}"))?;
    }
    Ok(())
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{share:.3}"))
}

/// Prints the evaluation of the saved model on the held-out rows.
fn print_evaluation(evaluation: &ClassifierEvaluation, context: &Context) -> anyhow::Result<()> {
    let printer = &context.printer;
    for dimension in &evaluation.dimensions {
        printer.line(printer.styled(Style::Bold, in_one_line(dimension)))?;
        let mut table = Table::new(&[
            ("label", Align::Left),
            ("precision", Align::Right),
            ("recall", Align::Right),
            ("F1", Align::Right),
            ("texts", Align::Right),
        ]);
        for label in &dimension.labels {
            let figures = [label.precision, label.recall, label.f1].map(share);
            table.row([label.label.clone()].into_iter().chain(figures).chain([label.support.to_string()]));
        }
        for line in table.lines() {
            printer.line(line)?;
        }
        printer.line("")?;
    }
    for score in &evaluation.scores {
        printer.line(printer.styled(Style::Bold, score_in_one_line(score)))?;
    }
    Ok(())
}

fn in_one_line(dimension: &DimensionEvaluation) -> String {
    let interval = dimension.accuracy_interval.map_or_else(String::new, |interval| format!(" {interval}"));
    let baseline = dimension
        .baseline_accuracy
        .map_or_else(String::new, |baseline| format!(", the most frequent label {baseline:.3}"));
    format!(
        "{}: {} of {} texts right{interval}{baseline}, macro F1 {}, calibration error {}",
        dimension.name,
        share(dimension.accuracy),
        dimension.n_texts,
        share(dimension.macro_f1),
        share(dimension.calibration_error)
    )
}

fn score_in_one_line(score: &ScoreEvaluation) -> String {
    format!(
        "{}: {} texts, Pearson {}, Spearman {}, squared error {} (the mean's {}), pairs in order {}, right third {}",
        score.name,
        score.n_texts,
        share(score.pearson),
        share(score.spearman),
        share(score.mean_squared_error),
        share(score.baseline_squared_error),
        share(score.order_accuracy),
        share(score.level_accuracy)
    )
}
