//! The one place that splits what a model wrote into its thought and its answer.
//!
//! Rules, for texts in which the thought stands between marks such as `<think>` and `</think>`:
//! - A thought begins where its opening mark is the first thing in the text, or the first thing after another thought. What may
//!   stand before the first mark: white space, invisible characters, the role (`assistant`, `<|im_start|>assistant`), up to 8
//!   characters that are neither letter nor digit, or one letter or digit, which is the answer where none follows. A mark
//!   further on, for instance in an example or in a code block, is part of the answer.
//! - A thought ends at the first closing mark of its kind that is not in quotes; the marks of other kinds are part of it. Where
//!   further opening marks stand inside it, the thought extends to their closing marks too, as far as there are any. Closing
//!   marks that are repeated directly after it belong to it.
//! - A text may begin inside a thought, because the chat template has written the opening mark. Where the prompt is known,
//!   [`TextStart`] says with which mark, and only that one's closing mark ends it. Servers do not say so. A closing mark without
//!   an opening one therefore ends a thought that began with the text, unless it is in quotes, in code or in the middle of
//!   a sentence (a space before it, a space and a small letter after it).
//! - A closing mark without an opening one at the end of a text: where the prompt is known to open no thought, it closes
//!   nothing, and what stands before it is the answer. Where the prompt is not known, all of the text is thought: a verdict
//!   is rather missed than read from a thought. At the end of an answer after a thought such a mark is left out.
//! - A thought without a closing mark is open: the text was cut, or the model forgot to answer. It has no answer. Neither has
//!   a text in which nothing but white space follows the thought.
//! - White space between thought and answer belongs to neither. A text without a thought is its own answer, as it is.
//!
//! - Marks that are not known open a thought too where they are the first thing in the text and their name speaks of thinking:
//!   `<name>` with `</name>`, `<|name|>` with `<|/name|>` or `</|name|>`, `[NAME]` with `[/NAME]`. In square brackets the closing
//!   one has to be there, because a heading may stand in them.
//!
//! gpt-oss writes channels instead of marks (`<|channel|>analysis<|message|>...`): `final` is the answer, also where its header has
//! a format (`final <|constrain|>json`), everything else is thought. The next channel may follow without an end of the message,
//! directly after its last word (`...<|channel|>final<|message|>`); a channel that a message only talks about, with a space or
//! a quote before it, is part of that message. Servers that drop special tokens leave the channels' names alone
//! (`analysisWe add... assistantfinal4`).

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What opens and closes a thought.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasoningMark {
    /// Opening tag, for instance `<think>`.
    pub open: String,
    /// Closing tag, for instance `</think>`.
    pub close: String,
}

/// The marks of the models that are known, in lower case.
const KNOWN: [(&str, &str); 24] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<seed:think>", "</seed:think>"),
    ("[think]", "[/think]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|start_thinking|>", "<|end_thinking|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<thoughts>", "</thoughts>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<mm:think>", "</mm:think>"),
    ("<think:opensource>", "</think:opensource>"),
    ("<ifm|think>", "</ifm|think>"),
    ("<ifm|think_fast>", "</ifm|think_fast>"),
    ("<ifm|think_faster>", "</ifm|think_faster>"),
    ("<|think_start|>", "<|think_end|>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|think|>", "<|/think|>"),
    ("[unused16]", "[unused17]"),
    // Gemma names its channel; without the name it is the same thought.
    ("<|channel>thought", "<channel|>"),
    ("<|channel>", "<channel|>"),
];
/// Parts of the names of marks that are not known.
const OF_THINKING: [&str; 4] = ["think", "thought", "reason", "scratchpad"];
/// Characters that the name of a mark has at most.
const LONGEST_NAME: usize = 40;

/// The marks that count as a thought's: those of known models, and further ones. Upper and lower case are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasoningMarks(Vec<ReasoningMark>);

impl Default for ReasoningMarks {
    fn default() -> Self {
        let mark = |(open, close): (&str, &str)| ReasoningMark { open: open.into(), close: close.into() };
        Self(KNOWN.into_iter().map(mark).collect())
    }
}

