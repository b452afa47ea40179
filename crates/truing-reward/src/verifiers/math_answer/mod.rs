//! The final answer of a computation against a reference: parsed, then compared by structure and exact value.
//!
//! *Extraction.* The last `\boxed{...}` (or `\fbox`, or `\boxed 5`) or `####` counts (one before a heading is
//! no mark). "The answer is 18" after it or a correction ("wait, it is 18") replaces it; an aside ("if ..., the
//! answer would be 26") does not; where it is taken back and no other value can be read, or the text gives up after
//! it, there is no answer.
//! Otherwise the last "the answer is", "Final answer:", `A:`, 答案是 and the like; otherwise, unless `marked_only`
//! is set, the last number together with the expression that it is in. Boxes with only "and", "or" or a
//! comma between them are one list. A box that never closes is no answer, nor is "the answer is not 18".
//! A text that continues with another question after its answer (`Q:`, `Human:`, the marks of chat templates)
//! counts up to there.
//!
//! *Words around it.* A number in a sentence is its answer only where known words lead to it and a unit or
//! counted things follow it (`clause`): "half of 18", "16 or 18" and "18 squared" are texts, which equal no
//! number. What is around a box counts too (`boxed`): `-\boxed{18}` is -18, `\boxed{18} million` is
//! 18000000, and `\sqrt{\boxed{18}}`, "not `\boxed{18}`" and "`\boxed{18}` is wrong" give no answer. Neither do
//! "Upper bound: 18", "18 fewer", "3. Subtract the rest", "the answer has 18 digits" and "18 per week, so 36 in two".
//! "I am 90% sure" after an answer and a bracket that explains or repeats it ("eighteen (18)", "7 (out of 10)") are
//! left out. An exclamation mark after the end of a formula or of bold text (`$\boxed{18}$!`, `**18**!`) is
//! punctuation; directly after a number (`18!`) it is a factorial. A right answer in unusual words is refused rather
//! than a wrong one accepted.
//!
//! Without a mark the unit, percent sign or counted thing after the last number comes with it ("5 m long"), as do the
//! letters of a currency before it, all values of several ("x = 2 and y = 3") and all parts of a quantity ("2 hours
//! 15 minutes", `3元5角`); where they cannot be read together there is no answer. A number in words is read where the
//! last sentence has no digits (`closing`).
//!
//! *Parsing.* LaTeX and plain notation become numbers, expressions, tuples, sets, lists, intervals, unions,
//! equations, inequalities, ratios and matrices; full-width forms, Arabic and Indian digits, Chinese numerals, number
//! words of English, German, French, Spanish and Russian and English fractions ("two and a half") are read too, before
//! a unit also ("five dollars"). `18...` leaves out
//! decimals and is not read as a number; `0.333...` is one third. Anything else is compared as text,
//! without regard to case, spaces and punctuation.
//!
//! *Comparison.* A normal form over rational numbers, variables, π, e, i and roots decides exactly. Where
//! functions or general powers are left, both sides are evaluated at fixed points, four with positive variables
//! and sixteen with every combination of signs of four variables, and have to agree to 1e-11; sums of roots are
//! evaluated to 240 binary digits. What cannot be resolved is not equal, nor is anything that computes with
//! infinity. A bare number never equals an expression of another value.
//!
//! - Percent: `50%` equals `50%`, `50` and `0.5`; `0.5` does not equal `50`, nor `3/4 %` or `0.75%` the fraction `3/4`.
//! - Units: a missing unit fits, a different one does not (`5 cm` and `5 m`); known units are converted
//!   (`60 min` is `1 h`). Counted things that no table knows are in the plural (`5 apples`, not `5 inverse`).
//!   `5倍`, five times as much, is not `5`, but `5` answers `5倍`. Words of scale are read (`3 dozens` is 36,
//!   `5 millones` is 5000000); other words that compute make of the whole a text.
//!   A number of several units ("4 h 30 min") is compared with other durations and lengths, but with no bare number.
//!   What is written with π is in radians: `(π/3)°` is not `π/3`.
//! - Times and dates: `7:45 PM` is "7:45 p.m." and `19:45`, "March 5th" is "5 March"; they equal nothing else.
//! - Bases: `101_2`, "101 in base 2", is neither `101`, whichever of them is the reference, nor `101_3`; only base ten
//!   may be left out.
//! - Ratios: `3:2` is `6:4`, but no fraction (`1:2`, `1/2`). What may be a time is compared digit by digit (`7:30`,
//!   `14:60`).
//! - Letters: `c` is not `C`; a choice in brackets may be in either case (`(C)`, `c`).
//! - Labels: `length: 7` is 7, but not `width: 7`; `(a) 3 (b) 4` is a list in this order; `(B) 12` is B and 12; what
//!   `\int_0^1 2x\,dx`, `P(A)`, `\angle ABC` or `\frac{dy}{dx}` is equal to is its value.
//! - Free parameters: `\frac{\pi}{6} + 2\pi n` is that with k, `x^2 + c` that with C.
//! - Shares: `60% of students` is `60%`, but not 60; `3 out of 10` is 0.3. `7th` is not 7.
//! - Commas: `0{,}25` and, after "la respuesta es" and the like, `3,5` are decimals; elsewhere `3,5` is a list.
//! - Decimals: with `float_rounding = 6` (the default) a decimal with at least six decimals and six significant
//!   digits equals what rounds to it (`0.333333` is `1/3`, `0.333` is not). A decimal with nine decimals or
//!   more also equals what is within a relative 1e-9 and an absolute 1e-8 of it, as printed floats do
//!   (`18.000000001` is `18`). 0 switches both off; `tolerance` adds a relative tolerance for all numbers.
//! - `x = 5` equals `5`; an equation equals its multiples; `x >= 4` equals `[4, ∞)`, both ways round.
//! - Sets and lists ignore order; tuples do not, nor do lists where the sentence of the answer or the reference says
//!   that order matters ("the next two terms", "respectively", 从小到大; `order`). A list without brackets equals a tuple
//!   in the same order.
//!
//! The verdicts are those of the Python package math-verify on its own kinds of cases, except on purpose in
//! these: a different unit, base of numerals or variable is different; `\sqrt12` is the root of 12, not twice
//! that of 1; `2 + 1 = 4` is not 4, as its sides disagree; decimals below 1e-6 are not all the same; "the
//! answer is not 7" is not 7; an inequality that is solved for its variable also equals an interval as the
//! reference; `0.\overline{3}` is one third; `30°` is π/6.

