use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use truing_run::RunError;

use super::{Fault, Language};
use crate::AskError;

const GOLDEN: &str = include_str!("../../../../recipes/data/pas_golden.jsonl");
const CASES: &str = include_str!("../../../../recipes/data/pas_critic_cases.jsonl");

/// A prompt with a complement that a person wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenPair {
    /// Category of the prompt.
    pub category: String,
    /// Language of both.
    pub language: Language,
    /// The prompt.
    pub prompt: String,
    /// What is appended to it.
    pub complement: String,
}

/// A complement with the verdict that a critic should give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriticCase {
    /// Language of the prompt.
    pub language: Language,
    /// The prompt.
    pub prompt: String,
    /// The complement that is judged.
    pub complement: String,
    /// What is wrong with it; null if nothing is.
    pub fault: Option<Fault>,
    /// Why, in a sentence.
    pub reason: String,
    /// The complement if it has no fault, otherwise a corrected one.
    pub final_complement: String,
}

/// Examples for the generator, by category and language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoldenPairs {
    pairs: Vec<GoldenPair>,
    categories: Vec<String>,
}

/// Worked cases for the critic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriticCases(Vec<CriticCase>);

impl GoldenPairs {
    /// Reads a JSON Lines file; without a path the pairs that truing brings.
    ///
    /// # Errors
    /// When the file cannot be read or a row is no golden pair, with file and line.
    pub fn load(path: Option<&Path>) -> Result<Self, AskError> {
        let (name, text) = read(path, "the golden pairs of truing", GOLDEN)?;
        Self::parse(&text, Path::new(&name))
    }

    /// Reads JSON Lines; `path` is named in errors.
    ///
    /// # Errors
    /// When a row is no golden pair.
    pub fn parse(text: &str, path: &Path) -> Result<Self, AskError> {
        let pairs: Vec<GoldenPair> = parse_lines(text, path, |pair: &GoldenPair| {
            filled(&[
                ("category", &pair.category),
                ("prompt", &pair.prompt),
                ("complement", &pair.complement),
            ])
        })?;
        let mut categories: Vec<String> = Vec::new();
        for pair in &pairs {
            if !categories.contains(&pair.category) {
                categories.push(pair.category.clone());
            }
        }
        Ok(Self { pairs, categories })
    }

    /// All pairs, in the order of the file.
    #[must_use]
    pub fn pairs(&self) -> &[GoldenPair] {
        &self.pairs
    }

    /// The categories, in the order in which the pairs name them.
    #[must_use]
    pub fn categories(&self) -> &[String] {
        &self.categories
    }

    /// The pairs of a category and language, at most `n`.
    #[must_use]
    pub fn of(&self, category: &str, language: Language, n: usize) -> Vec<&GoldenPair> {
        let is_wanted = |pair: &&GoldenPair| pair.category == category && pair.language == language;
        self.pairs.iter().filter(is_wanted).take(n).collect()
    }
}

impl CriticCases {
    /// Reads a JSON Lines file; without a path the cases that truing brings.
    ///
    /// # Errors
    /// When the file cannot be read or a row is no case, with file and line; when a language has fewer than two
    /// accepted cases, or fewer than two faults.
    pub fn load(path: Option<&Path>) -> Result<Self, AskError> {
        let (name, text) = read(path, "the critic cases of truing", CASES)?;
        Self::parse(&text, Path::new(&name))
    }

    /// Reads JSON Lines; `path` is named in errors.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(text: &str, path: &Path) -> Result<Self, AskError> {
        let cases = parse_lines(text, path, |case: &CriticCase| {
            filled(&[
                ("prompt", &case.prompt),
                ("complement", &case.complement),
                ("reason", &case.reason),
                ("final_complement", &case.final_complement),
            ])?;
            match (case.fault, case.final_complement == case.complement) {
                (None, false) => {
                    Err("`final_complement` differs from `complement`, but there is no `fault`".into())
                }
                (Some(_), true) => {
                    Err("`final_complement` repeats the `complement` that has a `fault`".into())
                }
                _ => Ok(()),
            }
        })?;
        let cases = Self(cases);
        for language in [Language::En, Language::Zh] {
            if cases.of(language, 0).is_none() && cases.0.iter().any(|case| case.language == language) {
                let problem = format!(
                    "the cases in `{}` are too few: expected two without a fault and two with different faults",
                    language.code()
                );
                return Err(AskError::Examples { path: path.to_path_buf(), line: 1, problem });
            }
        }
        Ok(cases)
    }

    /// All cases, in the order of the file.
    #[must_use]
    pub fn cases(&self) -> &[CriticCase] {
        &self.0
    }

    /// Four cases of a language: accepted, rejected, accepted, rejected for another fault. `rotation` turns to other
    /// faults and cases, so that prompts of different categories are judged with different examples. `None` if there
    /// are too few.
    #[must_use]
    pub fn of(&self, language: Language, rotation: usize) -> Option<[&CriticCase; 4]> {
        let of_language = || self.0.iter().filter(move |case| case.language == language);
        let accepted: Vec<&CriticCase> = of_language().filter(|case| case.fault.is_none()).collect();
        let mut faults: Vec<Fault> = of_language().filter_map(|case| case.fault).collect();
        faults.sort_unstable();
        faults.dedup();
        if accepted.len() < 2 || faults.len() < 2 {
            return None;
        }
        let rejected = |place: usize| {
            let fault = faults[(2 * rotation + place) % faults.len()];
            let cases: Vec<&CriticCase> = of_language().filter(|case| case.fault == Some(fault)).collect();
            cases[rotation % cases.len()]
        };
        let accepted = |place: usize| accepted[(2 * rotation + place) % accepted.len()];
        Some([accepted(0), rejected(0), accepted(1), rejected(1)])
    }
}

