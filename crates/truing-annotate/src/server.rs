//! The HTTP side: pages, tokens, limits, errors.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
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

/// What all requests share.
pub(crate) struct App {
    project: Project,
    /// The last status with the number of entries that it is of.
    status: Mutex<Option<(usize, Value)>>,
    n_running: AtomicUsize,
    is_over: AtomicBool,
    /// Why the outputs could not be written.
    export_problem: Mutex<Option<String>>,
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
        status: Mutex::default(),
        n_running: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        export_problem: Mutex::default(),
    });
    let exporting = Arc::clone(&app);
    let exporter =
        std::thread::Builder::new().name("outputs".into()).spawn(move || exporting.export_while_serving())?;
    let limits = ConnectionLimits {
        max_connections: options.max_connections,
        header_timeout: REQUEST_TIMEOUT,
        drain_timeout: options.drain_timeout,
    };
    let routes = router(&app, options.max_body_bytes);
    let is_idle = || app.n_running.load(Ordering::SeqCst) == 0;
    let served = serve_routes(listener, routes, limits, &**app.project.clock(), is_idle);
    app.is_over.store(true, Ordering::SeqCst);
    // A panic there has said so, and the outputs are written below.
    let _ = exporter.join();
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

    /// The status, computed anew where there are new entries.
    fn status(&self) -> Result<Value, Refusal> {
        let mut last = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let (records, n_entries) = self.project.snapshot();
        if let Some((n_known, status)) = &*last
            && *n_known == n_entries
        {
            return Ok(self.with_problem(status.clone()));
        }
        let status = Status::of(self.project.items(), &records, self.project.config());
        let status = serde_json::to_value(status).unwrap_or_default();
        *last = Some((n_entries, status.clone()));
        Ok(self.with_problem(status))
    }

    fn with_problem(&self, mut status: Value) -> Value {
        let problem = self.export_problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status["problem"] = json!(problem);
        status["title"] = json!(self.project.config().title);
        status
    }
}

fn router(app: &Arc<App>, max_body_bytes: usize) -> Router {
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
        .layer(DefaultBodyLimit::max(max_body_bytes))
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

/// Answers a request of a person with a JSON body. What touches the disk runs apart from the connections.
async fn answer<T>(
    app: Arc<App>,
    headers: &HeaderMap,
    body: &[u8],
    work: impl FnOnce(&App, &Person, T) -> Result<Value, Refusal> + Send + 'static,
) -> Response
where
    T: DeserializeOwned + Send + 'static,
{
    let person = match person(&app, headers) {
        Ok(person) => person,
        Err(response) => return *response,
    };
    let read = match serde_json::from_slice::<T>(body) {
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

async fn session(State(app): Shared, headers: HeaderMap) -> Response {
    answer(app, &headers, b"{}", |app, person, _: Nothing| Ok(app.project.session(person))).await
}

async fn next_item(State(app): Shared, headers: HeaderMap, body: Bytes) -> Response {
    answer(app, &headers, &body, |app, person, _: Nothing| app.project.next(person)).await
}

async fn item(State(app): Shared, headers: HeaderMap, body: Bytes) -> Response {
    answer(app, &headers, &body, |app, person, OfItem { item }: OfItem| app.project.item(person, &item)).await
}

async fn submit(State(app): Shared, headers: HeaderMap, body: Bytes) -> Response {
    answer(app, &headers, &body, |app, person, given: Submission| app.project.submit(person, &given)).await
}

async fn status(State(app): Shared, headers: HeaderMap) -> Response {
    let of_owner = |app: &App, person: &Person, _: Nothing| match person.role {
        Role::Owner => app.status(),
        Role::Annotator | Role::Adjudicator => Err(Refusal::NotAllowed),
    };
    answer(app, &headers, b"{}", of_owner).await
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
        Refusal::Stale(stored) => body["stored"] = json!(stored.as_ref().map(|stored| &stored.entry)),
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
