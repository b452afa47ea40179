//! Critique and rewrite of similar faults (report 3.2): evaluators list the faults of some responses; a model looks for
//! the same ones in others, criticises and rewrites them.
//!
//! 1. Rows are prompts with a response. A fault that a person found is in `fault_column`; in other rows the checker
//!    looks for the `faults` of the recipe. It writes the critique. A response without any of them is dropped.
//! 2. The writer rewrites the response by the critique.
//! 3. Accepted is what is better: where the row has a reference answer, the new response has to have it, and where the
//!    original had it too, or there is none, the checker's score has to rise by `min_margin`. Both are graded apart, by
//!    the same question. What is not better is rewritten again, at most `max_rewrites` times.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use truing_reward::checklist::{numbered, read_verdicts};
use truing_reward::verifiers::math_answer::{Verdict, extract_answer, grade};
use truing_run::RunError;
use truing_run::checks::{require, require_counts, require_given};
use truing_run::rows::value_at;
use truing_stages::StageError;

use super::asking::{Asking, Question};
use super::bounds::require_bounded;
use super::builder::{BuilderInfo, Built, BuiltRow, Dropped, Fates, Job, PlannedCalls, Unit};
use super::config::BuildConfig;
use super::inputs::{SEED, SeedRow};
use super::mathematics::reference_of;
use super::prompt_writing::SCORE;
use super::reasoning::{final_answer, is_comparable, is_same, mentions_attempt};
use super::texts::{PromptText, between, prompt_text, score, tagged};

/// How the builder is listed.
pub(super) const INFO: BuilderInfo = BuilderInfo {
    name: "rewrite",
    about: "responses with known faults, criticised and rewritten where that makes them better",
    seeds: "prompts with a `response`, and its `fault` where a person has named one",
    asks: "the checker to find faults and to grade, the writer to rewrite responses",
    works_without_data: false,
    prepare,
};

const FIND: PromptText = prompt_text!("find_faults");
const REWRITE: PromptText = prompt_text!("rewrite_response");
const GRADE: PromptText = prompt_text!("grade_response");

const FAULTS_FORM: (&str, &str) = (
    "a critique and a verdict on each fault",
    "Your reply lacks the critique between <critique> and </critique>, or does not end with one verdict for \
     each fault, YES or NO, in double brackets. Write both.",
);
const REWRITE_FORM: (&str, &str) = (
    "a rewritten response",
    "Your reply does not have the new response between <response> and </response>. Write only that, with the tags.",
);

const FINDING: &str = "fault";
const GRADING: &str = "grade";
const REWRITING: &str = "rewrite";

/// The best score.
const MAX_SCORE: f64 = 10.0;

/// The table `[rewrite]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RewriteConfig {
    /// Faults that evaluators have found, a sentence each: they are looked for in rows without a fault of their own.
    pub faults: Vec<String>,
    /// Column with the response.
    pub response_column: String,
    /// Column with the fault that a person has found in the response.
    pub fault_column: String,
    /// Column with a reference answer. Where a row has one, the new response has to have it as its final answer.
    pub answer_column: String,
    /// Minimum difference between the scores of the new response and of the original, on the scale from 1 to 10.
    pub min_margin: f64,
    /// Maximum times that a response is rewritten.
    pub max_rewrites: usize,
}

impl Default for RewriteConfig {
    fn default() -> Self {
        Self {
            faults: Vec::new(),
            response_column: "response".into(),
            fault_column: "fault".into(),
            answer_column: "answer".into(),
            min_margin: 1.0,
            max_rewrites: 2,
        }
    }
}

impl RewriteConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is invalid.
    pub(super) fn check(&self) -> Result<(), RunError> {
        let counts = [("rewrite.max_rewrites", self.max_rewrites)];
        require_counts(counts)?;
        require_bounded(counts)?;
        require_bounded([("rewrite.faults", self.faults.len())])?;
        let margin = self.min_margin;
        require((0.0..=9.0).contains(&margin), || {
            ("rewrite.min_margin", margin.to_string(), "a difference of scores from 0 to 9")
        })?;
        let has_text = |text: &String| !text.trim().is_empty();
        require_given(self.faults.iter().all(has_text), "rewrite.faults", "a sentence for each fault")?;
        for (key, column) in [
            ("rewrite.response_column", &self.response_column),
            ("rewrite.fault_column", &self.fault_column),
            ("rewrite.answer_column", &self.answer_column),
        ] {
            require_given(has_text(column), key, "the name of a column")?;
        }
        Ok(())
    }
}

/// What a row has about its response.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Original {
    response: String,
    /// The faults that a person has found, or those to look for.
    faults: Vec<String>,
    /// Whether a person has found them.
    is_known: bool,
    reference: Option<String>,
}

