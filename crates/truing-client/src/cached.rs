//! A model with a cache in front of it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use truing_store::Digest;
use truing_types::{
    ChatError, ChatModel, ChatReply, ChatRequest, ChatResult, EndpointRequest, EndpointResult, FinishReason,
    PromptLogProbs, TokenId,
};

use crate::cache::ReplyCache;
use crate::request::{Fingerprint, canonical_request};
use crate::{CacheMode, ClientError, Clock, Counts};

/// Any model, in this process or elsewhere, with a cache before it: equal requests are asked once, also by the next
/// run.
///
/// Every reply that the server gave as finished is kept, whatever it says: it is paid for, and a run that continues has
/// to see what it saw before. That includes a reply that is empty, is nothing but a thought, was cut at the request's
/// own limit, was withheld by a filter, refuses, or calls a tool. Another reply needs another request: one with another
/// seed, or with a reminder. Failures, streams that broke off, and replies that the caller cancelled are not kept.
pub struct CachedChat {
    model: Box<dyn ChatModel>,
    fingerprint: Fingerprint,
    cache: Arc<ReplyCache>,
    mode: CacheMode,
    clock: Arc<dyn Clock>,
    counts: Arc<Counts>,
}

impl std::fmt::Debug for CachedChat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { fingerprint, cache, mode, .. } = self;
        f.debug_struct("CachedChat")
            .field("model", fingerprint)
            .field("cache", cache)
            .field("mode", mode)
            .finish()
    }
}

/// A request in its canonical form.
struct Canonical {
    text: String,
    key: Digest,
}

impl CachedChat {
    /// Puts a cache before a model. `fingerprint` has to name everything beside the request that decides its replies;
    /// hits are added to `counts`.
    pub fn new(
        model: Box<dyn ChatModel>,
        fingerprint: Fingerprint,
        cache: Arc<ReplyCache>,
        mode: CacheMode,
        clock: Arc<dyn Clock>,
        counts: Arc<Counts>,
    ) -> Self {
        Self { model, fingerprint, cache, mode, clock, counts }
    }

    fn canonical(&self, request: &ChatRequest) -> Canonical {
        let text = canonical_request(&self.fingerprint, request);
        Canonical { key: Digest::of_bytes(text.as_bytes()), text }
    }

    /// What the cache has; an error where it alone may answer and cannot.
    fn look_up(&self, canonical: &Canonical) -> Result<Option<ChatReply>, ClientError> {
        let found = match self.mode {
            CacheMode::Record => None,
            CacheMode::Live | CacheMode::Replay => self.cache.get(&canonical.key)?,
        };
        match (found, self.mode) {
            (Some(reply), _) => {
                self.counts.add(|counts| counts.cache_hits += 1);
                Ok(Some(reply))
            }
            (None, CacheMode::Replay) => Err(ClientError::NotRecorded {
                path: self.cache.path().to_path_buf(),
                model: self.fingerprint.model.clone(),
                key: canonical.key.to_string(),
            }),
            (None, _) => Ok(None),
        }
    }
}

/// Keeps a reply before anybody sees it; a reply that could not be kept is a failure, or a resumed run would pay for it
/// again without a word.
fn keep(
    cache: &ReplyCache,
    model: &str,
    canonical: &Canonical,
    result: &ChatResult,
    unix_secs: f64,
    mode: CacheMode,
) -> Result<(), ClientError> {
    match result {
        Ok(reply) if reply.finish_reason == FinishReason::Cancelled => Ok(()),
        Ok(reply) => cache.put(&canonical.key, model, &canonical.text, reply, unix_secs, mode),
        Err(_) => Ok(()),
    }
}

impl ChatModel for CachedChat {
    fn chat(
        &self,
        request: &ChatRequest,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        let canonical = self.canonical(request);
        if let Some(reply) = self.look_up(&canonical).map_err(ChatError::from)? {
            let _ = on_text(&reply.text);
            return Ok(reply);
        }
        let result = self.model.chat(request, on_text);
        let now = self.clock.unix_secs();
        keep(&self.cache, &self.fingerprint.model, &canonical, &result, now, self.mode)
            .map_err(ChatError::from)?;
        result
    }

    fn chat_all(
        &self,
        requests: &[ChatRequest],
        on_result: &mut dyn FnMut(usize, &ChatResult) -> ControlFlow<()>,
    ) -> Vec<ChatResult> {
        let canonical: Vec<Canonical> = requests.iter().map(|request| self.canonical(request)).collect();
        let mut results: Vec<Option<ChatResult>> = Vec::new();
        results.resize_with(requests.len(), || None);
        let mut flow = ControlFlow::Continue(());
        // Places of equal requests, by key; the first of each is asked.
        let mut places: HashMap<Digest, Vec<usize>> = HashMap::new();
        let mut asked: Vec<usize> = Vec::new();
        for (place, canonical) in canonical.iter().enumerate() {
            let found = match places.get_mut(&canonical.key) {
                Some(equal) => {
                    equal.push(place);
                    continue;
                }
                None => self.look_up(canonical).map_err(ChatError::from).transpose(),
            };
            match found {
                Some(result) => {
                    if flow.is_continue() {
                        flow = on_result(place, &result);
                    }
                    results[place] = Some(result);
                }
                None => {
                    places.insert(canonical.key, vec![place]);
                    asked.push(place);
                }
            }
        }
        if flow.is_break() {
            return results.into_iter().map(|result| result.unwrap_or(Err(ChatError::BrokenOff))).collect();
        }
        let misses: Vec<ChatRequest> = asked.iter().map(|&place| requests[place].clone()).collect();
        let Self { model, fingerprint, cache, mode, clock, counts } = self;
        let mut not_kept: HashMap<usize, ClientError> = HashMap::new();
        let replies = model.chat_all(&misses, &mut |miss, result| {
            let (place, canonical) = (asked[miss], &canonical[asked[miss]]);
            let kept = keep(cache, &fingerprint.model, canonical, result, clock.unix_secs(), *mode);
            let flow = on_result(place, result);
            match kept {
                Ok(()) => flow,
                // Nothing more is paid for that cannot be kept.
                Err(error) => {
                    not_kept.insert(miss, error);
                    ControlFlow::Break(())
                }
            }
        });
        for (miss, result) in replies.into_iter().enumerate() {
            let result = not_kept.remove(&miss).map_or(result, |error| Err(error.into()));
            let place = asked[miss];
            for &equal in places[&canonical[place].key].iter().skip(1) {
                let copied = match &result {
                    Ok(reply) => {
                        counts.add(|counts| counts.cache_hits += 1);
                        Ok(reply.clone())
                    }
                    Err(error) => Err(error.repeated()),
                };
                // Everything is asked already: there is nothing left to break off.
                let _ = on_result(equal, &copied);
                results[equal] = Some(copied);
            }
            results[place] = Some(result);
        }
        results.into_iter().map(|result| result.unwrap_or(Err(ChatError::BrokenOff))).collect()
    }

    /// Not cached: such an answer is as large as it is seldom asked for again.
    fn prompt_log_probs_all(
        &self,
        texts: &[Vec<TokenId>],
        k: usize,
    ) -> Vec<Result<PromptLogProbs, ChatError>> {
        self.model.prompt_log_probs_all(texts, k)
    }

    /// Not cached: what an endpoint does is unknown.
    fn post_all(
        &self,
        requests: &[EndpointRequest],
        on_result: &mut dyn FnMut(usize, &EndpointResult) -> ControlFlow<()>,
    ) -> Vec<EndpointResult> {
        self.model.post_all(requests, on_result)
    }
}