impl ReasoningMarks {
    /// These marks and further ones, for instance of a recipe. A mark without text, or that closes as it opens, is left out.
    #[must_use]
    pub fn with<'a>(mut self, further: impl IntoIterator<Item = &'a ReasoningMark>) -> Self {
        for mark in further {
            let mark = ReasoningMark {
                open: mark.open.trim().to_ascii_lowercase(),
                close: mark.close.trim().to_ascii_lowercase(),
            };
            let is_usable = !mark.open.is_empty() && !mark.close.is_empty() && mark.open != mark.close;
            if is_usable && !self.0.contains(&mark) {
                self.0.push(mark);
            }
        }
        self
    }

    /// These marks and those that a chat template declares: a pair of tags in its source, `<name>` and `</name>` or `[NAME]`
    /// and `[/NAME]`, whose name speaks of thinking.
    #[must_use]
    pub fn declared_by(self, template: &str) -> Self {
        let template = template.to_ascii_lowercase();
        let mut found = Vec::new();
        for (before, after) in [("</", '>'), ("[/", ']')] {
            for (at, _) in template.match_indices(before) {
                let rest = &template[at + before.len()..];
                let Some(name) = rest.find(after).map(|end| &rest[..end]) else { continue };
                let open = format!("{}{name}{after}", &before[..1]);
                if is_name_of_thinking(name) && template.contains(&open) {
                    found.push(ReasoningMark { open, close: format!("{before}{name}{after}") });
                }
            }
        }
        self.with(&found)
    }

    /// These marks and the one that is the first thing in a text, where its name speaks of thinking and it is not known.
    fn named_in(&self, lower: &str) -> Option<Self> {
        let start = lower.trim_start_matches(is_unseen);
        let without_role = ROLES.iter().find_map(|role| start.strip_prefix(role));
        let start = without_role.unwrap_or(start).trim_start_matches(is_unseen);
        if self.0.iter().any(|mark| start.starts_with(&mark.open)) {
            return None;
        }
        let (before, after) = [("<|", "|>"), ("<", ">"), ("[", "]")]
            .into_iter()
            .find(|(before, _)| start.starts_with(before))?;
        let name = &start[before.len()..start.find(after)?];
        let is_fit = is_name_of_thinking(name) && name.contains(|c: char| c.is_alphabetic());
        let open = format!("{before}{name}{after}");
        // A tag that is never closed in a text of its own is a thought that was cut.
        let closes = [format!("{}/{name}{after}", &before[..1]), format!("{before}/{name}{after}")]
            .into_iter()
            .chain((before == "<|").then(|| format!("</|{name}|>")));
        // A word in brackets may as well be a heading.
        let is_fit = is_fit && (before != "[" || closes.clone().any(|close| lower.contains(&close)));
        let close =
            closes.clone().find(|close| lower.contains(close.as_str())).or_else(|| closes.clone().next())?;
        is_fit.then(|| self.clone().with(&[ReasoningMark { open, close }]))
    }

    /// The mark that a prompt ends in, so that the model's text begins inside a thought.
    #[must_use]
    pub fn opened_at_end(&self, prompt: &str) -> Option<ReasoningMark> {
        let end = prompt.trim_end().to_ascii_lowercase();
        let channel = ReasoningMark { open: format!("{CHANNEL}analysis{MESSAGE}"), close: END.to_owned() };
        self.0.iter().chain(std::iter::once(&channel)).find(|mark| end.ends_with(&mark.open)).cloned()
    }

    /// The mark of a thought that the beginning of an assistant's turn opens and leaves open, as where a chat template
    /// also writes the first words of the thought. `turn` is the end of the prompt, from the last special token on that
    /// is not a mark of a thought; where a template has no special tokens, all of the prompt. The role may stand before the
    /// mark; a mark further on, for instance in a question, opens nothing.
    #[must_use]
    pub fn opened_in_turn(&self, turn: &str) -> Option<ReasoningMark> {
        let turn = turn.to_ascii_lowercase();
        let mark_at = |mark: &ReasoningMark| turn.rfind(&mark.open).map(|at| at + mark.open.len());
        let (mark, inside) =
            self.0.iter().filter_map(|mark| Some((mark, mark_at(mark)?))).max_by_key(|found| found.1)?;
        let before = turn[..inside - mark.open.len()].trim();
        // Gemma calls the speaker so, after a special token that is no longer in the turn.
        let is_at_start =
            before.is_empty() || before == "model" || ROLES.iter().any(|role| before.ends_with(role));
        let is_closed =
            turn[inside..].contains(&mark.close) || ROLES.iter().any(|role| turn[inside..].contains(role));
        (is_at_start && !is_closed).then(|| mark.clone())
    }

    /// Whether a text names one of the marks.
    #[must_use]
    pub fn occur_in(&self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        self.0.iter().any(|mark| text.contains(&mark.open) || text.contains(&mark.close))
    }

    /// Bytes at the end of a growing text that are, or may become, closing marks.
    #[must_use]
    pub fn closing_at_end(&self, text: &str) -> usize {
        let longest = self.0.iter().map(|mark| mark.close.len()).max().unwrap_or(0);
        let mut end = text.trim_end().len();
        let mut before = text.len();
        loop {
            let near_end = (end.saturating_sub(longest)..=end).find(|&at| text.is_char_boundary(at));
            let start = near_end.unwrap_or(end);
            let tail = text[start..end].to_ascii_lowercase();
            let closes =
                |(at, _): &(usize, char)| self.0.iter().any(|mark| mark.close.starts_with(&tail[*at..]));
            let Some((at, _)) = tail.char_indices().find(closes) else { return text.len() - before };
            before = start + at;
            end = text[..before].trim_end().len();
        }
    }

    /// Whether a piece of text is one of the marks. Tokenizers may have special tokens for them.
    #[must_use]
    pub fn contains(&self, text: &str) -> bool {
        let text = text.trim().to_ascii_lowercase();
        self.0.iter().any(|mark| mark.open == text || mark.close == text)
    }

    /// The marks of gpt-oss's channels.
    #[must_use]
    pub fn of_channels() -> [&'static str; 6] {
        [START, CHANNEL, MESSAGE, END, "<|return|>", "<|call|>"]
    }
}

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

    /// Skips what may stand before the first opening mark. False where there is none.
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

    /// A closing mark that stands there again.
    fn skip_repeated(&mut self, close: &str) {
        while let Some(rest) = self.lower[self.at..].trim_start().strip_prefix(close) {
            self.at = self.lower.len() - rest.len();
        }
    }

    /// A closing mark without its opening one, outside of code and sentences. Where the prompt is known to open no thought,
    /// something has to follow it.
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

