//! Asking a model for an answer that a program can read: where it cannot, the model is reminded of the form, and asked
//! again. Which model it is, and whether a cache is in front of it, is not known here.
//!
//! A verdict is read from the answer alone, never from the thought before it. A reply that was cut at its limit,
//! withheld by a filter, refused or that calls a tool has no verdict, even if its text has one.

use std::ops::ControlFlow;

use truing_types::{
    ChatError, ChatModel, ChatReply, ChatRequest, ChatResult, Conversation, FinishReason, Message,
    ReasoningMarks, Role, TextStart, split_reasoning,
};

/// Characters of an unreadable reply that are repeated in its error.
const MAX_QUOTED: usize = 160;

/// Why there is no readable answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The model could not answer.
    #[error(transparent)]
    Failed(#[from] ChatError),
    /// It answered, each time out of form.
    #[error("no verdict in {n_replies} replies; the last ends with `{end}`")]
    Unreadable {
        /// How often it was asked.
        n_replies: usize,
        /// How its last reply ends.
        end: String,
    },
    /// The last reply is not whole.
    #[error("the reply was cut at max_tokens \
             ({max_tokens}){}", if *in_thought { ", inside its reasoning" } else { "" })]
    Cut {
        /// The limit.
        max_tokens: usize,
        /// Whether there was no answer yet.
        in_thought: bool,
    },
    /// The last reply holds no answer.
    #[error("{0}")]
    Missing(String),
}

impl NoAnswer {
    /// Whether every further request would fail too.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Failed(error) if error.is_permanent())
    }

    /// Whether there was a reply, but no verdict in it.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }

    /// Whether a reminder may bring a verdict.
    #[must_use]
    pub fn may_be_mended(&self) -> bool {
        match self {
            Self::Unreadable { .. } => true,
            Self::Cut { in_thought, .. } => !in_thought,
            Self::Failed(_) | Self::Missing(_) => false,
        }
    }
}

/// The part of a reply that a verdict may be read from.
///
/// # Errors
/// When the reply was cut at its limit of `max_tokens`, withheld or refused, or holds no answer.
pub fn answer_of(reply: &ChatReply, max_tokens: usize) -> Result<&str, NoAnswer> {
    let answer = match reply.reasoning {
        Some(_) => Some(reply.text.as_str()),
        None => split_reasoning(&reply.text, &ReasoningMarks::default(), TextStart::Unknown).answer,
    };
    let answer = answer.filter(|answer| !answer.trim().is_empty());
    let no_answer = |reason: String| Err(NoAnswer::Missing(reason));
    match (reply.finish_reason, answer) {
        (FinishReason::Length, _) => Err(NoAnswer::Cut { max_tokens, in_thought: answer.is_none() }),
        (FinishReason::ContentFilter, _) => {
            no_answer("the server's content filter withheld the reply".into())
        }
        (FinishReason::Refusal, _) => no_answer(format!("the model refused: `{}`", end_of(&reply.text))),
        (FinishReason::ToolCalls, _) => no_answer("the model called a tool instead of answering".into()),
        (FinishReason::Cancelled, _) => Err(ChatError::BrokenOff.into()),
        (FinishReason::EndOfTurn | FinishReason::StopText, Some(answer)) => Ok(answer),
        (FinishReason::EndOfTurn | FinishReason::StopText, None) => {
            match reply.text.trim().is_empty() && reply.reasoning.is_none() {
                true => no_answer("the reply is empty".into()),
                false => no_answer("the reply has reasoning but no answer".into()),
            }
        }
    }
}

/// Reads one reply, the last of so many.
fn read_reply<V>(
    reply: &ChatReply,
    max_tokens: usize,
    n_replies: usize,
    read: impl Fn(&str) -> Option<V>,
) -> Result<V, NoAnswer> {
    let answer = answer_of(reply, max_tokens)?;
    read(answer).ok_or_else(|| NoAnswer::Unreadable { n_replies, end: end_of(answer) })
}

