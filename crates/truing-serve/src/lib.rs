//! An OpenAI-compatible server for models in this process.
//!
//! Requests arrive on connections (axum), become jobs, and are sent to one thread that owns the engines and decodes all
//! of them side by side ([`truing_generate::DecodingLoop`]). What a request gets depends on the request, its seed and
//! the weights, never on what runs beside it or is cached. Every field of a request is honoured, or refused by name
//! ([`ENDPOINTS`]).

mod blocking;
mod chat;
mod completions;
mod error;
mod fields;
mod generation;
mod keys;
mod messages;
mod metrics;
mod model;
mod proxy;
mod reply;
mod sampling;
mod server;
mod state;
mod stream;
mod tokens;
mod tools;
mod usage;
mod vectors;
mod weights;
mod worker;

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use serde::Serialize;
use truing_client::Clock;
use truing_generate::{
    DecodingLoop, DecodingOptions, GenerateError, PromptReading, SampledIds, end_tokens, excluded_tokens,
    marks_of,
};
use truing_model::{DecodingWeights, Engine};
use truing_predict::{Embedder, RewardScorer};
use truing_text::ChatRenderer;
use truing_types::Seed;

pub use fields::{Endpoint, FieldInfo, Handling};
pub use keys::ApiKeys;
pub use proxy::{Complement, ProxyLog, ProxyOptions, ProxyRecord, UpstreamKey, serve_proxy};
pub use weights::fingerprint_of;

use crate::metrics::Metrics;
use crate::model::{ModelEntry, ModelKind, TextModel};
use crate::state::Server;
use crate::worker::{Generating, Hosted, Load, Worker};

/// Endpoints with the fields that they know.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint { path: "/v1/chat/completions", fields: chat::CHAT_FIELDS },
    Endpoint { path: "/v1/completions", fields: completions::COMPLETION_FIELDS },
    Endpoint { path: "/inference/v1/generate", fields: tokens::GENERATE_FIELDS },
    Endpoint { path: "/v1/embeddings", fields: vectors::EMBEDDING_FIELDS },
    Endpoint { path: "/v1/score", fields: vectors::SCORE_FIELDS },
    Endpoint { path: "/v1/rerank", fields: vectors::RERANK_FIELDS },
    Endpoint { path: "/tokenize", fields: tokens::TOKENIZE_FIELDS },
    Endpoint { path: "/detokenize", fields: tokens::DETOKENIZE_FIELDS },
    Endpoint { path: "/update_weights_from_disk", fields: weights::UPDATE_WEIGHTS_FIELDS },
];

/// Fields of sampling, which `/v1/chat/completions`, `/v1/completions` and the `sampling_params` of
/// `/inference/v1/generate` share.
pub const SAMPLING_FIELDS: &[FieldInfo] = sampling::SAMPLING_FIELDS;

/// Further fields of `sampling_params`.
pub const SAMPLING_PARAMS_FIELDS: &[FieldInfo] = tokens::SAMPLING_PARAMS_FIELDS;

/// A model that is served.
pub struct ServedModel<E: Engine> {
    /// What requests call it.
    pub name: String,
    /// Digest of its files, the `system_fingerprint` of replies.
    pub fingerprint: String,
    /// The model.
    pub model: Model<E>,
}

/// What a model does.
pub enum Model<E: Engine> {
    /// Writes text.
    Generate {
        /// The engine.
        engine: Box<E>,
        /// Its tokenizer and template.
        renderer: Box<ChatRenderer>,
    },
    /// Scores responses.
    Score(Box<RewardScorer<E>>),
    /// Makes vectors of texts.
    Embed(Box<Embedder<E>>),
}