/// White space and what is as invisible.
fn is_unseen(c: char) -> bool {
    c.is_whitespace() || c.is_control() || INVISIBLE.contains(&c)
}

/// Whether a tag's name, in lower case, is one of a thought.
fn is_name_of_thinking(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && !name.contains(|c: char| c.is_whitespace() || "<>[]/=\"'`".contains(c))
        && OF_THINKING.iter().any(|word| name.contains(word))
}

/// Whether a sentence runs on over a mark: a space before it, a space and a small letter after it.
fn is_in_sentence(text: &str, range: &Range<usize>) -> bool {
    let mut after = text[range.end..].chars();
    text[..range.start].trim_end_matches(' ').len() < range.start
        && after.next() == Some(' ')
        && after.next().is_some_and(char::is_lowercase)
        && text[..range.start].trim_end_matches(' ').chars().next_back().is_some_and(|c| c != '\n')
}

/// Where a mark stands next, not in quotes.
fn find_unquoted(lower: &str, from: usize, mark: &str) -> Option<Range<usize>> {
    lower[from..]
        .match_indices(mark)
        .map(|(at, _)| from + at..from + at + mark.len())
        .find(|range| !is_quoted(lower, range))
}

fn count_unquoted(lower: &str, mark: &str) -> usize {
    lower.match_indices(mark).filter(|(at, _)| !is_quoted(lower, &(*at..at + mark.len()))).count()
}

/// Whether quotes stand directly around it. A quote that opens and closes alike is no opening one right after a word or the end
/// of a sentence: `"yes"</think>"yes"` are two quotations, one before the mark and one after it.
fn is_quoted(text: &str, range: &Range<usize>) -> bool {
    const QUOTES: [(char, char); 8] =
        [('`', '`'), ('"', '"'), ('\'', '\''), ('“', '”'), ('‘', '’'), ('«', '»'), ('„', '“'), ('「', '」')];
    let mut before = text[..range.start].chars().rev();
    let (Some(open), Some(close)) = (before.next(), text[range.end..].chars().next()) else { return false };
    let ends_a_quotation =
        open == close && before.next().is_some_and(|c| c.is_alphanumeric() || ".,;!?…。！？".contains(c));
    QUOTES.contains(&(open, close)) && !ends_a_quotation
}

/// Blocks between fences that are closed, and code between backticks of one line.
fn code_ranges(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut fence: Option<(usize, &str)> = None;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        let mark = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some((start, mark)),
            // A closing fence has nothing behind it.
            (Some((from, opened)), Some(mark))
                if opened == mark && trimmed.trim_start_matches(&mark[..1]).is_empty() =>
            {
                ranges.push(from..start + line.len());
                fence = None;
            }
            (None, None) => {
                ranges.extend(inline_code(line).map(|range| start + range.start..start + range.end))
            }
            (Some(_), _) => {}
        }
        start += line.len();
    }
    ranges
}

fn inline_code(line: &str) -> impl Iterator<Item = Range<usize>> {
    let ticks: Vec<usize> = line.match_indices('`').map(|(at, _)| at).collect();
    let pairs: Vec<Range<usize>> = ticks.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
    pairs.into_iter()
}

/// Characters that are not seen beside white space: byte order mark, joiners, marks of direction.
const INVISIBLE: [char; 8] =
    ['\u{feff}', '\u{200b}', '\u{200c}', '\u{200d}', '\u{200e}', '\u{200f}', '\u{2060}', '\u{ad}'];
/// The speaker, as templates write it and models repeat it.
const ROLES: [&str; 10] = [
    "<|im_start|>assistant",
    "<|turn>model",
    "<longcat_assistant>",
    "<seed:bos>assistant",
    "<|start_header_id|>assistant<|end_header_id|>",
    "<|assistant|>",
    "<start_of_turn>model",
    "[/inst]",
    "assistant:",
    "assistant",
];
/// Characters other than letters and digits that may stand before the first thought.
const MAX_SIGNS: usize = 8;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const END: &str = "<|end|>";
const CHANNEL_NAMES: [&str; 3] = ["analysis", "commentary", "final"];
const ENDS: [&str; 4] = [END, "<|return|>", "<|call|>", START];