/// Asks many requests and reads the replies, each up to `max_attempts` times: an unreadable reply is handed back to the
/// model with `reminder`. That is another request, so that a cache, or a model at temperature 0, does not repeat
/// itself. So is an answer that was cut; but not a thought that was cut, which would only be thought and paid for
/// again. `on_result` gets each result with the index of its request, and whether it is the final one of that
/// request: readable, failed or the last attempt.
pub fn ask_readable<V>(
    model: &dyn ChatModel,
    mut requests: Vec<ChatRequest>,
    max_attempts: usize,
    reminder: &str,
    read: impl Fn(usize, &str) -> Option<V>,
    on_result: &mut dyn FnMut(usize, &ChatResult, bool) -> ControlFlow<()>,
) -> Vec<Result<V, NoAnswer>> {
    let mut answers: Vec<Option<Result<V, NoAnswer>>> = requests.iter().map(|_| None).collect();
    let mut open: Vec<usize> = (0..requests.len()).collect();
    let max_attempts = max_attempts.max(1);
    for n_replies in 1..=max_attempts {
        let asked: Vec<ChatRequest> = open.iter().map(|&place| requests[place].clone()).collect();
        let limit = |i: usize| asked[i].sampling.max_new_tokens;
        let replies = model.chat_all(&asked, &mut |i, result| {
            let is_final = match result {
                Ok(reply) if n_replies < max_attempts => {
                    let read = read_reply(reply, limit(i), n_replies, |text| read(open[i], text));
                    !read.is_err_and(|error| error.may_be_mended())
                }
                _ => true,
            };
            on_result(open[i], result, is_final)
        });
        let mut unread = Vec::new();
        for (i, (&place, reply)) in open.iter().zip(replies).enumerate() {
            let answer = reply.map_err(NoAnswer::from).and_then(|reply| {
                let answer = read_reply(&reply, limit(i), n_replies, |text| read(place, text));
                if answer.as_ref().is_err_and(NoAnswer::may_be_mended) {
                    unread.push(place);
                    remind(&mut requests[place].conversation, &reply, reminder);
                }
                answer
            });
            answers[place] = Some(answer);
        }
        open = unread;
        if open.is_empty() {
            break;
        }
    }
    answers.into_iter().map(|answer| answer.unwrap_or(Err(ChatError::BrokenOff.into()))).collect()
}

/// Hands an unreadable reply back to the model with a reminder.
pub fn remind(conversation: &mut Conversation, reply: &ChatReply, reminder: &str) {
    let messages = &mut conversation.messages;
    messages.push(Message::new(Role::Assistant, reply.text.clone()));
    messages.push(Message::new(Role::User, reminder));
}

fn end_of(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skipped = line.chars().count().saturating_sub(MAX_QUOTED);
    line.chars().skip(skipped).collect()
}

/// The text in the last pair of double brackets: verdicts as `[[B]]` or `[[7]]` (the form of MT-Bench, arXiv
/// 2306.05685). The last one counts: a model that quotes the task or thinks aloud ends with its verdict.
#[must_use]
pub fn last_bracketed(text: &str) -> Option<&str> {
    let end = text.rfind("]]")?;
    let start = text[..end].rfind("[[")?;
    Some(text[start + 2..end].trim())
}

