//! Instructions whose following a program can check: the 25 types of IFEval (Zhou et al. 2023, arXiv 2311.07911) with
//! the verdicts of the published checker, and those of M-IFEval (Dussolle et al. 2025, arXiv 2502.04688) for Spanish,
//! French and Japanese; Chinese by the same rules on characters. Strict and loose.
//!
//! An id may have its language before it (`es:punctuation:no_comma`, in upper or lower case); without one, a
//! column of the row names it, as in Multi-IF, or it is English, also where the column is empty. An id or
//! language that is not known leaves the row without a score, and so does a setting that the instruction does
//! not have or that is of another type. Nothing is scored by the rule of another language. Not known are:
//! `ja:detectable_format:nominal_ending` (it needs parts of speech), Chinese `constrained_response` (no answers
//! are published) and rules of upper and lower case for Chinese and Japanese.
//!
//! The checker's own ways are kept, odd ones included: keywords are regular expressions, and a language that
//! cannot be detected counts as right. Languages are detected by other means than langdetect. Where a text is too short
//! to decide, it counts as right too. Of 1256 stored verdicts of the published checker 1250 are the same
//! (`tests/main.rs`); the others are of one to nine words, which langdetect decides by a guess. In Chinese and
//! Japanese a keyword counts also inside a longer word; the checker of M-IFEval cuts texts into words first.

mod bound;
mod catalogue;
mod counting;
mod instruction;
mod locale;
mod settings;

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_types::{Unscored, UnscoredReason};

use crate::completion::{Completion, RewardFunction};
use instruction::Instruction;
pub use locale::Locale;

/// The ids of every instruction that a language has, without its prefix.
pub fn instruction_ids(locale: Locale) -> impl Iterator<Item = &'static str> {
    catalogue::of(locale).map(|entry| entry.id)
}

/// IFEval's strict or loose check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Check the response as it is.
    #[default]
    Strict,
    /// Also check the response without its first line, its last line and asterisks; one of the eight combinations has
    /// to pass.
    Loose,
}

/// How a row's instructions become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// The fraction that is followed. Completions of a group then differ even if none follows all.
    #[default]
    Mean,
    /// 1 if all are followed, otherwise 0.
    All,
}

/// Settings of [`Ifeval`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IfevalConfig {
    /// IFEval's strict or loose check.
    pub mode: Mode,
    /// How the results of a prompt's instructions are combined.
    pub aggregate: Aggregate,
    /// Column with the language (`zh`, `Chinese`) of instruction ids without a language prefix. Default: English.
    pub language_column: String,
}

