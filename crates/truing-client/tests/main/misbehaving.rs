//! What goes wrong, one by one: asked again where that may help, and then the right answer; given up where not, and
//! then with a reason that does not hold the key.

use std::net::TcpListener;
use std::sync::Arc;

use truing_client::{ClientSettings, FailureKind, OpenAiClient, ProxyAddress};

use crate::server::{
    Act, JumpingClock, KEY, Server, access, failure, json, request, says, settings, setup, with_header,
};

const STREAM_BEGINNING: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"good \"}}]}\n\n";
const STREAM_END: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"answer\"},\"finish_reason\":\"stop\"}]}\
                          \n\ndata: [DONE]\n\n";

/// Long enough for an answer on a busy machine.
fn short_timeout(settings: &mut ClientSettings) {
    settings.timeout_secs = 2.0;
}

#[test]
fn everything_that_may_pass_is_asked_again() {
    let html = Act::Answer {
        status: 200,
        headers: vec!["Content-Type: text/html".into()],
        body: b"<html>login</html>".into(),
    };
    for (name, act) in [
        ("500", json(500, r#"{"error":{"message":"oops"}}"#)),
        ("503 page", Act::Answer { status: 503, headers: Vec::new(), body: b"<html>busy</html>".into() }),
        ("429 without header", json(429, "{}")),
        ("408", json(408, "")),
        ("409", json(409, "")),
        ("425", json(425, "")),
        ("dropped", Act::Drop),
        ("cut in JSON", Act::Cut(br#"{"choices":[{"message":{"content":"go"#.into())),
        ("cut JSON, whole length", json(200, r#"{"choices":[{"message":{"content":"go"#)),
        ("wrong JSON", json(200, r#"{"choices": 3, "more": []}"#)),
        ("empty choices", json(200, r#"{"choices": []}"#)),
        ("error with status 200", json(200, r#"{"error": {"message": "no cards left"}}"#)),
        ("page", html),
        ("empty", json(200, "")),
        ("slow headers", Act::SlowHeaders),
        ("slow body", Act::SlowBody(r#"{"choices":[{"message""#.into())),
    ] {
        let change = if act.is_silent() { short_timeout } else { |_: &mut ClientSettings| {} };
        let setup = setup(vec![act.clone(), act, says("good answer")], change);
        assert_eq!(setup.ask().unwrap(), "good answer", "{name}");
        let counts = setup.client.counts().snapshot();
        assert_eq!((counts.calls, counts.retries, counts.n_failures()), (3, 2, 0), "{name}");
        assert_eq!((counts.prompt_tokens, counts.completion_tokens), (7, 3), "{name}");
        let slept = setup.clock.slept();
        assert_eq!(slept.len(), 2, "{name}");
        assert!((0.5..=1.0).contains(&slept[0]) && (1.0..=2.0).contains(&slept[1]), "{name}: {slept:?}");
    }
}

#[test]
fn what_will_not_pass_is_asked_once_and_the_key_is_never_told() {
    let told = format!(r#"{{"error":{{"message":"bad key {KEY} given"}}}}"#);
    for (status, kind) in [
        (400, FailureKind::Refused),
        (401, FailureKind::Refused),
        (403, FailureKind::Refused),
        (404, FailureKind::Refused),
        (422, FailureKind::Refused),
        (307, FailureKind::Redirected),
    ] {
        let setup =
            setup(vec![with_header(json(status, &told), "Location: http://elsewhere.invalid/")], |_| {});
        let (found, text) = failure(setup.ask());
        assert_eq!(found, kind, "{status}: {text}");
        assert!(text.contains(&status.to_string()) && !text.contains(KEY), "{text}");
        assert_eq!(setup.server.asked().len(), 1, "{status}");
        assert_eq!(setup.clock.slept(), [0.0; 0], "{status}");
        assert_eq!(setup.client.counts().snapshot().failures.get(kind.as_str()), Some(&1));
        assert!(!format!("{:?}", setup.client).contains(KEY));
    }
    let setup = setup(vec![json(401, &told)], |_| {});
    assert!(failure(setup.ask()).1.contains("bad key [key] given"));
}

#[test]
fn a_redirect_does_not_carry_the_key_elsewhere() {
    let elsewhere = Server::start(vec![says("stolen")]);
    let location = format!("Location: http://{}/v1/chat/completions", elsewhere.address);
    for status in [301, 302, 303, 307, 308] {
        let setup = setup(vec![with_header(json(status, ""), &location)], |_| {});
        let (kind, text) = failure(setup.ask());
        assert_eq!(kind, FailureKind::Redirected);
        assert!(text.contains("which is not followed"), "{text}");
    }
    assert!(elsewhere.asked().is_empty());
}

#[test]
fn it_is_given_up_after_max_retries() {
    let setup = setup(vec![json(500, r#"{"error":"down"}"#)], |settings| settings.max_retries = 3);
    let (kind, text) = failure(setup.ask());
    assert_eq!(kind, FailureKind::Server);
    assert!(
        text.ends_with("status 500 X: down (attempts: 4)") || text.contains("down (attempts: 4)"),
        "{text}"
    );
    assert_eq!(setup.server.asked().len(), 4);
    assert_eq!(setup.client.counts().snapshot().failures.get("server"), Some(&1));
}

#[test]
fn a_server_says_when_to_come_again() {
    let busy = json(429, "{}");
    let script = vec![
        with_header(busy.clone(), "Retry-After: 7"),
        with_header(busy.clone(), "Retry-After: Sun, 06 Nov 1994 08:49:59 GMT"),
        with_header(busy, "Retry-After: whenever"),
        says("now"),
    ];
    let setup = setup(script, |_| {});
    assert_eq!(setup.ask().unwrap(), "now");
    let slept = setup.clock.slept();
    // The date is 22 seconds after the beginning, of which 7 are gone.
    assert_eq!(slept[..2], [7.0, 15.0]);
    assert!((2.0..=4.0).contains(&slept[2]), "{slept:?}");
}

#[test]
fn nobody_waits_beyond_the_deadline() {
    let busy = with_header(json(429, r#"{"error":{"message":"quota"}}"#), "Retry-After: 3600");
    let setup = setup(vec![busy], |_| {});
    let (kind, text) = failure(setup.ask());
    assert_eq!(kind, FailureKind::RateLimited);
    assert!(text.contains("quota; another attempt in 3600 s would pass `deadline_secs = 900`"), "{text}");
    assert_eq!(setup.server.asked().len(), 1);
}

#[test]
fn a_huge_answer_is_not_taken() {
    let huge = serde_json::json!({"choices": [{"message": {"content": "x".repeat(200_000)}}]}).to_string();
    let events = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "y".repeat(500))
        .repeat(400);
    for act in [json(200, &huge), Act::Events(events)] {
        let setup = setup(vec![act], |settings| settings.max_response_bytes = 100_000);
        let (kind, text) = failure(setup.ask());
        assert_eq!(kind, FailureKind::TooLong);
        assert!(text.contains("`max_response_bytes = 100000`"), "{text}");
        assert_eq!(setup.server.asked().len(), 1);
    }
}

#[test]
fn nobody_there() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let setup = setup(vec![says("")], |settings| {
        settings.base_url = format!("http://127.0.0.1:{port}/v1");
        settings.max_retries = 1;
    });
    let (kind, text) = failure(setup.ask());
    assert_eq!(kind, FailureKind::Connection);
    assert!(text.contains(&port.to_string()) && text.contains("attempts: 2"), "{text}");
}

#[test]
fn a_cut_stream_is_never_taken_as_whole_and_nothing_is_shown_twice() {
    let cut = Act::Events(STREAM_BEGINNING.into());
    let in_event = Act::Events(format!("{STREAM_BEGINNING}data: {{\"choices\":[{{\"del"));
    let whole = Act::Events(format!("{STREAM_BEGINNING}{STREAM_END}"));
    let setup = setup(vec![cut.clone(), in_event, whole], |_| {});
    let (reply, heard) = setup.listen();
    assert_eq!((reply.unwrap().as_str(), heard.as_str()), ("good answer", "good answer"));
    assert_eq!(setup.client.counts().snapshot().retries, 2);
    assert_eq!(setup.server.asked()[0].body["stream"], true);

    let other =
        Act::Events(format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"bad\"}}}}]}}\n\n{STREAM_END}"));
    let setup = crate::server::setup(vec![cut.clone(), other], |_| {});
    let (reply, heard) = setup.listen();
    assert_eq!((failure(reply).0, heard.as_str()), (FailureKind::Inconsistent, "good "));

    let setup = crate::server::setup(vec![cut, says("go")], |_| {});
    assert_eq!(failure(setup.listen().0).0, FailureKind::Inconsistent, "shorter than what was shown");
}

#[test]
fn a_stalled_stream_times_out() {
    let stalled = Act::SlowBody(String::new());
    let setup = setup(vec![stalled, says("good answer")], short_timeout);
    assert_eq!(setup.listen().0.unwrap(), "good answer");
}

#[test]
fn a_server_on_this_machine_is_asked_directly_whatever_the_proxy() {
    let server = Server::start(vec![says("near")]);
    let clock = Arc::new(JumpingClock::default());
    let mut access = access(&clock);
    access.proxy = Some(ProxyAddress { url: "http://127.0.0.1:1".into(), except: Vec::new() });
    let near = OpenAiClient::new(settings(&server), access.clone()).unwrap();
    assert_eq!(near.ask(&request("x"), None).unwrap().text, "near");

    // Elsewhere it is what is asked: here the server plays a proxy that will have nothing to do with it.
    access.proxy = Some(ProxyAddress { url: format!("http://{}", server.address), except: Vec::new() });
    let far =
        ClientSettings { base_url: "http://far.invalid/v1".into(), max_retries: 0, ..settings(&server) };
    let paths = || server.asked().into_iter().map(|asked| asked.path).collect::<Vec<_>>();
    let ask = |access| {
        OpenAiClient::new(far.clone(), access).unwrap().ask(&request("x"), None).map(|reply| reply.text)
    };
    assert_eq!(failure(ask(access.clone())).0, FailureKind::Connection);
    assert_eq!(paths(), ["/v1/chat/completions", "far.invalid:80"]);
    access.proxy = access.proxy.map(|proxy| ProxyAddress { except: vec!["invalid".into()], ..proxy });
    assert_eq!(failure(ask(access)).0, FailureKind::Connection);
    assert_eq!(paths().len(), 2, "it was tried directly");
}
