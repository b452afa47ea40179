//! The one place that splits what a model wrote into its thought and its answer.
//!
//! Rules, for texts in which the thought is between marks such as `<think>` and `</think>`:
//! - A thought begins where its opening mark is the first thing in the text, or the first thing after another thought.
//!   What may be before the first mark: white space, invisible characters, the role (`assistant`,
//!   `<|im_start|>assistant`), up to 8 characters that are neither letter nor digit, or one letter or digit, which is
//!   the answer where none follows. A mark further on, for instance in an example or in a code block, is part of the
//!   answer.
//! - A thought ends at the first closing mark of its kind that is not in quotes; the marks of other kinds are part of
//!   it. Where further opening marks are inside it, the thought extends to their closing marks too, as far as there
//!   are any. Closing marks that are repeated directly after it belong to it.
//! - A text may begin inside a thought, because the chat template has written the opening mark. Where the prompt is
//!   known, [`TextStart`] says with which mark, and only that one's closing mark ends it. Servers do not say so. A
//!   closing mark without an opening one therefore ends a thought that began with the text, unless it is in quotes, in
//!   code or in the middle of a sentence (a space before it, a space and a small letter after it).
//! - A closing mark without an opening one at the end of a text: where the prompt is known to open no thought, it
//!   closes nothing, and what is before it is the answer. Where the prompt is not known, all of the text is
//!   thought: a verdict is rather missed than read from a thought. At the end of an answer after a thought such a mark
//!   is left out.
//! - A thought without a closing mark is open: the text was cut, or the model forgot to answer. It has no answer.
//!   Neither has a text in which nothing but white space follows the thought.
//! - White space between thought and answer belongs to neither. A text without a thought is its own answer, as it is.
//!
//! - Marks that are not known open a thought too where they are the first thing in the text and their name speaks of
//!   thinking: `<name>` with `</name>`, `<|name|>` with `<|/name|>` or `</|name|>`, `[NAME]` with `[/NAME]`. In square
//!   brackets the closing one has to be there, because a heading may be in them.
//!
//! gpt-oss writes channels instead of marks (`<|channel|>analysis<|message|>...`): `final` is the answer, also where
//! its header has a format (`final <|constrain|>json`), everything else is thought. The next channel may follow without
//! an end of the message, directly after its last word (`...<|channel|>final<|message|>`); a channel that a message
//! only talks about, with a space or a quote before it, is part of that message. Servers that drop special tokens leave
//! the channels' names alone (`analysisWe add... assistantfinal4`).

mod channels;
mod context;
mod marks;

use std::ops::Range;

use channels::{split_channel_names, split_channels};
use context::{code_ranges, count_unquoted, find_unquoted, is_in_sentence, is_quoted, is_unseen};
use marks::ROLES;

pub use marks::{ReasoningMark, ReasoningMarks};

/// Characters other than letters and digits that may be before the first thought.
const MAX_SIGNS: usize = 8;

/// Where a text begins, as far as the prompt before it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TextStart<'a> {
    /// Not known: a server's chat template may have opened a thought.
    #[default]
    Unknown,
    /// The prompt has opened no thought.
    Outside,
    /// The prompt has opened a thought with this mark.
    Inside(&'a ReasoningMark),
}

impl<'a> TextStart<'a> {
    /// After a prompt that is known, and the mark that it has opened.
    #[must_use]
    pub fn after(opened: Option<&'a ReasoningMark>) -> Self {
        opened.map_or(Self::Outside, Self::Inside)
    }
}

/// A text in its two parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SplitText<'a> {
    /// The thoughts, in order; the last may be open.
    pub thoughts: Vec<&'a str>,
    /// What was said; `None` where there is nothing but thought.
    pub answer: Option<&'a str>,
}

impl SplitText<'_> {
    /// All thoughts as one text; `None` where there is none, or none that says anything.
    #[must_use]
    pub fn reasoning(&self) -> Option<String> {
        let thoughts =
            self.thoughts.iter().map(|thought| thought.trim()).filter(|thought| !thought.is_empty());
        let joined = thoughts.collect::<Vec<_>>().join("\n\n");
        Some(joined).filter(|joined| !joined.is_empty())
    }
}

/// Splits a text into thought and answer. See the module for the rules.
#[must_use]
pub fn split_reasoning<'a>(text: &'a str, marks: &ReasoningMarks, start: TextStart<'_>) -> SplitText<'a> {
    // Letters of ASCII alone change, so that every place is the same in both.
    let lower = text.to_ascii_lowercase();
    let channels = split_channels(text, &lower, start).or_else(|| split_channel_names(text, &lower));
    if let Some(split) = channels {
        return split;
    }
    let named = marks.named_in(&lower);
    let marks = named.as_ref().unwrap_or(marks);
    let mut splitter = Splitter { text, lower: &lower, marks, at: 0, thoughts: Vec::new(), lead: None };
    let is_closed = splitter.take_unopened(start) && splitter.take_thoughts();
    let Splitter { at, thoughts, lead, .. } = splitter;
    let said = match (is_closed, thoughts.is_empty(), start) {
        (false, ..) => None,
        (true, true, TextStart::Outside) => Some(without_stray_end(text, marks)),
        (true, true, _) => Some(text),
        (true, false, _) => Some(without_stray_end(text[at..].trim_start(), marks)),
    };
    let answer = said.filter(|said| thoughts.is_empty() || !said.is_empty()).or(lead);
    SplitText { thoughts, answer }
}

