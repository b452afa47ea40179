//! Whether a text says that the order of several values matters, which a list without brackets leaves open.

use std::sync::LazyLock;

use regex::Regex;

use super::excerpt::{MOST, head, tail};
use super::sentence::{sentence_end, sentence_start};
use crate::verifiers::pattern::pattern;

/// Words by which values are in an order of their own.
static ORDERED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:respectively|ordered|in\s+sequence|chronological(?:ly)?|alphabetical(?:ly)?|",
        r"(?:ascending|descending|increasing|decreasing)(?:ly)?)\b",
        r"|\bin\s+(?:(?:that|this|the|its|their|correct|right|given|same|proper|reverse|sorted",
        r"|numerical)\s+){0,2}order\b(?P<to>\s+(?:to|for|that)\b)?",
        r"|\bsort(?:ed|ing)?\b|\brank(?:ed|ing)\b|\barrang(?:ed|ing)\b",
        r"|\bfrom\s+(?:the\s+)?(?:least|smallest|lowest|shortest|lightest|youngest|slowest|cheapest|earliest",
        r"|greatest|largest|biggest|highest|longest|heaviest|oldest|fastest|latest|most|fewest|left|right",
        r"|top|bottom|first|last|low|high|small|large)\s+to\b",
        r"|\b(?:next|first|last|following|previous|preceding|final|missing|initial|remaining|successive",
        r"|consecutive)\b[^.;,\n]{0,30}\b(?:terms?|numbers?|entries|elements|digits?|letters?|members|items",
        r"|powers|multiples|rows?|coefficients)\b",
        r"|\b(?:sequence|progression|permutation|quotient\s+and\s+(?:the\s+)?remainder)\b",
        r"|\bthe\s+first\b[^.;\n]*\bthe\s+(?:second|other|last)\b",
        r"|(?P<axis>\b[xyz]\$?[\s-]*)?\b(?P<coordinates>coordinates)\b",
        r"|依次|分别|分別|从小到大|从大到小|從小到大|從大到小|由小到大|由大到小|升序|降序|顺序|順序|先后|排列|坐标|座標",
        r"|[前后後下接][面来]?[一二两兩三四五几\d]+个?[项項个]",
    ))
});
/// Words that say that the order does not matter.
static UNORDERED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:in\s+(?:any|no\s+particular|either|whatever)\s+order|regardless\s+of\s+",
        r"(?:the\s+)?order|order\s+does\s+not\s+matter|unordered)\b|不分先后|顺序不限",
    ))
});
/// Words of the sentence before an answer with so few of which it is that of the sentence before it.
const FEW: usize = 6;

/// Whether words say that order matters.
pub(super) fn is_said(text: &str) -> bool {
    let is_order = |found: regex::Captures<'_>| {
        // "In order to find them"; "the x-coordinates" are values of one name.
        found.name("to").is_none() && (found.name("axis").is_none() || text.contains(" and "))
    };
    !UNORDERED.is_match(text) && ORDERED.captures_iter(text).any(is_order)
}

/// Whether the sentence in which a text gives its answer says that order matters; where it only leads to the answer,
/// the one before it counts too.
pub(super) fn matters(text: &str, answer: &str) -> bool {
    let is_several = answer.contains([',', ';', '\u{ff0c}', '\u{3001}']) || answer.contains(" and ");
    if answer.is_empty() || !is_several && !answer.contains('和') {
        return false;
    }
    let marked = || ["\\boxed", "\\fbox", "####"].iter().filter_map(|mark| text.rfind(mark)).max();
    let at = text.rfind(answer).or_else(marked).unwrap_or_else(|| text.trim_end().len());
    let start = sentence_start(text, at);
    let before = &text[start..at];
    let end = sentence_end(text, at.max(start));
    if is_said(tail(before, MOST)) || is_said(head(&text[at..end])) {
        return true;
    }
    let mut floor = start;
    let n_words =
        |text: &str| text.split_whitespace().filter(|word| word.contains(char::is_alphabetic)).count();
    // Back over lines with only marks of formulas.
    if n_words(before) > FEW {
        return false;
    }
    loop {
        let earlier = text[..floor].trim_end_matches(|c: char| !c.is_alphanumeric());
        if earlier.is_empty() {
            return false;
        }
        floor = sentence_start(text, earlier.len());
        let sentence = &text[floor..earlier.len()];
        if n_words(sentence) > 0 {
            return is_said(sentence);
        }
    }
}
