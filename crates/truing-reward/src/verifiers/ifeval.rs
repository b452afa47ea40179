//! The 25 instruction types of IFEval (Zhou et al. 2023, arXiv 2311.07911), strict and loose, with the verdicts of the
//! published checker.
//!
//! The checker's own ways are kept, odd ones included: keywords are regular expressions, and a language that cannot
//! be told counts as right. Languages are told by other means than langdetect, so texts of two or three words can get
//! another verdict. Of 1256 stored verdicts of the published checker 1254 are the same (`tests/main.rs`).

use std::sync::LazyLock;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_types::{Unscored, UnscoredReason};

use super::language;
use super::sentences::count_sentences;
use crate::completion::{Completion, RewardFunction};

/// Every instruction, by the name that rows use.
pub const INSTRUCTION_IDS: &[&str] = &[
    "change_case:capital_word_frequency",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "combination:repeat_prompt",
    "combination:two_responses",
    "detectable_content:number_placeholders",
    "detectable_content:postscript",
    "detectable_format:constrained_response",
    "detectable_format:json_format",
    "detectable_format:multiple_sections",
    "detectable_format:number_bullet_lists",
    "detectable_format:number_highlighted_sections",
    "detectable_format:title",
    "keywords:existence",
    "keywords:forbidden_words",
    "keywords:frequency",
    "keywords:letter_frequency",
    "language:response_language",
    "length_constraints:nth_paragraph_first_word",
    "length_constraints:number_paragraphs",
    "length_constraints:number_sentences",
    "length_constraints:number_words",
    "punctuation:no_comma",
    "startend:end_checker",
    "startend:quotation",
];

/// How much is forgiven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The response as it is.
    #[default]
    Strict,
    /// Also without its first line, its last line, and asterisks: any of the eight will do.
    Loose,
}

/// How a row's instructions become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// The share that is followed: a group then differs even where none follows all.
    #[default]
    Mean,
    /// 1 only where all are followed.
    All,
}

/// Settings of [`Ifeval`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IfevalConfig {
    /// How much is forgiven.
    pub mode: Mode,
    /// How instructions become one number.
    pub aggregate: Aggregate,
}

/// Rewards following the instructions in `instruction_id_list`, whose settings are in `kwargs`.
#[derive(Debug)]
pub struct Ifeval(pub IfevalConfig);

impl RewardFunction for Ifeval {
    fn name(&self) -> &str {
        "ifeval"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        let score = |completion: &Completion<'_>| {
            let verdicts =
                check_row(completion.columns, completion.text, self.0.mode).map_err(|unscored| Unscored {
                    detail: format!("{}: {}", completion.origin, unscored.detail),
                    ..unscored
                })?;
            let n_followed = verdicts.iter().filter(|(_, is_followed)| *is_followed).count();
            Ok(match self.0.aggregate {
                Aggregate::Mean => n_followed as f64 / verdicts.len() as f64,
                Aggregate::All => f64::from(u8::from(n_followed == verdicts.len())),
            })
        };
        completions.iter().map(score).collect()
    }
}

/// Checks every instruction of a row: its name and whether it is followed, in the row's order.
///
/// # Errors
/// When the row names no instruction, an unknown one, or settings are missing.
pub fn check_row(
    columns: &Map<String, Value>,
    response: &str,
    mode: Mode,
) -> Result<Vec<(String, bool)>, Unscored> {
    let missing = |column: &str| {
        Unscored::new(UnscoredReason::MissingReference, format!("the row has no list `{column}`"))
    };
    let ids = columns.get("instruction_id_list").and_then(Value::as_array);
    let ids = ids.filter(|ids| !ids.is_empty()).ok_or_else(|| missing("instruction_id_list"))?;
    let kwargs = columns.get("kwargs").and_then(Value::as_array).ok_or_else(|| missing("kwargs"))?;
    if ids.len() != kwargs.len() {
        let detail = format!("{} instructions, but {} `kwargs`", ids.len(), kwargs.len());
        return Err(Unscored::new(UnscoredReason::BadReference, detail));
    }
    let responses = match mode {
        Mode::Strict => vec![response.to_owned()],
        Mode::Loose => loosened(response),
    };
    ids.iter()
        .zip(kwargs)
        .map(|(id, kwargs)| {
            let id = id.as_str().unwrap_or_default();
            // Rows of translated sets write `en:punctuation:no_comma`.
            let name =
                if id.matches(':').count() == 2 { id.split_once(':').map_or(id, |(_, id)| id) } else { id };
            let instruction = Instruction::parse(name, kwargs)?;
            let is_followed =
                responses.iter().any(|text| !text.trim().is_empty() && instruction.is_followed_by(text));
            Ok((name.to_owned(), is_followed))
        })
        .collect()
}

