//! Words, sentences and letters of a text, and the parts of it that instructions ask for.

use std::sync::LazyLock;

use regex::Regex;

use super::locale::Locale;
use crate::verifiers::pattern::pattern;
use crate::verifiers::sentences;

static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"\w+"));
static SPANISH_WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"\w+(?:[-'’./:,]\w+)*"));
static CHINESE_WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"\p{Han}|[\w--\p{Han}]+"));
static LIST_MARK: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^\s*\d+\.\s*|^\s*[-*]\s*"));
static KANJI: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\x{4e00}-\x{9faf}]+"));
static KANJI_WITH_READING: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\x{4e00}-\x{9faf}]+（[ぁ-ん]+）"));

/// How many words a text has. A Chinese character counts as a word, as does a word of another script between them.
pub(super) fn count_words(text: &str, locale: Locale) -> usize {
    match locale {
        Locale::Es => SPANISH_WORD.find_iter(&LIST_MARK.replace_all(text, "")).count(),
        Locale::Zh => CHINESE_WORD.find_iter(text).count(),
        _ => WORD.find_iter(text).count(),
    }
}

/// How many sentences a text has.
pub(super) fn count_sentences(text: &str, locale: Locale) -> usize {
    match locale {
        Locale::En => sentences::count_sentences(text, sentences::Language::English),
        Locale::Fr => sentences::count_sentences(text, sentences::Language::French),
        Locale::Es => {
            sentences::count_sentences(&LIST_MARK.replace_all(text, ""), sentences::Language::Spanish)
        }
        Locale::Ja | Locale::Zh => wide_sentences(text, locale),
    }
}

/// Sentences of Chinese and Japanese: up to a mark or the end of a line. In Japanese what is between
/// quotation marks or parentheses belongs to the sentence around it.
fn wide_sentences(text: &str, locale: Locale) -> usize {
    let (mut n, mut depth, mut has_letters) = (0, 0_usize, false);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let is_end = match letter {
            '\n' => {
                depth = 0;
                true
            }
            '。' | '｡' | '！' | '？' | '!' | '?' => depth == 0,
            '.' | '．' => depth == 0 && letters.peek().is_none_or(|next| next.is_whitespace()),
            '「' | '『' | '（' | '(' if locale == Locale::Ja => {
                depth += 1;
                false
            }
            '」' | '』' | '）' | ')' if locale == Locale::Ja => {
                depth = depth.saturating_sub(1);
                false
            }
            _ => false,
        };
        if is_end {
            n += usize::from(has_letters);
            has_letters = false;
        } else {
            has_letters |= letter.is_alphanumeric();
        }
    }
    n + usize::from(has_letters)
}

/// How many words are in capitals.
pub(super) fn count_capital_words(text: &str) -> usize {
    tokens(text).filter(|word| is_upper(word)).count()
}

/// How many words have a letter, in small or large.
pub(super) fn count_words_with(text: &str, letters: &[char]) -> usize {
    let has = |word: &str| word.chars().flat_map(char::to_lowercase).any(|letter| letters.contains(&letter));
    SPANISH_WORD.find_iter(&LIST_MARK.replace_all(text, "")).filter(|word| has(word.as_str())).count()
}

/// At least one letter has case, and all that have are upper case.
pub(super) fn is_upper(text: &str) -> bool {
    !text.chars().any(char::is_lowercase) && text.chars().any(char::is_uppercase)
}

/// At least one letter has case, and all that have are lower case.
pub(super) fn is_lower(text: &str) -> bool {
    !text.chars().any(char::is_uppercase) && text.chars().any(char::is_lowercase)
}

/// Words as a treebank tokenizer cuts them: marks at either end are tokens of their own.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let is_joint = |c: char| c.is_whitespace() || ",:;?!()[]{}\"<>@#$%&¿¡«»".contains(c);
    text.split(is_joint)
        .map(|word| word.trim_matches(|c: char| matches!(c, '\'' | '`' | '*' | '_')))
        .filter(|word| !word.is_empty())
}

/// Two different parts between six asterisks.
pub(super) fn are_two_responses(text: &str) -> bool {
    let parts: Vec<&str> = text.split("******").collect();
    let last = parts.len() - 1;
    if parts.iter().enumerate().any(|(i, part)| part.trim().is_empty() && i != 0 && i != last) {
        return false;
    }
    let filled: Vec<&str> = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
    matches!(filled[..], [first, second] if first != second)
}

/// Paragraphs between lines of three asterisks; `None` where one in the middle is empty.
pub(super) fn count_divided(text: &str) -> Option<usize> {
    static DIVIDER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\s?\*\*\*\s?"));
    let parts: Vec<&str> = DIVIDER.split(text).collect();
    let last = parts.len() - 1;
    let mut n = parts.len();
    for (i, part) in parts.iter().enumerate() {
        if part.trim().is_empty() {
            if i != 0 && i != last {
                return None;
            }
            n -= 1;
        }
    }
    Some(n)
}

