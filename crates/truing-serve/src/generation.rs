//! A request for completions on its way: what the worker sends, the time that is left, and that nobody computes for a
//! client who has left.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use truing_generate::{Job, SampledCompletion};
use truing_text::Tokenizer;
use truing_types::{FinishReason, TokenId};

use crate::error::ApiError;
use crate::model::{HeldWeights, ModelEntry};
use crate::state::{Server, Slot};
use crate::usage::Usage;
use crate::worker::{Command, Event, TokenEvent};

/// How often a request looks whether the server gives it up.
const STOP_CHECK: Duration = Duration::from_millis(200);

/// Cancels the request when dropped, if it has not ended.
struct CancelOnDrop {
    model: usize,
    id: u64,
    commands: Sender<Command>,
    is_over: bool,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if !self.is_over {
            // A worker that is gone computes nothing.
            let _ = self.commands.send(Command::Cancel { model: self.model, id: self.id });
        }
    }
}

/// A request for completions on its way.
pub(crate) struct Generation {
    pub(crate) server: Arc<Server>,
    pub(crate) model: usize,
    events: UnboundedReceiver<Event>,
    cancel: CancelOnDrop,
    _slot: Arc<Slot>,
    /// After `cancel`, so that an update finds nothing of a request that has left.
    pub(crate) weights: Arc<HeldWeights>,
    pub(crate) n_left: usize,
    pub(crate) started: Duration,
    pub(crate) last_token: Option<Duration>,
    pub(crate) usage: Usage,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    Token(TokenEvent),
    Finished { sample_idx: usize, completion: SampledCompletion },
}

impl Generation {
    /// Begins completions.
    pub(crate) fn begin(
        server: &Arc<Server>,
        model: &ModelEntry,
        job: Job,
        slot: Arc<Slot>,
        weights: Arc<HeldWeights>,
    ) -> Result<Self, ApiError> {
        let (sender, events) = unbounded_channel();
        let id = server.next_request();
        let usage = Usage { prompt_tokens: job.prompt.len(), ..Usage::default() };
        let n_left = job.n_samples;
        let commands = server.commands.clone();
        let cancel = CancelOnDrop { model: model.idx, id, commands, is_over: false };
        server.send(Command::Generate { model: model.idx, id, job, events: sender })?;
        Ok(Self {
            server: Arc::clone(server),
            model: model.idx,
            events,
            cancel,
            _slot: slot,
            weights,
            n_left,
            started: server.elapsed(),
            last_token: None,
            usage,
        })
    }

    /// The id of its request.
    pub(crate) fn id(&self) -> u64 {
        self.cancel.id
    }

    /// What happens next; `None` once every completion has ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Next>, ApiError> {
        if self.n_left == 0 {
            return Ok(None);
        }
        let limits = &self.server.options;
        let spent = self.server.elapsed().saturating_sub(self.started);
        let left = limits.request_timeout.saturating_sub(spent);
        // Events that are there already do not make up for the time.
        let event = match left.is_zero() {
            true => None,
            false => tokio::select! {
                event = self.events.recv() => Some(event),
                () = tokio::time::sleep(left) => None,
                () = given_up(&self.server) => {
                    return Err(ApiError::with_status(503, "the server is shutting down"));
                }
            },
        };
        let Some(event) = event else {
            let seconds = limits.request_timeout.as_secs_f64();
            return Err(ApiError::with_status(504, format!("not finished within {seconds} seconds")));
        };
        let now = self.server.elapsed();
        match event {
            None => Err(ApiError::with_status(500, "the engine has stopped")),
            Some(Event::Token(token)) => {
                self.usage.completion_tokens += 1;
                let metrics = &self.server.metrics;
                match self.last_token {
                    None => {
                        let wait = now.saturating_sub(self.started).as_secs_f64();
                        self.usage.first_token_s = Some(wait);
                        metrics.first_token(self.model, wait);
                    }
                    Some(last) => metrics.next_token(self.model, now.saturating_sub(last).as_secs_f64()),
                }
                self.last_token = Some(now);
                Ok(Some(Next::Token(token)))
            }
            Some(Event::Finished { sample_idx, n_reused_tokens, result }) => {
                self.n_left -= 1;
                self.usage.cached_tokens = n_reused_tokens;
                let completion = match result {
                    Ok(completion) => completion,
                    Err(error) => {
                        self.cancel.is_over = true;
                        return Err(ApiError::of_generation(&error));
                    }
                };
                if let Some(error) = &completion.text_error {
                    return Err(ApiError::with_status(500, error.clone()));
                }
                self.usage.finish_reasons.push(finish_reason(completion.finish_reason));
                self.usage.drafts.add(completion.drafts);
                if self.n_left == 0 {
                    self.cancel.is_over = true;
                    self.server.metrics.finished(self.model, &self.usage, now.saturating_sub(self.started));
                }
                Ok(Some(Next::Finished { sample_idx, completion }))
            }
        }
    }
}

