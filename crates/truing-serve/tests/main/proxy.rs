//! The PAS proxy before an upstream server with a script.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use truing_serve::{ApiKeys, Complement, ProxyOptions, ProxyRecord, ServeError, UpstreamKey, serve_proxy};

use crate::setup::{Reply, TestClock, read_reply, request_bytes};

/// A request as the upstream server saw it.
#[derive(Debug, Clone)]
struct Seen {
    head: String,
    body: Vec<u8>,
}

/// What the upstream server does with a request.
type Act = dyn Fn(&Seen, &mut TcpStream) + Send + Sync;

/// A server that takes one request per connection.
struct Upstream {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

fn upstream(act: impl Fn(&Seen, &mut TcpStream) + Send + Sync + 'static) -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let all = Arc::clone(&seen);
    let act: Arc<Act> = Arc::new(act);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (all, act, mut stream) = (Arc::clone(&all), Arc::clone(&act), stream.unwrap());
            std::thread::spawn(move || {
                let Some(seen) = read_request(&stream) else { return };
                all.lock().unwrap().push(seen.clone());
                act(&seen, &mut stream);
            });
        }
    });
    Upstream { port, seen }
}

fn read_request(stream: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let length = header_of(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { head, body })
}

fn header_of(head: &str, name: &str) -> Option<String> {
    let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn answer(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn says_ok(_: &Seen, stream: &mut TcpStream) {
    answer(stream, "200 OK", "Content-Type: application/json\r\nX-Of-Upstream: yes\r\n", b"{\"ok\": 1.50}");
}

/// A complement model with a script.
struct Scripted<F>(F);

impl<F: Fn(&str) -> Result<String, String> + Send + Sync> Complement for Scripted<F> {
    fn complement(&self, prompt: &str) -> Result<String, String> {
        (self.0)(prompt)
    }
}

fn briefly() -> Arc<dyn Complement> {
    Arc::new(Scripted(|prompt: &str| Ok(format!("Be brief about {}.", prompt.len()))))
}

struct Proxy {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    log: Arc<Mutex<Vec<ProxyRecord>>>,
}

fn proxy(upstream: &Upstream, model: Arc<dyn Complement>, options: ProxyOptions) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (clock, stop) = TestClock::new();
    let upstream = format!("http://127.0.0.1:{}", upstream.port).parse().unwrap();
    let options = ProxyOptions { upstream, drain_timeout: Duration::from_secs(5), ..options };
    let log: Arc<Mutex<Vec<ProxyRecord>>> = Arc::default();
    let records = Arc::clone(&log);
    let write = Box::new(move |record: &ProxyRecord| records.lock().unwrap().push(record.clone()));
    let thread = std::thread::spawn(move || serve_proxy(listener, model, options, Arc::new(clock), write));
    Proxy { port, stop, thread: Some(thread), log }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Proxy {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn request(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        let mut stream = self.connect();
        stream.write_all(&request_bytes(self.port, method, path, headers, body)).unwrap();
        read_reply(stream)
    }

    fn chat(&self, body: &Value, headers: &[&str]) -> Reply {
        self.request("POST", "/v1/chat/completions", headers, body.to_string().as_bytes())
    }

    fn complement_of(&self, body: &Value, headers: &[&str]) -> String {
        let reply = self.chat(body, headers);
        assert_eq!(reply.status, 200, "{}", reply.body);
        for name in ["x-truing-complement-ms", "x-truing-overhead-ms"] {
            header_of(&reply.head, name).unwrap().parse::<f64>().unwrap();
        }
        header_of(&reply.head, "x-truing-complement").unwrap()
    }
}

fn hello(model: &str) -> Value {
    json!({
        "model": model, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0.10,
        "unknown": [1, null]
    })
}

#[test]
fn a_complement_is_appended_and_everything_else_passes() {
    let server = upstream(says_ok);
    let proxy = proxy(&server, briefly(), ProxyOptions::default());
    let body = r#"{ "messages": [{"role": "user", "content": "Hello"}], "n": 1.50, "model": "m" }"#;
    let reply = proxy.request(
        "POST",
        "/v1/chat/completions?x=1",
        &[
            "X-Mine: a",
            "Authorization: Bearer k",
            "Connection: x-hop",
            "X-Hop: gone",
            "Accept-Encoding: gzip",
        ],
        body.as_bytes(),
    );
    assert_eq!((reply.status, reply.body.as_str()), (200, "{\"ok\": 1.50}"), "the answer's bytes");
    assert_eq!(header_of(&reply.head, "x-of-upstream").as_deref(), Some("yes"));
    assert_eq!(header_of(&reply.head, "x-truing-complement").as_deref(), Some("applied"));
    let seen = server.seen.lock().unwrap().remove(0);
    assert!(seen.head.starts_with("POST /v1/chat/completions?x=1 HTTP/1.1"), "{}", seen.head);
    let expected = concat!(
        r#"{ "messages": [{"role": "user", "content": "Hello\nBe brief about 5."}], "n": 1.50,"#,
        r#" "model": "m" }"#,
    );
    assert_eq!(String::from_utf8(seen.body).unwrap(), expected);
    for (name, value) in [
        ("x-mine", Some("a")),
        ("authorization", Some("Bearer k")),
        ("x-hop", None),
        ("accept-encoding", Some("gzip")),
    ] {
        assert_eq!(header_of(&seen.head, name).as_deref(), value, "{}", seen.head);
    }
    assert_eq!(header_of(&seen.head, "host").unwrap(), format!("127.0.0.1:{}", server.port));
    // Other paths and methods, with any body.
    for (method, path, body) in [
        ("GET", "/v1/models", &b""[..]),
        ("POST", "/v1/embeddings", b"{\"messages\": [\xff"),
        ("DELETE", "/x", b""),
    ] {
        let reply = proxy.request(method, path, &[], body);
        assert_eq!((reply.status, reply.body.as_str()), (200, "{\"ok\": 1.50}"));
        assert_eq!(header_of(&reply.head, "x-truing-complement"), None);
        let seen = server.seen.lock().unwrap().remove(0);
        assert!(seen.head.starts_with(&format!("{method} {path} ")) && seen.body == body);
    }
    let log = proxy.log.lock().unwrap();
    assert_eq!(
        (log[0].complement.as_str(), log[0].model.as_deref(), log[0].status),
        ("applied", Some("m"), 200)
    );
    assert_eq!((log.len(), log[1].complement.as_str()), (4, "off"));
}

#[test]
fn requests_and_models_choose() {
    let server = upstream(says_ok);
    let options = ProxyOptions {
        models: Some(vec!["on".into(), "both".into()]),
        except: vec!["both".into()],
        ..ProxyOptions::default()
    };
    let proxy = proxy(&server, briefly(), options);
    for (model, header, expected) in [
        ("on", None, "applied"),
        ("other", None, "off"),
        ("both", None, "off"),
        ("pas/other", None, "applied"),
        ("on", Some("off"), "off"),
        ("pas/other", Some("off"), "off"),
        ("other", Some("on"), "applied"),
    ] {
        let header = header.map(|value| format!("X-Truing-Complement: {value}"));
        let headers: Vec<&str> = header.iter().map(String::as_str).collect();
        assert_eq!(proxy.complement_of(&hello(model), &headers), expected, "{model} {header:?}");
        let seen = server.seen.lock().unwrap().remove(0);
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!(body["model"], model.trim_start_matches("pas/"));
        assert_eq!(body["messages"][0]["content"] == "Hello", expected == "off");
        assert_eq!(header_of(&seen.head, "x-truing-complement"), None, "our header is ours");
    }
}

#[test]
fn whatever_the_complement_model_does_requests_are_answered() {
    let server = upstream(says_ok);
    let n_calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&n_calls);
    // A hung model is let go at the end of the test, so that no thread stays.
    let hang = Arc::new(AtomicBool::new(true));
    let hanging = Arc::clone(&hang);
    let model = Scripted(move |prompt: &str| {
        counted.fetch_add(1, Ordering::SeqCst);
        match prompt {
            "fail" => Err("no".into()),
            "panic" => panic!("the complement model panics"),
            "nothing" => Ok("  ".into()),
            "hang" | "hang too" => {
                while hanging.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok("late".into())
            }
            _ => Ok("fine".into()),
        }
    });
    let model: Arc<dyn Complement> = Arc::new(model);
    let with_timeout = |complement_timeout: Duration| {
        let options = ProxyOptions {
            complement_timeout,
            n_workers: 2,
            max_prompt_bytes: 50,
            ..ProxyOptions::default()
        };
        proxy(&server, Arc::clone(&model), options)
    };
    let ask = |proxy: &Proxy, text: &str| {
        let body = json!({"messages": [{"role": "user", "content": text}]});
        let fate = proxy.complement_of(&body, &[]);
        let seen: Value = serde_json::from_slice(&server.seen.lock().unwrap().remove(0).body).unwrap();
        assert_eq!(seen == body, fate != "applied", "{fate}");
        fate
    };
    let patient = with_timeout(Duration::from_secs(60));
    assert_eq!(ask(&patient, "fail"), "bypassed:failed");
    assert_eq!(ask(&patient, "panic"), "bypassed:failed");
    assert_eq!(ask(&patient, "nothing"), "bypassed:empty");
    assert_eq!(ask(&patient, &"x".repeat(51)), "bypassed:too_long");
    assert_eq!(ask(&patient, "good"), "applied");
    let before = n_calls.load(Ordering::SeqCst);
    assert_eq!(
        (ask(&patient, "good"), ask(&patient, "nothing")),
        ("applied".into(), "bypassed:empty".into())
    );
    assert_eq!(n_calls.load(Ordering::SeqCst), before, "both were cached");
    let proxy = with_timeout(Duration::from_millis(50));
    assert_eq!(ask(&proxy, "hang"), "bypassed:timeout");
    assert_eq!(ask(&proxy, "hang too"), "bypassed:timeout");
    // Both workers hang: nobody waits for one.
    assert_eq!(ask(&proxy, "new"), "bypassed:overload");
    hang.store(false, Ordering::SeqCst);
    // What came too late is there for the next request.
    while ask(&proxy, "hang") != "applied" {
        std::thread::sleep(Duration::from_millis(5));
    }
    let page = proxy.request("GET", "/metrics", &[], b"").body;
    assert!(page.contains("truing:pas_bypassed_total{reason=\"timeout\"} "), "{page}");
    assert!(page.contains("truing:pas_requests_total{complement=\"applied\"} "), "{page}");
}

#[test]
fn bodies_that_are_no_conversation_pass_unchanged() {
    let server = upstream(says_ok);
    let proxy = proxy(&server, briefly(), ProxyOptions { max_body_bytes: 5000, ..ProxyOptions::default() });
    for (body, expected) in [
        (
            &b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}"[..],
            "bypassed:not_a_conversation",
        ),
        (b"no json", "bypassed:not_a_conversation"),
        (b"", "bypassed:not_a_conversation"),
        (b"{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\"}]}", "bypassed:no_user_text"),
    ] {
        let reply = proxy.request("POST", "/v1/chat/completions", &[], body);
        assert_eq!(header_of(&reply.head, "x-truing-complement").as_deref(), Some(expected));
        assert_eq!(server.seen.lock().unwrap().remove(0).body, body);
    }
    assert_eq!(proxy.request("POST", "/v1/messages", &[], &[b' '; 6000]).status, 413);
    // The other two kinds of bodies.
    for (path, body) in [
        ("/v1/responses", json!({"input": "Hello"})),
        (
            "/v1/messages",
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}),
        ),
    ] {
        let reply = proxy.request("POST", path, &[], body.to_string().as_bytes());
        assert_eq!(header_of(&reply.head, "x-truing-complement").as_deref(), Some("applied"));
        let seen = String::from_utf8(server.seen.lock().unwrap().remove(0).body).unwrap();
        assert!(seen.contains(r"Hello\nBe brief about 5."), "{seen}");
    }
}

