//! What the PAS proxy adds to a request: latency at a fixed rate, directly and through the proxy, in alternating blocks
//! of one run.
//!
//! ```text
//! cargo bench -p truing-serve --bench proxy -- [requests per second] [seconds per block] [rounds] [upstream port]
//!     [port of another proxy]
//! ```
//!
//! The upstream server is a mock that answers after 5 milliseconds, on any free port unless one is given. Another
//! proxy, for instance `benches/peers/proxy_litellm.py`, forwards to that port, and is measured in the same rounds.
//! Requests are sent on time whether or not earlier ones have been answered (open loop), so that a slow proxy cannot
//! hide behind its own delay. All but the other proxy runs in this process, whose resident memory is printed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark prints, and fails by panicking"
)]

use std::net::TcpListener;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, header};
use axum::routing::post;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use truing_client::Clock;
use truing_serve::{Complement, ProxyOptions, serve_proxy};

const UPSTREAM_TIME: Duration = Duration::from_millis(5);

struct Machine {
    start: Instant,
    stop: Arc<AtomicBool>,
}

impl Clock for Machine {
    fn unix_secs(&self) -> f64 {
        0.0
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

struct Fixed;

impl Complement for Fixed {
    fn complement(&self, _: &str) -> Result<String, String> {
        Ok("Answer in a few clear sentences, the most important point first.".into())
    }
}

type Http = Client<HttpConnector, Body>;

/// One request; its time.
async fn ask(client: Http, port: u16, is_on: bool, idx: usize) -> Duration {
    let prompt =
        format!("Question {} of a user, of about the usual length: what is to be done, and why?", idx % 50);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": prompt}], "temperature": 0.7});
    let request = Request::post(format!("http://127.0.0.1:{port}/v1/chat/completions"))
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-truing-complement", if is_on { "on" } else { "off" })
        .body(Body::from(body.to_string()))
        .unwrap();
    let started = Instant::now();
    let answer = client.request(request).await.unwrap();
    assert_eq!(answer.status(), 200, "port {port}");
    to_bytes(Body::new(answer.into_body()), 1 << 20).await.unwrap();
    started.elapsed()
}

/// Requests at a fixed rate; their times in milliseconds, ascending.
async fn block(client: &Http, port: u16, is_on: bool, rate: f64, seconds: f64) -> Vec<f64> {
    let n = (rate * seconds) as usize;
    let start = tokio::time::Instant::now();
    let mut tasks = Vec::with_capacity(n);
    for idx in 0..n {
        tokio::time::sleep_until(start + Duration::from_secs_f64(idx as f64 / rate)).await;
        tasks.push(tokio::spawn(ask(client.clone(), port, is_on, idx)));
    }
    let mut times = Vec::with_capacity(n);
    for task in tasks {
        times.push(task.await.unwrap().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    times
}

fn quantile(times: &[f64], q: f64) -> f64 {
    times[((times.len() - 1) as f64 * q) as usize]
}

/// Resident memory of this process in MiB; 0 where the system does not say.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok()).unwrap_or(0.0)
        / 1024.0
}

fn main() {
    let numbers: Vec<f64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let [rate, seconds, rounds] =
        [(0, 500.0), (1, 4.0), (2, 3.0)].map(|(idx, default)| numbers.get(idx).copied().unwrap_or(default));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let given_port = |place: usize| numbers.get(place).map_or(0, |&port| port as u16);
    let upstream = TcpListener::bind(("127.0.0.1", given_port(3))).unwrap();
    let upstream_port = upstream.local_addr().unwrap().port();
    upstream.set_nonblocking(true).unwrap();
    let reply =
        json!({"choices": [{"message": {"role": "assistant", "content": "word ".repeat(150)}}]}).to_string();
    let answer = move |_: Bytes| {
        let reply = reply.clone();
        async move {
            tokio::time::sleep(UPSTREAM_TIME).await;
            reply
        }
    };
    let router = axum::Router::new().route("/v1/chat/completions", post(answer));
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy_port = proxy.local_addr().unwrap().port();
    let stop = Arc::new(AtomicBool::new(false));
    let clock = Arc::new(Machine { start: Instant::now(), stop: Arc::clone(&stop) });
    let options = ProxyOptions {
        upstream: format!("http://127.0.0.1:{upstream_port}").parse().unwrap(),
        ..ProxyOptions::default()
    };
    let thread =
        std::thread::spawn(move || serve_proxy(proxy, Arc::new(Fixed), options, clock, Box::new(|_| {})));
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(upstream).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client: Http = Client::builder(TokioExecutor::new()).build_http();
        let mut ways = vec![
            ("direct", upstream_port, false),
            ("proxy, off", proxy_port, false),
            ("proxy, cached", proxy_port, true),
        ];
        if given_port(4) != 0 {
            ways.push(("other proxy", given_port(4), false));
        }
        for &(_, port, is_on) in &ways {
            block(&client, port, is_on, 100.0, 1.0).await;
        }
        println!("{rate} requests/s, upstream {} ms; milliseconds per request", UPSTREAM_TIME.as_millis());
        println!(
            "{:<8}{:<16}{:>8}{:>8}{:>8}{:>12}{:>12}{:>10}",
            "round", "way", "p50", "p99", "max", "p50 added", "p99 added", "RSS MiB"
        );
        for round in 1..=rounds as usize {
            let mut direct = [0.0; 2];
            for &(name, port, is_on) in &ways {
                let times = block(&client, port, is_on, rate, seconds).await;
                let found = [0.5, 0.99].map(|q| quantile(&times, q));
                if name == "direct" {
                    direct = found;
                }
                println!(
                    "{round:<8}{name:<16}{:>8.2}{:>8.2}{:>8.2}{:>12.2}{:>12.2}{:>10.1}",
                    found[0],
                    found[1],
                    quantile(&times, 1.0),
                    found[0] - direct[0],
                    found[1] - direct[1],
                    resident_mib(),
                );
            }
        }
    });
    stop.store(true, Ordering::SeqCst);
    // Idle connections are closed when the runtime ends.
    drop(runtime);
    thread.join().unwrap().unwrap();
}
