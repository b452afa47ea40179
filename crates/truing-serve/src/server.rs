//! The HTTP side: connections, limits, keys, routes.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next as NextLayer, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::LengthLimitError;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use truing_client::Clock;
use truing_generate::Job;

use crate::blocking::blocking;
use crate::chat::ChatJob;
use crate::completions::CompletionJob;
use crate::error::{ApiError, json_response};
use crate::generation::Generation;
use crate::keys::ApiKeys;
use crate::model::ModelEntry;
use crate::state::{Logged, Server};
use crate::tokens::{self, TokenJob};
use crate::usage::Usage;
use crate::{AccessRecord, stream, vectors, weights};

/// The chat page.
const PAGE: &str = include_str!("page.html");
/// How often the server looks whether it shall stop.
const STOP_CHECK: Duration = Duration::from_millis(50);
/// Time to tell clients that their request was not finished.
const LAST_WORDS: Duration = Duration::from_secs(1);

type Shared = State<Arc<Server>>;

/// The routes.
pub(crate) fn router(server: &Arc<Server>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/score", post(score))
        .route("/score", post(score))
        .route("/v1/rerank", post(rerank))
        .route("/rerank", post(rerank))
        .route("/v2/rerank", post(rerank))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/inference/v1/generate", post(generate))
        .route("/update_weights_from_disk", post(update_weights))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .route("/health", get(health))
        .route("/ping", get(health))
        .route("/ready", get(ready))
        .route("/", get(page))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(server), around))
        .with_state(Arc::clone(server))
}

/// Takes connections until the server shall stop, then answers what it has taken.
pub(crate) async fn listen(listener: TcpListener, server: Arc<Server>) {
    let options = &server.options;
    let limits = (options.max_connections, options.body_timeout, options.drain_timeout);
    let on_stop = || server.begin_to_stop();
    let is_idle = || server.n_taken.load(Ordering::SeqCst) == 0;
    listen_with(listener, router(&server), limits, &*server.clock, on_stop, is_idle).await;
}

/// The same for any routes. The limits: connections at a time, time for a header, time to finish when stopped.
pub(crate) async fn listen_with(
    listener: TcpListener,
    service: Router,
    (max_connections, header_timeout, drain_timeout): (usize, Duration, Duration),
    clock: &dyn Clock,
    on_stop: impl Fn(),
    is_idle: impl Fn() -> bool,
) {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(max_connections));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            () = until_stopped(clock) => break,
        };
        let Some((stream, peer, permit)) = accepted else { continue };
        let service = service.clone().layer(axum::Extension(Peer(peer)));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // The client sees that its connection broke.
            let _ = connection.await;
            drop(permit);
        });
    }
    on_stop();
    drop(listener);
    // Requests that are still running are closed after the drain timeout. A connection without a complete request is
    // closed at once.
    tokio::select! {
        () = graceful.shutdown() => {}
        () = until_quiet(is_idle) => {}
        () = tokio::time::sleep(drain_timeout + LAST_WORDS) => {}
    }
}

/// Waits until nothing has been answered for some time: what was said last is on its way.
async fn until_quiet(is_idle: impl Fn() -> bool) {
    let mut n_quiet = 0;
    while n_quiet < 10 {
        tokio::time::sleep(STOP_CHECK).await;
        n_quiet = if is_idle() { n_quiet + 1 } else { 0 };
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Tokens are small: none waits for the next.
            let _ = stream.set_nodelay(true);
            Some((stream, peer, permit))
        }
        Err(_) => {
            // For instance no file descriptor is left: some will be.
            tokio::time::sleep(STOP_CHECK).await;
            None
        }
    }
}

async fn until_stopped(clock: &dyn Clock) {
    while !clock.is_stopped() {
        tokio::time::sleep(STOP_CHECK).await;
    }
}

