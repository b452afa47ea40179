//! What is around a box: a sign, a root, a scale or a denial that changes what the box says.

mod patterns;

use std::sync::LazyLock;

use regex::Regex;

use super::clause;
use super::denial::is_taken_back;
use super::excerpt::{MOST, head, tail};
use super::statement::is_rate_of_another;
use super::structure::{Answer, parse};
use super::wording::{alters, lists};
use super::{numerals, units};
use crate::verifiers::pattern::pattern;
use patterns::{
    AFTER_WORDS, BASE, BEFORE_WORDS, GUESSED, IS_ANSWER, NOT_ANSWER, OTHER_VERB, RATE, REJECTED, SAID_OF_BOX,
    SUPPOSED,
};

/// What a box says together with what is around it.
pub(super) enum Context {
    /// What is in it.
    Plain,
    /// That with a sign before it, or a unit or scale after it.
    With(String),
    /// Something else: it is denied, or it is a part of an expression.
    Refused,
}

/// Commands before a box that do not compute with it.
const BEFORE: &str = "\
    Rightarrow rightarrow Longrightarrow longrightarrow implies iff to therefore quad qquad approx equiv in \
    displaystyle textstyle large Large LARGE huge Huge bf centering noindent item dollar ldots dots";
/// Commands whose braces only show what is in them.
const SHOWS: &str = "\
    text textbf textit textrm mathrm mathbf bm boldsymbol boxed fbox framebox begin end color textcolor \
    large Large mbox emph underline hspace";
/// Commands after a box that compute with it or compare it.
const AFTER: &str = "\
    cdot times div pm mp sqrt frac dfrac pi leq geq neq ne le ge lt gt pmod bmod";

/// Reads what is before and after a box in its text.
pub(super) fn context(text: &str, start: usize, end: usize, content: &str) -> Context {
    let is_negative = match before(&text[..start]) {
        Before::Plain => false,
        Before::Minus => true,
        Before::Other => return Context::Refused,
    };
    let rest = &text[end..];
    if is_taken_back(rest) || closes_too_much(&text[..start], rest) {
        return Context::Refused;
    }
    if RATE.is_match(rest) && is_rate_of_another(rest, content) {
        return Context::Refused;
    }
    // A residue names its modulus.
    let is_residue = text[..start].rsplit('\n').next().is_some_and(|line| line.contains("equiv"));
    let rest = if is_residue && rest.trim_start().starts_with("\\pmod") { "" } else { rest };
    if matches!(parse(content), Answer::Value(value) if !value.unit.dimensions.is_empty()) {
        let with = format!("{content} {}", units::leading(rest, true));
        if with.len() > content.len() + 1 && !is_negative && !matches!(parse(&with), Answer::Text(_)) {
            return Context::With(with);
        }
    }
    if let Some(base) = BASE.captures(rest) {
        let with = format!("{content} base {}", &base["base"]);
        let is_number = !is_negative && !matches!(parse(&with), Answer::Text(_));
        return if is_number { Context::With(with) } else { Context::Refused };
    }
    let Some(suffix) = after(rest) else { return Context::Refused };
    if suffix.is_empty() && !is_negative {
        return Context::Plain;
    }
    let with = format!("{}{content}{suffix}", if is_negative { "-" } else { "" });
    if suffix.starts_with(' ') && !is_negative && numerals::multiplier(suffix.trim()).is_none() {
        // A unit that does not fit the content is left out.
        return if matches!(parse(&with), Answer::Text(_)) { Context::Plain } else { Context::With(with) };
    }
    if matches!(parse(&with), Answer::Text(_)) { Context::Refused } else { Context::With(with) }
}

/// Whether more braces close directly after a box than were open before it.
fn closes_too_much(before: &str, rest: &str) -> bool {
    let n_closing =
        rest.chars().take_while(|letter| matches!(letter, '}' | ' ')).filter(|c| *c == '}').count();
    if n_closing == 0 {
        return false;
    }
    let (mut n_open, mut is_escaped) = (0_usize, false);
    for letter in before.chars() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '{' => n_open += 1,
            '}' => n_open = n_open.saturating_sub(1),
            _ => {}
        }
    }
    n_closing > n_open
}

