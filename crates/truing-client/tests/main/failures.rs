//! Every way in which a server fails, in one table: what is reported, how often it is asked, how long it takes at most,
//! what else is given up with it, and that the key is in none of it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::ops::ControlFlow;

use truing_client::{ClientError, FailureKind, FailureScope};
use truing_types::{ChatError, ChatModel, ChatRequest, FinishReason};

use crate::server::{Act, KEY, Setup, json, request, says, setup, with_header};

use FailureKind::{
    BadAnswer, Connection, CutOff, QuotaExhausted, RateLimited, Redirected, Refused, Server as ServerFailed,
    Timeout,
};
use FailureScope::{Everything, Form, Passing, Request};

/// A server that does the same to every request, and what is to come of it.
struct Case {
    name: &'static str,
    act: Act,
    kind: FailureKind,
    scope: FailureScope,
    /// Times that one request is sent, with `max_retries = 2`.
    n_asked: usize,
    /// Most seconds that one request waits.
    max_slept: f64,
    /// Part of what is reported.
    says: &'static str,
}

fn error(status: u16, code: &str) -> Act {
    let body = serde_json::json!({
        "error": {"message": format!("no {code}, whatever {KEY} says"), "type": "some_error", "code": code},
    });
    json(status, &body.to_string())
}

fn page(status: u16) -> Act {
    let headers = vec!["Content-Type: text/html".into()];
    Act::Answer { status, headers, body: b"<html><h1>Bad Gateway</h1></html>".into() }
}

