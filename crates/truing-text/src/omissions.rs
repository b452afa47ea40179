//! What a template does not show of a conversation. It is found by rendering: where other tools, another call or another
//! text give the same rendered text, the model never sees them.
//!
//! A conversation is rendered once more with a mark in place of everything that could be shown. A mark that stands in
//! the text is shown. What has no mark there is changed alone, and is an omission only when the text stays the same. What
//! a template shows depends on the shape of a conversation (its roles, and which fields its
//! turns have), so that each shape is rendered once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use truing_types::{Conversation, Message, Role};

use crate::{ChatTemplate, RenderOptions};

/// Shapes that are remembered; conversations of further ones are rendered each time.
const MAX_SHAPES: usize = 4096;

/// A part of a conversation that the rendered text does not depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Omission {
    /// The descriptions of the tools.
    Tools,
    /// The calls of a turn that says nothing else: only the end of the turn is left of it.
    OnlyToolCalls {
        /// Number of the message, counted from 0.
        message: usize,
    },
    /// The calls of a turn that has text too.
    ToolCalls {
        /// Number of the message, counted from 0.
        message: usize,
    },
    /// The reasoning of a turn.
    Reasoning {
        /// Number of the message, counted from 0.
        message: usize,
    },
    /// The reasoning of a turn, where the template shows that of a later one.
    EarlierReasoning {
        /// Number of the message, counted from 0.
        message: usize,
    },
    /// The text of a turn.
    Content {
        /// Number of the message, counted from 0.
        message: usize,
        /// Who says it.
        role: Role,
    },
    /// The name of a speaker. The name of a tool turn is not looked for: the call before it has it.
    Name {
        /// Number of the message, counted from 0.
        message: usize,
    },
}

impl std::fmt::Display for Omission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tools => write!(f, "the template does not show `tools`"),
            Self::OnlyToolCalls { message } => write!(
                f,
                "message {message}: the template does not show its `tool_calls`: the turn trains only its end token"
            ),
            Self::ToolCalls { message } => {
                write!(f, "message {message}: the template does not show its `tool_calls`")
            }
            Self::Reasoning { message } => {
                write!(f, "message {message}: the template does not show its `reasoning_content`")
            }
            Self::EarlierReasoning { message } => write!(
                f,
                "message {message}: the template shows `reasoning_content` of later turns only, not of this one"
            ),
            Self::Content { message, role } => {
                write!(
                    f,
                    "message {message}: the template does not show the text of this `{}` turn",
                    role.as_str()
                )
            }
            Self::Name { message } => write!(f, "message {message}: the template does not show its `name`"),
        }
    }
}

/// What decides what a template shows: tools or none, and of each message its role and which fields it has.
type Shape = Vec<u8>;

/// What a template does not show, by the shape of the conversation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Omissions {
    known: Arc<Mutex<HashMap<Shape, Arc<[Omission]>>>>,
}

impl Omissions {
    /// What is not in `text`, which is the conversation rendered with these options.
    pub(crate) fn of(
        &self,
        template: &ChatTemplate,
        options: &RenderOptions,
        conversation: &Conversation,
        text: &str,
    ) -> Arc<[Omission]> {
        let shape = shape(conversation, options.add_generation_prompt);
        // A thread that panicked while it held the map has left whole entries behind.
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&shape).cloned();
        if let Some(known) = known {
            return known;
        }
        let found: Arc<[Omission]> = Search { template, options, conversation, text }.run().into();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_SHAPES {
            known.insert(shape, Arc::clone(&found));
        }
        found
    }
}

fn shape(conversation: &Conversation, add_generation_prompt: bool) -> Shape {
    let mut shape = vec![u8::from(!conversation.tools.is_empty()) | u8::from(add_generation_prompt) << 1];
    shape.extend(conversation.messages.iter().map(|message| {
        let fields = [
            has_text(Some(&message.content)),
            has_calls(message),
            has_text(message.reasoning_content.as_deref()),
            has_text(message.name.as_deref()),
            message.tool_call_id.is_some(),
        ];
        let fields = fields.iter().fold(0, |bits, &has| bits << 1 | u8::from(has));
        fields << 3 | message.role as u8
    }));
    shape
}

fn has_text(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.trim().is_empty())
}

fn has_calls(message: &Message) -> bool {
    message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
}

/// A part that a template may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Tools,
    ToolCalls(usize),
    Reasoning(usize),
    Content(usize),
    Name(usize),
}

struct Search<'a> {
    template: &'a ChatTemplate,
    options: &'a RenderOptions,
    conversation: &'a Conversation,
    text: &'a str,
}

