//! The PAS proxy: requests to any OpenAI-compatible server, with a complement after the user's text.
//!
//! The complement is appended; the user's text, all other fields and the answer's bytes are passed on as they are.
//! Whatever is wrong with the complement model, the request is answered without a complement.

mod body;
mod complements;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::uri::{Authority, PathAndQuery, Scheme};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http_body_util::LengthLimitError;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde::Serialize;
use truing_client::Clock;
use truing_types::with_causes;

pub use complements::Complement;

use crate::ServeError;
use crate::error::ApiError;
use crate::keys::ApiKeys;
use crate::server::{Peer, check_host, check_key, listen_with};
use body::{NoPlace, outline, with_complement};
use complements::{Complements, Fate};

/// Paths whose bodies get a complement; all others are passed on.
const PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/responses", "/v1/messages"];
/// A model's name with this before it asks for complements.
const ALIAS: &str = "pas/";
/// `off` turns complements off for a request, `on` turns them on.
const COMPLEMENT: HeaderName = HeaderName::from_static("x-truing-complement");
const COMPLEMENT_MS: HeaderName = HeaderName::from_static("x-truing-complement-ms");
const OVERHEAD_MS: HeaderName = HeaderName::from_static("x-truing-overhead-ms");
/// Headers of a connection, not of a message (RFC 9110, 7.6.1).
const OF_CONNECTION: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Time for a connection to the upstream server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How a proxy is run.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// The server that answers: scheme, host and port, and a path before the requests' own if it has one.
    pub upstream: Uri,
    /// Models that get complements without asking; `None` for all.
    pub models: Option<Vec<String>>,
    /// Models that never get one.
    pub except: Vec<String>,
    /// Share of prompts whose complement is made and logged, but not used.
    pub shadow: f64,
    /// Longest time that a request waits for its complement.
    pub complement_timeout: Duration,
    /// Complements that are made at a time.
    pub n_workers: usize,
    /// Complements that are kept.
    pub max_cached: usize,
    /// Prompts longer than this many bytes get no complement.
    pub max_prompt_bytes: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Time for the header of a request, and for its body.
    pub body_timeout: Duration,
    /// Connections at a time.
    pub max_connections: usize,
    /// Time for requests that are being answered when the proxy stops.
    pub drain_timeout: Duration,
    /// Keys that requests have to show to the proxy. Their `Authorization` is passed on, unless `upstream_key` takes
    /// its place.
    pub keys: Option<ApiKeys>,
    /// Key for the upstream server.
    pub upstream_key: Option<UpstreamKey>,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            upstream: Uri::from_static("http://127.0.0.1:8000"),
            models: None,
            except: Vec::new(),
            shadow: 0.0,
            complement_timeout: Duration::from_secs(2),
            n_workers: 4,
            max_cached: 100_000,
            max_prompt_bytes: 32 << 10,
            max_body_bytes: 64 << 20,
            body_timeout: Duration::from_secs(30),
            max_connections: 4096,
            drain_timeout: Duration::from_secs(30),
            keys: None,
            upstream_key: None,
        }
    }
}

/// A key for the upstream server.
#[derive(Clone)]
pub struct UpstreamKey(HeaderValue);

impl std::fmt::Debug for UpstreamKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UpstreamKey")
    }
}

impl UpstreamKey {
    /// A key; `None` where it holds a character that no header takes.
    #[must_use]
    pub fn new(key: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.trim())).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }
}

/// One line of the proxy's log.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ProxyRecord {
    /// When the answer began, in seconds since 1970.
    pub unix_secs: f64,
    /// Address and port of the client.
    pub client: Option<String>,
    /// Path.
    pub path: String,
    /// Status of the answer.
    pub status: u16,
    /// The model, as the request names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `applied`, `bypassed:<reason>`, `shadow` or `off`.
    pub complement: String,
    /// The complement, of a shadow request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow_complement: Option<String>,
    /// Time that the request waited for its complement.
    pub complement_ms: f64,
    /// Time that the proxy took in all, before the request was sent on.
    pub overhead_ms: f64,
}