#[test]
fn failures_of_the_upstream_server_are_passed_on() {
    let server = upstream(|seen, stream| match &seen.body[..] {
        b"429" => answer(stream, "429 Too Many Requests", "Retry-After: 9\r\n", b"later"),
        b"reset" => {}
        b"cut" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        }
        _ => answer(stream, "500 Internal Server Error", "", b"\xff\xfe"),
    });
    let proxy = proxy(&server, briefly(), ProxyOptions::default());
    let ask = |body: &[u8]| proxy.request("POST", "/v1/chat/completions", &[], body);
    let reply = ask(b"429");
    assert_eq!((reply.status, reply.body.as_str()), (429, "later"));
    assert_eq!(header_of(&reply.head, "retry-after").as_deref(), Some("9"));
    let reply = ask(b"reset");
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (502, &json!("server_error")));
    // What was cut stays cut: it never looks whole.
    let mut stream = proxy.connect();
    stream.write_all(&request_bytes(proxy.port, "POST", "/v1/chat/completions", &[], b"cut")).unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.ends_with("half") && header_of(&text, "content-length").as_deref() == Some("100"), "{text}");
    // No server at all.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = Upstream { port: closed, seen: Arc::default() };
    let alone = self::proxy(&nobody, briefly(), ProxyOptions::default());
    let reply = alone.chat(&hello("m"), &[]);
    assert_eq!(reply.status, 502);
    assert!(reply.body.contains("does not answer"), "{}", reply.body);
    assert_eq!(alone.request("GET", "/health", &[], b"").status, 200);
}

