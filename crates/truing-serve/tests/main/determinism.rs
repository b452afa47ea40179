//! What a request gets depends on the request alone: not on what runs beside it, on the order of arrival, on clients
//! that leave, or on what is cached.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use truing_serve::ServeOptions;

use crate::setup::{TestServer, start, with};

/// Requests of all kinds: long and short, with and without temperature, penalties, grammars, common beginnings.
fn requests() -> Vec<(&'static str, Value)> {
    let common = "A long beginning that many of the prompts share, word by word. ".repeat(4);
    (0..24)
        .map(|idx: usize| {
            let beginning = if idx.is_multiple_of(3) { "" } else { common.as_str() };
            let text = format!("{beginning}{}", "x".repeat(idx));
            let base = json!({
                "max_tokens": 3 + idx % 17, "seed": idx, "temperature": (idx % 3) as f64 * 0.6, "n": 1 + idx % 2
            });
            let more = match idx % 5 {
                0 => json!({"logprobs": 2}),
                1 => json!({"presence_penalty": 1.0, "frequency_penalty": 0.5, "logprobs": 0}),
                2 => json!({"guided_regex": "[a-z ]+", "logprobs": 1}),
                3 => json!({"top_p": 0.9, "top_k": 40, "repetition_penalty": 1.2}),
                _ => json!({"min_p": 0.05, "logit_bias": {"17": 4}}),
            };
            match idx % 4 {
                0 => {
                    let log_probs = more.get("logprobs").is_some();
                    let mut more = more;
                    more["logprobs"] = log_probs.into();
                    let messages = json!({"messages": [{"role": "user", "content": text}]});
                    ("/v1/chat/completions", with(with(base, more), messages))
                }
                _ => ("/v1/completions", with(with(base, more), json!({"prompt": text}))),
            }
        })
        .collect()
}

/// The choices of every request, by their place, asked by several clients at a time in some order.
fn answers(server: &TestServer, order: &[usize], n_clients: usize, n_leaving: usize) -> Vec<Value> {
    let requests = requests();
    let next = AtomicUsize::new(0);
    let mut found = vec![Value::Null; requests.len()];
    let results = std::sync::Mutex::new(&mut found);
    std::thread::scope(|scope| {
        for client in 0..n_clients {
            let (next, requests, results) = (&next, &requests, &results);
            scope.spawn(move || {
                loop {
                    let place = next.fetch_add(1, Ordering::SeqCst);
                    let Some(&idx) = order.get(place) else { break };
                    let (path, body) = &requests[idx];
                    if client < n_leaving {
                        // Another request is begun and left.
                        let body = with(body.clone(), json!({"max_tokens": 200, "stream": true, "seed": 77}));
                        let bytes = server.bytes("POST", path, &[], body.to_string().as_bytes());
                        let mut stream = server.connect();
                        stream.write_all(&bytes).unwrap();
                        std::thread::sleep(Duration::from_millis(3 * idx as u64 % 20));
                        drop(stream);
                    }
                    let reply = server.post(path, body);
                    assert_eq!(reply.status, 200, "{}", reply.body);
                    results.lock().unwrap()[idx] = reply.json()["choices"].clone();
                }
            });
        }
    });
    found
}

#[test]
fn replies_depend_on_their_request_alone() {
    let in_order: Vec<usize> = (0..requests().len()).collect();
    let expected = {
        let options = ServeOptions { max_running: 1, max_cached_tokens: 0, ..ServeOptions::default() };
        answers(&start(options), &in_order, 1, 0)
    };
    assert!(expected.iter().all(Value::is_array));
    let server = start(ServeOptions { max_running: 8, max_cached_tokens: 256, ..ServeOptions::default() });
    for (n_clients, n_leaving, step) in [(1, 0, 1), (2, 0, 5), (8, 3, 7), (24, 8, 11)] {
        let order: Vec<usize> = in_order.iter().map(|idx| idx * step % in_order.len()).collect();
        let found = answers(&server, &order, n_clients, n_leaving);
        for (idx, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "request {idx} with {n_clients} clients");
        }
    }
    assert!(server.metric("vllm:prefix_cache_hits_total") > 0.0, "beginnings were shared");
    assert_eq!(server.metric("vllm:spec_decode_num_draft_tokens_total"), 0.0);
    let options = ServeOptions { max_running: 8, prompt_lookup_num_tokens: 3, ..ServeOptions::default() };
    let drafting = start(options);
    for (idx, (found, expected)) in answers(&drafting, &in_order, 8, 2).iter().zip(&expected).enumerate() {
        assert_eq!(found, expected, "request {idx} with drafts");
    }
    let counted = ["draft", "accepted"]
        .map(|name| drafting.metric(&format!("vllm:spec_decode_num_{name}_tokens_total")));
    assert!(counted[0] > 0.0 && counted[1] <= counted[0], "{counted:?}");
}

/// A client that leaves is no longer computed for, whether it waits, reads a stream or waits for the whole.
#[test]
fn nothing_is_computed_for_clients_that_left() {
    let server = start(ServeOptions { max_running: 2, ..ServeOptions::default() });
    let body = |is_streamed: bool| {
        // 128 completions: none is finished before its client leaves.
        json!({"prompt": "x", "max_tokens": 590, "ignore_eos": true, "n": 128, "stream": is_streamed})
            .to_string()
    };
    let mut clients = Vec::new();
    for idx in 0..6 {
        let mut stream = server.connect();
        stream
            .write_all(&server.bytes("POST", "/v1/completions", &[], body(idx % 2 == 0).as_bytes()))
            .unwrap();
        clients.push(stream);
    }
    drop(clients);
    // Far less than six times 128 times 590 tokens: the server notices within its next event.
    let mut n_idle = 0;
    for _ in 0..2000 {
        let is_idle = ["vllm:num_requests_running", "vllm:num_requests_waiting"]
            .iter()
            .all(|name| server.metric(name) == 0.0);
        n_idle = if is_idle { n_idle + 1 } else { 0 };
        if n_idle > 20 {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(n_idle > 20, "something is still running");
    assert_eq!(server.metric("vllm:request_success_total"), 0.0, "none was finished for nobody");
    let reply = server.post("/v1/completions", &json!({"prompt": "x", "max_tokens": 3}));
    assert_eq!(reply.status, 200);
}
