//! Which part of a text is its answer.

use std::sync::LazyLock;

use regex::Regex;

use super::boxed::{self, Context};
use super::excerpt::{MOST, tail, trimmed, without_spaces};
use super::labels;
use super::marked::Marked;
use super::sentence::{is_mathematics, number_said, unmarked, without_bold};
use super::statement::{N_STATEMENTS, QUALIFIED, clarified, corrected, stated};
use super::structure::{Answer, parse};
use super::turns::reply;
use super::wording;
use super::{Verdict, grade};
use crate::verifiers::pattern::pattern;

/// What a text gives as its answer, as it is written; `None` where it gives none.
///
/// Between `<answer>` and `</answer>`, where there are such tags: the last `\boxed{...}` or `####` counts,
/// unless a correction follows it; then the last "the answer is"; then what is between the tags, or where
/// there are none and marks are not required, the last number with the whole expression that it is in.
#[must_use]
pub fn extract_answer(text: &str, marked_only: bool) -> Option<String> {
    let text = &*reply(text);
    match marked(text) {
        Marked::Found(answer) => Some(answer),
        Marked::Refused => None,
        Marked::Nothing => unmarked(text).filter(|_| !marked_only),
    }
}

/// The letter that a text chooses of several.
pub(super) fn choice(text: &str) -> Option<String> {
    static CHOSEN: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?:\b(?:correct|right|best)\s+(?:option|choice|answer)\s+is|\b(?:option|choice)\s+is",
            r"|\bI\s+(?:choose|pick|select)|故选|故選|(?:^|[\s,;:。,;:]|所以|因此|故|答案|最后|最终|于是)(?:应该|应|只能|要)?",
            r"(?:选择|选))\s*[:\u{ff1a}]?[\s*_$]*(?P<letter>\(?[A-Z](?:[).:][^\n]*|[\s*.\u{3002}]*$))",
        ))
    });
    // "Therefore, option B is correct."
    static RIGHT: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?:^|[.,!]\s+)(?:(?:So|Thus|Hence|Therefore|so|thus|hence|therefore),?\s+)?(?:[Oo]nly\s+)?",
            r"(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+\(?(?P<letter>[A-Z])\)?\s+is\s+(?:the\s+)?",
            r"(?:correct|right)(?:\s+(?:option|choice|answer|one))?[.!*\s]*$",
        ))
    });
    let text = &*reply(text);
    match marked(text) {
        Marked::Found(answer) => letter_of(&answer),
        Marked::Refused => None,
        Marked::Nothing => {
            let mut lines = text.trim().lines().rev();
            let line = tail(lines.next()?, MOST);
            // The last of several options.
            static OPTION: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[\s*_(-]*[A-J][*_]*[.):]"));
            let before = lines.find(|line| !line.trim().is_empty());
            if OPTION.is_match(line) && before.is_some_and(|before| OPTION.is_match(before)) {
                return None;
            }
            let chosen = CHOSEN.captures_iter(line).last().and_then(|found| found.name("letter"));
            let is_right = RIGHT.captures(line).map(|found| found["letter"].to_owned());
            is_right.or_else(|| letter_of(chosen.map_or(line, |found| found.as_str())))
        }
    }
}

/// What a reference of one word says: true, false, yes or no.
pub(super) fn truth(word: &str) -> Option<&'static str> {
    let word = word.trim().trim_start_matches("\\text{").trim_end_matches(['}', '.']);
    ["true", "false", "yes", "no"].into_iter().find(|known| word.eq_ignore_ascii_case(known))
}

/// What a text without a mark says in its last sentence: "The statement is false.", "Yes."
pub(super) fn truth_said(text: &str) -> Option<&'static str> {
    static SAID: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^\W*(?:(?:since|because|as)\b[^.;\n]{1,200},\s+)?(?:(?:so|thus|hence|therefore)\b,?\s*)?",
            r"(?:(?:the|this|that)\s+(?:given\s+)?(?:statement|claim|assertion|proposition|equation",
            r"|inequality|conjecture)\s+is\s+)?",
            r"(?:(?P<said>true|false|yes|no)|(?P<yes>yes),\s+\w+\s+(?:is|are|does|do|can|will)|",
            r"(?P<no>no),\s+\w+\s+(?:is|are|does|do|can|will)\s*(?:not|n['\u{2019}]t))\W*$",
        ))
    });
    let text = &*reply(text);
    if !matches!(marked(text), Marked::Nothing) {
        return None;
    }
    let text = text.trim();
    let last = text.trim_end_matches(['.', '*', '!', ' ']);
    let start = last.rfind(['.', '\n', '?', '!', ';']).map_or(0, |at| at + 1);
    // "Is it? No." answers itself, and "not 18? Yes." as well.
    if text[..start].trim_end().ends_with('?') && start > 0 {
        return None;
    }
    let found = SAID.captures(&text[start..])?;
    let said = found.name("said").or_else(|| found.name("yes")).or_else(|| found.name("no"))?;
    truth(said.as_str())
}