/// The response as it is, without its first line, without its last, without both; and all of these without asterisks.
fn loosened(response: &str) -> Vec<String> {
    let lines: Vec<&str> = response.split('\n').collect();
    let part = |from: usize, to: usize| lines.get(from..to).unwrap_or_default().join("\n").trim().to_owned();
    let n = lines.len();
    let plain = [response.to_owned(), part(1, n), part(0, n - 1), part(1, n.saturating_sub(1).max(1))];
    plain.iter().cloned().chain(plain.iter().map(|text| text.replace('*', ""))).collect()
}

/// How a count is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    LessThan(usize),
    AtLeast(usize),
}

impl Bound {
    fn holds(self, count: usize) -> bool {
        match self {
            Self::LessThan(limit) => count < limit,
            Self::AtLeast(limit) => count >= limit,
        }
    }
}

/// An instruction with its settings.
enum Instruction {
    CapitalWords(Bound),
    EnglishCapital,
    EnglishLowercase,
    RepeatPrompt(String),
    TwoResponses,
    Placeholders(usize),
    Postscript(Regex),
    ConstrainedResponse,
    Json,
    Sections(Regex, usize),
    Bullets(usize),
    Highlights(usize),
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
    NoComma,
    Ending(String),
    Quotation,
}

#[expect(clippy::unwrap_used, reason = "patterns of our own, compiled in a test")]
fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

macro_rules! patterns {
    ($($name:ident = $text:expr;)*) => { $(static $name: LazyLock<Regex> = LazyLock::new(|| pattern($text));)* };
}

patterns! {
    PLACEHOLDER = r"\[.*?\]";
    STAR_BULLET = r"(?m)^\s*\*[^\*].*$";
    DASH_BULLET = r"(?m)^\s*-.*$";
    HIGHLIGHT = r"\*[^\n\*]*\*";
    BOLD = r"\*\*[^\n\*]*\*\*";
    TITLE = r"<<[^\n]+>>";
    DIVIDER = r"\s?\*\*\*\s?";
    WORD = r"\w+";
}

/// A row's settings of one instruction.
struct Settings<'a> {
    id: &'a str,
    kwargs: &'a Value,
}

impl Settings<'_> {
    fn bad(&self, key: &str, expected: &str) -> Unscored {
        let found = self.kwargs.get(key).unwrap_or(&Value::Null);
        let detail = format!("`{}`: `{key}` is {found}, expected {expected}", self.id);
        Unscored::new(UnscoredReason::BadReference, detail)
    }

    fn text(&self, key: &str) -> Result<&str, Unscored> {
        self.kwargs.get(key).and_then(Value::as_str).ok_or_else(|| self.bad(key, "a text"))
    }

    fn count(&self, key: &str) -> Result<usize, Unscored> {
        let number = self.kwargs.get(key).and_then(Value::as_f64).filter(|n| *n >= 0.0 && n.fract() == 0.0);
        number.map(|n| n as usize).ok_or_else(|| self.bad(key, "a whole number"))
    }

    fn bound(&self, relation: &str, key: &str) -> Result<Bound, Unscored> {
        match self.text(relation)? {
            "less than" => Ok(Bound::LessThan(self.count(key)?)),
            "at least" => Ok(Bound::AtLeast(self.count(key)?)),
            _ => Err(self.bad(relation, "`less than` or `at least`")),
        }
    }

    fn words(&self, key: &str, wrap: impl Fn(&str) -> String) -> Result<Vec<Regex>, Unscored> {
        let words = self.kwargs.get(key).and_then(Value::as_array);
        let words = words.ok_or_else(|| self.bad(key, "a list of words"))?;
        words
            .iter()
            .map(|word| {
                Ok(ignoring_case(&wrap(word.as_str().ok_or_else(|| self.bad(key, "a list of words"))?)))
            })
            .collect()
    }
}