/// What every request goes through: host, key, body; afterwards the access log and the counts.
async fn around(State(server): Shared, request: Request, next: NextLayer) -> Response {
    let started = server.elapsed();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.to_string());
    let mut response = match admitted(&server, request).await {
        Ok(request) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    let logged = response.extensions_mut().remove::<LoggedLater>();
    let status = response.status().as_u16();
    // A path that is no route is no label: there is no end of them.
    server.metrics.responded(route.as_deref().unwrap_or("unknown"), status);
    let record = AccessRecord {
        unix_secs: server.clock.unix_secs(),
        client: peer,
        method: method.to_string(),
        path,
        status,
        error: response.extensions().get::<ApiError>().map(|error| error.message.clone()),
        total_ms: 0.0,
        ..AccessRecord::default()
    };
    match logged {
        // A stream has its record when it ends.
        Some(LoggedLater(sender)) if sender.send((record.clone(), started)).is_ok() => {}
        _ => {
            let logged = response.extensions_mut().remove::<Logged>().unwrap_or_default();
            write_log(&server, record, &logged, started);
        }
    }
    response
}

/// Where the record of a stream is handed on to.
#[derive(Clone)]
struct LoggedLater(tokio::sync::mpsc::UnboundedSender<(AccessRecord, Duration)>);

fn write_log(server: &Server, mut record: AccessRecord, logged: &Logged, started: Duration) {
    record.total_ms = server.elapsed().saturating_sub(started).as_secs_f64() * 1e3;
    record.model.clone_from(&logged.model);
    record.user.clone_from(&logged.user);
    record.seed = logged.seed;
    record.prompt_tokens = logged.usage.prompt_tokens;
    record.completion_tokens = logged.usage.completion_tokens;
    record.cached_tokens = logged.usage.cached_tokens;
    record.first_token_ms = logged.usage.first_token_s.map(|seconds| seconds * 1e3);
    record.finish_reasons = logged.usage.finish_reasons.iter().map(ToString::to_string).collect();
    (server.log)(&record);
}