/// A text in gpt-oss's channels; `None` where it is none.
fn split_channels<'a>(text: &'a str, lower: &str, start: TextStart<'_>) -> Option<SplitText<'a>> {
    let is_space = |c: char| c.is_whitespace() || INVISIBLE.contains(&c);
    let after_role = lower.trim_start_matches(is_space);
    let after_role =
        after_role.strip_prefix(START).map_or(after_role, |rest| &rest[rest.find(CHANNEL).unwrap_or(0)..]);
    let is_inside = matches!(start, TextStart::Inside(mark) if mark.close == END)
        && (lower.contains(&format!("{END}{START}")) || next_channel(lower, 0).is_some());
    if !after_role.starts_with(CHANNEL) && !is_inside {
        return None;
    }
    let mut split = SplitText::default();
    let end_of = |from: usize| {
        let end = ENDS.iter().filter_map(|mark| lower[from..].find(mark)).min();
        let end = end.map_or(text.len(), |end| from + end);
        next_channel(lower, from).map_or(end, |next| next.min(end))
    };
    let mut at = 0;
    if is_inside {
        at = end_of(0);
        split.thoughts.push(&text[..at]);
    }
    while let Some(channel) = lower[at..].find(CHANNEL) {
        let header_start = at + channel + CHANNEL.len();
        // A header that was cut has no content.
        let Some(length) = lower[header_start..].find(MESSAGE) else { break };
        let header = &lower[header_start..header_start + length];
        if header.contains(CHANNEL) || ENDS.iter().any(|mark| header.contains(mark)) {
            at = header_start;
            continue;
        }
        let said_start = header_start + length + MESSAGE.len();
        at = end_of(said_start);
        let said = &text[said_start..at];
        match header.trim_start().split(|c: char| c.is_whitespace() || c == '<').next() {
            Some("final") => split.answer = Some(said.trim_start()).filter(|answer| !answer.is_empty()),
            _ => split.thoughts.push(said),
        }
    }
    Some(split)
}

/// Where a channel begins that follows directly after what was said before it.
fn next_channel(lower: &str, from: usize) -> Option<usize> {
    lower[from..].match_indices(CHANNEL).map(|(at, _)| from + at).find(|&at| {
        let header = &lower[at + CHANNEL.len()..];
        let is_header = CHANNEL_NAMES.iter().any(|name| header.starts_with(name))
            && header.find(MESSAGE).is_some_and(|end| {
                !header[..end].contains(CHANNEL) && ENDS.iter().all(|mark| !header[..end].contains(mark))
            });
        let before = lower[..at].chars().next_back();
        is_header && before.is_none_or(|c| c != ' ' && !"`\"'“‘«„「(".contains(c))
    })
}

