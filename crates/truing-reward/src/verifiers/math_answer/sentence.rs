//! The number that a sentence says, read with the expression that it is in.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use num_traits::Signed;

use super::circumstance;
use super::clause::{self, Around};
use super::closing;
use super::denial::is_taken_back;
use super::excerpt::{MOST, head, tail, trimmed};
use super::formula;
use super::labels;
use super::pieces::{Piece, around, is_digit, is_expression, pieces, tidied};
use super::statement::CUE;
use super::structure::{Answer, parse};
use super::units;
use super::wording;
use crate::verifiers::pattern::pattern;

static RANGE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\d[\d.,]*[-\u{2013}]\d[\d.,]*%?$"));
static SPAN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|(?s:\\\[(.+?)\\\])"));

/// Bytes at the end of a text without a mark in which its last number is looked for.
const TAIL: usize = 8000;

pub(super) fn is_mathematics(text: &str) -> bool {
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

pub(super) fn within_math(text: &str, at: usize) -> bool {
    spans(text).iter().any(|(start, end, _)| (*start..*end).contains(&at))
}

/// Formulas between dollar signs or LaTeX's brackets; what has words in it lies between two prices.
pub(super) fn spans(text: &str) -> Vec<(usize, usize, &str)> {
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

/// Whether the side of an equation is more than a name or an arithmetic of plain numbers: the other side is
/// then not its value (`x^2 = 2`, `2x = 18`, `√3 = 3`), and the equation has to be read as a whole.
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

/// The last number of a text, with the expression and the sentence that it is in, if they say it.
pub(super) fn unmarked(text: &str) -> Option<String> {
    static CALCULATION: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?is)<<[^<>\n]*>>|<think>.*?</think>|</?(?:b|strong|em|i|p|br)\s*/?>"));
    // The lines of an aligned formula are lines.
    static ALIGNED: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"\\(?:begin|end)\{(?:align|aligned|gather|gathered)\*?\}|\\\\"));
    let text = CALCULATION.replace_all(text, "");
    let text = if text.contains("\\begin{align") || text.contains("\\begin{gather") {
        ALIGNED.replace_all(&text, "\n").replace('&', "").into()
    } else {
        text
    };
    let text = without_confidence(tail(&text, TAIL));
    let text = text.as_ref();
    let last_line = head(text.trim().lines().next_back().unwrap_or_default());
    if labels::is_parts(last_line) {
        return Some(last_line.trim().to_owned());
    }
    let last_digit = match closing::last_in_words(text) {
        Some(said) => return said,
        None => last_number(text)?,
    };
    let (start, end) = (sentence_start(text, last_digit), sentence_end(text, last_digit));
    let sentence = closing::in_one_notation(&without_bold(text[start..end].trim()));
    let sentence = sentence.as_str();
    let following = &text[end..];
    let is_left_out = sentence.ends_with("..") || sentence.ends_with('\u{2026}');
    if is_left_out
        || gives_grounds(sentence)
        || following.starts_with(['?', '\u{ff1f}'])
        || is_taken_back(following)
    {
        return None;
    }
    let line = text[..last_digit].rfind('\n').map_or(0, |end| end + 1);
    if text[line..].trim_start().starts_with('#')
        || is_option(text, last_digit)
        || is_item(text, last_digit)
        || is_label(text, last_digit)
        || PREMISE.is_match(sentence)
        || clause::is_of_another(sentence)
        || ABOUT.is_match(sentence)
        || names_pair(sentence)
        || gives_up(sentence)
        || gives_up(head(following))
    {
        return None;
    }
    let sentence = match circumstance::before(sentence) {
        Some(stated) => stated?,
        None => sentence,
    };
    if let Some(corrected) = replaced(sentence) {
        return number_said(corrected, true).filter(|found| is_mathematics(found));
    }
    static SOLUTIONS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)^(?:the\s+)?(?:two\s+|real\s+)?(?:solutions|roots|zeros|eigenvalues|answers|values)\s+are\s*:?\s*",
        )
    });
    let formula = without_introduction(sentence);
    let formula = trimmed(SOLUTIONS.find(formula).map_or(formula, |found| &formula[found.end()..]));
    if is_mathematics(&formula) {
        return Some(formula);
    }
    if let Some(found) = formula::said(sentence).or_else(|| closing::several(sentence)) {
        return found;
    }
    match of_equation(sentence) {
        Some(found) => found,
        None if has_rivals(sentence) => closing::quantity(sentence, false).flatten(),
        None => closing::said(sentence, false),
    }
}