/// Reads the body of a request that may be answered.
async fn admitted(server: &Server, request: Request) -> Result<Request, ApiError> {
    let path = request.uri().path();
    let is_open = matches!(path, "/health" | "/ping" | "/ready" | "/");
    let keys = server.options.keys.as_ref();
    check_host(keys, request.headers())?;
    if !is_open {
        check_key(keys, request.headers())?;
    }
    if request.method() != Method::POST {
        return Ok(request);
    }
    // A page of another site can send a form or a text without being asked, but not JSON.
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if kind != "application/json" {
        let message = format!("the content type is `{kind}`, expected `application/json`");
        return Err(ApiError::with_status(415, message));
    }
    let max = server.options.max_body_bytes;
    let too_large =
        || ApiError::with_status(413, format!("the body is larger than {max} bytes, which is the limit"));
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if length.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    let (parts, body) = request.into_parts();
    let seconds = server.options.body_timeout.as_secs();
    let body = match tokio::time::timeout(server.options.body_timeout, to_bytes(body, max)).await {
        Err(_) => {
            return Err(ApiError::with_status(
                408,
                format!("the body did not arrive within {seconds} seconds"),
            ));
        }
        Ok(Err(error)) => {
            let is_too_large = error.into_inner().downcast_ref::<LengthLimitError>().is_some();
            return Err(match is_too_large {
                true => too_large(),
                false => ApiError::bad_request("the body ended early or is not well-formed"),
            });
        }
        Ok(Ok(body)) => body,
    };
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// Without keys only this machine's own names are answered, so that no page of another site reaches the server through
/// a name that it makes point here (DNS rebinding).
pub(crate) fn check_host(keys: Option<&ApiKeys>, headers: &HeaderMap) -> Result<(), ApiError> {
    if keys.is_some() {
        return Ok(());
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let is_own = name.is_empty()
        || name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match is_own {
        true => Ok(()),
        false => {
            let message = format!(
                "the host `{name}` is not this machine's own; serve with API keys to be reached by it"
            );
            Err(ApiError::with_status(403, message))
        }
    }
}

/// A request has to show one of the keys, where there are some.
pub(crate) fn check_key(keys: Option<&ApiKeys>, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(keys) = keys else { return Ok(()) };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = given
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match key {
        Some((_, key)) if keys.contains(key.trim()) => Ok(()),
        Some(_) => Err(ApiError::with_status(401, "the API key is not known").with_code("invalid_api_key")),
        None => {
            let message = "there is no API key: send `Authorization: Bearer <key>`";
            Err(ApiError::with_status(401, message).with_code("invalid_api_key"))
        }
    }
}

fn with_logged(result: Result<Value, ApiError>, logged: Logged) -> Response {
    let mut response = match result {
        Ok(value) => json_response(&value),
        Err(error) => error.into_response(),
    };
    response.extensions_mut().insert(logged);
    response
}

async fn chat(State(server): Shared, body: Bytes) -> Response {
    let reading = Arc::clone(&server);
    let request = match blocking(move || ChatJob::read(&reading, &body)).await {
        Ok(request) => request,
        Err(error) => return error.into_response(),
    };
    let mut logged = request.logged.clone();
    let mut generation = match begin(&server, &request.model, &request.job).await {
        Ok(generation) => generation,
        Err(error) => return with_logged(Err(error), logged),
    };
    if !request.is_streamed {
        let result = request.answer(&mut generation).await;
        logged.usage = generation.usage.clone();
        return with_logged(result, logged);
    }
    let (mut sink, response) = stream::channel();
    streamed(&server, response, logged, async move {
        let result = request.stream(&mut generation, &mut sink).await;
        (sink, result, generation.usage.clone())
    })
}

async fn completions(State(server): Shared, body: Bytes) -> Response {
    let reading = Arc::clone(&server);
    let request = match blocking(move || CompletionJob::read(&reading, &body)).await {
        Ok(request) => request,
        Err(error) => return error.into_response(),
    };
    let started = server.elapsed();
    let mut logged = request.logged.clone();
    let mut generations = Vec::with_capacity(request.jobs.len());
    // Its prompts are one request.
    let slot = match server.slot() {
        Ok(slot) => slot,
        Err(error) => return with_logged(Err(error), logged),
    };
    let weights = Arc::new(request.model.hold_weights().await);
    if !request.only_scores {
        for job in &request.jobs {
            let begun = Generation::begin(
                &server,
                &request.model,
                job.clone(),
                Arc::clone(&slot),
                Arc::clone(&weights),
            );
            match begun {
                Ok(generation) => generations.push(generation),
                Err(error) => return with_logged(Err(error), logged),
            }
        }
    }
    if !request.is_streamed {
        let result = request.answer(&server, &weights, &mut generations).await;
        let result = result.map(|(value, usage)| {
            if request.only_scores {
                server.metrics.finished(request.model.idx, &usage, server.elapsed().saturating_sub(started));
            }
            logged.usage = usage;
            value
        });
        return with_logged(result, logged);
    }
    let (mut sink, response) = stream::channel();
    let streaming = Arc::clone(&server);
    streamed(&server, response, logged, async move {
        match request.stream(&streaming, &weights, &mut generations, &mut sink).await {
            Ok(usage) => (sink, Ok(()), usage),
            Err(error) => (sink, Err(error), Usage::default()),
        }
    })
}

/// Runs a stream beside its response. A failure after the first byte is an event of its own.
fn streamed(
    server: &Arc<Server>,
    mut response: Response,
    mut logged: Logged,
    write: impl Future<Output = (stream::Sink, Result<(), ApiError>, Usage)> + Send + 'static,
) -> Response {
    let (sender, mut records) = tokio::sync::mpsc::unbounded_channel();
    response.extensions_mut().insert(LoggedLater(sender));
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let (mut sink, result, usage) = write.await;
        logged.usage = usage;
        if let Err(error) = &result
            && sink.send(&error.json()).await.is_ok()
        {
            let _ = sink.done().await;
        }
        drop(sink);
        if let Some((mut record, started)) = records.recv().await {
            record.error = result.err().map(|error| error.message);
            write_log(&server, record, &logged, started);
        }
    });
    response
}

