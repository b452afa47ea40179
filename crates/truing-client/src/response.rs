//! What servers answer: one JSON object, or a stream of server-sent events (WHATWG HTML, 9.2). Read leniently: nearly
//! compatible servers differ in everything but the place of the text. Content is a text, a list of parts, or null;
//! finish reasons that are not known end a turn; usage may be missing; further fields do not matter. An answer without
//! its end is none.
//!
//! Finish reasons are read in the words of OpenAI, Mistral, DeepSeek, Zhipu, Anthropic, Bedrock, Gemini and Cohere, in
//! any letter case: gateways pass on the words of the model behind them. OpenAI's chat completions always give a reason
//! in a whole answer, and null only in the pieces of a stream; some other servers leave it out, or null, in every
//! answer. An answer that came whole without a reason therefore counts as ended, unless it used up the tokens that it
//! was allowed.
//!
//! Reasoning that a server sends apart from the answer is kept apart: `reasoning_content` (DeepSeek, vLLM, SGLang),
//! `reasoning` (OpenRouter, vLLM), `reasoning_details` (OpenRouter), and parts of the content of type `thinking` or
//! `reasoning` (Mistral, Anthropic).

use serde_json::Value;
use truing_types::{FinishReason, PromptLogProbs, TokenId};

use crate::tool_calls;

/// Characters of a server's words that are repeated in an error.
const MAX_QUOTED: usize = 300;

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The text of the turn.
    pub text: String,
    /// Reasoning that came apart from the text; empty where none did.
    pub reasoning: String,
    /// Why the model declines to answer; empty where it does not.
    pub refusal: String,
    /// Calls of tools in OpenAI's shape.
    pub tool_calls: Vec<Value>,
    /// The server's word for why it ended.
    pub finish_reason: Option<String>,
    /// Tokens of the prompt; 0 if the server does not report them.
    pub n_prompt_tokens: usize,
    /// Tokens of the reply; 0 if the server does not report them.
    pub n_completion_tokens: usize,
}

/// An answer that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It ended before its end.
    #[error("the response was cut off: {0}")]
    CutOff(String),
    /// It is not valid JSON.
    #[error("the response is not valid JSON: {reason}; it begins with `{beginning}`")]
    NotJson {
        /// The parser's word.
        reason: String,
        /// How it begins.
        beginning: String,
    },
    /// It is JSON of another shape.
    #[error("the response has no `choices` with a message; it begins with `{beginning}`")]
    NoChoice {
        /// How it begins.
        beginning: String,
    },
    /// It has not the log-probabilities of every token of the prompt.
    #[error(
        "the response has no `prompt_logprobs` for each of the {n_tokens} tokens of the prompt; it begins \
         with `{beginning}`"
    )]
    NoPromptLogProbs {
        /// Tokens of the prompt.
        n_tokens: usize,
        /// How it begins.
        beginning: String,
    },
    /// The server reports an error in what should be an answer.
    #[error("the server reports: {said}")]
    Reported {
        /// Its words.
        said: String,
        /// What it calls the error, as [`error_names`] finds it.
        names: Vec<String>,
    },
}

impl Answer {
    /// Why it ended, where it was allowed `max_tokens`.
    #[must_use]
    pub fn finish(&self, max_tokens: usize) -> FinishReason {
        let has_text = !self.text.trim().is_empty();
        match self.reason().as_deref() {
            Some(
                "length"
                | "max_tokens"
                | "max_output_tokens"
                | "max_completion_tokens"
                | "max_new_tokens"
                | "max_length"
                | "model_length"
                | "model_context_window_exceeded"
                | "error_limit",
            ) => FinishReason::Length,
            Some(
                "content_filter"
                | "content_filtered"
                | "safety"
                | "image_safety"
                | "sensitive"
                | "recitation"
                | "blocklist"
                | "prohibited_content"
                | "spii"
                | "language"
                | "guardrail_intervened"
                | "error_toxic",
            ) => FinishReason::ContentFilter,
            Some("refusal") => FinishReason::Refusal,
            _ if !self.refusal.is_empty() && !has_text => FinishReason::Refusal,
            Some("tool_calls" | "tool_call" | "function_call" | "tool_use") => FinishReason::ToolCalls,
            _ if !self.tool_calls.is_empty() && !has_text => FinishReason::ToolCalls,
            None if self.n_completion_tokens >= max_tokens.max(1) => FinishReason::Length,
            _ => FinishReason::EndOfTurn,
        }
    }

