//! Which part of a text is its answer.

use std::sync::LazyLock;

use num_traits::Signed;
use regex::Regex;

use super::boxed::{self, Context};
use super::clause::{self, Around};
use super::numerals;
use super::structure::{Answer, parse};
use super::token::narrow;
use super::{units, wording};

#[expect(clippy::unwrap_used, reason = "patterns of our own, compiled in a test")]
fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

/// "The answer is", "Final answer:", "A:" at the start of a line; the group is set where it denies.
static STATEMENT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?im)^[\s*_>#]*A(?:ns)?[*_]*\s*[:\u{ff1a}][*_]*",
        r"|\banswers?\b(?:\s+(?:to|for|of|here)\b[^.\n:]{0,80}?)?[\s*_]*",
        r"(?:(?P<no>(?:isn|wasn|aren|wouldn|can|couldn|shouldn)['\u{2019}]t\b(?:\s+be\b)?|cannot\s+be\b|(?:can|could|should|would|must)\s+not\s+be\b)",
        r"|(?:is|are|was|were|(?:would|will|should|must|could|has\s+to)\s+be|becomes|equals|comes\s+(?:out\s+)?to)\b|[:=\u{ff1a}])",
        r"(?:[\s*_]*\b(?:therefore|thus|then|simply|just|clearly|indeed|now|hence|still|really|actually|also)\b,?)*",
        r"[\s*_]*(?P<not>(?:definitely|certainly|clearly|obviously)?\s*(?:not|never)\b)?[\s*_]*[:\u{ff1a}]?[*_]*",
    ))
});
/// The same in other languages.
static FOREIGN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)(?:答案|答え|正解)(?:应该|应当|应|就|肯定|确实|也)*\s*(?P<no>不是|并非|不为|不等于)?\s*(?:(?:是|为|為|は|即)\s*[:\u{ff1a}]?|等于|[:\u{ff1a}=])?",
        r"|答\s*[:\u{ff1a}]",
        r"|(?:정답|답)은\s*|\bответ[*_]*\s*[:\u{2014}][\s*_]*",
        r"|\b(?:la\s+)?(?:respuesta|r\u{e9}ponse|resposta|antwort|risposta)\b[^.\n]{0,30}?(?:\b(?:es|est|ist)\b|\s[\u{e9}\u{e8}]\s|:)",
    ))
});
/// What replaces an answer that was given before: "no, it should be", "the correct total is".
static CORRECTION: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:no\s*[,.!\u{2014}\u{2013}-]|no\s+wait\b|(?:wait|actually|correction|sorry|oops|rather|instead)\b)[^.\n]{0,40}?",
        r"\b(?:it\s+is|it['\u{2019}]s|it\s+should\s+be|that\s+should\s+be|should\s+be|it\s+must\s+be)\s",
        r"|\b(?:correct|corrected|revised|right|actual|updated)\s+(?:value|total|result|amount|number|sum|count|solution|figure)\b[^.\n]{0,40}?\b(?:is|was|becomes|(?:should|would)\s+(?:be|have\s+been))\b",
        r"|\banswer\s+should\s+have\s+been\b",
        r"|(?:^|[.!\n]\s*)(?:so|but)\s+it\s+should\s+be\s",
    ))
});
/// What takes back the answer before it, whether another one follows or not; a new value may stand directly after it.
static CUE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?im)(?:^|[\n.!?;:,(\u{2014}\u{2013}\u{3002}\u{ff01}\u{ff0c}\u{ff08}]|\s-+|\.\.\.|\b(?:so|hmm|but|oh|and|well|ah)\b)[\s*_]*",
        r"(?:",
        r"(?:(?:no|non|nein|нет)\s*(?:[,.!\u{2014}\u{2013}-]|\bwait\b)|wait\b|hold\s+on\b|oops\b|actually\s*,|correction\b|corrected\s*:|(?:i\s+am\s+|i['\u{2019}]m\s+)?sorry\b|i\s+apologi[sz]e\b|my\s+mistake\b|scratch\s+that\b|on\s+second\s+thought\b|(?:edit|typo)\s*:",
        r"|revised\s*:|espera\b|perd\x{f3}n\b|correcci\x{f3}n\b|attendez\b|pardon\b|warte\b|korrektur\b|подожд\w*|等等|等一下|不对|不對|更正|修正|いや|いえ|訂正|待って)",
        r"(?:[\s,.!:\u{2014}\u{2013}\u{ff0c}\u{ff1a}\u{3001}-]*(?:(?:no|non|nein|wait|hold\s+on|espera|attendez|warte|sorry|i\s+meant|i\s+mean|make\s+(?:it|that)|it['\u{2019}]s|it\s+is|that['\u{2019}]s|there\s+are|es\s+ist|es|c['\u{2019}]est|应该是|應該是|是)(?:\b|[\s:\u{ff1a}]|$|\B)))*[\s,.!:\u{2014}\u{2013}\u{ff0c}\u{ff1a}\u{3001}*_-]*",
        r"|i\s+(?:have\s+|['\u{2019}]ve\s+)?(?:made|forgot|miscounted|misread|miscalculated)\b",
        r"|(?:this|that|the|my)\s+(?:\w+\s+)?answer\s+(?:above\s+)?(?:is|was)\s+(?:wrong|incorrect|mistaken|not\s+(?:right|correct)))",
        r"|算错|錯了|错了|計算ミス|間違え",
    ))
});
/// What follows a cue of a correction that ended in the same answer.
static CONFIRMED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:yes|confirm(?:s|ed)?|checks?\s+out|consistent|matches|is\s+(?:indeed\s+)?(?:right|correct)|verified)\b",
    )
});
/// What makes of "the answer is" a remark about another case or another's answer.
static ASIDE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:if|unless|had\s+(?:she|he|they|we|it|the)|were\s+(?:she|he|they|we|it|the)|without|suppose|assuming|in\s+(?:which|that)\s+case|common|mistake|error|na(?:i|\x{ef})ve|tempting",
        r"|previous|previously|old|initial|initially|earlier|the\s+example|comparison|estimate|(?:second|other|next|following)\s+(?:question|part|problem)|student|students|others",
        r"|expect(?:ed)?|note\s+that|sanity|digits?|might|may|could)\b",
        r"|\b\w+['\u{2019}]s\s+answer|\bnote\s*:|\bcheck\b[^.]*:|\bpart\s*\(",
    ))
});
/// What corrects a denial in its own sentence.
static BUT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(?:\bbut(?:\s+rather)?|\bit\s+is|\bit['\u{2019}]s|\brather|\binstead|\bit\s+should\s+be|而是|应该是|[,\u{ff0c}]\s*是)\s*[:\u{ff1a}]?\s*",
    )
});
/// Where a statement ends.
static END: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)[.!?](?:[*_\x22)]*)(?:\s|$)|[\u{3002}\u{ff01}\u{ff1f}\u{ff1b}]|;\s|\?|,?\s+\b(?:because|since|which|so\s+that|i\s+hope)\b|,\s+(?:so|as|where|not|and\s+not|rather|but|given|assuming|leaving|making)\b|,\s*(?:因为|不是|而不是)",
    )
});
static DENIED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)^\W*(?:(?:clearly|obviously)\s+)?(?:wrong|incorrect|false|错|不对)"));
/// Adjectives that speak about an answer instead of giving it.
static REMARK: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)^\W*(?:correct|right|clear|reasonable|below|above|simple|as\s+follows|given|found|shown|in\s|to\s)",
    )
});
/// Words that make of a sentence more than its last number.
static QUALIFIED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:or\s+(?:more|less|fewer)|at\s+(?:least|most)|(?:more|less|fewer|greater)\s+than|not|never|no|neither|nor|\w+n['\u{2019}]t)\b|不是|以上|以下|至少|至多|不到",
    )
});
static RANGE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d[\d.,]*[-\u{2013}]\d[\d.,]*%?$"));
static SPAN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|(?s:\\\[(.+?)\\\])"));