/// The text as a regular expression where it is one, letter by letter otherwise.
fn ignoring_case(text: &str) -> Regex {
    let build = |text: &str| RegexBuilder::new(text).case_insensitive(true).build();
    build(text).or_else(|_| build(&regex::escape(text))).unwrap_or_else(|_| pattern("$^"))
}

impl Instruction {
    fn parse(id: &str, kwargs: &Value) -> Result<Self, Unscored> {
        let settings = Settings { id, kwargs };
        Ok(match id {
            "change_case:capital_word_frequency" => {
                Self::CapitalWords(settings.bound("capital_relation", "capital_frequency")?)
            }
            "change_case:english_capital" => Self::EnglishCapital,
            "change_case:english_lowercase" => Self::EnglishLowercase,
            "combination:repeat_prompt" => {
                Self::RepeatPrompt(settings.text("prompt_to_repeat")?.trim().to_lowercase())
            }
            "combination:two_responses" => Self::TwoResponses,
            "detectable_content:number_placeholders" => {
                Self::Placeholders(settings.count("num_placeholders")?)
            }
            "detectable_content:postscript" => {
                Self::Postscript(match settings.text("postscript_marker")?.trim() {
                    "P.P.S" => pattern(r"(?m)\s*p\.\s?p\.\s?s.*$"),
                    "P.S." => pattern(r"(?m)\s*p\.\s?s\..*$"),
                    marker => ignoring_case(&format!(r"(?m)\s*{}.*$", marker.to_lowercase())),
                })
            }
            "detectable_format:constrained_response" => Self::ConstrainedResponse,
            "detectable_format:json_format" => Self::Json,
            "detectable_format:multiple_sections" => {
                let splitter = settings.text("section_spliter")?.trim();
                let text = format!(r"\s?{splitter}\s?\d+\s?");
                let escaped = || pattern(&format!(r"\s?{}\s?\d+\s?", regex::escape(splitter)));
                let regex = Regex::new(&text).unwrap_or_else(|_| escaped());
                Self::Sections(regex, settings.count("num_sections")?)
            }
            "detectable_format:number_bullet_lists" => Self::Bullets(settings.count("num_bullets")?),
            "detectable_format:number_highlighted_sections" => {
                Self::Highlights(settings.count("num_highlights")?)
            }
            "detectable_format:title" => Self::Title,
            "keywords:existence" => Self::Keywords(settings.words("keywords", str::to_owned)?),
            "keywords:forbidden_words" => {
                Self::ForbiddenWords(settings.words("forbidden_words", |word| format!(r"\b{word}\b"))?)
            }
            "keywords:frequency" => Self::KeywordFrequency(
                ignoring_case(settings.text("keyword")?.trim()),
                settings.bound("relation", "frequency")?,
            ),
            "keywords:letter_frequency" => {
                let mut letters = settings.text("letter")?.trim().chars().flat_map(char::to_lowercase);
                let letter = letters.next().ok_or_else(|| settings.bad("letter", "a letter"))?;
                Self::LetterFrequency(letter, settings.bound("let_relation", "let_frequency")?)
            }
            "language:response_language" => {
                let language = language::find(settings.text("language")?);
                Self::Language(language.ok_or_else(|| settings.bad("language", "one that can be told"))?)
            }
            "length_constraints:nth_paragraph_first_word" => Self::ParagraphFirstWord {
                n_paragraphs: settings.count("num_paragraphs")?,
                nth: settings.count("nth_paragraph")?,
                word: settings.text("first_word")?.to_lowercase(),
            },
            "length_constraints:number_paragraphs" => Self::Paragraphs(settings.count("num_paragraphs")?),
            "length_constraints:number_sentences" => {
                Self::Sentences(settings.bound("relation", "num_sentences")?)
            }
            "length_constraints:number_words" => Self::Words(settings.bound("relation", "num_words")?),
            "punctuation:no_comma" => Self::NoComma,
            "startend:end_checker" => Self::Ending(settings.text("end_phrase")?.trim().to_lowercase()),
            "startend:quotation" => Self::Quotation,
            _ => {
                let detail = format!("`{id}` is no instruction of IFEval");
                return Err(Unscored::new(UnscoredReason::BadReference, detail));
            }
        })
    }

