//! Questions to a judge: asked again where the reply cannot be read, and unscored after the last try.

use serde_json::{Map, Value};
use truing_reward::asking::{answer_of, remind};
use truing_types::{Conversation, Message, Role, SamplingOptions, Unscored, UnscoredReason};

use super::judge_names::{PREFIX, TRY};
use super::{Answer, Answers, Ask, Item, Prompt, Recipient, Request};

/// A verdict that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The verdict's name, unique in the item.
    pub name: String,
    /// What the judge is shown.
    pub text: String,
    /// What it is reminded of where its reply cannot be read.
    pub reminder: &'static str,
    /// How its reply is sampled.
    pub sampling: SamplingOptions,
    /// Most replies for one verdict.
    pub max_attempts: usize,
    /// Whether the same request is repeated, sampled with another seed, instead of the reply being handed back
    /// with the reminder.
    pub repeats: bool,
    /// After this many replies, the temperature of further ones.
    pub later_temperature: Option<(usize, f32)>,
}

impl Question {
    /// A question that a judge at temperature 0 answers.
    #[must_use]
    pub fn new(name: impl Into<String>, text: String, reminder: &'static str, max_attempts: usize) -> Self {
        let sampling = SamplingOptions { max_new_tokens: 2048, ..SamplingOptions::default() };
        Self {
            name: name.into(),
            text,
            reminder,
            sampling,
            max_attempts: max_attempts.max(1),
            repeats: false,
            later_temperature: None,
        }
    }

    fn id(&self, attempt: usize) -> String {
        format!("{PREFIX}{}{TRY}{attempt}", self.name)
    }

    /// The verdict so far: read, still to be asked for, or given up.
    pub fn verdict<V>(&self, answers: &Answers, read: impl Fn(&str) -> Option<V>) -> Verdict<V> {
        let mut conversation =
            Conversation { messages: vec![Message::new(Role::User, self.text.clone())], tools: Vec::new() };
        let mut last = String::new();
        for attempt in 1..=self.max_attempts {
            let id = self.id(attempt);
            let reply = match answers.0.get(&id) {
                None => return Verdict::Ask(Box::new(self.request(id, conversation, attempt))),
                Some(Answer::Reply(reply)) => reply,
                Some(Answer::Failed(unscored)) => return Verdict::Unscored(unscored.clone()),
                Some(_) => {
                    return Verdict::Unscored(Unscored::new(
                        UnscoredReason::Failed,
                        format!("no chat reply stored for `{id}`"),
                    ));
                }
            };
            match answer_of(reply, self.sampling.max_new_tokens) {
                Ok(text) => match read(text) {
                    Some(verdict) => return Verdict::Given(verdict),
                    None => {
                        last = format!(
                            "no verdict in {attempt} replies; the last begins with `{}`",
                            start_of(text)
                        )
                    }
                },
                Err(error) if error.may_be_mended() || self.repeats => last = error.to_string(),
                Err(error) => {
                    return Verdict::Unscored(Unscored::new(UnscoredReason::JudgeFailed, error.to_string()));
                }
            }
            if !self.repeats {
                remind(&mut conversation, reply, self.reminder);
            }
        }
        Verdict::Unscored(Unscored::new(UnscoredReason::JudgeFailed, last))
    }

    /// The text of the last reply that could be read as a text.
    pub fn last_reply<'a>(&self, answers: &'a Answers) -> Option<&'a str> {
        (1..=self.max_attempts).rev().find_map(|attempt| answers.text(&self.id(attempt)).ok())
    }

    fn request(&self, id: String, conversation: Conversation, attempt: usize) -> Request {
        let mut sampling = self.sampling.clone();
        if self.repeats {
            // Another request, so that no store of replies answers it with the first one.
            sampling.seed += attempt as u64 - 1;
        }
        if let Some((n, temperature)) = self.later_temperature
            && attempt > n
        {
            sampling.temperature = temperature;
        }
        let ask = Ask::Generate { prompt: Prompt::Chat(conversation), sampling };
        Request { id, to: Recipient::Judge, ask }
    }
}

fn start_of(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(100).collect()
}

