//! The final answer of a computation against a reference: numbers as exact fractions, whatever their notation.
//!
//! Read are the last `\\boxed{...}`, what follows the last `####`, what follows a last `A:` or "answer is", otherwise the
//! last number. Thousands separators, currency, percent signs, units, decimals, fractions (`3/4`, `\\frac{3}{4}`), mixed
//! numbers and scientific notation are understood; other text is compared as text.

use std::sync::LazyLock;

use num_rational::BigRational;
use num_traits::{One, Zero};
use regex::Regex;
use serde::{Deserialize, Serialize};
use truing_types::{Unscored, UnscoredReason};

use crate::completion::{Completion, RewardFunction, column_text};

/// What became of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The same.
    Equal,
    /// Not the same.
    Different,
    /// The reference cannot be read.
    Unparsed,
}

/// Settings of [`MathAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MathAnswerConfig {
    /// Column of the prompt's row that holds the reference: a number, or a solution that ends in `#### N`.
    pub column: String,
    /// Count only answers that are marked as such, not just a last number.
    pub marked_only: bool,
}

impl Default for MathAnswerConfig {
    fn default() -> Self {
        Self { column: "answer".into(), marked_only: false }
    }
}

/// 1 for the right answer, 0 for a wrong one or none.
#[derive(Debug)]
pub struct MathAnswer(pub MathAnswerConfig);

impl RewardFunction for MathAnswer {
    fn name(&self) -> &str {
        "math_answer"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        let score = |completion: &Completion<'_>| {
            let reference = column_text(completion, &self.0.column)?;
            let reference = marked_answer(&reference).unwrap_or_else(|| reference.trim().to_owned());
            let answer = extract_answer(completion.text, self.0.marked_only).unwrap_or_default();
            match grade(&answer, &reference) {
                Verdict::Equal => Ok(1.0),
                Verdict::Different => Ok(0.0),
                Verdict::Unparsed => {
                    let detail = format!("`{}` holds no answer: {reference:?}", self.0.column);
                    Err(Unscored::new(UnscoredReason::BadReference, detail))
                }
            }
        };
        completions.iter().map(score).collect()
    }
}

#[expect(clippy::unwrap_used, reason = "patterns of our own, compiled in a test")]
fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

/// A number as it stands in a text: sign, currency, thousands, decimals or a fraction.
static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"[-+\u{2212}]?\s?[$\u{20ac}\u{a3}\u{a5}]?\s?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}\b)?(?:\s?/\s?\d+(?:\.\d+)?)?",
    )
});
static ANSWER_IS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?im)(?:^\s*A:|answer(?:\s+is)?\s*(?:is|:|=))\s*(.*)$"));
static FRACTION: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\\[dt]?frac\s*\{\s*([^{}]+?)\s*\}\s*\{\s*([^{}]+?)\s*\}"));
static MIXED: LazyLock<Regex> = LazyLock::new(|| pattern(r"^([-+]?)(\d+)\s+(\d+)\s?/\s?(\d+)$"));

/// What a text gives as its answer, as it is written; `None` where it gives none.
#[must_use]
pub fn extract_answer(text: &str, marked_only: bool) -> Option<String> {
    marked_answer(text).or_else(|| {
        let last = NUMBER.find_iter(text).last().filter(|_| !marked_only)?;
        Some(last.as_str().trim().to_owned())
    })
}

fn marked_answer(text: &str) -> Option<String> {
    let marked = boxed(text)
        .or_else(|| text.rsplit_once("####").map(|(_, answer)| answer))
        .or_else(|| ANSWER_IS.captures_iter(text).last().and_then(|found| Some(found.get(1)?.as_str())))?;
    let line = marked.trim().lines().next().unwrap_or_default();
    Some(line.trim().trim_end_matches(['.', '*']).trim().to_owned()).filter(|answer| !answer.is_empty())
}

/// Inside of the last `\\boxed{...}`, braces matched.
fn boxed(text: &str) -> Option<&str> {
    let start = text.rfind("\\boxed{")? + "\\boxed{".len();
    let mut depth = 1;
    for (at, letter) in text[start..].char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[start..start + at]);
        }
    }
    None
}

/// Compares an answer with a reference: as exact numbers where both hold one, as text otherwise.
#[must_use]
pub fn grade(answer: &str, reference: &str) -> Verdict {
    let same = |is_same: bool| if is_same { Verdict::Equal } else { Verdict::Different };
    match (number(reference), number(answer)) {
        (Some(reference), Some(answer)) => same(answer == reference),
        (Some(_), None) => Verdict::Different,
        (None, _) if plain(reference).is_empty() => Verdict::Unparsed,
        (None, _) => same(plain(answer) == plain(reference)),
    }
}

