//! A running server, and a client.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use truing_client::Clock;
use truing_cpu::CpuEngine;
use truing_model::spec::ParameterRole;
use truing_model::{DecoderSpec, Engine, EngineOptions, HeadKind, PutWeight, TrainableSpec};
use truing_parallel::Solo;
use truing_serve::{AccessRecord, Model, ServeError, ServeOptions, ServedModel, serve};
use truing_text::{ChatRenderer, RenderOptions};
use truing_types::Seed;

pub(crate) const CONTEXT_LENGTH: usize = 600;

/// The machine's time, and a flag that stops what it is given to.
pub(crate) struct TestClock {
    start: Instant,
    stop: Arc<AtomicBool>,
}

impl TestClock {
    pub(crate) fn new() -> (Self, Arc<AtomicBool>) {
        let stop = Arc::new(AtomicBool::new(false));
        (Self { start: Instant::now(), stop: Arc::clone(&stop) }, stop)
    }
}

impl Clock for TestClock {
    fn unix_secs(&self) -> f64 {
        1.8e9
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, _: Duration) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

pub(crate) fn renderer() -> ChatRenderer {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../truing-text/tests/fixtures/tiny");
    ChatRenderer::load(&fixture, RenderOptions::default()).unwrap()
}

fn spec(renderer: &ChatRenderer) -> DecoderSpec {
    DecoderSpec {
        architecture: "LlamaForCausalLM".into(),
        vocab_size: renderer.tokenizer().vocab_size() + 5,
        hidden_size: 32,
        intermediate_size: 48,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: None,
        max_position_embeddings: CONTEXT_LENGTH,
        head: HeadKind::LanguageModel,
        tie_word_embeddings: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        sliding_windows: vec![None; 2],
        variant: truing_model::DecoderVariant::default(),
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    }
}

/// A model of random weights.
pub(crate) fn engine(seed: u64) -> CpuEngine {
    let spec = spec(&renderer());
    let options = EngineOptions::with_threads(2, Seed(3));
    let mut weights = |put: &mut PutWeight<'_>| {
        spec.parameters().iter().enumerate().try_for_each(|(idx, parameter)| {
            let normal = Seed(seed + 1000 * idx as u64).normals("weights", parameter.n_elements(), 0.3);
            let is_norm = parameter.role == ParameterRole::Norm;
            let values = normal.into_iter().map(|x| if is_norm { 1.0 + 0.1 * x } else { x });
            put(&parameter.name, &parameter.shape, values.collect())
        })
    };
    CpuEngine::load(spec.clone().into(), TrainableSpec::frozen(), &options, &Solo::groups(), &mut weights)
        .unwrap()
}

pub(crate) fn generating(name: &str, seed: u64) -> ServedModel<CpuEngine> {
    let model = Model::Generate { engine: Box::new(engine(seed)), renderer: Box::new(renderer()) };
    ServedModel { name: name.into(), fingerprint: format!("truing-test-{seed}"), model }
}

/// A running server; it stops when dropped.
pub(crate) struct TestServer {
    pub(crate) port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    pub(crate) log: Arc<Mutex<Vec<AccessRecord>>>,
}

pub(crate) fn start(options: ServeOptions) -> TestServer {
    start_with(vec![generating("tiny", 1)], options)
}

pub(crate) fn start_with(models: Vec<ServedModel<CpuEngine>>, options: ServeOptions) -> TestServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (clock, stop) = TestClock::new();
    let clock = Arc::new(clock);
    let log: Arc<Mutex<Vec<AccessRecord>>> = Arc::default();
    let records = Arc::clone(&log);
    let write = Box::new(move |record: &AccessRecord| records.lock().unwrap().push(record.clone()));
    let thread = std::thread::spawn(move || serve(listener, models, options, clock, write));
    TestServer { port, stop, thread: Some(thread), log }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A response: status, headers as a text, body.
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

    /// The field that an error names.
    pub(crate) fn param(&self) -> String {
        assert_eq!(self.status / 100, 4, "{} {}", self.status, self.body);
        self.json()["error"]["param"].as_str().unwrap_or_default().to_owned()
    }
}

impl TestServer {
    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }

    pub(crate) fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends a request as it is and reads the response to its end.
    pub(crate) fn raw(&self, request: &[u8]) -> Reply {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        read_reply(stream)
    }

    pub(crate) fn request(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        self.raw(&self.bytes(method, path, headers, body))
    }

    pub(crate) fn bytes(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
        request_bytes(self.port, method, path, headers, body)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.request("POST", path, &[], body.to_string().as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], b"")
    }

    pub(crate) fn chat(&self, body: Value) -> Value {
        let reply = self.post("/v1/chat/completions", &body);
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()
    }

    /// The events of a stream, without the last one.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let reply = self.post(path, body);
        assert_eq!(reply.status, 200, "{}", reply.body);
        let mut events: Vec<&str> = reply.body.split("\n\n").filter(|event| !event.is_empty()).collect();
        assert_eq!(events.pop(), Some("data: [DONE]"));
        events
            .iter()
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }

    /// The value of a metric.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").body;
        let line = page.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        line.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }
}

/// A request as it is sent. Bodies are JSON unless a header says otherwise.
pub(crate) fn request_bytes(port: u16, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let has = |name: &str| headers.iter().any(|header| header.to_lowercase().starts_with(name));
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {}\r\n", body.len());
    // One more option beside those of the test.
    let more = headers.iter().find_map(|header| header.strip_prefix("Connection: "));
    head += &format!("Connection: close{}\r\n", more.map(|more| format!(", {more}")).unwrap_or_default());
    if !has("content-type") {
        head += "Content-Type: application/json\r\n";
    }
    for header in headers.iter().filter(|header| !header.starts_with("Connection: ")) {
        head += &format!("{header}\r\n");
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

pub(crate) fn read_reply(stream: TcpStream) -> Reply {
    let (head, body) = read_bytes(stream);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    // What is not UTF-8 is looked at as bytes by the test.
    Reply { status, head, body: String::from_utf8_lossy(&body).into_owned() }
}

/// The head and the body of a response.
pub(crate) fn read_bytes(mut stream: TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let at = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let body = bytes.get(at + 4..).unwrap_or_default();
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { unchunked(body) } else { body.to_vec() };
    (head, body)
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|end| end == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
    whole
}

/// A request that makes the model say just this.
pub(crate) fn saying(text: &str) -> Value {
    json!({
        "messages": [{"role": "user", "content": "Say it."}],
        "structured_outputs": {"choice": [text]},
        "temperature": 0,
    })
}

/// One JSON object with the keys of another added.
pub(crate) fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}