/// Whether the words before an answer deny it.
pub(super) fn is_denied(line: &str) -> bool {
    let kept = without_openers(line);
    kept.ends_with(char::is_alphabetic) && matches!(prose(line, kept), Before::Other)
}

enum Before {
    Plain,
    Minus,
    Other,
}

/// Without the marks that open a formula or bold text at the end.
fn without_openers(mut text: &str) -> &str {
    const OPENERS: [&str; 14] =
        ["$", "\\(", "\\[", "*", "\"", "~", "\\,", "\\;", "\\:", "\\!", "\\ ", "(", "\u{201c}", "\u{ff1a}"];
    loop {
        let trimmed = text.trim_end();
        match OPENERS.iter().find_map(|opener| trimmed.strip_suffix(opener)) {
            Some(shorter) => text = shorter,
            None => return trimmed,
        }
    }
}

/// The part of a line in which an equation stands: after the last comma, dollar sign, line break of LaTeX or word.
fn side_of(text: &str) -> &str {
    const BREAKS: [&str; 13] = [
        "$",
        "\\(",
        "\\[",
        "\\\\",
        ",",
        ";",
        ":",
        "\\implies",
        "\\Rightarrow",
        "\\Longrightarrow",
        "\\iff",
        "\\quad",
        "}\\ ",
    ];
    let start =
        BREAKS.iter().filter_map(|mark| text.rfind(mark).map(|at| at + mark.len())).max().unwrap_or(0);
    &text[start..]
}

/// Whether a side of an equation computes with one variable, so that the other side is not its value: `2x`,
/// `x^2`, `x + 2`. Sums of several variables and values of functions are what is asked for.
fn computes(side: &str) -> bool {
    static NAMES: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"\\(?:text|mathrm|textbf)\s*\{[^}]*\}|[A-Za-z]'*\([^()]*\)|_(?:\{[^}]*\}|\w)|&")
    });
    static FUNCTIONS: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"\\?(?:sin|cos|tan|cot|log|ln|angle|det|gcd|lcm)"));
    static LOGARITHM: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"\\?(?:ln|log)\s*(?:_\s*(?:\{\w+\}|\w))?\s*\(?\s*[a-z]\s*\)?\s*$"));
    if FUNCTIONS.is_match(side) {
        // A multiple of a function or angle is not the function.
        let side = side.trim_start_matches(['&', ' ', '$']);
        return LOGARITHM.is_match(side) || side.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    }
    let bare = NAMES.replace_all(side, "");
    let bare = bare.trim();
    let mut letters = Vec::new();
    let mut rest = bare;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let word: String = rest[at..].chars().take_while(char::is_ascii_alphabetic).collect();
        if !rest[..at].ends_with('\\') {
            if word.len() > 2 {
                return false;
            }
            letters.extend(word.chars());
        }
        rest = &rest[at + word.len()..];
    }
    letters.sort_unstable();
    letters.dedup();
    letters.len() == 1 && bare.len() > 1
}

/// Whether the sides before the equals sign leave the box the value that is asked for.
fn is_value_of(sides: &str) -> bool {
    // (x, y)
    static TUPLE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*(?:\\right)?\)[\s$&]*$"));
    if TUPLE.is_match(sides) {
        return true;
    }
    let side = side_of(sides);
    let sides = || side.split(['=', '\u{2248}']).map(|part| part.rsplit("  ").next().unwrap_or(part));
    !sides().any(computes)
        || sides().any(|part| {
            let part = part.trim().trim_matches('&').trim();
            part.len() == 1 && part.chars().all(|c| c.is_ascii_alphabetic())
        })
}

