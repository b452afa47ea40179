//! 1 when the completion is the reference, white space around both cut off; 0 otherwise.
//!
//! With `contained`, the reference has to stand somewhere in the completion as words and numbers of its own:
//! `cat` is not in `concatenate`, nor `5` in `15`, `-5`, `5.2`, `5,000`, `5 000`, `5/6`, `5:30`, `5%`, `5 %`, `5kg` or
//! `5万`. Symbols that make another name or number belong to it: `C` is not in `C++` or `C#`, `B` not in `B+` or `B-52`,
//! and `5` not in `+5`, `5!` (a factorial), `5+`, `5×10`, `5*3` or `√5`. Spaces around such a symbol make a formula,
//! and `5` is in `5 × 10`. A comma directly between digits counts as a part of the number, so `5` is not in `4,5` but
//! it is in `4, 5`. Between letters of scripts that write without spaces between words (Chinese, Japanese, Thai and so
//! on), and in Korean, where particles follow a word directly, a word ends anywhere; words in katakana end where
//! katakana ends, and numerals where the numeral ends (`五` is not in `十五`). That the text denies the reference ("not
//! B") is not seen.

use std::sync::LazyLock;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::{Unscored, UnscoredReason};

use crate::completion::{Completion, RewardFunction, column_text};
use crate::verifiers::pattern::pattern;

/// Settings of [`ExactMatch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExactMatchConfig {
    /// Column with the reference.
    pub column: String,
    /// Ignore upper and lower case.
    pub ignore_case: bool,
    /// The completion only has to contain the reference, not within a longer word or number.
    pub contained: bool,
}

impl Default for ExactMatchConfig {
    fn default() -> Self {
        Self { column: "answer".into(), ignore_case: false, contained: false }
    }
}

/// Compares with a reference letter by letter.
#[derive(Debug)]
pub struct ExactMatch(pub ExactMatchConfig);

impl RewardFunction for ExactMatch {
    fn name(&self) -> &str {
        "exact_match"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        let config = &self.0;
        let prepare = |text: &str| match config.ignore_case {
            true => text.trim().to_lowercase(),
            false => text.trim().to_owned(),
        };
        let score = |completion: &Completion<'_>| {
            let reference = prepare(&column_text(completion, &config.column)?);
            if config.contained && reference.is_empty() {
                let detail = format!("`{}` is empty", config.column);
                return Err(Unscored::new(UnscoredReason::BadReference, detail));
            }
            let text = prepare(completion.text);
            let is_right = if config.contained { contains(&text, &reference) } else { text == reference };
            Ok(f64::from(u8::from(is_right)))
        };
        completions.iter().map(score).collect()
    }
}

/// Whether a text contains a reference that is no part of a longer word or number there.
fn contains(text: &str, reference: &str) -> bool {
    let Some(first) = reference.chars().next() else { return true };
    let mut from = 0;
    while let Some(at) = text[from..].find(reference) {
        let start = from + at;
        let end = start + reference.len();
        if starts_at(&text[..start], &text[start..], reference) && ends_at(&text[..end], &text[end..]) {
            return true;
        }
        from = start + first.len_utf8();
    }
    false
}

/// What a letter joins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Digits and numerals.
    Numeral,
    /// Letters of scripts with spaces between words.
    Letter,
    Katakana,
    /// Accents and vowel signs, which belong to the letter before them.
    Mark,
    Other,
}

fn class(letter: char) -> Class {
    static KATAKANA: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\p{Katakana}\x{30fc}\x{ff70}]"));
    static UNSPACED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"[\p{Han}\p{Hiragana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}&&[^\p{M}]]")
    });
    static MARK: LazyLock<Regex> = LazyLock::new(|| pattern(r"\p{M}"));
    static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"\w"));
    const NUMERALS: &str = "〇零一二三四五六七八九十百千万萬億亿兆两兩";
    if letter.is_ascii() {
        return match letter {
            '0'..='9' => Class::Numeral,
            'a'..='z' | 'A'..='Z' | '_' => Class::Letter,
            _ => Class::Other,
        };
    }
    let mut buffer = [0; 4];
    let text: &str = letter.encode_utf8(&mut buffer);
    if letter.is_numeric() || NUMERALS.contains(letter) {
        Class::Numeral
    } else if MARK.is_match(text) {
        Class::Mark
    } else if KATAKANA.is_match(text) {
        Class::Katakana
    } else if WORD.is_match(text) && !UNSPACED.is_match(text) {
        Class::Letter
    } else {
        Class::Other
    }
}