/// Where the records go.
pub type ProxyLog = Box<dyn Fn(&ProxyRecord) + Send + Sync>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfComplement {
    complement: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: String,
}

struct ProxyMetrics {
    registry: Registry,
    requests: Family<OfComplement, Counter>,
    bypassed: Family<OfReason, Counter>,
    overhead: Histogram,
}

impl ProxyMetrics {
    fn new() -> Self {
        let buckets = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
        let (requests, bypassed) = (Family::default(), Family::default());
        let overhead = Histogram::new(buckets);
        let mut registry = Registry::default();
        let name = "truing:pas_requests";
        registry.register(name, "Requests by what became of their complement", Family::clone(&requests));
        let name = "truing:pas_bypassed";
        registry.register(name, "Requests without a complement, by reason", Family::clone(&bypassed));
        let name = "truing:pas_overhead_seconds";
        registry.register(name, "Time that the proxy took before a request was sent on", overhead.clone());
        Self { registry, requests, bypassed, overhead }
    }

    fn count(&self, fate: &Fate, overhead: Duration) {
        let complement = fate.label().to_owned();
        self.requests.get_or_create(&OfComplement { complement }).inc();
        if let Fate::Bypassed(reason) = fate {
            self.bypassed.get_or_create(&OfReason { reason: (*reason).to_owned() }).inc();
        }
        self.overhead.observe(overhead.as_secs_f64());
    }
}

struct Proxy {
    options: ProxyOptions,
    complements: Complements,
    client: Client<HttpsConnector<HttpConnector>, Body>,
    clock: Arc<dyn Clock>,
    log: ProxyLog,
    metrics: ProxyMetrics,
    is_draining: AtomicBool,
}

/// Runs the proxy until the clock says stop, then finishes what has been taken.
///
/// # Errors
/// When the address is not loopback and there are no keys, the upstream address is invalid, or the system refuses.
pub fn serve_proxy(
    listener: TcpListener,
    model: Arc<dyn Complement>,
    options: ProxyOptions,
    clock: Arc<dyn Clock>,
    log: ProxyLog,
) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    if options.keys.is_none() && !address.ip().is_loopback() {
        return Err(ServeError::OpenToAll(address));
    }
    if options.upstream.scheme().is_none() || options.upstream.authority().is_none() {
        return Err(ServeError::NoUpstream(options.upstream.to_string()));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("connections")
        // A complement model that hangs holds its worker, and never more than that.
        .max_blocking_threads(options.n_workers + 4)
        .enable_io()
        .enable_time()
        .build()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .build(connector);
    let complements =
        Complements::new(model, options.n_workers, options.max_cached, options.complement_timeout);
    let metrics = ProxyMetrics::new();
    let proxy = Arc::new(Proxy {
        options,
        complements,
        client,
        clock,
        log,
        metrics,
        is_draining: AtomicBool::new(false),
    });
    listener.set_nonblocking(true)?;
    let router = Router::new()
        .route("/health", get(async || "ok"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics_page))
        .fallback(pass_on)
        .with_state(Arc::clone(&proxy));
    let Proxy { options, clock, .. } = &*proxy;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let limits = (options.max_connections, options.body_timeout, options.drain_timeout);
        let on_stop = || proxy.is_draining.store(true, Ordering::SeqCst);
        listen_with(listener, router, limits, &**clock, on_stop, || false).await;
        Ok::<(), std::io::Error>(())
    })?;
    // A complement model that hangs is not waited for.
    runtime.shutdown_background();
    Ok(())
}

async fn ready(State(proxy): State<Arc<Proxy>>) -> Response {
    match proxy.is_draining.load(Ordering::SeqCst) {
        true => ApiError::with_status(503, "the proxy is shutting down").into_response(),
        false => "ok".into_response(),
    }
}

