//! Rates and concurrency.

use std::ops::ControlFlow;
use std::sync::Arc;

use truing_client::{ClientError, OpenAiClient};
use truing_types::{ChatError, ChatModel, ChatRequest};

use crate::server::{Act, JumpingClock, Server, access, json, request, says, settings, setup};

#[test]
fn many_are_asked_side_by_side_and_come_back_in_their_order() {
    let setup = setup(vec![Act::Count], |settings| settings.max_concurrency = 3);
    let requests: Vec<ChatRequest> = (0..40).map(|i| request(&format!("number {i}"))).collect();
    let mut seen = Vec::new();
    let results = setup.client.chat_all(&requests, &mut |place, result| {
        assert!(result.is_ok());
        seen.push(place);
        ControlFlow::Continue(())
    });
    seen.sort_unstable();
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
    let asked = setup.server.asked();
    for (i, result) in results.iter().enumerate() {
        let n: usize = result.as_ref().unwrap().text.parse().unwrap();
        let prompt = asked[n - 1].body["messages"][0]["content"].as_str().unwrap();
        assert_eq!(prompt, format!("number {i}"), "the reply belongs to its request");
    }
    assert!(setup.server.max_running() <= 3, "{} at once", setup.server.max_running());
    assert_eq!(setup.client.counts().snapshot().calls, 40);
}

#[test]
fn a_failure_is_one_result_among_others() {
    let setup = setup(vec![says("a"), json(400, r#"{"error":"no"}"#), says("c")], |settings| {
        settings.max_concurrency = 1
    });
    let results = setup
        .client
        .chat_all(&[request("1"), request("2"), request("3")], &mut |_, _| ControlFlow::Continue(()));
    assert!(results[0].is_ok() && results[2].is_ok());
    assert!(matches!(&results[1], Err(ChatError::Failed(_))));
}

#[test]
fn once_broken_off_nothing_more_is_asked() {
    let setup = setup(vec![Act::Count], |settings| settings.max_concurrency = 1);
    let requests: Vec<ChatRequest> = (0..30).map(|i| request(&i.to_string())).collect();
    let results = setup.client.chat_all(&requests, &mut |_, _| ControlFlow::Break(()));
    assert!(results[0].is_ok());
    assert!(matches!(results[29], Err(ChatError::BrokenOff)));
    // The worker may have begun the next ones before it heard.
    assert!(setup.server.asked().len() < 30);
}

/// 429 halves the concurrency, successes raise it again, and it never exceeds `max_concurrency`.
#[test]
fn a_server_with_too_many_requests_gets_fewer_at_once() {
    let busy = json(429, r#"{"error":{"code":"rate_limit_exceeded"}}"#);
    let setup = setup(vec![busy.clone(), busy, says("ok")], |settings| settings.max_concurrency = 8);
    assert_eq!(setup.client.concurrency(), 8);
    setup.ask().unwrap();
    assert_eq!(setup.client.concurrency(), 2, "two of the three attempts were too many");
    for expected in [3, 3, 3, 4, 4] {
        setup.ask().unwrap();
        assert_eq!(setup.client.concurrency(), expected);
    }
    for _ in 0..60 {
        setup.ask().unwrap();
    }
    assert_eq!(setup.client.concurrency(), 8);
}

/// A server error is no sign of too many requests.
#[test]
fn other_failures_leave_the_concurrency_as_it_is() {
    let setup = setup(vec![json(500, ""), says("ok")], |settings| settings.max_concurrency = 8);
    setup.ask().unwrap();
    assert_eq!(setup.client.concurrency(), 8);
}

#[test]
fn many_requests_to_a_busy_server_are_all_answered() {
    let busy = json(429, r#"{"error":{"code":"rate_limit_exceeded"}}"#);
    let setup = setup(vec![busy.clone(), busy.clone(), busy, Act::Count], |settings| {
        settings.max_concurrency = 4;
    });
    let requests: Vec<ChatRequest> = (0..40).map(|i| request(&format!("number {i}"))).collect();
    let results = setup.client.chat_all(&requests, &mut |_, _| ControlFlow::Continue(()));
    assert!(results.iter().all(Result::is_ok));
    assert!(setup.server.max_running() <= 4, "{} at once", setup.server.max_running());
}

#[test]
fn requests_of_a_minute_are_limited() {
    let setup = setup(vec![says("ok")], |settings| settings.requests_per_minute = Some(2));
    for _ in 0..4 {
        setup.ask().unwrap();
    }
    assert_eq!(setup.clock.slept(), [30.0, 30.0]);
}

#[test]
fn tokens_of_a_minute_are_limited_by_estimate_and_corrected_by_usage() {
    // Estimated: 17 bytes in 5 tokens and 16 new ones; the server then says 10.
    let setup = setup(vec![says("ok")], |settings| settings.tokens_per_minute = Some(30));
    setup.ask().unwrap();
    setup.ask().unwrap();
    assert_eq!(setup.clock.slept(), [2.0], "20 of 21 were left");
    let mut long = request("x");
    long.sampling.max_new_tokens = 1000;
    let error = setup.client.ask(&long, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a request of about 1005 tokens does not fit into `tokens_per_minute = 30`"
    );
    let client = setup.client.clone();
    assert!(matches!(client.chat(&long, &mut |_| ControlFlow::Continue(())), Err(ChatError::BadRequest(_))));
    assert_eq!(setup.server.asked().len(), 2, "it was not sent");
}

#[test]
fn a_wait_can_be_broken_off() {
    let server = Server::start(vec![json(500, "")]);
    let clock = Arc::new(JumpingClock { breaks_off_after: Some(1), ..JumpingClock::default() });
    let client = OpenAiClient::new(settings(&server), access(&clock)).unwrap();
    let error = client.ask(&request("x"), None).unwrap_err();
    assert!(matches!(error, ClientError::Interrupted { .. }), "{error}");
    assert_eq!(server.asked().len(), 2);
}
