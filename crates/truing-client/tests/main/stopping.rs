//! A process that stops does not wait for a silent server.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use truing_client::{CacheMode, CachedChat, ClientError, Clock, OpenAiClient, ReplyCache};
use truing_types::{ChatError, ChatModel, ChatRequest};

use crate::server::{Act, JumpingClock, Server, Setup, request, says, setup};

/// Sets the stop flag once the server has received so many requests.
fn stop_at(clock: &Arc<JumpingClock>, server: &Server, n_asked: usize) {
    let (clock, server) = (Arc::clone(clock), server.clone());
    std::thread::spawn(move || {
        while server.asked().len() < n_asked {
            std::thread::sleep(Duration::from_millis(5));
        }
        clock.is_stopped.store(true, Ordering::Relaxed);
    });
}

fn cached(client: &OpenAiClient, clock: &Arc<JumpingClock>, cache: &Arc<ReplyCache>) -> CachedChat {
    let clock: Arc<dyn Clock> = clock.clone();
    let counts = client.counts();
    CachedChat::new(
        Box::new(client.clone()),
        client.fingerprint(),
        Arc::clone(cache),
        CacheMode::Live,
        clock,
        counts,
    )
}

#[test]
fn a_silent_server_is_left_within_seconds() {
    for act in [Act::SlowHeaders, Act::SlowBody("{\"choices\"".into())] {
        let setup = setup(vec![act], |_| {});
        stop_at(&setup.clock, &setup.server, 1);
        let error = setup.ask().unwrap_err();
        // A wait to the end of the request's own time limit is another error.
        assert!(matches!(error, ClientError::Interrupted { .. }), "{error}");
        assert_eq!(setup.server.asked().len(), 1);
        // Nothing more is sent.
        assert!(matches!(setup.ask().unwrap_err(), ClientError::Interrupted { .. }));
        assert_eq!(setup.server.asked().len(), 1);
    }
}

/// A reply that is under way is paid for: it has some seconds to come, and the next run finds it in the cache.
#[test]
fn a_reply_that_comes_soon_after_the_stop_is_kept_and_the_silent_ones_are_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Arc::new(ReplyCache::open(&folder.path().join("replies.sqlite")).unwrap());
    let late = Act::After(Duration::from_secs(1), Box::new(says("late")));
    let Setup { server, client, clock } =
        setup(vec![says("at once"), late, Act::SlowHeaders], |settings| settings.max_concurrency = 2);
    stop_at(&clock, &server, 3);
    let requests: Vec<ChatRequest> = (0..20).map(|i| request(&i.to_string())).collect();
    let results = cached(&client, &clock, &cache).chat_all(&requests, &mut |_, _| ControlFlow::Continue(()));
    let mut texts: Vec<&str> = results.iter().flatten().map(|reply| reply.text.as_str()).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["at once", "late"]);
    let n_stopped = results.iter().filter(|result| matches!(result, Err(ChatError::BrokenOff))).count();
    assert_eq!(n_stopped, 18);
    assert_eq!(server.asked().len(), 3, "the other requests were not sent");
    assert_eq!(client.counts().snapshot().failures.len(), 0, "a stop is no failure");
    // The next run finds both.
    clock.is_stopped.store(false, Ordering::Relaxed);
    let hits: Vec<ChatRequest> = results
        .iter()
        .zip(&requests)
        .filter(|(result, _)| result.is_ok())
        .map(|(_, request)| request.clone())
        .collect();
    let again = cached(&client, &clock, &cache).chat_all(&hits, &mut |_, _| ControlFlow::Continue(()));
    assert!(again.iter().all(Result::is_ok));
    assert_eq!(server.asked().len(), 3);
}