enum Marked {
    Found(String),
    /// No mark at all.
    Nothing,
    /// A box that does not close, or only denials: the text gives no answer.
    Refused,
}

/// What a text gives as its answer, as it is written; `None` where it gives none.
///
/// Between `<answer>` and `</answer>`, where there are such tags: the last `\boxed{...}` or `####` counts, unless a correction
/// follows it; then the last "the answer is"; then what stands between the tags, or where there are none and
/// marks are not required, the last number with the whole expression that it stands in.
#[must_use]
pub fn extract_answer(text: &str, marked_only: bool) -> Option<String> {
    match marked(text) {
        Marked::Found(answer) => Some(answer),
        Marked::Refused => None,
        Marked::Nothing => unmarked(text).filter(|_| !marked_only),
    }
}

/// The letter that a text chooses of several.
pub(super) fn choice(text: &str) -> Option<String> {
    static CHOSEN: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?:\b(?:correct|right|best)\s+(?:option|choice|answer)\s+is|\b(?:option|choice)\s+is|\bI\s+(?:choose|pick|select)|故选|故選)\s*[:\u{ff1a}]?[\s*_$]*(?P<letter>\(?[A-Z](?:[).:][^\n]*|[\s*.\u{3002}]*$))",
        )
    });
    match marked(text) {
        Marked::Found(answer) => letter_of(&answer),
        Marked::Refused => None,
        Marked::Nothing => {
            let line = text.trim().lines().next_back()?;
            let line = tail(line, MOST);
            let chosen = CHOSEN.captures_iter(line).last().and_then(|found| found.name("letter"));
            letter_of(chosen.map_or(line, |found| found.as_str()))
        }
    }
}

/// The letter of `D`, `(D)`, `option D`, `D) Paris`.
pub(super) fn letter_of(answer: &str) -> Option<String> {
    static LETTER: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"^[\s*_>$]*(?:\\text(?:bf)?\{)?\s*(?:(?:[Oo]ption|[Cc]hoice)\s+)?(?:\((?P<a>[A-Z])\)(?P<x>.*)|(?P<b>[A-Z])(?P<y>[).:]\s*\S.*)|(?P<c>[A-Z]))[}\s*_$.\u{3002}]*$",
        )
    });
    static OTHERS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)\b(?:or|and|not|isn|wrong|incorrect|maybe|perhaps)\b|\(?\b[A-Z]\)|\?|=")
    });
    let found = LETTER.captures(answer)?;
    let rest = found.name("x").or_else(|| found.name("y")).map_or("", |rest| rest.as_str());
    let rest = rest.strip_prefix([')', '.', ':']).unwrap_or(rest);
    let letter = found.name("a").or_else(|| found.name("b")).or_else(|| found.name("c"))?;
    (!OTHERS.is_match(rest)).then(|| letter.as_str().to_owned())
}

/// The marked answer alone.
pub(super) fn marked_answer(text: &str) -> Option<String> {
    match marked(text) {
        Marked::Found(answer) => Some(answer),
        Marked::Nothing | Marked::Refused => None,
    }
}

