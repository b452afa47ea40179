//! The HTTP side: pages, tokens, limits, errors.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use truing_serve::{ConnectionLimits, serve_routes};

use crate::exports::write_outputs;
use crate::people::{Person, Role};
use crate::project::{Project, Refusal, Submission};
use crate::status::Status;
use crate::{AnnotateError, ServeOptions};

const ANNOTATE_PAGE: &str = include_str!("pages/annotate.html");
const STATUS_PAGE: &str = include_str!("pages/status.html");
const STYLE: &str = include_str!("pages/page.css");
const ANNOTATE_SCRIPT: &str = include_str!("pages/annotate.js");
const WIDGETS_SCRIPT: &str = include_str!("pages/widgets.js");
const STATUS_SCRIPT: &str = include_str!("pages/status.js");

/// Everything that a page may load or send comes from this server; scripts and styles are files.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Time for a request, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for the header of a request: a connection that sends none is closed then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for a new status before it gets the last one.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// What all requests share.
pub(crate) struct App {
    project: Project,
    max_body_bytes: usize,
    status: Mutex<KnownStatus>,
    /// The status has been computed.
    status_changed: Condvar,
    n_running: AtomicUsize,
    is_over: AtomicBool,
    /// Why the outputs could not be written.
    export_problem: Mutex<Option<String>>,
}

/// The last status, and whether the next one is being computed. One is at a time.
#[derive(Default)]
struct KnownStatus {
    last: Option<LastStatus>,
    is_running: bool,
}

#[derive(Clone)]
struct LastStatus {
    /// Entries that it is of.
    n_entries: usize,
    value: Value,
    /// When it was computed, by the project's clock.
    at: Duration,
}

impl KnownStatus {
    fn is_of(&self, n_entries: usize) -> bool {
        self.last.as_ref().is_some_and(|last| last.n_entries >= n_entries)
    }
}

type Shared = State<Arc<App>>;

/// Serves a project until its clock says stop, and writes its outputs while people work.
///
/// # Errors
/// When the system refuses, or the outputs cannot be written at the end.
pub(crate) fn serve(
    listener: TcpListener,
    project: Project,
    options: &ServeOptions,
) -> Result<(), AnnotateError> {
    let app = Arc::new(App {
        project,
        max_body_bytes: options.max_body_bytes,
        status: Mutex::default(),
        status_changed: Condvar::new(),
        n_running: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        export_problem: Mutex::default(),
    });
    let exporting = Arc::clone(&app);
    let exporter =
        std::thread::Builder::new().name("outputs".into()).spawn(move || exporting.export_while_serving())?;
    let limits = ConnectionLimits {
        max_connections: options.max_connections,
        header_timeout: HEADER_TIMEOUT,
        drain_timeout: options.drain_timeout,
    };
    let routes = router(&app);
    let is_idle = || app.n_running.load(Ordering::SeqCst) == 0;
    let served = serve_routes(listener, routes, limits, &**app.project.clock(), is_idle);
    app.is_over.store(true, Ordering::SeqCst);
    // A panic there has said so, and the outputs are written below.
    let _ = exporter.join();
    // What is still being computed holds the project's folder.
    let is_running = |known: &mut KnownStatus| known.is_running;
    drop(app.status_changed.wait_while(app.known_status(), is_running));
    app.export()?;
    Ok(served?)
}

impl App {
    fn export_while_serving(&self) {
        let clock = self.project.clock();
        let pause = Duration::from_secs(self.project.config().export_secs);
        let mut exported = 0;
        while clock.sleep(pause).is_continue() && !clock.is_stopped() && !self.is_over.load(Ordering::SeqCst)
        {
            if self.project.n_entries() != exported {
                let result = self.export();
                exported = *result.as_ref().unwrap_or(&exported);
                *self.export_problem.lock().unwrap_or_else(PoisonError::into_inner) =
                    result.err().map(|error| format!("the outputs could not be written: {error}"));
            }
        }
    }

    /// Writes the outputs; hands back the number of entries that they are of.
    fn export(&self) -> Result<usize, AnnotateError> {
        let (records, n_entries) = self.project.snapshot();
        write_outputs(self.project.folder(), self.project.items(), &records, self.project.config())?;
        Ok(n_entries)
    }

