//! The cache: nothing is paid for twice, whoever asks.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use truing_client::{CacheMode, CachedChat, ClientError, Clock, ReplyCache};
use truing_types::{ChatError, ChatModel, ChatRequest};

use crate::server::{Act, JumpingClock, KEY, Setup, json, request, says, setup};

fn cached(setup: &Setup, path: &Path, mode: CacheMode) -> CachedChat {
    let cache = Arc::new(ReplyCache::open(path).unwrap());
    let clock: Arc<dyn Clock> = Arc::new(JumpingClock::default());
    let client = setup.client.clone();
    let (fingerprint, counts) = (client.fingerprint(), client.counts());
    CachedChat::new(Box::new(client), fingerprint, cache, mode, clock, counts)
}

fn go_on<T>(_: usize, _: &T) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn texts(model: &CachedChat, requests: &[ChatRequest]) -> Vec<String> {
    model.chat_all(requests, &mut go_on).into_iter().map(|result| result.unwrap().text).collect()
}

#[test]
fn an_interrupted_run_goes_on_without_asking_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replies.sqlite");
    let setup = setup(vec![Act::Count], |settings| settings.max_concurrency = 1);
    let requests: Vec<ChatRequest> = (0..12).map(|i| request(&i.to_string())).collect();
    let mut n = 0;
    let results = cached(&setup, &path, CacheMode::Live).chat_all(&requests, &mut |_, _| {
        n += 1;
        if n == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let before: Vec<String> = results.iter().flatten().map(|reply| reply.text.clone()).collect();
    assert!(before.len() >= 4 && before.len() < 12);
    let all = texts(&cached(&setup, &path, CacheMode::Live), &requests);
    assert_eq!(all[..before.len()], before[..]);
    assert_eq!(setup.server.asked().len(), 12, "each was asked once");
    assert_eq!(all, texts(&cached(&setup, &path, CacheMode::Replay), &requests));
    assert_eq!(setup.client.counts().snapshot().cache_hits, before.len() as u64 + 12);
}

#[test]
fn equal_requests_are_asked_once_and_another_seed_is_another_request() {
    let folder = tempfile::tempdir().unwrap();
    let setup = setup(vec![Act::Count], |_| {});
    let model = cached(&setup, &folder.path().join("c"), CacheMode::Live);
    let mut other = request("x");
    other.sampling.seed = 1;
    let found = texts(&model, &[request("x"), other, request("x"), request("x")]);
    assert_eq!(found[0], found[2]);
    assert_eq!(found[0], found[3]);
    assert_ne!(found[0], found[1]);
    assert_eq!(setup.server.asked().len(), 2);
    let mut heard = String::new();
    let reply = model.chat(&request("x"), &mut |piece| {
        heard.push_str(piece);
        ControlFlow::Continue(())
    });
    let reply = reply.unwrap();
    assert_eq!((&reply.text, &heard), (&found[0], &found[0]));
    assert_eq!((reply.n_prompt_tokens, reply.n_completion_tokens), (7, 3));
    assert_eq!(setup.server.asked().len(), 2);
}

#[test]
fn recording_replaces_and_replaying_never_asks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let setup = setup(vec![Act::Count], |_| {});
    let ask = |mode| texts(&cached(&setup, &path, mode), &[request("x")]);
    assert_eq!(ask(CacheMode::Live), ["1"]);
    assert_eq!(ask(CacheMode::Record), ["2"]);
    assert_eq!(ask(CacheMode::Live), ["2"]);
    assert_eq!(ask(CacheMode::Replay), ["2"]);
    let replay = cached(&setup, &path, CacheMode::Replay);
    let missing = replay.chat(&request("never asked"), &mut |_| ControlFlow::Continue(())).unwrap_err();
    let ChatError::Failed(error) = missing else { panic!("{missing}") };
    let error = *error.downcast::<ClientError>().unwrap();
    let ClientError::NotRecorded { key, model, .. } = &error else { panic!("{error}") };
    assert_eq!((key.len(), model.as_str()), (64, "m"));
    assert!(error.to_string().contains(key));
    assert_eq!(setup.server.asked().len(), 2);
}