/// Units with what their rows say.
#[derive(Debug)]
struct RewriteJob {
    settings: RewriteConfig,
    units: Vec<Unit>,
    originals: Vec<Original>,
}

/// A response while it is rewritten.
#[derive(Debug, Clone, Default)]
struct Draft {
    /// The faults that the response has.
    faults: Vec<String>,
    critique: String,
    original_score: f64,
    /// The last rewritten response, its score where it has one, and whether it is better.
    response: String,
    score: Option<f64>,
    is_accepted: bool,
    n_rewrites: usize,
    problem: Option<String>,
}

fn prepare(config: &BuildConfig, seeds: &[SeedRow]) -> Result<Box<dyn Job>, StageError> {
    let settings = config.rewrite.clone().unwrap_or_default();
    settings.check()?;
    if settings.max_rewrites > 1 {
        config.require_sampling(
            "above 0, or `rewrite.max_rewrites` of 1: without sampling, every new response is the same",
        )?;
    }
    let of = |seed: &SeedRow| {
        let original = original_of(&settings, seed);
        let kinds = if original.is_known { original.faults.clone() } else { Vec::new() };
        let mut unit = seed.unit(kinds);
        if original.response.is_empty() {
            unit.dropped.get_or_insert(Dropped::new(SEED, "no response in `rewrite.response_column`"));
        } else if original.faults.is_empty() {
            let reason = "no fault in `rewrite.fault_column`, and no `rewrite.faults` to look for";
            unit.dropped.get_or_insert(Dropped::new(SEED, reason));
        } else if original.reference.as_ref().is_some_and(|reference| !is_comparable(reference)) {
            let reason = "no short answer in `rewrite.answer_column`";
            unit.dropped.get_or_insert(Dropped::new(SEED, reason));
        }
        (unit, original)
    };
    let (units, originals) = seeds.iter().map(of).unzip();
    Ok(Box::new(RewriteJob { settings, units, originals }))
}

fn original_of(settings: &RewriteConfig, seed: &SeedRow) -> Original {
    let known: Vec<String> = match value_at(&seed.columns, &settings.fault_column) {
        Some(Value::Array(faults)) => {
            let faults = faults.iter().filter_map(Value::as_str).map(str::trim);
            faults.filter(|fault| !fault.is_empty()).map(str::to_owned).collect()
        }
        _ => seed.text_at(&settings.fault_column).into_iter().collect(),
    };
    Original {
        response: seed.text_at(&settings.response_column).unwrap_or_default(),
        is_known: !known.is_empty(),
        faults: if known.is_empty() { settings.faults.clone() } else { known },
        reference: seed
            .text_at(&settings.answer_column)
            .map(|answer| final_answer(&answer).unwrap_or_else(|| reference_of(&answer))),
    }
}

/// Whether the final answer of a response is the reference: that of the line `Answer: ...`, or without one the answer
/// that the reward `math_answer` reads.
fn is_right(response: &str, reference: &str) -> bool {
    let labelled = final_answer(response);
    let text = labelled.as_deref().unwrap_or(response);
    let read = || extract_answer(text, false).is_some_and(|found| grade(&found, reference) == Verdict::Equal);
    labelled.as_deref().is_some_and(|found| is_same(found, reference)) || read()
}

/// What is wrong with a new response, apart from its score.
fn check_new(response: &str, original: &str, reference: Option<&str>) -> Result<(), &'static str> {
    if response.split_whitespace().eq(original.split_whitespace()) {
        return Err("the new response is the original");
    }
    if mentions_attempt(response) && !mentions_attempt(original) {
        return Err("the new response speaks of an earlier one");
    }
    if reference.is_some_and(|reference| !is_right(response, reference)) {
        return Err("no new response has the reference answer");
    }
    Ok(())
}

impl RewriteJob {
    fn text(&self, text: &PromptText, idx: usize, response: &str, draft: &Draft) -> String {
        let (unit, original) = (&self.units[idx], &self.originals[idx]);
        let faults = if draft.faults.is_empty() { &original.faults } else { &draft.faults };
        let values = [
            ("{prompt}", unit.text.as_str()),
            ("{response}", response),
            ("{fault}", &numbered(faults.iter().map(String::as_str))),
            ("{critique}", &draft.critique),
        ];
        text.fill(unit.language, &values)
    }

