//! Judges that answer by a rule.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use truing_ask::OpenChatModel;
use truing_ask::preference::Aspect;
use truing_client::{CacheMode, CachedChat, Counts, Fingerprint, ReplyCache};
use truing_types::{ChatError, ChatModel, ChatReply, ChatRequest};

use crate::scripted::Stopped;

type Rule = Arc<dyn Fn(&str, u64) -> Result<String, ChatError> + Send + Sync>;

/// Answers the first turn of a request and its seed by a rule, and keeps what it was asked.
#[derive(Clone)]
pub(crate) struct Judge {
    rule: Rule,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Judge {
    pub(crate) fn new(rule: impl Fn(&str, u64) -> Result<String, ChatError> + Send + Sync + 'static) -> Self {
        Self { rule: Arc::new(rule), asked: Arc::default() }
    }

    pub(crate) fn says(text: &'static str) -> Self {
        Self::new(move |_, _| Ok(text.to_owned()))
    }

    /// Rates every aspect by the quality that the response states, and prefers the better one.
    pub(crate) fn good() -> Self {
        Self::new(|question, _| Ok(good_reply(question)))
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
        let fingerprint = Fingerprint { model: "judge".into(), extra: serde_json::Map::new() };
        let cache = Arc::new(ReplyCache::open(path).unwrap());
        let (clock, model) = (Arc::new(Stopped), Box::new(self.clone()));
        let model = CachedChat::new(model, fingerprint, cache, CacheMode::Live, clock, Arc::clone(&counts));
        OpenChatModel { model: Box::new(model), counts }
    }
}

impl ChatModel for Judge {
    fn chat(
        &self,
        request: &ChatRequest,
        _: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        let question = request.conversation.messages[0].content.clone();
        let text = (self.rule)(&question, request.sampling.seed);
        self.asked.lock().unwrap().push(question);
        Ok(ChatReply { text: text?, ..ChatReply::default() })
    }
}

/// The quality that a text between two tags states.
pub(crate) fn quality(question: &str, tag: &str) -> u8 {
    let after = question.split(&format!("<{tag}>\nquality ")).nth(1).unwrap();
    after.chars().next().unwrap().to_digit(10).unwrap() as u8
}

pub(crate) fn good_reply(question: &str) -> String {
    if question.contains("<response_a>") {
        return match quality(question, "response_a").cmp(&quality(question, "response_b")) {
            std::cmp::Ordering::Greater => "[[A]]".into(),
            std::cmp::Ordering::Less => "[[B]]".into(),
            std::cmp::Ordering::Equal => "[[C]]".into(),
        };
    }
    let rating = quality(question, "response");
    if question.contains("<reference>") {
        let (result, chain) = (rating >= 3, rating == 5);
        return format!("{{\"same_result\": {result}, \"same_chain\": {chain}, \"rating\": {rating}}}");
    }
    ratings(rating)
}

pub(crate) fn ratings(rating: u8) -> String {
    let ratings = Aspect::BUILT_IN.map(|aspect| format!("\"{aspect}\": {rating}"));
    format!("{{\"reason\": \"It says so.\", {}}}", ratings.join(", "))
}
