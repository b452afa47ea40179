//! Prompts as lists of numbered words: the unit of every comparison of this crate.
//!
//! A token is a word (letters, marks and digits in one run), one character of a script written without spaces, one
//! punctuation mark or symbol, or a break of lines (blank lines count as one break). Other white space separates and is
//! dropped. Every prompt begins with [`START`] and ends with [`END`], so that the first and last tokens can be
//! recognised.
//!
//! What it is not: a model's tokenizer. Word pieces would cut one word differently beside different neighbours.

use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;

use crate::PromptsError;

/// Stands before a prompt's first token.
pub const START: u32 = 0;
/// Stands after a prompt's last token.
pub const END: u32 = 1;
/// One or more breaks of lines.
pub const LINE_BREAK: u32 = 2;

/// How the three are shown.
const RESERVED: [&str; 3] = ["", "", "\n"];
/// A longer word is cut into pieces: nobody's word, and a pool of them should not fill the memory.
const MAX_WORD_BYTES: usize = 64;

/// Whether letters that differ in case alone are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LetterCase {
    /// `Answer` and `answer` are two words.
    #[default]
    Kept,
    /// They are one.
    Folded,
}

/// The tokens of `text` with the byte at which each begins, without [`START`] and [`END`].
pub fn split(text: &str) -> Split<'_> {
    Split { text, at: 0, is_first: true }
}

/// Iterator of [`split`].
#[derive(Debug, Clone)]
pub struct Split<'a> {
    text: &'a str,
    at: usize,
    is_first: bool,
}

impl<'a> Iterator for Split<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.text[self.at..];
        let blank = rest.len() - rest.trim_start().len();
        let has_break = rest[..blank].contains(['\n', '\r', '\u{2028}', '\u{2029}', '\u{85}']);
        let begin = self.at;
        self.at += blank;
        if self.at == self.text.len() {
            return None;
        }
        if has_break && !self.is_first {
            return Some((begin, "\n"));
        }
        self.is_first = false;
        let begin = self.at;
        self.at += token_bytes(&self.text[begin..]);
        Some((begin, &self.text[begin..self.at]))
    }
}

/// Bytes of the token that `text`, which is not empty, begins with.
fn token_bytes(text: &str) -> usize {
    let mut characters = text.char_indices();
    let Some((_, first)) = characters.next() else { return 0 };
    if !is_word(first) || is_spaceless(first) {
        return first.len_utf8();
    }
    let end =
        characters.find(|&(at, c)| !is_word(c) || is_spaceless(c) || at + c.len_utf8() > MAX_WORD_BYTES);
    end.map_or(text.len(), |(at, _)| at)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || unicode_normalization::char::is_combining_mark(c)
}

/// Letters of scripts whose words no space divides: Han, kana, Thai, Lao, Myanmar, Khmer.
pub(crate) fn is_spaceless(c: char) -> bool {
    matches!(u32::from(c),
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3040..=0x30FF | 0x31F0..=0x31FF
        | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0xFF66..=0xFF9D | 0x20000..=0x3FFFF)
}

/// The numbers of the words seen so far, in the order in which they were first seen.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    words: IndexSet<Box<str>, FxBuildHasher>,
    letter_case: LetterCase,
}

impl Vocabulary {
    /// One that knows only [`START`], [`END`] and [`LINE_BREAK`].
    pub fn new(letter_case: LetterCase) -> Self {
        // The first two have no text that a prompt could hold.
        let words = ["\u{0}start", "\u{0}end", "\n"].into_iter().map(Box::from).collect();
        Vocabulary { words, letter_case }
    }

    /// Different tokens.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether no word was seen yet.
    pub fn is_empty(&self) -> bool {
        self.words.len() == RESERVED.len()
    }

    /// The text of a token; empty for [`START`], [`END`] and numbers that were never given.
    pub fn text(&self, token: u32) -> &str {
        match RESERVED.get(token as usize) {
            Some(text) => text,
            None => self.words.get_index(token as usize).map_or("", |word| word),
        }
    }

    /// The number of a word that was seen.
    pub fn find(&self, word: &str) -> Option<u32> {
        let index = match self.letter_case {
            LetterCase::Kept => self.words.get_index_of(word),
            LetterCase::Folded => self.words.get_index_of(word.to_lowercase().as_str()),
        };
        index.map(|index| index as u32)
    }

    /// Appends the tokens of `text`, [`START`] and [`END`] around them.
    ///
    /// # Errors
    /// When there are more words than numbers.
    pub fn encode(&mut self, text: &str, tokens: &mut Vec<u32>) -> Result<(), PromptsError> {
        tokens.push(START);
        let mut folded = String::new();
        for (_, word) in split(text) {
            let word = if self.letter_case == LetterCase::Folded && word.chars().any(|c| !c.is_lowercase()) {
                folded.clear();
                folded.extend(word.chars().flat_map(char::to_lowercase));
                folded.as_str()
            } else {
                word
            };
            tokens.push(self.number(word)?);
        }
        tokens.push(END);
        Ok(())
    }

