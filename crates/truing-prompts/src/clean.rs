//! A prompt as it comes, made regular or turned away with a reason.
//!
//! One prompt at a time, so a pool of any size passes in constant memory. Nothing is rewritten but characters that look
//! alike (Unicode normalisation), controls that cannot be seen, and the ends of lines and text.
//!
//! Languages are detected by `whatlang` from letter trigrams and scripts. It is sure of long texts only: below
//! [`CleanOptions::min_letters_for_language`] letters (as bytes of UTF-8) a prompt's language is unknown, and unknown
//! is kept, for a wrong guess would drop what is short rather than what is foreign.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;
use whatlang::{Detector, Lang};

use crate::PromptsError;
use crate::error::check_option;

/// Which Unicode normal form (UAX 15) prompts are brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Normalisation {
    /// None.
    None,
    /// NFC: letters and their marks are composed; the visible text does not change.
    #[default]
    Nfc,
    /// NFKC: compatibility characters (full-width letters, ligatures, circled digits) are replaced by plain ones as
    /// well.
    Nfkc,
}

/// What a prompt must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CleanOptions {
    /// Unicode normalisation.
    pub normalisation: Normalisation,
    /// Languages to keep, as ISO 639-3 (`eng`, `cmn`). Empty: all.
    pub languages: Vec<String>,
    /// Minimum letters of a text for detecting its language.
    pub min_letters_for_language: usize,
    /// Range of the length in characters after cleaning, both ends included: `{ start = 4, end = 32768 }` (the
    /// default).
    pub characters: RangeInclusive<usize>,
    /// Minimum fraction of letters and digits among the characters that are not white space.
    pub min_letter_share: f64,
    /// Maximum characters of a word. Longer ones are taken for encoded data.
    pub max_word_characters: usize,
    /// Maximum fraction of lines that repeat an earlier line, in prompts with at least 8 lines.
    pub max_repeated_line_share: f64,
}

/// Lines from which repetition is judged: lists and dialogues repeat a line or two.
pub const MIN_LINES: usize = 8;
/// Characters at the beginning of a prompt that its language is detected from.
const LANGUAGE_SAMPLE: usize = 2000;

impl Default for CleanOptions {
    fn default() -> Self {
        CleanOptions {
            normalisation: Normalisation::Nfc,
            languages: Vec::new(),
            min_letters_for_language: 60,
            characters: 4..=32_768,
            min_letter_share: 0.4,
            max_word_characters: 200,
            max_repeated_line_share: 0.5,
        }
    }
}

/// Why a prompt was dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum DropReason {
    /// Nothing but white space and controls.
    Empty,
    /// Fewer characters than asked.
    TooShort {
        /// Its characters.
        characters: usize,
    },
    /// More characters than allowed.
    TooLong {
        /// Its characters.
        characters: usize,
    },
    /// Characters that could not be decoded when the text was made (U+FFFD).
    Undecodable,
    /// Too few letters and digits.
    FewLetters {
        /// Their share.
        share: f64,
    },
    /// A word as no language has.
    LongWord {
        /// Its characters.
        characters: usize,
    },
    /// The same lines again and again.
    RepeatedLines {
        /// Share of lines that repeat an earlier one.
        share: f64,
    },
    /// A language that was not asked for.
    Language {
        /// ISO 639-3.
        language: String,
    },
}

impl DropReason {
    /// A word for tables.
    pub fn name(&self) -> &'static str {
        match self {
            DropReason::Empty => "empty",
            DropReason::TooShort { .. } => "too short",
            DropReason::TooLong { .. } => "too long",
            DropReason::Undecodable => "undecodable",
            DropReason::FewLetters { .. } => "few letters",
            DropReason::LongWord { .. } => "long word",
            DropReason::RepeatedLines { .. } => "repeated lines",
            DropReason::Language { .. } => "language",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DropReason::TooShort { characters }
            | DropReason::TooLong { characters }
            | DropReason::LongWord { characters } => write!(f, "{} ({characters} characters)", self.name()),
            DropReason::FewLetters { share } | DropReason::RepeatedLines { share } => {
                write!(f, "{} ({:.0} %)", self.name(), 100.0 * share)
            }
            DropReason::Language { language } => write!(f, "language `{language}`"),
            DropReason::Empty | DropReason::Undecodable => f.write_str(self.name()),
        }
    }
}

/// A prompt that may stay.
#[derive(Debug, Clone, PartialEq)]
pub struct CleanPrompt {
    /// Its text.
    pub text: String,
    /// ISO 639-3; `None` where the text is too short to tell.
    pub language: Option<&'static str>,
}

/// Checked [`CleanOptions`].
#[derive(Debug, Clone)]
pub struct Cleaner {
    options: CleanOptions,
    languages: Vec<Lang>,
    detector: Detector,
}

