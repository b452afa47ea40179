//! Language models that answer by a rule.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use truing_ask::OpenChatModel;
use truing_client::{CacheMode, CachedChat, Clock, Counts, Fingerprint, ReplyCache};
use truing_types::{ChatError, ChatModel, ChatReply, ChatRequest, FinishReason};

type Rule = Arc<Mutex<dyn Fn(&str) -> Result<String, ChatError> + Send>>;

/// Answers a request's last turn by a rule, and keeps what it was asked.
#[derive(Clone)]
pub(crate) struct Scripted {
    rule: Rule,
    finish_reason: FinishReason,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    pub(crate) fn new(rule: impl Fn(&str) -> Result<String, ChatError> + Send + 'static) -> Self {
        Self {
            rule: Arc::new(Mutex::new(rule)),
            finish_reason: FinishReason::EndOfTurn,
            asked: Arc::default(),
        }
    }

    pub(crate) fn says(text: &'static str) -> Self {
        Self::new(move |_| Ok(text.to_owned()))
    }

    pub(crate) fn fails() -> Self {
        Self::new(|_| Err(ChatError::Failed("the server is down".into())))
    }

    /// A server that refuses everything.
    pub(crate) fn refuses(words: &'static str) -> Self {
        Self::new(move |_| Err(ChatError::Refused(words.into())))
    }

    /// Every reply is cut at its limit.
    pub(crate) fn cut(text: &'static str) -> Self {
        Self { finish_reason: FinishReason::Length, ..Self::says(text) }
    }

    /// What it would say, without being asked.
    pub(crate) fn answer(&self, text: &str) -> Result<String, ChatError> {
        (self.rule.lock().unwrap())(text)
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn open(&self) -> OpenChatModel {
        OpenChatModel { model: Box::new(self.clone()), counts: Arc::default() }
    }

    /// The same behind a cache.
    pub(crate) fn cached(&self, path: &Path) -> OpenChatModel {
        let counts: Arc<Counts> = Arc::default();
        let fingerprint = Fingerprint { model: "scripted".into(), extra: serde_json::Map::new() };
        let cache = Arc::new(ReplyCache::open(path).unwrap());
        let (clock, model) = (Arc::new(Stopped), Box::new(self.clone()));
        let model = CachedChat::new(model, fingerprint, cache, CacheMode::Live, clock, Arc::clone(&counts));
        OpenChatModel { model: Box::new(model), counts }
    }
}

impl ChatModel for Scripted {
    fn chat(
        &self,
        request: &ChatRequest,
        _: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        let text = request.conversation.messages.last().unwrap().content.clone();
        let reply = (self.rule.lock().unwrap())(&text);
        self.asked.lock().unwrap().push(text);
        let finish_reason = self.finish_reason;
        Ok(ChatReply { text: reply?, finish_reason, ..ChatReply::default() })
    }
}

/// A clock that stands still.
pub(crate) struct Stopped;

impl Clock for Stopped {
    fn unix_secs(&self) -> f64 {
        0.0
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
