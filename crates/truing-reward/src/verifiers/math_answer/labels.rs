//! Labels in an answer: the letter of a choice, those of parts, and names with an equals sign that are no variables.

use std::sync::LazyLock;

use regex::Regex;

use super::latex::GREEK;
use super::plain::plain;
use super::structure::{Answer, parse};
use super::wording::{alters, lists};
use crate::verifiers::pattern::pattern;

/// The most labels of parts that are read.
const MAX_PARTS: usize = 12;

/// Words that name an answer without saying what it is.
const NEUTRAL: &str = "\
    answer answers final result results solution solutions value values total the a an our my your is are so \
    therefore thus hence correct of for number in to that and grand overall required desired exact sum x y n";

/// What a text with labels says: a choice, parts in the order of their labels, or the value of a name.
pub(super) fn labelled(text: &str) -> Option<Answer> {
    choice(text)
        .or_else(|| parts(text))
        .or_else(|| named(text))
        .or_else(|| ordinal(text))
        .or_else(|| share(text))
}

/// `3 out of 10`, `1 in 6`: a share of all.
fn share(text: &str) -> Option<Answer> {
    static SHARE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"^[\s$]*(?:\\text\s*\{\s*)?(?:(?P<a>\d{1,9})[\s}]*(?:\\text\s*\{)?\s*out\s+of[\s}]*|1[\s}]*",
            r"(?:\\text\s*\{)?\s*in[\s}]*)(?P<b>\d{1,9})[\s}$]*$",
        ))
    });
    let found = SHARE.captures(text)?;
    let above = found.name("a").map_or("1", |above| above.as_str());
    Some(parse(&format!("\\frac{{{above}}}{{{}}}", &found["b"])))
}

/// `(B) 12`, `B) 12`, `\textbf{(B)}\ \frac12`: the letter of a choice with what the choice says.
fn choice(text: &str) -> Option<Answer> {
    static CHOICE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"^[\s$]*(?:\\(?:text|textbf|textrm|mathrm|mathbf|bf)\s*\{?\s*)?",
            r"(?:\((?P<a>[A-E])\)|(?P<b>[A-E])[.):])[\s}]*",
            r"(?:\\[ ,;:]|\\q?quad\b|[\s~:$]|\}\s*)+(?P<rest>\S.*)$",
        ))
    });
    let found = CHOICE.captures(text)?;
    let letter = found.name("a").or_else(|| found.name("b"))?.as_str().to_owned();
    let rest = found.name("rest")?.as_str().trim_end_matches('$');
    // `(A) - (B)` and `(A) (B)` compute, or name two choices.
    let starts =
        rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '\\' | '-' | '$' | '(' | '√' | '['));
    let is_other = CHOICE.is_match(rest)
        || rest.starts_with("- ")
        || rest.starts_with("\\c")
        || rest.split(|c: char| !c.is_alphabetic()).any(|word| alters(word) || lists("or and wins is", word));
    if !starts || is_other || rest.contains('=') {
        return None;
    }
    match parse(rest) {
        Answer::Text(text) if text.is_empty() => None,
        // A letter beside a letter is a product or another choice.
        Answer::Value(value) if value.expression.has_variables() && rest.trim().len() <= 2 => None,
        inner => Some(Answer::Choice(letter, Box::new(inner))),
    }
}

/// Whether a line gives the answers of several parts, each of them a value.
pub(super) fn is_parts(line: &str) -> bool {
    match parts(line.trim()) {
        Some(Answer::Tuple(members)) => members.iter().all(|member| !matches!(member, Answer::Text(_))),
        _ => false,
    }
}