    /// The server's word for why it ended, in lower case and without the name of an enumeration before it
    /// (`FinishReason.MAX_TOKENS`); none where it is empty.
    fn reason(&self) -> Option<String> {
        let reason = self.finish_reason.as_deref()?.trim();
        let word = reason.rsplit('.').next().unwrap_or(reason);
        (!word.is_empty()).then(|| word.to_lowercase().replace('-', "_"))
    }

    /// Takes in a message or a piece of one. False where it has no text, no reasoning and no refusal.
    fn take(&mut self, message: &Value) -> bool {
        let Content { text, mut reasoning } = content(&message["content"]);
        let fields = [&message["reasoning_content"], &message["reasoning"]];
        if let Some(said) = fields.into_iter().filter_map(Value::as_str).find(|said| !said.is_empty()) {
            reasoning.push_str(said);
        } else if let Value::Array(details) = &message["reasoning_details"] {
            details.iter().for_each(|detail| reasoning.push_str(&thought(detail)));
        }
        let refusal = message["refusal"].as_str().unwrap_or_default();
        tool_calls::add(&mut self.tool_calls, message);
        let has_any = text.is_some() || !reasoning.is_empty() || !refusal.is_empty();
        self.text.push_str(&text.unwrap_or_default());
        self.reasoning.push_str(&reasoning);
        self.refusal.push_str(refusal);
        has_any
    }

    /// A premature end: the server closed the stream, or failed in the middle.
    fn check_end(self, choice: &Value) -> Result<Self, AnswerError> {
        let error = &choice["error"];
        if error.is_object() {
            let said = error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
            return Err(AnswerError::Reported { said: shortened(&said), names: names_of(choice) });
        }
        match self.reason().as_deref() {
            Some("error") => {
                let said = "the reply ended in an error".into();
                Err(AnswerError::Reported { said, names: Vec::new() })
            }
            Some(
                reason @ ("abort"
                | "aborted"
                | "cancelled"
                | "canceled"
                | "user_cancel"
                | "timeout"
                | "network_error"
                | "malformed_function_call"
                | "insufficient_system_resource"),
            ) => Err(AnswerError::CutOff(format!("the server ended it with `{reason}`"))),
            _ => Ok(self),
        }
    }

    fn read_usage(&mut self, value: &Value) {
        let tokens = |key: &str| value["usage"][key].as_u64().and_then(|n| usize::try_from(n).ok());
        self.n_prompt_tokens = tokens("prompt_tokens").unwrap_or(self.n_prompt_tokens);
        self.n_completion_tokens = tokens("completion_tokens").unwrap_or(self.n_completion_tokens);
    }
}

/// Reads an answer that came as one JSON object.
///
/// # Errors
/// When it is cut off, no JSON, without choices, or reports an error.
pub fn parse_answer(bytes: &[u8]) -> Result<Answer, AnswerError> {
    let value = parse_json(bytes)?;
    if let Some(said) = reported_error(&value) {
        return Err(AnswerError::Reported { said, names: names_of(&value) });
    }
    let choice = &value["choices"][0];
    let message = &choice["message"];
    let mut answer = Answer::default();
    if !answer.take(message) {
        // Old completion servers put the text beside the message.
        match choice["text"].as_str() {
            Some(text) => answer.text = text.to_owned(),
            None if message.is_object() => {}
            None => return Err(AnswerError::NoChoice { beginning: excerpt(bytes) }),
        }
    }
    answer.finish_reason = choice["finish_reason"].as_str().map(str::to_owned);
    answer.read_usage(&value);
    answer.check_end(choice)
}

