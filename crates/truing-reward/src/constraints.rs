//! Constraints: sentences of a prompt that say how its response has to be, each with the check of the response.
//!
//! One object serves data, evaluation and reward. A constraint of a rule type has an instruction of
//! [`ifeval`](crate::verifiers::ifeval), which a program checks; the others have a question of a
//! [`checklist`](crate::checklist), which a judge answers. A type ([`ConstraintType`]) is a row of a table:
//! parameters with their values, at least three wordings in English and Chinese, and the parts of a response that it
//! decides. Two types that decide the same part are never in one prompt ([`ConstraintType::conflicts_with`]).
//!
//! The report (arXiv 2410.14940, 4.1) names more than thirty types and does not list them; these are ours, over the 25
//! instructions of IFEval.

mod questions;
mod rules;
mod table;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::verifiers::ifeval::{Locale, Mode, check_row};
pub use table::{ConstraintGroup, ConstraintType};
use table::{Domain, Parameter, TypeCheck};

/// How a response is checked for a constraint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ConstraintCheck {
    /// By a program.
    Rule {
        /// The instruction of IFEval, with its language before it where it is not English.
        instruction_id: String,
        /// Its settings.
        kwargs: Map<String, Value>,
    },
    /// By a judge.
    Question {
        /// Answered with yes where the constraint is fulfilled.
        question: String,
    },
}

/// A constraint as it is in a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Constraint {
    /// The type's identifier.
    #[serde(rename = "type")]
    pub id: String,
    /// The type's group.
    pub group: ConstraintGroup,
    /// The values of its parameters.
    pub args: Map<String, Value>,
    /// One sentence that asks for it.
    pub text: String,
    /// How a response is checked.
    #[serde(flatten)]
    pub check: ConstraintCheck,
}

impl Constraint {
    /// Whether a program checks it.
    #[must_use]
    pub fn is_rule(&self) -> bool {
        matches!(self.check, ConstraintCheck::Rule { .. })
    }

    /// Whether a response fulfils it, where a program can say so.
    #[must_use]
    pub fn is_followed_by(&self, response: &str) -> Option<bool> {
        let ConstraintCheck::Rule { instruction_id, kwargs } = &self.check else { return None };
        let row = Map::from_iter([
            ("instruction_id_list".to_owned(), json!([instruction_id])),
            ("kwargs".to_owned(), json!([kwargs])),
        ]);
        let verdicts = check_row(&row, response, Mode::Strict).ok()?;
        verdicts.first().map(|(_, is_followed)| *is_followed)
    }

    /// Values of its parameters that a prompt does not name: numbers in digits, texts letter by letter (case aside),
    /// languages by their names in the prompt's language. A rule whose values are missing cannot be followed. What a
    /// judge checks may be said in other words ("warmly" for a warm tone), so nothing of it is missing.
    #[must_use]
    pub fn missing_args(&self, prompt: &str, locale: Locale) -> Vec<String> {
        let of_type = ConstraintType::find(&self.id).filter(|_| self.is_rule());
        let Some(of_type) = of_type else { return Vec::new() };
        let prompt = prompt.to_lowercase();
        let named = of_type.parameters().iter().flat_map(|parameter| {
            self.args.get(parameter.name).map_or_else(Vec::new, |value| parameter.texts(value, locale))
        });
        named.filter(|text| !holds(&prompt, &text.to_lowercase())).collect()
    }
}

/// Whether a text holds another; a number only where no further digit is beside it.
fn holds(text: &str, wanted: &str) -> bool {
    let is_number = wanted.chars().all(|c| c.is_ascii_digit());
    let is_digit = |c: Option<char>| is_number && c.is_some_and(|c| c.is_ascii_digit());
    text.match_indices(wanted).any(|(at, found)| {
        !is_digit(text[..at].chars().next_back()) && !is_digit(text[at + found.len()..].chars().next())
    })
}

/// The columns that rewards read: `instruction_id_list` and `kwargs` (`ifeval`), `checklist` (`[judge]`), and the
/// constraints themselves.
#[must_use]
pub fn columns(constraints: &[Constraint]) -> Map<String, Value> {
    let (mut ids, mut settings, mut questions) = (Vec::new(), Vec::new(), Vec::new());
    for constraint in constraints {
        match &constraint.check {
            ConstraintCheck::Rule { instruction_id, kwargs } => {
                ids.push(json!(instruction_id));
                settings.push(json!(kwargs));
            }
            ConstraintCheck::Question { question } => questions.push(json!(question)),
        }
    }
    Map::from_iter([
        ("instruction_id_list".to_owned(), Value::Array(ids)),
        ("kwargs".to_owned(), Value::Array(settings)),
        ("checklist".to_owned(), Value::Array(questions)),
        ("constraints".to_owned(), json!(constraints)),
    ])
}