impl Default for IfevalConfig {
    fn default() -> Self {
        Self { mode: Mode::Strict, aggregate: Aggregate::Mean, language_column: "language".into() }
    }
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
                check_row_in(completion.columns, completion.text, self.0.mode, &self.0.language_column)
                    .map_err(|unscored| Unscored {
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

/// Checks that the ids of a row's `instruction_id_list` are known, in the language of their prefix,
/// before anything is sampled. What else may be wrong with a row is found when it is scored.
///
/// # Errors
/// The first id that is not known, with the nearest known ones.
pub fn check_ids(columns: &Map<String, Value>, config: &IfevalConfig) -> Result<(), String> {
    let ids = columns.get("instruction_id_list").and_then(Value::as_array);
    let of_row = language_of(columns, &config.language_column);
    for id in ids.into_iter().flatten() {
        let Some(text) = id.as_str() else { continue };
        let prefix = prefix_of(text).map(|(prefix, _)| prefix);
        let (locales, problem) = match (locale_of(id, &config.language_column, of_row), prefix) {
            (Ok((locale, id)), _) if catalogue::find(locale, id).is_ok() => continue,
            (Ok((locale, _)), _) => {
                let problem = format!("`{text}` is not an instruction that is known in `{}`", locale.code());
                (vec![locale], problem)
            }
            (Err(unscored), Some(_)) => (Locale::ALL.to_vec(), unscored.detail),
            // A language that only a column names leaves the row without a score.
            (Err(_), None) => continue,
        };
        let nearest = catalogue::nearest(text, &locales, prefix.is_some()).join("`, `");
        return Err(format!("{problem}; the nearest known ids are `{nearest}`"));
    }
    Ok(())
}

/// What a row says of its language; nothing where the text is empty.
fn language_of<'a>(columns: &'a Map<String, Value>, column: &str) -> Option<&'a Value> {
    let is_said = |language: &&Value| match language {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        _ => true,
    };
    columns.get(column).filter(is_said)
}

/// The language before an id, and the rest of it.
fn prefix_of(id: &str) -> Option<(&str, &str)> {
    id.split_once(':').filter(|(_, rest)| rest.contains(':'))
}

/// Checks every instruction of a row: its id without a language and whether it is followed, in the row's order.
///
/// # Errors
/// When the row names no instruction, an unknown one, a language that is not known, or settings are missing or wrong.
pub fn check_row(
    columns: &Map<String, Value>,
    response: &str,
    mode: Mode,
) -> Result<Vec<(String, bool)>, Unscored> {
    check_row_in(columns, response, mode, "language")
}

fn check_row_in(
    columns: &Map<String, Value>,
    response: &str,
    mode: Mode,
    language_column: &str,
) -> Result<Vec<(String, bool)>, Unscored> {
    let missing = |column: &str| {
        Unscored::new(UnscoredReason::MissingReference, format!("the row has no list `{column}`"))
    };
    let ids = columns.get("instruction_id_list").and_then(Value::as_array);
    let ids = ids.filter(|ids| !ids.is_empty()).ok_or_else(|| missing("instruction_id_list"))?;
    let kwargs = columns.get("kwargs").and_then(Value::as_array).ok_or_else(|| missing("kwargs"))?;
    if ids.len() != kwargs.len() {
        return Err(bad_row(format!("{} instructions, but {} `kwargs`", ids.len(), kwargs.len())));
    }
    let responses = match mode {
        Mode::Strict => vec![response.to_owned()],
        Mode::Loose => loosened(response),
    };
    let of_row = language_of(columns, language_column);
    ids.iter()
        .zip(kwargs)
        .map(|(id, kwargs)| {
            let (locale, id) = locale_of(id, language_column, of_row)?;
            let instruction = Instruction::parse(locale, id, &*settings_of(id, kwargs)?)?;
            let is_followed =
                responses.iter().any(|text| !text.trim().is_empty() && instruction.is_followed_by(text));
            Ok((id.to_owned(), is_followed))
        })
        .collect()
}

fn bad_row(detail: String) -> Unscored {
    Unscored::new(UnscoredReason::BadReference, detail)
}

/// The language of an id and the rest of it.
fn locale_of<'a>(id: &'a Value, column: &str, of_row: Option<&Value>) -> Result<(Locale, &'a str), Unscored> {
    let known = || Locale::ALL.map(Locale::code).join("`, `");
    let text =
        id.as_str().ok_or_else(|| bad_row(format!("`instruction_id_list` has {id}, expected texts")))?;
    if let Some((prefix, rest)) = prefix_of(text) {
        let locale = Locale::find(prefix);
        let unknown =
            || bad_row(format!("`{text}`: no rules are known for `{prefix}`, only for `{}`", known()));
        return Ok((locale.ok_or_else(unknown)?, rest));
    }
    let Some(name) = of_row else { return Ok((Locale::En, text)) };
    let locale = name.as_str().and_then(Locale::find).ok_or_else(|| {
        bad_row(format!("`{text}`: `{column}` is {name}, and rules are known only for `{}`", known()))
    })?;
    Ok((locale, text))
}