/// `(a) 3 (b) 4`, `(i) x = 2, (ii) 5`: the answers of all parts, in the order of their labels.
fn parts(text: &str) -> Option<Answer> {
    static STYLED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{\s*(?P<label>\([a-h1-9ivx]{1,3}\))\s*:?\s*\}")
    });
    static LABEL: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?:^|[\s,;$~]|\\[ ,;:]|\\q?quad)\s*(?:[Pp]art\s*)?\((?P<label>[a-h]|[1-9]|i{1,3}|iv|vi{0,3})\)\s*:?",
        )
    });
    if !text.contains('(') || text.len() > 1000 {
        return None;
    }
    let text = STYLED.replace_all(text, "$label ");
    let labels: Vec<_> = LABEL.captures_iter(&text).take(MAX_PARTS + 1).collect();
    if !(2..=MAX_PARTS).contains(&labels.len()) || labels[0].get(0)?.start() > 0 {
        return None;
    }
    let names: Vec<&str> =
        labels.iter().filter_map(|label| label.name("label")).map(|l| l.as_str()).collect();
    let kinds: [fn(usize) -> String; 3] = [
        |at| char::from(b'a' + at as u8).to_string(),
        |at| (at + 1).to_string(),
        |at| ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii"].get(at).copied().unwrap_or("-").to_owned(),
    ];
    let order = kinds.iter().find_map(|kind| {
        let place = |at| names.iter().position(|name| *name == kind(at));
        (0..names.len()).map(place).collect::<Option<Vec<_>>>()
    })?;
    let content = |at: usize| {
        let start = labels[at].get(0)?.end();
        let end = labels.get(at + 1).and_then(|next| next.get(0)).map_or(text.len(), |next| next.start());
        let content =
            text[start..end].trim_matches(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '.' | '$'));
        let content = content.strip_suffix(" and").unwrap_or(content).trim_end_matches([',', ';', ' ']);
        match parse(content) {
            Answer::Text(text) if text.is_empty() => None,
            found => Some(found),
        }
    };
    order.into_iter().map(content).collect::<Option<Vec<_>>>().map(Answer::Tuple)
}

/// The label directly before a box, as it is read in an answer: `x =`, `(a)`, `width:`.
pub(super) fn before(text: &str) -> Option<String> {
    static LABEL: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?:^|[^A-Za-z\\])(?:(?P<name>[A-Za-z](?:_\{?\w\}?)?)\s*=|\((?P<part>[a-h]|[1-9]|i{1,3}|iv)\)\s*[:.]?",
            r"|(?P<word>[A-Za-z]{3,})\}?\s*(?:=|:|\s(?:is|was)\b)\}?)[\s$*\\({]*$",
        ))
    });
    let found = LABEL.captures(text)?;
    let part = |name: &str| found.name(name).map(|part| part.as_str());
    part("name")
        .map(|name| format!("{name} ="))
        .or_else(|| part("part").map(|part| format!("({part})")))
        .or_else(|| part("word").map(|word| format!("\\text{{{word}}}:")))
}

/// `\int_0^1 x\,dx = \frac12`, `\lim_{x \to 0} f(x) = 3`, `\frac{dy}{dx} = 2x`, `\vec{v} = (1, 2)`: what is before
/// the equals sign only names the value.
fn named(text: &str) -> Option<Answer> {
    // The fifth line: f'(x), f^{-1}(x), f(g(2)), (f \circ g)(x).
    static NAME: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"^(?:\\(?:i{1,3}nt|oint|lim|sum|prod|det|triangle|dim|deg|Pr)(?:[^a-zA-Z]|$)",
            r"|\\[dt]?frac\s*\{\s*(?:d|\\mathrm\s*\{\s*d\s*\}",
            r"|\\partial)\s*\^?\{?\d?\}?\s*[a-z]?\s*\}\s*\{\s*(?:d|\\mathrm\s*\{\s*d\s*\}|\\partial)\s*[a-z]",
            r"|d[a-z]\s*/\s*d[a-z]\b|\\(?:mathbb|mathrm|operatorname|text)\s*\{\s*",
            r"(?:E|P|Var|Pr|rank|tr|det|Area|area)\s*\}\s*(?:\\left)?\s*[(\[]",
            r"|(?:[fgh]|\(\s*[fgh]\s*\\circ\s*[fgh]\s*\))(?:'{1,3}|\^\{?-1\}?|\^\{?\(\w\)\}?)?(?:\\left)?\(.*\)$",
            r"|[PE](?:\\left)?[(\[][A-Z|,\s\\{}a-z^'<>=\d\x{2264}\x{2265}]*(?:\\right)?[)\]]$|\\?\|\s*",
            r"(?:\\vec|\\overrightarrow|[A-Z]\s*(?:\\cup|\\cap|\\setminus)).*\|$",
            r"|[A-Z]\^)",
        ))
    });
    let text = text.trim().trim_matches('$').trim();
    let at = only_equals(text)?;
    let (name, value) = (text[..at].trim(), text[at + 1..].trim());
    let outside = without_brackets(&name.replace("\\left", "").replace("\\right", ""));
    let is_name = NAME.is_match(name)
        && !outside.contains(['<', '>', '!', '\u{2260}', '\u{2264}', '\u{2265}'])
        && !["\\ne", "\\le", "\\ge", "\\lt", "\\gt", "\\not"].iter().any(|sign| outside.contains(sign));
    if !is_name || value.is_empty() {
        return None;
    }
    // What the matrix of a product is: `A^{-1}`, but no other power.
    match parse(value) {
        Answer::Text(_) => None,
        inner
            if !name.contains('^')
                || !name.starts_with(char::is_uppercase)
                || matches!(inner, Answer::Matrix(_)) =>
        {
            Some(Answer::Assigned(plain(name), Box::new(inner)))
        }
        _ => None,
    }
}

