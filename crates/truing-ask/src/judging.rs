//! What stages share that ask judges: one judge's calls with their failures counted, and why there is no answer.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use truing_client::Counts;
use truing_reward::asking::{NoAnswer, ask_readable};
use truing_run::RunError;
use truing_run::checks::require_distinct;
use truing_types::{ChatError, ChatModel, ChatRequest, ChatResult, Event, EventSink};

use crate::{AskError, ChatModelConfig, OpenChatModel};

/// Bytes of a token, for estimates.
pub const BYTES_PER_TOKEN: u64 = 4;

/// Why there is no answer where a judge was given up.
pub const NOT_ASKED: &str = "skipped after too many consecutive failures";

/// How a judge is asked.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Replies to one request until one can be read.
    pub max_attempts: usize,
    /// Failures in a row after which a judge is asked no more.
    pub max_failures_in_a_row: usize,
}

/// One judge at work. Where it keeps failing, or cannot be read, it is given up; where it refuses everything, the run
/// ends.
pub struct JudgeSession<'a> {
    retries: RetryPolicy,
    /// In its words, why every further request would fail.
    refusal: Option<String>,
    events: &'a mut dyn EventSink,
    n_done: u64,
    n_failed_in_a_row: usize,
    n_unread_in_a_row: usize,
}

impl<'a> JudgeSession<'a> {
    fn new(retries: RetryPolicy, events: &'a mut dyn EventSink) -> Self {
        Self { retries, refusal: None, events, n_done: 0, n_failed_in_a_row: 0, n_unread_in_a_row: 0 }
    }

