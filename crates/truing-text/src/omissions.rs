//! What a template does not show of a conversation. It is found by rendering: where other tools, another call or
//! another text give the same rendered text, the model never sees them.
//!
//! A conversation is rendered once more with a mark in place of everything that could be shown. A mark that is in the
//! text is shown. What has no mark there is changed alone, and is an omission only when the text stays the same. What a
//! template shows depends on the shape of a conversation (its roles, which fields its turns have, and which arguments
//! its calls have), so that each shape is rendered once.
//!
//! Which part of a turn's text is shown may depend on that text (its length, a mark in it), so that every text is
//! looked for in the rendered one. Of a text that does not stand there as it is, words are changed in its lines that
//! are missing: where that leaves the rendered text as it was, they are cut.

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
    /// The descriptions of some tools.
    SomeTools,
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
    /// Some of a turn's calls.
    SomeToolCalls {
        /// Number of the message, counted from 0.
        message: usize,
    },
    /// The names of the functions that are called, though not the arguments.
    CalledNames {
        /// Number of the message, counted from 0.
        message: usize,
    },
    /// Arguments of calls, some or all.
    CallArguments {
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
    /// A part of the text of a turn.
    PartOfContent {
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
            Self::SomeTools => write!(f, "the template does not show every one of the `tools`"),
            Self::OnlyToolCalls { message } => write!(
                f,
                "message {message}: the template does not show its `tool_calls`: the turn trains only its end token"
            ),
            Self::ToolCalls { message } => {
                write!(f, "message {message}: the template does not show its `tool_calls`")
            }
            Self::SomeToolCalls { message } => {
                write!(f, "message {message}: the template does not show every one of its `tool_calls`")
            }
            Self::CalledNames { message } => {
                write!(
                    f,
                    "message {message}: the template does not show the function names of its `tool_calls`"
                )
            }
            Self::CallArguments { message } => {
                write!(f, "message {message}: the template does not show all arguments of its `tool_calls`")
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
            Self::PartOfContent { message, role } => {
                write!(
                    f,
                    "message {message}: the template leaves out a part of the text of this `{}` turn",
                    role.as_str()
                )
            }
            Self::Name { message } => write!(f, "message {message}: the template does not show its `name`"),
        }
    }
}

/// What decides what a template shows: the number of tools, and of each message its role, which fields it has, and the
/// names of its calls' arguments.
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
    ) -> Vec<Omission> {
        let search = Search { template, options, conversation, text };
        let mut found = self.of_shape(&search).to_vec();
        found.extend(search.cut_contents(&found));
        found
    }

    /// What a template does not show of any conversation of this shape.
    fn of_shape(&self, search: &Search<'_>) -> Arc<[Omission]> {
        let shape = shape(search.conversation, search.options.add_generation_prompt);
        // A thread that panicked while it held the map has left whole entries behind.
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&shape).cloned();
        if let Some(known) = known {
            return known;
        }
        let found: Arc<[Omission]> = search.run().into();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_SHAPES {
            known.insert(shape, Arc::clone(&found));
        }
        found
    }
}

fn shape(conversation: &Conversation, add_generation_prompt: bool) -> Shape {
    let mut shape = vec![u8::from(add_generation_prompt)];
    shape.extend((conversation.tools.len() as u32).to_le_bytes());
    for message in &conversation.messages {
        let fields = [
            has_text(Some(&message.content)),
            has_calls(message),
            has_text(message.reasoning_content.as_deref()),
            has_text(message.name.as_deref()),
            message.tool_call_id.is_some(),
        ];
        let fields = fields.iter().fold(0, |bits, &has| bits << 1 | u8::from(has));
        shape.push(fields << 3 | message.role as u8);
        for call in message.tool_calls.iter().flatten() {
            shape.push(u8::MAX);
            for name in argument_names(call) {
                shape.extend(name.as_bytes());
                shape.push(0);
            }
        }
    }
    shape
}

fn function_of(call: &Value) -> &Value {
    call.get("function").unwrap_or(call)
}