/// The letter of `D`, `(D)`, `option D`, `D) Paris`.
pub(super) fn letter_of(answer: &str) -> Option<String> {
    static LETTER: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"^[\s*_>$]*(?:\\text(?:bf)?\{)?\s*(?:(?:[Oo]ption|[Cc]hoice)\s+|选项|選項|选择|选)?",
            r"(?:(?P<d>[A-Ea-e])\)|\((?P<a>[A-Z])\)(?P<x>.*)|(?P<b>[A-Z])(?P<y>[).:]\s*\S.*)|",
            r"(?P<c>[A-Z])(?:\s+\((?P<z>[^()]*)\))?)[}\s*_$.\u{3002}]*$",
        ))
    });
    static OTHERS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)\b(?:or|and|not|isn|wrong|incorrect|maybe|perhaps|option|choice)\b|\(?\b[A-Z]\)|\b[B-E][:.]\s|\?|=",
        )
    });
    let found = LETTER.captures(answer)?;
    let rest = found
        .name("x")
        .or_else(|| found.name("y"))
        .or_else(|| found.name("z"))
        .map_or("", |rest| rest.as_str());
    let rest = rest.strip_prefix([')', '.', ':']).unwrap_or(rest);
    let letter = found.name("a").or_else(|| found.name("b")).or_else(|| found.name("c"));
    let letter = letter.or_else(|| found.name("d"))?;
    (!OTHERS.is_match(rest)).then(|| letter.as_str().to_uppercase())
}

/// The marked answer alone.
pub(super) fn marked_answer(text: &str) -> Option<String> {
    match marked(text) {
        Marked::Found(answer) => Some(answer),
        Marked::Nothing | Marked::Refused => None,
    }
}

pub(super) fn marked(text: &str) -> Marked {
    match tagged(text) {
        None => marked_outside_tags(text),
        Some(None) => Marked::Refused,
        Some(Some((start, end))) => {
            let inside = &text[start..end];
            let (before, after) = (&text[..start - OPEN.len()], &text[end + CLOSE.len()..]);
            let before = tail(before.rsplit('\n').next().unwrap_or_default(), MOST);
            if boxed::is_denied(before) {
                return Marked::Refused;
            }
            let found = match marked_outside_tags(inside) {
                Marked::Nothing => Marked::Found(of_tag(inside)),
                found => found,
            };
            let said = match &found {
                Marked::Found(answer) => Some(answer.as_str()),
                Marked::Nothing | Marked::Refused => None,
            };
            match (corrected(said, after, false), marked_outside_tags(after)) {
                (Some(correction), _) => correction,
                (None, Marked::Found(later))
                    if said.is_none_or(|said| grade(&later, said) != Verdict::Equal) =>
                {
                    Marked::Refused
                }
                (None, _) => found,
            }
        }
    }
}

const OPEN: &str = "<answer>";
const CLOSE: &str = "</answer>";

/// Where the text between the last `<answer>` and its `</answer>` starts and ends (the form of DeepSeek-R1,
/// arXiv 2501.12948); `Some(None)` where the last tag is cut off and no box follows it. Without tags, and where
/// they are only mentioned, there is none.
fn tagged(text: &str) -> Option<Option<(usize, usize)>> {
    let lower = text.to_ascii_lowercase();
    let inside = lower.rfind(OPEN)? + OPEN.len();
    match lower[inside..].find(CLOSE) {
        Some(end) => Some(Some((inside, inside + end))),
        None if lower[inside..].contains("\\boxed") || lower[inside..].contains("####") => None,
        None => Some(None),
    }
}

/// What is between tags as an answer: all of it where it can be read or is qualified, else its last number.
fn of_tag(inside: &str) -> String {
    let all = trimmed(inside);
    if let Some(value) = clarified(&all) {
        return value;
    }
    match parse(&all) {
        Answer::Text(_) if !QUALIFIED.is_match(&all) => number_said(&all, true).unwrap_or(all),
        _ => all,
    }
}