/// Whether a sentence neither states what is known nor speaks of others, of the problem or of giving up.
pub(super) fn is_open_to_numbers(sentence: &str) -> bool {
    !(sentence.ends_with(['?', '\u{ff1f}', '\u{2026}'])
        || sentence.ends_with("..")
        || gives_grounds(sentence)
        || PREMISE.is_match(sentence)
        || clause::is_of_another(sentence)
        || ABOUT.is_match(sentence)
        || gives_up(sentence))
}

/// A sentence about the problem, the answer or the attempt, whose numbers are no answer.
static ABOUT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:the|this|my)\s+(?:answer|question|problem)\s+",
        r"(?:has|had|contains|consists|takes|took|lies|starts|begins|ends|asks|mentions|gives|states|says)\b",
        r"|\b(?:the|this|my)\s+solution\s+(?:takes|took)\b",
        r"|\bways?\s+to\s+(?:read|interpret|understand|answer|approach|phrase)\b",
        r"|\b(?:ends?\s+(?:in|with)|(?:starts?|begins?)\s+with)\s+(?:the\s+digits?\s+)?[$\d]",
        r"|\bfound\s+nothing\b|\btempt(?:ing|ed)\b|\bI\s+(?:have\s+)?(?:tried|spent|attempted|guessed)\b",
    ))
});
/// Words by which a text gives no answer.
static GIVES_UP: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:I|we)\s+(?:\w+\s+)?(?:cannot|can\s+not|can['\u{2019}]t|could\s+not|couldn['\u{2019}]t",
        r"|am\s+unable\s+to|are\s+unable\s+to|was\s+unable\s+to|were\s+unable\s+to|am\s+not\s+able\s+to",
        r"|was\s+not\s+able\s+to|failed\s+to|do\s+not\s+know\s+how\s+to",
        r"|don['\u{2019}]t\s+know\s+how\s+to)\s+(?:answer|solve|determine|find|decide|tell|say|compute",
        r"|calculate|conclude|continue)\b",
        r"|\b(?:cannot|can['\u{2019}]t)\s+be\s+(?:answered|solved|determined|decided|computed|calculated)\b",
        r"|\bimpossible\s+to\s+(?:answer|solve|determine|say|tell)\b",
        r"|\b(?:I|we)\s+(?:do\s+not|don['\u{2019}]t)\s+know\s+",
        r"(?:the\s+(?:\w+\s+)?(?:answer|solution)|what\s+the\s+answer|if|whether)\b|\b",
        r"(?:I|we)\s+have\s+no\s+idea\b",
        r"|\b(?:not\s+enough|insufficient)\s+(?:information|data)\b|\b",
        r"(?:we\s+are|we['\u{2019}]re|I\s+am|I['\u{2019}]m)\s+stuck\b|\b(?:I|we)\s+give\s+up\b",
    ))
});

/// Whether a text gives up: it gives no answer, or takes back the one before it. "I cannot find a mistake" does not.
pub(super) fn gives_up(text: &str) -> bool {
    static SEARCH: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^\s+(?:an?|any|other|another|more|the)\s+(?:\w+\s+)?",
            r"(?:mistakes?|errors?|flaws?|other|others|better|smaller|larger|more|counterexamples?)\b",
            r"|^\s+(?:any|other|another|more)\b",
        ))
    });
    GIVES_UP.find_iter(text).any(|found| !SEARCH.is_match(&text[found.end()..]))
}

/// Whether a number is in a list of options, of which none is chosen there.
fn is_option(text: &str, at: usize) -> bool {
    static OPTIONS: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?m)^[ \t*_(]*A[*_]*\s*[.):]\s[^\n]*\n[ \t*_(]*B[*_]*\s*[.):]\s"));
    static OPTION: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[ \t*_(]*[B-J][*_]*\s*[.):]\s"));
    let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
    OPTION.is_match(&text[line..]) && OPTIONS.is_match(text)
}

/// Whether a number is the label of an item or a step, `3. Subtract`.
fn is_label(text: &str, at: usize) -> bool {
    static LABEL: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"^[\s*_>#(\[-]*(?:[Ss]tep\s+)?\d{1,3}[*_]*\s*",
            r"(?:[.):\]]|\s[-\u{2013}\u{2014}])[)*_]*[ \t]+[*_\x22]*[A-Za-z]{2}",
        ))
    });
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    LABEL.find(&text[start..]).is_some_and(|label| start + label.end() > at)
}