/// How a server is run.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Completions that are decoded side by side.
    pub max_running: usize,
    /// Most requests waiting in the queue; more are refused with 429.
    pub max_waiting: usize,
    /// Connections at a time; further ones wait.
    pub max_connections: usize,
    /// Tokens of prompts' beginnings that each model keeps.
    pub max_cached_tokens: usize,
    /// Weights that decoding multiplies with.
    pub weights: DecodingWeights,
    /// Most tokens that are drafted for each completion in a step; 0 drafts none.
    pub prompt_lookup_num_tokens: usize,
    /// Whether `/update_weights_from_disk` is on: it replaces the weights of a language model by those of a folder.
    pub updates_weights: bool,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Time for the header of a request, and for its body.
    pub body_timeout: Duration,
    /// Time for a request.
    pub request_timeout: Duration,
    /// Time for requests that are being answered when the server stops.
    pub drain_timeout: Duration,
    /// Seconds after which a refused request may come again.
    pub retry_after_s: u64,
    /// Keys that requests have to show. Without keys the server listens on this machine only.
    pub keys: Option<ApiKeys>,
    /// Seed of the seeds of requests that have none.
    pub seed: Seed,
    /// When the server was started, in seconds since 1970.
    pub started_unix_secs: u64,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            max_running: 32,
            max_waiting: 256,
            max_connections: 1024,
            max_cached_tokens: 65_536,
            weights: DecodingWeights::default(),
            prompt_lookup_num_tokens: 0,
            updates_weights: false,
            max_body_bytes: 4 << 20,
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(30),
            retry_after_s: 1,
            keys: None,
            seed: Seed(0),
            started_unix_secs: 0,
        }
    }
}

/// One line of the access log.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct AccessRecord {
    /// When the request was answered, in seconds since 1970; of a stream, when it began.
    pub unix_secs: f64,
    /// Address and port of the client.
    pub client: Option<String>,
    /// Method.
    pub method: String,
    /// Path.
    pub path: String,
    /// Status of the response.
    pub status: u16,
    /// Why it was not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The request's `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The seed, chosen by the server where the request has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, how many did not have to be read.
    pub cached_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Why completions ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub finish_reasons: Vec<String>,
    /// Time to the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<f64>,
    /// Time of the whole request.
    pub total_ms: f64,
}

/// Where the records of requests go.
pub type AccessLog = Box<dyn Fn(&AccessRecord) + Send + Sync>;

/// A server that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nothing to serve.
    #[error("there is no model to serve")]
    NoModel,
    /// Two models of one name.
    #[error("two models are called `{0}`")]
    SameName(String),
    /// An address that others can reach, without keys.
    #[error("{0} can be reached from other machines, and there are no API keys")]
    OpenToAll(std::net::SocketAddr),
    /// An upstream server without scheme and host.
    #[error("the upstream server is `{0}`, expected an address such as http://127.0.0.1:8000")]
    NoUpstream(String),
    /// A model that cannot be used.
    #[error("the model `{name}` cannot be served: {source}")]
    Model {
        /// Its name.
        name: String,
        /// Why.
        source: Box<GenerateError>,
    },
    /// The network or a thread fails.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Serves models until the clock says stop, then answers what has been taken.
///
/// # Errors
/// When there is no model or one that cannot be served, when the address is not loopback and there are no keys, or
/// when the system refuses.
pub fn serve<E>(
    listener: TcpListener,
    models: Vec<ServedModel<E>>,
    options: ServeOptions,
    clock: Arc<dyn Clock>,
    log: AccessLog,
) -> Result<(), ServeError>
where
    E: Engine + 'static,
    E::Batch: Send,
    E::Hidden: Send,
    E::Logits: Send,
{
    if models.is_empty() {
        return Err(ServeError::NoModel);
    }
    let address = listener.local_addr()?;
    if options.keys.is_none() && !address.ip().is_loopback() {
        return Err(ServeError::OpenToAll(address));
    }
    let (mut entries, mut hosted) = (Vec::new(), Vec::new());
    for served in models {
        let entry = host(served, entries.len(), &options)?;
        if entries.iter().any(|known: &Arc<ModelEntry>| known.name == entry.0.name) {
            return Err(ServeError::SameName(entry.0.name));
        }
        entries.push(Arc::new(entry.0));
        hosted.push(entry.1);
    }
    let loads: Vec<Arc<Load>> = entries.iter().map(|_| Arc::default()).collect();
    let (commands, receiver) = mpsc::channel();
    let worker = Worker { models: hosted, loads: loads.clone(), commands: receiver };
    let worker = std::thread::Builder::new().name("engine".into()).spawn(move || worker.run())?;
    let server = Arc::new(Server {
        metrics: Metrics::new(&entries),
        options,
        models: entries,
        loads,
        clock,
        log,
        commands,
        n_taken: Arc::new(AtomicUsize::new(0)),
        n_requests: AtomicU64::new(0),
        is_draining: AtomicBool::new(false),
        give_up_at: OnceLock::new(),
    });
    let runtime = runtime()?;
    listener.set_nonblocking(true)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        server::listen(listener, Arc::clone(&server)).await;
        Ok::<(), std::io::Error>(())
    })?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(server);
    // The worker ends when the last sender is gone; one that panicked has said so.
    let _ = worker.join();
    Ok(())
}