fn before(text: &str) -> Before {
    let near = tail(text, MOST);
    let near = near.rsplit('\n').next().unwrap_or_default();
    let bare = without_openers(near);
    let sentence = bare.rsplit(['.', '?', '!', '\u{3002}']).next().unwrap_or(bare);
    if near.matches("~~").count() % 2 == 1
        || near.rfind("<!--") > near.rfind("-->")
        || BEFORE_WORDS.is_match(bare)
        || SUPPOSED.is_match(sentence)
        || REJECTED.is_match(sentence)
        || GUESSED.captures(sentence).is_some_and(|found| found.name("fit").is_none())
        || clause::is_of_another(sentence)
        || is_member(near)
        || is_later_part(text, near)
    {
        return Before::Other;
    }
    let is_near = text.trim_end_matches('$').ends_with(['-', '\u{2212}']);
    let line = text.rsplit('\n').next().unwrap_or_default();
    let kept = without_openers(line);
    let Some(last) = kept.chars().last() else { return Before::Plain };
    let rest = kept[..kept.len() - last.len_utf8()].trim_end();
    match last {
        '-' | '\u{2212}' | '\u{2013}' | '\u{2014}' => {
            let is_sign = is_near || rest.ends_with('=');
            match without_openers(rest).chars().last() {
                Some(letter) if letter.is_ascii_digit() || matches!(letter, ')' | '}') => Before::Other,
                _ if !is_sign => Before::Plain,
                _ => Before::Minus,
            }
        }
        '=' if rest.ends_with(['<', '>', '!']) || rest.ends_with("not") => Before::Other,
        '=' if !is_value_of(rest) => Before::Other,
        '=' => Before::Plain,
        '0'..='9'
        | '^'
        | '_'
        | '/'
        | '+'
        | '<'
        | '>'
        | '|'
        | '['
        | '!'
        | '%'
        | '\u{d7}'
        | '\u{b7}'
        | '\u{f7}'
        | '\u{b1}'
        | '\u{2264}'
        | '\u{2265}'
        | '\u{2260}'
        | '\u{221a}'
        | '~' => Before::Other,
        '{' | '}' => braced(kept, last),
        _ if last.is_ascii_alphabetic() => {
            let stem = kept.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let name = &kept[stem.len()..];
            if stem.ends_with('\\') {
                return if lists(BEFORE, name) { Before::Plain } else { Before::Other };
            }
            if name.len() == 1 && !matches!(name, "a" | "A" | "I") {
                Before::Other
            } else {
                prose(line, kept)
            }
        }
        _ => prose(line, kept),
    }
}

/// Whether the label of a later part is before a box, and that of the first part before it: "(a) 17 (b)".
fn is_later_part(text: &str, near: &str) -> bool {
    static LATER: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?:^|[\s$*,;])(?:[Pp]art\s*)?(?:\(?(?:[b-h]|[2-9]|ii|iii|iv)\)|(?:[2-9]|ii|iii|iv)\.)[\s:.$*]*$",
        )
    });
    static FIRST: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?m)(?:^|[\s$*,;])(?:[Pp]art\s*)?(?:\(?(?:a|1|i)\)|(?:1|i)\.)"));
    LATER.is_match(near) && FIRST.is_match(text)
}

/// Whether a box is a later member of a tuple, a list or a ratio, or the decimals of a number.
fn is_member(line: &str) -> bool {
    static MEMBER: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?:[\d})]\s*,\s*|(?:\$|\\\()\s*[\d.]+\s*:\s*|\}\.|(?:\$|\\\(|=)\s*(?:\\left)?\s*",
            r"(?:\(|\[|\\\{)\s*)(?:\\?[,; ])*$",
        ))
    });
    MEMBER.is_match(line)
}

/// A brace before the box: of a command that shows what is in it, or of one that computes.
fn braced(kept: &str, last: char) -> Before {
    let opens = if last == '{' {
        kept.len() - 1
    } else {
        let mut depth = 0_usize;
        let mut found = None;
        for (at, letter) in kept.char_indices().rev() {
            match letter {
                '}' => depth += 1,
                '{' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                found = Some(at);
                break;
            }
        }
        match found {
            Some(at) => at,
            None => return Before::Other,
        }
    };
    let head = kept[..opens].trim_end();
    let stem = head.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let name = &head[stem.len()..];
    if stem.ends_with('\\') && lists(SHOWS, name) {
        let inner = &kept[opens + 1..];
        let denies = matches!(name, "text" | "textbf" | "textit" | "textrm" | "mathrm" | "mbox" | "emph")
            && inner.split(|c: char| !c.is_alphabetic()).any(alters);
        return if denies { Before::Other } else { Before::Plain };
    }
    if head.is_empty() || (name.is_empty() && head.ends_with(['$', '=', ' '])) {
        Before::Plain
    } else {
        Before::Other
    }
}