/// Whether a paragraph begins with a word, in small; in Spanish also with several.
pub(super) fn begins_with(paragraph: &str, expected: &str, locale: Locale) -> bool {
    match locale {
        Locale::En | Locale::Fr => first_word(paragraph) == expected,
        Locale::Es => {
            let plain = |word: &str| -> String {
                let letters = word.chars().filter(|letter| !letter.is_ascii_punctuation());
                letters.flat_map(char::to_lowercase).collect()
            };
            let n = expected.split_whitespace().count();
            let found: Vec<String> = paragraph.split_whitespace().take(n).map(plain).collect();
            found.iter().map(String::as_str).eq(expected.split_whitespace())
        }
        Locale::Ja | Locale::Zh => {
            let paragraph = paragraph.trim_start_matches(['「', '『', '“', '"', ' ', '\u{3000}', '\n']);
            paragraph.to_lowercase().starts_with(expected)
        }
    }
}

fn first_word(paragraph: &str) -> String {
    let word = paragraph.split_whitespace().next().unwrap_or_default();
    let word = word.trim_start_matches('\'').trim_start_matches('"');
    word.chars()
        .take_while(|c| !matches!(c, '.' | ',' | '?' | '!' | '\'' | '"'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// JSON, also in a fence.
pub(super) fn is_json(text: &str) -> bool {
    let mut text = text;
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    let text = text.strip_suffix("```").unwrap_or(text).trim();
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Occurrences of a letter, in small or large; of one of Hiragana also in Katakana.
pub(super) fn count_letter(text: &str, letter: char, locale: Locale) -> usize {
    const HIRAGANA_TO_KATAKANA: u32 = 96;
    let katakana = match letter {
        'ぁ'..='ゖ' if locale == Locale::Ja => char::from_u32(letter as u32 + HIRAGANA_TO_KATAKANA),
        _ => None,
    };
    text.to_lowercase().chars().filter(|&c| c == letter || Some(c) == katakana).count()
}

/// How many Kanji a text has.
pub(super) fn count_kanji(text: &str) -> usize {
    KANJI.find_iter(text).map(|found| found.as_str().chars().count()).sum()
}

/// Whether every run of Kanji is followed by its reading in Hiragana, in wide parentheses.
pub(super) fn has_readings(text: &str) -> bool {
    KANJI.find_iter(text).count() == KANJI_WITH_READING.find_iter(text).count()
}

/// A letter of Hiragana.
pub(super) fn is_hiragana(letter: char) -> bool {
    matches!(letter, 'ぁ'..='ゖ')
}

/// A letter of Katakana, wide or narrow.
pub(super) fn is_katakana(letter: char) -> bool {
    matches!(letter, 'ァ'..='ヺ' | 'ｦ'..='ﾟ')
}

/// Whether all letters are of one of the two scripts. Marks, digits and numerals such as 〇 are no letters; the mark of
/// length is of both.
pub(super) fn is_all(text: &str, is_of_script: fn(char) -> bool) -> bool {
    let is_letter = |letter: char| letter.is_alphabetic() && !letter.is_numeric();
    text.chars().all(|letter| is_of_script(letter) || letter == 'ー' || !is_letter(letter))
}

/// Whether every sentence ends with the same letters, besides what is between quotation marks.
pub(super) fn all_sentences_end_with(text: &str, ending: &str) -> bool {
    static QUOTED: LazyLock<Regex> = LazyLock::new(|| pattern("「.*?」|『.*?』"));
    let text = QUOTED.replace_all(text, "");
    text.split(['。', '！', '？']).filter(|part| !part.is_empty()).all(|part| part.ends_with(ending))
}

/// Whether a question or exclamation has both of its marks, with text between them.
pub(super) fn has_between(text: &str, open: char, close: char) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(open) {
        rest = &rest[at + open.len_utf8()..];
        let Some(end) = rest.find(close) else { return false };
        if !rest[..end].trim_matches(open).trim().is_empty() {
            return true;
        }
    }
    false
}

/// Whether every word of the list has its accents where it occurs at all. Pairs are of the word without and with them.
pub(super) fn has_accents(text: &str, words: &[(String, String)]) -> bool {
    let text = text.to_lowercase();
    let is_right = |word: regex::Match<'_>| {
        let plain = without_accents(word.as_str());
        words.iter().all(|(bare, accented)| *bare != plain || accented == word.as_str())
    };
    WORD.find_iter(&text).all(is_right)
}

/// Letters with a mark, and the same without.
const ACCENTS: &[(&str, char)] = &[
    ("àáâãäå", 'a'),
    ("ç", 'c'),
    ("èéêë", 'e'),
    ("ìíîï", 'i'),
    ("ñ", 'n'),
    ("òóôõö", 'o'),
    ("ùúûü", 'u'),
    ("ýÿ", 'y'),
];

fn without_accents(word: &str) -> String {
    let plain = |letter: char| {
        ACCENTS.iter().find(|(marked, _)| marked.contains(letter)).map_or(letter, |(_, plain)| *plain)
    };
    word.chars().map(plain).collect()
}

/// Whether a letter carries an accent or another mark.
pub(super) fn has_any_accent(text: &str) -> bool {
    text.chars()
        .flat_map(char::to_lowercase)
        .any(|letter| ACCENTS.iter().any(|(marked, _)| marked.contains(letter)))
}
