//! A server with a script, and a clock that jumps.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use truing_client::{Access, ApiKey, ClientError, ClientSettings, Clock, FailureKind, OpenAiClient};
use truing_types::{ChatRequest, Conversation, Message, Role, SamplingOptions};

pub(crate) const KEY: &str = "sk-very-secret-42";

/// What the server does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Sends a whole answer with some headers.
    Answer { status: u16, headers: Vec<String>, body: Vec<u8> },
    /// Announces more bytes than it sends, then closes.
    Cut(Vec<u8>),
    /// Sends a stream of events without announced length, and closes.
    Events(String),
    /// Says nothing until the client has gone.
    SlowHeaders,
    /// Begins an answer and says no more until the client has gone.
    SlowBody(String),
    /// Waits so long before it does what follows.
    After(Duration, Box<Act>),
    /// Closes without a word.
    Drop,
    /// Answers with the number of the request, to tell replies apart.
    Count,
}

impl Act {
    /// Whether the client waits for it until its timeout.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::SlowHeaders | Self::SlowBody(_))
    }
}

pub(crate) fn json(status: u16, body: &str) -> Act {
    Act::Answer { status, headers: vec!["Content-Type: application/json".into()], body: body.into() }
}

pub(crate) fn says(text: &str) -> Act {
    let body = serde_json::json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    });
    json(200, &body.to_string())
}

pub(crate) fn with_header(act: Act, header: &str) -> Act {
    match act {
        Act::Answer { status, mut headers, body } => {
            headers.push(header.to_owned());
            Act::Answer { status, headers, body }
        }
        other => other,
    }
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
}

#[derive(Debug, Default)]
struct State {
    asked: Vec<Asked>,
    n_running: usize,
    max_running: usize,
}

