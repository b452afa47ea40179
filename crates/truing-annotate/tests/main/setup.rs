//! A served project, and a client.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use truing_annotate::{AnnotateConfig, AnnotateError, Entry, JOURNAL, Journal, Project, ServeOptions, serve};
use truing_client::Clock;

/// The machine's time since the start, and a flag that stops what it is given to.
pub(crate) struct TestClock {
    start: Instant,
    stop: Arc<AtomicBool>,
}

impl TestClock {
    pub(crate) fn begin() -> (Arc<dyn Clock>, Arc<AtomicBool>) {
        let stop = Arc::new(AtomicBool::new(false));
        (Arc::new(Self { start: Instant::now(), stop: Arc::clone(&stop) }), stop)
    }
}

impl Clock for TestClock {
    fn unix_secs(&self) -> f64 {
        1.8e9
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> ControlFlow<()> {
        let end = Instant::now() + duration;
        while !self.is_stopped() {
            if Instant::now() >= end {
                return ControlFlow::Continue(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        ControlFlow::Break(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// The token of a person of the test recipes.
pub(crate) fn token(name: &str) -> String {
    format!("the-token-of-{name}")
}

/// A folder with a recipe and its data.
pub(crate) struct Workshop {
    pub(crate) folder: TempDir,
}

impl Workshop {
    /// A recipe with two annotators, one adjudicator and the owner; `more` has the questions, and keys before them. The
    /// items are in `items.jsonl`.
    pub(crate) fn new(more: &str, items: &[Value]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workshop = Self { folder };
        workshop.write_rows("items.jsonl", items);
        let head = format!(
            "output_dir = \"project\"\ndata = [{{ path = \"items.jsonl\" }}]\nowner_token = \"{}\"\n\
             annotator = [{{ name = \"ana\", token = \"{}\" }}, {{ name = \"ben\", token = \"{}\" }}]\n\
             adjudicator = [{{ name = \"eve\", token = \"{}\" }}]\n",
            token("owner"),
            token("ana"),
            token("ben"),
            token("eve")
        );
        fs::write(workshop.path("recipe.toml"), head + more).unwrap();
        workshop
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write_rows(&self, name: &str, rows: &[Value]) {
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        fs::write(self.path(name), lines).unwrap();
    }

    pub(crate) fn rows(&self, name: &str) -> Vec<Value> {
        rows_of(&self.path("project").join(name))
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        Journal::read(&self.path("project").join(JOURNAL)).unwrap()
    }

    pub(crate) fn config(&self) -> AnnotateConfig {
        let path = self.path("recipe.toml");
        AnnotateConfig::from_toml(&fs::read_to_string(&path).unwrap(), &path).unwrap()
    }

    /// The project, with the warnings of its opening.
    pub(crate) fn open(&self, clock: Arc<dyn Clock>) -> Result<(Project, Vec<String>), AnnotateError> {
        // Everyone has a token in the recipe: what is made is the secret of the project.
        let mut secret = || -> std::io::Result<String> { Ok("the-secret-of-the-project".to_owned()) };
        let opened = Project::open(self.config(), &[], &mut secret, clock)?;
        assert!(opened.links.is_empty());
        Ok((opened.project, opened.warnings))
    }

    pub(crate) fn start(&self) -> TestServer {
        let (clock, stop) = TestClock::begin();
        let (project, warnings) = self.open(clock).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let all = project.items().all.iter().enumerate();
        let ids = all.map(|(idx, item)| (project.shown_id(idx).to_owned(), item.id.clone())).collect();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || serve(listener, project, &ServeOptions::default()));
        TestServer { port, stop, thread: Some(thread), warnings, ids }
    }
}

pub(crate) fn rows_of(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A running server; it stops when dropped.
pub(crate) struct TestServer {
    pub(crate) port: u16,
    pub(crate) warnings: Vec<String>,
    /// The items' names in the data by those in the pages.
    ids: HashMap<String, String>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), AnnotateError>>>,
}

/// Status, headers and body of a response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl TestServer {
    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }

    pub(crate) fn request(&self, method: &str, path: &str, token: &str, body: &str) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/json\r\nAuthorization: Bearer {token}\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A body that is too large is not read to its end.
        let _ = stream.write_all(body.as_bytes());
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub(crate) fn get(&self, path: &str, name: &str) -> Reply {
        self.request("GET", path, &token(name), "")
    }

    pub(crate) fn post(&self, path: &str, name: &str, body: &Value) -> Reply {
        self.request("POST", path, &token(name), &body.to_string())
    }

    /// The next item of a person, with its name in the data; null where there is none.
    pub(crate) fn next(&self, name: &str) -> Value {
        let reply = self.post("/api/next", name, &json!({}));
        assert_eq!(reply.status, 200, "{}", reply.body);
        let mut item = reply.json()["item"].clone();
        if let Some(shown) = item.get("item").and_then(Value::as_str).map(str::to_owned) {
            item["item"] = json!(self.ids[&shown]);
        }
        item
    }

    /// Sends a submission and expects it to be stored; returns the entry.
    pub(crate) fn submit(&self, name: &str, submission: &Value) -> Value {
        let reply = self.post("/api/submit", name, submission);
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()["stored"].clone()
    }

    /// Answers the next item, which must be this one.
    pub(crate) fn answer(&self, name: &str, id: &str, answers: Value) -> Value {
        let item = self.next(name);
        assert_eq!(item["item"], id, "{name}");
        self.submit(name, &submission(&item, &format!("{name}-{id}"), answers))
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a browser sends for an item that it was shown.
pub(crate) fn submission(item: &Value, id: &str, answers: Value) -> Value {
    let order: Vec<&Value> = item["responses"].as_array().unwrap().iter().map(|one| &one["index"]).collect();
    json!({
        "submission": id,
        "item": item["item"],
        "item_digest": item["item_digest"],
        "version": item["version"],
        "answers": answers,
        "order": order,
        "started_ms": 1_000,
        "finished_ms": 4_500,
    })
}

/// The same with fields changed.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object
}
