//! One attempt: a request is sent, and its answer or its stream is read, without the key.

use std::sync::Arc;
use std::time::Duration;

use truing_types::{ChatReply, FinishReason, TextStart, split_reasoning};
use ureq::http::StatusCode;

use super::{Inner, Sent, Shown};
use crate::FailureKind;
use crate::exchange::{Exchange, Piece, Pieces, Refused, Unfinished};
use crate::failure::Failure;
use crate::refusal;
use crate::response::{Answer, StreamParser, error_names, error_text, parse_answer};
use crate::retry;
use crate::settings::ApiKey;

impl Inner {
    /// One request over the network. It is sent and read in a thread of its own, so that this one can stop waiting.
    pub(super) fn attempt(
        &self,
        body: &str,
        is_streamed: bool,
        max_tokens: usize,
        deadline: Duration,
        shown: &mut Shown<'_>,
    ) -> Result<ChatReply, Unfinished> {
        let max_bytes = self.settings.max_response_bytes;
        let sent = Sent { url: &self.url, body, is_streamed, max_bytes };
        let (mut pieces, has_events) = self.begin(sent, self.settings.timeout(), deadline)?;
        if !has_events {
            let bytes = pieces.rest()?;
            return Ok(self.finish(parse_answer(&bytes)?, max_tokens, shown)?);
        }
        let mut parser = StreamParser::default();
        let mut text = String::new();
        while !parser.is_done()
            && let Some(Piece::Bytes(bytes)) = pieces.next()?
        {
            text.push_str(&parser.push(&bytes)?);
            if shown.show(&self.without_key_so_far(&text))?.is_break() {
                let answer = self.without_key(Answer { text, ..Answer::default() });
                return Ok(self.reply(answer, FinishReason::Cancelled));
            }
            if self.now() >= deadline {
                return Err(Failure::new(FailureKind::Timeout, "the stream exceeds the deadline").into());
            }
        }
        Ok(self.finish(parser.finish()?, max_tokens, shown)?)
    }

    /// Sends a request, and waits until its answer begins; whether it is a stream of events.
    pub(super) fn begin(
        &self,
        sent: Sent<'_>,
        timeout: Duration,
        deadline: Duration,
    ) -> Result<(Pieces, bool), Unfinished> {
        let Sent { url, body, is_streamed, max_bytes } = sent;
        // The deadline holds for the last attempt too.
        let left = deadline.saturating_sub(self.now()).max(Duration::from_millis(1));
        let exchange = Exchange {
            agent: self.agent.clone(),
            url: url.to_owned(),
            authorization: self.access.api_key.as_ref().map(ApiKey::header),
            body: body.to_owned(),
            is_streamed,
            timeout: timeout.min(left),
            max_bytes,
        };
        let mut pieces = exchange.start(Arc::clone(&self.access.clock))?;
        match pieces.next()? {
            Some(Piece::Refused(refused)) => Err(self.refusal(refused).into()),
            Some(Piece::Begun { has_events }) => Ok((pieces, has_events)),
            Some(Piece::Bytes(_)) | None => Err(Failure::new(FailureKind::CutOff, "no answer came").into()),
        }
    }

    fn refusal(&self, refused: Refused) -> Failure {
        let Refused { status, retry_after, place, body } = refused;
        let retry_after =
            retry_after.and_then(|text| retry::retry_after(&text, self.access.clock.unix_secs()));
        // Before the text is shortened, which could cut a key in two.
        let body = match &self.access.api_key {
            Some(key) => key.redact(&String::from_utf8_lossy(&body)).into_bytes(),
            None => body,
        };
        let said = error_text(&body);
        let (kind, scope) = refusal::classify(status.as_u16(), &error_names(&body), &said);
        let problem = match status {
            _ if kind == FailureKind::Redirected => {
                format!("status {status}: it points to `{place}`, which is not followed")
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.access.api_key.is_none() => {
                format!("status {status}, and no key was given (`api_key_env`): {said}")
            }
            _ if said.is_empty() => format!("status {status}"),
            _ => format!("status {status}: {said}"),
        };
        Failure { kind, scope, problem, retry_after }
    }

    /// An answer that repeats the key is used and kept without it.
    fn without_key(&self, answer: Answer) -> Answer {
        let Some(key) = self.access.api_key.as_ref().filter(|key| key.is_secret()) else { return answer };
        Answer {
            text: key.redact(&answer.text),
            reasoning: key.redact(&answer.reasoning),
            refusal: key.redact(&answer.refusal),
            tool_calls: answer.tool_calls.iter().map(|call| key.redact_value(call)).collect(),
            ..answer
        }
    }

    /// The text of a stream so far: its end is held back where it may be the beginning of the key.
    fn without_key_so_far(&self, text: &str) -> String {
        match self.access.api_key.as_ref().filter(|key| key.is_secret()) {
            Some(key) => key.redact(key.before_its_beginning(text)),
            None => text.to_owned(),
        }
    }

    fn finish(&self, answer: Answer, max_tokens: usize, shown: &mut Shown<'_>) -> Result<ChatReply, Failure> {
        let answer = self.without_key(answer);
        // Nothing follows, so there is nothing to break off.
        let _ = shown.show(&answer.text)?;
        if answer.text != shown.text {
            let problem = "a stream was cut off after more text had been shown than the whole answer has";
            return Err(Failure::new(FailureKind::Inconsistent, problem));
        }
        let reason = answer.finish(max_tokens);
        Ok(self.reply(answer, reason))
    }

    /// The answer with its thought split off, wherever the server has put it.
    fn reply(&self, answer: Answer, finish_reason: FinishReason) -> ChatReply {
        let split = split_reasoning(&answer.text, &self.marks, TextStart::Unknown);
        let thoughts = [Some(answer.reasoning.trim().to_owned()), split.reasoning()];
        let thoughts: Vec<String> =
            thoughts.into_iter().flatten().filter(|thought| !thought.is_empty()).collect();
        let said = split.answer.unwrap_or_default();
        let has_refused = finish_reason == FinishReason::Refusal && said.trim().is_empty();
        ChatReply {
            text: if has_refused { answer.refusal.clone() } else { said.to_owned() },
            reasoning: (!thoughts.is_empty()).then(|| thoughts.join("\n\n")),
            tool_calls: answer.tool_calls,
            tokens: Vec::new(),
            finish_reason,
            n_prompt_tokens: answer.n_prompt_tokens,
            n_completion_tokens: answer.n_completion_tokens,
        }
    }
}