    /// Whether the judge is asked no more.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.n_failed_in_a_row.max(self.n_unread_in_a_row) >= self.retries.max_failures_in_a_row
    }

    /// Whether the judge refuses everything.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// Takes down whether the judge could be read on one thing.
    pub fn was_read(&mut self, is_read: bool) {
        self.n_unread_in_a_row = if is_read { 0 } else { self.n_unread_in_a_row + 1 };
    }

    /// Asks some requests; `read` is given a request's place and the reply.
    pub fn ask<V>(
        &mut self,
        model: &dyn ChatModel,
        requests: Vec<ChatRequest>,
        reminder: &str,
        read: impl Fn(usize, &str) -> Option<V>,
    ) -> Vec<Result<V, NoAnswer>> {
        let max_attempts = self.retries.max_attempts;
        let mut on_result = |_: usize, result: &ChatResult, is_final: bool| self.note(result, is_final);
        ask_readable(model, requests, max_attempts, reminder, read, &mut on_result)
    }

    /// Counts a result, and whether it is the final one of its request. Stops where further requests are pointless.
    fn note(&mut self, result: &ChatResult, is_final: bool) -> ControlFlow<()> {
        if let Err(error) = result
            && error.is_permanent()
        {
            self.refusal.get_or_insert_with(|| error.reason());
            return ControlFlow::Break(());
        }
        self.n_failed_in_a_row = if result.is_ok() { 0 } else { self.n_failed_in_a_row + 1 };
        self.n_done += u64::from(is_final);
        self.events.emit(Event::Progress { done: self.n_done, note: String::new() });
        if self.n_failed_in_a_row >= self.retries.max_failures_in_a_row {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Lets the judges do their parts one after the other, `ask(judge, model, at work)`; `None` once one is stopped.
/// `n_calls` is the number of requests to each judge, for progress.
///
/// # Errors
/// When a judge refuses everything: its key, account or model, or every request. What was answered is kept.
pub fn ask_each<T>(
    judges: &[OpenChatModel],
    names: &[String],
    n_calls: &[u64],
    retries: RetryPolicy,
    events: &mut dyn EventSink,
    mut ask: impl FnMut(usize, &dyn ChatModel, &mut JudgeSession<'_>) -> Option<T>,
) -> Result<Option<Vec<T>>, AskError> {
    let mut found = Vec::with_capacity(judges.len());
    for (judge, (open, name)) in judges.iter().zip(names).enumerate() {
        let total = n_calls.get(judge).copied();
        events.emit(Event::PhaseStarted { phase: format!("asking {name}"), total });
        let mut session = JudgeSession::new(retries, events);
        let of_one = ask(judge, open.model.as_ref(), &mut session);
        let refusal = session.refusal.take();
        events.emit(Event::PhaseFinished);
        note_counts(name, &open.counts, events);
        if let Some(reason) = refusal {
            return Err(AskError::Refused { name: name.clone(), reason });
        }
        let Some(of_one) = of_one else { return Ok(None) };
        found.push(of_one);
    }
    Ok(Some(found))
}

/// A model that is asked in several phases, whose failures are counted anew in each. A model that keeps failing is
/// asked no more in that phase.
#[derive(Debug)]
pub struct Asker<'a> {
    name: &'a str,
    open: &'a OpenChatModel,
    retries: RetryPolicy,
}

impl<'a> Asker<'a> {
    /// A model under the name that messages call it by.
    #[must_use]
    pub fn new(name: &'a str, open: &'a OpenChatModel, retries: RetryPolicy) -> Self {
        Self { name, open, retries }
    }

    /// Asks everything of one phase; `read` is given a request's place and the reply.
    ///
    /// # Errors
    /// When the model refuses every request. What was answered is kept.
    pub fn ask<V>(
        &self,
        phase: &str,
        requests: Vec<ChatRequest>,
        reminder: &str,
        read: impl Fn(usize, &str) -> Option<V>,
        events: &mut dyn EventSink,
    ) -> Result<Vec<Result<V, NoAnswer>>, AskError> {
        let model = self.open.model.as_ref();
        self.in_phase(phase, requests, events, |session, requests| {
            session.ask(model, requests, reminder, read)
        })
    }

    /// Replies of one phase as they are, those that are cut at their limit too.
    ///
    /// # Errors
    /// When the model refuses every request. What was answered is kept.
    pub fn replies(
        &self,
        phase: &str,
        requests: Vec<ChatRequest>,
        events: &mut dyn EventSink,
    ) -> Result<Vec<ChatResult>, AskError> {
        self.replies_in_parts(phase, requests, &|_| usize::MAX, events)
    }

    /// As [`replies`](Self::replies), one part of the requests after the other: `n_next` is given the results so far,
    /// and says how many of the requests after them are sent together. With 0 the phase ends, and the rest is
    /// [`ChatError::BrokenOff`]. Which requests are sent does not depend on the order in which replies arrive.
    ///
    /// # Errors
    /// When the model refuses every request. What was answered is kept.
    pub fn replies_in_parts(
        &self,
        phase: &str,
        requests: Vec<ChatRequest>,
        n_next: &dyn Fn(&[ChatResult]) -> usize,
        events: &mut dyn EventSink,
    ) -> Result<Vec<ChatResult>, AskError> {
        let model = self.open.model.as_ref();
        self.in_phase(phase, requests, events, |session, requests| {
            let mut results: Vec<ChatResult> = Vec::with_capacity(requests.len());
            loop {
                let rest = &requests[results.len()..];
                let part = &rest[..n_next(&results).min(rest.len())];
                if part.is_empty() {
                    break;
                }
                let replies = model.chat_all(part, &mut |_, result| session.note(result, true));
                let is_broken_off = replies.iter().any(|reply| matches!(reply, Err(ChatError::BrokenOff)));
                results.extend(replies);
                if is_broken_off || session.is_given_up() || session.is_refused() {
                    break;
                }
            }
            results.resize_with(requests.len(), || Err(ChatError::BrokenOff));
            results
        })
    }

    fn in_phase<T>(
        &self,
        phase: &str,
        requests: Vec<ChatRequest>,
        events: &mut dyn EventSink,
        ask: impl FnOnce(&mut JudgeSession<'_>, Vec<ChatRequest>) -> Vec<T>,
    ) -> Result<Vec<T>, AskError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        events.emit(Event::PhaseStarted { phase: phase.to_owned(), total: Some(requests.len() as u64) });
        let mut session = JudgeSession::new(self.retries, events);
        let answers = ask(&mut session, requests);
        let refusal = session.refusal.take();
        events.emit(Event::PhaseFinished);
        match refusal {
            Some(reason) => Err(AskError::Refused { name: self.name.to_owned(), reason }),
            None => Ok(answers),
        }
    }

    /// The same model with another number of replies to one request.
    #[must_use]
    pub fn with_replies(&self, max_attempts: usize) -> Self {
        Self { name: self.name, open: self.open, retries: RetryPolicy { max_attempts, ..self.retries } }
    }

    /// Reports the number of requests to the model.
    pub fn note_counts(&self, events: &mut dyn EventSink) {
        note_counts(self.name, &self.open.counts, events);
    }
}

/// Judges without a cache share one in the run's folder.
pub fn share_cache<'a>(models: impl Iterator<Item = &'a mut ChatModelConfig>, output_dir: &Path) {
    for model in models.filter(|_| cfg!(feature = "cache")) {
        model.cache.get_or_insert_with(|| output_dir.join("replies.sqlite"));
    }
}

/// Reports the number of requests to a model that is called `name`.
pub fn note_counts(name: &str, counts: &Counts, events: &mut dyn EventSink) {
    let counts = counts.snapshot();
    events.emit(Event::Note(format!(
        "{name}: {} calls, {} replies from the cache, {} retries, {} + {} tokens, {} failures",
        counts.calls,
        counts.cache_hits,
        counts.retries,
        counts.prompt_tokens,
        counts.completion_tokens,
        counts.n_failures()
    )));
}

/// Kinds of failure to be counted; what differs from call to call is left out. `expected` is what a reply should hold.
#[must_use]
pub fn reason(error: &NoAnswer, expected: &str) -> String {
    match error {
        NoAnswer::Failed(ChatError::BrokenOff) => NOT_ASKED.into(),
        NoAnswer::Failed(error) => error.to_string(),
        NoAnswer::Unreadable { .. } => format!("replies without {expected} in the requested form"),
        NoAnswer::Cut { .. } => format!("{error}; `max_new_tokens` is the limit"),
        NoAnswer::Missing(reason) => reason.clone(),
    }
}

/// The most frequent reasons with their counts.
#[must_use]
pub fn main_reasons(reasons: &BTreeMap<String, usize>) -> String {
    const MOST: usize = 3;
    let mut sorted: Vec<(&String, usize)> = reasons.iter().map(|(reason, &n)| (reason, n)).collect();
    sorted.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    let listed = sorted.iter().take(MOST).map(|(reason, n)| format!("{reason} ({n})"));
    let rest: usize = sorted.iter().skip(MOST).map(|(_, n)| n).sum();
    let rest = (rest > 0).then(|| format!("other reasons ({rest})"));
    listed.chain(rest).collect::<Vec<_>>().join("; ")
}

/// Whether a judge that was asked so much left half of it, or more, unanswered.
#[must_use]
pub fn is_half_unanswered(n_answered: usize, n_unanswered: usize) -> bool {
    n_unanswered > 0 && n_unanswered >= n_answered
}

/// The most frequent reason that says something.
#[must_use]
pub fn main_reason(reasons: &BTreeMap<String, usize>) -> &str {
    let main = reasons.iter().max_by_key(|(reason, n)| (reason.as_str() != NOT_ASKED, **n));
    main.map_or("", |(reason, _)| reason)
}

/// Judges are distinguished by their names.
///
/// # Errors
/// When two have the same.
pub fn check_names(names: &[String]) -> Result<(), RunError> {
    require_distinct("judge.name", names)
}
