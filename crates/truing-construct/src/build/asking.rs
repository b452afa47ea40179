//! Calls of the writer and the checker.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use truing_ask::judging::{Asker, reason};
use truing_ask::pas::questions::request;
use truing_stages::StageError;
use truing_types::{ChatRequest, EventSink, Message, Role, SamplingOptions};

use super::config::BuildConfig;

/// One question to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The system message, where there is one.
    pub system: Option<String>,
    /// The user's turn.
    pub text: String,
    /// Added to the recipe's seed, so that the same question can have several answers.
    pub variation: u64,
}

impl Question {
    /// A question without a system message.
    #[must_use]
    pub fn new(text: String, variation: u64) -> Self {
        Self { system: None, text, variation }
    }
}

/// The models of a run. Both answer many questions of one phase at a time.
pub struct Asking<'a> {
    pub(super) config: &'a BuildConfig,
    pub(super) writer: Asker<'a>,
    /// `None` where the writer is its own checker.
    pub(super) checker: Option<Asker<'a>>,
    /// What starts the sandbox, for builders that run programs.
    pub(super) sandbox_program: Option<&'a Path>,
    pub(super) stop: &'a AtomicBool,
    pub(super) events: &'a mut dyn EventSink,
}

impl std::fmt::Debug for Asking<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asking").field("writer", &self.writer).finish_non_exhaustive()
    }
}

impl Asking<'_> {
    /// Whether the run is to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Asks the writer, at the recipe's temperature. `form` names what a reply holds, for reasons, and has the reminder
    /// that follows a reply without it.
    ///
    /// # Errors
    /// When the model refuses every request.
    pub fn write<V>(
        &mut self,
        phase: &str,
        questions: Vec<Question>,
        form: (&str, &str),
        read: impl Fn(usize, &str) -> Option<V>,
    ) -> Result<Vec<Result<V, String>>, StageError> {
        let config = self.config;
        let requests = questions.into_iter().map(|question| sampled(config, question));
        ask(&self.writer, phase, requests.collect(), form, read, &mut *self.events)
    }

    /// Asks the checker, at temperature 0.
    ///
    /// # Errors
    /// When the model refuses every request.
    pub fn check<V>(
        &mut self,
        phase: &str,
        texts: Vec<String>,
        form: (&str, &str),
        read: impl Fn(usize, &str) -> Option<V>,
    ) -> Result<Vec<Result<V, String>>, StageError> {
        let config = self.config;
        let requests = texts.into_iter().map(|text| request(text, sampling(config)));
        let checker = self.checker.as_ref().unwrap_or(&self.writer);
        ask(checker, phase, requests.collect(), form, read, &mut *self.events)
    }

    /// Asks the checker at the recipe's temperature, for answers of which there may be several to one question.
    ///
    /// # Errors
    /// When the model refuses every request.
    pub fn answer<V>(
        &mut self,
        phase: &str,
        questions: Vec<Question>,
        form: (&str, &str),
        read: impl Fn(usize, &str) -> Option<V>,
    ) -> Result<Vec<Result<V, String>>, StageError> {
        let config = self.config;
        let requests = questions.into_iter().map(|question| sampled(config, question));
        let checker = self.checker.as_ref().unwrap_or(&self.writer);
        ask(checker, phase, requests.collect(), form, read, &mut *self.events)
    }

    /// Reports the number of requests to each model.
    pub(super) fn note_counts(&mut self) {
        self.writer.note_counts(&mut *self.events);
        if let Some(checker) = &self.checker {
            checker.note_counts(&mut *self.events);
        }
    }
}

/// Asks a model, and says in words why there is no answer.
fn ask<V>(
    model: &Asker<'_>,
    phase: &str,
    requests: Vec<ChatRequest>,
    (expected, reminder): (&str, &str),
    read: impl Fn(usize, &str) -> Option<V>,
    events: &mut dyn EventSink,
) -> Result<Vec<Result<V, String>>, StageError> {
    let answers = model.ask(phase, requests, reminder, read, events)?;
    Ok(answers.into_iter().map(|answer| answer.map_err(|error| reason(&error, expected))).collect())
}

/// A request at the recipe's temperature, with a seed of its own.
fn sampled(config: &BuildConfig, question: Question) -> ChatRequest {
    let seed = config.seed.wrapping_add(question.variation);
    let sampling = SamplingOptions { temperature: config.temperature, seed, ..sampling(config) };
    let mut request = request(question.text, sampling);
    if let Some(system) = question.system {
        request.conversation.messages.insert(0, Message::new(Role::System, system));
    }
    request
}

fn sampling(config: &BuildConfig) -> SamplingOptions {
    SamplingOptions { max_new_tokens: config.max_new_tokens, ..SamplingOptions::default() }
}
