//! Where in a rendered conversation a message's own tokens are, for templates that do not mark them.
//!
//! The span of an assistant turn is what the model would have to say: from the end of the generation prompt
//! to the end-of-turn token, that one included, and nothing after it. Two ways lead there.
//!
//! 1. **Prefixes.** Most templates render a conversation so that its beginning renders to the beginning of the
//!    text. Then the turns before it with the generation prompt end where the span begins, and the turns up to
//!    it end where the span ends. Each prefix is checked against the text, not assumed.
//! 2. **Substitution.** Some templates rewrite the past (Qwen 3 drops earlier reasoning). Then the message's
//!    content is replaced by a mark and the conversation rendered again; what is before the mark is before
//!    the content in the real text too, and what stands after it is after. This is checked as well.
//!
//! When both fail there is an error, never a guess.

use std::ops::Range;

use truing_types::{Conversation, Message, Role};

use crate::{ChatTemplate, RenderOptions, TextError, Tokenizer};

/// Text that stands for a message's content while it is being searched for. The outer characters are Unicode
/// noncharacters; no template trims or splits at them.
const MARK: &str = "\u{fdde}content\u{fddf}";

/// What a template puts around an assistant turn, found out by rendering a conversation of our own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TurnShape {
    /// What `add_generation_prompt` adds, for instance `<|im_start|>assistant\n`.
    pub(crate) header: Option<String>,
    /// The special token right after the content, for instance `<|im_end|>`.
    pub(crate) end_of_turn: Option<String>,
    /// The template writes the generation prompt even when it is not asked for.
    always_prompts: bool,
}

/// A span, and whether the template kept the beginning of the conversation as it was.
pub(crate) struct TurnSpan {
    pub(crate) bytes: Range<usize>,
    pub(crate) ends_its_turn: bool,
    pub(crate) is_prefix_preserved: bool,
}

/// Finds spans in one rendered conversation.
pub(crate) struct SpanFinder<'a> {
    pub(crate) template: &'a ChatTemplate,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) options: &'a RenderOptions,
    pub(crate) shape: &'a TurnShape,
    pub(crate) conversation: &'a Conversation,
    /// The conversation rendered without generation prompt.
    pub(crate) text: &'a str,
}

impl TurnShape {
    /// Renders a short conversation and looks at what is around its answer. A template that refuses it
    /// leaves the shape unknown, which later costs nothing unless the shape is needed.
    pub(crate) fn of(template: &ChatTemplate, tokenizer: &Tokenizer, options: &RenderOptions) -> Self {
        let question = Message::new(Role::User, "question");
        let answer = Message::new(Role::Assistant, MARK);
        let render = |messages: &[&Message], add_generation_prompt| {
            let messages = messages.iter().map(|&message| message.clone()).collect();
            let options = RenderOptions { add_generation_prompt, ..options.clone() };
            template
                .render(&Conversation { messages, tools: Vec::new() }, &options)
                .map(|rendered| rendered.text)
                .ok()
        };
        let mut shape = Self::default();
        if let (Some(plain), Some(prompted)) = (render(&[&question], false), render(&[&question], true)) {
            shape.always_prompts = plain == prompted;
            shape.header = prompted.strip_prefix(&plain).filter(|h| !h.is_empty()).map(str::to_owned);
        }
        if let Some(whole) = render(&[&question, &answer], false)
            && let Some((_, tail)) = whole.split_once(MARK)
        {
            let tail = tail.trim_start();
            shape.end_of_turn = tokenizer
                .special_tokens()
                .map(|(_, text)| text)
                .filter(|text| tail.starts_with(text))
                .max_by_key(|text| text.len())
                .map(str::to_owned);
            if let (None, true, Some(end)) = (&shape.header, shape.always_prompts, &shape.end_of_turn) {
                let after = &tail[end.len()..];
                shape.header = Some(after.to_owned()).filter(|header| !header.trim().is_empty());
            }
        }
        shape
    }
}