    fn known_status(&self) -> MutexGuard<'_, KnownStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status. It is computed beside the requests where there are new entries; one that takes longer than a request
    /// waits is found by a later request, and the last one is served with its age until then.
    fn status(self: &Arc<Self>) -> Value {
        let n_entries = self.project.n_entries();
        let mut known = self.known_status();
        if !known.is_of(n_entries) && !known.is_running {
            let app = Arc::clone(self);
            let measuring = std::thread::Builder::new().name("status".into());
            known.is_running = measuring.spawn(move || app.measure()).is_ok();
        }
        let waits = |known: &mut KnownStatus| known.is_running && !known.is_of(n_entries);
        let waited = self.status_changed.wait_timeout_while(known, STATUS_PATIENCE, waits);
        let (known, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let last = known.last.clone();
        drop(known);
        let Some(LastStatus { value, at, n_entries: n_known }) = last else {
            return self.with_problem(json!({}));
        };
        let mut status = self.with_problem(value);
        let age = if n_known < n_entries {
            self.project.clock().elapsed().saturating_sub(at)
        } else {
            Duration::ZERO
        };
        status["age_secs"] = json!(age.as_secs());
        status
    }

    fn measure(&self) {
        /// Says that nothing is computed any more, also where computing has panicked.
        struct Ending<'a>(&'a App);
        impl Drop for Ending<'_> {
            fn drop(&mut self) {
                self.0.known_status().is_running = false;
                self.0.status_changed.notify_all();
            }
        }
        let _ending = Ending(self);
        let at = self.project.clock().elapsed();
        let (records, n_entries) = self.project.snapshot();
        let status = Status::of(self.project.items(), &records, self.project.config());
        let value = serde_json::to_value(status).unwrap_or_default();
        self.known_status().last = Some(LastStatus { n_entries, value, at });
    }

    fn with_problem(&self, mut status: Value) -> Value {
        let problem = self.export_problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status["problem"] = json!(problem);
        status["title"] = json!(self.project.config().title);
        status
    }
}

fn router(app: &Arc<App>) -> Router {
    let script =
        |text: &'static str| get(move || async move { file("text/javascript; charset=utf-8", text) });
    Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", ANNOTATE_PAGE)))
        .route("/status", get(async || file("text/html; charset=utf-8", STATUS_PAGE)))
        .route("/page.css", get(async || file("text/css; charset=utf-8", STYLE)))
        .route("/annotate.js", script(ANNOTATE_SCRIPT))
        .route("/widgets.js", script(WIDGETS_SCRIPT))
        .route("/status.js", script(STATUS_SCRIPT))
        .route("/health", get(async || StatusCode::OK))
        .route("/api/session", get(session))
        .route("/api/next", post(next_item))
        .route("/api/item", post(item))
        .route("/api/submit", post(submit))
        .route("/api/status", get(status))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(app), around))
        .with_state(Arc::clone(app))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// A request that is being answered, until dropped.
struct Running<'a>(&'a AtomicUsize);