fn marked(text: &str) -> Marked {
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
            match corrected(after, false) {
                Some(correction) => correction,
                None => found,
            }
        }
    }
}

const OPEN: &str = "<answer>";
const CLOSE: &str = "</answer>";

/// Where the text between the last `<answer>` and its `</answer>` starts and ends (the form of DeepSeek-R1, arXiv 2501.12948); `Some(None)` where the
/// last tag is cut off and no box follows it. Without tags, and where they are only mentioned, there is none.
fn tagged(text: &str) -> Option<Option<(usize, usize)>> {
    let lower = text.to_ascii_lowercase();
    let inside = lower.rfind(OPEN)? + OPEN.len();
    match lower[inside..].find(CLOSE) {
        Some(end) => Some(Some((inside, inside + end))),
        None if lower[inside..].contains("\\boxed") || lower[inside..].contains("####") => None,
        None => Some(None),
    }
}

/// What stands between tags as an answer: all of it where it can be read or is qualified, else its last number.
fn of_tag(inside: &str) -> String {
    let all = trimmed(inside);
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
    match corrected(&text[at..], is_boxed) {
        Some(correction) => correction,
        None => answer.map_or(Marked::Refused, Marked::Found),
    }
}

/// The answer after the last `####` that marks one, with where it ends. A heading, of which the rest of the line is no
/// answer, is none.
fn hashed(text: &str) -> Option<(usize, String)> {
    static HASHES: LazyLock<Regex> = LazyLock::new(|| pattern(r"#{4,}([^\n#]*)"));
    static NAME: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)^[\s*_]*(?:(?:so|thus|therefore|hence)\b,?\s*)?(?:the\s+)?(?:final\s+|correct\s+)?answer\b[\s*_]*(?:\b(?:is|was)\b|[:=\u{ff1a}])?[\s*_:\u{ff1a}]*",
        )
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

/// What follows an answer and replaces it or takes it back; `None` where it stands. `is_lead` where what follows directly has
/// been read already.
fn corrected(after: &str, is_lead: bool) -> Option<Marked> {
    if !is_lead && clause::is_taken_back(head(after)) {
        return Some(Marked::Refused);
    }
    if let Marked::Found(corrected) = stated(after, true)
        && is_mathematics(&corrected)
    {
        return Some(Marked::Found(corrected));
    }
    let cue = CUE.find(after)?;
    (!CONFIRMED.is_match(&after[cue.end()..])).then_some(Marked::Refused)
}

/// Statements that are looked at, from the last one.
const N_STATEMENTS: usize = 16;
/// Bytes of a line or sentence that are looked at.
pub(super) const MOST: usize = 1000;
/// Bytes at the end of a text without a mark in which its last number is looked for.
const TAIL: usize = 8000;