/// An answer without closing marks at its end that close nothing in it.
fn without_stray_end<'a>(answer: &'a str, marks: &ReasoningMarks) -> &'a str {
    let mut rest = answer;
    loop {
        let lower = rest.trim_end().to_ascii_lowercase();
        let closes = |mark: &&ReasoningMark| {
            lower.ends_with(&mark.close)
                && count_unquoted(&lower, &mark.open) == 0
                && !code_ranges(rest).iter().any(|range| range.contains(&(lower.len() - mark.close.len())))
        };
        match marks.0.iter().find(closes) {
            Some(mark) => rest = rest[..lower.len() - mark.close.len()].trim_end(),
            None => return rest,
        }
    }
}

struct Splitter<'a, 'b> {
    text: &'a str,
    lower: &'b str,
    marks: &'b ReasoningMarks,
    /// Up to where the text has been taken.
    at: usize,
    thoughts: Vec<&'a str>,
    /// A letter or digit before the first thought: the answer where none follows.
    lead: Option<&'a str>,
}

impl Splitter<'_, '_> {
    /// Takes a thought that began before the text. False where it stays open.
    fn take_unopened(&mut self, start: TextStart<'_>) -> bool {
        let opening = self.opening();
        let found = match start {
            // A model that was given the opening mark may write it once more.
            TextStart::Inside(opened) if opening.as_ref().is_some_and(|(mark, _)| mark == opened) => {
                return true;
            }
            TextStart::Inside(opened) => find_unquoted(self.lower, 0, &opened.close.to_ascii_lowercase()),
            TextStart::Unknown | TextStart::Outside if opening.is_some() => return true,
            TextStart::Unknown | TextStart::Outside => match self.skip_lead() {
                true => return true,
                false => self.bare_close(start),
            },
        };
        match found {
            Some(close) => {
                self.thoughts.push(&self.text[..close.start]);
                self.at = close.end;
                self.skip_repeated(&self.lower[close]);
                true
            }
            None if matches!(start, TextStart::Inside(_)) => {
                self.thoughts.push(self.text);
                false
            }
            None => true,
        }
    }

    /// Skips what may be before the first opening mark. False where there is none.
    fn skip_lead(&mut self) -> bool {
        let rest = self.lower.trim_start_matches(is_unseen);
        let without_role = ROLES.iter().find_map(|role| rest.strip_prefix(role));
        let rest = without_role.unwrap_or(rest).trim_start_matches(is_unseen);
        let start = self.lower.len() - rest.len();
        let (mut n_signs, mut n_words) = (0, 0);
        for (offset, letter) in rest.char_indices() {
            let at = start + offset;
            let mark = self.marks.0.iter().find(|mark| self.lower[at..].starts_with(&mark.open));
            if let Some(mark) = mark
                && !is_quoted(self.lower, &(at..at + mark.open.len()))
            {
                self.at = at;
                self.lead = (n_words > 0).then(|| self.text[start..at].trim());
                return true;
            }
            match letter {
                '`' => return false,
                _ if letter.is_alphanumeric() => n_words += 1,
                _ if is_unseen(letter) => {}
                _ => n_signs += 1,
            }
            if n_words > 1 || n_words == 1 && n_signs > 0 || n_signs > MAX_SIGNS {
                return false;
            }
        }
        false
    }

    /// Takes thoughts as long as one begins here. False where one stays open.
    fn take_thoughts(&mut self) -> bool {
        while let Some((mark, inside)) = self.opening() {
            let Some(mut close) = find_unquoted(self.lower, inside, &mark.close) else {
                self.thoughts.push(&self.text[inside..]);
                return false;
            };
            let mut n_open = count_unquoted(&self.lower[inside..close.start], &mark.open);
            while n_open > 0 {
                // Marks that the thought only talks about need not be closed.
                let Some(next) = find_unquoted(self.lower, close.end, &mark.close) else { break };
                n_open += count_unquoted(&self.lower[close.end..next.start], &mark.open);
                n_open -= 1;
                close = next;
            }
            self.thoughts.push(&self.text[inside..close.start]);
            self.at = close.end;
            self.skip_repeated(&mark.close);
        }
        true
    }

    /// The mark that opens a thought here, and where its inside begins.
    fn opening(&self) -> Option<(ReasoningMark, usize)> {
        let rest = self.lower[self.at..].trim_start();
        let start = self.lower.len() - rest.len();
        let mark = self.marks.0.iter().find(|mark| rest.starts_with(&mark.open))?;
        Some((mark.clone(), start + mark.open.len()))
    }

    /// A closing mark that is there again.
    fn skip_repeated(&mut self, close: &str) {
        while let Some(rest) = self.lower[self.at..].trim_start().strip_prefix(close) {
            self.at = self.lower.len() - rest.len();
        }
    }

    /// A closing mark without its opening one, outside of code and sentences. Where the prompt is known to open no
    /// thought, something has to follow it.
    fn bare_close(&self, start: TextStart<'_>) -> Option<Range<usize>> {
        let mut code: Option<Vec<Range<usize>>> = None;
        let bare = |mark: &ReasoningMark| {
            let mut from = 0;
            loop {
                let close = find_unquoted(self.lower, from, &mark.close)?;
                let code = code.get_or_insert_with(|| code_ranges(self.text));
                if code.iter().any(|range| range.contains(&close.start)) || is_in_sentence(self.text, &close)
                {
                    from = close.end;
                } else {
                    let is_opened = count_unquoted(&self.lower[..close.start], &mark.open) > 0;
                    return Some(close).filter(|_| !is_opened);
                }
            }
        };
        let close = self.marks.0.iter().filter_map(bare).min_by_key(|close| close.start)?;
        let is_followed = || !without_stray_end(&self.text[close.end..], self.marks).trim().is_empty();
        (start != TextStart::Outside || is_followed()).then_some(close)
    }
}

#[cfg(test)]
mod tests;