    /// The faults of every response with a critique of it; drops responses without a fault.
    fn find_faults(
        &self,
        drafts: &mut [Draft],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let places = fates.open();
        let text = |&idx: &usize| self.text(&FIND, idx, &self.originals[idx].response, &drafts[idx]);
        let texts = places.iter().map(text).collect();
        let read = |at: usize, reply: &str| {
            let verdicts = read_verdicts(reply, self.originals[places[at]].faults.len())?;
            Some((between(reply, "critique")?.to_owned(), verdicts))
        };
        let answers = asking.check("looking for faults", texts, FAULTS_FORM, read)?;
        fates.take(FINDING, &places, answers, |idx, (critique, verdicts)| {
            let Original { faults, is_known, .. } = &self.originals[idx];
            // A fault that a person found is kept, whatever the checker says.
            let found = faults.iter().zip(verdicts).filter(|(_, is_found)| *is_known || *is_found);
            drafts[idx].faults = found.map(|(fault, _)| fault.clone()).collect();
            drafts[idx].critique = critique;
            match drafts[idx].faults.is_empty() {
                true => Err(Dropped::new(FINDING, "the response has none of the faults")),
                false => Ok(()),
            }
        });
        Ok(())
    }

    /// The scores of the originals; drops those that no score is better than by the margin.
    fn grade_originals(
        &self,
        drafts: &mut [Draft],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let places = fates.open();
        let text = |&idx: &usize| self.text(&GRADE, idx, &self.originals[idx].response, &drafts[idx]);
        let texts = places.iter().map(text).collect();
        let answers = asking.check("grading the originals", texts, SCORE, |_, reply| score(reply))?;
        fates.take(GRADING, &places, answers, |idx, score| {
            drafts[idx].original_score = score;
            if self.is_better(idx, MAX_SCORE, score) {
                return Ok(());
            }
            let reason = "no response can be better by `rewrite.min_margin`";
            Err(Dropped::new(GRADING, reason).with_detail(score.to_string()))
        });
        Ok(())
    }

    /// Rewrites what is not accepted yet, and grades it. A reply that cannot be used fails the round, not the unit.
    fn rewrite_and_grade(
        &self,
        round: u64,
        drafts: &mut [Draft],
        asking: &mut Asking<'_>,
        fates: &Fates,
    ) -> Result<(), StageError> {
        let mut places = fates.open();
        places.retain(|&idx| !drafts[idx].is_accepted);
        let question = |&idx: &usize| {
            Question::new(self.text(&REWRITE, idx, &self.originals[idx].response, &drafts[idx]), round)
        };
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| tagged(reply, "response").map(str::to_owned);
        let answers = asking.write("rewriting responses", questions, REWRITE_FORM, read)?;
        if asking.is_stopped() {
            return Ok(());
        }
        let mut rewritten = Vec::new();
        for (idx, answer) in places.into_iter().zip(answers) {
            let Original { response: original, reference, .. } = &self.originals[idx];
            let usable = answer.and_then(|response| {
                check_new(&response, original, reference.as_deref())?;
                Ok(response)
            });
            let draft = &mut drafts[idx];
            draft.n_rewrites += 1;
            match usable {
                Ok(response) => {
                    draft.response = response;
                    rewritten.push(idx);
                }
                Err(problem) => draft.problem = Some(problem),
            }
        }
        let text = |&idx: &usize| self.text(&GRADE, idx, &drafts[idx].response, &drafts[idx]);
        let texts = rewritten.iter().map(text).collect();
        let answers = asking.check("grading the new responses", texts, SCORE, |_, reply| score(reply))?;
        for (idx, answer) in rewritten.into_iter().zip(answers) {
            let draft = &mut drafts[idx];
            match answer {
                Ok(score) => {
                    draft.score = Some(score);
                    draft.is_accepted = self.is_better(idx, score, draft.original_score);
                    let problem = "no new response is better by `rewrite.min_margin`";
                    draft.problem = (!draft.is_accepted).then(|| problem.to_owned());
                }
                Err(reason) => draft.problem = Some(reason),
            }
        }
        Ok(())
    }

    /// Whether a new response with its score is better than the original. One that has the reference answer is, where
    /// the original does not.
    fn is_better(&self, idx: usize, score: f64, original_score: f64) -> bool {
        let Original { response, reference, .. } = &self.originals[idx];
        let was_wrong = reference.as_ref().is_some_and(|reference| !is_right(response, reference));
        was_wrong || score - original_score >= self.settings.min_margin
    }

    fn row(&self, idx: usize, draft: Draft) -> Built {
        let Original { response: original, reference, .. } = &self.originals[idx];
        if !draft.is_accepted {
            let problem = draft.problem.unwrap_or_else(|| "nothing was rewritten".into());
            let dropped = Dropped::new(REWRITING, problem);
            return Err(match draft.score {
                Some(score) => dropped.with_detail(format!("{score} of 10, before {}", draft.original_score)),
                None => dropped,
            });
        }
        let mut columns = Map::from_iter([
            ("original_response".to_owned(), json!(original)),
            ("faults".to_owned(), json!(draft.faults)),
            ("critique".to_owned(), json!(draft.critique)),
            ("score".to_owned(), json!(draft.score)),
            ("original_score".to_owned(), json!(draft.original_score)),
            ("n_rewrites".to_owned(), json!(draft.n_rewrites)),
        ]);
        columns.extend(reference.as_ref().map(|reference| ("answer".to_owned(), json!(reference))));
        let (prompt, response) = (self.units[idx].text.clone(), Some(draft.response));
        Ok(BuiltRow { prompt, response, columns, ..BuiltRow::default() })
    }
}