/// The start of a text, as far as it is looked at.
pub(super) fn head(text: &str) -> &str {
    let mut end = MOST.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The end of a text, of so many bytes.
pub(super) fn tail(text: &str, most: usize) -> &str {
    let mut start = text.len().saturating_sub(most);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// Without markdown's marks and the full stop.
fn trimmed(text: &str) -> String {
    let text = text.trim().trim_matches(|c: char| matches!(c, '*' | '_' | '`' | '"') || c.is_whitespace());
    if text.ends_with("...") {
        return text.to_owned();
    }
    text.trim_end_matches(['.', '\u{3002}', ',', ';']).trim_end_matches(['*', '_']).trim().to_owned()
}

/// Without spaces and commands for spaces at the ends.
pub(super) fn without_spaces(mut text: &str) -> &str {
    const SPACES: [&str; 7] = ["\\,", "\\;", "\\:", "\\!", "\\ ", "~", "\\quad"];
    loop {
        let trimmed = text.trim();
        // The space of `\ ` at the end has been trimmed.
        let trimmed = match trimmed.strip_suffix('\\') {
            Some(kept) if trimmed.len() < text.len() && !kept.ends_with('\\') => kept,
            _ => trimmed,
        };
        let shorter = SPACES.iter().find_map(|space| {
            let from_end = trimmed.strip_suffix(space).filter(|kept| !kept.ends_with('\\'));
            from_end.or_else(|| trimmed.strip_prefix(space))
        });
        match shorter {
            Some(shorter) => text = shorter,
            None if trimmed.len() == text.len() => return trimmed,
            None => text = trimmed,
        }
    }
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

/// The last box, or the last boxes where only "and", "or" and commas stand between them, with what stands around them; the
/// answer is `None` where that makes of them something else.
fn joined(text: &str, boxes: &[(usize, usize, &str)]) -> Option<(usize, Option<String>)> {
    static ASSIGNED: LazyLock<Regex> = LazyLock::new(|| pattern(r"(^|[\s$,])[a-z]\s*=\s*$"));
    let (last, before) = boxes.split_last()?;
    let mut parts = vec![without_spaces(last.2)];
    let mut start = last.0;
    for (from, to, content) in before.iter().rev() {
        let assigned = ASSIGNED.replace(&text[*to..start], "$1");
        let is_assigned = assigned.len() < start - *to;
        let between =
            assigned.replace(['$', ' ', '\n', ','], "").replace("\\text", "").replace(['{', '}'], "");
        let joins = matches!(between.as_str(), "and" | "or" | "和" | "或" | "、" | "\\quad")
            || (between.is_empty() && (text[*to..start].contains(',') || is_assigned));
        if !joins || content.trim().is_empty() || parts.len() >= 64 {
            break;
        }
        parts.insert(0, without_spaces(content));
        start = *from;
    }
    let answer = if parts.len() == 1 { parts[0].to_owned() } else { parts.join(", ") };
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

enum Statement {
    Says(String),
    /// "not 18": says what it is not.
    Denies,
    /// "wrong": takes back what was said before.
    TakesBack,
    Nothing,
}

/// The last answer that is stated in words.
fn stated(text: &str, has_earlier: bool) -> Marked {
    let mut marks: Vec<Mark> = Vec::new();
    for captures in STATEMENT.captures_iter(text).chain(FOREIGN.captures_iter(text)) {
        let denies = captures.name("no").is_some() || captures.name("not").is_some();
        marks.extend(captures.get(0).map(|found| Mark {
            start: found.start(),
            end: found.end(),
            denies,
            corrects: false,
        }));
    }
    if !marks.is_empty() || has_earlier {
        let first = marks.iter().map(|mark| mark.end).min().filter(|_| !has_earlier).unwrap_or(0);
        for found in
            CORRECTION.find_iter(text).chain(CUE.find_iter(text)).filter(|found| found.start() >= first)
        {
            let said = found.as_str().trim_start_matches(|c: char| !c.is_alphanumeric());
            marks.push(Mark {
                start: found.end() - said.len(),
                end: found.end(),
                denies: false,
                corrects: true,
            });
        }
    }
    marks.sort_unstable_by_key(|mark| (mark.end, mark.corrects));
    let n_marks = marks.len();
    let (mut has_denied, mut has_cue, mut remark) = (false, false, None);
    for (at, mark) in marks.into_iter().enumerate().rev().take(N_STATEMENTS) {
        let said = &text[mark.start..mark.end];
        let is_later = has_earlier || at > 0;
        let before = &text[sentence_start(text, mark.start)..mark.start];
        let is_aside = is_aside(text, before, said, is_later);
        if is_aside && (mark.corrects || is_later) {
            has_denied = true;
            continue;
        }
        let denies = mark.denies
            || is_aside
            || !mark.corrects && (!clause::is_asserted(before) || !clause::is_asserted(said));
        let (line, following) = content(&text[mark.end..]);
        let statement = statement(line, following, denies);
        if mark.corrects {
            let is_about_another = ASIDE.is_match(&line[..sentence_end(line, 0)]);
            has_cue |= CUE.is_match(said) && !CONFIRMED.is_match(&text[mark.end..]);
            match statement {
                Statement::Says(answer)
                    if !is_about_another
                        && is_mathematics(&answer)
                        && answer.split_whitespace().count() <= 8 =>
                {
                    return Marked::Found(answer);
                }
                _ => continue,
            }
        }
        match statement {
            Statement::Says(answer) => {
                let is_value = !matches!(parse(&answer), Answer::Text(_));
                let is_short = answer.split_whitespace().count() <= 12;
                if is_value || is_short && !REMARK.is_match(&answer) {
                    // Taken back by what follows it, and not replaced.
                    return if has_cue { Marked::Refused } else { Marked::Found(answer) };
                }
                remark.get_or_insert(answer);
            }
            Statement::Denies => has_denied = true,
            Statement::TakesBack => return Marked::Refused,
            Statement::Nothing => {}
        }
    }
    match remark {
        _ if has_denied || n_marks > N_STATEMENTS => Marked::Refused,
        Some(remark) if !REMARK.is_match(&remark) => Marked::Found(remark),
        _ => Marked::Nothing,
    }
}

/// Words that lead to an answer.
struct Mark {
    start: usize,
    end: usize,
    /// Whether they say what the answer is not.
    denies: bool,
    /// Whether they correct an answer that was given before.
    corrects: bool,
}

/// Whether a statement is about another case or another's answer; a later one also where it says only what would be.
fn is_aside(text: &str, before: &str, said: &str, is_later: bool) -> bool {
    static THEN: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)^\W*(?:then|in\s+(?:that|this)\s+case)\b"));
    static WOULD: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?i)\b(?:would|could|might)\s+(?:not\s+)?be\b"));
    let sentence = format!("{before}{said}");
    if ASIDE.is_match(&sentence) || is_later && WOULD.is_match(said) {
        return true;
    }
    let start = before.as_ptr() as usize - text.as_ptr() as usize;
    let earlier = text[..start].trim_end().trim_end_matches(['.', '!', '?']);
    THEN.is_match(&sentence) && ASIDE.is_match(&earlier[sentence_start(earlier, earlier.len())..])
}

/// The rest of the line, the next line where it is empty, or the formula that is displayed there; and what follows it.
fn content(rest: &str) -> (&str, &str) {
    let rest = rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '*' | '_' | '`' | '>'));
    for (open, close) in [("$$", "$$"), ("\\[", "\\]")] {
        if let Some(inner) = rest.strip_prefix(open) {
            let (inner, following) = inner.split_once(close).unwrap_or((inner, ""));
            return (inner.trim(), following);
        }
    }
    let (line, following) = rest.split_once('\n').unwrap_or((rest, ""));
    (head(line), head(following))
}

