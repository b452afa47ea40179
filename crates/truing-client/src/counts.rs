//! What was asked, and what it cost.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use truing_types::ChatReply;

use crate::FailureKind;

/// Counts that all threads of a client, and the cache before it, add to.
#[derive(Debug, Default)]
pub struct Counts(Mutex<CountsSnapshot>);

/// The counts at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CountsSnapshot {
    /// Requests that were sent, the repeated ones included.
    pub calls: u64,
    /// Replies that came from the cache.
    pub cache_hits: u64,
    /// Requests that were sent again after a failure.
    pub retries: u64,
    /// Tokens of prompts, as the model counts them.
    pub prompt_tokens: u64,
    /// Tokens of replies, as the model counts them.
    pub completion_tokens: u64,
    /// Requests that were given up, by the kind of their last failure.
    pub failures: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// The counts now.
    #[must_use]
    pub fn snapshot(&self) -> CountsSnapshot {
        self.lock().clone()
    }

    /// Takes down the reply of a model that does not count by itself.
    pub fn add_reply(&self, reply: &ChatReply) {
        self.add(|counts| {
            counts.calls += 1;
            counts.prompt_tokens += reply.n_prompt_tokens as u64;
            counts.completion_tokens += reply.n_completion_tokens as u64;
        });
    }

    pub(crate) fn add(&self, change: impl FnOnce(&mut CountsSnapshot)) {
        change(&mut self.lock());
    }

    pub(crate) fn add_failure(&self, kind: FailureKind) {
        *self.lock().failures.entry(kind.as_str()).or_default() += 1;
    }

    /// The numbers stay consistent if a thread panics between two of them.
    fn lock(&self) -> MutexGuard<'_, CountsSnapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CountsSnapshot {
    /// Requests that were given up.
    #[must_use]
    pub fn n_failures(&self) -> u64 {
        self.failures.values().sum()
    }
}