impl ConstraintType {
    /// Every type: those that a program checks, then those that a judge checks.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        rules::RULES.iter().chain(questions::QUESTIONS)
    }

    /// The types that a language has.
    pub fn of(locale: Locale) -> impl Iterator<Item = &'static Self> {
        Self::all().filter(move |of_type| !of_type.wordings(locale).is_empty())
    }

    /// The type of an identifier.
    #[must_use]
    pub fn find(id: &str) -> Option<&'static Self> {
        Self::all().find(|of_type| of_type.id == id)
    }

    /// A constraint of this type with sampled values and wording. `draw` gives a number below another.
    pub fn sample(&self, locale: Locale, draw: &mut dyn FnMut(usize) -> usize) -> Constraint {
        let args = self
            .parameters()
            .iter()
            .map(|parameter| (parameter.name.to_owned(), parameter.sample(locale, draw)));
        let args: Map<String, Value> = args.collect();
        let wordings = self.wordings(locale);
        let wording = wordings.get(draw(wordings.len().max(1))).copied().unwrap_or_default();
        self.constraint(args, wording, locale)
    }

    /// The strictest constraint of this type that a text fulfils, for a rule with at most one parameter, which is a
    /// number: the largest number that holds, or the smallest for an upper bound. `None` for other types, and where
    /// no value holds.
    pub fn measured(
        &self,
        text: &str,
        locale: Locale,
        draw: &mut dyn FnMut(usize) -> usize,
    ) -> Option<Constraint> {
        let TypeCheck::Rule { fixed, .. } = &self.check else { return None };
        let wordings = self.wordings(locale);
        let wording = *wordings.get(draw(wordings.len().max(1)))?;
        let with = |args| self.constraint(args, wording, locale);
        let holds = |constraint: &Constraint| constraint.is_followed_by(text) == Some(true);
        match self.parameters() {
            [] => Some(with(Map::new())).filter(holds),
            [Parameter { name, domain: Domain::Numbers { first, last, step } }] => {
                let numbers = (*first..=*last).step_by((*step).max(1) as usize);
                let of = |number: u32| with(Map::from_iter([((*name).to_owned(), json!(number))]));
                match fixed.iter().any(|(_, value)| *value == "less than") {
                    true => numbers.map(of).find(holds),
                    false => numbers.map(of).filter(holds).last(),
                }
            }
            _ => None,
        }
    }

    fn constraint(&self, args: Map<String, Value>, wording: &str, locale: Locale) -> Constraint {
        let values: Vec<(String, String)> = self
            .parameters()
            .iter()
            .filter_map(|parameter| {
                let value = args.get(parameter.name)?;
                Some((parameter.name.to_owned(), parameter.shown(value, locale)))
            })
            .collect();
        let values: Vec<(&str, &str)> =
            values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let check = match &self.check {
            TypeCheck::Rule { instruction, fixed } => {
                let mut kwargs = args.clone();
                kwargs.extend(fixed.iter().map(|(key, value)| ((*key).to_owned(), json!(value))));
                let instruction_id = match locale {
                    Locale::En => (*instruction).to_owned(),
                    other => format!("{}:{instruction}", other.code()),
                };
                ConstraintCheck::Rule { instruction_id, kwargs }
            }
            TypeCheck::Question(questions) => ConstraintCheck::Question {
                question: crate::asking::fill_in(table::in_language(questions, locale), &values),
            },
        };
        let text = crate::asking::fill_in(wording, &values);
        Constraint { id: self.id.to_owned(), group: self.group, args, text, check }
    }
}

/// Draws up to `n` types that do not conflict, those first that `counts` has the fewest of, so that all types come up
/// about as often; equal ones by chance. With `with_rule` the first is one that a program checks. `draw` gives a
/// number below another.
pub fn draw_types(
    allowed: &[&'static ConstraintType],
    n: usize,
    with_rule: bool,
    counts: &std::collections::BTreeMap<&'static str, usize>,
    draw: &mut dyn FnMut(usize) -> usize,
) -> Vec<&'static ConstraintType> {
    let mut drawn: Vec<&'static ConstraintType> = Vec::new();
    while drawn.len() < n {
        let is_open = |of_type: &&&'static ConstraintType| {
            (!with_rule || !drawn.is_empty() || of_type.is_rule())
                && drawn.iter().all(|other| other.id != of_type.id && !other.conflicts_with(of_type))
        };
        let open: Vec<&'static ConstraintType> = allowed.iter().filter(is_open).copied().collect();
        let count = |of_type: &&'static ConstraintType| counts.get(of_type.id).copied().unwrap_or(0);
        let Some(least) = open.iter().map(count).min() else { break };
        let rarest: Vec<&'static ConstraintType> =
            open.into_iter().filter(|of_type| count(of_type) == least).collect();
        drawn.push(rarest[draw(rarest.len())]);
    }
    drawn
}

#[cfg(test)]
mod tests;