fn statement(line: &str, following: &str, denies: bool) -> Statement {
    if denies {
        let after = END.find(line).map_or(line, |end| &line[..end.end()]);
        let after = if BUT.is_match(after) { after } else { line };
        return match BUT.find_iter(after).last() {
            Some(found) if !after[found.end()..].trim().is_empty() => {
                statement(&after[found.end()..], following, false)
            }
            _ => Statement::Denies,
        };
    }
    let line = without_bold(line.trim());
    let line = line.as_ref();
    if line.is_empty() {
        return Statement::Nothing;
    }
    if DENIED.is_match(line) {
        return Statement::TakesBack;
    }
    let says = |answer: String, rest: &str| {
        let is_last = rest.trim_matches(|c: char| !c.is_alphanumeric()).is_empty();
        if clause::is_taken_back(rest) || (is_last && clause::is_taken_back(following)) {
            Statement::TakesBack
        } else {
            Statement::Says(answer)
        }
    };
    let whole = trimmed(line);
    if let Some(value) = explained(&whole) {
        return says(value.to_owned(), "");
    }
    if is_mathematics(&whole) {
        return says(whole, "");
    }
    let (mut sentence, mut rest) = (whole.clone(), "");
    for end in END.find_iter(line) {
        if within_math(line, end.start()) {
            continue;
        }
        if end.as_str().starts_with(['?', '\u{ff1f}']) {
            return Statement::Denies;
        }
        let first = trimmed(&line[..end.start()]);
        // "St. 5" goes on, "18. So" does not.
        if !first.is_empty() {
            (sentence, rest) = (first, &line[end.start()..]);
            break;
        }
    }
    if sentence.is_empty() {
        return Statement::Nothing;
    }
    if sentence != whole && is_mathematics(&sentence) {
        return says(sentence, rest);
    }
    if QUALIFIED.is_match(&sentence) {
        return says(sentence, rest);
    }
    // Where other words stand beside the number, all of it is a text.
    let found = number_said(&sentence, true);
    says(found.unwrap_or(sentence), rest)
}

/// The value of `18 (9 × 2)` or `18 dollars (9 eggs at $2 each)`, where the bracket only explains it.
fn explained(text: &str) -> Option<&str> {
    let (value, bracket) = text.strip_suffix(')')?.rsplit_once(" (")?;
    let number = super::number(value)?;
    let starts = bracket.starts_with(|c: char| c.is_ascii_digit() || c == '$' || c == '\\');
    let explains = if is_mathematics(bracket) {
        super::number(bracket) == Some(number)
    } else {
        !bracket.split(|c: char| !c.is_alphabetic()).any(wording::alters)
            && !bracket.split(' ').any(|word| numerals::multiplier(word).is_some())
    };
    (starts && bracket.contains(' ') && explains).then_some(value)
}

fn is_mathematics(text: &str) -> bool {
    match parse(text) {
        Answer::Text(_) => false,
        // "18, which is what she makes" is a sentence.
        Answer::List { members, .. } => {
            let n_texts = members.iter().filter(|member| matches!(member, Answer::Text(_))).count();
            n_texts == 0 || n_texts == members.len()
        }
        _ => true,
    }
}

fn within_math(text: &str, at: usize) -> bool {
    spans(text).iter().any(|(start, end, _)| (*start..*end).contains(&at))
}

/// Formulas between dollar signs or LaTeX's brackets; what has words in it lies between two prices.
fn spans(text: &str) -> Vec<(usize, usize, &str)> {
    static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:^|[^\\a-zA-Z{])[a-zA-Z]{3,}"));
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(captures) = SPAN.captures_at(text, at) {
        let (Some(all), Some(inner)) = (captures.get(0), captures.iter().skip(1).flatten().next()) else {
            break;
        };
        let is_formula = all.as_str().starts_with('\\')
            || !(WORD.is_match(inner.as_str())
                || inner.as_str().ends_with(['/', '+', '*'])
                || inner.as_str().ends_with(' ') && !inner.as_str().starts_with(' '));
        if is_formula {
            found.push((all.start(), all.end(), inner.as_str()));
            at = all.end();
        } else {
            at = all.start() + 1;
        }
    }
    found
}

/// Whether the side of an equation is more than a name or an arithmetic of plain numbers: the other side is then not its
/// value (`x^2 = 2`, `2x = 18`, `√3 = 3`), and the equation has to be read as a whole.
fn is_compound(side: &str) -> bool {
    const FUNCTIONS: [&str; 7] = ["sqrt", "log", "ln", "sin", "cos", "tan", "pi"];
    if side.contains(['^', '|', '!', '\u{221a}', '\u{3c0}', '\u{b2}', '\u{b3}']) {
        return true;
    }
    let is_word = |c: char| c.is_ascii_alphabetic();
    let words = || side.split(|c: char| !is_word(c)).filter(|word| !word.is_empty());
    let has_variable = words().any(|word| word.len() == 1);
    let has_more =
        side.contains(|c: char| c.is_ascii_digit() || "+-*/()\u{2212}\u{d7}\u{f7}\u{b7}".contains(c));
    words().any(|word| FUNCTIONS.contains(&word)) || has_variable && has_more
}

/// What an equation comes to: the part after its last equals sign.
fn right_side(text: &str) -> &str {
    static TIMES: LazyLock<Regex> = LazyLock::new(|| pattern(r"(\d)\s+x\s+([$\d])"));
    let is_compound = |side: &str| is_compound(&TIMES.replace_all(side, "$1 * $2"));
    let at = text.rfind(['=', '\u{2248}', '\u{ff1d}']).filter(|at| {
        !text[*at..].contains(['}', ')'])
            || text[..*at].matches('(').count() == text[..*at].matches(')').count()
    });
    match at {
        Some(at)
            if !text[..at].ends_with(['<', '>', '!', '\u{2260}'])
                && !text[..at].split(['=', '\u{2248}', '\u{ff1d}']).any(is_compound) =>
        {
            let rest = text[at..].trim_start_matches(['=', '\u{2248}', '\u{ff1d}', ' ']);
            if rest.is_empty() { text } else { rest }
        }
        _ => text,
    }
}

fn is_digit(letter: char) -> bool {
    narrow(letter).is_ascii_digit()
}