async fn metrics_page(State(proxy): State<Arc<Proxy>>, headers: HeaderMap) -> Response {
    if let Err(error) = check_key(proxy.options.keys.as_ref(), &headers) {
        return error.into_response();
    }
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &proxy.metrics.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => ApiError::with_status(500, error.to_string()).into_response(),
    }
}

/// What was found out about a request before it is sent on.
struct Prepared {
    body: Body,
    fate: Fate,
    model: Option<String>,
    complement_time: Duration,
}

/// Passes a request on and its answer back.
async fn pass_on(
    State(proxy): State<Arc<Proxy>>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let mut record = ProxyRecord {
        client: peer.map(|Extension(Peer(address))| address.to_string()),
        path,
        ..ProxyRecord::default()
    };
    let response = match proxy.exchange(request, &mut record).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    record.unix_secs = proxy.clock.unix_secs();
    record.status = response.status().as_u16();
    (proxy.log)(&record);
    response
}

impl Proxy {
    async fn exchange(&self, request: Request, record: &mut ProxyRecord) -> Result<Response, ApiError> {
        check_host(self.options.keys.as_ref(), request.headers())?;
        check_key(self.options.keys.as_ref(), request.headers())?;
        let (mut parts, body) = request.into_parts();
        let is_of_conversation = parts.method == Method::POST && PATHS.contains(&parts.uri.path());
        let (prepared, overhead) = match is_of_conversation {
            false => {
                let prepared =
                    Prepared { body, fate: Fate::Off, model: None, complement_time: Duration::ZERO };
                (prepared, Duration::ZERO)
            }
            true => {
                let bytes = self.read(body).await?;
                // Counted from here: before, the client was sending.
                let started = self.clock.elapsed();
                let prepared = self.prepare(bytes, &parts.headers).await;
                parts.headers.remove(header::CONTENT_LENGTH);
                (prepared, self.clock.elapsed().saturating_sub(started))
            }
        };
        let Prepared { body, fate, model, complement_time } = prepared;
        self.metrics.count(&fate, overhead);
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        record.complement = fate.header();
        record.complement_ms = milliseconds(complement_time);
        record.overhead_ms = milliseconds(overhead);
        record.model = model;
        if let Fate::Shadow(complement) = &fate {
            record.shadow_complement = Some(complement.to_string());
        }
        parts.uri = self.target(&parts.uri)?;
        remove_of_connection(&mut parts.headers);
        parts.headers.remove(header::HOST);
        for name in [COMPLEMENT, COMPLEMENT_MS, OVERHEAD_MS] {
            parts.headers.remove(name);
        }
        if let Some(UpstreamKey(key)) = &self.options.upstream_key {
            parts.headers.insert(header::AUTHORIZATION, key.clone());
        }
        parts.version = axum::http::Version::HTTP_11;
        let answer = self.client.request(Request::from_parts(parts, body)).await.map_err(|error| {
            let message = with_causes(&error);
            ApiError::with_status(502, format!("the upstream server does not answer: {message}"))
        })?;
        let (mut parts, body) = answer.into_parts();
        remove_of_connection(&mut parts.headers);
        if is_of_conversation {
            let number = |time: Duration| HeaderValue::from_str(&format!("{:.3}", milliseconds(time)));
            let entries = [
                (COMPLEMENT, HeaderValue::from_str(&fate.header())),
                (COMPLEMENT_MS, number(complement_time)),
                (OVERHEAD_MS, number(overhead)),
            ];
            for (name, value) in entries {
                if let Ok(value) = value {
                    parts.headers.insert(name, value);
                }
            }
        }
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    /// The body, whole.
    async fn read(&self, body: Body) -> Result<Bytes, ApiError> {
        let max = self.options.max_body_bytes;
        match tokio::time::timeout(self.options.body_timeout, to_bytes(body, max)).await {
            Err(_) => Err(ApiError::with_status(408, "the body did not arrive in time")),
            Ok(Err(error)) => match error.into_inner().downcast_ref::<LengthLimitError>() {
                Some(_) => Err(ApiError::with_status(413, format!("the body is larger than {max} bytes"))),
                None => Err(ApiError::bad_request("the body ended early or is not well-formed")),
            },
            Ok(Ok(bytes)) => Ok(bytes),
        }
    }

    /// The body with its complement, where it gets one.
    async fn prepare(&self, bytes: Bytes, headers: &HeaderMap) -> Prepared {
        let unchanged = |bytes: Bytes, fate: Fate, model: Option<String>| Prepared {
            body: Body::from(bytes),
            fate,
            model,
            complement_time: Duration::ZERO,
        };
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return unchanged(bytes, Fate::Bypassed("not_a_conversation"), None);
        };
        let found = match outline(text) {
            Ok(found) => found,
            Err(NoPlace::NotAConversation) => {
                return unchanged(bytes, Fate::Bypassed("not_a_conversation"), None);
            }
            Err(NoPlace::NoUserText) => return unchanged(bytes, Fate::Bypassed("no_user_text"), None),
        };
        let model = found.model.as_ref().map(|(name, _)| name.clone());
        let alias = model.as_deref().and_then(|name| name.strip_prefix(ALIAS));
        let name = alias.or(model.as_deref()).unwrap_or_default().to_owned();
        let (fate, complement_time) = match self.is_wanted(&name, alias.is_some(), headers) {
            false => (Fate::Off, Duration::ZERO),
            true if found.user.text.len() > self.options.max_prompt_bytes => {
                (Fate::Bypassed("too_long"), Duration::ZERO)
            }
            true => {
                let started = self.clock.elapsed();
                let fate = match self.complements.find(&found.user.text).await {
                    Ok(complement) if self.is_shadow(&found.user.text) => Fate::Shadow(complement),
                    Ok(complement) => Fate::Applied(complement),
                    Err(reason) => Fate::Bypassed(reason),
                };
                (fate, self.clock.elapsed().saturating_sub(started))
            }
        };
        let complement = match &fate {
            Fate::Applied(complement) => Some(&**complement),
            _ => None,
        };
        let body = match (complement, alias) {
            (None, None) => Body::from(bytes),
            (complement, alias) => Body::from(with_complement(text, &found, complement, alias)),
        };
        Prepared { body, fate, model, complement_time }
    }

