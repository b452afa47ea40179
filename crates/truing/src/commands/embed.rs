//! `truing embed`: texts to vectors, with an encoder or any decoder; and `truing embed train`: teaching an encoder what
//! belongs together.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use truing_model::Pooling;
use truing_model::sources::DEFAULT_ENCODER;
use truing_predict::{EmbedOptions, Embedder};
use truing_stages::TrainedModel;
use truing_stages::embed::train::EmbedStage;

use super::model;
use super::output::check_is_no_input;
use super::stage::{self, StageCommand, finish_training};
use crate::local_engine::LocalEngine;
use crate::outcome::{Outcome, WithHint};
use crate::{Context, progress};

/// Arguments of `truing embed`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    embed: EmbedArguments,
}

/// What else there is to do with embeddings.
#[derive(Debug, Subcommand)]
enum Command {
    /// Train an embedding model on triplets.
    #[command(after_help = "Example: truing embed train recipes/embed.toml")]
    Train(stage::Arguments),
}

/// A model, texts, and where the vectors go.
#[derive(Debug, Args)]
struct EmbedArguments {
    /// The directory of an encoder or decoder, a .gguf file, or a name on the Hugging Face hub.
    #[arg(long, short, value_name = "PATH|NAME", default_value = DEFAULT_ENCODER)]
    model: String,
    /// Rows with texts: JSON Lines, a JSON list, Parquet, or a .txt file with one text per line.
    #[arg(long, short, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Column with the text of a row. Default: the first known one (text, prompt, instruction, ...).
    #[arg(long)]
    field: Option<String>,
    /// Output file: .npy, or .jsonl with `line` and `vector`.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Pooling of a decoder's hidden states. For encoders their files decide.
    #[arg(long, value_enum)]
    pooling: Option<PoolingArgument>,
    /// Divide a decoder's vectors by their norms. For encoders their files decide.
    #[arg(long)]
    normalize: bool,
    /// Maximum tokens of a text; longer ones are truncated. Default: the model's (2048 for decoders).
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

/// A pooling as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum PoolingArgument {
    /// The mean over all tokens.
    Mean,
    /// The first token.
    Cls,
    /// The last token.
    LastToken,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    match &arguments.command {
        Some(Command::Train(arguments)) => stage::run::<EmbedStage>(arguments, context),
        None => embed(&arguments.embed, context),
    }
}

fn embed(arguments: &EmbedArguments, context: &Context) -> anyhow::Result<Outcome> {
    let (Some(data), Some(output)) = (&arguments.data, &arguments.output) else {
        return Err(anyhow::anyhow!("`--data` and `--output` are needed"))
            .hint(|| "truing embed --data texts.jsonl --output vectors.npy".into());
    };
    check_is_no_input(output, [data.as_path()])?;
    let path = model::find(&arguments.model, context)?;
    let pooling = arguments.pooling.map(|pooling| match pooling {
        PoolingArgument::Mean => Pooling::Mean,
        PoolingArgument::Cls => Pooling::Cls,
        PoolingArgument::LastToken => Pooling::LastToken,
    });
    let options = EmbedOptions {
        pooling,
        max_tokens: arguments.max_tokens,
        normalize: arguments.normalize,
        n_threads: context.n_threads,
    };
    let mut events = progress::for_this_terminal(&context.printer);
    let mut embedder = Embedder::<LocalEngine>::open(&path, options, events.as_mut())?;
    let started = std::time::Instant::now();
    let outcome = embedder.embed_file(data, arguments.field.as_deref(), output, events.as_mut())?;
    let seconds = started.elapsed().as_secs_f64();
    drop(events);
    let printer = &context.printer;
    if outcome.n_cut > 0 {
        let (n_cut, n_texts) = (outcome.n_cut, outcome.n_texts);
        printer
            .warning(format_args!("{n_cut} of {n_texts} texts are longer than the model reads and were cut"));
    }
    if arguments.json {
        printer.json(&json!({
            "output": output, "n_texts": outcome.n_texts, "width": outcome.width,
            "n_tokens": outcome.n_tokens, "n_cut": outcome.n_cut, "seconds": seconds,
        }))?;
    } else {
        printer.line(format_args!(
            "{} vectors of {} in {} ({:.0} texts/s)",
            outcome.n_texts,
            outcome.width,
            output.display(),
            outcome.n_texts as f64 / seconds.max(1e-9)
        ))?;
    }
    Ok(Outcome::Fine)
}

impl StageCommand for EmbedStage {
    fn finish(
        trained: TrainedModel,
        folder: &Path,
        as_json: bool,
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        finish_training(&trained, &[], folder, as_json, context)
    }
}