/// Reads the k most likely tokens at each place of a prompt of `n_tokens`, as vLLM and `truing serve` send them: for
/// each token but the first an object of token ids with their `logprob`. The token that is there may be one more
/// entry.
///
/// # Errors
/// When it is cut off, no JSON, without log-probabilities of every token, or reports an error.
pub fn parse_prompt_log_probs(
    bytes: &[u8],
    n_tokens: usize,
    k: usize,
) -> Result<PromptLogProbs, AnswerError> {
    let value = parse_json(bytes)?;
    if let Some(said) = reported_error(&value) {
        return Err(AnswerError::Reported { said, names: names_of(&value) });
    }
    let of_place = |entries: &Value| {
        let mut top: Vec<(TokenId, f32)> = Vec::new();
        for (id, entry) in entries.as_object()? {
            // A probability of 0 has no logarithm in JSON.
            if let Some(log_prob) = entry["logprob"].as_f64() {
                top.push((id.parse().ok()?, log_prob as f32));
            }
        }
        top.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        top.truncate(k);
        Some(top)
    };
    let lists = value["choices"][0]["prompt_logprobs"].as_array().filter(|lists| lists.len() == n_tokens);
    let read = lists.and_then(|lists| lists.iter().skip(1).map(of_place).collect());
    read.ok_or_else(|| AnswerError::NoPromptLogProbs { n_tokens, beginning: excerpt(bytes) })
}

/// Reads the reply of an endpoint that is not one of OpenAI's: any JSON, or nothing.
///
/// # Errors
/// When it is cut off, no JSON, or reports an error.
pub fn parse_reply(bytes: &[u8]) -> Result<Value, AnswerError> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    let value = parse_json(bytes)?;
    match value["error"].is_null() {
        true => Ok(value),
        false => Err(AnswerError::Reported { said: error_text(bytes), names: names_of(&value) }),
    }
}

fn parse_json(bytes: &[u8]) -> Result<Value, AnswerError> {
    // Some servers send a byte order mark.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).map_err(|error| match error.is_eof() {
        true => AnswerError::CutOff(format!("{} bytes came", bytes.len())),
        false => AnswerError::NotJson { reason: error.to_string(), beginning: excerpt(bytes) },
    })
}

/// The content of a message.
struct Content {
    /// Text, or the texts of a list of parts; `None` for anything else.
    text: Option<String>,
    /// What parts hold that are reasoning.
    reasoning: String,
}

fn content(value: &Value) -> Content {
    let mut content = Content { text: None, reasoning: String::new() };
    match value {
        Value::String(text) => content.text = Some(text.clone()),
        Value::Array(parts) => {
            let text = content.text.insert(String::new());
            for part in parts {
                match part["type"].as_str() {
                    Some("thinking" | "reasoning" | "redacted_thinking") => {
                        content.reasoning.push_str(&thought(part));
                    }
                    _ => text.push_str(part["text"].as_str().or_else(|| part.as_str()).unwrap_or_default()),
                }
            }
        }
        _ => {}
    }
    content
}

/// What a piece of reasoning says, under any of its names; nothing where it is encrypted.
fn thought(part: &Value) -> String {
    for key in ["text", "thinking", "reasoning", "summary", "content"] {
        match &part[key] {
            Value::String(text) => return text.clone(),
            Value::Array(parts) => return parts.iter().map(thought).collect(),
            _ => {}
        }
    }
    part.as_str().unwrap_or_default().to_owned()
}

/// What a server says is wrong, wherever it says so; `None` where it says nothing of the kind.
fn reported_error(value: &Value) -> Option<String> {
    let error = &value["error"];
    let words = [&error["message"], error, &value["detail"], &value["message"]];
    let said = words.into_iter().find_map(Value::as_str).map(str::to_owned);
    let is_error = !(error.is_null() || error == &Value::Bool(false)) || value["choices"].is_null();
    let said = said.or_else(|| (!error.is_null()).then(|| error.to_string()));
    is_error.then_some(said).flatten().map(|text| shortened(&text))
}

/// What a body says of an error, in one line: the server's own message, or how the body begins.
#[must_use]
pub fn error_text(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    reported_error(&value).unwrap_or_else(|| excerpt(body))
}