/// Name and text of a file, or of what is bundled.
fn read(path: Option<&Path>, bundled_name: &str, bundled: &str) -> Result<(String, String), AskError> {
    let Some(path) = path else { return Ok((bundled_name.to_owned(), bundled.to_owned())) };
    let read_error = |source| RunError::Read { path: path.to_path_buf(), source };
    Ok((path.display().to_string(), std::fs::read_to_string(path).map_err(read_error)?))
}

fn parse_lines<T: DeserializeOwned>(
    text: &str,
    path: &Path,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<Vec<T>, AskError> {
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |problem| AskError::Examples { path: path.to_path_buf(), line: i + 1, problem };
        let row: T = serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
        check(&row).map_err(bad)?;
        rows.push(row);
    }
    match rows.is_empty() {
        true => Err(AskError::Examples {
            path: path.to_path_buf(),
            line: 1,
            problem: "no rows, expected JSON Lines".into(),
        }),
        false => Ok(rows),
    }
}

fn filled(fields: &[(&str, &String)]) -> Result<(), String> {
    match fields.iter().find(|(_, text)| text.trim().is_empty()) {
        Some((name, _)) => Err(format!("`{name}` is empty, expected text")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pas::CATEGORIES;

    #[test]
    fn the_bundled_pairs_cover_every_category_in_both_languages() {
        let golden = GoldenPairs::load(None).unwrap();
        assert_eq!(golden.categories(), CATEGORIES.map(|category| category.id));
        for category in golden.categories() {
            for language in [Language::En, Language::Zh] {
                assert!(golden.of(category, language, 9).len() >= 4, "{category} {language:?}");
                assert_eq!(golden.of(category, language, 2).len(), 2);
            }
        }
    }

    #[test]
    fn four_cases_have_both_verdicts_and_two_faults_in_any_rotation() {
        let cases = CriticCases::load(None).unwrap();
        let mut shown = std::collections::BTreeSet::new();
        for (language, rotation) in (0..14).flat_map(|r| [(Language::En, r), (Language::Zh, r)]) {
            let four = cases.of(language, rotation).unwrap();
            assert!(four.iter().all(|case| case.language == language));
            let [first, second, third, fourth] = four.map(|case| case.fault);
            assert!(first.is_none() && third.is_none() && first.is_none() && four[0] != four[2]);
            assert!(second.is_some() && fourth.is_some() && second != fourth);
            shown.extend([second, fourth].map(|fault| (language, fault)));
        }
        assert_eq!(shown.len(), 10, "every fault is shown in both languages");
    }

    #[test]
    fn bad_rows_are_named_with_file_and_line() {
        let pair = r#"{"category": "code", "language": "en", "prompt": "a", "complement": "b"}"#;
        let case = concat!(
            r#"{"language": "en", "prompt": "a", "complement": "b", "fault": null, "reason": "c","#,
            r#" "final_complement": "b"}"#,
        );
        let golden = |text: String| GoldenPairs::parse(&text, Path::new("g.jsonl")).unwrap_err().to_string();
        let cases = |text: String| CriticCases::parse(&text, Path::new("c.jsonl")).unwrap_err().to_string();
        for (error, expected) in [
            (
                golden(format!("{pair}\n\n{}", pair.replace("\"b\"", "\" \""))),
                "g.jsonl:3: `complement` is empty",
            ),
            (golden(pair.replace("en", "fr")), "g.jsonl:1: unknown variant `fr`"),
            (
                golden(format!("{pair}\n{}", pair.replace("prompt", "prompts"))),
                "g.jsonl:2: unknown field `prompts`",
            ),
            (golden(String::new()), "g.jsonl:1: no rows"),
            (cases(case.replace("null", "\"dull\"")), "c.jsonl:1: unknown variant `dull`"),
            (cases(case.replace("null", "\"answers\"")), "c.jsonl:1: `final_complement` repeats"),
            (
                cases(case.replace("\"final_complement\": \"b\"", "\"final_complement\": \"x\"")),
                "c.jsonl:1: `final_complement` differs",
            ),
            (cases(format!("{case}\n{case}")), "c.jsonl:1: the cases in `en` are too few"),
        ] {
            assert!(error.starts_with(expected), "{error}");
        }
        let missing = GoldenPairs::load(Some(Path::new("/nowhere/g.jsonl"))).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/g.jsonl"), "{missing}");
    }
}
