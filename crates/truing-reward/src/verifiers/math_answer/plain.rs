//! An answer as a text that is compared letter by letter.

use std::sync::LazyLock;

use regex::Regex;

use super::token::narrow;
use crate::verifiers::pattern::pattern;

/// Letters and digits in lower case, commands for text and space left out.
pub(super) fn plain(text: &str) -> String {
    let text: String = text.chars().map(narrow).collect();
    let text = if text.contains("mod") { residue(&text) } else { text };
    const DROPPED: [&str; 13] = [
        "\\text",
        "\\textbf",
        "\\mathrm",
        "\\mathbf",
        "\\operatorname",
        "\\left",
        "\\right",
        "\\,",
        "\\!",
        "\\;",
        "\\:",
        "\\ ",
        "\\displaystyle",
    ];
    let text = DROPPED.iter().rev().fold(text, |text, command| text.replace(command, " "));
    let text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac");
    static ARTICLE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?i)^[\s{$]*(?:the|an?)\s+(?P<word>[a-z]{3})"));
    let text = ARTICLE.replace(&text, "$word");
    let letters: Vec<char> = text.chars().collect();
    let mut kept = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let beside_digit =
            |at: Option<usize>| at.and_then(|at| letters.get(at)).is_some_and(|c| c.is_ascii_digit());
        let is_point =
            matches!(letter, '.' | ',') && beside_digit(at.checked_sub(1)) && beside_digit(Some(at + 1));
        let is_mark =
            matches!(letter, '$' | '{' | '}' | '"' | '\'' | '`' | '\u{201c}' | '\u{201d}' | '\u{3002}')
                || (matches!(letter, '.' | ',' | ';' | '?') && !is_point);
        // f'(x) is another function than f(x).
        let is_prime = *letter == '\'' && letters.get(at + 1).is_some_and(|next| matches!(next, '(' | '\''));
        if is_prime || (!letter.is_whitespace() && !is_mark) {
            kept.extend(letter.to_lowercase());
        }
    }
    kept
}

/// A congruence with its modulus written as ` mod 5`, without brackets.
fn residue(text: &str) -> String {
    static MODULUS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"\\pmod\s*(?:\{(?P<a>[^{}]*)\}|(?P<b>\d))",
            r"|\(\s*(?:\\(?:text|mathrm|operatorname)\s*\{\s*)?\\?b?mod\b\s*\}?(?P<c>[^()]*)\)",
            r"|\\b?mod\b(?P<d>)",
        ))
    });
    MODULUS.replace_all(&text.replace('\u{2261}', "\\equiv "), " mod $a$b$c$d").into_owned()
}

/// Whether two texts are the same words, in upper or lower case; one word may be a product of variables.
pub(super) fn same_prose(a: &str, b: &str) -> bool {
    let bare = |text: &str| text.replace("\\text", " ").replace(['{', '}', '$'], " ");
    let is_prose = |text: &str| {
        text.split_whitespace().filter(|word| word.len() > 2).count() > 0
            && text.split_whitespace().count() > 1
            && text.chars().all(|c| c.is_alphabetic() || c.is_whitespace())
    };
    let (a, b) = (bare(a), bare(b));
    is_prose(&a)
        && is_prose(&b)
        && a.split_whitespace().map(str::to_lowercase).eq(b.split_whitespace().map(str::to_lowercase))
}
