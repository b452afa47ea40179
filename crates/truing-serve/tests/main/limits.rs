//! Keys, hosts, sizes, queues, broken requests, and the end of the server.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use truing_client::Clock;
use truing_serve::{ApiKeys, ServeError, ServeOptions, serve};

use crate::setup::{generating, read_reply, start, with};

const LONG: &str = r#"{"prompt": "x", "max_tokens": 590, "ignore_eos": true}"#;

#[test]
fn keys_are_asked_for() {
    let keys = ApiKeys::of_text("sk-one\nsk-two\n");
    let server = start(ServeOptions { keys, ..ServeOptions::default() });
    let body = r#"{"prompt": "x", "max_tokens": 1}"#;
    let ask = |headers: &[&str]| server.request("POST", "/v1/completions", headers, body.as_bytes());
    for headers in
        [&[][..], &["Authorization: Bearer sk-on"], &["Authorization: sk-one"], &["Authorization: Bearer "]]
    {
        let reply = ask(headers);
        assert_eq!(reply.status, 401, "{headers:?}");
        assert_eq!(reply.json()["error"]["code"], "invalid_api_key");
    }
    assert_eq!(ask(&["Authorization: Bearer sk-two"]).status, 200);
    // With keys any host name may be used, and what says nothing is open.
    assert_eq!(ask(&["Authorization: bearer sk-one", "X-Forwarded-Host: example.org"]).status, 200);
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get("/v1/models").status, 401);
    assert_eq!(
        (server.get("/health").status, server.get("/ready").status, server.get("/").status),
        (200, 200, 200)
    );
}

struct Stopped;

impl Clock for Stopped {
    fn unix_secs(&self) -> f64 {
        0.0
    }
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _: Duration) -> ControlFlow<()> {
        ControlFlow::Break(())
    }
    fn is_stopped(&self) -> bool {
        true
    }
}

#[test]
fn a_server_that_others_reach_needs_keys() {
    let run = |address: &str, models, keys| {
        let listener = TcpListener::bind(address).unwrap();
        let options = ServeOptions { keys, ..ServeOptions::default() };
        serve(listener, models, options, Arc::new(Stopped), Box::new(|_| {}))
    };
    let open = run("0.0.0.0:0", vec![generating("a", 1)], None);
    assert!(matches!(open, Err(ServeError::OpenToAll(_))));
    assert!(run("0.0.0.0:0", vec![generating("a", 1)], ApiKeys::of_text("k")).is_ok());
    assert!(matches!(run("127.0.0.1:0", Vec::new(), None), Err(ServeError::NoModel)));
    let twice = run("127.0.0.1:0", vec![generating("a", 1), generating("a", 2)], None);
    assert!(matches!(twice, Err(ServeError::SameName(_))));
}

#[test]
fn pages_of_other_sites_are_not_answered() {
    let server = start(ServeOptions::default());
    let body = r#"{"prompt": "x", "max_tokens": 1}"#;
    let with_host = |host: &str| {
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        server.raw(head.as_bytes()).status
    };
    assert_eq!(["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000"].map(with_host), [200; 4]);
    assert_eq!(
        ["example.org", "example.org:8000", "localhost.example.org", "10.0.0.1"].map(with_host),
        [403; 4]
    );
    // What a form or a script without permission can send.
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let header = format!("Content-Type: {kind}");
        let reply = server.request("POST", "/v1/completions", &[&header], body.as_bytes());
        assert_eq!(reply.status, 415, "{kind}");
    }
    let reply = server.request(
        "POST",
        "/v1/completions",
        &["Content-Type: application/json; charset=utf-8"],
        body.as_bytes(),
    );
    assert_eq!(reply.status, 200);
    let preflight = server.request("OPTIONS", "/v1/completions", &["Origin: http://example.org"], b"");
    assert!(!preflight.head.to_lowercase().contains("access-control-allow-origin"), "{}", preflight.head);
}

#[test]
fn broken_requests_get_the_error_shape() {
    let server = start(ServeOptions { max_body_bytes: 1000, ..ServeOptions::default() });
    let nested = format!("{}1{}", "[".repeat(400), "]".repeat(400));
    for (body, says) in [
        (&b"{"[..], "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{\"prompt\": \"\xff\"}", "not UTF-8"),
        (b"{\"prompt\": \"x\", \"temperature\": NaN}", "not valid JSON"),
        (b"{\"prompt\": \"x\", \"temperature\": 1e999}", "out of range"),
        (format!("{{\"prompt\": {nested}}}").as_bytes(), "recursion limit"),
    ] {
        let reply = server.request("POST", "/v1/completions", &[], body);
        assert_eq!((reply.status, &reply.json()["error"]["type"]), (400, &json!("invalid_request_error")));
        assert!(reply.body.contains(says), "{}", reply.body);
        assert!(reply.head.to_lowercase().contains("content-type: application/json"), "{}", reply.head);
    }
    let large = with(json!({"prompt": "x".repeat(2000)}), json!({})).to_string();
    assert_eq!(server.request("POST", "/v1/completions", &[], large.as_bytes()).status, 413);
    // Also where the size is not announced.
    let chunk = format!("{:x}\r\n{}\r\n", 600, " ".repeat(600)).repeat(3);
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    assert_eq!(server.raw(format!("{head}{chunk}0\r\n\r\n").as_bytes()).status, 413);
    assert_eq!(server.raw(format!("{head}zz\r\n").as_bytes()).status, 400);
    assert_eq!(server.get("/v1/nothing").json()["error"]["type"], "not_found_error");
    assert_eq!(server.get("/v1/completions").status, 405);
    // A line break in a value is no header.
    let reply =
        server.post("/v1/completions", &json!({"prompt": "x", "max_tokens": 1, "user": "a\r\nX-Evil: 1"}));
    assert_eq!(reply.status, 200);
    assert!(!reply.head.contains("X-Evil"), "{}", reply.head);
    assert_eq!(server.log.lock().unwrap().last().unwrap().user.as_deref(), Some("a\r\nX-Evil: 1"));
}