impl SpanFinder<'_> {
    fn render(&self, conversation: &Conversation, add_generation_prompt: bool) -> Option<String> {
        let options = RenderOptions { add_generation_prompt, ..self.options.clone() };
        self.template.render(conversation, &options).map(|rendered| rendered.text).ok()
    }

    fn beginning(&self, n_messages: usize) -> Conversation {
        Conversation {
            messages: self.conversation.messages[..n_messages].to_vec(),
            tools: self.conversation.tools.clone(),
        }
    }

    /// What message `index` would have to be said by the model: content, tool calls, end-of-turn token.
    pub(crate) fn assistant_turn(&self, index: usize) -> Result<TurnSpan, TextError> {
        let prompt = self.render(&self.beginning(index), true);
        let from_prefix =
            prompt.filter(|prompt| self.text.starts_with(prompt.as_str())).map(|prompt| prompt.len());
        let mut content = None;
        let start = match from_prefix {
            Some(start) => start,
            None => {
                let found = self.content(index)?;
                content = Some(found.clone());
                self.after_header(index, found.start)?
            }
        };
        let is_last = index + 1 == self.conversation.messages.len();
        let through = match is_last {
            true => Some(self.text.len()),
            false => self
                .render(&self.beginning(index + 1), false)
                .filter(|text| self.text.starts_with(text.as_str()))
                .map(|text| text.len()),
        };
        if let Some(end) = through.filter(|&end| end > start) {
            let (end, ends_its_turn) = self.end_of_bounded_turn(start..end);
            return Ok(TurnSpan {
                bytes: start..end,
                ends_its_turn,
                // Before the first message there is no history to be rewritten.
                is_prefix_preserved: from_prefix.is_some() || index == 0,
            });
        }
        let content_end = match content {
            Some(content) => content.end,
            None => self.content(index)?.end,
        };
        let Some(mark) = &self.shape.end_of_turn else {
            return Err(not_found(index, "the template changes earlier turns and has no end-of-turn token"));
        };
        let search = content_end.max(start);
        let Some(at) = self.text[search..].find(mark.as_str()) else {
            return Err(not_found(index, &format!("no `{mark}` follows the content")));
        };
        let end = search + at + mark.len();
        Ok(TurnSpan { bytes: start..end, ends_its_turn: true, is_prefix_preserved: false })
    }

    /// The content of any message, with the end-of-turn token where that follows directly.
    pub(crate) fn message(&self, index: usize) -> Result<Range<usize>, TextError> {
        let content = self.content(index)?;
        let end = match &self.shape.end_of_turn {
            Some(mark) if self.text[content.end..].starts_with(mark.as_str()) => content.end + mark.len(),
            _ => content.end,
        };
        Ok(content.start..end)
    }

    /// Cuts what follows the end-of-turn token: a newline, or the next turn's header of a template that always
    /// writes it. The second value says whether there was such a token.
    fn end_of_bounded_turn(&self, turn: Range<usize>) -> (usize, bool) {
        let text = &self.text[turn.clone()];
        let trimmed = text.trim_end();
        if !self.shape.always_prompts
            && self.tokenizer.special_tokens().any(|(_, special)| trimmed.ends_with(special))
        {
            return (turn.start + trimmed.len(), true);
        }
        match self.shape.end_of_turn.as_ref().and_then(|mark| Some((text.rfind(mark.as_str())?, mark))) {
            Some((at, mark)) => (turn.start + at + mark.len(), true),
            None => (turn.start + trimmed.len(), false),
        }
    }

    /// The bytes that a message's content has become, found by putting a mark in its place.
    fn content(&self, index: usize) -> Result<Range<usize>, TextError> {
        let mut marked = self.conversation.clone();
        marked.messages[index].content = MARK.to_owned();
        let rendered = self
            .render(&marked, false)
            .ok_or_else(|| not_found(index, "the template fails on another content"))?;
        let mut parts = rendered.split(MARK);
        let (Some(before), Some(after), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(not_found(index, "the template does not write the content exactly once"));
        };
        let is_same = self.text.starts_with(before) && self.text.ends_with(after);
        if !is_same {
            return Err(not_found(index, "the text around the content depends on the content"));
        }
        // Around an empty content the template may leave out a newline that both sides then share.
        let end = (self.text.len() - after.len()).max(before.len());
        Ok(before.len()..end)
    }

    /// The end of the last header before `content_start`; what is between is part of the turn.
    fn after_header(&self, index: usize, content_start: usize) -> Result<usize, TextError> {
        let before = &self.text[..content_start];
        let Some(header) = &self.shape.header else {
            // The template has no generation prompt, so nothing is between a turn's beginning and content.
            return Ok(content_start);
        };
        let Some(at) = before.rfind(header.as_str()) else {
            return Err(not_found(index, &format!("no `{}` before the content", header.escape_debug())));
        };
        let start = at + header.len();
        match &self.shape.end_of_turn {
            Some(mark) if before[start..].contains(mark.as_str()) => {
                Err(not_found(index, "another turn is between the header and the content"))
            }
            _ => Ok(start),
        }
    }
}

fn not_found(message: usize, reason: &str) -> TextError {
    TextError::SpanNotFound { message, reason: reason.to_owned() }
}
