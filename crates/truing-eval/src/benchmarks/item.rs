//! What a benchmark asks and what comes back. Requests are plain data: who asks them (an engine, a server, a
//! test) is not known here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_types::{
    ChatReply, Conversation, FinishReason, Message, Role, RowOrigin, SamplingOptions, Unscored,
    UnscoredReason,
};

use super::judge_names::{PREFIX, REPEAT};

/// One item: what is scored as one, and resampled as one where intervals are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its name, unique in the benchmark.
    pub id: String,
    /// File and line of its (first) row.
    pub source: String,
    /// Line, counted from 1.
    pub line: u64,
    /// The row; several rows that are one item are under `rows`.
    pub row: Map<String, Value>,
    /// Columns of `row` that the benchmark added, with the row's own value where it had one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub added: BTreeMap<String, Option<Value>>,
    /// Items of one text or dialogue share a cluster; `None` where it is independent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Dimension to category, for the breakdown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: BTreeMap<String, String>,
    /// What is first asked of the model.
    pub prompt: Prompt,
    /// The right answer, as a person reads it; empty where there is none.
    #[serde(default)]
    pub target: String,
}

impl Item {
    /// An item of one row.
    #[must_use]
    pub fn new(id: String, row: super::Row<'_>, prompt: Prompt, target: String) -> Self {
        Self {
            id,
            source: row.origin().source.to_string(),
            line: row.origin().line,
            row: row.object().clone(),
            added: BTreeMap::new(),
            cluster: None,
            categories: BTreeMap::new(),
            prompt,
            target,
        }
    }

    /// Adds a column to the row, for scoring and records.
    pub fn add(&mut self, column: &str, value: Value) {
        let own = self.row.insert(column.to_owned(), value);
        self.added.entry(column.to_owned()).or_insert(own);
    }

    /// The row as it is in the file.
    #[must_use]
    pub fn original_row(&self) -> Map<String, Value> {
        let mut row = self.row.clone();
        for (column, own) in &self.added {
            match own {
                Some(value) => row.insert(column.clone(), value.clone()),
                None => row.shift_remove(column),
            };
        }
        row
    }

    /// Adds a category.
    #[must_use]
    pub fn with_category(mut self, dimension: &str, category: impl Into<String>) -> Self {
        self.categories.insert(dimension.to_owned(), category.into());
        self
    }

    /// Whether another item is made of the same row. Files of one benchmark in different forms may write a number as
    /// `3` or `3.0`, and leave a column out or make it null.
    #[must_use]
    pub fn has_same_content(&self, other: &Self) -> bool {
        let is_of_file =
            |column: &&String| !self.added.contains_key(*column) && !other.added.contains_key(*column);
        let mut columns = self.row.keys().chain(other.row.keys()).filter(is_of_file);
        columns.all(|column| same_fields(&self.row, &other.row, column))
    }

    /// Solved examples that its prompt shows.
    #[must_use]
    pub fn n_shots(&self) -> usize {
        match &self.prompt {
            Prompt::Completion(prompt) => prompt.shots.len(),
            Prompt::Chat(_) => 0,
        }
    }

    /// File and line.
    #[must_use]
    pub fn origin(&self) -> RowOrigin {
        RowOrigin { source: self.source.as_str().into(), line: self.line }
    }

    /// A text of its row; empty where there is none. Items are checked when they are made.
    #[must_use]
    pub fn text(&self, column: &str) -> &str {
        self.row.get(column).and_then(Value::as_str).unwrap_or_default()
    }
}

fn same_fields(one: &Map<String, Value>, other: &Map<String, Value>, key: &str) -> bool {
    same_values(one.get(key).unwrap_or(&Value::Null), other.get(key).unwrap_or(&Value::Null))
}

fn same_values(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same_values(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.keys().chain(other.keys()).all(|key| same_fields(one, other, key))
        }
        (one, other) => one == other,
    }
}

/// What a model is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// Turns, for the chat template.
    Chat(Conversation),
    /// A text to be continued, with solved examples before it; chat models can be shown it as turns.
    Completion(CompletionPrompt),
}

/// A question after solved examples, in lm-evaluation-harness's two forms: one text, or turns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CompletionPrompt {
    /// Text before everything; the system turn of a chat.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Solved examples: question and answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shots: Vec<(String, String)>,
    /// The question.
    pub question: String,
    /// Between a question and its answer.
    pub delimiter: String,
}

/// After a solved example.
const SHOT_END: &str = "\n\n";

