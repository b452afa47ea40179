//! What is sent, and answers of servers that are only nearly compatible.

use std::ops::ControlFlow;
use std::sync::Arc;

use truing_client::{ApiKey, ClientSettings, OpenAiClient};
use truing_types::{ChatModel as _, EndpointRequest, EndpointResult, FinishReason};

use crate::server::{Act, JumpingClock, KEY, Server, access, json, request, says, settings, setup};

#[test]
fn the_request_is_what_servers_expect() {
    let setup = setup(vec![says("hi")], |settings| settings.stream = false);
    let (reply, heard) = setup.listen();
    assert_eq!(
        (reply.unwrap().as_str(), heard.as_str()),
        ("hi", "hi"),
        "without a stream it comes as one piece"
    );
    let asked = &setup.server.asked()[0];
    assert_eq!(asked.path, "/v1/chat/completions");
    assert_eq!(asked.authorization.as_deref(), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!(asked.body["messages"], serde_json::json!([{"role": "user", "content": "x"}]));
    assert_eq!(asked.body.get("stream"), None);
}

#[test]
fn other_endpoints_lie_below_the_address_without_its_version_and_are_asked_again_where_that_helps() {
    let request = |path: &str| EndpointRequest {
        path: path.into(),
        body: serde_json::json!({"model_path": "/w"}),
        timeout_secs: None,
    };
    let go_on = &mut |_: usize, _: &EndpointResult| ControlFlow::Continue(());
    let setup =
        setup(vec![json(500, "busy"), json(200, r#"{"success": true, "message": "loaded"}"#)], |_| {});
    let reply = setup.client.post_all(&[request("/reload")], go_on).remove(0).unwrap();
    assert_eq!(reply["message"], "loaded");
    let asked = setup.server.asked();
    assert_eq!(
        (asked.len(), asked[1].path.as_str(), &asked[1].body["model_path"]),
        (2, "/reload", &"/w".into())
    );
    // Some endpoints say nothing where they succeed.
    let setup = self::setup(vec![json(200, "")], |_| {});
    assert!(setup.client.post_all(&[request("/resume")], go_on).remove(0).unwrap().is_null());
    for (act, words) in [
        (json(200, r#"{"choices": [{"token_ids": [1, 2"#), "cut off"),
        (json(200, r#"{"choices": [{"logprob": NaN}]}"#), "not valid JSON"),
        (json(200, r#"{"error": {"message": "no such tensor"}}"#), "no such tensor"),
        (json(404, r#"{"detail": "Not Found"}"#), "Not Found"),
    ] {
        let setup = self::setup(vec![act], |settings| settings.max_retries = 1);
        let error = setup.client.post_all(&[request("/reload")], go_on).remove(0).unwrap_err().reason();
        assert!(error.contains(words) && error.contains("/reload: "), "{error}");
    }
    let setup = self::setup(Vec::new(), |_| {});
    for (secs, words) in [(f64::INFINITY, "inf"), (0.0, "0"), (1e-10, "0.0000000001"), (-1.0, "-1")] {
        let request = EndpointRequest { timeout_secs: Some(secs), ..request("/reload") };
        let error = setup.client.post_all(&[request], go_on).remove(0).unwrap_err().reason();
        let expected = format!("`timeout_secs` is {words}: expected a number of seconds above 0");
        assert!(error.contains(&expected), "{error}");
    }
}

/// vLLM's form: the token that is there is one more entry where it is not among the most likely.
#[test]
fn log_probs_of_a_prompt_are_read_and_are_those_of_every_token() {
    let body = serde_json::json!({"choices": [{"text": "x", "prompt_logprobs": [
        null,
        {"7": {"logprob": -3.0, "rank": 9}, "5": {"logprob": -0.5, "rank": 1}, "2": {"logprob": -1.5, "rank": 2}},
        {"4": {"logprob": -1.0}, "3": {"logprob": -1.0}, "9": {"logprob": null}},
    ]}]});
    let text = vec![11, 7, 4];
    // A busy server is asked again.
    let setup = setup(vec![json(503, "busy"), json(200, &body.to_string())], |_| {});
    let found = setup.client.prompt_log_probs_all(std::slice::from_ref(&text), 2).remove(0).unwrap();
    assert_eq!(found, [vec![(5, -0.5), (2, -1.5)], vec![(3, -1.0), (4, -1.0)]]);
    let asked = &setup.server.asked()[1];
    assert_eq!((asked.path.as_str(), &asked.body["prompt"]), ("/v1/completions", &serde_json::json!(text)));
    assert_eq!((&asked.body["prompt_logprobs"], &asked.body["max_tokens"]), (&2.into(), &1.into()));
    for answer in [r#"{"choices": [{"text": "x"}]}"#, r#"{"choices": [{"prompt_logprobs": [null, {}]}]}"#] {
        let setup = self::setup(vec![json(200, answer); 8], |settings| settings.max_retries = 1);
        let error = setup.client.prompt_log_probs_all(std::slice::from_ref(&text), 2).remove(0).unwrap_err();
        let reason = error.reason();
        assert!(reason.contains("/v1/completions: "), "{reason}");
        assert!(reason.contains("no `prompt_logprobs` for each of the 3 tokens of the prompt"), "{reason}");
    }
}

#[test]
fn answers_that_differ_in_form_are_read() {
    let events = |body: &str| Act::Events(body.to_owned());
    for (act, text, finish) in [
        (
            json(
                200,
                r#"{"choices":[{"message":{"content":[{"type":"text","text":"parts"}]},"finish_reason":"odd","x":1}]}"#,
            ),
            "parts",
            FinishReason::EndOfTurn,
        ),
        (
            json(
                200,
                "\u{feff}{\"choices\":[{\"message\":{\"content\":\"marked\"},\"finish_reason\":\"stop\"}]}",
            ),
            "marked",
            FinishReason::EndOfTurn,
        ),
        (
            Act::Answer {
                status: 200,
                headers: vec!["Content-Type: text/plain".into()],
                body: br#"{"choices":[{"message":{"content":"as text"},"finish_reason":"length"}]}"#.into(),
            },
            "as text",
            FinishReason::Length,
        ),
        (
            events(
                "data: {\"choices\":[{\"delta\":{\"content\":\"unasked stream\"},\"finish_reason\":\"stop\"}]}\n\n",
            ),
            "unasked stream",
            FinishReason::EndOfTurn,
        ),
    ] {
        let setup = setup(vec![act], |_| {});
        let reply = setup.client.ask(&request("x"), None).unwrap();
        assert_eq!((reply.text.as_str(), reply.finish_reason), (text, finish));
        assert_eq!(reply.n_completion_tokens, 0, "the server told none");
    }
}

#[test]
fn a_listener_may_break_off() {
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"word \"}}]}\n\n";
    let setup = setup(vec![Act::Events(event.repeat(9))], |_| {});
    let reply = setup.client.ask(&request("x"), Some(&mut |_| ControlFlow::Break(()))).unwrap();
    assert_eq!(reply.finish_reason, FinishReason::Cancelled);
    assert!(reply.text.starts_with("word "));
    assert_eq!(setup.client.counts().snapshot().retries, 0);
}

#[test]
fn settings_that_cannot_be_meant_are_refused() {
    let server = Server::start(vec![says("")]);
    let clock = Arc::new(JumpingClock::default());
    let refuse = |change: &dyn Fn(&mut ClientSettings)| {
        let mut settings = settings(&server);
        change(&mut settings);
        OpenAiClient::new(settings, access(&clock)).unwrap_err().to_string()
    };
    assert!(
        refuse(&|s| s.base_url = "host/v1".into()).starts_with("`base_url` is host/v1: expected an address")
    );
    let text = refuse(&|s| s.base_url = "http://me:hush@host/v1".into());
    assert!(text.contains("api_key_env") && !text.contains("hush"), "{text}");
    assert!(refuse(&|s| s.model.clear()).starts_with("`model` is empty"));
    assert!(refuse(&|s| s.max_concurrency = 0).starts_with("`max_concurrency` is 0"));
    assert!(refuse(&|s| s.requests_per_minute = Some(0)).starts_with("`requests_per_minute` is 0"));
    assert!(refuse(&|s| s.timeout_secs = f64::NAN).starts_with("`timeout_secs` is NaN"));
    assert!(refuse(&|s| s.timeout_secs = 0.0).starts_with("`timeout_secs` is 0"));
    assert!(
        refuse(&|s| s.connect_timeout_secs = 1e-10).starts_with("`connect_timeout_secs` is 0.0000000001")
    );
    assert!(refuse(&|s| s.deadline_secs = 0.0).starts_with("`deadline_secs` is 0"));
    assert!(refuse(&|s| s.deadline_secs = f64::INFINITY).starts_with("`deadline_secs` is inf"));
    for key in ["", " \n", "two words", "ümlaut", "line\nbreak"] {
        let error = ApiKey::new(key).unwrap_err().to_string();
        assert!(key.trim().is_empty() || !error.contains(key), "{error}");
    }
    assert_eq!(format!("{:?}", ApiKey::new(KEY).unwrap()), "ApiKey([hidden])");
}
