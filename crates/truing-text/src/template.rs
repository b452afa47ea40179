//! Chat templates: the Jinja text that a model is published with, rendered as transformers renders it.
//!
//! transformers compiles templates with Jinja2 (`trim_blocks`, `lstrip_blocks`, loop controls), its own
//! `tojson`, `raise_exception`, `strftime_now`, and a `{% generation %}` block that marks what the model says.
//! Here minijinja does the same; [`python`] holds the places where Python shows through. A template is code
//! from the outside: it reads only what it is given, and runs out of fuel rather than forever.

mod python;
mod source;

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde_json::{Map, Value as Json};
use truing_types::{Conversation, Message};

use crate::{TextError, Tokenizer};

/// Instructions a template may execute for one conversation; an ordinary one needs some thousands.
const FUEL: u64 = 100_000_000;

/// How a conversation is rendered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RenderOptions {
    /// Ends the text with the header of the next assistant turn.
    pub add_generation_prompt: bool,
    /// Further variables of the template, for instance `enable_thinking`.
    pub extra: Map<String, Json>,
    /// What `strftime_now` calls now, as local time. A template that asks for it while it is not given fails.
    pub now: Option<jiff::civil::DateTime>,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RenderedText {
    /// What the model reads.
    pub text: String,
    /// Byte ranges of the text that the template marks as said by the model, in order.
    pub generation_spans: Vec<Range<usize>>,
}

/// A compiled chat template, or several under names.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    names: Vec<String>,
    special_tokens: Vec<(String, String)>,
    has_generation: bool,
}

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// `strftime_now` was called without a date.
#[derive(Debug, thiserror::Error)]
#[error("the current date was not given")]
struct NoDate;

/// Names of variables that only this module sets.
mod variable {
    pub(super) const NOW: &str = "__truing_now";
    pub(super) const SPAN_START: &str = "__truing_span_start";
    pub(super) const SPAN_END: &str = "__truing_span_end";
}

impl ChatTemplate {
    /// Compiles one template.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn from_source(source: &str) -> Result<Self, TextError> {
        Self::from_named([("default", source)])
    }

    /// Compiles the templates that belong to a tokenizer, which also gives `bos_token` and its like.
    ///
    /// # Errors
    /// When there is none, or one does not parse.
    pub fn from_tokenizer(tokenizer: &Tokenizer) -> Result<Self, TextError> {
        let templates = tokenizer.chat_templates();
        if templates.is_empty() {
            return Err(TextError::NoChatTemplate);
        }
        let named = templates.iter().map(|(name, source)| (name.as_str(), source.as_str()));
        Ok(Self::from_named(named)?.with_special_tokens(tokenizer.named_tokens().clone()))
    }

    /// Compiles several templates by name. `tool_use` serves conversations with tools, `default` all others.
    ///
    /// # Errors
    /// When one does not parse.
    pub fn from_named<'a>(named: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(
            syntax.map_err(|error| TextError::TemplateSyntax { line: 1, reason: reason(&error) })?,
        );
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        python::install(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_function(source::GENERATION_FUNCTION, mark_generation);

        let mut names = Vec::new();
        let mut has_generation = false;
        for (name, text) in named {
            let (text, marks_generation) = source::prepare(text);
            has_generation |= marks_generation;
            environment.add_template_owned(name.to_owned(), text).map_err(|error| {
                TextError::TemplateSyntax { line: error.line().unwrap_or(1), reason: reason(&error) }
            })?;
            names.push(name.to_owned());
        }
        Ok(Self { environment, names, special_tokens: Vec::new(), has_generation })
    }

    /// Sets the special tokens' texts that templates see, such as `bos_token`.
    #[must_use]
    pub fn with_special_tokens(mut self, tokens: impl IntoIterator<Item = (String, String)>) -> Self {
        self.special_tokens = tokens.into_iter().collect();
        self
    }

    /// Whether a template marks what the model says with `{% generation %}`.
    #[must_use]
    pub fn marks_generation(&self) -> bool {
        self.has_generation
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// When the conversation is empty or has parts that are not text, or the template refuses it or fails.
    pub fn render(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
    ) -> Result<RenderedText, TextError> {
        if conversation.messages.is_empty() {
            return Err(TextError::EmptyConversation);
        }
        if let Some(part) = conversation.messages.iter().find_map(|message| message.parts.first()) {
            let kind = part["type"].as_str().unwrap_or("unknown").to_owned();
            return Err(TextError::PartNotText { kind });
        }
        let messages = Json::Array(conversation.messages.iter().map(message_as_template_sees_it).collect());
        let tools = match conversation.tools.is_empty() {
            true => Json::Null,
            false => Json::Array(conversation.tools.clone()),
        };
        let inputs = format!("{messages}{tools}{}", Json::Object(options.extra.clone()));
        let (start, end) = unused_marks(&inputs);

        let mut variables: Vec<(String, Value)> = Vec::new();
        let mut set = |name: &str, value: Value| variables.push((name.to_owned(), value));
        for (name, text) in &self.special_tokens {
            set(name, Value::from(text.as_str()));
        }
        for (name, value) in &options.extra {
            set(name, python::from_json(value));
        }
        set("messages", python::from_json(&messages));
        set("tools", python::from_json(&tools));
        set("documents", Value::from(()));
        set("add_generation_prompt", Value::from(options.add_generation_prompt));
        set(variable::SPAN_START, Value::from(start.to_string()));
        set(variable::SPAN_END, Value::from(end.to_string()));
        if let Some(now) = options.now {
            set(variable::NOW, Value::from(now.to_string()));
        }

        let name = self.template_for(conversation)?;
        let template = self.environment.get_template(name).map_err(|error| failure(&error))?;
        let marked = template.render(Value::from_pairs(variables)).map_err(|error| failure(&error))?;
        Ok(take_spans(&marked, start, end))
    }

    /// As transformers chooses among several templates.
    fn template_for(&self, conversation: &Conversation) -> Result<&str, TextError> {
        let has = |name: &str| self.names.iter().any(|known| known == name);
        if !conversation.tools.is_empty() && has("tool_use") {
            return Ok("tool_use");
        }
        if has("default") {
            return Ok("default");
        }
        Err(TextError::NoDefaultTemplate { names: self.names.clone() })
    }
}