impl CompletionPrompt {
    /// A question whose answer follows after a space.
    #[must_use]
    pub fn new(question: impl Into<String>) -> Self {
        Self { question: question.into(), delimiter: " ".into(), ..Self::default() }
    }

    /// As one text, which ends where the answer begins.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.description, self.shots_and_question())
    }

    fn shots_and_question(&self) -> String {
        let mut text = String::new();
        for (question, answer) in &self.shots {
            text.push_str(question);
            text.push_str(&self.delimiter);
            text.push_str(answer);
            text.push_str(SHOT_END);
        }
        text + &self.question
    }

    /// As turns: the description as system turn, and the rest as one user turn, or with `multiturn` each
    /// example as a user turn and an assistant turn.
    #[must_use]
    pub fn conversation(&self, multiturn: bool) -> Conversation {
        let mut messages = Vec::new();
        if !self.description.is_empty() {
            messages.push(Message::new(Role::System, self.description.clone()));
        }
        if multiturn {
            for (question, answer) in &self.shots {
                messages.push(Message::new(Role::User, question.clone()));
                messages.push(Message::new(Role::Assistant, answer.clone()));
            }
            messages.push(Message::new(Role::User, self.question.clone()));
        } else {
            messages.push(Message::new(Role::User, self.shots_and_question()));
        }
        Conversation { messages, tools: Vec::new() }
    }
}

impl Prompt {
    /// One user turn.
    #[must_use]
    pub fn user(text: impl Into<String>) -> Self {
        Self::Chat(Conversation { messages: vec![Message::new(Role::User, text)], tools: Vec::new() })
    }

    /// As turns.
    #[must_use]
    pub fn conversation(&self, multiturn: bool) -> Conversation {
        match self {
            Self::Chat(conversation) => conversation.clone(),
            Self::Completion(prompt) => prompt.conversation(multiturn),
        }
    }

    /// As a person reads it.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Chat(conversation) => truing_reward::asking::question_text(conversation),
            Self::Completion(prompt) => prompt.text(),
        }
    }
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipient {
    /// The model that is evaluated.
    Model,
    /// The judge.
    Judge,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Its name, unique in the item: the answer is stored under it.
    pub id: String,
    /// Who is asked.
    pub to: Recipient,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Write an answer ([`Answer::Reply`]).
    Generate {
        /// What the model is shown.
        prompt: Prompt,
        /// The benchmark's own sampling; a user may replace it.
        sampling: SamplingOptions,
    },
    /// How likely each continuation is ([`Answer::LogLikelihoods`], in their order).
    LogLikelihood {
        /// What they follow.
        context: Prompt,
        /// The continuations without what separates them from a context that is one text.
        options: Vec<String>,
    },
    /// How likely a whole text is, all of its tokens scored once, in windows if it is long
    /// ([`Answer::LogLikelihoods`], one).
    Rolling {
        /// The text.
        text: String,
    },
    /// What a reward model gives each response ([`Answer::Rewards`], in their order).
    Reward {
        /// The conversation before them.
        prompt: Conversation,
        /// The responses.
        responses: Vec<String>,
    },
}

impl Ask {
    /// The continuations of a [`Ask::LogLikelihood`] as they are scored: after a text with the delimiter before
    /// them, after a chat template without (as lm-evaluation-harness has it).
    #[must_use]
    pub fn continuations(&self, is_chat: bool) -> Vec<String> {
        let Self::LogLikelihood { context, options } = self else { return Vec::new() };
        let delimiter = match context {
            Prompt::Completion(prompt) if !is_chat => prompt.delimiter.as_str(),
            _ => "",
        };
        options.iter().map(|option| format!("{delimiter}{option}")).collect()
    }
}

/// The likelihood of one continuation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LogLikelihood {
    /// Sum over its tokens, in nats.
    pub sum: f64,
    /// Its tokens.
    pub n_tokens: usize,
    /// Whether each of its tokens was the most likely one.
    pub is_greedy: bool,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Of [`Ask::Generate`].
    Reply(ChatReply),
    /// Of [`Ask::LogLikelihood`] and [`Ask::Rolling`].
    LogLikelihoods(Vec<LogLikelihood>),
    /// Of [`Ask::Reward`].
    Rewards(Vec<f64>),
    /// Nothing, and why.
    Failed(Unscored),
}

/// The answers to an item's requests, by the requests' names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Answers(pub BTreeMap<String, Answer>);