    fn number(&mut self, word: &str) -> Result<u32, PromptsError> {
        if let Some(index) = self.words.get_index_of(word) {
            return Ok(index as u32);
        }
        let limit = (u32::MAX - 1) as usize;
        if self.words.len() == limit {
            return Err(PromptsError::VocabularyFull { limit });
        }
        Ok(self.words.insert_full(word.into()).0 as u32)
    }
}

/// All prompts as tokens: 4 bytes a token, and every word's text once.
#[derive(Debug, Clone)]
pub struct TokenPool {
    vocabulary: Vocabulary,
    tokens: Vec<u32>,
    /// Where each row begins in `tokens`, and at last their number.
    starts: Vec<usize>,
}

impl TokenPool {
    /// A pool without prompts.
    pub fn new(letter_case: LetterCase) -> Self {
        TokenPool { vocabulary: Vocabulary::new(letter_case), tokens: Vec::new(), starts: vec![0] }
    }

    /// The pool of these prompts, in their order, with letter case kept.
    ///
    /// # Errors
    /// When there are more words than numbers.
    pub fn of<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, PromptsError> {
        let mut pool = TokenPool::new(LetterCase::Kept);
        texts.into_iter().try_for_each(|text| pool.push(text.as_ref()))?;
        Ok(pool)
    }

    /// Adds a prompt as the last row.
    ///
    /// # Errors
    /// When there are more words than numbers; the pool is then as before.
    pub fn push(&mut self, text: &str) -> Result<(), PromptsError> {
        let before = self.tokens.len();
        if let Err(error) = self.vocabulary.encode(text, &mut self.tokens) {
            self.tokens.truncate(before);
            return Err(error);
        }
        self.starts.push(self.tokens.len());
        Ok(())
    }

    /// Drops rows in place; those that stay keep their order and are numbered anew. Words stay known.
    pub fn retain(&mut self, mut stays: impl FnMut(usize) -> bool) {
        let (mut n_rows, mut end) = (0, 0);
        for row in 0..self.len() {
            if stays(row) {
                let range = self.starts[row]..self.starts[row + 1];
                let n_tokens = range.len();
                self.tokens.copy_within(range, end);
                end += n_tokens;
                n_rows += 1;
                self.starts[n_rows] = end;
            }
        }
        self.starts.truncate(n_rows + 1);
        self.tokens.truncate(end);
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of a row, with [`START`] and [`END`]. Panics when there is no such row.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.tokens[self.starts[row]..self.starts[row + 1]]
    }

    /// The words.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }
}

/// Tokens as text for people: spaces between words, none inside scripts without them nor before closing marks.
pub fn join<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for word in words {
        let (Some(last), Some(first)) = (text.chars().last(), word.chars().next()) else {
            text.push_str(word);
            continue;
        };
        let is_glued = first == '\n'
            || ",.;:?!)]}%'’”、。，：；？！）".contains(first)
            || "\n([{$#@'’“（、。，：；？！".contains(last)
            || is_spaceless(first) && (is_spaceless(last) || !last.is_alphanumeric())
            || is_spaceless(last) && !first.is_alphanumeric();
        if !is_glued {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[&str]) {
        assert_eq!(split(text).map(|(_, word)| word).collect::<Vec<_>>(), expect, "{text:?}");
        for (at, word) in split(text) {
            assert!(word == "\n" || text[at..].starts_with(word), "{text:?} at {at}");
        }
    }

    #[test]
    fn words_marks_breaks_and_scripts_without_spaces() {
        check("", &[]);
        check(" \n ", &[]);
        check("\n\nQ: it's 3.5%\n \nA:\n", &["Q", ":", "it", "'", "s", "3", ".", "5", "%", "\n", "A", ":"]);
        check("请翻译 hello世界。", &["请", "翻", "译", "hello", "世", "界", "。"]);
        check("nai\u{308}ve שלום мир", &["nai\u{308}ve", "שלום", "мир"]);
        check(&"x".repeat(150), &[&"x".repeat(64), &"x".repeat(64), &"x".repeat(22)]);
    }

    #[test]
    fn a_pool_numbers_words_once_and_gives_rows_back() {
        let pool = TokenPool::of(["a b", "b\na", ""]).unwrap();
        assert_eq!(pool.row(0), [START, 3, 4, END]);
        assert_eq!(pool.row(1), [START, 4, LINE_BREAK, 3, END]);
        assert_eq!(pool.row(2), [START, END]);
        assert_eq!((pool.len(), pool.vocabulary().len(), pool.vocabulary().text(4)), (3, 5, "b"));
        let mut folded = TokenPool::new(LetterCase::Folded);
        folded.push("Über über").unwrap();
        assert_eq!(folded.row(0), [START, 3, 3, END]);
        assert_eq!(folded.vocabulary().find("ÜBER"), Some(3));
    }

    #[test]
    fn text_for_people() {
        assert_eq!(join(["Is", "it", "(", "3", ")", "?", "\n", "Yes", "."]), "Is it (3)?\nYes.");
        assert_eq!(join(["请", "翻", "译", "：", "hello"]), "请翻译：hello");
    }
}