impl Cleaner {
    /// Checks the options.
    ///
    /// # Errors
    /// When a language is not known or a bound is outside its range.
    pub fn new(options: CleanOptions) -> Result<Self, PromptsError> {
        let share = 0.0..=1.0;
        check_option(
            share.contains(&options.min_letter_share),
            "min_letter_share",
            options.min_letter_share,
            "0 to 1",
        )?;
        let repeated = options.max_repeated_line_share;
        check_option(share.contains(&repeated), "max_repeated_line_share", repeated, "0 to 1")?;
        let bounds = format!("{}..={}", options.characters.start(), options.characters.end());
        check_option(!options.characters.is_empty(), "characters", bounds, "a range that is not empty")?;
        check_option(
            options.max_word_characters > 0,
            "max_word_characters",
            options.max_word_characters,
            "at least 1",
        )?;
        let expected = "ISO 639-3 codes of detectable languages, such as eng, cmn, jpn, rus, spa";
        let find = |code: &String| {
            Lang::from_code(code.to_lowercase()).ok_or_else(|| PromptsError::BadOption {
                option: "languages",
                value: format!("`{code}`"),
                expected,
            })
        };
        let languages = options.languages.iter().map(find).collect::<Result<_, _>>()?;
        Ok(Cleaner { options, languages, detector: Detector::new() })
    }

    /// The prompt made regular.
    ///
    /// # Errors
    /// The first reason for which it should be dropped, the cheap ones first.
    pub fn clean(&self, text: &str) -> Result<CleanPrompt, DropReason> {
        let options = &self.options;
        let text = self.normalise(text);
        if text.is_empty() {
            return Err(DropReason::Empty);
        }
        let characters = text.chars().count();
        if characters < *options.characters.start() {
            return Err(DropReason::TooShort { characters });
        }
        if characters > *options.characters.end() {
            return Err(DropReason::TooLong { characters });
        }
        self.check_shape(&text)?;
        let language = self.language(&text);
        if let Some(language) = language
            && !self.languages.is_empty()
            && !self.languages.contains(&language)
        {
            return Err(DropReason::Language { language: language.code().to_owned() });
        }
        Ok(CleanPrompt { text, language: language.map(|language| language.code()) })
    }

    fn normalise(&self, text: &str) -> String {
        let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
        let seen = text.chars().filter(|&c| !is_unseen(c));
        let text: String = match self.options.normalisation {
            Normalisation::None => seen.collect(),
            Normalisation::Nfc => seen.nfc().collect(),
            Normalisation::Nfkc => seen.nfkc().collect(),
        };
        let mut lines = String::with_capacity(text.len());
        for line in text.replace("\r\n", "\n").split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) {
            lines.push_str(line.trim_end());
            lines.push('\n');
        }
        lines.trim().to_owned()
    }

    fn check_shape(&self, text: &str) -> Result<(), DropReason> {
        let options = &self.options;
        if text.contains('\u{FFFD}') {
            return Err(DropReason::Undecodable);
        }
        let (mut letters, mut visible) = (0_usize, 0_usize);
        for c in text.chars().filter(|c| !c.is_whitespace()) {
            visible += 1;
            letters += usize::from(c.is_alphanumeric() || unicode_normalization::char::is_combining_mark(c));
        }
        let share = letters as f64 / visible as f64;
        if share < options.min_letter_share {
            return Err(DropReason::FewLetters { share });
        }
        let is_spaceless = |word: &&str| word.chars().any(crate::tokens::is_spaceless);
        let words = text.split_whitespace().filter(|word| !is_spaceless(word));
        let longest = words.map(|word| word.chars().count()).max().unwrap_or(0);
        if longest > options.max_word_characters {
            return Err(DropReason::LongWord { characters: longest });
        }
        let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let n_lines = lines.len();
        if n_lines >= MIN_LINES {
            lines.sort_unstable();
            lines.dedup();
            let share = (n_lines - lines.len()) as f64 / n_lines as f64;
            if share > options.max_repeated_line_share {
                return Err(DropReason::RepeatedLines { share });
            }
        }
        Ok(())
    }

    fn language(&self, text: &str) -> Option<Lang> {
        let end = text.char_indices().nth(LANGUAGE_SAMPLE).map_or(text.len(), |(at, _)| at);
        let sample = &text[..end];
        let letters: usize = sample.chars().filter(|c| c.is_alphabetic()).map(char::len_utf8).sum();
        if letters < self.options.min_letters_for_language {
            return None;
        }
        self.detector.detect_lang(sample)
    }
}

/// Controls that are no white space, and marks without width that only tell two equal texts apart. Joiners stay:
/// scripts and emoji need them.
fn is_unseen(c: char) -> bool {
    c.is_control() && !c.is_whitespace() || matches!(c, '\u{200B}' | '\u{2060}' | '\u{FEFF}' | '\u{AD}')
}

/// How many prompts stayed and why the others did not, in constant memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CleanReport {
    /// Prompts seen.
    pub n_prompts: u64,
    /// Prompts that stayed.
    pub n_kept: u64,
    /// Dropped prompts by [`DropReason::name`].
    pub dropped: BTreeMap<String, u64>,
    /// Kept prompts by language; `unknown` where too short to tell.
    pub languages: BTreeMap<String, u64>,
}