impl Answers {
    /// What came back, or why nothing did.
    ///
    /// # Errors
    /// When the request failed or was never asked.
    pub fn get(&self, id: &str) -> Result<&Answer, Unscored> {
        match self.0.get(id) {
            Some(Answer::Failed(unscored)) => Err(unscored.clone()),
            Some(answer) => Ok(answer),
            None => Err(Unscored::new(UnscoredReason::Failed, format!("`{id}` was not requested"))),
        }
    }

    /// A reply.
    ///
    /// # Errors
    /// As [`get`](Self::get), and where something else came back.
    pub fn reply(&self, id: &str) -> Result<&ChatReply, Unscored> {
        match self.get(id)? {
            Answer::Reply(reply) => Ok(reply),
            other => Err(other_kind(id, other, "a reply")),
        }
    }

    /// The text of a reply, without its reasoning.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn text(&self, id: &str) -> Result<&str, Unscored> {
        self.reply(id).map(|reply| reply.text.as_str())
    }

    /// Log-likelihoods, as many as were asked for.
    ///
    /// # Errors
    /// As [`get`](Self::get), and where something else came back.
    pub fn log_likelihoods(&self, id: &str, n: usize) -> Result<&[LogLikelihood], Unscored> {
        match self.get(id)? {
            Answer::LogLikelihoods(found)
                if found.len() == n && found.iter().all(|one| one.sum.is_finite()) =>
            {
                Ok(found)
            }
            other => Err(other_kind(id, other, "finite log-likelihoods of all options")),
        }
    }

    /// Rewards, as many as were asked for.
    ///
    /// # Errors
    /// As [`get`](Self::get), and where something else came back.
    pub fn rewards(&self, id: &str, n: usize) -> Result<&[f64], Unscored> {
        match self.get(id)? {
            Answer::Rewards(found) if found.len() == n && found.iter().all(|one| one.is_finite()) => {
                Ok(found)
            }
            other => Err(other_kind(id, other, "finite rewards of all responses")),
        }
    }

    /// Whether one of the model's replies was cut at its limit.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        let is_cut = |answer: &Answer| {
            matches!(answer, Answer::Reply(reply)
                if reply.finish_reason == FinishReason::Length)
        };
        let is_of_judge = |id: &str| id.starts_with(PREFIX) || id.starts_with(REPEAT);
        self.0.iter().any(|(id, answer)| !is_of_judge(id) && is_cut(answer))
    }
}

fn other_kind(id: &str, found: &Answer, expected: &str) -> Unscored {
    let found = match found {
        Answer::Reply(_) => "a reply",
        Answer::LogLikelihoods(_) => "log-likelihoods",
        Answer::Rewards(_) => "rewards",
        Answer::Failed(_) => "nothing",
    };
    Unscored::new(UnscoredReason::Failed, format!("the answer to `{id}` is {found}, expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_has_the_two_forms_of_lm_evaluation_harness() {
        let prompt = CompletionPrompt {
            description: "About sums.\n\n".into(),
            shots: vec![("Question: 1+1\nAnswer:".into(), "2".into())],
            question: "Question: 2+2\nAnswer:".into(),
            delimiter: " ".into(),
        };
        let text = "About sums.\n\nQuestion: 1+1\nAnswer: 2\n\nQuestion: 2+2\nAnswer:";
        assert_eq!(prompt.text(), text);
        let single = prompt.conversation(false);
        let texts: Vec<&str> = single.messages.iter().map(|message| message.content.as_str()).collect();
        assert_eq!(texts, ["About sums.\n\n", &text["About sums.\n\n".len()..]]);
        assert_eq!(prompt.conversation(true).messages.len(), 4);
        let ask = Ask::LogLikelihood { context: Prompt::Completion(prompt), options: vec!["4".into()] };
        assert_eq!(
            (ask.continuations(false), ask.continuations(true)),
            (vec![" 4".into()], vec!["4".to_owned()])
        );
    }

    #[test]
    fn an_answer_that_is_missing_or_of_another_kind_says_so() {
        let mut answers = Answers::default();
        assert_eq!(answers.text("a").unwrap_err().detail, "`a` was not requested");
        answers.0.insert("a".into(), Answer::Rewards(vec![1.0]));
        assert!(answers.text("a").unwrap_err().detail.contains("is rewards, expected a reply"));
        assert!(answers.rewards("a", 2).is_err());
        assert_eq!(answers.rewards("a", 1), Ok(&[1.0][..]));
    }
}
