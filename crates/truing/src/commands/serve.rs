//! `truing serve`: models for OpenAI-compatible clients.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use truing_client::Clock as _;
use truing_model::sources::DEFAULT_MODEL;
use truing_model::{EncoderFiles, HeadKind, ModelFiles, TrainableSpec};
use truing_predict::{EmbedOptions, Embedder, RewardScorer};
use truing_serve::{ApiKeys, Model, ServeError, ServeOptions, ServedModel, fingerprint_of, serve};
use truing_types::Seed;

use super::model;
use super::sampling::{DraftingArguments, Weights};
use crate::asking::SystemClock;
use crate::local_engine::LocalEngine;
use crate::outcome::{Outcome, WithHint};
use crate::rendering::render_options;
use crate::{Context, interrupt, progress};

/// Arguments of `truing serve`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A model to serve, with a name for requests if wanted: a language model (also an adapter), a reward model or an
    /// encoder. Repeat it for several models.
    #[arg(long, short, value_name = "[NAME=]PATH|NAME", default_value = DEFAULT_MODEL)]
    model: Vec<String>,
    /// A language model to serve for vectors of texts (mean of the last hidden states) instead of generation.
    #[arg(long, value_name = "[NAME=]PATH|NAME")]
    embedding_model: Vec<String>,
    /// Address to listen on. Other addresses than this machine's own need --api-key-file.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// File with the API keys that requests may show, one per line.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Weights that tokens are sampled with.
    #[arg(long, value_enum, default_value = "f32")]
    weights: Weights,
    #[command(flatten)]
    drafting: DraftingArguments,
    /// Let requests replace the weights of a language model by those of a folder that they name
    /// (`/update_weights_from_disk`), as trainers do that sample from this server.
    #[arg(long)]
    enable_weight_updates: bool,
    /// Completions that are decoded at the same time.
    #[arg(long, value_name = "N", default_value_t = 32)]
    max_num_seqs: usize,
    /// Most requests waiting in the queue; more are refused with status 429.
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_queue: usize,
    /// Tokens of prompts that are kept for prompts with the same beginning, per model; 0 keeps none.
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    prefix_cache_tokens: usize,
    /// Largest body of a request, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 4)]
    max_body_mib: usize,
    /// Longest time of a request, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    request_timeout: u64,
    /// Time that running requests have to finish when the server is stopped, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_timeout: u64,
    /// File to append the access log to, one JSON object per request.
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Seed of the seeds that requests without one get. Default: another one each time.
    #[arg(long)]
    seed: Option<u64>,
}

/// Loads the models and serves them until Ctrl-C.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let keys = arguments.api_key_file.as_deref().map(read_keys).transpose()?;
    let address = SocketAddr::new(arguments.host, arguments.port);
    if keys.is_none() && !address.ip().is_loopback() {
        return Err(ServeError::OpenToAll(address))
            .hint(|| "write keys to a file, one per line, and name it with --api-key-file".into());
    }
    anyhow::ensure!(arguments.max_num_seqs > 0, "--max-num-seqs is 0, expected at least 1");
    anyhow::ensure!(arguments.max_body_mib > 0, "--max-body-mib is 0, expected at least 1");
    anyhow::ensure!(arguments.request_timeout > 0, "--request-timeout is 0, expected at least 1 second");
    // Everything that can fail at once comes before the models are loaded.
    let log = access_log(arguments.access_log.as_deref())?;
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}"))
        .hint(|| "choose another --port, or 0 for a free one".into())?;
    let address = listener.local_addr()?;
    let mut models = Vec::new();
    for reference in &arguments.model {
        models.push(open(reference, false, context)?);
    }
    for reference in &arguments.embedding_model {
        models.push(open(reference, true, context)?);
    }
    let stop = interrupt::stop_flag("Stopping: no new requests are taken, running ones are finished");
    let clock = Arc::new(SystemClock::new(&stop));
    let started_unix_secs = clock.unix_secs() as u64;
    let options = ServeOptions {
        max_running: arguments.max_num_seqs,
        max_waiting: arguments.max_queue,
        max_cached_tokens: arguments.prefix_cache_tokens,
        weights: arguments.weights.into(),
        prompt_lookup_num_tokens: arguments.drafting.n_tokens(),
        updates_weights: arguments.enable_weight_updates,
        max_body_bytes: arguments.max_body_mib << 20,
        request_timeout: Duration::from_secs(arguments.request_timeout),
        drain_timeout: Duration::from_secs(arguments.drain_timeout),
        keys,
        seed: Seed(arguments.seed.unwrap_or(started_unix_secs)),
        started_unix_secs,
        ..ServeOptions::default()
    };
    let printer = context.printer;
    for served in &models {
        printer.note(format_args!("{}: {}", served.name, task(&served.model)));
    }
    printer.line(format!(
        "listening on http://{address} (API: http://{address}/v1, chat page: http://{address}/)"
    ))?;
    serve(listener, models, options, clock, log)?;
    Ok(Outcome::Fine)
}

