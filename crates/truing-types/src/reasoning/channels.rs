//! gpt-oss's channels, with their special tokens and without.

use super::context::INVISIBLE;
use super::{SplitText, TextStart};

pub(super) const START: &str = "<|start|>";
pub(super) const CHANNEL: &str = "<|channel|>";
pub(super) const MESSAGE: &str = "<|message|>";
pub(super) const END: &str = "<|end|>";
const CHANNEL_NAMES: [&str; 3] = ["analysis", "commentary", "final"];
const ENDS: [&str; 4] = [END, "<|return|>", "<|call|>", START];

/// A text in gpt-oss's channels; `None` where it is none.
pub(super) fn split_channels<'a>(text: &'a str, lower: &str, start: TextStart<'_>) -> Option<SplitText<'a>> {
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
pub(super) fn split_channel_names<'a>(text: &'a str, lower: &str) -> Option<SplitText<'a>> {
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