fn cases() -> Vec<Case> {
    let case = |name, act, (kind, scope), n_asked, max_slept, says| Case {
        name,
        act,
        kind,
        scope,
        n_asked,
        max_slept,
        says,
    };
    let busy = (RateLimited, Passing);
    vec![
        case("400", error(400, "unsupported_parameter"), (Refused, Form), 1, 0.0, "unsupported_parameter"),
        case("400 too long", error(400, "context_length_exceeded"), (Refused, Request), 1, 0.0, "status 400"),
        case("400 filtered", error(400, "content_filter"), (Refused, Request), 1, 0.0, "status 400"),
        case("401", error(401, "invalid_api_key"), (Refused, Everything), 1, 0.0, "whatever [key] says"),
        case("402", error(402, "x"), (QuotaExhausted, Everything), 1, 0.0, "status 402"),
        case("403", error(403, "x"), (Refused, Everything), 1, 0.0, "status 403"),
        case("404", error(404, "model_not_found"), (Refused, Everything), 1, 0.0, "model_not_found"),
        case("405", page(405), (Refused, Everything), 1, 0.0, "status 405"),
        case("413", page(413), (Refused, Request), 1, 0.0, "status 413"),
        case(
            "422",
            json(422, r#"{"detail":"seed: extra field"}"#),
            (Refused, Form),
            1,
            0.0,
            "seed: extra field",
        ),
        case("429 rate", error(429, "rate_limit_exceeded"), busy, 3, 3.0, "rate_limit_exceeded"),
        case(
            "429 quota",
            error(429, "insufficient_quota"),
            (QuotaExhausted, Everything),
            1,
            0.0,
            "insufficient_quota",
        ),
        case(
            "429 quota in words",
            json(
                429,
                r#"{"error":"You exceeded your current quota, please check your plan and billing details."}"#,
            ),
            (QuotaExhausted, Everything),
            1,
            0.0,
            "exceeded your current quota",
        ),
        case(
            "429 quota in Chinese",
            json(429, r#"{"error":{"code":"1113","message":"账户余额不足，请充值"}}"#),
            (QuotaExhausted, Everything),
            1,
            0.0,
            "余额不足",
        ),
        case(
            "200 quota",
            json(200, r#"{"error":{"message":"none left","code":"insufficient_quota"}}"#),
            (QuotaExhausted, Everything),
            1,
            0.0,
            "none left",
        ),
        case(
            "200 quota in a stream",
            Act::Events("data: {\"error\":{\"message\":\"Insufficient balance\"}}\n\n".into()),
            (QuotaExhausted, Everything),
            1,
            0.0,
            "Insufficient balance",
        ),
        case(
            "200 refused form",
            json(200, r#"{"error":{"message":"bad seed","code":400}}"#),
            (Refused, Form),
            1,
            0.0,
            "bad seed",
        ),
        case(
            "429 billing",
            error(429, "billing_not_active"),
            (QuotaExhausted, Everything),
            1,
            0.0,
            "billing",
        ),
        case("429 come back", with_header(error(429, "x"), "Retry-After: 7"), busy, 3, 14.0, "attempts: 3"),
        case(
            "429 come back tomorrow",
            with_header(error(429, "x"), "Retry-After: 86400"),
            busy,
            1,
            0.0,
            "86400 s",
        ),
        case("500", error(500, "x"), (ServerFailed, Passing), 3, 3.0, "status 500"),
        case("502 page", page(502), (ServerFailed, Passing), 3, 3.0, "Bad Gateway"),
        case("503", with_header(page(503), "Retry-After: 2"), (ServerFailed, Passing), 3, 4.0, "status 503"),
        case("dropped", Act::Drop, (Connection, Passing), 3, 3.0, "attempts: 3"),
        case(
            "reset in the body",
            Act::Cut(b"{\"choices\"".into()),
            (CutOff, Passing),
            3,
            3.0,
            "cut off after",
        ),
        case("silent", Act::SlowHeaders, (Timeout, Passing), 3, 3.0, "timed out"),
        case("empty body", json(200, ""), (CutOff, Passing), 3, 3.0, "cut off"),
        case("no JSON", page(200), (BadAnswer, Passing), 3, 3.0, "not valid JSON"),
        case("no choices", json(200, r#"{"choices":[]}"#), (BadAnswer, Passing), 3, 3.0, "no `choices`"),
        case(
            "an error as answer",
            json(200, r#"{"error":"no cards"}"#),
            (BadAnswer, Passing),
            3,
            3.0,
            "no cards",
        ),
        case(
            "aborted",
            json(200, r#"{"choices":[{"message":{"content":"[[2]]"},"finish_reason":"abort"}]}"#),
            (CutOff, Passing),
            3,
            3.0,
            "`abort`",
        ),
        case(
            "stream cut",
            Act::Events("data: {\"choices\":[{\"delta\":{\"content\":\"[[2]]\"}}]}\n\n".into()),
            (CutOff, Passing),
            3,
            3.0,
            "5 characters",
        ),
        case(
            "redirect",
            with_header(json(307, ""), "Location: http://elsewhere.invalid/"),
            (Redirected, Everything),
            1,
            0.0,
            "not followed",
        ),
    ]
}

fn start(act: &Act) -> Setup {
    setup(vec![act.clone()], |settings| {
        settings.max_retries = 2;
        // Only a silent server costs its timeout.
        if act.is_silent() {
            settings.timeout_secs = 0.5;
        }
        settings.max_concurrency = 4;
    })
}

#[test]
fn every_failure_is_reported_once_asked_as_often_as_it_helps_and_never_tells_the_key() {
    let cases = cases();
    assert!(cases.len() >= 20);
    for Case { name, act, kind, scope, n_asked, max_slept, says } in cases {
        let setup = start(&act);
        let error = setup.ask().unwrap_err();
        let text = error.to_string();
        assert!(text.contains(says) && !text.contains(KEY), "{name}: {text}");
        let ClientError::NoAnswer { kind: found, scope: found_scope, .. } = error else {
            panic!("{name}: {text}")
        };
        assert_eq!((found, found_scope), (kind, scope), "{name}: {text}");
        setup.server.wait_for(n_asked);
        assert_eq!(setup.server.asked().len(), n_asked, "{name}");
        let slept: f64 = setup.clock.slept().iter().sum();
        assert!(slept <= max_slept, "{name}: {slept} s");
        assert_eq!(setup.client.counts().snapshot().failures.get(kind.as_str()), Some(&1), "{name}");
    }
}

#[test]
fn what_refuses_everything_is_not_asked_a_hundred_times() {
    let requests: Vec<ChatRequest> = (0..100).map(|i| request(&i.to_string())).collect();
    for Case { name, act, scope, n_asked, says, .. } in cases() {
        let setup = start(&act);
        let mut n_told = 0;
        let results =
            setup.client.chat_all(&requests[..if scope == Passing { 8 } else { 100 }], &mut |_, _| {
                n_told += 1;
                ControlFlow::Continue(())
            });
        assert_eq!(n_told, results.len(), "{name}: every request has its result");
        setup.server.wait_for(match scope {
            Everything | Form => 0,
            Request => 100,
            Passing => 8 * n_asked,
        });
        let n_asked_of_all = setup.server.asked().len();
        let last = results.last().unwrap().as_ref().unwrap_err();
        assert!(last.to_string().contains(says) || scope == Passing || scope == Request, "{name}: {last}");
        match scope {
            // Those under way when the first one was refused.
            Everything => assert!(n_asked_of_all <= 4, "{name}: {n_asked_of_all}"),
            Form => assert!(n_asked_of_all <= 5 + 4, "{name}: {n_asked_of_all}"),
            Request => assert_eq!(n_asked_of_all, 100, "{name}"),
            Passing => assert_eq!(n_asked_of_all, 8 * n_asked, "{name}"),
        }
        let is_given_up = matches!(scope, Everything | Form);
        assert_eq!(last.is_permanent(), is_given_up, "{name}: {last}");
        assert_eq!(matches!(last, ChatError::NotAsked(_)), is_given_up, "{name}: {last}");
        if scope == Form {
            let n_single =
                results.iter().filter(|result| result.as_ref().is_err_and(|e| !e.is_permanent())).count();
            assert!(n_single < 5, "{name}: the fifth refusal is of everything, {n_single}");
        }
        assert!(results.iter().flatten().next().is_none() && !last.to_string().contains(KEY), "{name}");
    }
}

/// What becomes of requests that are asked one after the other: how many were sent, and which refusals are of
/// everything.
fn in_turn(script: Vec<Act>, n_requests: usize) -> (usize, Vec<bool>) {
    let setup = setup(script, |settings| settings.max_concurrency = 1);
    let requests: Vec<ChatRequest> = (0..n_requests).map(|i| request(&i.to_string())).collect();
    let results = setup.client.chat_all(&requests, &mut |_, _| ControlFlow::Continue(()));
    let is_permanent = results.iter().map(|result| result.as_ref().is_err_and(ChatError::is_permanent));
    (setup.server.asked().len(), is_permanent.collect())
}

fn refused(words: &str) -> Act {
    json(400, &serde_json::json!({ "error": { "message": words } }).to_string())
}

#[test]
fn refusals_of_single_requests_among_answers_end_nothing() {
    let script: Vec<Act> =
        (0..30).map(|i| if i % 4 == 0 { says("yes") } else { refused("no such role") }).collect();
    assert_eq!(in_turn(script, 30), (30, vec![false; 30]));
}

#[test]
fn refusals_in_a_row_end_it_whatever_was_answered_before() {
    let script = vec![says("yes"), says("yes"), refused("no such role")];
    let (n_asked, is_permanent) = in_turn(script, 40);
    assert_eq!(n_asked, 2 + 5);
    assert_eq!(is_permanent, (0..40).map(|i| i >= 6).collect::<Vec<_>>());
    // Ids do not make words differ.
    let script = (0..40).map(|i| refused(&format!("unsupported (request req_{i}a)"))).collect();
    assert_eq!(in_turn(script, 40).0, 5);
}

#[test]
fn refusals_in_different_words_are_of_each_request_alone_up_to_a_point() {
    let words: Vec<String> = (0..30_u8).map(|i| format!("bad word {}", char::from(b'A' + i))).collect();
    let script: Vec<Act> = words.iter().map(|words| refused(words)).collect();
    let (n_asked, is_permanent) = in_turn(script, 30);
    assert_eq!((n_asked, is_permanent[18], is_permanent[19]), (20, false, true));
}

#[test]
fn a_key_that_the_server_repeats_is_in_no_answer_and_no_message() {
    let body = |message: &str| {
        json(200, &format!(r#"{{"choices":[{{"message":{message},"finish_reason":"stop"}}]}}"#))
    };
    let pieces: String = ["you sent sk-very", "-secr", "et-42 a", "nd sk-", "very"]
        .iter()
        .map(|piece| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{piece}\"}}}}]}}\n\n"))
        .chain(std::iter::once("data: [DONE]\n\n".to_owned()))
        .collect();
    let escaped: String = KEY.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    for (act, text) in [
        (
            body(&format!(r#"{{"content":"Bearer {KEY}. [[5]]","reasoning":"{KEY}?"}}"#)),
            "Bearer [key]. [[5]]",
        ),
        (body(&format!(r#"{{"content":"{escaped}"}}"#)), "[key]"),
        (Act::Events(pieces), "you sent [key] and sk-very"),
    ] {
        let setup = setup(vec![act], |_| {});
        let reply = setup.client.ask(&request("x"), None).unwrap();
        assert_eq!(reply.text, text);
        assert!(!reply.reasoning.unwrap_or_default().contains(KEY));
        let (answer, heard) = setup.listen();
        assert_eq!((answer.unwrap().as_str(), heard.as_str()), (text, text));
    }
    // Where a message is shortened, a key may be cut in two.
    for n in 270..300 {
        let long = format!("{} {KEY}", "x".repeat(n));
        let escaped = format!("{} {escaped}", "x".repeat(n));
        for act in [
            json(200, &format!(r#"{{"error":{{"message":"{long}"}}}}"#)),
            json(401, &format!(r#"{{"error":{{"message":"{escaped}"}}}}"#)),
            json(401, &format!(r#"{{"error":{{"message":"{long}"}}}}"#)),
        ] {
            let setup = setup(vec![act], |settings| settings.max_retries = 0);
            let text = setup.ask().unwrap_err().to_string();
            assert!(!text.contains(&KEY[..6]), "{text}");
        }
    }
}

#[test]
fn nobody_listens() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let setup = setup(vec![says("")], |settings| {
        settings.base_url = format!("http://127.0.0.1:{port}/v1");
        settings.max_retries = 2;
    });
    let ClientError::NoAnswer { kind, scope, attempts, .. } = setup.ask().unwrap_err() else { panic!() };
    assert_eq!((kind, scope, attempts), (Connection, Passing, 3));
}

#[test]
fn an_answer_in_another_content_type_is_an_answer() {
    let body = br#"{"choices":[{"message":{"content":"hi"}}]}"#.to_vec();
    let act = Act::Answer { status: 200, headers: vec!["Content-Type: text/html".into()], body };
    assert_eq!(setup(vec![act], |_| {}).ask().unwrap(), "hi");
}

#[test]
fn thought_and_answer_come_apart_from_wherever_the_server_puts_them() {
    let message = |message: &str, finish: &str| {
        json(200, &format!(r#"{{"choices":[{{"message":{message},"finish_reason":"{finish}"}}]}}"#))
    };
    for (act, text, reasoning, finish) in [
        (
            message(r#"{"content":"b","reasoning_content":"a"}"#, "stop"),
            "b",
            Some("a"),
            FinishReason::EndOfTurn,
        ),
        (message(r#"{"content":"<think>a</think>\n\nb"}"#, "stop"), "b", Some("a"), FinishReason::EndOfTurn),
        (message(r#"{"content":"a</think>b"}"#, "stop"), "b", Some("a"), FinishReason::EndOfTurn),
        (message(r#"{"content":"<think>[[2]] a"}"#, "length"), "", Some("[[2]] a"), FinishReason::Length),
        (message(r#"{"content":null,"reasoning":"a"}"#, "length"), "", Some("a"), FinishReason::Length),
        (message(r#"{"content":"<plan>a</plan>b"}"#, "stop"), "b", Some("a"), FinishReason::EndOfTurn),
        (message(r#"{"content":null}"#, "stop"), "", None, FinishReason::EndOfTurn),
        (message(r#"{"content":null}"#, "content_filter"), "", None, FinishReason::ContentFilter),
        (message(r#"{"content":null,"refusal":"No."}"#, "stop"), "No.", None, FinishReason::Refusal),
    ] {
        let mark = truing_types::ReasoningMark { open: "<plan>".into(), close: "</plan>".into() };
        let setup = setup(vec![act], |settings| settings.reasoning_marks = vec![mark]);
        let reply = setup.client.ask(&request("x"), None).unwrap();
        assert_eq!(
            (reply.text.as_str(), reply.reasoning.as_deref(), reply.finish_reason),
            (text, reasoning, finish)
        );
    }
}

#[test]
fn a_name_that_does_not_resolve_and_a_server_without_tls_are_named() {
    let asked = |url: String| {
        let setup = setup(vec![says("")], |settings| {
            settings.base_url = url;
            settings.max_retries = 1;
            settings.timeout_secs = 5.0;
        });
        let ClientError::NoAnswer { kind, scope, attempts, .. } = setup.ask().unwrap_err() else { panic!() };
        assert_eq!((kind, scope, attempts), (Connection, Passing, 2));
        setup.ask().unwrap_err().to_string()
    };
    let text = asked("http://no-such-host.invalid/v1".into());
    assert!(text.contains("no-such-host.invalid") && !text.contains(KEY), "{text}");

    // Answers in plain text to the beginning of an encrypted connection.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let text = asked(format!("https://127.0.0.1:{port}/v1"));
    assert!(text.contains(&port.to_string()) && !text.contains(KEY), "{text}");
}

/// Whole answers, status 200, that hold no answer: none becomes a text that a verdict could be read from.
#[test]
fn an_answer_without_an_answer_is_told_by_its_end() {
    let message = |message: &str, finish: &str| {
        json(200, &format!(r#"{{"choices":[{{"message":{message},"finish_reason":"{finish}"}}]}}"#))
    };
    let event = |delta: &str, finish: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n")
    };
    let call = r#"[{"index":0,"id":"a","type":"function","function":{"name":"grade","arguments":"{\"score\":10}"}}]"#;
    let stream = |events: &[String]| Act::Events(format!("{}data: [DONE]\n\n", events.concat()));
    for (name, act, text, reasoning, finish) in [
        (
            "a tool call alone",
            message(&format!(r#"{{"content":null,"tool_calls":{call}}}"#), "tool_calls"),
            "",
            None,
            FinishReason::ToolCalls,
        ),
        (
            "a tool call that ends as a turn",
            message(&format!(r#"{{"content":"","tool_calls":{call}}}"#), "stop"),
            "",
            None,
            FinishReason::ToolCalls,
        ),
        (
            "a call in the older form",
            message(r#"{"content":null,"function_call":{"name":"grade","arguments":"{}"}}"#, "function_call"),
            "",
            None,
            FinishReason::ToolCalls,
        ),
        (
            "a tool call in a stream",
            stream(&[event(&format!(r#"{{"tool_calls":{call}}}"#), "null"), event("{}", "\"tool_calls\"")]),
            "",
            None,
            FinishReason::ToolCalls,
        ),
        (
            "reasoning alone",
            message(r#"{"content":null,"reasoning_content":"perhaps [[10]]"}"#, "stop"),
            "",
            Some("perhaps [[10]]"),
            FinishReason::EndOfTurn,
        ),
        (
            "reasoning alone, in a stream",
            stream(&[event(r#"{"reasoning":"perhaps [[10]]"}"#, "null"), event("{}", "\"stop\"")]),
            "",
            Some("perhaps [[10]]"),
            FinishReason::EndOfTurn,
        ),
        (
            "a thought in the text alone",
            message(r#"{"content":"<longcat_think>perhaps [[10]]"}"#, "stop"),
            "",
            Some("perhaps [[10]]"),
            FinishReason::EndOfTurn,
        ),
        ("cut", message(r#"{"content":"[[1"}"#, "length"), "[[1", None, FinishReason::Length),
        (
            "cut in a stream",
            stream(&[event(r#"{"content":"[[1"}"#, "null"), event("{}", "\"length\"")]),
            "[[1",
            None,
            FinishReason::Length,
        ),
        (
            "filtered in a stream",
            stream(&[event(r#"{"content":"[[1"}"#, "null"), event("{}", "\"content_filter\"")]),
            "[[1",
            None,
            FinishReason::ContentFilter,
        ),
    ] {
        let setup = setup(vec![act], |_| {});
        let mut heard = String::new();
        let mut on_text = |piece: &str| {
            heard.push_str(piece);
            ControlFlow::Continue(())
        };
        let listens = name.contains("stream");
        let reply = setup.client.ask(&request("x"), listens.then_some(&mut on_text as _)).unwrap();
        assert_eq!(
            (reply.text.as_str(), reply.reasoning.as_deref(), reply.finish_reason),
            (text, reasoning, finish),
            "{name}"
        );
    }
}

/// Bytes that are no answer.
#[test]
fn an_answer_that_is_damaged_is_asked_for_again() {
    let answer = |bytes: &[u8]| Act::Answer {
        status: 200,
        headers: vec!["Content-Type: application/json".into()],
        body: bytes.to_vec(),
    };
    for (name, act) in [
        (
            "no UTF-8",
            answer(&[&br#"{"choices":[{"message":{"content":""#[..], &[0xff, 0xfe], br#""}}]}"#].concat()),
        ),
        ("null", answer(b"null")),
        ("a text", answer(b"\"hi\"")),
        ("a list", answer(b"[]")),
        ("no content", json(204, "")),
        ("a page in a stream", Act::Events("<html>login</html>".into())),
    ] {
        let setup = setup(vec![act, says("hi")], |_| {});
        assert_eq!(setup.ask().unwrap(), "hi", "{name}");
        assert_eq!(setup.server.asked().len(), 2, "{name}");
    }
}