/// 1,000 streams in pieces of any size: the bytes that come out are those that went in.
#[test]
fn streams_pass_byte_for_byte() {
    use rand_chacha::rand_core::Rng as _;
    let random = |seed: u64| {
        let mut random = truing_types::Seed(seed).generator("stream", &[]);
        let n_pieces = 1 + random.next_u64() % 8;
        let pieces: Vec<Vec<u8>> = (0..n_pieces)
            .map(|_| {
                let n = 1 + random.next_u64() % 300;
                let mut piece = b"data: ".to_vec();
                piece.extend((0..n).map(|_| (random.next_u64() % 256) as u8));
                piece.extend_from_slice(b"\n\n");
                piece
            })
            .collect();
        pieces
    };
    let server = upstream(move |seen, stream| {
        let seed: u64 = header_of(&seen.head, "x-seed").unwrap().parse().unwrap();
        let _ = stream.set_nodelay(true);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\
                    Connection: close\r\n\r\n";
        let _ = stream.write_all(head.as_bytes());
        for piece in random(seed) {
            let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
            let _ = stream.write_all(&chunk);
        }
        let _ = stream.write_all(b"0\r\n\r\n");
    });
    let proxy = proxy(&server, briefly(), ProxyOptions::default());
    std::thread::scope(|scope| {
        for client in 0..4_u64 {
            let proxy = &proxy;
            scope.spawn(move || {
                for idx in 0..250 {
                    let seed = 250 * client + idx;
                    let body = hello("m").to_string();
                    let mut stream = proxy.connect();
                    let header = format!("X-Seed: {seed}");
                    let bytes = request_bytes(
                        proxy.port,
                        "POST",
                        "/v1/chat/completions",
                        &[&header],
                        body.as_bytes(),
                    );
                    stream.write_all(&bytes).unwrap();
                    let reply = crate::setup::read_bytes(stream);
                    assert_eq!(blake3::hash(&reply.1), blake3::hash(&random(seed).concat()), "stream {seed}");
                }
            });
        }
    });
}