const OPERATORS: &str = "+-*/^=\u{d7}\u{f7}\u{b7}\u{2212}\u{221a}\u{2248}<>\u{2264}\u{2265}\u{2013}\u{b1}";
const MARKS: &str = "().,[]{}%$\u{20ac}\u{a3}\u{a5}\u{b0}!:|_\\\u{3c0}\u{221e}'\u{ff0c}\u{ff0e}\u{ff05}\u{ff04}\u{bd}\u{bc}\u{be}\u{b2}\u{b3}";

/// The last number of a text, with the expression and the sentence that it stands in, if they say it.
fn unmarked(text: &str) -> Option<String> {
    static CALCULATION: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?is)<<[^<>\n]*>>|<think>.*?</think>|</?(?:b|strong|em|i|p|br)\s*/?>"));
    let text = CALCULATION.replace_all(text, "");
    let text = tail(&text, TAIL);
    let last_digit = last_number(text)?;
    let (start, end) = (sentence_start(text, last_digit), sentence_end(text, last_digit));
    let sentence = without_bold(text[start..end].trim());
    let sentence = sentence.as_ref();
    let following = &text[end..];
    if following.starts_with(['?', '\u{ff1f}']) || clause::is_taken_back(following) {
        return None;
    }
    static SOLUTIONS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)^(?:the\s+)?(?:two\s+|real\s+)?(?:solutions|roots|zeros)\s+are\s*:?\s*")
    });
    let formula = without_introduction(sentence);
    let formula = trimmed(SOLUTIONS.find(formula).map_or(formula, |found| &formula[found.end()..]));
    if is_mathematics(&formula) {
        return Some(formula);
    }
    match of_equation(sentence) {
        Some(found) => found,
        None if has_rivals(sentence) => None,
        None => number_said(sentence, false),
    }
}

/// Whether two numbers stand in the last clause of a sentence without an equation, or it only gives the grounds of the one
/// before it: which of them is the answer is open.
fn has_rivals(sentence: &str) -> bool {
    static GROUNDS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)^\W*(?:since|because|as|which|who|where|when|while|whereas|given|each|for)\b")
    });
    if sentence.contains('=') || sentence.contains(" equals ") || !spans(sentence).is_empty() {
        return false;
    }
    let n_numbers = |text: &str| pieces(text).iter().filter(|piece| is_bare_number(piece.text)).count();
    let mark = sentence.rmatch_indices([',', ';']).find(|(at, _)| sentence[at + 1..].starts_with(' '));
    let start = mark.map_or(0, |(at, _)| at).max(sentence.rfind(" and then ").unwrap_or(0));
    let (before, clause) = sentence.split_at(start);
    n_numbers(clause) > 1 || (n_numbers(clause) > 0 && n_numbers(before) > 0 && GROUNDS.is_match(clause))
}

/// Whether a piece is a number without an operator, `18` or `$1,800`.
fn is_bare_number(piece: &str) -> bool {
    piece.contains(is_digit) && piece.chars().all(|c| is_digit(c) || matches!(c, '.' | ',' | '$' | '\\'))
}

/// What the last equation of a sentence comes to, where numbers follow that are no part of it; the inner `None` where words
/// beside it change it, the outer one where there is no such equation.
fn of_equation(sentence: &str) -> Option<Option<String>> {
    if !spans(sentence).is_empty() {
        return None;
    }
    let at = sentence.rfind('=')?;
    let pieces = pieces(&sentence[at + 1..]);
    let last = pieces.iter().rposition(|piece| piece.text.contains(is_digit) && is_expression(piece.text))?;
    let first = pieces.iter().position(|piece| piece.text.contains(is_digit) && is_expression(piece.text))?;
    let (from, to) = around(&pieces, first);
    // The words after its value up to the next number: "for 5 apples".
    let is_group =
        |piece: &Piece<'_>| piece.text.len() == 3 && piece.text.chars().all(|c| c.is_ascii_digit());
    if to >= last || from > 1 || pieces[to + 1..=last].iter().all(is_group) {
        return None;
    }
    let after = &sentence[at + 1 + pieces[to].start + pieces[to].text.len()..];
    let end = after.find(|c: char| is_digit(c) || matches!(c, ',' | ';'))?;
    let words = after[..end].trim_end_matches(['$', '\\', ' ']);
    let words = words.rsplit_once(' ').filter(|_| after[..end].ends_with(' ')).map_or("", |(kept, _)| kept);
    Some(number_said(&format!("{}{words}", &sentence[..sentence.len() - after.len()]), false))
}

/// Where the last digit is that is in a formula or in an expression; digits within a word are no number.
fn last_number(text: &str) -> Option<usize> {
    let of_formula = spans(text)
        .into_iter()
        .filter_map(|(start, end, _)| text[start..end].rfind(is_digit).map(|at| start + at))
        .next_back();
    let of_piece = pieces(text)
        .into_iter()
        .filter(|piece| is_expression(piece.text))
        .filter_map(|piece| piece.text.rfind(is_digit).map(|at| piece.start + at))
        .next_back();
    of_formula.max(of_piece)
}

/// Without what is struck out and without the asterisks of bold text; those between two numbers are an operator.
fn without_bold(text: &str) -> std::borrow::Cow<'_, str> {
    static BOLD: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?P<before>^|[\s(:$])\*\*(?P<first>\S)|(?P<last>\S)\*\*(?P<after>$|[\s.,:;!?)])")
    });
    static STRUCK: LazyLock<Regex> = LazyLock::new(|| pattern(r"~~[^~\n]*~~"));
    match BOLD.replace_all(text, "$before$first$last$after") {
        text if text.contains("~~") => STRUCK.replace_all(&text, "").into_owned().into(),
        text => text,
    }
}

