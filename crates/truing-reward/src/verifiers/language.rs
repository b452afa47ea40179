//! 1 when a completion is in the wanted language, 0 when it is in another; unscored if neither can be detected.
//!
//! The languages of `LANGUAGES` are detected by the trigrams and alphabets of `whatlang`; Swahili, which it
//! does not know, and short English by their function words. A text in another language is only found where the
//! script rules the wanted one out, or the detector is sure (a confidence of 0.5) or has 200 letters to judge
//! by.
//!
//! Measured on the beginnings of 300 sentences from newspapers in each of 38 languages: the detector is wrong in 17.3 %
//! at 20 letters and 5.1 % at 60; where it is sure, in 0.6 % and 1.0 %, and then it is silent in 46.4 % and 14.7 %. The
//! crate `lingua`, with a confidence of 0.8, is wrong in 0.3 % and 0.2 %, and silent in 29.5 % and 9.4 %. Its models
//! would add some 150 MB to the binary for these languages, and it takes 11 and 24 times as long; for a mistake that is
//! already rare that is too much.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::{Unscored, UnscoredReason};
use whatlang::{Detector, Lang, Script};

use crate::RewardError;
use crate::completion::{Completion, RewardFunction, column_text};

/// Settings of [`Language`]: the wanted language is fixed, or a column of each row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LanguageConfig {
    /// Language as ISO 639-1, for instance `en`. A region (`pt-BR`) is ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Column with the language of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Minimum letters for detecting the language, unless the script identifies it; shorter texts are unscored. Letters
    /// count as UTF-8 bytes: a Chinese character counts as three.
    pub min_letters: usize,
}

impl Default for LanguageConfig {
    fn default() -> Self {
        Self { language: None, column: None, min_letters: 60 }
    }
}

/// Rewards a language.
#[derive(Debug)]
pub struct Language {
    wanted: Wanted,
    min_letters: usize,
}

#[derive(Debug)]
enum Wanted {
    One(&'static str),
    Column(String),
}

impl Language {
    /// Checks that the language can be detected.
    ///
    /// # Errors
    /// When it cannot, or not exactly one of `language` and `column` is given.
    pub fn new(config: LanguageConfig) -> Result<Self, RewardError> {
        let bad = |reason: String| RewardError::BadSetting { reward: "language", key: "language", reason };
        let wanted = match (config.language, config.column) {
            (Some(language), None) => {
                let expected = || bad(format!("is `{language}`, expected one of {}", known().join(", ")));
                Wanted::One(find(&language).ok_or_else(expected)?)
            }
            (None, Some(column)) => Wanted::Column(column),
            _ => return Err(bad("is one of two: expected `language` or `column`, and only one".into())),
        };
        Ok(Self { wanted, min_letters: config.min_letters })
    }