/// Follows its script, one act a request; the last act is repeated.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub(crate) fn start(script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Self { address, state: Arc::default() };
        let (own, script) = (server.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, script) = (own.clone(), Arc::clone(&script));
                std::thread::spawn(move || server.serve(&stream.unwrap(), &script));
            }
        });
        server
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// Waits a minute at most until so many requests were received: a client that gave up may be ahead of this server.
    pub(crate) fn wait_for(&self, n_asked: usize) {
        for _ in 0..12_000 {
            if self.asked().len() >= n_asked {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn max_running(&self) -> usize {
        self.state.lock().unwrap().max_running
    }

    fn serve(&self, stream: &TcpStream, script: &[Act]) {
        // Nobody listens to an error here: the client sees it.
        let _ = self.answer(stream, script);
    }

    fn answer(&self, mut stream: &TcpStream, script: &[Act]) -> std::io::Result<()> {
        let Some(asked) = read_request(stream)? else { return Ok(()) };
        let n = {
            let mut state = self.state.lock().unwrap();
            state.asked.push(asked);
            state.n_running += 1;
            state.max_running = state.max_running.max(state.n_running);
            state.asked.len()
        };
        let done = || self.state.lock().unwrap().n_running -= 1;
        let act = script[(n - 1).min(script.len() - 1)].clone();
        let act = if let Act::Count = act { says(&n.to_string()) } else { act };
        let act = match act {
            Act::After(delay, act) => {
                std::thread::sleep(delay);
                *act
            }
            act => act,
        };
        let mut bytes = Vec::new();
        let mut waits = false;
        match act {
            Act::Answer { status, headers, body } => {
                write!(
                    bytes,
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n",
                    body.len()
                )?;
                headers.iter().try_for_each(|header| write!(bytes, "{header}\r\n"))?;
                bytes.extend(b"\r\n");
                bytes.extend(body);
            }
            Act::Cut(body) => {
                write!(
                    bytes,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    body.len() + 100
                )?;
                bytes.extend(body);
            }
            Act::Events(events) => {
                write!(
                    bytes,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n{events}"
                )?;
            }
            Act::SlowHeaders => waits = true,
            Act::SlowBody(body) => {
                waits = true;
                write!(
                    bytes,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{body}"
                )?;
            }
            Act::Drop | Act::Count | Act::After(..) => {}
        }
        // Before the last byte: the client may see it before this thread goes on.
        if !waits {
            done();
        }
        stream.write_all(&bytes)?;
        if waits {
            let _ = stream.read(&mut [0; 16]);
            done();
        }
        Ok(())
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Option<Asked>> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let (mut length, mut authorization) = (0, None);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Asked { path, authorization, body: serde_json::from_slice(&body).unwrap_or_default() }))
}

/// A clock that jumps where one would wait.
#[derive(Debug, Default)]
pub(crate) struct JumpingClock {
    pub(crate) now: Mutex<Duration>,
    pub(crate) slept: Mutex<Vec<Duration>>,
    /// Sleeps that are granted; the next one is broken off.
    pub(crate) breaks_off_after: Option<usize>,
    /// The process is asked to stop.
    pub(crate) is_stopped: AtomicBool,
}

/// Sun, 06 Nov 1994 08:49:37 GMT.
pub(crate) const BEGINNING_UNIX_SECS: f64 = 784_111_777.0;

impl Clock for JumpingClock {
    fn unix_secs(&self) -> f64 {
        BEGINNING_UNIX_SECS + self.elapsed().as_secs_f64()
    }

    fn elapsed(&self) -> Duration {
        *self.now.lock().unwrap()
    }

    fn sleep(&self, duration: Duration) -> ControlFlow<()> {
        let mut slept = self.slept.lock().unwrap();
        if self.breaks_off_after.is_some_and(|most| slept.len() >= most) {
            return ControlFlow::Break(());
        }
        slept.push(duration);
        *self.now.lock().unwrap() += duration;
        ControlFlow::Continue(())
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }
}

impl JumpingClock {
    pub(crate) fn slept(&self) -> Vec<f64> {
        self.slept.lock().unwrap().iter().map(Duration::as_secs_f64).collect()
    }
}

/// A client of a server, with its clock.
pub(crate) struct Setup {
    pub(crate) server: Server,
    pub(crate) client: OpenAiClient,
    pub(crate) clock: Arc<JumpingClock>,
}

pub(crate) fn settings(server: &Server) -> ClientSettings {
    ClientSettings {
        base_url: format!("http://{}/v1/", server.address),
        model: "m".into(),
        ..ClientSettings::default()
    }
}

pub(crate) fn access(clock: &Arc<JumpingClock>) -> Access {
    let clock: Arc<dyn Clock> = clock.clone();
    Access { api_key: Some(ApiKey::new(KEY).unwrap()), proxy: None, clock }
}

pub(crate) fn setup(script: Vec<Act>, change: impl FnOnce(&mut ClientSettings)) -> Setup {
    let server = Server::start(script);
    let clock = Arc::new(JumpingClock::default());
    let mut settings = settings(&server);
    change(&mut settings);
    let client = OpenAiClient::new(settings, access(&clock)).unwrap();
    Setup { server, client, clock }
}

pub(crate) fn request(text: &str) -> ChatRequest {
    let conversation = Conversation { messages: vec![Message::new(Role::User, text)], tools: Vec::new() };
    ChatRequest {
        conversation,
        sampling: SamplingOptions { max_new_tokens: 16, ..SamplingOptions::default() },
    }
}

impl Setup {
    /// Asks without an ear for pieces.
    pub(crate) fn ask(&self) -> Result<String, ClientError> {
        self.client.ask(&request("x"), None).map(|reply| reply.text)
    }

    /// Asks with an ear for pieces, and hands back what it heard.
    pub(crate) fn listen(&self) -> (Result<String, ClientError>, String) {
        let mut heard = String::new();
        let mut on_text = |piece: &str| {
            heard.push_str(piece);
            ControlFlow::Continue(())
        };
        let reply = self.client.ask(&request("x"), Some(&mut on_text));
        (reply.map(|reply| reply.text), heard)
    }
}

/// Kind and text of a failure.
pub(crate) fn failure(result: Result<String, ClientError>) -> (FailureKind, String) {
    let error = result.unwrap_err();
    let text = error.to_string();
    match error {
        ClientError::NoAnswer { kind, .. } => (kind, text),
        other => panic!("{other}"),
    }
}