/// Letters and digits in lower case, LaTeX commands for text and space left out.
fn plain(text: &str) -> String {
    let text = ["\\text", "\\mathrm", "\\left", "\\right", "\\,", "\\!", "\\ "]
        .iter()
        .fold(text.to_owned(), |text, command| text.replace(command, ""));
    text.chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, '$' | '{' | '}' | '.'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Digits that a number may have: beyond lies no answer, and exact arithmetic would take its time.
const MAX_DIGITS: usize = 200;

/// The number that a short answer is, units and marks left out; `None` where it holds none or more than one.
#[must_use]
pub fn number(text: &str) -> Option<BigRational> {
    let text = FRACTION.replace_all(text, " $1/$2");
    let text: String = text.replace("\\$", "$").replace("\\%", "%").replace('\u{2212}', "-");
    let text = text
        .trim()
        .trim_matches(|c: char| matches!(c, '$' | '*' | '(' | ')' | '"' | '=') || c.is_whitespace());
    if let Some(mixed) = MIXED.captures(text) {
        let whole = exact(&mixed[2])?;
        let part = divide(exact(&mixed[3])?, exact(&mixed[4])?)?;
        let value = whole + part;
        return Some(if &mixed[1] == "-" { -value } else { value });
    }
    let mut found = NUMBER.find_iter(text);
    let only = found.next()?;
    if found.next().is_some() {
        return None;
    }
    let kept: String = only
        .as_str()
        .chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, ',' | '$' | '\u{20ac}' | '\u{a3}' | '\u{a5}'))
        .collect();
    match kept.split_once('/') {
        Some((above, below)) => divide(exact(above)?, exact(below)?),
        None => exact(&kept),
    }
}

fn divide(above: BigRational, below: BigRational) -> Option<BigRational> {
    (!below.is_zero()).then(|| above / below)
}

/// A decimal, perhaps in scientific notation, as an exact fraction.
fn exact(text: &str) -> Option<BigRational> {
    if text.len() > MAX_DIGITS {
        return None;
    }
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    if exponent.unsigned_abs() as usize > MAX_DIGITS {
        return None;
    }
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
    let integer = format!("{whole}{decimals}").parse::<num_bigint::BigInt>().ok()?;
    let ten = |power: u32| BigRational::from_integer(num_bigint::BigInt::from(10).pow(power));
    let value = BigRational::from_integer(integer) / ten(decimals.len() as u32);
    let power = if exponent == 0 { BigRational::one() } else { ten(exponent.unsigned_abs()) };
    Some(if exponent < 0 { value / power } else { value * power })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations_of_the_same_number_are_equal() {
        for (answer, reference, expected) in [
            ("1,234", "1234", Verdict::Equal),
            ("$5.00", "5", Verdict::Equal),
            ("0.5", "1/2", Verdict::Equal),
            ("\\frac{1}{2}", "0.50", Verdict::Equal),
            ("-\\dfrac{3}{4}", "-0.75", Verdict::Equal),
            ("1 1/2", "1.5", Verdict::Equal),
            ("1.2e3", "1200", Verdict::Equal),
            ("72 hours", "72", Verdict::Equal),
            ("\u{2212}3", "-3", Verdict::Equal),
            ("3", "-3", Verdict::Different),
            ("12 or 13", "12", Verdict::Different),
            ("", "12", Verdict::Different),
            ("1/0", "12", Verdict::Different),
            ("Blue", "blue", Verdict::Equal),
            ("\\text{red}", "blue", Verdict::Different),
            ("12", "", Verdict::Unparsed),
        ] {
            assert_eq!(grade(answer, reference), expected, "{answer} against {reference}");
        }
    }

    #[test]
    fn the_last_marked_answer_counts_then_the_last_number() {
        for (text, marked_only, expected) in [
            ("so 3 + 4 = 7\n#### 7", false, Some("7")),
            ("\\boxed{3} or rather \\boxed{\\frac{1}{2}} of 9", false, Some("\\frac{1}{2}")),
            ("It costs <<2*3=6>>6.\nA: 1,200", false, Some("1,200")),
            ("The answer is $18.", false, Some("$18")),
            ("First 3, then 18 eggs.", false, Some("18")),
            ("First 3, then 18 eggs.", true, None),
            ("nothing", false, None),
        ] {
            assert_eq!(extract_answer(text, marked_only).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn nothing_makes_it_panic() {
        let pieces = [
            "\\frac{",
            "}{",
            "1e999",
            "9".repeat(400).leak(),
            "/0",
            "-",
            "####",
            "\\boxed{",
            "é",
            "$",
            ",",
            "\u{2212}",
        ];
        let mut state = 1_u64;
        for _ in 0..3000 {
            let mut text = String::new();
            for _ in 0..6 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            let _ = grade(&extract_answer(&text, false).unwrap_or_default(), &text);
        }
    }
}