    fn is_followed_by(&self, text: &str) -> bool {
        let trimmed = text.trim();
        match self {
            Self::CapitalWords(bound) => bound.holds(tokens(text).filter(|word| is_upper(word)).count()),
            Self::EnglishCapital => is_upper(text) && is_in(text, "en"),
            Self::EnglishLowercase => is_lower(text) && is_in(text, "en"),
            Self::RepeatPrompt(prompt) => trimmed.to_lowercase().starts_with(prompt.as_str()),
            Self::TwoResponses => are_two_responses(text),
            Self::Placeholders(n) => PLACEHOLDER.find_iter(text).count() >= *n,
            Self::Postscript(marker) => marker.is_match(&text.to_lowercase()),
            Self::ConstrainedResponse => ["My answer is yes.", "My answer is no.", "My answer is maybe."]
                .iter()
                .any(|s| trimmed.contains(s)),
            Self::Json => is_json(trimmed),
            Self::Sections(splitter, n) => splitter.find_iter(text).count() >= *n,
            Self::Bullets(n) => {
                STAR_BULLET.find_iter(text).count() + DASH_BULLET.find_iter(text).count() == *n
            }
            Self::Highlights(n) => {
                let is_filled = |found: regex::Match<'_>| !found.as_str().trim_matches('*').trim().is_empty();
                let single = HIGHLIGHT.find_iter(text).filter(|found| is_filled(*found)).count();
                single + BOLD.find_iter(text).filter(|found| is_filled(*found)).count() >= *n
            }
            Self::Title => TITLE
                .find_iter(text)
                .any(|found| !found.as_str().trim_start_matches('<').trim_end_matches('>').trim().is_empty()),
            Self::Keywords(keywords) => keywords.iter().all(|keyword| keyword.is_match(text)),
            Self::ForbiddenWords(words) => !words.iter().any(|word| word.is_match(text)),
            Self::KeywordFrequency(keyword, bound) => bound.holds(keyword.find_iter(text).count()),
            Self::LetterFrequency(letter, bound) => {
                bound.holds(text.to_lowercase().chars().filter(|c| c == letter).count())
            }
            Self::Language(language) => is_in(text, language),
            Self::ParagraphFirstWord { n_paragraphs, nth, word } => {
                let paragraphs: Vec<&str> = text.split("\n\n").collect();
                let n_filled = paragraphs.iter().filter(|paragraph| !paragraph.trim().is_empty()).count();
                let is_there = (1..=n_filled).contains(nth) && !paragraphs[nth - 1].trim().is_empty();
                n_filled == *n_paragraphs && is_there && first_word(paragraphs[nth - 1]) == *word
            }
            Self::Paragraphs(n) => count_divided(text) == Some(*n),
            Self::Sentences(bound) => bound.holds(count_sentences(text)),
            Self::Words(bound) => bound.holds(WORD.find_iter(text).count()),
            Self::NoComma => !text.contains(','),
            Self::Ending(phrase) => trimmed.trim_matches('"').to_lowercase().ends_with(phrase.as_str()),
            Self::Quotation => trimmed.len() > 1 && trimmed.starts_with('"') && trimmed.ends_with('"'),
        }
    }
}

