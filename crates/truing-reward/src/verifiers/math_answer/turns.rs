//! The reply of a text that continues with further turns of a conversation or further examples.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::extract::marked;
use super::marked::Marked;
use super::sentence::{is_mathematics, unmarked};
use super::statement::N_STATEMENTS;
use crate::verifiers::pattern::pattern;

/// Where another asks: `Q:`, `Question 2:`, `Human:`, `### Instruction:`, the marks of chat templates.
static TURN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?im)^[ \t*_#>]*(?:Q|Question|Problem|Exercise|Human|User|Instruction|\x{95ee}\x{9898}",
        r"|\x{95ee})[*_]*(?:\s+#?\d{1,3})?[*_]*\s*[:\u{ff1a}]",
        r"|<\|im_start\|>\s*user\b|<\|start_header_id\|>\s*user\b|<\|user\|>|<start_of_turn>\s*user\b|\[INST\]",
    ))
});
/// Words by which a text without a marked answer has come to one.
static CONCLUDES: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)=|\b(?:so|therefore|thus|hence|total|altogether)\b"));
/// Words by which a text without a marked answer only repeats what is known, before it repeats the question.
static PREMISES: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)\b(?:given|suppose|let|known?|facts?|information|data|restate|rephrase|recap)\b")
});
/// Marks of chat templates around a reply or a solution.
static SPECIAL: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"<\|[A-Za-z_]{4,40}\|>|<(?:start|end)_of_turn>|</s>\s*$"));

/// A text up to the first question that it asks after it has given an answer, without the marks of chat templates.
pub(super) fn reply(text: &str) -> Cow<'_, str> {
    let asked = TURN.find_iter(text).take(N_STATEMENTS).map(|turn| turn.start());
    let end = asked.filter(|at| *at > 0).find(|at| has_answer(&text[..*at])).unwrap_or(text.len());
    SPECIAL.replace_all(&text[..end], "\n")
}

fn has_answer(text: &str) -> bool {
    let text = SPECIAL.replace_all(text, "\n");
    match marked(&text) {
        Marked::Found(_) => true,
        Marked::Refused => false,
        Marked::Nothing => {
            let asks = TURN.is_match(&text);
            let concludes =
                || CONCLUDES.is_match(&text) || text.trim().lines().next_back().is_some_and(is_mathematics);
            !asks && !PREMISES.is_match(&text) && concludes() && unmarked(&text).is_some()
        }
    }
}
