//! The marks that enclose a thought: those of known models, of recipes, of chat templates, and of a text itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::channels::{CHANNEL, END, MESSAGE, START};
use super::context::is_unseen;

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

/// The speaker, as templates write it and models repeat it.
pub(super) const ROLES: [&str; 10] = [
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

/// The marks that count as a thought's: those of known models, and further ones. Upper and lower case are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasoningMarks(pub(super) Vec<ReasoningMark>);

impl Default for ReasoningMarks {
    fn default() -> Self {
        let mark = |(open, close): (&str, &str)| ReasoningMark { open: open.into(), close: close.into() };
        Self(KNOWN.into_iter().map(mark).collect())
    }
}

impl ReasoningMarks {
    /// These marks and further ones, for instance of a recipe. A mark without text, or that closes as it opens, is left
    /// out.
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

    /// These marks and those that a chat template declares: a pair of tags in its source, `<name>` and `</name>` or
    /// `[NAME]` and `[/NAME]`, whose name speaks of thinking.
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

    /// These marks and the one that is the first thing in a text, where its name speaks of thinking and it is not
    /// known.
    pub(super) fn named_in(&self, lower: &str) -> Option<Self> {
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
    /// is not a mark of a thought; where a template has no special tokens, all of the prompt. The role may be before
    /// the mark; a mark further on, for instance in a question, opens nothing.
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

/// Whether a tag's name, in lower case, is one of a thought.
fn is_name_of_thinking(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && !name.contains(|c: char| c.is_whitespace() || "<>[]/=\"'`".contains(c))
        && OF_THINKING.iter().any(|word| name.contains(word))
}