mod algebra;
mod boxed;
mod calendar;
mod circumstance;
mod clause;
mod closing;
mod compare;
mod constants;
mod denial;
mod excerpt;
mod expression;
mod extract;
mod following;
mod formula;
mod functions;
mod intervals;
mod labels;
mod latex;
mod marked;
mod notation;
mod number_words;
mod numerals;
mod numeric;
mod order;
mod parameters;
mod parse;
mod pieces;
mod plain;
mod sentence;
mod statement;
mod structure;
mod token;
mod turns;
mod units;
mod values;
mod wording;

use num_rational::BigRational;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_types::{Unscored, UnscoredReason};

use crate::completion::{Completion, RewardFunction, column_text};

use compare::Comparison;
use structure::Answer;

pub use extract::extract_answer;

/// The result of a comparison.
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MathAnswerConfig {
    /// Column with the reference: an answer, or a solution with a marked answer (`#### N`, `\boxed{N}`).
    pub column: String,
    /// Accept only marked answers (`\boxed{}`, `####`, "the answer is"), not the number of the last sentence.
    pub marked_only: bool,
    /// Relative tolerance of numbers. 0 compares exactly, apart from `float_rounding`.
    pub tolerance: f64,
    /// A decimal number with at least this many decimals equals every value that rounds to it. 0 turns this off.
    pub float_rounding: u32,
}

impl Default for MathAnswerConfig {
    fn default() -> Self {
        Self { column: "answer".into(), marked_only: false, tolerance: 0.0, float_rounding: 6 }
    }
}

/// 1 for the right answer, 0 for a wrong one or none.
#[derive(Debug)]
pub struct MathAnswer(pub MathAnswerConfig);