/// Whether a number stands alone in an item of a list: `1. 18`, `(b) 18`, or `- 18` below another such line.
fn is_item(text: &str, at: usize) -> bool {
    static ITEM: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?m)^[ \t]*(?:(?P<bullet>[-*\u{2022}])|\(?(?:\d{1,2}|[A-Za-z]|[ivx]{1,4})[.)])[ \t]+(?P<item>[^\n]*)",
        )
    });
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let Some(found) =
        ITEM.captures(&text[start..]).filter(|found| found.get(0).is_some_and(|all| all.start() == 0))
    else {
        return false;
    };
    let item = found.name("item").map_or("", |item| item.as_str());
    let is_alone = !item.contains('=') && is_mathematics(&trimmed(&without_bold(item)));
    let has_other = || ITEM.find(&text[..start]).is_some();
    is_alone && (found.name("bullet").is_none() || has_other())
}

/// Whether the last number of a sentence is in the grounds or the check of one before it: "15 (since 15 + 3 = 18)".
fn gives_grounds(sentence: &str) -> bool {
    static GROUNDS: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?i)\b(?:since|because|check(?:ing)?|verif(?:y|ying|ication))\b"));
    GROUNDS.find_iter(sentence).last().is_some_and(|found| {
        sentence[..found.start()].contains(is_digit) && sentence[found.end()..].contains(is_digit)
    })
}

/// A sentence that says what is known or what is still to be done, whose numbers are no answer.
static PREMISE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:originally|initially|at\s+first|at\s+the\s+(?:start|beginning)|to\s+",
        r"(?:start|begin)\s+with|(?:starts?|started|begins?|began)\s+(?:out\s+)?(?:with|at|from)",
        r"|(?:we\s+(?:know|are\s+(?:given|told)|have\s+to|need\s+to|must|should|can|could|then|now|next",
        r"|will)|it\s+is\s+(?:given|known)|given\s+(?:that|is|are)|the\s+(?:problem|question)\s+",
        r"(?:says|states|tells|gives))",
        r"|(?:guess(?:ed)?|(?:some|most|many|other)\s+(?:people|students)\s+(?:would\s+)?(?:answer|say|think|get))",
        r"|probably|likely|presumably|apparently|supposedly|extraneous|short|lacks?|missing|away\s+from|off\s+by)\b",
        r"|\b(?:used\s+to|no\s+longer|infinitely\s+many|if\s+only|wish(?:es|ed)?|one\s+such\s+\w+",
        r"|counterexample)\b|\be\.g\.|\b(?:one|another)\s+(?:such\s+|possible\s+|of\s+the\s+)*",
        r"(?:solution|root|value|option|answer|candidate|possibility)s?\b|\bpossible\s+",
        r"(?:value|answer|solution|option)s?\b",
        r"|^\W*(?:let|suppose|assume|recall|consider|next|note|imagine|remark|check|checking|verify",
        r"|verification|proof|sanity|to\s+(?:check|verify|confirm))\b",
        r"|^\W*(?:before|without|excluding|not\s+counting|ignoring|besides|apart\s+from|except)\b",
    ))
});

/// What follows the last "sorry", "no" or "wait" of a sentence, where numbers are before and after it.
fn replaced(sentence: &str) -> Option<&str> {
    let cue = CUE.find_iter(sentence).last()?;
    let rest = &sentence[cue.end()..];
    (sentence[..cue.start()].contains(is_digit) && rest.contains(is_digit)).then_some(rest)
}

/// Without "I am 90% sure" and the like after a number.
pub(super) fn without_confidence(text: &str) -> Cow<'_, str> {
    static CONFIDENCE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)(?P<kept>\d[^\n]{0,80}?)[\s,;\u{2014}\u{2013}-]+\(?(?:(?:and|but|though)\s+)?",
            r"(?:I\s+am\s+|I['\u{2019}]m\s+|with\s+|at\s+)?",
            r"(?:(?:only|about|around|roughly|a|just)\s+)*\d+(?:\.\d+)?\s*\\?%\s*",
            r"(?:sure|certain|confident|confidence|certainty)\b\)?",
        ))
    });
    CONFIDENCE.replace_all(text, "$kept")
}