fn marked_outside_tags(text: &str) -> Marked {
    let boxes = boxes(text);
    let Ok(boxes) = boxes else { return Marked::Refused };
    let hashes = hashed(text).map(|(at, answer)| (at, Some(answer)));
    let explicit = match (joined(text, &boxes), hashes) {
        (Some(boxed), Some(hashed)) if boxed.0 < hashed.0 => Some((hashed, false)),
        (Some(boxed), _) => Some((boxed, true)),
        (None, hashed) => hashed.map(|hashed| (hashed, false)),
    };
    let Some(((at, answer), is_boxed)) = explicit else {
        // An empty box marks no answer, and no other number is one.
        return match stated(text, false) {
            Marked::Nothing if !boxes.is_empty() => Marked::Refused,
            found => found,
        };
    };
    match corrected(answer.as_deref(), &text[at..], is_boxed) {
        Some(correction) => correction,
        None => answer.map_or(Marked::Refused, Marked::Found),
    }
}

/// The answer after the last `####` that marks one, with where it ends. A heading, of which the rest of the line is no
/// answer, is none.
fn hashed(text: &str) -> Option<(usize, String)> {
    static HASHES: LazyLock<Regex> = LazyLock::new(|| pattern(r"#{4,}([^\n#]*)"));
    static NAME: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^[\s*_]*(?:(?:so|thus|therefore|hence)\b,?\s*)?(?:the\s+)?",
            r"(?:final\s+|correct\s+)?answer\b[\s*_]*(?:\b(?:is|was)\b|[:=\u{ff1a}])?[\s*_:\u{ff1a}]*",
        ))
    });
    static NUMBERED: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[\s*_]*\d+\s*[.)]\s+\D"));
    let mut found: Vec<_> = HASHES.captures_iter(text).filter_map(|found| found.get(1)).collect();
    let first = found.len().saturating_sub(N_STATEMENTS);
    for line in found.drain(first..).rev() {
        let rest = &text[line.end()..];
        let name = NAME.find(line.as_str()).map_or(0, |name| name.end());
        let mut end = line.end();
        let mut answer = trimmed(&line.as_str()[name..]);
        if answer.is_empty() {
            let next = rest.trim_start();
            let next_line = next.lines().next().unwrap_or_default();
            // `####` alone has its answer on the next line, if a line is an answer by itself.
            if next_line.starts_with('#') || next_line.contains("\\boxed") {
                continue;
            }
            answer = trimmed(next_line);
            end = text.len() - next.len() + next_line.len();
        }
        if answer.is_empty() || NUMBERED.is_match(&answer) {
            continue;
        }
        let is_last = text[end..].trim().is_empty();
        if !(is_mathematics(&answer)
            || is_last && answer.split_whitespace().count() <= 4 && !is_heading(&answer))
        {
            let bare = without_bold(&answer);
            match number_said(&bare, name > 0 || end > line.end())
                .filter(|_| !bare.contains(": ") || name > 0)
            {
                Some(_) => {}
                None => continue,
            }
        }
        return Some((end, answer));
    }
    None
}

fn is_heading(text: &str) -> bool {
    const HEADINGS: &str = "\
        step part case verification solution explanation conclusion check checking summary given \
        approach method calculation calculations answer note reasoning analysis";
    text.split(|c: char| !c.is_alphabetic()).any(|word| wording::lists(HEADINGS, &word.to_lowercase()))
}

/// The contents of boxes with where they start and end; an error where the last one does not close.
fn boxes(text: &str) -> Result<Vec<(usize, usize, &str)>, ()> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(slash) = text[at..].find('\\') {
        let slash = at + slash;
        let names = ["\\boxed", "\\fbox", "\\framebox"];
        let Some(name) = names.iter().find(|name| text[slash..].starts_with(**name)) else {
            at = slash + 1;
            continue;
        };
        let start = (slash, name.len());
        let inner = start.0 + start.1;
        let rest = &text[inner..];
        let spaces = rest.len() - rest.trim_start().len();
        if rest[spaces..].starts_with('{') {
            let end = closing(&rest[spaces..]).ok_or(())?;
            found.push((start.0, inner + spaces + end + 1, &rest[spaces + 1..spaces + end]));
            at = inner + spaces + end + 1;
        } else {
            let end = rest[spaces..].find(|c: char| c.is_whitespace() || matches!(c, '$' | ',' | ';'));
            let content = &rest[spaces..end.map_or(rest.len(), |end| spaces + end)];
            at = inner + spaces + content.len();
            let content = content.trim_end_matches('.');
            if rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
                continue;
            }
            if content.is_empty() {
                return Err(());
            }
            found.push((start.0, at, content));
        }
    }
    Ok(found)
}