/// Without "so", "therefore, we get" and the like.
fn without_introduction(sentence: &str) -> &str {
    static INTRODUCTION: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)^(?:(?:so|thus|hence|therefore|then|finally|now|and|in\s+total|we\s+(?:get|have|find|obtain)|this\s+(?:gives|is))\b[,:]?\s*){1,3}",
        )
    });
    INTRODUCTION.find(sentence).map_or(sentence, |found| &sentence[found.end()..])
}

/// Whether a sentence ends at a letter.
fn is_sentence_end(text: &str, at: usize, letter: char) -> bool {
    let next =
        text[at + letter.len_utf8()..].trim_start_matches(['*', '_', '"', ')', '\u{201d}']).chars().next();
    match letter {
        '\n' | '\u{3002}' | '\u{ff01}' | '\u{ff1f}' | '\u{ff1b}' => true,
        '.' | '?' => next.is_none_or(char::is_whitespace),
        // A factorial ends no sentence.
        '!' => {
            next.is_none_or(char::is_whitespace)
                && !text[..at].trim_end().ends_with(|c: char| c.is_ascii_digit() || c == ')')
        }
        _ => false,
    }
}

fn sentence_start(text: &str, before: usize) -> usize {
    let floor = before - tail(&text[..before], MOST).len();
    let mut letters = text[floor..before].char_indices().rev().map(|(at, letter)| (floor + at, letter));
    let found = letters.find(|(at, letter)| is_sentence_end(text, *at, *letter));
    found.map_or(floor, |(at, letter)| at + letter.len_utf8())
}

fn sentence_end(text: &str, after: usize) -> usize {
    let found = text[after..].char_indices().find(|(at, letter)| is_sentence_end(text, after + at, *letter));
    found.map_or(text.len(), |(at, _)| after + at)
}

/// The last number of a sentence with the whole expression around it, where the words beside it let it be what the sentence
/// says. Digits within a word are no number.
fn number_said(sentence: &str, is_cued: bool) -> Option<String> {
    let last_digit = sentence.rfind(is_digit)?;
    let span = spans(sentence).into_iter().find(|(start, end, _)| (*start..*end).contains(&last_digit));
    let (start, end, found, is_equation, has_unit) = match span {
        Some((start, end, content)) => {
            let content = content.trim();
            let found = if is_mathematics(content) { content } else { right_side(content).trim() };
            (start, end, with_unit(found, &sentence[end..]), false, false)
        }
        None => {
            let pieces = pieces(sentence);
            let at = pieces.iter().rposition(|p| p.text.contains(is_digit) && is_expression(p.text))?;
            let (first, last) = around(&pieces, at);
            let (start, end) = (pieces[first].start, pieces[last].start + pieces[last].text.len());
            let all = &sentence[start..end];
            let side = right_side(all);
            (start, end, tidied(side), side.len() < all.len(), last > at)
        }
    };
    let is_single = super::number(&found).is_some_and(|value| value.abs() <= num_traits::One::one());
    // From one number to another, not their difference: no answer.
    let (before, after) = (&sentence[..start], &sentence[end..]);
    let around = Around { before, after, is_cued, is_equation, has_unit, is_single };
    (!RANGE.is_match(&found) && around.says()).then_some(found)
}

/// A number with the unit that follows its formula, if it is one.
fn with_unit(found: &str, after: &str) -> String {
    let after = after.trim_start_matches([' ', '*', '~']);
    let word = &after[..after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len())];
    let is_unit = units::is_known(word) && !matches!(word, "in" | "a" | "as" | "at");
    let with = format!("{found} {word}");
    if is_unit && super::number(found).is_some() && !matches!(parse(&with), Answer::Text(_)) {
        with
    } else {
        found.to_owned()
    }
}

struct Piece<'a> {
    start: usize,
    text: &'a str,
    /// Whether a sentence or a part of one ends after it.
    ends: bool,
}

/// Pieces between spaces and between letters of scripts that write without spaces.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let is_break = |c: char| {
        c.is_whitespace()
            || (!c.is_ascii() && c.is_alphabetic() && c != '\u{3c0}' && !is_digit(c))
            || matches!(c, '\u{3001}' | '\u{3002}' | '\u{ff1a}' | '\u{ff1b}' | '\u{ff1f}' | '\u{ff01}')
    };
    let mut found = Vec::new();
    let mut start = None;
    let mut push = |start: usize, end: usize| {
        let raw = &text[start..end];
        let left = raw.trim_start_matches(['"', '\'', '\u{201c}', '*', '`', '_', ';', ',']);
        let kept =
            left.trim_end_matches(['"', '\u{201d}', '*', '`', '_', ';', ',', '.', ':', '?', '\u{ff0c}']);
        // An operator between spaces is no mark of bold text.
        let kept = if matches!(raw, "*" | "**") { raw } else { kept };
        let left = if matches!(raw, "*" | "**") { raw } else { left };
        let ends =
            left.len() != kept.len() && left[kept.len()..].contains([';', ',', '.', ':', '?', '\u{ff0c}']);
        if !kept.is_empty() {
            found.push(Piece { start: start + raw.len() - left.len(), text: kept, ends });
        }
    };
    let mut braces = 0_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => braces += 1,
            '}' => braces = braces.saturating_sub(1),
            '\n' => braces = 0,
            _ => {}
        }
        let stays = braces > 0 && letter == ' ';
        // 2万 stays whole.
        let counts = start.is_some_and(|from: usize| {
            text[from..at].ends_with(is_digit)
                && numerals::chinese(&letter.to_string(), Some(&num_traits::One::one())).is_some()
        });
        if is_break(letter) && !stays {
            if let Some(from) = start.take() {
                push(from, if counts { at + letter.len_utf8() } else { at });
            }
        } else if start.is_none() {
            start = Some(at);
        }
    }
    if let Some(from) = start {
        push(from, text.len());
    }
    found
}