impl Job for RewriteJob {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn calls(&self) -> Vec<PlannedCalls> {
        let open: Vec<usize> = Fates::of(&self.units).open();
        // Critiques and new responses are not known; the originals are used for the latter.
        let bytes = |text: &PromptText| -> u64 {
            let of =
                |idx: &usize| self.text(text, *idx, &self.originals[*idx].response, &Draft::default()).len();
            open.iter().map(|idx| of(idx) as u64).sum()
        };
        let planned =
            |step, rounds, text: &PromptText| PlannedCalls::in_rounds(step, open.len(), rounds, bytes(text));
        let rounds = self.settings.max_rewrites;
        vec![
            planned("looking for faults", 1, &FIND),
            planned("grading the originals", 1, &GRADE),
            planned("rewriting responses", rounds, &REWRITE),
            planned("grading the new responses", rounds, &GRADE),
        ]
    }

    fn build(&self, asking: &mut Asking<'_>) -> Result<Option<Vec<Built>>, StageError> {
        let mut fates = Fates::of(&self.units);
        let mut drafts = vec![Draft::default(); self.units.len()];
        self.find_faults(&mut drafts, asking, &mut fates)?;
        if asking.is_stopped() {
            return Ok(None);
        }
        self.grade_originals(&mut drafts, asking, &mut fates)?;
        for round in 0..self.settings.max_rewrites as u64 {
            if asking.is_stopped() {
                return Ok(None);
            }
            self.rewrite_and_grade(round, &mut drafts, asking, &fates)?;
        }
        if asking.is_stopped() {
            return Ok(None);
        }
        Ok(Some(fates.finish(|idx| self.row(idx, std::mem::take(&mut drafts[idx])))))
    }

    /// The response is another one than the original, does not speak of it, is better by what is written, and has the
    /// reference answer.
    fn recheck(&self, record: &Map<String, Value>) -> Result<(), String> {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        let number =
            |key: &str| record.get(key).and_then(Value::as_f64).ok_or_else(|| format!("`{key}` is missing"));
        let (response, original) = (text("response"), text("original_response"));
        let reference = record.get("answer").and_then(Value::as_str);
        check_new(response, original, reference)?;
        let was_wrong = reference.is_some_and(|reference| !is_right(original, reference));
        let margin = number("score")? - number("original_score")?;
        match was_wrong || margin >= self.settings.min_margin {
            true => Ok(()),
            false => Err(format!("the score rises by {margin} alone")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_from_their_line_or_as_the_reward_does() {
        for (response, expected) in [
            ("We add.\nAnswer: 12", true),
            (r"We add, so $\boxed{12}$.", true),
            ("The answer is 12.", true),
            ("We add.\nAnswer: 13", false),
            ("We add.\nAnswer: 12 apples", true),
            ("We add, so $\\boxed{12}$.\nAnswer: 13", false),
            ("I do not know.", false),
        ] {
            assert_eq!(is_right(response, "12"), expected, "{response}");
        }
    }

    #[test]
    fn a_new_response_is_another_one_that_does_not_speak_of_the_first() {
        let check = |response| check_new(response, "Sorry.  It is 13.", Some("12"));
        assert_eq!(check("The answer is 12."), Ok(()));
        assert_eq!(check("Sorry. It is\n13."), Err("the new response is the original"));
        let reason = "the new response speaks of an earlier one";
        assert_eq!(check("Unlike the previous response: the answer is 12."), Err(reason));
        assert_eq!(check("The answer is 13 indeed."), Err("no new response has the reference answer"));
        // Where the original speaks of one, the prompt has asked for that.
        let original = "The original response is too long.";
        assert_eq!(check_new("The original response is long.", original, None), Ok(()));
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        RewriteConfig::default().check().unwrap();
        let refused = |config: RewriteConfig| config.check().unwrap_err().to_string();
        let margin = RewriteConfig { min_margin: f64::NAN, ..RewriteConfig::default() };
        assert!(refused(margin).starts_with("`rewrite.min_margin` is NaN"));
        let empty = RewriteConfig { faults: vec![" ".into()], ..RewriteConfig::default() };
        assert!(refused(empty).contains("rewrite.faults"));
    }
}