/// Whether a sentence gives the numbers of two things: "the first is 18, the second is 20".
fn names_pair(sentence: &str) -> bool {
    static PAIR: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)\d[^.]*\bthe\s+other\b[^.]*\d|\bfirst\b[^.]*\d[^.]*\b(?:second|other)\b[^.]*\d",
            r"|\bone\b[^.]*\d[^.]*\bthe\s+other\b[^.]*\d",
            r"|\b(?:smaller|smallest|least|lower|minimum|shorter|younger)\b[^.]*\d[^.]*\b",
            r"(?:larger|largest|greatest|greater|upper|maximum|longer|older)\b[^.]*\d",
            r"|\b(?:larger|largest|greatest|greater|upper|maximum|longer|older)\b[^.]*\d[^.]*\b",
            r"(?:smaller|smallest|least|lower|minimum|shorter|younger)\b[^.]*\d",
        ))
    });
    PAIR.is_match(sentence) && !sentence.contains(" so ")
}

/// Whether two numbers are in the last clause of a sentence without an equation, or it only gives the grounds
/// of the one before it: which of them is the answer is open.
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
pub(super) fn is_bare_number(piece: &str) -> bool {
    piece.contains(is_digit) && piece.chars().all(|c| is_digit(c) || matches!(c, '.' | ',' | '$' | '\\'))
}

/// What the last equation of a sentence comes to, where numbers follow that are no part of it; the inner `None`
/// where words beside it change it, the outer one where there is no such equation.
fn of_equation(sentence: &str) -> Option<Option<String>> {
    if !spans(sentence).is_empty() {
        return None;
    }
    // "With r = 3 and h = 5, the volume is 45."
    static GIVEN: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)(?:^|[,;]\s)\W*(?:so\s+|then\s+)?(?:for|when|if|with|since|because|given|as|taking",
            r"|setting|at|where|let|substituting)\b[^,;]*$",
        ))
    });
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
    // After a comma the conclusion follows; without one the value is that of this case.
    if GIVEN.is_match(&sentence[..at]) {
        return if sentence[at..].contains([',', ';']) { None } else { Some(None) };
    }
    let after = &sentence[at + 1 + pieces[to].start + pieces[to].text.len()..];
    if MODULUS.is_match(after) {
        return Some(None);
    }
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
pub(super) fn without_bold(text: &str) -> Cow<'_, str> {
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
        pattern(concat!(
            r"(?i)^(?:(?:so|thus|hence|therefore|then|finally|now|and|in\s+total|we\s+",
            r"(?:get|have|find|obtain)|this\s+(?:gives|is))\b[,:]?\s*){1,3}",
        ))
    });
    INTRODUCTION.find(sentence).map_or(sentence, |found| &sentence[found.end()..])
}

/// Whether a sentence ends at a letter.
fn is_sentence_end(text: &str, at: usize, letter: char) -> bool {
    let next =
        text[at + letter.len_utf8()..].trim_start_matches(['*', '_', '"', ')', '\u{201d}']).chars().next();
    match letter {
        '\n' | '\u{3002}' | '\u{ff01}' | '\u{ff1f}' | '\u{ff1b}' => true,
        '.' | '?' => {
            let is_short =
                ["e.g", "i.e", "approx", "resp", "cf"].iter().any(|word| text[..at].ends_with(word));
            next.is_none_or(char::is_whitespace) && !is_short
        }
        // A factorial ends no sentence.
        '!' => {
            next.is_none_or(char::is_whitespace)
                && !text[..at].trim_end().ends_with(|c: char| c.is_ascii_digit() || c == ')')
        }
        _ => false,
    }
}

pub(super) fn sentence_start(text: &str, before: usize) -> usize {
    let floor = before - tail(&text[..before], MOST).len();
    let mut letters = text[floor..before].char_indices().rev().map(|(at, letter)| (floor + at, letter));
    let found = letters.find(|(at, letter)| is_sentence_end(text, *at, *letter));
    found.map_or(floor, |(at, letter)| at + letter.len_utf8())
}

pub(super) fn sentence_end(text: &str, after: usize) -> usize {
    let found = text[after..].char_indices().find(|(at, letter)| is_sentence_end(text, after + at, *letter));
    found.map_or(text.len(), |(at, _)| after + at)
}

/// The last number of a sentence with the whole expression around it, where the words beside it let it be what
/// the sentence says. Digits within a word are no number.
pub(super) fn number_said(sentence: &str, is_cued: bool) -> Option<String> {
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
            let after = &sentence[end..];
            (start, end, with_unit(&tidied(side), after), side.len() < all.len(), last > at)
        }
    };
    let is_single = super::number(&found).is_some_and(|value| value.abs() <= num_traits::One::one());
    // From one number to another, not their difference: no answer.
    let (before, after) = (&sentence[..start], &sentence[end..]);
    // `18...` has decimals that are left out; "18% of the total" is another number; "step 18" is a name.
    static CITED: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\[\d+\]$"));
    if after.starts_with("..")
        || !is_cued && CITED.is_match(&found)
        || after.starts_with('\u{2026}')
        || is_share(&found) && SHARE_OF.is_match(after)
        || NAMED.is_match(before)
        || MODULUS.is_match(after)
        || before.contains('\u{ac}')
        || is_equation && CASE.is_match(before)
    {
        return None;
    }
    let around = Around { before, after, is_cued, is_equation, has_unit, is_single };
    (!RANGE.is_match(&found) && around.says()).then(|| with_currency(before, found))
}