/// Whether a piece is made of digits, operators, LaTeX, names of functions and single letters; `B7` and `2nd` are not.
fn is_expression(piece: &str) -> bool {
    let letters: Vec<char> = piece.chars().map(narrow).collect();
    let mut at = 0;
    let has_structure = piece.contains(|c: char| "+-*/^=\u{d7}\u{f7}\u{b7}\u{2212}\u{221a}()\\".contains(c));
    while at < letters.len() {
        let start = at;
        while letters.get(at).is_some_and(|c| c.is_ascii_alphabetic()) {
            at += 1;
        }
        if at == start {
            let letter = letters[at];
            let one = num_traits::One::one();
            let fits = letter.is_ascii_digit()
                || letter == ' '
                || OPERATORS.contains(letter)
                || MARKS.contains(letter)
                || numerals::chinese(&letter.to_string(), Some(&one)).is_some();
            if !fits {
                return false;
            }
            at += 1;
            continue;
        }
        let word: String = letters[start..at].iter().collect();
        let is_command = start > 0 && letters[start - 1] == '\\';
        let in_braces = letters[..start].iter().filter(|c| **c == '{').count()
            > letters[..start].iter().filter(|c| **c == '}').count();
        let after_digit = start > 0 && letters[start - 1].is_ascii_digit();
        let before_digit = letters.get(at).is_some_and(char::is_ascii_digit);
        let is_name = matches!(word.as_str(), "sqrt" | "pi" | "sin" | "cos" | "tan" | "log" | "ln");
        let is_unit = after_digit && units::is_known(&word) && !before_digit;
        let is_variable = word.len() == 1 && !before_digit && (has_structure || after_digit || word == "e");
        let is_exponent = word.len() == 1 && matches!(word.as_str(), "e" | "E") && after_digit;
        let money = word == "US" && letters.get(at) == Some(&'$');
        if !(is_command || in_braces || is_name || is_unit || is_variable || is_exponent || money) {
            return false;
        }
    }
    true
}

/// The first and last piece of the expression that a piece belongs to.
fn around(pieces: &[Piece<'_>], at: usize) -> (usize, usize) {
    let is_operator =
        |text: &str| !text.is_empty() && (text == "x" || text.chars().all(|c| OPERATORS.contains(c)));
    let is_operand = |piece: &Piece<'_>| {
        let letters = piece.text.chars().count();
        is_expression(piece.text) || (letters == 1 && piece.text.chars().all(|c| c.is_ascii_alphabetic()))
    };
    let starts = |text: &str| text.starts_with(|c| OPERATORS.contains(c));
    let ends = |text: &str| text.ends_with(|c| OPERATORS.contains(c));
    let (mut first, mut last) = (at, at);
    while first > 0 && !pieces[first - 1].ends {
        let (before, this) = (&pieces[first - 1], &pieces[first]);
        let whole = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        let is_mixed =
            whole(before.text) && this.text.split_once('/').is_some_and(|(a, b)| whole(a) && whole(b));
        let is_grouped =
            whole(before.text) && before.text.len() <= 3 && whole(this.text) && this.text.len() == 3;
        let is_sign = matches!(before.text, "$" | "\u{20ac}" | "\u{a3}" | "\u{221a}");
        if is_sign || is_mixed || is_grouped {
            first -= 1;
        } else if is_operator(before.text)
            && first >= 2
            && !pieces[first - 2].ends
            && is_operand(&pieces[first - 2])
        {
            first -= 2;
        } else if (starts(this.text) || ends(before.text)) && !is_operator(before.text) && is_operand(before)
        {
            first -= 1;
        } else {
            break;
        }
    }
    while last + 1 < pieces.len() && !pieces[last].ends {
        let next = &pieces[last + 1];
        let lower = next.text.to_lowercase();
        let adds = matches!(lower.as_str(), "\u{3c0}" | "pi" | "%" | "\u{b0}" | "percent")
            || numerals::multiplier(&lower).is_some()
            || next.text.starts_with(['\\', '\u{221a}', '!', '^'])
            || ((next.text.len() > 1
                || matches!(next.text, "m" | "g" | "l" | "L" | "h" | "s" if last + 2 == pieces.len()))
                && units::is_known(next.text)
                && lower != "in"
                && last == at);
        if adds {
            last += 1;
        } else if is_operator(next.text) && pieces.get(last + 2).is_some_and(is_operand) {
            last += 2;
        } else {
            break;
        }
    }
    (first, last)
}

/// Without brackets that have no partner, and without a colon or dash before it.
fn tidied(text: &str) -> String {
    let mut text = text.trim();
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}')] {
        let surplus = |text: &str| text.matches(open).count() as i64 - text.matches(close).count() as i64;
        while surplus(text) > 0 && text.starts_with(open) {
            text = &text[1..];
        }
        while surplus(text) < 0 && text.ends_with(close) {
            text = &text[..text.len() - 1];
        }
    }
    text.trim_matches(|c: char| matches!(c, '*' | '"' | '`' | ':' | ',') || c.is_whitespace()).to_owned()
}