#[test]
fn slow_clients_are_not_waited_for() {
    let server = start(ServeOptions { body_timeout: Duration::from_millis(200), ..ServeOptions::default() });
    let mut slow = server.connect();
    slow.write_all(b"POST /v1/completions HT").unwrap();
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    let mut slow = server.connect();
    let bytes = server.bytes("POST", "/v1/completions", &[], LONG.as_bytes());
    slow.write_all(&bytes[..bytes.len() - 5]).unwrap();
    assert_eq!(read_reply(slow).status, 408);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let options =
        ServeOptions { max_running: 1, max_waiting: 1, retry_after_s: 7, ..ServeOptions::default() };
    let server = start(options);
    // 128 completions one after the other: longer than this test.
    let long = with(serde_json::from_str(LONG).unwrap(), json!({"n": 128})).to_string();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = server.connect();
        client.write_all(&server.bytes("POST", "/v1/completions", &[], long.as_bytes())).unwrap();
        clients.push(client);
    }
    let short = json!({"prompt": "x", "max_tokens": 1});
    while server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting") < 3.0 {
        // The first is decoded and waits with its other completions, the second waits.
        std::thread::sleep(Duration::from_millis(1));
    }
    let reply = server.post("/v1/completions", &short);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    assert!(reply.head.to_lowercase().contains("retry-after: 7"), "{}", reply.head);
    // A client that disconnects frees its slot.
    drop(clients);
    while server.post("/v1/completions", &short).status != 200 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_request_has_a_time_limit() {
    let server = start(ServeOptions { request_timeout: Duration::from_millis(1), ..ServeOptions::default() });
    let reply = server.request("POST", "/v1/completions", &[], LONG.as_bytes());
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (504, &json!("server_error")));
}

#[test]
fn what_was_taken_is_finished_when_the_server_stops() {
    let mut server = start(ServeOptions::default());
    let mut client = server.connect();
    let body = with(serde_json::from_str(LONG).unwrap(), json!({"stream": true})).to_string();
    client.write_all(&server.bytes("POST", "/v1/completions", &[], body.as_bytes())).unwrap();
    // Until it has begun.
    let mut first = [0; 20];
    client.read_exact(&mut first).unwrap();
    server.ask_to_stop();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    });
    server.stop();
    let text = reader.join().unwrap();
    assert!(text.contains("\"finish_reason\":\"length\"") && text.contains("data: [DONE]"), "{text}");
    let log = server.log.lock().unwrap();
    assert_eq!((log.len(), log[0].completion_tokens), (1, 590));
}

/// Requests that exceed the drain timeout get an error, and a connection with half a request does not delay the end.
#[test]
fn requests_that_exceed_the_drain_timeout_get_an_error() {
    let options = ServeOptions { drain_timeout: Duration::from_millis(50), ..ServeOptions::default() };
    let mut server = start(options);
    let mut half = server.connect();
    half.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: loc").unwrap();
    // 128 completions one after the other on one place take longer than this test.
    let body = with(serde_json::from_str(LONG).unwrap(), json!({"stream": true, "n": 128})).to_string();
    let mut client = server.connect();
    client.write_all(&server.bytes("POST", "/v1/completions", &[], body.as_bytes())).unwrap();
    let mut first = [0; 20];
    client.read_exact(&mut first).unwrap();
    server.ask_to_stop();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    });
    server.stop();
    let text = reader.join().unwrap();
    assert!(text.contains("the server is shutting down") && text.contains("data: [DONE]"), "{text}");
}

#[test]
fn metrics_have_vllms_names() {
    let server = start(ServeOptions::default());
    for _ in 0..2 {
        server.post(
            "/v1/completions",
            &json!({"prompt": "word ".repeat(60), "max_tokens": 4, "ignore_eos": true}),
        );
    }
    server.get("/v1/nothing");
    server.request("POST", "/evil\"1", &["Content-Type: text/plain"], b"");
    let page = server.get("/metrics").body;
    for line in [
        "vllm:num_requests_running{model_name=\"tiny\"} 0",
        "vllm:num_requests_waiting{model_name=\"tiny\"} 0",
        "vllm:generation_tokens_total{model_name=\"tiny\"} 8",
        "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"length\"} 2",
        "vllm:time_to_first_token_seconds_count{model_name=\"tiny\"} 2",
        "vllm:inter_token_latency_seconds_count{model_name=\"tiny\"} 6",
        "vllm:e2e_request_latency_seconds_count{model_name=\"tiny\"} 2",
        "http_requests_total{handler=\"/v1/completions\",status=\"200\"} 2",
        "http_requests_total{handler=\"unknown\",status=\"404\"} 1",
        "http_requests_total{handler=\"unknown\",status=\"415\"} 1",
        "# EOF",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert!(server.metric("vllm:prefix_cache_hits_total") >= 64.0);
}

#[test]
fn the_chat_page_needs_nothing_from_elsewhere() {
    let server = start(ServeOptions::default());
    let reply = server.get("/");
    assert_eq!(reply.status, 200);
    let head = reply.head.to_lowercase();
    assert!(
        head.contains("content-type: text/html")
            && head.contains("content-security-policy: default-src 'none'")
    );
    assert!(!reply.body.contains("http://") && !reply.body.contains("https://"));
}