impl Search<'_> {
    fn run(&self) -> Vec<Omission> {
        let parts = self.parts();
        let mut marked = self.conversation.clone();
        for (number, &part) in parts.iter().enumerate() {
            change(&mut marked, part, &mark(number));
        }
        let marked = self.render(&marked);
        let is_marked = |number: usize| marked.as_ref().is_some_and(|marked| marked.contains(&mark(number)));
        let unmarked = parts.iter().enumerate().filter(|&(number, _)| !is_marked(number));
        let hidden: Vec<Part> =
            unmarked.map(|(_, &part)| part).filter(|&part| self.is_hidden(part)).collect();
        hidden.iter().map(|&part| self.omission(part, &hidden)).collect()
    }

    fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        if !self.conversation.tools.is_empty() {
            parts.push(Part::Tools);
        }
        for (i, message) in self.conversation.messages.iter().enumerate() {
            let of_message = [
                (has_calls(message), Part::ToolCalls(i)),
                (has_text(message.reasoning_content.as_deref()), Part::Reasoning(i)),
                (has_text(Some(&message.content)), Part::Content(i)),
                (has_text(message.name.as_deref()) && message.role != Role::Tool, Part::Name(i)),
            ];
            parts.extend(of_message.into_iter().filter(|(is_there, _)| *is_there).map(|(_, part)| part));
        }
        parts
    }

    /// Whether the text stays the same when the part is changed; where the template refuses the change, when it is taken
    /// away.
    fn is_hidden(&self, part: Part) -> bool {
        let mut other = self.conversation.clone();
        change(&mut other, part, &mark(0));
        let rendered = self.render(&other).or_else(|| {
            let mut other = self.conversation.clone();
            remove(&mut other, part).then(|| self.render(&other)).flatten()
        });
        rendered.is_some_and(|rendered| rendered == self.text)
    }

    fn omission(&self, part: Part, hidden: &[Part]) -> Omission {
        let messages = &self.conversation.messages;
        match part {
            Part::Tools => Omission::Tools,
            Part::ToolCalls(message) if says_nothing_else(&messages[message]) => {
                Omission::OnlyToolCalls { message }
            }
            Part::ToolCalls(message) => Omission::ToolCalls { message },
            Part::Reasoning(message) => {
                let mut later = messages.iter().enumerate().skip(message + 1);
                let is_shown = |(i, m): (usize, &Message)| {
                    has_text(m.reasoning_content.as_deref()) && !hidden.contains(&Part::Reasoning(i))
                };
                match later.any(is_shown) {
                    true => Omission::EarlierReasoning { message },
                    false => Omission::Reasoning { message },
                }
            }
            Part::Content(message) => Omission::Content { message, role: messages[message].role },
            Part::Name(message) => Omission::Name { message },
        }
    }

    fn render(&self, conversation: &Conversation) -> Option<String> {
        self.template.render(conversation, self.options).map(|rendered| rendered.text).ok()
    }
}

fn says_nothing_else(message: &Message) -> bool {
    !has_text(Some(&message.content)) && !has_text(message.reasoning_content.as_deref())
}

/// Letters that survive quoting, trimming and escaping, and that no mark of another number begins with.
fn mark(number: usize) -> String {
    format!("Qzx{number}xzQ")
}

fn change(conversation: &mut Conversation, part: Part, mark: &str) {
    let messages = &mut conversation.messages;
    match part {
        Part::Tools => conversation.tools.iter_mut().for_each(|tool| {
            let function = if tool.get("function").is_some() { &mut tool["function"] } else { tool };
            if let Value::Object(function) = function {
                function.insert("name".to_owned(), mark.into());
                function.insert("description".to_owned(), mark.into());
                let parameter = json!({"type": "string", "description": mark});
                let parameters = json!({"type": "object", "properties": { mark: parameter }});
                function.insert("parameters".to_owned(), parameters);
            }
        }),
        Part::ToolCalls(message) => {
            for call in messages[message].tool_calls.iter_mut().flatten() {
                let function = if call.get("function").is_some() { &mut call["function"] } else { call };
                if let Value::Object(function) = function {
                    function.insert("name".to_owned(), mark.into());
                    function.insert("arguments".to_owned(), json!({ mark: mark }));
                }
            }
        }
        Part::Reasoning(message) => messages[message].reasoning_content = Some(mark.to_owned()),
        Part::Content(message) => messages[message].content = mark.to_owned(),
        Part::Name(message) => messages[message].name = Some(mark.to_owned()),
    }
}

/// Takes a part away; false where a conversation cannot do without it.
fn remove(conversation: &mut Conversation, part: Part) -> bool {
    let messages = &mut conversation.messages;
    match part {
        Part::Tools => conversation.tools.clear(),
        Part::ToolCalls(message) => messages[message].tool_calls = None,
        Part::Reasoning(message) => messages[message].reasoning_content = None,
        Part::Content(_) => return false,
        Part::Name(message) => messages[message].name = None,
    }
    true
}
