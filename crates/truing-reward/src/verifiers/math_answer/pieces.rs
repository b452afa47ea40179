//! The pieces of a line, and which of them make up an expression.

use super::numerals;
use super::token::narrow;
use super::units;

pub(super) fn is_digit(letter: char) -> bool {
    narrow(letter).is_ascii_digit()
}

const OPERATORS: &str = "+-*/^=\u{d7}\u{f7}\u{b7}\u{2212}\u{221a}\u{2248}<>\u{2264}\u{2265}\u{2013}\u{b1}";
const MARKS: &str = "().,[]{}%$\u{20ac}\u{a3}\u{a5}\u{b0}!:|_\\\u{3c0}\u{221e}'\u{ff0c}\u{ff0e}\u{ff05}\u{ff04}\
                     \u{bd}\u{bc}\u{be}\u{b2}\u{b3}";

pub(super) struct Piece<'a> {
    pub(super) start: usize,
    pub(super) text: &'a str,
    /// Whether a sentence or a part of one ends after it.
    pub(super) ends: bool,
}

/// Pieces between spaces and between letters of scripts that write without spaces.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
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
                && numerals::chinese(
                    &text[at..].chars().take(2).collect::<String>(),
                    Some(&num_traits::One::one()),
                )
                .is_some_and(|found| found.length > 0)
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
pub(super) fn is_expression(piece: &str) -> bool {
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
        let is_scale = start > 0 && letters[start - 1] == '\u{b0}' && matches!(word.as_str(), "C" | "F");
        let money = word == "US" && letters.get(at) == Some(&'$');
        if !(is_command || in_braces || is_name || is_unit || is_variable || is_exponent || is_scale || money)
        {
            return false;
        }
    }
    true
}

/// The first and last piece of the expression that a piece belongs to.
pub(super) fn around(pieces: &[Piece<'_>], at: usize) -> (usize, usize) {
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
                && units::is_known(next.text.trim_end_matches(['\u{b2}', '\u{b3}']))
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
pub(super) fn tidied(text: &str) -> String {
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