impl CleanReport {
    /// Counts one outcome.
    pub fn record(&mut self, outcome: &Result<CleanPrompt, DropReason>) {
        self.n_prompts += 1;
        match outcome {
            Ok(prompt) => {
                self.n_kept += 1;
                *self.languages.entry(prompt.language.unwrap_or("unknown").to_owned()).or_default() += 1;
            }
            Err(reason) => *self.dropped.entry(reason.name().to_owned()).or_default() += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: CleanOptions, text: &str, expect: Result<&str, &str>) {
        let outcome = Cleaner::new(options).unwrap().clean(text);
        let outcome = outcome.as_ref().map(|p| p.text.as_str()).map_err(ToString::to_string);
        assert_eq!(outcome.as_deref(), expect.map_err(str::to_owned).as_deref(), "{text:?}");
    }

    #[test]
    fn characters_and_ends_are_made_regular() {
        let all = CleanOptions::default;
        check(all(), "\u{FEFF} Cafe\u{301}  au lait? \r\nYes \t\r\n\n", Ok("Caf\u{e9}  au lait?\nYes"));
        check(all(), "ze\u{200B}ro\u{0}!", Ok("zero!"));
        check(
            CleanOptions { normalisation: Normalisation::Nfkc, ..all() },
            "Ｗｈａｔ ﬁts①",
            Ok("What fits1"),
        );
        check(CleanOptions { normalisation: Normalisation::None, ..all() }, "Cafe\u{301}", Ok("Cafe\u{301}"));
        check(all(), "👩\u{200D}🚀 goes to the moon", Ok("👩\u{200D}🚀 goes to the moon"));
    }

    #[test]
    fn every_reason_is_named() {
        let all = CleanOptions::default;
        check(all(), " \u{0}\n ", Err("empty"));
        check(all(), "abc", Err("too short (3 characters)"));
        check(all(), &"word ".repeat(20_000), Err("too long (99999 characters)"));
        check(all(), "broken \u{FFFD} text", Err("undecodable"));
        check(all(), "--- *** ab", Err("few letters (25 %)"));
        check(all(), &format!("decode {}", "Qx7".repeat(100)), Err("long word (300 characters)"));
        check(all(), &"again\n".repeat(9), Err("repeated lines (89 %)"));
        let english = CleanOptions { languages: vec!["eng".into()], ..all() };
        check(english.clone(), "привет", Ok("привет"));
        let russian = "Скажите, пожалуйста, как пройти к ближайшей станции метро?";
        check(english.clone(), russian, Err("language `rus`"));
        let question =
            "Could you please tell me how I get to the nearest station of the underground railway from here?";
        check(english, question, Ok(question));
    }

    #[test]
    fn prompts_of_any_size_and_mixed_scripts_have_an_outcome() {
        let mixed = "Translate 请把这句话翻译成英文 into اللغة العربية and на русский язык, thank you.";
        check(CleanOptions::default(), mixed, Ok(mixed));
        check(CleanOptions::default(), &"请".repeat(500), Ok(&"请".repeat(500)));
        let huge = "many words make a long prompt ".repeat(3500);
        check(CleanOptions::default(), &huge, Err("too long (104999 characters)"));
        let long = CleanOptions { characters: 1..=200_000, ..CleanOptions::default() };
        check(long, &huge, Ok(huge.trim()));
    }

    #[test]
    fn bad_options_are_named() {
        let check = |options: CleanOptions, expect: &str| {
            assert_eq!(Cleaner::new(options).unwrap_err().to_string(), expect);
        };
        let all = CleanOptions::default;
        check(
            CleanOptions { languages: vec!["xx".into()], ..all() },
            "`languages` is `xx`, expected ISO 639-3 codes of detectable languages, such as eng, cmn, jpn, rus, spa",
        );
        #[expect(clippy::reversed_empty_ranges, reason = "the bad option")]
        let empty = 9..=3;
        check(
            CleanOptions { characters: empty, ..all() },
            "`characters` is 9..=3, expected a range that is not empty",
        );
        check(
            CleanOptions { min_letter_share: f64::NAN, ..all() },
            "`min_letter_share` is NaN, expected 0 to 1",
        );
    }

    #[test]
    fn the_report_counts() {
        let cleaner = Cleaner::new(CleanOptions::default()).unwrap();
        let mut report = CleanReport::default();
        ["", "a b c d", "abc"].iter().for_each(|text| report.record(&cleaner.clean(text)));
        assert_eq!((report.n_prompts, report.n_kept), (3, 1));
        assert_eq!(report.dropped, BTreeMap::from([("empty".into(), 1), ("too short".into(), 1)]));
        assert_eq!(report.languages, BTreeMap::from([("unknown".into(), 1)]));
    }
}