    fn score_one(&self, completion: &Completion<'_>) -> Result<f64, Unscored> {
        let unscored =
            |reason, detail: String| Unscored::new(reason, format!("{}: {detail}", completion.origin));
        let wanted = match &self.wanted {
            Wanted::One(language) => language,
            Wanted::Column(column) => {
                let text = column_text(completion, column)?;
                find(&text).ok_or_else(|| {
                    let detail = format!("`{column}` is `{text}`, expected a detectable language");
                    unscored(UnscoredReason::BadReference, detail)
                })?
            }
        };
        if is_script_of_another(completion.text, wanted) {
            return Ok(0.0);
        }
        let letters = letters(completion.text);
        if letters < self.min_letters || letters == 0 {
            let detail = format!(
                "{letters} letters are too few to detect the language, expected {}",
                self.min_letters
            );
            return Err(unscored(UnscoredReason::Unparsed, detail));
        }
        let is_wanted = is_in(completion.text, wanted).ok_or_else(|| {
            let detail = format!("it is not clear whether the text is in `{wanted}`");
            unscored(UnscoredReason::Unparsed, detail)
        })?;
        Ok(f64::from(u8::from(is_wanted)))
    }
}

impl RewardFunction for Language {
    fn name(&self) -> &str {
        "language"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        completions.iter().map(|completion| self.score_one(completion)).collect()
    }
}

/// Whether a text may be in a language (ISO 639-1): everything but a text that is surely in another.
pub(crate) fn may_be(text: &str, wanted: &str) -> bool {
    !is_script_of_another(text, wanted) && is_in(text, wanted) != Some(false)
}

/// Whether a text is in a language; `None` if that cannot be detected.
fn is_in(text: &str, wanted: &str) -> Option<bool> {
    match detect(text)? {
        (found, _) if found == wanted => Some(true),
        // Short Japanese can do with Chinese characters alone.
        ("zh", _) if wanted == "ja" && letters(text) < MIN_WITHOUT_KANA => None,
        (_, is_sure) => is_sure.then_some(false),
    }
}

/// Letters, as bytes of UTF-8, after which Japanese without Kana is not to be expected.
const MIN_WITHOUT_KANA: usize = 30;
/// Share of a text's letters that a language has to have in its script.
const MIN_SHARE_OF_SCRIPT: f64 = 0.05;
/// Where the detector's confidence is at least this, it is wrong in one of a hundred texts, of any length.
const SURE: f64 = 0.5;

/// Letters, as bytes of UTF-8, after which the detector's word is taken, however sure it is: otherwise a long text that
/// looks like no language at all would count as being in any.
const LONG: usize = 200;

/// The length of a text's letters in bytes.
fn letters(text: &str) -> usize {
    text.chars().filter(|letter| letter.is_alphabetic()).map(char::len_utf8).sum()
}

/// The language of a text (ISO 639-1) and whether that is sure, upper and lower case alike; `None` where it has no
/// letters.
fn detect(text: &str) -> Option<(&'static str, bool)> {
    // The detector knows small letters better.
    let text = text.to_lowercase();
    if is_swahili(&text) {
        return Some((SWAHILI, true));
    }
    if is_english(&text) {
        return Some((ENGLISH, true));
    }
    let found = DETECTOR.detect(&text)?;
    let code = LANGUAGES.iter().find(|(three, _)| *three == found.lang().code()).map(|(_, two)| *two)?;
    Some((code, found.confidence() >= SURE || letters(&text) >= LONG))
}

/// Whether a text has letters, and hardly any of a script that the language is written in.
fn is_script_of_another(text: &str, wanted: &str) -> bool {
    let language =
        LANGUAGES.iter().find(|(_, two)| *two == wanted).and_then(|(three, _)| Lang::from_code(*three));
    let is_own = |script: Script| match (wanted, language) {
        ("ja", _) => matches!(script, Script::Hiragana | Script::Katakana | Script::Mandarin),
        (_, Some(language)) => script.langs().contains(&language),
        // Swahili
        _ => script == Script::Latin,
    };
    let (mut all, mut own) = (0, 0);
    let mut buffer = [0; 4];
    for letter in text.chars().filter(|letter| letter.is_alphabetic()) {
        // Letters of a script that the detector does not know are of nobody's.
        let script = whatlang::detect_script(letter.encode_utf8(&mut buffer));
        all += letter.len_utf8();
        own += if script.is_some_and(is_own) { letter.len_utf8() } else { 0 };
    }
    all > 0 && (own as f64) < MIN_SHARE_OF_SCRIPT * all as f64
}

/// The language that a tag names (`de`, `pt-BR`, `zh_TW`), if it is known.
pub(crate) fn find(tag: &str) -> Option<&'static str> {
    let code = tag.trim().split(['-', '_']).next().unwrap_or_default().to_lowercase();
    known().into_iter().find(|known| *known == code)
}

fn known() -> Vec<&'static str> {
    LANGUAGES.iter().map(|(_, two)| *two).chain([SWAHILI]).collect()
}

/// Leaving out what nobody writes by chance (Latin, Esperanto) keeps short texts apart better.
static DETECTOR: LazyLock<Detector> = LazyLock::new(|| {
    Detector::with_allowlist(LANGUAGES.iter().filter_map(|(three, _)| Lang::from_code(*three)).collect())
});

const SWAHILI: &str = "sw";

/// Whether a fifth of the words, and at least three, are function words of Swahili.
fn is_swahili(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "na", "ya", "wa", "kwa", "ni", "katika", "za", "cha", "vya", "hii", "hiyo", "kama", "lakini", "pia",
        "yake", "wake", "kutoka", "baada", "kabla", "kuwa", "ambao", "ambayo", "sana", "watu", "hakuna",
        "mimi", "wewe",
    ];
    let (n, n_known) = count_words(text, WORDS);
    n_known >= 3 && 5 * n_known >= n
}

const ENGLISH: &str = "en";

/// Whether a fifth of the words, and at least two, are function words of English that other languages in Latin
/// script do not have. Short English is what a model falls back to, and the detector is rarely sure of it.
fn is_english(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "the", "and", "that", "with", "you", "your", "this", "were", "they", "from", "please", "would",
        "which", "their", "there", "what", "when", "how", "about", "any", "other", "but", "into", "its",
        "she", "could", "should", "these", "those", "because", "while", "where", "who", "than", "been",
    ];
    let (n, n_known) = count_words(text, WORDS);
    n_known >= 2 && 5 * n_known >= n
}