#[test]
fn failures_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let setup = setup(vec![json(400, "{}"), says("now")], |_| {});
    let model = cached(&setup, &folder.path().join("c"), CacheMode::Live);
    let both = model.chat_all(&[request("x"), request("x")], &mut go_on);
    assert!(both.iter().all(|result| matches!(result, Err(ChatError::Failed(_)))));
    assert_eq!(texts(&model, &[request("x")]), ["now"]);
}

/// Several threads may ask one model.
#[test]
fn threads_share_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let setup = setup(vec![Act::Count], |_| {});
    let model = cached(&setup, &folder.path().join("c"), CacheMode::Live);
    let model: &dyn ChatModel = &model;
    let ask = |text: String| model.chat(&request(&text), &mut |_| ControlFlow::Continue(())).unwrap().text;
    let mut said: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || ask(i.to_string()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let again: Vec<String> = (0..8).map(|i| ask(i.to_string())).collect();
    assert_eq!(said, again, "each request has its own reply");
    said.sort();
    assert_eq!(said, (1..=8).map(|n| n.to_string()).collect::<Vec<_>>(), "each was asked once");
}

#[test]
fn calls_of_tools_are_kept_and_the_key_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let call = |key: &str| {
        let arguments = serde_json::json!({"q": key}).to_string();
        serde_json::json!({"id": "a", "type": "function", "function": {"name": "look_up", "arguments": arguments}})
    };
    let message = serde_json::json!({"content": null, "tool_calls": [call(KEY)]});
    let answer = serde_json::json!({"choices": [{"message": message, "finish_reason": "tool_calls"}]});
    let setup = setup(vec![json(200, &answer.to_string())], |_| {});
    for mode in [CacheMode::Live, CacheMode::Replay] {
        let reply =
            cached(&setup, &path, mode).chat(&request("x"), &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(reply.tool_calls, [call("[key]")], "{mode:?}");
    }
    assert_eq!(setup.server.asked().len(), 1);
}