/// Whether two letters beside each other are of one word or number.
fn joins(left: char, right: char) -> bool {
    match (class(left), class(right)) {
        (_, Class::Mark) | (Class::Katakana, Class::Katakana) => true,
        (left, right) => {
            matches!(left, Class::Numeral | Class::Letter | Class::Mark)
                && matches!(right, Class::Numeral | Class::Letter)
        }
    }
}

fn is_digit(letter: char) -> bool {
    letter.is_numeric()
}

/// Whether a letter between two digits makes one number, date, time or range of them.
fn is_within_number(letter: char) -> bool {
    const SEPARATORS: &str = ".,:/'^-\u{2019}\u{2212}\u{2010}\u{2011}\u{2013}\u{ff0e}\u{ff0c}\u{ff1a}\u{ff0f}\
                              \u{66b}\u{66c}\u{a0}\u{2009}\u{202f}";
    SEPARATORS.contains(letter)
}

/// Whether a reference starts with a word or number of its own where `rest` starts.
fn starts_at(before: &str, rest: &str, reference: &str) -> bool {
    let mut letters = rest.chars();
    let (Some(first), second) = (letters.next(), letters.next()) else { return true };
    let mut earlier = before.chars().rev();
    let Some(last) = earlier.next() else { return true };
    let last_but_one = earlier.next();
    if joins(last, first) {
        return false;
    }
    // `-5` of `3-5`, `+5` of `3+5` and `.5` of `2.5`
    if (is_within_number(first) || first == '+') && second.is_some_and(is_digit) {
        return !(last.is_alphanumeric() || last == ')');
    }
    if is_operator_before(before, last) {
        return false;
    }
    if is_digit(first) {
        let is_sign = is_dash(last) || matches!(last, '+' | '\u{b1}' | '\u{2213}');
        let is_point = last == '.' && !last_but_one.is_some_and(char::is_alphabetic);
        let is_power = last == '^';
        let is_part = is_within_number(last) && last_but_one.is_some_and(is_digit);
        return !(is_sign || is_point || is_power || is_part || is_later_group(before, reference));
    }
    // The end of "don't", "it's", "we'll".
    let is_apostrophe = matches!(last, '\'' | '\u{2019}') && last_but_one.is_some_and(char::is_alphabetic);
    let word = &rest[..rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len())];
    let endings = ["t", "s", "d", "m", "ll", "re", "ve"];
    !(is_apostrophe && endings.iter().any(|ending| word.eq_ignore_ascii_case(ending)))
}

/// Whether a word or number ends where `text` ends and `after` follows it.
fn ends_at(text: &str, after: &str) -> bool {
    let mut letters = text.chars().rev();
    let (Some(last), last_but_one) = (letters.next(), letters.next()) else { return true };
    let mut following = after.chars();
    let Some(first) = following.next() else { return true };
    let second = following.next();
    if joins(last, first) {
        return false;
    }
    // `5.` of `5.2`
    if is_within_number(last) && last_but_one.is_some_and(is_digit) {
        return !is_digit(first);
    }
    if is_digit(last) {
        let unit = after.trim_start_matches([' ', '\u{a0}', '\u{2009}', '\u{202f}']);
        let is_percent =
            unit.starts_with(['%', '\u{ff05}', '\u{2030}', '\u{2031}']) || unit.starts_with("\\%");
        let is_part = is_within_number(first) && second.is_some_and(is_digit);
        let is_power = matches!(first, '^' | '\u{207a}' | '\u{207b}');
        let is_factorial = matches!(first, '!' | '\u{ff01}');
        let is_open = first == '+';
        return !(is_percent
            || is_part
            || is_power
            || is_factorial
            || is_open
            || is_operator_after(after)
            || is_group(after));
    }
    // `C++` and `C#`, and `C+` of `C++`
    let is_name = last.is_alphanumeric() || matches!(last, '+' | '#');
    if is_name && matches!(first, '+' | '#' | '\u{266f}' | '\u{266d}' | '\u{2032}' | '\u{2033}') {
        return false;
    }
    // `C++` of `C++11`
    let ends_in_name_symbol = || text.trim_end_matches(['+', '#']).ends_with(char::is_alphanumeric);
    if matches!(last, '+' | '#') && first.is_alphanumeric() && ends_in_name_symbol() {
        return false;
    }
    // `B-52`, and the mark `B-`
    if last.is_alphabetic() && is_dash(first) {
        let is_mark = !last_but_one.is_some_and(char::is_alphanumeric)
            && second.is_none_or(|second| matches!(second, '.' | ',' | ';' | ')' | '*'));
        return !(second.is_some_and(is_digit) || is_mark);
    }
    if last.is_alphanumeric() && is_operator_after(after) {
        return false;
    }
    // "Can" is not said by "can't".
    let is_negated = matches!(first, '\'' | '\u{2019}') && second.is_some_and(|c| matches!(c, 't' | 'T'));
    !(is_negated && last.is_alphabetic() && !following.next().is_some_and(char::is_alphabetic))
}