fn task(model: &Model<LocalEngine>) -> &'static str {
    match model {
        Model::Generate { .. } => "language model",
        Model::Score(_) => "reward model",
        Model::Embed(_) => "embedding model",
    }
}

pub(crate) fn read_keys(path: &Path) -> anyhow::Result<ApiKeys> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    ApiKeys::of_text(&text).with_context(|| format!("{} holds no key, expected one per line", path.display()))
}

/// Where records go.
type Log<T> = Box<dyn Fn(&T) + Send + Sync>;

/// Appends records to a file, each at once and whole, one JSON object per line.
pub(crate) fn access_log<T: Serialize>(path: Option<&Path>) -> anyhow::Result<Log<T>> {
    let Some(path) = path else { return Ok(Box::new(|_| {})) };
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = Mutex::new(file.with_context(|| format!("cannot write {}", path.display()))?);
    Ok(Box::new(move |record: &T| {
        let Ok(mut line) = serde_json::to_string(record) else { return };
        line.push('\n');
        // A full disk must not end the service.
        let _ = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }))
}

/// A name for requests and what it stands for. Without a name it is the last part of the path, or the hub's name.
fn split_name(reference: &str) -> (String, &str) {
    if !Path::new(reference).exists()
        && let Some((name, path)) = reference.split_once('=')
        && !name.is_empty()
    {
        return (name.to_owned(), path);
    }
    let path = Path::new(reference);
    let name = match path.exists() {
        true => name_of_path(path),
        false => reference.to_owned(),
    };
    (name, reference)
}

/// The last part of a path; of a run's `model` folder, that of the run.
fn name_of_path(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let own = path.file_stem().filter(|_| path.is_file()).or(path.file_name());
    let own = own.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match path.parent().and_then(Path::file_name) {
        Some(run) if own == "model" => run.to_string_lossy().into_owned(),
        _ => own,
    }
}

fn open(reference: &str, embeds: bool, context: &Context) -> anyhow::Result<ServedModel<LocalEngine>> {
    let (name, reference) = split_name(reference);
    let path = model::find(reference, context)?;
    let mut events = progress::for_this_terminal(&context.printer);
    if EncoderFiles::is_encoder(&path) || embeds {
        let options = EmbedOptions { n_threads: context.n_threads, ..EmbedOptions::default() };
        let files = match EncoderFiles::is_encoder(&path) {
            true => EncoderFiles::open(&path)?.deciding_files(),
            false => ModelFiles::open(&path)?.deciding_files(),
        };
        let fingerprint = fingerprint_of(&files)?;
        let embedder = Embedder::open(&path, options, events.as_mut())?;
        return Ok(ServedModel { name, fingerprint, model: Model::Embed(Box::new(embedder)) });
    }
    let files = model::open(&path)?;
    let fingerprint = fingerprint_of(&files.deciding_files())?;
    let model = match files.spec.head {
        HeadKind::Score { n_outputs: 1 } => {
            let scorer = RewardScorer::open(&path, render_options(), context.n_threads, events.as_mut())?;
            Model::Score(Box::new(scorer))
        }
        _ => {
            let renderer = truing_stages::model::renderer(&files, render_options())?;
            let engine = model::load_engine(context, &files, &TrainableSpec::frozen())?;
            Model::Generate { engine: Box::new(engine), renderer: Box::new(renderer) }
        }
    };
    Ok(ServedModel { name, fingerprint, model })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_names() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("runs/tiny/model");
        std::fs::create_dir_all(&run).unwrap();
        let run = run.to_string_lossy().into_owned();
        assert_eq!(split_name(&run).0, "tiny");
        let named = format!("mine={run}");
        assert_eq!(split_name(&named), ("mine".into(), run.as_str()));
        assert_eq!(split_name("org/name"), ("org/name".into(), "org/name"));
        let file = folder.path().join("SmolLM2.Q4_1.gguf");
        std::fs::write(&file, "").unwrap();
        assert_eq!(split_name(&file.to_string_lossy()).0, "SmolLM2.Q4_1");
    }
}