/// A number with the letters of the currency before it, `USD 40`.
fn with_currency(before: &str, found: String) -> String {
    static CODE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?:^|[\s(])(?P<code>USD|EUR|GBP|RMB|CNY|JPY|INR|PLN|RUB)[\s$]*$"));
    let with = CODE.captures(before).map(|code| format!("{} {found}", &code["code"]));
    with.filter(|with| matches!(parse(with), Answer::Value(_))).unwrap_or(found)
}

/// A word before a number that is the name of a part of the text: "proceed to step 4", "by equation (4)".
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:steps?|questions?|problems?|exercises?|equations?|footnotes?|notes?|theorems?|lemmas?",
        r"|attempts?|appendix|figures?|sections?|versions?)",
        r"\s*(?:no\.|number|\x23)?\s*[(*$]*$",
    ))
});

/// A modulus after a number, which is then a residue.
static MODULUS: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)^[\s$]*\(?\s*\\?[pb]?mod\b"));
/// Words before an equation that make of it the case that the sentence is about: "for n = 18".
static CASE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)(?:^|[,;]\s)\W*(?:for|when|if|with|taking|setting|trying|try|say)\s+\W*$")
});

/// "of the total" after a percentage.
static SHARE_OF: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)^[\s$*)]*of\b"));

/// Whether a number is written as a percentage.
fn is_share(number: &str) -> bool {
    number.ends_with('%') || number.to_lowercase().ends_with("percent")
}

/// A number with the unit that follows its formula, if it is one.
fn with_unit(found: &str, after: &str) -> String {
    static INCHES: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)^[\s$]*in(?:\.?\s*$|\.?\s+(?:long|wide|tall|deep|high|thick|across|around)\b)")
    });
    static PERCENT: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?i)^[\s$]*(?:\\?%|per\s?cent\b)(?:$|\s|[^\w\s])"));
    if PERCENT.is_match(after) && !is_share(found) && matches!(parse(found), Answer::Value(_)) {
        return format!("{found}%");
    }
    if INCHES.is_match(after) {
        return format!("{found} in");
    }
    let has_unit =
        is_share(found) || matches!(parse(found), Answer::Value(value) if !value.unit.dimensions.is_empty());
    let unit = units::leading(after.trim_start_matches([' ', '*', '~']), has_unit);
    let unit = if unit.is_empty() { units::leading_chinese(after).to_owned() } else { unit };
    let is_unit = !unit.is_empty() && !matches!(unit.as_str(), "in" | "a" | "as" | "at");
    let with = format!("{found} {unit}");
    match (parse(found), parse(&with)) {
        (Answer::Value(bare), Answer::Value(_)) if is_unit && !bare.expression.has_variables() => with,
        // `2 * 8 = 16` and `x = 16` before a unit
        (Answer::Chain(..), Answer::Value(_) | Answer::Assigned(..)) if is_unit => with,
        (Answer::Assigned(_, bare), Answer::Assigned(_, with_unit))
            if is_unit && matches!((&*bare, &*with_unit), (Answer::Value(_), Answer::Value(_))) =>
        {
            with
        }
        (Answer::Value(_), _) if unit.is_empty() => with_things(found, after),
        _ => found.to_owned(),
    }
}

/// A number with the word for what it counts directly after it: "40 students".
fn with_things(found: &str, after: &str) -> String {
    static THING: LazyLock<Regex> = LazyLock::new(|| pattern(r"^ (?P<thing>[a-z]{3,})\b(?:[^-]|$)"));
    let thing =
        THING.captures(after).and_then(|found| found.name("thing")).map_or("", |thing| thing.as_str());
    let with = format!("{found} {thing}");
    let is_thing =
        wording::is_plural(thing) && !wording::alters(thing) && !wording::lists(clause::TAILS, thing);
    match parse(&with) {
        Answer::Value(value) if is_thing && value.unit.counted.is_some() => with,
        _ => found.to_owned(),
    }
}
