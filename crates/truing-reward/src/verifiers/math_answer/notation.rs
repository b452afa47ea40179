//! Notations that are rewritten before an answer is read.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use crate::verifiers::pattern::pattern;

/// A text with the usual notation in the place of others that mean the same.
pub(super) fn in_one_notation(text: &str) -> String {
    // The combinations of ten and three.
    static CHOSEN: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^[\s$]*\{?\}?[_^]\{?(?P<n>\w{1,4})\}?\s*C_\{?(?P<k>\w{1,4})\}?[\s$]*$"));
    let text = CHOSEN.replace(text, "\\binom{$n}{$k}");
    // A matrix in square brackets.
    static ARRAY: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?s)\\left\s*\[\s*(?P<matrix>\\begin\{array\}[^\[\]|]*\\end\{array\})\s*\\right\s*\]")
    });
    let text = ARRAY.replace_all(&text, "$matrix");
    let text = unaligned(&text);
    turned_brackets(&repeating(&text)).into_owned()
}

/// `]2,5[` and `[2,5[` with round brackets where a square one is turned around; else the text as it is.
fn turned_brackets(text: &str) -> Cow<'_, str> {
    let mut turned = String::new();
    let (mut start, mut any) = (None, false);
    for (at, letter) in text.char_indices() {
        match (letter, start) {
            ('[' | ']', None) => {
                start = Some(at + 1);
                any |= letter == ']';
                turned.push(if letter == ']' { '(' } else { '[' });
            }
            ('[' | ']', Some(from)) => {
                let inner = text[from..at].trim_end_matches("\\right").trim_end_matches("\\left");
                let is_pair = |mark: char| {
                    inner.split_once(mark).is_some_and(|(low, high)| {
                        !high.contains(mark) && !low.trim().is_empty() && !high.trim().is_empty()
                    })
                };
                if !(is_pair(';') || is_pair(',')) {
                    return text.into();
                }
                start = None;
                any |= letter == '[';
                turned.push(if letter == '[' { ')' } else { ']' });
            }
            _ => turned.push(letter),
        }
    }
    if any && start.is_none() { turned.into() } else { text.into() }
}

/// The lines of an aligned formula as a list.
fn unaligned(text: &str) -> Cow<'_, str> {
    static ALIGNED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?s)^[\s$]*\\begin\{(?:align|aligned|gather|gathered|split)\*?\}(?P<lines>.*)\\end\{[a-z]+\*?\}[\s$]*$",
        )
    });
    match ALIGNED.captures(text) {
        Some(found) => {
            let lines = found["lines"].replace('&', "");
            let lines = lines.split("\\\\").map(|line| line.trim().trim_end_matches(','));
            lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ").into()
        }
        None => text.into(),
    }
}

/// `0.\dot{3}` and `0.(3)` with a line over what repeats.
fn repeating(text: &str) -> Cow<'_, str> {
    static DOTTED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?P<start>\d\.\d*)\\dot\s*\{?(?P<a>\d)\}?(?:(?P<b>\d*)\\dot\s*\{?(?P<c>\d)\}?)?")
    });
    static BRACKET: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^(?P<start>[\s$-]*\d+\.)\((?P<a>\d{1,9})\)(?P<rest>[\s$]*)$"));
    if text.contains("\\dot") {
        DOTTED.replace_all(text, "$start\\overline{$a$b$c}")
    } else {
        BRACKET.replace(text, "$start\\overline{$a}$rest")
    }
}