/// Where the brace closes that the text starts with.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut is_escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The last box, or the last boxes where only "and", "or", commas, the labels of parts ("(b)", "Part 2:", "x =") or
/// nothing is between them, with what is around them; the answer is `None` where that makes of them something
/// else. The same box twice is one.
fn joined(text: &str, boxes: &[(usize, usize, &str)]) -> Option<(usize, Option<String>)> {
    let (last, before) = boxes.split_last()?;
    let mut parts = vec![without_spaces(last.2)];
    let mut labels = Vec::new();
    let mut start = last.0;
    for (from, to, content) in before.iter().rev() {
        if is_range(&text[*to..start]) {
            return Some((last.1, None));
        }
        if !is_join(&text[*to..start]) || content.trim().is_empty() || parts.len() >= 64 {
            break;
        }
        parts.insert(0, without_spaces(content));
        labels.insert(0, labels::before(&text[*to..start]));
        start = *from;
    }
    labels.insert(0, labels::before(tail(&text[..start], MOST)));
    let (first, rest) = parts.split_first()?;
    if rest.iter().all(|part| part == first) {
        parts.truncate(1);
        start = last.0;
    }
    let answer = match labels.into_iter().collect::<Option<Vec<String>>>() {
        _ if parts.len() == 1 => parts[0].to_owned(),
        Some(labels) if labels.iter().any(|label| *label != labels[0]) => {
            let labelled = labels.iter().zip(&parts).map(|(label, part)| format!("{label} {part}"));
            labelled.collect::<Vec<_>>().join(", ")
        }
        _ => parts.join(", "),
    };
    if answer.is_empty() {
        return None;
    }
    let answer = match boxed::context(text, start, last.1, &answer) {
        Context::Plain => Some(answer),
        Context::With(answer) => Some(answer),
        Context::Refused => None,
    };
    Some((last.1, answer))
}

/// Whether what is between two boxes makes of them the ends of a range.
fn is_range(between: &str) -> bool {
    let between = between.replace(['$', ' ', '\n', '{', '}'], "").replace("\\text", "");
    matches!(between.as_str(), "to" | "through" | "until" | "-" | "--" | "\u{2013}" | "\u{2014}")
}

/// Whether what is between two boxes leaves them parts of one answer.
fn is_join(between: &str) -> bool {
    static LABEL: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)(?:^|[\s$,;.])(?:\\?[a-z](?:_\{?\w\}?)?\s*=",
            r"|(?:(?:part|question|problem|case|item|answer)\s*)?",
            r"(?:\([a-z0-9]{1,3}\)|[a-z0-9][.):](?:\s|$)|[ivx]{1,4}[.):])",
            r"|(?:part|question|problem|case|item|answer)\s+[a-z0-9]{1,2}\s*[:.)]?",
            r"|(?:[a-z]+\s+)?(?:length|width|height|area|perimeter|volume|radius|diameter|sum|product|mean",
            r"|median|mode|range|minimum|maximum|min|max|first|second|third|other|x|y|z)\s*(?::|=|is\b))",
            r"[\s*$:]*$",
        ))
    });
    // "Boys: 3, girls: 4"
    static NAMED: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?i)^[\s$.}*]*[,;]\s*(?:and\s+)?([a-z]{3,}):[\s$*]*$"));
    const CORRECTS: &str =
        "final answer correct corrected total check actually revised new result rather wait";
    if NAMED.captures(between).is_some_and(|name| !wording::lists(CORRECTS, &name[1].to_lowercase())) {
        return true;
    }
    let label = LABEL.replace(between, "");
    let bare = label.replace("\\text", "").replace("\\quad", "").replace("\\qquad", "");
    let bare = bare.replace(['$', ' ', '\n', ',', ';', '/', '{', '}', '*', '\\', '-'], "");
    matches!(bare.as_str(), "" | "." | "and" | "or" | "和" | "或" | "、" | "()" | "[]" | "][" | ")(")
}
