//! What a row of the table of types holds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::verifiers::ifeval::Locale;

/// What a constraint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConstraintGroup {
    /// Words, sentences, paragraphs.
    Length,
    /// Lists, titles, sections, JSON.
    Format,
    /// What is said, and words that have to occur or not.
    Content,
    /// The language of the response, letter case, punctuation.
    Language,
    /// How the response begins and ends.
    Position,
    /// The order of what is said.
    Structure,
    /// Tone and means of style.
    Style,
    /// Who speaks, and to whom.
    Persona,
}

/// Parts of a response that a constraint decides, or that it needs as they usually are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// How much is written.
    Amount,
    /// How it is divided into paragraphs and sections.
    Division,
    /// Lists and tables.
    Lists,
    /// The first words.
    Beginning,
    /// The last words.
    Ending,
    /// Upper and lower case.
    Case,
    /// The language that it is written in.
    Language,
    /// Commas.
    Commas,
    /// Running text.
    Prose,
    /// The tone.
    Tone,
    /// Who speaks.
    Speaker,
    /// Who is spoken to.
    Reader,
}

/// How constraints of a type are checked.
#[derive(Debug)]
pub(super) enum TypeCheck {
    /// An instruction of IFEval, and its settings that are the same in every constraint.
    Rule { instruction: &'static str, fixed: &'static [(&'static str, &'static str)] },
    /// A question for a judge, in English and in Chinese.
    Question([&'static str; 2]),
}

/// A value that differs between constraints of a type. Its name is that of the instruction's setting, and of its
/// place in the wordings.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) domain: Domain,
}

/// The values of a parameter. Texts are in English and in Chinese.
#[derive(Debug)]
pub(super) enum Domain {
    /// Every `step`-th number from `first` to `last`.
    Numbers { first: u32, last: u32, step: u32 },
    /// One of some texts.
    Choice([&'static [&'static str]; 2]),
    /// So many different ones of some texts.
    Several(usize, [&'static [&'static str]; 2]),
    /// The code of a language other than the prompt's.
    OtherLanguage,
}

/// Languages that a response may be asked for in: code, English and Chinese name.
const LANGUAGES: [(&str, [&str; 2]); 7] = [
    ("en", ["English", "英语"]),
    ("zh", ["Chinese", "中文"]),
    ("fr", ["French", "法语"]),
    ("de", ["German", "德语"]),
    ("es", ["Spanish", "西班牙语"]),
    ("ru", ["Russian", "俄语"]),
    ("ja", ["Japanese", "日语"]),
];

/// A kind of constraint.
#[derive(Debug)]
pub struct ConstraintType {
    /// Its identifier, `group.name`.
    pub id: &'static str,
    /// What it is about.
    pub group: ConstraintGroup,
    pub(super) check: TypeCheck,
    pub(super) parameters: &'static [Parameter],
    /// In English and in Chinese; none where the language does not have the type.
    pub(super) wordings: [&'static [&'static str]; 2],
    /// Parts of the response that it decides alone.
    pub(super) claims: &'static [Part],
    /// Parts that no other constraint may decide; several may need the same.
    pub(super) needs: &'static [Part],
}

/// The text for a language: Chinese, or English for any other.
pub(super) fn in_language<T: ?Sized>(texts: &[&'static T; 2], locale: Locale) -> &'static T {
    texts[usize::from(locale == Locale::Zh)]
}

impl ConstraintType {
    /// Whether a program checks it.
    #[must_use]
    pub fn is_rule(&self) -> bool {
        matches!(self.check, TypeCheck::Rule { .. })
    }

    /// Sentences that ask for it, with `{name}` for each parameter; none where the language does not have the type.
    #[must_use]
    pub fn wordings(&self, locale: Locale) -> &'static [&'static str] {
        in_language(&self.wordings, locale)
    }

    pub(super) fn parameters(&self) -> &'static [Parameter] {
        self.parameters
    }

    /// Whether two types decide the same part of a response, or one decides what the other needs.
    #[must_use]
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let decides = |one: &Self, other: &Self| {
            one.claims.iter().any(|part| other.claims.contains(part) || other.needs.contains(part))
        };
        decides(self, other) || decides(other, self)
    }
}

impl Parameter {
    pub(super) fn sample(&self, locale: Locale, draw: &mut dyn FnMut(usize) -> usize) -> Value {
        match &self.domain {
            Domain::Numbers { first, last, step } => {
                let n_steps = (last - first) / step;
                json!(first + step * draw(n_steps as usize + 1) as u32)
            }
            Domain::Choice(texts) => {
                let texts = in_language(texts, locale);
                json!(texts[draw(texts.len())])
            }
            Domain::Several(n, texts) => {
                let mut left = in_language(texts, locale).to_vec();
                let drawn = (0..(*n).min(left.len())).map(|_| left.remove(draw(left.len())));
                json!(drawn.collect::<Vec<_>>())
            }
            Domain::OtherLanguage => {
                let others: Vec<&str> =
                    LANGUAGES.iter().map(|(code, _)| *code).filter(|code| *code != locale.code()).collect();
                json!(others[draw(others.len())])
            }
        }
    }

    /// The texts that stand for a value in a prompt.
    pub(super) fn texts(&self, value: &Value, locale: Locale) -> Vec<String> {
        match (&self.domain, value) {
            (Domain::OtherLanguage, Value::String(code)) => {
                let known = LANGUAGES.iter().find(|(known, _)| known == code);
                vec![known.map_or(code.as_str(), |(_, names)| in_language(names, locale)).to_owned()]
            }
            (_, Value::Array(values)) => values.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            (_, Value::String(text)) => vec![text.clone()],
            (_, other) => vec![other.to_string()],
        }
    }

    /// A value as a wording shows it: several texts each in quotation marks.
    pub(super) fn shown(&self, value: &Value, locale: Locale) -> String {
        let texts = self.texts(value, locale);
        match (&self.domain, locale) {
            (Domain::Several(..), Locale::Zh) => {
                texts.iter().map(|text| format!("“{text}”")).collect::<Vec<_>>().join("、")
            }
            (Domain::Several(..), _) => {
                texts.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", ")
            }
            _ => texts.concat(),
        }
    }
}