/// The names that a body gives to its error, in lower case: `code`, `type`, `status`, wherever they stand.
#[must_use]
pub fn error_names(body: &[u8]) -> Vec<String> {
    names_of(&serde_json::from_slice(body).unwrap_or_default())
}

fn names_of(value: &Value) -> Vec<String> {
    // Some servers wrap the object into a list.
    let value = value.get(0).unwrap_or(value);
    let places = [&value["error"], &value["error"]["innererror"], &value["error"]["error"], value];
    let named = places.into_iter().flat_map(|place| {
        ["code", "type", "status"].into_iter().filter_map(|key| match &place[key] {
            Value::String(name) => Some(name.to_lowercase()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    });
    named.collect()
}

fn excerpt(bytes: &[u8]) -> String {
    // Four bytes at most make a character.
    shortened(&String::from_utf8_lossy(&bytes[..bytes.len().min(4 * MAX_QUOTED)]))
}

/// White space as single spaces, no control characters, and no more than may be quoted.
fn shortened(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ").replace(char::is_control, "");
    match line.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// Puts an answer together from a stream of events. Bytes may be cut anywhere.
#[derive(Debug, Default)]
pub struct StreamParser {
    line: Vec<u8>,
    ends_with_return: bool,
    data: Option<Vec<u8>>,
    answer: Answer,
    is_done: bool,
}

impl StreamParser {
    /// Takes bytes and gives the text they bring.
    ///
    /// # Errors
    /// When an event is not valid JSON or reports an error.
    pub fn push(&mut self, bytes: &[u8]) -> Result<String, AnswerError> {
        let before = self.answer.text.len();
        for &byte in bytes {
            // A line ends with \n, \r or \r\n.
            match byte {
                b'\n' if self.ends_with_return => {}
                b'\n' | b'\r' => self.end_line()?,
                _ => self.line.push(byte),
            }
            self.ends_with_return = byte == b'\r';
        }
        Ok(self.answer.text[before..].to_owned())
    }

    /// Whether the stream has said that it is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// The whole answer, once no more bytes come. A last event without its empty line counts where it is whole.
    ///
    /// # Errors
    /// When neither `[DONE]` nor a finish reason came.
    pub fn finish(mut self) -> Result<Answer, AnswerError> {
        match self.end_line().and_then(|()| self.end_event()) {
            // A piece of JSON is what a cut leaves behind.
            Ok(()) | Err(AnswerError::NotJson { .. } | AnswerError::CutOff(_)) => {}
            Err(other) => return Err(other),
        }
        match self.is_done || self.answer.finish_reason.is_some() {
            true => self.answer.check_end(&Value::Null),
            false => Err(self.cut_off()),
        }
    }

    fn cut_off(&self) -> AnswerError {
        AnswerError::CutOff(format!("{} characters of text came", self.answer.text.chars().count()))
    }

    fn end_line(&mut self) -> Result<(), AnswerError> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.end_event();
        }
        let Some(value) = line.strip_prefix(b"data") else { return Ok(()) };
        let Some(value) = value.strip_prefix(b":") else { return Ok(()) };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => self.data = Some(value.to_vec()),
        }
        Ok(())
    }

    fn end_event(&mut self) -> Result<(), AnswerError> {
        let Some(data) = self.data.take() else { return Ok(()) };
        if self.is_done || data.trim_ascii().is_empty() {
            return Ok(());
        }
        if data.trim_ascii() == b"[DONE]" {
            self.is_done = true;
            return Ok(());
        }
        let value = parse_json(&data)?;
        if let Some(reported) = reported_error(&value).filter(|_| !value["error"].is_null()) {
            return Err(AnswerError::Reported { said: reported, names: names_of(&value) });
        }
        self.answer.read_usage(&value);
        let choice = &value["choices"][0];
        if !self.answer.take(&choice["delta"]) && !self.answer.take(&choice["message"]) {
            self.answer.text.push_str(choice["text"].as_str().unwrap_or_default());
        }
        if choice["error"].is_object() {
            self.answer = std::mem::take(&mut self.answer).check_end(choice)?;
        }
        // Some servers send an empty reason until there is one.
        if let Some(reason) = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
            self.answer.finish_reason = Some(reason.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