/// Words before the box: a denial or an operation that leads to it.
fn prose(line: &str, kept: &str) -> Before {
    let sentence = kept.rsplit(['.', '?', '!', ';', '\u{3002}']).next().unwrap_or(line);
    let clause = sentence.rsplit([',', ':', '\u{ff0c}']).next().unwrap_or(sentence);
    let lower = clause.to_lowercase().replace('\u{2019}', "'");
    let words: Vec<&str> =
        lower.split(|c: char| !(c.is_alphabetic() || c == '\'')).filter(|w| !w.is_empty()).collect();
    if words.iter().any(|word| {
        matches!(
            *word,
            "doubt"
                | "unlikely"
                | "nobody"
                | "impossible"
                | "untrue"
                | "false"
                | "wrong"
                | "incorrect"
                | "suppose"
        )
    }) {
        return Before::Other;
    }
    const NOTHING: &str = "\
        a an the be is are was equal equals to exactly really definitely answer value result";
    let mut near = words.iter().rev().skip_while(|word| lists(NOTHING, word));
    let is_verb = |word: &&&str| matches!(**word, "be" | "is" | "are" | "was" | "equals" | "equal");
    let n_verbs = words.iter().rev().take_while(|word| lists(NOTHING, word)).filter(is_verb).count();
    let is_negation = |word: &str| {
        matches!(word, "not" | "never" | "cannot" | "no" | "neither" | "nor" | "hardly")
            || word.ends_with("n't")
    };
    match near.next() {
        None => Before::Plain,
        Some(word) if is_negation(word) => Before::Other,
        Some(&"but") if words.iter().any(|word| is_negation(word)) => Before::Plain,
        Some(&("or" | "to" | "through" | "until")) if line.contains("\\boxed") => Before::Other,
        Some(&("or" | "rather" | "instead" | "other")) => Before::Plain,
        Some(&("minus" | "negative")) if n_verbs == 0 => Before::Minus,
        // "The square root is": what was computed, not what is still to be done.
        Some(_) if n_verbs > 0 => Before::Plain,
        Some(&"of") => {
            let computes = near.take(3).any(|word| alters(word) || matches!(*word, "third" | "log"));
            if computes { Before::Other } else { Before::Plain }
        }
        Some(word) if alters(word) || matches!(*word, "over" | "between") => Before::Other,
        Some(_) if clause.contains("不是") || clause.contains("不等于") || clause.contains("不可能") => {
            Before::Other
        }
        Some(_) => Before::Plain,
    }
}

/// What is directly after the box and belongs to it: a unit, a scale or a percent sign; `None` where it computes.
fn after(rest: &str) -> Option<String> {
    let mut text = rest;
    let mut is_spaced = false;
    loop {
        let skipped = ["$", "\\)", "\\]", "**", "\\,", "\\;", "\\ ", "\\!", "~", "}"]
            .iter()
            .find_map(|mark| text.strip_prefix(mark).map(|rest| (*mark, rest)));
        match skipped {
            // A brace that closes around the box belongs to what is before it.
            Some((_, shorter)) => text = shorter,
            None if text.starts_with([' ', '\t']) => {
                is_spaced = true;
                text = &text[1..];
            }
            None => break,
        }
    }
    if text.is_empty() {
        return Some(String::new());
    }
    if text.starts_with("<|") || text.starts_with("</") {
        return Some(String::new());
    }
    if AFTER_WORDS.is_match(head(text)) || SAID_OF_BOX.is_match(head(rest)) {
        return None;
    }
    let sentence = head(text);
    let sentence = &sentence[..sentence.find(['.', '\n', ';', ',']).unwrap_or(sentence.len())];
    if OTHER_VERB.is_match(sentence) && (!IS_ANSWER.is_match(sentence) || NOT_ANSWER.is_match(sentence)) {
        return None;
    }
    if let Some(side) = text.strip_prefix('=') {
        let side = side.split(['$', '\n', '=', ',', '.', '\\']).next().unwrap_or(side);
        return (!computes(side)).then(String::new);
    }
    let is_inside = !rest[..rest.len() - text.len()].contains(['$', ')', ']', '*']);
    after_marks(text, text.len() == rest.len() || is_inside, is_spaced)
}