/// Waits until the server stops and gives up what is not finished.
async fn given_up(server: &Server) {
    loop {
        let now = server.elapsed();
        match server.give_up_at.get() {
            Some(at) if *at <= now => return,
            Some(at) => tokio::time::sleep(at.saturating_sub(now)).await,
            None => tokio::time::sleep(STOP_CHECK).await,
        }
    }
}

/// OpenAI's word for the end of a completion.
pub(crate) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::ContentFilter | FinishReason::Refusal => "content_filter",
        FinishReason::EndOfTurn | FinishReason::StopText | FinishReason::Cancelled => "stop",
    }
}

/// A token with its log-probability, as chat completions have it.
pub(crate) fn chat_log_prob(tokenizer: &Tokenizer, event: &TokenEvent) -> Value {
    let mut value = token_log_prob(tokenizer, event.token, event.log_prob);
    let top = event.top_log_probs.iter();
    let top: Vec<Value> = top.map(|&(token, log_prob)| token_log_prob(tokenizer, token, log_prob)).collect();
    value["top_logprobs"] = top.into();
    value
}

fn token_log_prob(tokenizer: &Tokenizer, token: TokenId, log_prob: f32) -> Value {
    let bytes = tokenizer.token_bytes(token).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    json!({"token": text, "logprob": json_number(log_prob), "bytes": bytes})
}

/// A token's text on its own.
pub(crate) fn token_text(tokenizer: &Tokenizer, token: TokenId) -> String {
    String::from_utf8_lossy(&tokenizer.token_bytes(token).unwrap_or_default()).into_owned()
}

/// A number of single precision as JSON; what is not finite becomes OpenAI's smallest log-probability.
pub(crate) fn json_number(value: f32) -> Value {
    const IMPOSSIBLE: f64 = -9999.0;
    if value.is_finite() { json!(value) } else { json!(IMPOSSIBLE) }
}

/// The log-probabilities of a prompt as vLLM has them: nothing for the first token, then for each token its own and the
/// most likely ones, by id.
pub(crate) fn prompt_log_probs_json(
    tokenizer: &Tokenizer,
    tokens: &[truing_predict::PromptToken],
    n_top: usize,
) -> Value {
    let one = |token: &truing_predict::PromptToken| {
        let entry = |id: TokenId, log_prob: f32, rank: usize| {
            let text = token_text(tokenizer, id);
            (id.to_string(), json!({"logprob": json_number(log_prob), "rank": rank, "decoded_token": text}))
        };
        let mut entries = serde_json::Map::new();
        entries.extend([entry(token.token, token.log_prob, token.rank)]);
        for (idx, &(id, log_prob)) in token.top.iter().take(n_top).enumerate() {
            if id != token.token {
                entries.extend([entry(id, log_prob, idx + 1)]);
            }
        }
        Value::Object(entries)
    };
    std::iter::once(Value::Null).chain(tokens.iter().map(one)).collect()
}