/// A text in gpt-oss's channels without their special tokens: a name, then what was said, and `assistant` before the
/// next name. `None` where it is none.
fn split_channel_names<'a>(text: &'a str, lower: &str) -> Option<SplitText<'a>> {
    const ANALYSIS: &str = "analysis";
    const FINAL: &str = "assistantfinal";
    // Words that a thought begins with, so that a text about an analysis and a name in a program are none.
    const FIRST_WORDS: [&str; 14] = [
        "we", "the", "user", "i", "let", "need", "it", "this", "first", "okay", "ok", "so", "given",
        "question",
    ];
    let begins = text.strip_prefix(ANALYSIS).filter(|said| said.starts_with(char::is_uppercase))?;
    let first: String = begins.chars().take_while(|c| c.is_alphabetic()).collect();
    let answer = lower.find(FINAL).filter(|&at| at >= ANALYSIS.len());
    if answer.is_none() && !FIRST_WORDS.contains(&&*first.to_ascii_lowercase()) {
        return None;
    }
    let said = answer.map(|at| text[at + FINAL.len()..].trim_start()).filter(|said| !said.is_empty());
    let thought = &text[ANALYSIS.len()..answer.unwrap_or(text.len())];
    Some(SplitText { thoughts: vec![thought], answer: said })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split<'a>(text: &'a str, start: TextStart<'_>) -> (Option<String>, Option<&'a str>) {
        let split = split_reasoning(text, &ReasoningMarks::default(), start);
        (split.reasoning(), split.answer)
    }

    fn mark(open: &str, close: &str) -> ReasoningMark {
        ReasoningMark { open: open.into(), close: close.into() }
    }

    fn think() -> ReasoningMark {
        mark("<think>", "</think>")
    }

    /// Text, its thought, its answer.
    const REPLIES: &[(&str, Option<&str>, Option<&str>)] = &[
        // No thought.
        ("The answer is 7.", None, Some("The answer is 7.")),
        ("", None, Some("")),
        ("  7\n", None, Some("  7\n")),
        ("I think 7 < 8.", None, Some("I think 7 < 8.")),
        ("<b>think</b> 7", None, Some("<b>think</b> 7")),
        // A thought, closed.
        ("<think>a</think>b", Some("a"), Some("b")),
        ("<think>\na\n</think>\n\nb\n", Some("a"), Some("b\n")),
        ("\n <think>a</think> b", Some("a"), Some("b")),
        ("<think>\n\n</think>\n\nb", None, Some("b")),
        ("<think></think>b", None, Some("b")),
        ("<Think>a</THINK>b", Some("a"), Some("b")),
        ("<thinking>a</thinking>b", Some("a"), Some("b")),
        ("<thought>a</thought>b", Some("a"), Some("b")),
        ("<reasoning>\na\n</reasoning>\n<answer>\nb\n</answer>", Some("a"), Some("<answer>\nb\n</answer>")),
        ("<scratchpad>a</scratchpad>b", Some("a"), Some("b")),
        ("<seed:think>a</seed:think>b", Some("a"), Some("b")),
        ("[THINK]a[/THINK]b", Some("a"), Some("b")),
        ("◁think▷a◁/think▷b", Some("a"), Some("b")),
        ("<|begin_of_thought|>a<|end_of_thought|>b", Some("a"), Some("b")),
        ("<|START_THINKING|>a<|END_THINKING|>b", Some("a"), Some("b")),
        ("<think>日本</think>答え", Some("日本"), Some("答え")),
        // A mark between two quotations is not in quotes; one that is quoted is.
        ("<think>say \"yes\"</think>\"yes\"", Some("say \"yes\""), Some("\"yes\"")),
        ("<think>so 'yes'</think>'yes'", Some("so 'yes'"), Some("'yes'")),
        ("<think>`x`</think>`y`", Some("`x`"), Some("`y`")),
        ("<think>He says \"go.\"</think>\"go\"", Some("He says \"go.\""), Some("\"go\"")),
        ("<think>I end with \"</think>\" later.</think>7", Some("I end with \"</think>\" later."), Some("7")),
        ("<think>Write (`</think>`) last.</think>7", Some("Write (`</think>`) last."), Some("7")),
        // Several.
        ("<think>a</think><think>b</think>c", Some("a\n\nb"), Some("c")),
        ("<think>a</think>\n<thinking>b</thinking>\nc", Some("a\n\nb"), Some("c")),
        ("<think>a</think></think>b", Some("a"), Some("b")),
        ("<think>a <think>b</think> c</think> d", Some("a <think>b</think> c"), Some("d")),
        ("<think>I write <think> first.</think> 7", Some("I write <think> first."), Some("7")),
        // The opening mark was the template's.
        ("a</think>\n\nb", Some("a"), Some("b")),
        ("a\n[/THINK]b", Some("a"), Some("b")),
        ("</think>\n\nb", None, Some("b")),
        ("```py\nprint(1)\n</think>\nb", Some("```py\nprint(1)"), Some("b")),
        // Open: no answer.
        ("<think>a", Some("a"), None),
        ("<think>", None, None),
        ("<think>\nmaybe [[2]], but", Some("maybe [[2]], but"), None),
        ("<think>a</think><think>b", Some("a\n\nb"), None),
        ("<think>a</thin", Some("a</thin"), None),
        ("<think>a</thinking>b", Some("a</thinking>b"), None),
        ("[THINK]a", Some("a"), None),
        // Nothing but thought.
        ("<think>a</think>", Some("a"), None),
        ("<think>a</think>\n\n", Some("a"), None),
        ("a</think>", Some("a"), None),
        // Marks that the answer talks about.
        ("Write <think>a</think> first.", None, Some("Write <think>a</think> first.")),
        ("```\n<think>\na\n</think>\n```", None, Some("```\n<think>\na\n</think>\n```")),
        ("```\na\n</think>\n```\nends it.", None, Some("```\na\n</think>\n```\nends it.")),
        ("Close it with `</think>`.", None, Some("Close it with `</think>`.")),
        ("Close it with \"</think>\".", None, Some("Close it with \"</think>\".")),
        ("In code: `x </think> y`.", None, Some("In code: `x </think> y`.")),
        ("<think>a</think>Close it with </think>.", Some("a"), Some("Close it with </think>.")),
        ("<think>a</think>b <think>c</think>", Some("a"), Some("b <think>c</think>")),
        ("<think>the mark `</think>` ends it</think>b", Some("the mark `</think>` ends it"), Some("b")),
        (
            "18. In HTML I close with </reasoning> as in XML.",
            None,
            Some("18. In HTML I close with </reasoning> as in XML."),
        ),
        ("The tags are a </think> b", None, Some("The tags are a </think> b")),
        ("The tag </think> is last.\n</think>\n7", Some("The tag </think> is last."), Some("7")),
        // Closing marks that are repeated, or that close nothing.
        ("<think>a</think></think>b", Some("a"), Some("b")),
        ("<think></think></think></think>18", None, Some("18")),
        ("</think> </think>\n</think>18", None, Some("18")),
        ("<think>a</think>7</think>", Some("a"), Some("7")),
        ("<think>a</think>7\n</think>\n</think>\n", Some("a"), Some("7")),
        ("<think>a</think>7 <think>b</think>", Some("a"), Some("7 <think>b</think>")),
        ("<think>a</think> 18 </thinking> 3", Some("a"), Some("18 </thinking> 3")),
        // What may stand before the first mark.
        ("\u{feff}<think>a</think>b", Some("a"), Some("b")),
        ("\u{200b} \u{feff}\n<think>a", Some("a"), None),
        (".<think>maybe 18", Some("maybe 18"), None),
        ("**<think>** maybe 18 </think> 3", Some("** maybe 18"), Some("3")),
        ("assistant\n<think>a</think>b", Some("a"), Some("b")),
        ("<|im_start|>assistant\n<think>maybe 18", Some("maybe 18"), None),
        ("<|start_header_id|>assistant<|end_header_id|>\n\n<think>a</think>b", Some("a"), Some("b")),
        ("x <think>18", Some("18"), Some("x")),
        ("x<think>a</think>b", Some("a"), Some("b")),
        ("7 <think>a</think>", Some("a"), Some("7")),
        ("I <b>think</b> 7", None, Some("I <b>think</b> 7")),
        ("So: <think>a</think>b", None, Some("So: <think>a</think>b")),
        ("\"<think>\" opens it.", None, Some("\"<think>\" opens it.")),
        ("`<think>` opens it.", None, Some("`<think>` opens it.")),
        // Channels.
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>{\"x\":1}<|return|>",
            Some("a"),
            Some("{\"x\":1}"),
        ),
        ("\u{feff}<|channel|>final<|constrain|>json<|message|>[1]", None, Some("[1]")),
        (
            "<|channel|>analysis<|message|>I write <|channel|>final<|message|>18 later<|end|>",
            Some("I write <|channel|>final<|message|>18 later"),
            None,
        ),
        (
            "<|channel|>commentary to=f <|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>b",
            Some("{}"),
            Some("b"),
        ),
        ("<|channel|>final<|end|><|start|>assistant<|channel|>analysis<|message|>a", Some("a"), None),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
            Some("a"),
            Some("b"),
        ),
        ("<|start|>assistant<|channel|>analysis<|message|>a", Some("a"), None),
        ("<|channel|>final<|message|>b", None, Some("b")),
        // Without ends of messages.
        (
            "<|channel|>analysis<|message|>2 + 2 is 4.<|channel|>final<|message|>4",
            Some("2 + 2 is 4."),
            Some("4"),
        ),
        ("<|channel|>analysis<|message|>a\n<|channel|>final<|message|>\nb", Some("a"), Some("b")),
        (
            "<|channel|>analysis<|message|>a<|channel|>commentary<|message|>c<|channel|>final <|constrain|>json<|message|>[1]",
            Some("a\n\nc"),
            Some("[1]"),
        ),
        (
            "<|channel|>analysis<|message|>First `<|channel|>final<|message|>`, I say 18",
            Some("First `<|channel|>final<|message|>`, I say 18"),
            None,
        ),
        ("<|channel|>analysis<|message|>18.<|channel|>final", Some("18.<|channel|>final"), None),
        ("<|channel|>analysis<|message|>18.<|channel|>final<|message|>", Some("18."), None),
        // Without special tokens.
        ("analysisWe add 2 and 2.assistantfinal4", Some("We add 2 and 2."), Some("4")),
        ("analysisWe add 2 and 2, so [[4]]", Some("We add 2 and 2, so [[4]]"), None),
        ("analysisNo calls.assistantfinal", Some("No calls."), None),
        ("analysis of the text: 4", None, Some("analysis of the text: 4")),
        ("analysisResult = 4", None, Some("analysisResult = 4")),
        ("The analysisWe made: assistantfinal4", None, Some("The analysisWe made: assistantfinal4")),
        // Marks of more families.
        ("<|channel>thought\na\n<channel|>b", Some("a"), Some("b")),
        ("<|channel>thought\n<channel|>b", None, Some("b")),
        ("<|channel>thought\nperhaps 18", Some("perhaps 18"), None),
        ("<|channel>a<channel|>\n\nb", Some("a"), Some("b")),
        ("a\n<channel|>b", Some("a"), Some("b")),
        ("<longcat_think>\na\n</longcat_think>\nb", Some("a"), Some("b")),
        ("so 18\n</longcat_think>\n3", Some("so 18"), Some("3")),
        ("<longcat_think>so 18", Some("so 18"), None),
        ("<mm:think>a</mm:think>b", Some("a"), Some("b")),
        ("<think:opensource>a</think:opensource>b", Some("a"), Some("b")),
        ("<ifm|think_fast>a</ifm|think_fast>b", Some("a"), Some("b")),
        ("<|think_start|>a<|think_end|>b", Some("a"), Some("b")),
        ("a<|think:end|>b", Some("a"), Some("b")),
        ("[unused16]a[unused17]b", Some("a"), Some("b")),
        // Marks whose names speak of thinking.
        ("<deep_think>a</deep_think>b", Some("a"), Some("b")),
        ("<Chain_of_Thought>\na\n</Chain_of_Thought>\nb", Some("a"), Some("b")),
        ("<inner:thoughts>a</inner:thoughts>b", Some("a"), Some("b")),
        ("[DEEP_THOUGHT]a[/DEEP_THOUGHT]b", Some("a"), Some("b")),
        ("<|deep_thought|>a<|/deep_thought|>b", Some("a"), Some("b")),
        ("<deep_think>so 18", Some("so 18"), None),
        ("[Reasoning] 2 + 2\n[Answer] 4", None, Some("[Reasoning] 2 + 2\n[Answer] 4")),
        ("<rethinking the='plan'>a</rethinking>b", None, Some("<rethinking the='plan'>a</rethinking>b")),
        ("`<deep_think>` opens it.", None, Some("`<deep_think>` opens it.")),
        ("<answer>7</answer>", None, Some("<answer>7</answer>")),
        ("[I think](http://a.b) so", None, Some("[I think](http://a.b) so")),
        ("<b>reasons</b>: 7", None, Some("<b>reasons</b>: 7")),
    ];

    #[test]
    fn closing_marks_at_the_end_of_a_growing_text() {
        let marks = ReasoningMarks::default();
        let held = |text: &str| text[text.len() - marks.closing_at_end(text)..].to_owned();
        for (text, expected) in [
            ("", ""),
            ("a \n", ""),
            ("a < b", ""),
            ("a <", "<"),
            ("轮</thin", "</thin"),
            ("a </think> \n", "</think> \n"),
            ("a</think>\n</Think>", "</think>\n</Think>"),
            ("a</think> b", ""),
            ("<", "<"),
        ] {
            assert_eq!(held(text), expected, "{text}");
        }
    }

    #[test]
    fn thought_and_answer_are_told_apart() {
        let n_with_thought = REPLIES.iter().filter(|(_, thought, _)| thought.is_some()).count();
        assert!(n_with_thought >= 40, "{n_with_thought}");
        for &(text, thought, answer) in REPLIES {
            assert_eq!(split(text, TextStart::Unknown), (thought.map(str::to_owned), answer), "{text}");
        }
    }

    #[test]
    fn an_answer_that_was_split_off_is_its_own_answer() {
        for &(text, _, answer) in REPLIES {
            // A mark shown as an example after a thought is the one text that reads differently without it.
            let is_example = |answer: &&str| {
                ["Close it with </think>", "18 </thinking>", "b <think>", "7 <think>"]
                    .iter()
                    .any(|example| answer.starts_with(example))
            };
            if let Some(answer) = answer.filter(|answer| !is_example(answer)) {
                assert_eq!(split(answer, TextStart::Unknown), (None, Some(answer)), "{text}");
            }
        }
    }

    #[test]
    fn a_text_may_begin_inside_a_thought() {
        for (text, thought, answer) in [
            ("a</think>b", Some("a"), Some("b")),
            ("<think>a</think>b", Some("a"), Some("b")),
            ("a", Some("a"), None),
            ("", None, None),
            ("the form is <think>x</think> so b", Some("the form is <think>x"), Some("so b")),
            (
                "Known tags are </thought> and so on. 5.</think>\n3",
                Some("Known tags are </thought> and so on. 5."),
                Some("3"),
            ),
            ("a </thought> 18", Some("a </thought> 18"), None),
            ("so x[/think] 18 and on", Some("so x[/think] 18 and on"), None),
            ("<thinking>a</thinking>18</think>b", Some("<thinking>a</thinking>18"), Some("b")),
            ("18</think>", Some("18"), None),
            ("</think></think>18", None, Some("18")),
            ("```\n</think>\nb", Some("```"), Some("b")),
            ("a</think><think>b</think>c", Some("a\n\nb"), Some("c")),
            ("a</think><think>b", Some("a\n\nb"), None),
            ("a<|end|><|start|>assistant<|channel|>final<|message|>b", Some("a"), Some("b")),
            ("[[2]] perhaps, or", Some("[[2]] perhaps, or"), None),
            ("a<|channel|>final<|message|>b <|end|>", Some("a"), Some("b ")),
            ("so <|channel|>final<|message|>b <|end|>", Some("so <|channel|>final<|message|>b"), None),
        ] {
            let opened = match text.contains("<|end|>") {
                true => mark("<|channel|>analysis<|message|>", "<|end|>"),
                false => think(),
            };
            let found = split(text, TextStart::Inside(&opened));
            assert_eq!(found, (thought.map(str::to_owned), answer), "{text}");
        }
        let square = mark("[think]", "[/think]");
        let found = split("a</think> 18 [/THINK] 3", TextStart::Inside(&square));
        assert_eq!(found, (Some("a</think> 18".into()), Some("3")));
    }

    #[test]
    fn where_the_prompt_opened_none_a_stray_mark_at_the_end_closes_nothing() {
        for (text, thought, answer) in [
            ("The answer is 7.</think>", None, Some("The answer is 7.")),
            ("7\n</think>\n\n</think>\n", None, Some("7")),
            ("7</reasoning></think>", None, Some("7")),
            ("</think>", None, Some("")),
            ("a</think>\n\nb", Some("a"), Some("b")),
            ("a</think>b</think>", Some("a"), Some("b")),
            ("Close it with `</think>`", None, Some("Close it with `</think>`")),
            ("<think>a</think>", Some("a"), None),
            ("  7\n", None, Some("  7\n")),
        ] {
            assert_eq!(split(text, TextStart::Outside), (thought.map(str::to_owned), answer), "{text}");
        }
        // A server may have opened one.
        assert_eq!(split("perhaps [[2]]</think>", TextStart::Unknown).1, None);
    }

    #[test]
    fn a_prompt_may_open_a_thought() {
        let marks = ReasoningMarks::default();
        for (prompt, expected) in [
            ("<|im_start|>assistant\n<think>\n", true),
            ("[INST]x[/INST][THINK]", true),
            ("<|start|>assistant<|channel|>analysis<|message|>", true),
            ("<|turn>model\n<|channel>thought\n", true),
            ("<|turn>model\n<|channel>thought\n<channel|>", false),
            ("<longcat_assistant><longcat_think>\n", true),
            ("<seed:bos>assistant\n<seed:think>", true),
            ("<|assistant|><|think:start|>", true),
            ("<|im_start|>assistant\n<think>\n\n</think>\n\n", false),
            ("<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", false),
            ("", false),
        ] {
            let opened = marks.opened_at_end(prompt);
            assert_eq!(opened.is_some(), expected, "{prompt}");
            assert_eq!(TextStart::after(opened.as_ref()) != TextStart::Outside, expected, "{prompt}");
        }
    }

    #[test]
    fn a_prompt_may_begin_a_thought() {
        let marks = ReasoningMarks::default();
        for (turn, expected) in [
            ("assistant\n<think>\nOkay, let me", true),
            ("\n\n<THINK>I have to", true),
            ("User: What is 2 + 2?\nAssistant: <think>\nWe add", true),
            ("assistant\n<think>\n\n</think>\n\nThe answer", false),
            ("assistant\nThe mark <think> opens", false),
            ("User: What is <think>?\nAssistant: It is", false),
            ("User: <think> hard\nAssistant:", false),
            ("model\n<|channel>thought\nI add", true),
            ("model\n<|channel>thought\n<channel|>It is", false),
            ("Which model\n<think> is", false),
            ("<longcat_assistant><longcat_think>\nWe add", true),
            ("assistant\n", false),
        ] {
            assert_eq!(marks.opened_in_turn(turn).is_some(), expected, "{turn}");
        }
    }

    #[test]
    fn further_marks_come_from_a_recipe_or_a_template() {
        let further = [mark("<Plan>", "</Plan>"), mark("", "x"), mark("|", "|")];
        let marks = ReasoningMarks::default().with(&further);
        let found = split_reasoning("<plan>a</plan>b", &marks, TextStart::Unknown);
        assert_eq!((found.reasoning().as_deref(), found.answer), (Some("a"), Some("b")));
        assert_eq!(split_reasoning("||b", &marks, TextStart::Unknown).answer, Some("||b"));

        let template =
            "{% if x %}<deep_thought>{{ m.r }}</deep_thought>{% endif %}<tool>{{ t }}</tool> [/INST]";
        let marks = ReasoningMarks::default().declared_by(template);
        assert_eq!(
            split_reasoning("<deep_thought>a</deep_thought>b", &marks, TextStart::Unknown).answer,
            Some("b")
        );
        assert_eq!(
            split_reasoning("<tool>a</tool>b", &marks, TextStart::Unknown).answer,
            Some("<tool>a</tool>b")
        );
        let opened = marks.opened_at_end("assistant\n<deep_thought>\n");
        assert_eq!(opened, Some(mark("<deep_thought>", "</deep_thought>")));
        assert!(marks.contains("</deep_thought>"));
    }

    #[test]
    fn no_text_makes_it_panic_and_nothing_is_lost() {
        let pieces = [
            "<think>",
            "</think>",
            "`",
            "```\n",
            "\"",
            "é",
            "日",
            "[THINK]",
            "[/think]",
            "<|channel|>",
            "final",
            "<|message|>",
            "<|end|>",
            "<|start|>",
            " ",
            "\n",
            "x",
        ];
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            let think = think();
            for start in [TextStart::Unknown, TextStart::Outside, TextStart::Inside(&think)] {
                let found = split_reasoning(&text, &ReasoningMarks::default(), start);
                let n_bytes: usize = found.thoughts.iter().chain(&found.answer).map(|part| part.len()).sum();
                assert!(n_bytes <= text.len(), "{text}");
                assert!(
                    !found.thoughts.is_empty() || found.answer.is_some() || text.contains("<|"),
                    "{text}"
                );
            }
        }
    }
}