/// A text without what is in round or square brackets.
fn without_brackets(text: &str) -> String {
    let mut depth = 0_i32;
    let kept = |letter: &char| {
        depth += i32::from(matches!(letter, '(' | '[')) - i32::from(matches!(letter, ')' | ']'));
        depth <= 0
    };
    text.chars().filter(kept).collect()
}

/// Where the one equals sign of a text is that stands outside of all brackets.
fn only_equals(text: &str) -> Option<usize> {
    let (mut depth, mut found) = (0_i32, None);
    for (at, letter) in text.char_indices() {
        match letter {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            '=' if depth == 0 && found.is_some() => return None,
            '=' if depth == 0 => found = Some(at),
            _ => {}
        }
    }
    found
}

/// `7th`, `7\text{th}`, `7^{\text{th}}`: the number of a place, which is not the number 7.
fn ordinal(text: &str) -> Option<Answer> {
    static ORDINAL: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"^[\s$]*(?:the\s+)?(?P<number>\d{1,9})\s*\$?(?:\^\s*\{?\s*)?(?:\\(?:text|textrm|mathrm|textbf)\s*\{\s*)?",
            r"(?P<ending>st|nd|rd|th)[\s}$]*$",
        ))
    });
    let found = ORDINAL.captures(text)?;
    let number: u32 = found["number"].parse().ok()?;
    let ending = match (number % 10, number / 10 % 10) {
        (_, 1) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    (found["ending"] == *ending).then(|| Answer::Text(format!("{number}{ending}")))
}

/// Whether two names can be those of the same value. Beside a name in words a variable says nothing, and `x_1` is a
/// value of `x`.
pub(super) fn same_name(a: &str, b: &str) -> bool {
    let is_worded = |name: &str| {
        let is_word = name.chars().count() > 2 && name.chars().all(|c| c.is_ascii_alphabetic());
        name.starts_with(':') || is_word && !lists(GREEK, name)
    };
    match (is_worded(a), is_worded(b)) {
        (false, false) => {
            a == b
                || a.split_once('_').is_some_and(|(a, _)| a == b)
                || b.split_once('_').is_some_and(|(b, _)| a == b)
        }
        (true, true) => {
            let words = |name: &str| -> Vec<String> {
                let words = name.trim_start_matches(':').split(' ').filter(|word| !lists(NEUTRAL, word));
                words.map(|word| word.trim_end_matches('s').to_lowercase()).collect()
            };
            let (left, right) = (words(a), words(b));
            left.iter().all(|word| right.contains(word)) || right.iter().all(|word| left.contains(word))
        }
        _ => true,
    }
}

/// The name of a value in words, by which values of other names differ from it; `None` where the words only say that it
/// is an answer.
pub(super) fn name_of<'a>(words: impl Iterator<Item = &'a str>) -> Option<String> {
    let words: Vec<String> = words.map(str::to_lowercase).collect();
    words.iter().any(|word| !lists(NEUTRAL, word)).then(|| format!(":{}", words.join(" ")))
}

/// The names of `(x,y)`.
pub(super) fn names(name: &str) -> Option<Vec<&str>> {
    Some(name.strip_prefix('(')?.strip_suffix(')')?.split(',').collect())
}

/// Whether all members have names, each its own.
pub(super) fn have_own_names(members: &[Answer]) -> bool {
    assignments(members).is_some_and(|(mut names, _)| {
        names.sort_unstable();
        names.windows(2).all(|pair| pair[0] != pair[1])
    })
}

/// The names and values of `x = 1, y = 2`.
pub(super) fn assignments(members: &[Answer]) -> Option<(Vec<&str>, Vec<Answer>)> {
    let pairs = members.iter().map(|member| match member {
        Answer::Assigned(name, inner) => Some((name.as_str(), (**inner).clone())),
        _ => None,
    });
    pairs.collect::<Option<Vec<_>>>().map(|pairs| pairs.into_iter().unzip())
}