/// The state of a verdict.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict<V> {
    /// It was read.
    Given(V),
    /// This has to be asked.
    Ask(Box<Request>),
    /// There is none.
    Unscored(Unscored),
}

impl<V> Verdict<V> {
    /// The request that has to be asked, if any.
    #[must_use]
    pub fn request(self) -> Option<Request> {
        match self {
            Self::Ask(request) => Some(*request),
            Self::Given(_) | Self::Unscored(_) => None,
        }
    }

    /// The verdict.
    ///
    /// # Errors
    /// When there is none, or none yet.
    pub fn result(self) -> Result<V, Unscored> {
        match self {
            Self::Given(verdict) => Ok(verdict),
            Self::Unscored(unscored) => Err(unscored),
            Self::Ask(request) => {
                Err(Unscored::new(UnscoredReason::JudgeFailed, format!("`{}` was not requested", request.id)))
            }
        }
    }
}

/// The request for the model's answer, and, once there is one, what `judged` makes of it.
pub(super) fn answer_then_judge(
    item: &Item,
    answers: &Answers,
    sampling: SamplingOptions,
    judged: impl FnOnce(&str) -> Vec<Option<Request>>,
) -> Vec<Request> {
    let ask = Ask::Generate { prompt: item.prompt.clone(), sampling };
    let mut requests = vec![Request { id: "answer".into(), to: Recipient::Model, ask }];
    if let Ok(answer) = answers.text("answer") {
        requests.extend(judged(answer).into_iter().flatten());
    }
    requests
}

/// The last JSON object of a reply that has a key: in a fence, alone, or within a text.
pub(super) fn last_object(reply: &str, key: &str) -> Option<Map<String, Value>> {
    let starts: Vec<usize> = reply.match_indices('{').map(|(start, _)| start).collect();
    let objects = starts.into_iter().rev().filter_map(|start| {
        let mut values =
            serde_json::Deserializer::from_str(&reply[start..]).into_iter::<Map<String, Value>>();
        values.next()?.ok()
    });
    objects.into_iter().find(|object| object.contains_key(key))
}

#[cfg(test)]
mod tests {
    use truing_types::{ChatReply, FinishReason};

    use super::*;

    fn reply(text: &str, finish_reason: FinishReason) -> Answer {
        Answer::Reply(ChatReply {
            text: text.into(),
            reasoning: None,
            tool_calls: Vec::new(),
            tokens: Vec::new(),
            finish_reason,
            n_prompt_tokens: 0,
            n_completion_tokens: 0,
        })
    }

    #[test]
    fn an_unreadable_reply_is_asked_again_with_a_reminder_and_then_unscored() {
        let question = Question::new("v", "Judge.".into(), "Only yes or no.", 2);
        let read = |text: &str| match text {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        };
        let mut answers = Answers::default();
        let Verdict::Ask(first) = question.verdict(&answers, read) else { panic!("nothing was asked") };
        assert_eq!((first.id.as_str(), first.to), ("judge/v#1", Recipient::Judge));
        answers.0.insert("judge/v#1".into(), reply("perhaps", FinishReason::EndOfTurn));
        let Verdict::Ask(second) = question.verdict(&answers, read) else { panic!("it was not asked again") };
        let Ask::Generate { prompt, .. } = &second.ask else { panic!("no generation") };
        let turns = prompt.conversation(false).messages;
        assert_eq!((turns.len(), turns[2].content.as_str()), (3, "Only yes or no."));
        let mut wrong = answers.clone();
        wrong.0.insert("judge/v#2".into(), reply("maybe", FinishReason::EndOfTurn));
        let unscored = question.verdict(&wrong, read).result().unwrap_err();
        assert!(unscored.detail.contains("no verdict in 2 replies"), "{unscored}");
        answers.0.insert("judge/v#2".into(), reply("no", FinishReason::EndOfTurn));
        assert_eq!(question.verdict(&answers, read).result(), Ok(false));
        // A verdict that was cut is none.
        answers.0.insert("judge/v#2".into(), reply("no", FinishReason::Length));
        assert!(question.verdict(&answers, read).result().is_err());
    }
}