/// Events are passed on as they come: the first is there before the upstream server sends the second.
#[test]
fn streams_are_not_collected() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = Mutex::new(receiver);
    let server = upstream(move |_, stream| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = stream.write_all(format!("{head}5\r\nfirst\r\n").as_bytes());
        let _ = receiver.lock().unwrap().recv_timeout(Duration::from_secs(30));
        let _ = stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n");
    });
    let proxy = proxy(&server, briefly(), ProxyOptions::default());
    let mut stream = proxy.connect();
    stream
        .write_all(&request_bytes(
            proxy.port,
            "POST",
            "/v1/chat/completions",
            &[],
            hello("m").to_string().as_bytes(),
        ))
        .unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"first\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        read.push(byte[0]);
    }
    sender.send(()).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("second"));
}

/// A client that leaves takes the upstream request with it.
#[test]
fn the_upstream_request_ends_with_the_client() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let server = upstream(move |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        // Until the proxy closes the connection.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let _ = sender.send(());
    });
    let proxy = proxy(&server, briefly(), ProxyOptions::default());
    let mut stream = proxy.connect();
    stream
        .write_all(&request_bytes(
            proxy.port,
            "POST",
            "/v1/chat/completions",
            &[],
            hello("m").to_string().as_bytes(),
        ))
        .unwrap();
    let mut first = [0; 40];
    stream.read_exact(&mut first).unwrap();
    drop(stream);
    receiver.recv_timeout(Duration::from_secs(30)).expect("the proxy has closed the upstream connection");
}