/// At least one letter has case, and all that have are upper case.
fn is_upper(text: &str) -> bool {
    !text.chars().any(char::is_lowercase) && text.chars().any(char::is_uppercase)
}

fn is_lower(text: &str) -> bool {
    !text.chars().any(char::is_uppercase) && text.chars().any(char::is_lowercase)
}

/// Words as a treebank tokenizer cuts them: marks at either end are tokens of their own.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let is_joint = |c: char| c.is_whitespace() || ",:;?!()[]{}\"<>@#$%&".contains(c);
    text.split(is_joint)
        .map(|word| word.trim_matches(|c: char| matches!(c, '\'' | '`' | '*' | '_')))
        .filter(|word| !word.is_empty())
}

fn are_two_responses(text: &str) -> bool {
    let parts: Vec<&str> = text.split("******").collect();
    let last = parts.len() - 1;
    if parts.iter().enumerate().any(|(i, part)| part.trim().is_empty() && i != 0 && i != last) {
        return false;
    }
    let filled: Vec<&str> = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
    matches!(filled[..], [first, second] if first != second)
}

/// Paragraphs between lines of three asterisks; `None` where one in the middle is empty.
fn count_divided(text: &str) -> Option<usize> {
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

fn first_word(paragraph: &str) -> String {
    let word = paragraph.split_whitespace().next().unwrap_or_default();
    let word = word.trim_start_matches('\'').trim_start_matches('"');
    word.chars()
        .take_while(|c| !matches!(c, '.' | ',' | '?' | '!' | '\'' | '"'))
        .flat_map(char::to_lowercase)
        .collect()
}

fn is_json(text: &str) -> bool {
    let mut text = text;
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    let text = text.strip_suffix("```").unwrap_or(text).trim();
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Whether a text is in a language (ISO 639-1); one whose language cannot be told counts as being in it.
fn is_in(text: &str, language: &str) -> bool {
    language::detect(text).is_none_or(|found| found == language)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn follows(id: &str, kwargs: Value, text: &str) -> bool {
        let row: Map<String, Value> =
            serde_json::from_value(json!({"instruction_id_list": [id], "kwargs": [kwargs]})).unwrap();
        check_row(&row, text, Mode::Strict).unwrap()[0].1
    }

    #[test]
    fn every_instruction_can_be_followed_and_not() {
        let cases: Vec<(&str, Value, &str, &str)> = vec![
            (
                "change_case:capital_word_frequency",
                json!({"capital_relation": "at least", "capital_frequency": 2}),
                "NASA and ESA went up.",
                "NASA went up.",
            ),
            (
                "change_case:english_capital",
                json!({}),
                "THE CAT SLEEPS IN THE WARM HOUSE ALL DAY",
                "The cat sleeps in the warm house all day",
            ),
            (
                "change_case:english_lowercase",
                json!({}),
                "the cat sleeps in the warm house all day",
                "The cat sleeps in the warm house all day",
            ),
            (
                "combination:repeat_prompt",
                json!({"prompt_to_repeat": "Say hello"}),
                "say hello\n\nhello",
                "hello",
            ),
            ("combination:two_responses", json!({}), "one******two", "one******one"),
            (
                "detectable_content:number_placeholders",
                json!({"num_placeholders": 2}),
                "[name] lives in [city]",
                "[name] lives here",
            ),
            (
                "detectable_content:postscript",
                json!({"postscript_marker": "P.S."}),
                "bye\nP.S. call me",
                "bye",
            ),
            ("detectable_format:constrained_response", json!({}), "My answer is yes.", "Yes."),
            ("detectable_format:json_format", json!({}), "```json\n{\"a\": 1}\n```", "{a: 1}"),
            (
                "detectable_format:multiple_sections",
                json!({"section_spliter": "SECTION", "num_sections": 2}),
                "SECTION 1\nx\nSECTION 2\ny",
                "SECTION 1\nx",
            ),
            ("detectable_format:number_bullet_lists", json!({"num_bullets": 2}), "* a\n* b", "* a\n* b\n- c"),
            (
                "detectable_format:number_highlighted_sections",
                json!({"num_highlights": 1}),
                "a *b* c",
                "a b c",
            ),
            ("detectable_format:title", json!({}), "<<rain>>\ntext", "<< >>\ntext"),
            ("keywords:existence", json!({"keywords": ["sun", "moon"]}), "Sun and moon", "sun"),
            ("keywords:forbidden_words", json!({"forbidden_words": ["sun"]}), "the sunny day", "the sun"),
            (
                "keywords:frequency",
                json!({"keyword": "sun", "relation": "less than", "frequency": 2}),
                "sun",
                "sun sun",
            ),
            (
                "keywords:letter_frequency",
                json!({"letter": "q", "let_relation": "at least", "let_frequency": 2}),
                "Quick quiz",
                "quick",
            ),
            (
                "language:response_language",
                json!({"language": "de"}),
                "Das ist ein kurzer Text, der auf Deutsch geschrieben ist.",
                "This is a short text that is written in English.",
            ),
            (
                "length_constraints:nth_paragraph_first_word",
                json!({"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}),
                "One.\n\nThen two.",
                "One.\n\nNow two.",
            ),
            ("length_constraints:number_paragraphs", json!({"num_paragraphs": 2}), "one\n***\ntwo", "one"),
            (
                "length_constraints:number_sentences",
                json!({"relation": "less than", "num_sentences": 3}),
                "Dr. Smith came. He left.",
                "One. Two. Three.",
            ),
            (
                "length_constraints:number_words",
                json!({"relation": "at least", "num_words": 3}),
                "one two three",
                "one two",
            ),
            ("punctuation:no_comma", json!({}), "one two", "one, two"),
            (
                "startend:end_checker",
                json!({"end_phrase": "The end."}),
                "so it was. the end.\"",
                "the end. not",
            ),
            ("startend:quotation", json!({}), "\"quoted\"", "quoted"),
        ];
        let ids: Vec<&str> = cases.iter().map(|case| case.0).collect();
        assert_eq!(ids, INSTRUCTION_IDS);
        for (id, kwargs, good, bad) in cases {
            assert!(follows(id, kwargs.clone(), good), "{id}: {good:?}");
            assert!(!follows(id, kwargs.clone(), bad), "{id}: {bad:?}");
            assert!(!follows(id, kwargs, "  "), "{id}: nothing");
        }
    }

    #[test]
    fn loose_forgives_a_first_line_a_last_line_and_asterisks() {
        let row: Map<String, Value> =
            serde_json::from_value(json!({"instruction_id_list": ["startend:quotation"], "kwargs": [{}]}))
                .unwrap();
        for text in ["Sure:\n\"a\"", "\"a\"\nDone.", "Sure:\n\"a\"\nDone.", "**\"a\"**"] {
            assert!(!check_row(&row, text, Mode::Strict).unwrap()[0].1);
            assert!(check_row(&row, text, Mode::Loose).unwrap()[0].1, "{text}");
        }
    }

    #[test]
    fn rows_that_make_no_sense_are_unscored() {
        for (row, expected) in [
            (json!({}), "missing_reference: the row has no list `instruction_id_list`"),
            (
                json!({"instruction_id_list": ["a:b"], "kwargs": [{}]}),
                "bad_reference: `a:b` is no instruction of IFEval",
            ),
            (
                json!({"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"relation": "about"}]}),
                "bad_reference: `length_constraints:number_words`: `relation` is \"about\", expected `less than` or `at least`",
            ),
        ] {
            let row: Map<String, Value> = serde_json::from_value(row).unwrap();
            assert_eq!(check_row(&row, "x", Mode::Strict).unwrap_err().to_string(), expected);
        }
    }
}