/// Fills the places of a template, each `{name}`, in one pass: what is filled in is not looked at again.
#[must_use]
pub fn fill_in(template: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        filled.push_str(&rest[..start]);
        rest = &rest[start..];
        let place = values
            .iter()
            .find(|(name, _)| rest[1..].strip_prefix(name).is_some_and(|after| after.starts_with('}')));
        match place {
            Some((name, value)) => {
                filled.push_str(value);
                rest = &rest[name.len() + 2..];
            }
            None => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled + rest
}

/// A prompt as a judge reads it: a single turn as it is, several with their speakers.
#[must_use]
pub fn question_text(prompt: &Conversation) -> String {
    match prompt.messages.as_slice() {
        [only] => only.content.clone(),
        several => {
            let turns = several.iter().map(|turn| format!("[{}]\n{}", turn.role.as_str(), turn.content));
            turns.collect::<Vec<_>>().join("\n\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Says "no", then "yes", of each request.
    struct Hesitant;

    impl ChatModel for Hesitant {
        fn chat(
            &self,
            request: &ChatRequest,
            _: &mut dyn FnMut(&str) -> ControlFlow<()>,
        ) -> Result<ChatReply, ChatError> {
            let n_messages = request.conversation.messages.len();
            if request.conversation.messages[0].content == "bad" {
                return Err(ChatError::BadRequest("bad".into()));
            }
            Ok(ChatReply { text: if n_messages == 1 { "no" } else { "yes" }.into(), ..ChatReply::default() })
        }
    }

    #[test]
    fn a_request_has_one_final_result() {
        let request = |text: &str| ChatRequest {
            conversation: Conversation { messages: vec![Message::new(Role::User, text)], tools: Vec::new() },
            sampling: truing_types::SamplingOptions::default(),
        };
        let final_of = |max_attempts: usize| {
            let mut seen = Vec::new();
            let requests = vec![request("one"), request("bad"), request("two")];
            let read = |_: usize, text: &str| (text == "yes").then_some(());
            let answers = ask_readable(&Hesitant, requests, max_attempts, "again", read, &mut |i, _, is| {
                seen.push((i, is));
                ControlFlow::Continue(())
            });
            (seen, answers.iter().map(Result::is_ok).collect::<Vec<_>>())
        };
        let seen = vec![(0, false), (1, true), (2, false), (0, true), (2, true)];
        assert_eq!(final_of(3), (seen, vec![true, false, true]));
        assert_eq!(final_of(0), (vec![(0, true), (1, true), (2, true)], vec![false; 3]));
    }

    /// Always gives the same reply.
    struct Says(ChatReply, AtomicUsize);

    impl ChatModel for Says {
        fn chat(
            &self,
            _: &ChatRequest,
            _: &mut dyn FnMut(&str) -> ControlFlow<()>,
        ) -> Result<ChatReply, ChatError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Ok(self.0.clone())
        }
    }

    #[test]
    fn a_verdict_is_in_the_answer_of_a_whole_reply_or_nowhere() {
        use FinishReason::{ContentFilter, EndOfTurn, Length, Refusal, StopText, ToolCalls};
        let cut = "the reply was cut at max_tokens (512)";
        let cut_in_thought = "the reply was cut at max_tokens (512), inside its reasoning";
        let thought = "the reply has reasoning but no answer";
        for (text, reasoning, finish_reason, expected, n_asked) in [
            ("[[7]]", None, EndOfTurn, Ok("7"), 1),
            ("[[7]]", None, StopText, Ok("7"), 1),
            ("<think>[[2]]?</think>[[7]]", None, EndOfTurn, Ok("7"), 1),
            ("[[7]]", Some("[[2]]"), EndOfTurn, Ok("7"), 1),
            ("so [[2]]</think>[[7]]", None, EndOfTurn, Ok("7"), 1),
            ("[[7]]", None, Length, Err(cut), 3),
            ("Good, but", None, Length, Err(cut), 3),
            ("<think>\nA first guess would be [[2]], but", None, Length, Err(cut_in_thought), 1),
            ("", Some("[[2]], but"), Length, Err(cut_in_thought), 1),
            ("", None, Length, Err(cut_in_thought), 1),
            ("<think>[[2]]", None, EndOfTurn, Err(thought), 1),
            ("<think>[[2]]</think>", None, EndOfTurn, Err(thought), 1),
            ("", Some("[[2]]"), EndOfTurn, Err(thought), 1),
            ("[[7]]", None, ContentFilter, Err("the server's content filter withheld the reply"), 1),
            ("[[7]] no", None, Refusal, Err("the model refused: `[[7]] no`"), 1),
            ("", None, ToolCalls, Err("the model called a tool instead of answering"), 1),
            ("", None, EndOfTurn, Err("the reply is empty"), 1),
            (" \n\t", None, EndOfTurn, Err("the reply is empty"), 1),
            (
                "<think>[[2]]</think>Good.",
                None,
                EndOfTurn,
                Err("no verdict in 3 replies; the last ends with `Good.`"),
                3,
            ),
        ] {
            let reasoning = reasoning.map(str::to_owned);
            let reply = ChatReply { text: text.into(), reasoning, finish_reason, ..ChatReply::default() };
            let model = Says(reply, AtomicUsize::new(0));
            let request = ChatRequest {
                conversation: Conversation {
                    messages: vec![Message::new(Role::User, "?")],
                    tools: Vec::new(),
                },
                sampling: truing_types::SamplingOptions::default(),
            };
            let read = |_: usize, text: &str| last_bracketed(text).map(str::to_owned);
            let mut n_final = 0;
            let mut on_result = |_: usize, _: &ChatResult, is_final: bool| {
                n_final += usize::from(is_final);
                ControlFlow::Continue(())
            };
            let found = ask_readable(&model, vec![request], 3, "again", read, &mut on_result).remove(0);
            let found = found.map_err(|error| error.to_string());
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{text} {finish_reason:?}");
            assert_eq!((model.1.into_inner(), n_final), (n_asked, 1), "{text} {finish_reason:?}");
        }
    }

    #[test]
    fn the_last_brackets_count() {
        for (text, expected) in [
            ("[[A]]", Some("A")),
            ("Form: [[A]] or [[B]].\nSo [[ B ]]", Some("B")),
            ("[[7]] of [[10]] x", Some("10")),
            ("[A]", None),
            ("[[A", None),
            ("]] [[", None),
            ("", None),
        ] {
            assert_eq!(last_bracketed(text), expected, "{text}");
        }
    }

    #[test]
    fn places_are_filled_once() {
        let values = [("question", "{answer} {x"), ("answer", "yes")];
        let filled = fill_in("Q: {question}; A: {answer}; {\"score\": 3} {unknown}", &values);
        assert_eq!(filled, "Q: {answer} {x; A: yes; {\"score\": 3} {unknown}");
    }
}