/// How many words a text has, and how many of them are in a list.
fn count_words(text: &str, list: &[&str]) -> (usize, usize) {
    let words = text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
    words.fold((0, 0), |(n, n_known), word| (n + 1, n_known + usize::from(list.contains(&word))))
}

/// ISO 639-3, as the detector names them, and 639-1, as rows do.
const LANGUAGES: &[(&str, &str)] = &[
    ("afr", "af"),
    ("ara", "ar"),
    ("bel", "be"),
    ("ben", "bn"),
    ("bul", "bg"),
    ("cat", "ca"),
    ("ces", "cs"),
    ("cmn", "zh"),
    ("dan", "da"),
    ("deu", "de"),
    ("ell", "el"),
    ("eng", "en"),
    ("est", "et"),
    ("fin", "fi"),
    ("fra", "fr"),
    ("guj", "gu"),
    ("heb", "he"),
    ("hin", "hi"),
    ("hrv", "hr"),
    ("hun", "hu"),
    ("hye", "hy"),
    ("ind", "id"),
    ("ita", "it"),
    ("jpn", "ja"),
    ("kan", "kn"),
    ("kat", "ka"),
    ("khm", "km"),
    ("kor", "ko"),
    ("lav", "lv"),
    ("lit", "lt"),
    ("mal", "ml"),
    ("mar", "mr"),
    ("mkd", "mk"),
    ("mya", "my"),
    ("nep", "ne"),
    ("nld", "nl"),
    ("nob", "no"),
    ("ori", "or"),
    ("pan", "pa"),
    ("pes", "fa"),
    ("pol", "pl"),
    ("por", "pt"),
    ("ron", "ro"),
    ("rus", "ru"),
    ("sin", "si"),
    ("slk", "sk"),
    ("slv", "sl"),
    ("spa", "es"),
    ("swe", "sv"),
    ("tam", "ta"),
    ("tel", "te"),
    ("tgl", "tl"),
    ("tha", "th"),
    ("tur", "tr"),
    ("ukr", "uk"),
    ("urd", "ur"),
    ("vie", "vi"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};
    use truing_types::{Conversation, FinishReason, RowOrigin};

    #[test]
    fn short_english_is_in_no_other_language() {
        for text in [
            "Please let me know if you have any other questions about it.",
            "Sorry, but I can not help with that request today.",
            "The quick brown fox jumps over the lazy dog.",
        ] {
            assert!(may_be(text, "en"), "{text}");
            for other in ["fr", "es", "de", "it", "pt", "vi", "nl"] {
                assert!(!may_be(text, other), "{other}: {text}");
            }
        }
        // Names and titles are of any language.
        assert!(may_be("DIGITAL DYNAMICS", "fr") && may_be("The Beatles", "de"));
        assert!(!may_be("水在一百摄氏度时沸腾，在零摄氏度时结冰。", "ja") && may_be("東京都", "ja"));
    }

    #[test]
    fn texts_of_a_line_are_told_apart() {
        for (text, expect) in [
            ("The house by the lake was sold to a family from the city last year.", "en"),
            ("Das Haus am See wurde im letzten Jahr an eine Familie aus der Stadt verkauft.", "de"),
            ("LA MAISON AU BORD DU LAC A ÉTÉ VENDUE À UNE FAMILLE DE LA VILLE.", "fr"),
            ("Дом у озера был продан в прошлом году семье из города.", "ru"),
            ("湖边的房子去年卖给了城里的一家人。", "zh"),
            ("湖のそばの家は去年、町の家族に売られました。", "ja"),
            ("झील के किनारे का घर पिछले साल शहर के एक परिवार को बेच दिया गया था।", "hi"),
            ("Nyumba ya kando ya ziwa iliuzwa mwaka jana kwa familia ya watu kutoka mjini.", "sw"),
        ] {
            assert_eq!(detect(text).map(|found| found.0), Some(expect), "{text}");
            assert_eq!(is_in(text, expect), Some(true), "{text}");
        }
        assert_eq!(detect("12 + 3 = 15"), None);
    }

    #[test]
    fn short_texts_are_not_decided_by_a_guess() {
        for (text, wanted) in [
            ("DIGITAL DYNAMICS", "en"),
            ("HELLO WORLD", "en"),
            ("luxury beachfront estates inc.", "en"),
            ("NO.", "en"),
            ("OK", "fr"),
            ("Das ist gut", "de"),
            ("Hola mundo", "es"),
            ("東京都", "ja"),
            ("东京都", "zh"),
            ("Привет", "uk"),
            ("12 + 3", "en"),
            ("", "en"),
            ("我喜欢 Python 和 Rust programming languages", "zh"),
        ] {
            assert!(may_be(text, wanted), "{text} may be {wanted}");
        }
        for (text, wanted) in [
            ("Привет", "en"),
            ("Hello", "ru"),
            ("Hello", "zh"),
            ("你好", "en"),
            ("こんにちは", "zh"),
            ("안녕하세요", "ja"),
            ("Hello", "hi"),
            ("नमस्ते", "sw"),
        ] {
            assert!(!may_be(text, wanted), "{text} is not {wanted}");
        }
        assert!(!may_be(GERMAN, "en") && !may_be(ENGLISH, "de"), "a sentence is enough");
        let babble = "TXOMIN ZUK VRAP ".repeat(20);
        assert!(!may_be(&babble, "en"), "long texts cannot hide behind doubt: {:?}", detect(&babble));
    }

    #[test]
    fn every_language_is_one_of_the_detectors() {
        assert!(LANGUAGES.iter().all(|(three, two)| Lang::from_code(*three).is_some() && two.len() == 2));
    }

    const ENGLISH: &str =
        "The house by the lake was sold to a family from the city last year, and nobody lives there.";
    const GERMAN: &str = "Das Haus am See wurde im letzten Jahr verkauft, und jetzt wohnt dort niemand mehr.";
    const CHINESE: &str = "湖边的房子去年卖给了城里的一家人，现在没有人住在那里了。";

    fn score(config: Value, text: &str, columns: Value) -> Result<f64, Unscored> {
        let mut language = Language::new(serde_json::from_value(config).unwrap()).unwrap();
        let columns: Map<String, Value> = serde_json::from_value(columns).unwrap();
        let (prompt, origin) = (Conversation::default(), RowOrigin { source: "a.jsonl".into(), line: 2 });
        let finish_reason = FinishReason::EndOfTurn;
        let completion = Completion {
            prompt: &prompt,
            text,
            n_tokens: 9,
            finish_reason,
            columns: &columns,
            origin: &origin,
        };
        language.score(&[completion]).remove(0)
    }

    #[test]
    fn the_wanted_language_is_rewarded() {
        for (wanted, text, expect) in [
            ("en", ENGLISH, 1.0),
            ("en-GB", ENGLISH, 1.0),
            ("de", ENGLISH, 0.0),
            ("de", GERMAN, 1.0),
            ("zh_TW", CHINESE, 1.0),
            ("ja", CHINESE, 0.0),
        ] {
            assert_eq!(score(json!({"language": wanted}), text, json!({})), Ok(expect), "{wanted}: {text}");
            let column = score(json!({"column": "lang"}), text, json!({"lang": wanted}));
            assert_eq!(column, Ok(expect), "{wanted}: {text}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_unscored() {
        let reason =
            |config: Value, text: &str, columns: Value| score(config, text, columns).unwrap_err().to_string();
        for (text, n) in [("", 0), ("12 + 3 = 15", 0), ("The house was sold.", 15)] {
            let expect =
                format!("unparsed: a.jsonl:2: {n} letters are too few to detect the language, expected 60");
            assert_eq!(reason(json!({"language": "en"}), text, json!({})), expect);
        }
        assert_eq!(
            score(json!({"language": "en", "min_letters": 9}), "The house was sold.", json!({})),
            Ok(1.0)
        );
        assert_eq!(score(json!({"language": "en"}), "Дом", json!({})), Ok(0.0), "the script says enough");
        // Half English, half German: the detector is not sure.
        let mixed =
            "The house by the lake, das Haus am See, was sold to a family, wurde verkauft an eine Familie.";
        assert!(reason(json!({"language": "fr"}), mixed, json!({})).contains("not clear"), "{mixed}");
        let column = json!({"column": "lang"});
        assert_eq!(
            reason(column.clone(), ENGLISH, json!({"lang": "tlh"})),
            "bad_reference: a.jsonl:2: `lang` is `tlh`, expected a detectable language"
        );
        assert_eq!(reason(column, ENGLISH, json!({})), "missing_reference: a.jsonl:2: the row has no `lang`");
        let refused =
            |config: Value| Language::new(serde_json::from_value(config).unwrap()).unwrap_err().to_string();
        let one =
            "reward `language`: `language` is one of two: expected `language` or `column`, and only one";
        assert_eq!(refused(json!({})), one);
        assert!(
            refused(json!({"language": "Klingon"}))
                .starts_with("reward `language`: `language` is `Klingon`, expected one of af, ar, ")
        );
    }
}