#[test]
fn shadow_complements_are_logged_and_not_used() {
    let server = upstream(says_ok);
    let proxy = proxy(&server, briefly(), ProxyOptions { shadow: 0.5, ..ProxyOptions::default() });
    let mut n_shadow = 0;
    for idx in 0..200 {
        let body = json!({"messages": [{"role": "user", "content": format!("prompt {idx}")}]});
        let fate = proxy.complement_of(&body, &[]);
        let seen: Value = serde_json::from_slice(&server.seen.lock().unwrap().remove(0).body).unwrap();
        assert_eq!(fate == "shadow", seen == body, "{fate}");
        n_shadow += usize::from(fate == "shadow");
        let record = proxy.log.lock().unwrap().last().unwrap().clone();
        assert_eq!(record.shadow_complement.is_some(), fate == "shadow");
    }
    assert!((70..130).contains(&n_shadow), "{n_shadow} of 200");
}

#[test]
fn the_proxy_asks_for_its_own_keys() {
    let server = upstream(says_ok);
    let options = ProxyOptions {
        keys: ApiKeys::of_text("mine"),
        upstream_key: UpstreamKey::new("theirs"),
        ..ProxyOptions::default()
    };
    let proxy = proxy(&server, briefly(), options);
    assert_eq!(proxy.chat(&hello("m"), &[]).status, 401);
    assert_eq!(proxy.request("GET", "/metrics", &[], b"").status, 401);
    assert_eq!(proxy.chat(&hello("m"), &["Authorization: Bearer mine"]).status, 200);
    let seen = server.seen.lock().unwrap().remove(0);
    assert_eq!(header_of(&seen.head, "authorization").as_deref(), Some("Bearer theirs"));
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let (clock, _) = TestClock::new();
    let open = serve_proxy(listener, briefly(), ProxyOptions::default(), Arc::new(clock), Box::new(|_| {}));
    assert!(matches!(open, Err(ServeError::OpenToAll(_))));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (clock, _) = TestClock::new();
    let options = ProxyOptions { upstream: "/v1".parse().unwrap(), ..ProxyOptions::default() };
    let nowhere = serve_proxy(listener, briefly(), options, Arc::new(clock), Box::new(|_| {}));
    assert!(matches!(nowhere, Err(ServeError::NoUpstream(_))));
}
