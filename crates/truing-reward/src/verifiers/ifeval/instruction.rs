//! One instruction with its settings, and whether a text follows it.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};
use truing_types::{Unscored, UnscoredReason};

use super::bound::Bound;
use super::catalogue;
use super::counting as text_of;
use super::locale::Locale;
use super::settings::Settings;
use crate::verifiers::language;
use crate::verifiers::pattern::pattern;
use crate::verifiers::python_regex::ignoring_case;

/// What is asked for.
enum Rule {
    CapitalWords(Bound),
    Upper,
    Lower,
    RepeatPrompt(String),
    TwoResponses,
    Informal,
    NoDigits,
    Placeholders(Bound),
    Postscript(Regex),
    ConstrainedResponse,
    Json,
    Sections(Regex, Bound),
    Bullets(usize),
    NumberedItems(usize),
    Highlights(Bound),
    Title,
    Keywords(Vec<Regex>),
    ForbiddenWords(Vec<Regex>),
    KeywordFrequency(Regex, Bound),
    LetterFrequency(char, Bound),
    Language(&'static str),
    ParagraphFirstWord { n_paragraphs: usize, nth: usize, word: String },
    Paragraphs(usize),
    Sentences(Bound),
    Words(Bound),
    Letters(Bound),
    Kanji(Bound),
    Readings,
    OnlyScript(fn(char) -> bool),
    WithoutScript(fn(char) -> bool),
    NoComma,
    NoPeriod,
    Between(char, char),
    WordsWith(&'static [char], Bound),
    Exactly(&'static [char], usize),
    Without(String),
    Accents(Vec<(String, String)>),
    NoAccents,
    Ending(String),
    SentencesEndWith(String),
    Quotation,
}

/// An instruction in a language.
pub(super) struct Instruction {
    locale: Locale,
    rule: Rule,
}

const ENIE: &[char] = &['ñ'];
const DIERESIS: &[char] = &['ü'];
const TILDES: &[char] = &['á', 'é', 'í', 'ó', 'ú'];

impl Instruction {
    /// Reads an instruction. `id` is without the prefix of its language.
    pub(super) fn parse(locale: Locale, id: &str, kwargs: &Map<String, Value>) -> Result<Self, Unscored> {
        let entry = catalogue::find(locale, id).map_err(|known| {
            let code = locale.code();
            let detail = format!("`{id}` is not an instruction that is known in `{code}`; there is {known}");
            Unscored::new(UnscoredReason::BadReference, detail)
        })?;
        let settings = Settings::new(id, locale, entry, kwargs)?;
        let rule = match id.split_once(':') {
            Some(("keywords", name)) => Rule::of_keywords(name, locale, &settings)?,
            Some(("letters" | "punctuation" | "special_character", name)) => {
                Rule::of_letters(name, &settings)?
            }
            Some(("length_constraints", name)) => Rule::of_lengths(name, &settings)?,
            Some((_, name)) => Rule::of_form(name, locale, &settings)?,
            None => None,
        };
        // The catalogue lists nothing that is not read here; a test holds it to that.
        let rule = rule.ok_or_else(|| {
            Unscored::new(UnscoredReason::BadReference, format!("`{id}` is not an instruction that is known"))
        })?;
        Ok(Self { locale, rule })
    }

    /// Whether a response follows it.
    pub(super) fn is_followed_by(&self, text: &str) -> bool {
        let (locale, trimmed) = (self.locale, text.trim());
        let is_in_its_language = || language::may_be(text, locale.code());
        match &self.rule {
            Rule::CapitalWords(bound) => bound.holds(text_of::count_capital_words(text)),
            Rule::Upper => text_of::is_upper(text) && is_in_its_language(),
            Rule::Lower => text_of::is_lower(text) && is_in_its_language(),
            Rule::RepeatPrompt(prompt) => trimmed.to_lowercase().starts_with(prompt.as_str()),
            Rule::TwoResponses => text_of::are_two_responses(text),
            Rule::Informal => INFORMAL.is_match(text),
            Rule::NoDigits => !DIGIT.is_match(text),
            Rule::Placeholders(bound) => bound.holds(locale.placeholder().find_iter(text).count()),
            Rule::Postscript(marker) => marker.is_match(&text.to_lowercase()),
            Rule::ConstrainedResponse => locale.answers().iter().any(|answer| trimmed.contains(answer)),
            Rule::Json => text_of::is_json(trimmed),
            Rule::Sections(splitter, bound) => bound.holds(splitter.find_iter(text).count()),
            Rule::Bullets(n) => {
                locale.bullets().iter().map(|bullet| bullet.find_iter(text).count()).sum::<usize>() == *n
            }
            Rule::NumberedItems(n) => NUMBERED.find_iter(text).count() == *n,
            Rule::Highlights(bound) => {
                let is_filled = |found: &regex::Match<'_>| {
                    !found.as_str().trim_matches(['*', '《', '》']).trim().is_empty()
                };
                let count = |mark: &&Regex| mark.find_iter(text).filter(is_filled).count();
                bound.holds(locale.highlights().iter().map(count).sum())
            }
            Rule::Title => locale
                .title()
                .find_iter(text)
                .any(|found| !found.as_str().trim_matches(locale.title_marks()).trim().is_empty()),
            Rule::Keywords(keywords) => keywords.iter().all(|keyword| keyword.is_match(text)),
            Rule::ForbiddenWords(words) => !words.iter().any(|word| word.is_match(text)),
            Rule::KeywordFrequency(keyword, bound) => bound.holds(keyword.find_iter(text).count()),
            Rule::LetterFrequency(letter, bound) => bound.holds(text_of::count_letter(text, *letter, locale)),
            Rule::Language(language) => language::may_be(text, language),
            Rule::ParagraphFirstWord { n_paragraphs, nth, word } => {
                let paragraphs: Vec<&str> = text.split("\n\n").collect();
                let n_filled = paragraphs.iter().filter(|paragraph| !paragraph.trim().is_empty()).count();
                let is_there = (1..=n_filled).contains(nth) && !paragraphs[nth - 1].trim().is_empty();
                n_filled == *n_paragraphs
                    && is_there
                    && text_of::begins_with(paragraphs[nth - 1].trim(), word, locale)
            }
            Rule::Paragraphs(n) => text_of::count_divided(text) == Some(*n),
            Rule::Sentences(bound) => bound.holds(text_of::count_sentences(text, locale)),
            Rule::Words(bound) => bound.holds(text_of::count_words(text, locale)),
            Rule::Letters(bound) => bound.holds(text.chars().count()),
            Rule::Kanji(bound) => bound.holds(text_of::count_kanji(text)),
            Rule::Readings => text_of::has_readings(text),
            Rule::OnlyScript(is_of_script) => text_of::is_all(text, *is_of_script),
            Rule::WithoutScript(is_of_script) => !text.chars().any(is_of_script),
            Rule::NoComma => !text.contains(locale.commas()),
            Rule::NoPeriod => !text.contains(['。', '｡']),
            Rule::Between(open, close) => text_of::has_between(text, *open, *close),
            Rule::WordsWith(letters, bound) => bound.holds(text_of::count_words_with(text, letters)),
            Rule::Exactly(letters, n) => text_of::count_words_with(text, letters) == *n,
            Rule::Without(letters) => !text.to_lowercase().contains(letters.as_str()),
            Rule::Accents(words) => text_of::has_accents(text, words),
            Rule::NoAccents => !text_of::has_any_accent(text),
            Rule::Ending(phrase) => {
                let end = trimmed.trim_matches(locale.closing_quotes());
                let end = if locale == Locale::Es { end.strip_suffix('.').unwrap_or(end) } else { end };
                end.to_lowercase().ends_with(phrase.as_str())
            }
            Rule::SentencesEndWith(ending) => text_of::all_sentences_end_with(text, ending),
            Rule::Quotation => {
                let mut ends = trimmed.chars();
                let (first, last) = (ends.next(), ends.next_back());
                locale.quotes().iter().any(|(open, close)| first == Some(*open) && last == Some(*close))
            }
        }
    }
}

/// Digits of any script; numerals of Chinese and Japanese are none.
static DIGIT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\d"));
static NUMBERED: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^\s*\d+\.\s.*$"));
/// French words for one person who is addressed as a friend.
static INFORMAL: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)\b(?:tu|te|toi|ton|ta|tes)\b|\bt['’]\w"));

/// Readers of groups of instructions. `None`: the group has no instruction of this name.
impl Rule {
    fn of_form(name: &str, locale: Locale, settings: &Settings<'_>) -> Result<Option<Self>, Unscored> {
        Ok(Some(match name {
            "capital_word_frequency" => {
                Self::CapitalWords(settings.bound("capital_relation", "capital_frequency")?)
            }
            "english_capital" | "french_capital" | "spanish_capital" => Self::Upper,
            "english_lowercase" | "french_lowercase" | "spanish_lowercase" => Self::Lower,
            "repeat_prompt" => Self::RepeatPrompt(settings.text("prompt_to_repeat")?.to_lowercase()),
            "two_responses" => Self::TwoResponses,
            "informal_address" => Self::Informal,
            "no_digits" => Self::NoDigits,
            "number_placeholders" => Self::Placeholders(settings.at_least("num_placeholders")?),
            "postscript" => Self::Postscript(locale.postscript(settings.text("postscript_marker")?)),
            "constrained_response" => Self::ConstrainedResponse,
            "json_format" => Self::Json,
            "multiple_sections" => Self::Sections(
                locale.section(settings.text("section_spliter")?),
                settings.at_least("num_sections")?,
            ),
            "number_bullet_lists" => Self::Bullets(settings.count("num_bullets")?),
            "number_numbered_lists" => Self::NumberedItems(settings.count("num_items")?),
            "number_highlighted_sections" => Self::Highlights(settings.at_least("num_highlights")?),
            "title" => Self::Title,
            "response_language" => {
                let language = language::find(settings.text("language")?);
                Self::Language(
                    language.ok_or_else(|| settings.bad("language", "a language that can be detected"))?,
                )
            }
            "end_checker" => {
                let phrase = settings.text("end_phrase")?;
                let phrase = match locale {
                    Locale::Ja | Locale::Zh => phrase.trim_matches(locale.closing_quotes()),
                    // Full stops at the end of a response are taken off, so that no phrase can end with one.
                    Locale::Es => phrase.strip_suffix('.').unwrap_or(phrase),
                    _ => phrase,
                };
                Self::Ending(phrase.to_lowercase())
            }
            "sentence_unified_end" => Self::SentencesEndWith(settings.text("ending")?.to_owned()),
            "quotation" => Self::Quotation,
            _ => return Ok(None),
        }))
    }

    fn of_keywords(name: &str, locale: Locale, settings: &Settings<'_>) -> Result<Option<Self>, Unscored> {
        // Words of Chinese and Japanese have no edges that a pattern could find, and no patterns are written there.
        let is_wide = matches!(locale, Locale::Ja | Locale::Zh);
        let wrap = |word: &str| if is_wide { regex::escape(word.trim()) } else { word.to_owned() };
        let whole = |word: &str| if is_wide { wrap(word) } else { format!(r"\b{word}\b") };
        Ok(Some(match name {
            "existence" => Self::Keywords(settings.words("keywords", wrap)?),
            "forbidden_words" => Self::ForbiddenWords(settings.words("forbidden_words", whole)?),
            "frequency" => Self::KeywordFrequency(
                ignoring_case(&wrap(settings.text("keyword")?)),
                settings.bound("relation", "frequency")?,
            ),
            "letter_frequency" => Self::LetterFrequency(
                settings.letter("letter")?,
                settings.bound("let_relation", "let_frequency")?,
            ),
            _ => return Ok(None),
        }))
    }

    fn of_lengths(name: &str, settings: &Settings<'_>) -> Result<Option<Self>, Unscored> {
        Ok(Some(match name {
            "nth_paragraph_first_word" => Self::ParagraphFirstWord {
                n_paragraphs: settings.count("num_paragraphs")?,
                nth: settings.ordinal("nth_paragraph")?,
                word: settings.text("first_word")?.to_lowercase(),
            },
            "number_paragraphs" => Self::Paragraphs(settings.count("num_paragraphs")?),
            "number_sentences" => Self::Sentences(settings.bound("relation", "num_sentences")?),
            "number_words" => Self::Words(settings.bound("relation", "num_words")?),
            "number_letters" => Self::Letters(settings.bound("relation", "num_letters")?),
            _ => return Ok(None),
        }))
    }

    fn of_letters(name: &str, settings: &Settings<'_>) -> Result<Option<Self>, Unscored> {
        Ok(Some(match name {
            "no_comma" => Self::NoComma,
            "no_period" => Self::NoPeriod,
            "question_marks" => Self::Between('¿', '?'),
            "exclamation_marks" => Self::Between('¡', '!'),
            "kanji" => Self::Kanji(settings.bound("relation", "kanji_limit")?),
            "furigana" => Self::Readings,
            "kansuuji" => Self::NoDigits,
            "hiragana_only" => Self::OnlyScript(text_of::is_hiragana),
            "katakana_only" => Self::OnlyScript(text_of::is_katakana),
            "no_hiragana" => Self::WithoutScript(text_of::is_hiragana),
            "no_katakana" => Self::WithoutScript(text_of::is_katakana),
            "tildes" => Self::WordsWith(TILDES, settings.bound("relation", "num_words")?),
            "enie" => Self::Exactly(ENIE, settings.count("let_frequency")?),
            "dieresis" => Self::Exactly(DIERESIS, settings.count("let_frequency")?),
            "ethel_or_cedilla" => Self::Without(settings.text("forbidden_char")?.to_lowercase()),
            "accents" => Self::Accents(settings.pairs("word_to_accentuate")?),
            "no_accents" => Self::NoAccents,
            _ => return Ok(None),
        }))
    }
}
