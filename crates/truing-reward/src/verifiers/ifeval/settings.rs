//! A row's settings of one instruction, checked: an unknown or badly typed one is an error, never a pass.

use regex::Regex;
use serde_json::{Map, Value};
use truing_types::{Unscored, UnscoredReason};

use super::bound::Bound;
use super::catalogue::Entry;
use super::locale::Locale;
use crate::verifiers::python_regex::ignoring_case;

/// The kwargs of an instruction.
pub(super) struct Settings<'a> {
    id: &'a str,
    locale: Locale,
    kwargs: &'a Map<String, Value>,
}

impl<'a> Settings<'a> {
    /// Refuses kwargs that the instruction does not have. Nulls are none: data sets fill up their columns with them.
    pub(super) fn new(
        id: &'a str,
        locale: Locale,
        entry: &Entry,
        kwargs: &'a Map<String, Value>,
    ) -> Result<Self, Unscored> {
        let settings = Self { id, locale, kwargs };
        match kwargs.iter().find(|(key, value)| !value.is_null() && !entry.keys.contains(&key.as_str())) {
            None => Ok(settings),
            Some((key, _)) if entry.keys.is_empty() => Err(settings.bad(key, "no setting at all")),
            Some((key, _)) => {
                Err(settings.bad(key, &format!("no setting but `{}`", entry.keys.join("`, `"))))
            }
        }
    }

    /// An error about one setting.
    pub(super) fn bad(&self, key: &str, expected: &str) -> Unscored {
        let found = self.kwargs.get(key).unwrap_or(&Value::Null);
        let detail = format!("`{}`: `{key}` is {found}, expected {expected}", self.id);
        Unscored::new(UnscoredReason::BadReference, detail)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.kwargs.get(key)
    }

    /// A text that is not blank, without white space around it.
    pub(super) fn text(&self, key: &str) -> Result<&'a str, Unscored> {
        let text = self.get(key).and_then(Value::as_str).map(str::trim);
        text.filter(|text| !text.is_empty()).ok_or_else(|| self.bad(key, "a text"))
    }

    /// A whole number that is not negative; data sets also write `3.0`.
    pub(super) fn count(&self, key: &str) -> Result<usize, Unscored> {
        let number = self.get(key).and_then(Value::as_f64);
        let number = number.filter(|n| *n >= 0.0 && n.fract() == 0.0 && *n <= f64::from(u32::MAX));
        number.map(|n| n as usize).ok_or_else(|| self.bad(key, "a whole number"))
    }

    /// A whole number from 1.
    pub(super) fn ordinal(&self, key: &str) -> Result<usize, Unscored> {
        match self.count(key)? {
            0 => Err(self.bad(key, "a whole number from 1")),
            number => Ok(number),
        }
    }

    /// A relation and the number it is about.
    pub(super) fn bound(&self, relation: &str, key: &str) -> Result<Bound, Unscored> {
        let word = self.text(relation)?;
        let unknown = || self.bad(relation, self.locale.relations());
        let count = self.locale.bound(word, 0).ok_or_else(unknown).and_then(|_| self.count(key))?;
        self.locale.bound(word, count).ok_or_else(unknown)
    }

    /// At least a number, unless the row has a relation, as Spanish rows do.
    pub(super) fn at_least(&self, key: &str) -> Result<Bound, Unscored> {
        match self.get("relation").filter(|value| !value.is_null()) {
            None => Ok(Bound::AtLeast(self.count(key)?)),
            Some(_) if self.locale == Locale::Es => self.bound("relation", key),
            Some(_) => Err(self.bad("relation", &format!("no setting but `{key}`"))),
        }
    }

    /// One letter, in small.
    pub(super) fn letter(&self, key: &str) -> Result<char, Unscored> {
        let mut letters = self.text(key)?.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) => Ok(letter.to_lowercase().next().unwrap_or(letter)),
            _ => Err(self.bad(key, "one letter")),
        }
    }

    /// Words as regular expressions that ignore case; at least one.
    pub(super) fn words(&self, key: &str, wrap: impl Fn(&str) -> String) -> Result<Vec<Regex>, Unscored> {
        let expected = || self.bad(key, "a list of words");
        let words = self.get(key).and_then(Value::as_array).filter(|words| !words.is_empty());
        let word = |word: &Value| {
            let word = word.as_str().filter(|word| !word.trim().is_empty()).ok_or_else(expected)?;
            Ok(ignoring_case(&wrap(word)))
        };
        words.ok_or_else(expected)?.iter().map(word).collect()
    }

    /// Pairs of texts: a map.
    pub(super) fn pairs(&self, key: &str) -> Result<Vec<(String, String)>, Unscored> {
        let expected = || self.bad(key, "a map from words to words");
        let map = self.get(key).and_then(Value::as_object).ok_or_else(expected)?;
        let pairs = map.iter().filter(|(_, to)| !to.is_null());
        let pairs: Vec<(String, String)> = pairs
            .map(|(from, to)| Some((from.to_lowercase(), to.as_str()?.to_lowercase())))
            .collect::<Option<_>>()
            .ok_or_else(expected)?;
        if pairs.is_empty() { Err(expected()) } else { Ok(pairs) }
    }
}