/// A reply of some content and end.
fn ends(content: &str, finish: &str) -> Act {
    json(
        200,
        &format!(r#"{{"choices":[{{"message":{{"content":"{content}"}},"finish_reason":"{finish}"}}]}}"#),
    )
}

/// Also a reply that says nothing is paid for. A run that asked for it again would pay twice, and continue with another
/// reply than the one it saw.
#[test]
fn every_finished_reply_is_kept_whatever_it_says() {
    for (content, finish) in [
        ("", "stop"),
        (" \\n", "stop"),
        ("<think>a</think>", "stop"),
        ("<think>a", "stop"),
        ("<think>a", "length"),
        ("", "length"),
        ("", "content_filter"),
        ("b", "stop"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c");
        let setup = setup(vec![ends(content, finish), says("now")], |_| {});
        let ask = |mode, request: ChatRequest| texts(&cached(&setup, &path, mode), &[request]);
        let first = ask(CacheMode::Live, request("x"));
        assert_ne!(first, ["now"], "{content} {finish}");
        for mode in [CacheMode::Live, CacheMode::Replay] {
            assert_eq!(ask(mode, request("x")), first, "{content} {finish} {mode:?}");
        }
        assert_eq!(setup.server.asked().len(), 1, "{content} {finish}");
        let mut other = request("x");
        other.sampling.seed = 1;
        assert_eq!(ask(CacheMode::Live, other), ["now"], "another seed is another request");
        assert_eq!(setup.server.asked().len(), 2, "{content} {finish}");
    }
}

/// What ends before the server says that it is whole is a failure, and no reply.
#[test]
fn a_reply_that_breaks_off_is_not_kept() {
    let stream = Act::Events("data: {\"choices\":[{\"delta\":{\"content\":\"Half of\"}}]}\n\n".into());
    for act in [ends("Half of", "abort"), stream] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c");
        let setup = setup(vec![act, says("whole")], |settings| settings.max_retries = 0);
        let broken = cached(&setup, &path, CacheMode::Live).chat_all(&[request("x")], &mut go_on);
        assert!(matches!(broken[0], Err(ChatError::Failed(_))), "{broken:?}");
        assert!(ReplyCache::open(&path).unwrap().is_empty().unwrap());
        assert_eq!(texts(&cached(&setup, &path, CacheMode::Live), &[request("x")]), ["whole"]);
    }
}

/// As ranks do that share a judge's cache: each has its own connection, and all begin with a file that is not there.
#[test]
fn ranks_that_share_a_file_lose_no_reply_and_never_find_it_locked() {
    const N_RANKS: usize = 6;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let setup = setup(vec![Act::Count], |_| {});
    let requests: Vec<ChatRequest> = (0..60).map(|i| request(&i.to_string())).collect();
    let begin = std::sync::Barrier::new(N_RANKS);
    let seen: Vec<Vec<(usize, String)>> = std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..N_RANKS)
            .map(|rank| {
                let (begin, path, setup, requests) = (&begin, &path, &setup, &requests);
                scope.spawn(move || {
                    begin.wait();
                    let model = cached(setup, path, CacheMode::Live);
                    // Shares overlap: every request is of two ranks.
                    let is_mine = |i: &usize| i % N_RANKS == rank || (i + 1) % N_RANKS == rank;
                    let mine: Vec<usize> = (0..requests.len()).filter(is_mine).collect();
                    let asked: Vec<ChatRequest> = mine.iter().map(|&i| requests[i].clone()).collect();
                    mine.into_iter().zip(texts(&model, &asked)).collect()
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert_eq!(ReplyCache::open(&path).unwrap().len().unwrap(), 60);
    let n_asked = setup.server.asked().len();
    let kept = texts(&cached(&setup, &path, CacheMode::Live), &requests);
    assert_eq!(setup.server.asked().len(), n_asked, "every reply is kept");
    for (i, text) in seen.iter().flatten() {
        let others = seen.iter().flatten().filter(|(other, _)| other == i);
        assert!(*text == kept[*i] || others.clone().any(|(_, other)| *other == kept[*i]), "{i}: {text}");
    }
}

#[test]
fn two_at_once_share_the_file_and_see_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let setup = setup(vec![Act::Count], |_| {});
    let requests: Vec<ChatRequest> = (0..20).map(|i| request(&i.to_string())).collect();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| texts(&cached(&setup, &path, CacheMode::Live), &requests));
        }
    });
    let cache = ReplyCache::open(&path).unwrap();
    assert_eq!(cache.len().unwrap(), 20);
    let n_asked = setup.server.asked().len();
    let [one, other] = [0, 1].map(|_| texts(&cached(&setup, &path, CacheMode::Live), &requests));
    assert_eq!(one, other);
    assert_eq!(setup.server.asked().len(), n_asked);
}

#[test]
fn the_file_holds_no_key_and_other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let setup = setup(vec![says(&format!("You sent Bearer {KEY}. [[5]]"))], |_| {});
    let found = texts(&cached(&setup, &path, CacheMode::Live), &[request("x")]);
    assert_eq!(found, ["You sent Bearer [key]. [[5]]"]);
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()));
    }
    let other = folder.path().join("other");
    std::fs::write(&other, "no database at all, but long enough to be looked at ".repeat(20)).unwrap();
    let error = ReplyCache::open(&other).unwrap_err();
    assert!(error.to_string().contains("other"), "{error}");
    let newer = folder.path().join("newer");
    let connection = rusqlite::Connection::open(&newer).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = ReplyCache::open(&newer).unwrap_err();
    assert!(matches!(error, ClientError::CacheVersion { found: 99, expected: 1, .. }), "{error}");
}

#[test]
fn many_connections_that_open_a_new_file_at_once_all_get_it() {
    const N_CONNECTIONS: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    for round in 0..30 {
        let path = folder.path().join(round.to_string());
        let begin = std::sync::Barrier::new(N_CONNECTIONS);
        std::thread::scope(|scope| {
            for _ in 0..N_CONNECTIONS {
                scope.spawn(|| {
                    begin.wait();
                    // Dropped at once: the last connection that closes removes the write-ahead file while others open
                    // it.
                    assert!(ReplyCache::open(&path).unwrap().is_empty().unwrap());
                });
            }
        });
    }
}

#[test]
fn a_file_whose_mode_cannot_be_switched_yet_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| ReplyCache::open(&path).map(|cache| cache.len().unwrap()));
        std::thread::sleep(std::time::Duration::from_millis(200));
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(opening.join().unwrap().unwrap(), 0);
    });
}
