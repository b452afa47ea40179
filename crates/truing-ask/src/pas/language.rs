use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The languages that the prompts to models are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// English; also used for prompts in any language other than Chinese.
    En,
    /// Chinese.
    Zh,
}

/// Chinese characters that make a prompt which begins with one Chinese, however much other text it quotes.
const CERTAIN_CHARACTERS: usize = 4;
/// Words of another script that a Chinese sentence may begin with, such as the name of a program.
const MAX_LEADING_WORDS: usize = 2;

impl Language {
    /// The language that a prompt is asked in. Prompts often quote material in another language (a text to translate, a
    /// program), so the beginning decides: a Chinese prompt begins with a Chinese character and has at least four of
    /// them, or as many as other words; or it begins with at most two other words and has more Chinese characters than
    /// words. Japanese kana rule Chinese out.
    #[must_use]
    pub fn of(prompt: &str) -> Self {
        let (mut n_han, mut n_words, mut n_leading) = (0, 0, 0);
        let mut is_in_word = false;
        for c in prompt.chars() {
            let is_han = matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}');
            if matches!(c, '\u{3040}'..='\u{30ff}') {
                return Self::En;
            }
            let is_letter = c.is_alphabetic() && !is_han;
            n_words += usize::from(is_letter && !is_in_word);
            is_in_word = is_letter || (is_in_word && (c.is_alphanumeric() || c == '\''));
            if is_han && n_han == 0 {
                n_leading = n_words;
            }
            n_han += usize::from(is_han);
        }
        let is_chinese = n_han > 0
            && match n_leading {
                0 => n_han >= CERTAIN_CHARACTERS || n_han >= n_words,
                _ => n_leading <= MAX_LEADING_WORDS && n_han > n_words,
            };
        if is_chinese { Self::Zh } else { Self::En }
    }

    /// ISO 639-1.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Zh => "zh",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pas::{CriticCases, GoldenPairs};

    #[test]
    fn the_language_is_that_of_the_request_not_of_the_material() {
        for (prompt, expected) in [
            ("Why is the sky blue?", Language::En),
            ("天空为什么是蓝的？", Language::Zh),
            ("Translate into English: 今天天气很好，我们去公园吧。", Language::En),
            (
                "把这句话译成中文：The quick brown fox jumps over the lazy dog and then runs away.",
                Language::Zh,
            ),
            ("Excel VLOOKUP怎么跨表使用", Language::Zh),
            ("What does 你好 mean?", Language::En),
            ("空はなぜ青いのですか", Language::En),
            ("Pourquoi le ciel est-il bleu ?", Language::En),
            ("", Language::En),
            ("1 + 1 = ?", Language::En),
        ] {
            assert_eq!(Language::of(prompt), expected, "{prompt}");
        }
    }

    #[test]
    fn the_languages_of_the_bundled_prompts_are_found() {
        for pair in GoldenPairs::load(None).unwrap().pairs() {
            assert_eq!(Language::of(&pair.prompt), pair.language, "{}", pair.prompt);
        }
        for case in CriticCases::load(None).unwrap().cases() {
            assert_eq!(Language::of(&case.prompt), case.language, "{}", case.prompt);
        }
    }
}