/// What a text says after a box, spaces and closing marks left out: a sign or a word. `in_formula` where the formula of
/// the box goes on.
fn after_marks(text: &str, in_formula: bool, is_spaced: bool) -> Option<String> {
    let first = text.chars().next()?;
    match first {
        '%' => return Some("%".into()),
        '\u{b0}' => return Some(degrees(&text['\u{b0}'.len_utf8()..])),
        '\\' => {
            let name: String = text[1..].chars().take_while(char::is_ascii_alphabetic).collect();
            if text.starts_with("\\%") {
                return Some("\\%".into());
            }
            if matches!(name.as_str(), "text" | "textrm" | "mathrm" | "mbox") {
                let inner = text[1 + name.len()..].trim_start().strip_prefix('{')?;
                let inner = inner.split('}').next()?.trim();
                if AFTER_WORDS.is_match(inner) {
                    return None;
                }
                let unit = units::leading(text, false);
                return if is_several(&unit) { Some(format!(" {unit}")) } else { suffix(inner) };
            }
            if name == "circ" || lists(AFTER, &name) {
                return None;
            }
            return Some(String::new());
        }
        '^' if text.starts_with("^\\circ") => return Some(degrees(&text["^\\circ".len()..])),
        '^' if text.starts_with("^{\\circ}") => return Some(degrees(&text["^{\\circ}".len()..])),
        '^' | '_' | '/' | '*' | '+' | '<' | '|' | '!' | '\u{d7}' | '\u{f7}' | '\u{b7}' | '\u{2264}'
        | '\u{2265}'
            if in_formula =>
        {
            return None;
        }
        '0'..='9' if !is_spaced => return None,
        '-' if !is_spaced && in_formula && text[1..].starts_with(|c: char| c.is_alphanumeric()) => {
            return None;
        }
        _ => {}
    }
    let word: String = text.chars().take_while(|c| c.is_alphabetic() && c.is_ascii()).collect();
    if word.is_empty() {
        let run: String = text.chars().take_while(|c| c.is_alphabetic()).collect();
        return Some(if units::is_known(&run) { format!(" {run}") } else { String::new() });
    }
    let lower = word.to_lowercase();
    let unit = units::leading(text, false);
    if is_several(&unit) && !is_other_word(&lower) {
        return Some(format!(" {unit}"));
    }
    if !is_spaced && in_formula {
        return units::is_known(&word).then(|| format!(" {word}"));
    }
    if numerals::multiplier(&lower).is_some() {
        return Some(format!(" {lower}"));
    }
    // "7 meters", not "7 in total".
    if word.chars().count() == text.chars().take_while(|c| c.is_alphabetic()).count()
        && units::is_known(&word)
        && !is_other_word(&lower)
    {
        return Some(format!(" {word}"));
    }
    let goes_on = matches!(lower.as_str(), "but" | "not" | "rather" | "instead" | "other" | "no");
    (goes_on || !alters(&lower)).then(String::new)
}

/// A degree sign with the letter of a scale of temperature after it.
fn degrees(rest: &str) -> String {
    static SCALE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^(?:\\[,; ]|\s|\\(?:text|mathrm)\s*\{\s*)*(?P<scale>[CF])\b"));
    let scale = SCALE.captures(rest).map_or(String::new(), |found| found["scale"].to_owned());
    format!("\u{b0}{scale}")
}

/// Whether a unit is more than one word.
fn is_several(unit: &str) -> bool {
    unit.contains(|letter: char| !letter.is_alphabetic())
}

/// Names of units that are other words more often.
fn is_other_word(word: &str) -> bool {
    matches!(word, "in" | "a" | "as" | "at" | "are")
}

/// Text after the box inside of its formula: a unit is read with it, other words stand for themselves.
fn suffix(inner: &str) -> Option<String> {
    let words: Vec<&str> =
        inner.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
    if words.iter().any(|word| alters(word)) {
        return None;
    }
    let is_unit = words
        .first()
        .is_some_and(|word| units::is_known(word) || numerals::multiplier(&word.to_lowercase()).is_some());
    Some(if is_unit { format!("\\text{{ {inner}}}") } else { String::new() })
}