/// A message as a Python user would have written it: no key without a value, our own weight left out. Like
/// transformers, reasoning is there under its older name `thinking` too.
fn message_as_template_sees_it(message: &Message) -> Json {
    let mut seen = Map::new();
    let mut set = |key: &str, value: Option<Json>| {
        if let Some(value) = value {
            seen.insert(key.to_owned(), value);
        }
    };
    let text = |text: &Option<String>| text.clone().map(Json::String);
    set("thinking", text(&message.reasoning_content));
    set("role", Some(Json::String(message.role.as_str().to_owned())));
    set("content", Some(Json::String(message.content.clone())));
    set("reasoning_content", text(&message.reasoning_content));
    set("tool_calls", message.tool_calls.clone().map(Json::Array));
    set("name", text(&message.name));
    set("tool_call_id", text(&message.tool_call_id));
    Json::Object(seen)
}

/// Two characters that mean nothing and that the inputs do not hold. Unicode reserves 32 "noncharacters" in a
/// row for such internal use.
fn unused_marks(inputs: &str) -> (char, char) {
    let mut free = ('\u{fdd0}'..='\u{fdef}').filter(|&mark| !inputs.contains(mark));
    // With all 32 in use, marks of the conversation itself would be taken for ours; spans are then checked by
    // nobody, but such a conversation is not text.
    (free.next().unwrap_or('\u{fdd0}'), free.next().unwrap_or('\u{fdd1}'))
}

/// Takes the marks out again and says what was between them.
fn take_spans(marked: &str, start: char, end: char) -> RenderedText {
    let mut rendered = RenderedText { text: String::with_capacity(marked.len()), ..Default::default() };
    let mut open = None;
    for piece in marked.split_inclusive([start, end]) {
        if let Some(text) = piece.strip_suffix(start) {
            rendered.text.push_str(text);
            open = open.or(Some(rendered.text.len()));
        } else if let Some(text) = piece.strip_suffix(end) {
            rendered.text.push_str(text);
            if let Some(from) = open.take() {
                rendered.generation_spans.push(from..rendered.text.len());
            }
        } else {
            rendered.text.push_str(piece);
        }
    }
    rendered.generation_spans.retain(|span| !span.is_empty());
    rendered
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message.to_string())))
}

fn strftime_now(state: &State, format: &str) -> Result<String, Error> {
    let now = state
        .lookup(variable::NOW)
        .and_then(|now| now.as_str()?.parse::<jiff::civil::DateTime>().ok())
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "no date").with_source(NoDate))?;
    jiff::fmt::strtime::format(format, now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// The body of a generation block, between marks.
fn mark_generation(state: &mut State, kwargs: Kwargs) -> Result<String, Error> {
    let body: Value = kwargs.get("caller")?;
    kwargs.assert_all_used()?;
    let text = body.call(state, &[])?;
    let mark = |name| state.lookup(name).unwrap_or_default();
    Ok(format!("{}{text}{}", mark(variable::SPAN_START), mark(variable::SPAN_END)))
}

fn reason(error: &Error) -> String {
    let kind = error.kind().to_string();
    match error.detail() {
        Some(detail) => format!("{kind}: {detail}"),
        None => kind,
    }
}

fn failure(error: &Error) -> TextError {
    let line = error.line().unwrap_or(1);
    // The innermost error knows what happened, the outermost only where it passed.
    let mut innermost = error;
    let mut source = std::error::Error::source(error);
    while let Some(next) = source {
        if let Some(Raised(message)) = next.downcast_ref::<Raised>() {
            return TextError::TemplateRaised { line, message: message.clone() };
        }
        if next.is::<NoDate>() {
            return TextError::NoDate { line };
        }
        innermost = next.downcast_ref::<Error>().unwrap_or(innermost);
        source = next.source();
    }
    TextError::TemplateFailed { line: innermost.line().unwrap_or(line), reason: reason(innermost) }
}