/// The arguments of a call by name; none where they are no object.
fn argument_names(call: &Value) -> impl Iterator<Item = &String> {
    function_of(call).get("arguments").and_then(Value::as_object).into_iter().flat_map(|object| object.keys())
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
    Tool(usize),
    CalledName(usize, usize),
    /// The argument of this number, in the order of the object; all of them where they are no object.
    Argument(usize, usize, usize),
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
        let mut found: Vec<Omission> = Vec::new();
        for &part in &hidden {
            let omission = self.omission(part, &hidden, &parts);
            if !found.contains(&omission) {
                found.push(omission);
            }
        }
        found
    }

    fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        parts.extend((0..self.conversation.tools.len()).map(Part::Tool));
        for (i, message) in self.conversation.messages.iter().enumerate() {
            for (number, call) in message.tool_calls.iter().flatten().enumerate() {
                parts.push(Part::CalledName(i, number));
                let n_arguments = match function_of(call).get("arguments") {
                    Some(Value::Object(arguments)) => arguments.len(),
                    Some(_) => 1,
                    None => 0,
                };
                parts.extend((0..n_arguments).map(|argument| Part::Argument(i, number, argument)));
            }
            let of_message = [
                (has_text(message.reasoning_content.as_deref()), Part::Reasoning(i)),
                (has_text(Some(&message.content)), Part::Content(i)),
                (has_text(message.name.as_deref()) && message.role != Role::Tool, Part::Name(i)),
            ];
            parts.extend(of_message.into_iter().filter(|(is_there, _)| *is_there).map(|(_, part)| part));
        }
        parts
    }

    /// Whether the text stays the same when the part is changed; where the template refuses the change, when it is
    /// taken away.
    fn is_hidden(&self, part: Part) -> bool {
        let mut other = self.conversation.clone();
        change(&mut other, part, &mark(0));
        let rendered = self.render(&other).or_else(|| {
            let mut other = self.conversation.clone();
            remove(&mut other, part).then(|| self.render(&other)).flatten()
        });
        rendered.is_some_and(|rendered| rendered == self.text)
    }

    fn omission(&self, part: Part, hidden: &[Part], parts: &[Part]) -> Omission {
        let messages = &self.conversation.messages;
        let are_hidden = |is_meant: &dyn Fn(Part) -> bool| {
            parts.iter().filter(|part| is_meant(**part)).all(|part| hidden.contains(part))
        };
        match part {
            Part::Tool(_) if are_hidden(&|part| matches!(part, Part::Tool(_))) => Omission::Tools,
            Part::Tool(_) => Omission::SomeTools,
            Part::CalledName(message, call) | Part::Argument(message, call, _) => {
                let of_turn = |part| call_of(part).is_some_and(|(of, _)| of == message);
                let of_call = |part| call_of(part) == Some((message, call));
                match part {
                    _ if are_hidden(&of_turn) && says_nothing_else(&messages[message]) => {
                        Omission::OnlyToolCalls { message }
                    }
                    _ if are_hidden(&of_turn) => Omission::ToolCalls { message },
                    _ if are_hidden(&of_call) => Omission::SomeToolCalls { message },
                    Part::CalledName(..) => Omission::CalledNames { message },
                    _ => Omission::CallArguments { message },
                }
            }
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

    /// Turns of which the template shows a part only. `known` are turns that it does not show at all.
    fn cut_contents(&self, known: &[Omission]) -> Vec<Omission> {
        let mut found = Vec::new();
        // Turns are in the rendered text in their order, which keeps words of another turn from standing in for them.
        let mut rest = self.text;
        for (i, message) in self.conversation.messages.iter().enumerate() {
            let (content, role) = (message.content.trim(), message.role);
            if content.is_empty() || known.contains(&Omission::Content { message: i, role }) {
                continue;
            }
            match rest.find(content) {
                Some(start) => rest = &rest[start + content.len()..],
                None if self.is_cut(i, content, rest) => {
                    found.push(Omission::PartOfContent { message: i, role });
                }
                None => {}
            }
        }
        found
    }

    /// Whether words of lines that are not in `rest` as they are can be changed without a change of the text.
    fn is_cut(&self, message: usize, content: &str, mut rest: &str) -> bool {
        let mut missing = Vec::new();
        for line in content.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match rest.find(line) {
                Some(start) => rest = &rest[start + line.len()..],
                None => missing.push(line),
            }
        }
        let (Some(first), Some(last)) = (missing.first(), missing.last()) else { return false };
        let middle = missing[missing.len() / 2];
        let mut words = [
            words(first).next(),
            words(last).next_back(),
            words(middle).nth(words(middle).count() / 2),
            words(first).next_back(),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<&str>>();
        words.sort_unstable_by_key(|word| word.as_ptr());
        words.dedup_by_key(|word| word.as_ptr());
        let original = &self.conversation.messages[message].content;
        words.into_iter().any(|word| {
            // Every word is a part of the original text.
            let start = word.as_ptr() as usize - original.as_ptr() as usize;
            let mut other = self.conversation.clone();
            other.messages[message].content.replace_range(start..start + word.len(), &mark(0));
            self.render(&other).is_some_and(|rendered| rendered == self.text)
        })
    }

    fn render(&self, conversation: &Conversation) -> Option<String> {
        self.template.render(conversation, self.options).map(|rendered| rendered.text).ok()
    }
}

fn says_nothing_else(message: &Message) -> bool {
    !has_text(Some(&message.content)) && !has_text(message.reasoning_content.as_deref())
}

/// Runs of letters and digits.
fn words(line: &str) -> impl DoubleEndedIterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// The turn and the call that a part belongs to.
fn call_of(part: Part) -> Option<(usize, usize)> {
    match part {
        Part::CalledName(message, call) | Part::Argument(message, call, _) => Some((message, call)),
        _ => None,
    }
}

/// Letters that survive quoting, trimming and escaping, and that no mark of another number begins with.
fn mark(number: usize) -> String {
    format!("Qzx{number}xzQ")
}

fn change(conversation: &mut Conversation, part: Part, mark: &str) {
    let messages = &mut conversation.messages;
    match part {
        Part::Tool(number) => {
            if let Value::Object(function) = function_of_mut(&mut conversation.tools[number]) {
                function.insert("name".to_owned(), mark.into());
                function.insert("description".to_owned(), mark.into());
                let parameter = json!({"type": "string", "description": mark});
                let parameters = json!({"type": "object", "properties": { mark: parameter }});
                function.insert("parameters".to_owned(), parameters);
            }
        }
        Part::CalledName(message, call) => {
            if let Some(Value::Object(function)) = call_mut(&mut messages[message], call) {
                function.insert("name".to_owned(), mark.into());
            }
        }
        Part::Argument(message, call, number) => {
            if let Some(Value::Object(function)) = call_mut(&mut messages[message], call) {
                match function.get_mut("arguments") {
                    Some(Value::Object(arguments)) => {
                        if let Some(value) = arguments.values_mut().nth(number) {
                            *value = mark.into();
                        }
                    }
                    Some(other) => *other = mark.into(),
                    None => {}
                }
            }
        }
        Part::Reasoning(message) => messages[message].reasoning_content = Some(mark.to_owned()),
        Part::Content(message) => messages[message].content = mark.to_owned(),
        Part::Name(message) => messages[message].name = Some(mark.to_owned()),
    }
}

fn function_of_mut(value: &mut Value) -> &mut Value {
    if value.get("function").is_some() { &mut value["function"] } else { value }
}

fn call_mut(message: &mut Message, call: usize) -> Option<&mut Value> {
    message.tool_calls.as_mut()?.get_mut(call).map(function_of_mut)
}

/// Takes a part away; false where a conversation cannot do without it.
fn remove(conversation: &mut Conversation, part: Part) -> bool {
    let messages = &mut conversation.messages;
    match part {
        Part::Tool(number) => drop(conversation.tools.remove(number)),
        Part::CalledName(message, call) | Part::Argument(message, call, _) => {
            let calls = &mut messages[message].tool_calls;
            if let Some(calls) = calls {
                calls.remove(call);
            }
            if calls.as_ref().is_some_and(Vec::is_empty) {
                *calls = None;
            }
        }
        Part::Reasoning(message) => messages[message].reasoning_content = None,
        Part::Content(_) => return false,
        Part::Name(message) => messages[message].name = None,
    }
    true
}