    /// Whether a request gets a complement.
    fn is_wanted(&self, model: &str, is_alias: bool, headers: &HeaderMap) -> bool {
        match headers.get(COMPLEMENT).and_then(|value| value.to_str().ok()) {
            Some("off") => return false,
            Some("on") => return true,
            _ => {}
        }
        let is_listed = |names: &[String]| names.iter().any(|name| name == model);
        is_alias || !is_listed(&self.options.except) && self.options.models.as_deref().is_none_or(is_listed)
    }

    /// Whether a prompt's complement is only logged. The prompt decides, so that a conversation is treated alike.
    fn is_shadow(&self, prompt: &str) -> bool {
        let digest = blake3::derive_key("truing pas shadow 1", prompt.as_bytes());
        let number = u64::from_le_bytes([
            digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
        ]);
        (number >> 11) as f64 / ((1_u64 << 53) as f64) < self.options.shadow
    }

    /// Where a request goes.
    fn target(&self, uri: &Uri) -> Result<Uri, ApiError> {
        let upstream = &self.options.upstream;
        let prefix = upstream.path().trim_end_matches('/');
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        Uri::builder()
            .scheme(upstream.scheme().cloned().unwrap_or(Scheme::HTTP))
            .authority(upstream.authority().cloned().unwrap_or_else(|| Authority::from_static("localhost")))
            .path_and_query(format!("{prefix}{path}"))
            .build()
            .map_err(|error| ApiError::bad_request(error.to_string()))
    }
}

/// Removes headers of the connection, and those that it names.
fn remove_of_connection(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    for name in OF_CONNECTION.iter().copied().chain(named.iter().map(String::as_str)) {
        headers.remove(name);
    }
}
