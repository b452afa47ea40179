//! Asking a model for an answer that a program can read: where it cannot, the model is reminded of the form, and asked
//! again. Which model it is, and whether a cache stands before it, is not known here.

use std::ops::ControlFlow;

use truing_types::{ChatError, ChatModel, ChatReply, ChatRequest, ChatResult, Conversation, Message, Role};

/// Characters of an unreadable reply that are repeated in its error.
const MOST_QUOTED: usize = 160;

/// Why there is no readable answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
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
}

/// Asks many requests and reads the replies, each up to `most_replies` times: an unreadable reply is handed back to the
/// model with `reminder`. That is another request, so that a cache, or a model at temperature 0, does not repeat itself.
/// `on_result` is told each result with its request's place, and whether that request is settled by it: readable, failed or
/// asked often enough.
pub fn ask_readable<V>(
    model: &mut dyn ChatModel,
    mut requests: Vec<ChatRequest>,
    most_replies: usize,
    reminder: &str,
    read: impl Fn(usize, &str) -> Option<V>,
    on_result: &mut dyn FnMut(usize, &ChatResult, bool) -> ControlFlow<()>,
) -> Vec<Result<V, Unanswered>> {
    let mut answers: Vec<Option<Result<V, Unanswered>>> = requests.iter().map(|_| None).collect();
    let mut open: Vec<usize> = (0..requests.len()).collect();
    let most_replies = most_replies.max(1);
    for n_replies in 1..=most_replies {
        let asked: Vec<ChatRequest> = open.iter().map(|&place| requests[place].clone()).collect();
        let replies = model.chat_all(&asked, &mut |i, result| {
            let is_read = |reply: &ChatReply| read(open[i], &reply.text).is_some();
            let is_settled = n_replies >= most_replies || result.as_ref().map_or(true, is_read);
            on_result(open[i], result, is_settled)
        });
        let mut unread = Vec::new();
        for (&place, reply) in open.iter().zip(replies) {
            let answer = reply.map_err(Unanswered::from).and_then(|reply| match read(place, &reply.text) {
                Some(value) => Ok(value),
                None => {
                    unread.push(place);
                    remind(&mut requests[place], &reply, reminder);
                    Err(Unanswered::Unreadable { n_replies, end: end_of(&reply.text) })
                }
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

fn remind(request: &mut ChatRequest, reply: &ChatReply, reminder: &str) {
    let messages = &mut request.conversation.messages;
    messages.push(Message::new(Role::Assistant, reply.text.clone()));
    messages.push(Message::new(Role::User, reminder));
}

fn end_of(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skipped = line.chars().count().saturating_sub(MOST_QUOTED);
    line.chars().skip(skipped).collect()
}

/// What stands in the last pair of double brackets: verdicts as `[[B]]` or `[[7]]` (the form of MT-Bench, arXiv
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

    /// Says "no", then "yes", of each request.
    struct Hesitant;

    impl ChatModel for Hesitant {
        fn chat(
            &mut self,
            request: &ChatRequest,
            _: &mut dyn FnMut(&str) -> ControlFlow<()>,
        ) -> Result<ChatReply, ChatError> {
            let n_messages = request.conversation.messages.len();
            if request.conversation.messages[0].content == "bad" {
                return Err(ChatError::BadRequest("bad".into()));
            }
            Ok(ChatReply {
                text: if n_messages == 1 { "no" } else { "yes" }.into(),
                tokens: Vec::new(),
                finish_reason: truing_types::FinishReason::EndOfTurn,
                n_prompt_tokens: 0,
                n_completion_tokens: 0,
            })
        }
    }

    #[test]
    fn a_request_is_settled_once() {
        let request = |text: &str| ChatRequest {
            conversation: Conversation { messages: vec![Message::new(Role::User, text)], tools: Vec::new() },
            sampling: truing_types::SamplingOptions::default(),
        };
        let settled = |most_replies: usize| {
            let mut seen = Vec::new();
            let requests = vec![request("one"), request("bad"), request("two")];
            let read = |_: usize, text: &str| (text == "yes").then_some(());
            let answers =
                ask_readable(&mut Hesitant, requests, most_replies, "again", read, &mut |i, _, is| {
                    seen.push((i, is));
                    ControlFlow::Continue(())
                });
            (seen, answers.iter().map(Result::is_ok).collect::<Vec<_>>())
        };
        let seen = vec![(0, false), (1, true), (2, false), (0, true), (2, true)];
        assert_eq!(settled(3), (seen, vec![true, false, true]));
        assert_eq!(settled(0), (vec![(0, true), (1, true), (2, true)], vec![false; 3]));
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
