//! Language models that are asked the same several times, and answer by a rule.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use truing_ask::OpenChatModel;
use truing_client::{CacheMode, CachedChat, Counts, Fingerprint, ReplyCache};
use truing_types::{ChatError, ChatModel, ChatReply, ChatRequest, FinishReason};

use crate::scripted::Stopped;

/// The text of a request's last turn and how often it was asked before; the reply.
type Rule = dyn Fn(&str, usize) -> Result<ChatReply, ChatError> + Send + Sync;

/// Answers by a rule, and keeps what it was asked.
#[derive(Clone)]
pub(crate) struct Scripted {
    rule: Arc<Rule>,
    asked: Arc<Mutex<Vec<(String, u64)>>>,
}

/// A whole reply of one token.
pub(crate) fn says(text: &str) -> Result<ChatReply, ChatError> {
    Ok(ChatReply { text: text.into(), n_prompt_tokens: 5, n_completion_tokens: 1, ..ChatReply::default() })
}

/// A reply that was cut at its limit.
pub(crate) fn cut(text: &str) -> Result<ChatReply, ChatError> {
    Ok(ChatReply { text: text.into(), finish_reason: FinishReason::Length, ..ChatReply::default() })
}

impl Scripted {
    pub(crate) fn new(
        rule: impl Fn(&str, usize) -> Result<ChatReply, ChatError> + Send + Sync + 'static,
    ) -> Self {
        Self { rule: Arc::new(rule), asked: Arc::default() }
    }

    /// The replies to each prompt, in their order.
    pub(crate) fn of(script: &'static [(&'static str, &'static [&'static str])]) -> Self {
        let script: BTreeMap<&str, &[&str]> = script.iter().copied().collect();
        Self::new(move |text, n_before| says(script[text][n_before]))
    }

    /// What was asked and with which seed, in order.
    pub(crate) fn asked(&self) -> Vec<(String, u64)> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn open(&self) -> OpenChatModel {
        OpenChatModel { model: Box::new(self.clone()), counts: Arc::default() }
    }

    /// The same behind a cache.
    pub(crate) fn cached(&self, path: &Path) -> OpenChatModel {
        cached(Box::new(self.clone()), path)
    }
}

/// A model behind a cache.
pub(crate) fn cached(model: Box<dyn ChatModel>, path: &Path) -> OpenChatModel {
    let counts: Arc<Counts> = Arc::default();
    let fingerprint = Fingerprint { model: "scripted".into(), extra: serde_json::Map::new() };
    let cache = Arc::new(ReplyCache::open(path).unwrap());
    let clock = Arc::new(Stopped);
    let model = CachedChat::new(model, fingerprint, cache, CacheMode::Live, clock, Arc::clone(&counts));
    OpenChatModel { model: Box::new(model), counts }
}

impl ChatModel for Scripted {
    fn chat(
        &self,
        request: &ChatRequest,
        _: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        let text = request.conversation.messages.last().unwrap().content.clone();
        let mut asked = self.asked.lock().unwrap();
        let n_before = asked.iter().filter(|(earlier, _)| *earlier == text).count();
        let reply = (self.rule)(&text, n_before);
        asked.push((text, request.sampling.seed));
        reply
    }
}