impl MathAnswer {
    fn score_one(&self, completion: &Completion<'_>) -> Result<f64, Unscored> {
        let column = column_text(completion, &self.0.column)?;
        let reference = extract::marked_answer(&column).unwrap_or_else(|| column.trim().to_owned());
        if let Some(verdict) = extract::truth(&reference) {
            let found = extract::truth_said(completion.text);
            if !self.0.marked_only && found.is_some() {
                return Ok(f64::from(found == Some(verdict)));
            }
        }
        let is_choice = reference.len() == 1 && reference.starts_with(|c: char| c.is_ascii_uppercase());
        let choice = is_choice.then(|| extract::choice(completion.text)).flatten();
        let answer =
            choice.or_else(|| extract_answer(completion.text, self.0.marked_only)).unwrap_or_default();
        let in_order = order::matters(completion.text, &answer) || order::matters(&column, &reference);
        match grade_in(&answer, &reference, &self.0, in_order) {
            Verdict::Equal => Ok(1.0),
            Verdict::Different => Ok(0.0),
            Verdict::Unparsed => {
                let detail = format!("`{}` holds no answer: {reference:?}", self.0.column);
                Err(Unscored::new(UnscoredReason::BadReference, detail))
            }
        }
    }
}

impl RewardFunction for MathAnswer {
    fn name(&self) -> &str {
        "math_answer"
    }

    fn score(&mut self, completions: &[Completion<'_>]) -> Vec<Result<f64, Unscored>> {
        completions.iter().map(|completion| self.score_one(completion)).collect()
    }
}

/// Compares an answer with a reference under the default settings.
#[must_use]
pub fn grade(answer: &str, reference: &str) -> Verdict {
    grade_with(answer, reference, &MathAnswerConfig::default())
}

/// Compares an answer with a reference.
#[must_use]
pub fn grade_with(answer: &str, reference: &str, config: &MathAnswerConfig) -> Verdict {
    let in_order = [answer, reference].iter().any(|text| order::is_said(text));
    grade_in(answer, reference, config, in_order)
}

/// Compares an answer with a reference, lists in their order where that matters.
fn grade_in(answer: &str, reference: &str, config: &MathAnswerConfig, in_order: bool) -> Verdict {
    let (answer, reference) = (trimmed(answer), trimmed(reference));
    let wanted = structure::parse(reference);
    if !is_readable(reference, &wanted) {
        return Verdict::Unparsed;
    }
    if answer.is_empty() {
        return Verdict::Different;
    }
    let found = structure::parse(answer);
    // In brackets a letter is a choice, in upper or lower case; without them it may be a variable.
    let is_choice = [answer, reference].iter().any(|text| text.contains('('));
    let is_equal = answer == reference
        || plain::same_prose(answer, reference)
        || Comparison { config, in_order }.same(&found, &wanted)
        || is_choice && compare::same_choice(&found, &wanted)
        || parameters::renamed(&found, &wanted)
            .is_some_and(|renamed| Comparison { config, in_order }.same(&renamed, &wanted));
    if is_equal { Verdict::Equal } else { Verdict::Different }
}

/// Without space and the full stop around it.
fn trimmed(text: &str) -> &str {
    let text = excerpt::without_spaces(text.trim().trim_matches(['*', '"', '`']));
    let text = text.trim_end_matches(excerpt::CHECK_MARKS).trim_end();
    if text.ends_with("...") { text } else { text.trim_end_matches(['.', '\u{3002}', ',', ';']).trim() }
}

/// Whether something can equal a reference: it says something, its brackets close and it does not divide by zero.
fn is_readable(reference: &str, parsed: &Answer) -> bool {
    if let Answer::Text(text) = parsed {
        let n_open = reference.matches('{').count();
        return text.chars().any(char::is_alphanumeric) && n_open == reference.matches('}').count();
    }
    compare::has_value(parsed)
}

/// The rational number that a short answer is, units and marks left out; `None` where it is anything else.
#[must_use]
pub fn number(text: &str) -> Option<BigRational> {
    let found = match structure::parse(trimmed(text)) {
        Answer::Value(value) => value,
        Answer::Assigned(_, inner) => match *inner {
            Answer::Value(value) => value,
            _ => return None,
        },
        _ => return None,
    };
    algebra::Algebra::default().normal(&found.expression).ok()?.rational()
}