impl<'a> Running<'a> {
    fn new(n_running: &'a AtomicUsize) -> Self {
        n_running.fetch_add(1, Ordering::SeqCst);
        Self(n_running)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What every request goes through: the time limit, and the headers of safety.
async fn around(State(app): Shared, request: Request, next: Next) -> Response {
    let _running = Running::new(&app.n_running);
    let mut response = match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => problem(408, &format!("not answered within {} seconds", REQUEST_TIMEOUT.as_secs())),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The person of a request: `Authorization: Bearer <token>`.
fn person(app: &App, headers: &HeaderMap) -> Result<Person, Box<Response>> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|value| value.strip_prefix("Bearer "));
    let found = token.and_then(|token| app.project.person(token.trim()));
    found.cloned().ok_or_else(|| Box::new(problem(401, "the link is not known: ask for a new one")))
}

/// Reads a body that is not used, up to some size: a client that is still sending it would not hear the answer.
async fn drain(body: Body, limit: usize) {
    let _ = to_bytes(body, 4 * limit).await;
}

/// The body of a request, or what is wrong with it.
async fn body(app: &App, request: Request) -> Result<Vec<u8>, Box<Response>> {
    let limit = app.max_body_bytes;
    let said: Option<usize> =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let too_large = || {
        let message = format!("the answer has more than {limit} bytes: shorten its texts, or skip the item");
        Box::new(problem(413, &message))
    };
    if said.is_some_and(|n_bytes| n_bytes > limit) {
        drain(request.into_body(), limit).await;
        return Err(too_large());
    }
    match to_bytes(request.into_body(), limit).await {
        Ok(bytes) => Ok(bytes.to_vec()),
        // Without a length that was said before, it is the limit that breaks it off.
        Err(_) if said.is_none() => Err(too_large()),
        Err(error) => Err(Box::new(problem(400, &format!("the body cannot be read: {error}")))),
    }
}

/// Answers a request of a person with a JSON body, an empty one is `{}`. The token comes first. What touches the disk
/// runs apart from the connections.
async fn answer<T>(
    app: Arc<App>,
    request: Request,
    work: impl FnOnce(&App, &Person, T) -> Result<Value, Refusal> + Send + 'static,
) -> Response
where
    T: DeserializeOwned + Send + 'static,
{
    let found = person(&app, request.headers());
    let person = match found {
        Ok(person) => person,
        Err(response) => {
            drain(request.into_body(), app.max_body_bytes).await;
            return *response;
        }
    };
    let body = match body(&app, request).await {
        Ok(body) if body.is_empty() => b"{}".to_vec(),
        Ok(body) => body,
        Err(response) => return *response,
    };
    let read = match serde_json::from_slice::<T>(&body) {
        Ok(read) => read,
        Err(error) => return problem(400, &format!("the body cannot be read: {error}")),
    };
    match tokio::task::spawn_blocking(move || work(&app, &person, read)).await {
        Ok(Ok(value)) => json_response(200, &value),
        Ok(Err(refusal)) => refused(&refusal),
        Err(_) => problem(500, "answering the request failed"),
    }
}

/// A body without a field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfItem {
    item: String,
}

async fn session(State(app): Shared, request: Request) -> Response {
    answer(app, request, |app, person, _: Nothing| Ok(app.project.session(person))).await
}

async fn next_item(State(app): Shared, request: Request) -> Response {
    answer(app, request, |app, person, _: Nothing| app.project.next(person)).await
}

async fn item(State(app): Shared, request: Request) -> Response {
    answer(app, request, |app, person, OfItem { item }: OfItem| app.project.item(person, &item)).await
}

async fn submit(State(app): Shared, request: Request) -> Response {
    answer(app, request, |app, person, given: Submission| app.project.submit(person, &given)).await
}

async fn status(State(app): Shared, request: Request) -> Response {
    let shared = Arc::clone(&app);
    let of_owner = move |_: &App, person: &Person, _: Nothing| match person.role {
        Role::Owner => Ok(shared.status()),
        Role::Annotator | Role::Adjudicator => Err(Refusal::NotAllowed),
    };
    answer(app, request, of_owner).await
}

async fn not_found(request: Request) -> Response {
    problem(404, &format!("there is no {}", request.uri().path()))
}

async fn wrong_method(request: Request) -> Response {
    problem(405, &format!("{} does not take {}", request.uri().path(), request.method()))
}

fn refused(refusal: &Refusal) -> Response {
    let (status, code) = match refusal {
        Refusal::UnknownItem(_) => (404, "unknown_item"),
        Refusal::OtherItem => (409, "other_item"),
        Refusal::Stale(_) => (409, "stale"),
        Refusal::Invalid(_) => (400, "invalid"),
        Refusal::NotAllowed => (403, "not_allowed"),
        Refusal::Failed(_) => (500, "failed"),
    };
    let mut body = json!({"error": {"message": refusal.to_string(), "code": code}});
    match refusal {
        Refusal::Stale(stored) => body["stored"] = json!(stored),
        Refusal::Invalid(problem) => body["error"]["field"] = json!(problem.field),
        _ => {}
    }
    json_response(status, &body)
}

fn problem(status: u16, message: &str) -> Response {
    json_response(status, &json!({"error": {"message": message}}))
}

fn json_response(status: u16, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