/// The settings of an instruction: an object, also as JSON in a text, as Multi-IF has them; nothing where it is null.
fn settings_of<'a>(id: &str, kwargs: &'a Value) -> Result<Cow<'a, Map<String, Value>>, Unscored> {
    let wrong = || bad_row(format!("`{id}`: `kwargs` has {kwargs}, expected an object"));
    match kwargs {
        Value::Object(kwargs) => Ok(Cow::Borrowed(kwargs)),
        Value::Null => Ok(Cow::Owned(Map::new())),
        Value::String(text) => serde_json::from_str(text).map(Cow::Owned).map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

/// The response as it is, without its first line, without its last, without both; and all of these without asterisks.
fn loosened(response: &str) -> Vec<String> {
    let lines: Vec<&str> = response.split('\n').collect();
    let part = |from: usize, to: usize| lines.get(from..to).unwrap_or_default().join("\n").trim().to_owned();
    let n = lines.len();
    let plain = [response.to_owned(), part(1, n), part(0, n - 1), part(1, n.saturating_sub(1).max(1))];
    plain.iter().cloned().chain(plain.iter().map(|text| text.replace('*', ""))).collect()
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
        assert_eq!(ids, instruction_ids(Locale::En).collect::<Vec<_>>());
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

    fn row(columns: Value) -> Map<String, Value> {
        serde_json::from_value(columns).unwrap()
    }

    #[test]
    fn a_language_is_read_in_any_case_and_may_be_empty() {
        for (columns, is_followed) in [
            (json!({"instruction_id_list": ["ES:punctuation:no_comma"], "kwargs": [{}]}), false),
            (
                json!({"instruction_id_list": ["Es:punctuation:no_comma"], "kwargs": [{}], "language": "x"}),
                false,
            ),
            (json!({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}], "language": ""}), false),
            (
                json!({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}], "language": " "}),
                false,
            ),
            (
                json!({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}], "language": null}),
                false,
            ),
            (
                json!({"instruction_id_list": ["ES:punctuation:no_comma"], "kwargs": [{}], "language": "ja"}),
                true,
            ),
            (json!({"instruction_id_list": ["JA:punctuation:no_comma"], "kwargs": [{}]}), false),
        ] {
            // A Japanese comma is none in Spanish.
            let text = if is_followed { "一、二" } else { "one, 一、二" };
            let found = check_row(&row(columns.clone()), text, Mode::Strict).unwrap();
            assert_eq!(found, [("punctuation:no_comma".to_owned(), is_followed)], "{columns}");
            assert_eq!(check_ids(&row(columns.clone()), &IfevalConfig::default()), Ok(()), "{columns}");
        }
    }

    #[test]
    fn ids_that_are_not_known_are_found_beforehand_with_the_nearest() {
        let check = |columns: Value| check_ids(&row(columns), &IfevalConfig::default());
        let ids = |ids: &[&str]| check(json!({"instruction_id_list": ids, "kwargs": []}));
        assert_eq!(ids(&["punctuation:no_comma", "zh:startend:quotation"]), Ok(()));
        let error = ids(&["punctuation:no_comma", "keywords:letter_freqency"]).unwrap_err();
        let expected = "`keywords:letter_freqency` is not an instruction that is known in `en`; \
                        the nearest known ids are `keywords:letter_frequency`, ";
        assert!(error.starts_with(expected), "{error}");
        let error = ids(&["de:punctuation:no_comma"]).unwrap_err();
        let expected = "`de:punctuation:no_comma`: no rules are known for `de`, only for `en`, `es`, `fr`, `ja`, `zh`; \
                        the nearest known ids are `";
        assert!(error.starts_with(expected) && error.contains("`es:punctuation:no_comma`"), "{error}");
        let error = ids(&["ja:detectable_format:nominal_ending"]).unwrap_err();
        assert!(error.contains("is not an instruction that is known in `ja`"), "{error}");
        assert!(error.contains("`ja:detectable_format:"), "{error}");
        // These are found when they are scored.
        assert_eq!(check(json!({})), Ok(()));
        assert_eq!(
            check(json!({"instruction_id_list": ["punctuation:no_comma"], "language": "Hindi"})),
            Ok(())
        );
    }

    #[test]
    fn rows_that_make_no_sense_are_unscored() {
        for (row, expected) in [
            (json!({}), "missing_reference: the row has no list `instruction_id_list`"),
            (
                json!({"instruction_id_list": ["a:b"], "kwargs": [{}]}),
                "bad_reference: `a:b` is not an instruction that is known in `en`; there is change_case:..., \
                 combination:..., detectable_content:..., detectable_format:..., keywords:..., language:..., \
                 length_constraints:..., punctuation:..., startend:...",
            ),
            (
                json!({"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"relation": "about"}]}),
                "bad_reference: `length_constraints:number_words`: `relation` is \"about\", expected `less \
                 than` or `at least`",
            ),
        ] {
            let row: Map<String, Value> = serde_json::from_value(row).unwrap();
            assert_eq!(check_row(&row, "x", Mode::Strict).unwrap_err().to_string(), expected);
        }
    }
}