fn is_dash(letter: char) -> bool {
    matches!(letter, '-' | '\u{2212}' | '\u{2010}' | '\u{2011}' | '\u{2013}')
}

/// Signs that compute with what is directly beside them.
const OPERATORS: [char; 7] = ['\u{d7}', '\u{f7}', '\u{b7}', '\u{22c5}', '\u{2219}', '*', '&'];

/// Whether a text starts with an operator and the number or name that it joins. `*` and `**` also mark bold text: one
/// computes where a letter or digit follows it, two where a digit does.
fn is_operator_after(after: &str) -> bool {
    const COMMANDS: [&str; 4] = ["\\times", "\\cdot", "\\div", "\\pm"];
    let next = |n: usize| after.chars().nth(n);
    match next(0) {
        Some('*') if next(1) == Some('*') => next(2).is_some_and(is_digit),
        Some('*' | '&') => next(1).is_some_and(|c| c.is_ascii_alphanumeric()),
        Some(first) if OPERATORS.contains(&first) => next(1).is_some_and(|c| c.is_alphanumeric() || c == '('),
        _ => COMMANDS.iter().any(|command| after.starts_with(command)),
    }
}

/// Whether a text ends with the number or name that an operator at its end joins, or with a root.
fn is_operator_before(before: &str, last: char) -> bool {
    let earlier = |n: usize| before.chars().rev().nth(n);
    match last {
        '\u{221a}' | '\u{221b}' | '\u{221c}' => true,
        '*' if earlier(1) == Some('*') => earlier(2).is_some_and(is_digit),
        '*' | '&' => earlier(1).is_some_and(|c| c.is_ascii_alphanumeric()),
        '+' => earlier(1).is_some_and(|c| c.is_ascii_alphanumeric() || c == ')'),
        last => OPERATORS.contains(&last) && earlier(1).is_some_and(|c| c.is_alphanumeric() || c == ')'),
    }
}

/// Whether a text starts with a space and a group of three digits, the rest of `5 000`.
fn is_group(text: &str) -> bool {
    let Some(digits) = text.strip_prefix(' ') else { return false };
    digits.chars().take_while(|c| is_digit(*c)).count() == 3
}