/// Limits of the connections of [`serve_routes`].
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections at a time; further ones wait.
    pub max_connections: usize,
    /// Time for the header of a request.
    pub header_timeout: Duration,
    /// Time for requests that are being answered when the server stops.
    pub drain_timeout: Duration,
}

/// Serves any routes, without a model, until the clock says stop; then answers what has been taken. `is_idle` says
/// whether no request is being answered.
///
/// # Errors
/// When the system refuses.
pub fn serve_routes(
    listener: TcpListener,
    routes: axum::Router,
    limits: ConnectionLimits,
    clock: &dyn Clock,
    is_idle: impl Fn() -> bool,
) -> std::io::Result<()> {
    let ConnectionLimits { max_connections, header_timeout, drain_timeout } = limits;
    let runtime = runtime()?;
    listener.set_nonblocking(true)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let limits = (max_connections, header_timeout, drain_timeout);
        server::listen_with(listener, routes, limits, clock, || {}, is_idle).await;
        Ok::<(), std::io::Error>(())
    })?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

/// The threads that connections run on.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("connections")
        .enable_io()
        .enable_time()
        .build()
}

/// A model as requests know it, and as the worker runs it.
fn host<E: Engine>(
    served: ServedModel<E>,
    idx: usize,
    options: &ServeOptions,
) -> Result<(ModelEntry, Hosted<E>), ServeError> {
    let ServedModel { name, fingerprint, model } = served;
    let (kind, hosted) = match model {
        Model::Score(scorer) => (ModelKind::Score, Hosted::Rewarding(scorer)),
        Model::Embed(embedder) => (ModelKind::Embed, Hosted::Embedding(embedder)),
        Model::Generate { engine, renderer } => {
            let source =
                |source: GenerateError| ServeError::Model { name: name.clone(), source: Box::new(source) };
            let spec = engine.spec().decoder().map_err(|error| source(error.into()))?.clone();
            let end = end_tokens(&spec.eos_token_ids, &renderer);
            let excluded = excluded_tokens(renderer.tokenizer(), spec.vocab_size, &end);
            let ids = SampledIds { end: end.into(), excluded: excluded.clone() };
            let decoding = DecodingOptions {
                max_batch: options.max_running,
                weights: options.weights,
                prompts: PromptReading::InPieces { max_cached_tokens: options.max_cached_tokens },
                prompt_lookup_num_tokens: options.prompt_lookup_num_tokens,
            };
            let decoding = DecodingLoop::new(renderer.tokenizer(), ids.clone(), decoding);
            let text = TextModel {
                marks: marks_of(renderer.tokenizer()),
                renderer: *renderer,
                spec,
                end: ids.end,
                grammars: OnceLock::new(),
            };
            let generating = Generating::new(*engine, decoding, excluded);
            (ModelKind::Generate(Box::new(text)), Hosted::Generating(Box::new(generating)))
        }
    };
    Ok((ModelEntry::new(name, idx, &fingerprint, kind), hosted))
}