async fn generate(State(server): Shared, body: Bytes) -> Response {
    let reading = Arc::clone(&server);
    let request = match blocking(move || TokenJob::read(&reading, &body)).await {
        Ok(request) => request,
        Err(error) => return error.into_response(),
    };
    let mut logged = request.logged.clone();
    match begin(&server, &request.model, &request.job).await {
        Err(error) => with_logged(Err(error), logged),
        Ok(mut generation) => {
            let result = request.answer(&mut generation).await;
            logged.usage = generation.usage.clone();
            with_logged(result, logged)
        }
    }
}

/// Begins the completions of a request, with the weights as they are.
async fn begin(server: &Arc<Server>, model: &ModelEntry, job: &Job) -> Result<Generation, ApiError> {
    let slot = server.slot()?;
    let weights = Arc::new(model.hold_weights().await);
    Generation::begin(server, model, job.clone(), slot, weights)
}

async fn update_weights(State(server): Shared, body: Bytes) -> Response {
    let mut logged = Logged::default();
    let result = weights::update_weights(&server, &body, &mut logged).await;
    with_logged(result, logged)
}

async fn embeddings(State(server): Shared, body: Bytes) -> Response {
    let mut logged = Logged::default();
    let result = match server.slot() {
        Ok(_slot) => vectors::embeddings(&server, &body, &mut logged).await,
        Err(error) => Err(error),
    };
    with_logged(result, logged)
}

async fn score(State(server): Shared, body: Bytes) -> Response {
    let mut logged = Logged::default();
    let result = match server.slot() {
        Ok(_slot) => vectors::score(&server, &body, &mut logged).await,
        Err(error) => Err(error),
    };
    with_logged(result, logged)
}

async fn rerank(State(server): Shared, body: Bytes) -> Response {
    let mut logged = Logged::default();
    let result = match server.slot() {
        Ok(_slot) => vectors::rerank(&server, &body, &mut logged).await,
        Err(error) => Err(error),
    };
    with_logged(result, logged)
}

async fn tokenize(State(server): Shared, body: Bytes) -> Response {
    let result = blocking(move || tokens::tokenize(&server, &body)).await;
    with_logged(result, Logged::default())
}

async fn detokenize(State(server): Shared, body: Bytes) -> Response {
    let result = blocking(move || tokens::detokenize(&server, &body)).await;
    with_logged(result, Logged::default())
}

async fn models(State(server): Shared) -> Response {
    let data: Vec<Value> = server.models.iter().map(|model| model_json(&server, model)).collect();
    json_response(&json!({"object": "list", "data": data}))
}

async fn model(State(server): Shared, Path(name): Path<String>) -> Response {
    match server.model_named(&name) {
        Ok(model) => json_response(&model_json(&server, &model)),
        Err(error) => error.into_response(),
    }
}

fn model_json(server: &Server, model: &ModelEntry) -> Value {
    let mut entry = json!({
        "id": model.name,
        "object": "model",
        "created": server.options.started_unix_secs,
        "owned_by": "truing",
        "root": &*model.fingerprint(),
        "task": model.task(),
    });
    if let Ok(text) = model.text() {
        entry["max_model_len"] = text.spec.max_position_embeddings.into();
    }
    entry
}

async fn metrics(State(server): Shared) -> Response {
    match server.metrics.text(&server.loads) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => ApiError::with_status(500, error.to_string()).into_response(),
    }
}

async fn version() -> Response {
    json_response(&json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn health() -> Response {
    StatusCode::OK.into_response()
}

/// Whether new requests are taken.
async fn ready(State(server): Shared) -> Response {
    match server.is_draining.load(Ordering::SeqCst) {
        true => ApiError::with_status(503, "the server is shutting down").into_response(),
        false => StatusCode::OK.into_response(),
    }
}

async fn page() -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, policy)];
    (headers, PAGE).into_response()
}

async fn not_found(request: Request) -> Response {
    ApiError::with_status(404, format!("there is no {}", request.uri().path())).into_response()
}

async fn wrong_method(request: Request) -> Response {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    ApiError::with_status(405, message).into_response()
}