/// Whether a reference starts with a group of three digits, and up to three digits and a space are before it.
fn is_later_group(before: &str, reference: &str) -> bool {
    let n_digits = |text: &str| text.chars().rev().take_while(|c| is_digit(*c)).count();
    reference.chars().take_while(|c| is_digit(*c)).count() == 3
        && before.strip_suffix(' ').is_some_and(|before| (1..=3).contains(&n_digits(before)))
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn a_reference_is_contained_as_words_and_numbers_of_its_own() {
        for (reference, texts) in [
            (
                "1",
                &["1", "It is 1.", "(1)", "1, 2 and 3", "**1**", "$1$", "x = 1", "No.1", "1 !", "11 or 1"][..],
            ),
            (
                "5",
                &["4, 5", "$5", "5$", "5 kg", "5. Then", "答案是5。", "共5个", "5-year plan", "- 5", "+ 5"],
            ),
            (
                "5",
                &["**5**", "*5*", "**5**!", "5 × 10", "5 percent", "5 kg!", "5 + 3", "<b>5</b>", "答案**5**"],
            ),
            ("+5", &["+5", "x = +5."]),
            ("5!", &["5!", "is 5!."]),
            ("C", &["C", "**C**", "C.", "C!", "C - Paris", "C) 5", "C & D", "Sol-C", "Vitamin C"]),
            ("C#", &["in C#."]),
            ("B+", &["B+", "a B+."]),
            ("B", &["B - Paris", "B-Paris", "B-side"]),
            ("AT&T", &["AT&T."]),
            ("5", &["-- 5", "chapter 5 of 20", "5?", "2000 5", "5 1000", "5°"]),
            ("200", &["200 people", "in 2019 200 people", "1 of 200"]),
            ("-5", &["-5", "x = -5", "(-5)", "it is -5."]),
            (".5", &["It is .5", "(.5)"]),
            ("1,800", &["1,800", "$1,800.", "costs 1,800 dollars"]),
            (
                "cat",
                &["cat", "A cat.", "cat's", "cats or cat", "cat-like", "\u{201c}cat\u{201d}", "the cat\nsat"],
            ),
            ("eau", &["l'eau", "l\u{2019}eau"]),
            ("New York", &["in New York.", "New York's", "(New York)"]),
            ("can", &["I can", "can.", "'can'"]),
            ("东京", &["答案是东京。", "在东京都"]),
            ("インド", &["首都はインドです", "インド", "『インド』"]),
            ("서울", &["정답은 서울입니다."]),
            ("กรุงเทพ", &["เมืองกรุงเทพมหานคร"]),
            ("十五", &["一共是十五个", "十五"]),
            ("é", &["é", "c'est é"]),
            ("B", &["(B)", "B.", "B: Paris", "选B。", "Answer:B"]),
            ("</b>", &["a</b>c"]),
            ("C++", &["C++ and", "in C++."]),
        ] {
            for text in texts {
                assert!(contains(text, reference), "{reference:?} in {text:?}");
            }
        }
        for (reference, texts) in [
            (
                "1",
                &[
                    "10", "21", "1.5", "0.1", "1,000", "-1", "1st", "x1", "1_000", "1/2", "3/1", "1%", "1²",
                    "1½",
                ][..],
            ),
            (
                "5",
                &[
                    "15",
                    "5.2",
                    "2.5",
                    ".5",
                    "5,000",
                    "1,5",
                    "5 000",
                    "5\u{a0}000",
                    "5'000",
                    "−5",
                    "3-5",
                    "5-6",
                ],
            ),
            (
                "5",
                &[
                    "5:30",
                    "10:5",
                    "5kg",
                    "5e3",
                    "5万",
                    "２５",
                    "5^2",
                    "2^5",
                    "5\\%",
                    "5\u{2013}7",
                    "-5 and 15",
                ],
            ),
            (
                "5",
                &[
                    "5 %",
                    "5\u{a0}%",
                    "5 \\%",
                    "5!",
                    "5!=120",
                    "5×10",
                    "10×5",
                    "5·3",
                    "3*5",
                    "5*3",
                    "5**2",
                    "2**5",
                    "+5",
                    "x+5",
                    "3+5",
                    "5+3",
                    "5+",
                    "±5",
                    "√5",
                    "5\\times10",
                    "5⁻¹",
                ],
            ),
            ("+5", &["3+5", "x+5", "+52"]),
            ("C", &["C++", "C#", "C♯", "A+C", "C+D", "C&A", "A&C", "C×D", "C′"]),
            ("C+", &["C++"]),
            ("C++", &["C++11"]),
            ("B", &["B+", "B-52", "a B-.", "B-", "B\u{2212}"]),
            ("200", &["1 200", "12 200 people", "1,200", "1200"]),
            ("-5", &["3-5", "x-5", "-52", "-5.5", "(2)-5"]),
            (".5", &["2.5", "0.5", ".55"]),
            ("cat", &["concatenate", "cats", "scat", "cat_1", "cat1", "cate\u{301}"]),
            ("e", &["e\u{301}", "the"]),
            ("can", &["can't", "can\u{2019}t", "cannot", "toucan"]),
            ("t", &["can't", "don't"]),
            ("New York", &["New Yorker"]),
            ("インド", &["インドネシア"]),
            ("五", &["十五", "五百", "二十五"]),
            ("мир", &["кумир", "мира"]),
            ("B", &["AB", "Bob", "B2"]),
        ] {
            for text in texts {
                assert!(!contains(text, reference), "{reference:?} in {text:?}");
            }
        }
    }

    #[test]
    fn a_long_text_of_one_letter_is_searched_in_little_time() {
        assert!(!contains(&"a".repeat(200_000), &"a".repeat(100)));
    }
}
