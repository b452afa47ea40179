//! Reasoning (report 4.3): questions of seven kinds, balanced, with chains of thought whose final answers are checked.
//!
//! 1. Without `[[data]]` the writer makes questions with their answers, the kinds in turn. With `[[data]]` the rows
//!    are questions with reference answers.
//! 2. The checker answers each question `n_answers` times, independently and without seeing the reference, with a
//!    chain of thought. Final answers are compared by a program, and by the checker where the program finds them
//!    different.
//! 3. A new question is dropped if no independent answer agrees with the writer's, or if more of them agree on another
//!    answer. The share that agrees is the pass rate.
//! 4. Reflection: where an answer is wrong, the writer is given it with the reference, and writes a correct chain that
//!    mentions neither. That chain is the response; otherwise an independent answer that agrees is.
//! 5. Of questions that are always answered right, the surplus over `max_easy_share` is dropped, before the recheck and
//!    the screening of all builders.

mod answers;
mod config;
mod kinds;
mod work;

use std::collections::BTreeMap;

use rand_chacha::rand_core::Rng;
use serde_json::{Map, Value, json};
use truing_reward::checklist::read_verdicts;
use truing_stages::StageError;
use truing_types::Seed;

use super::asking::{Asking, Question};
use super::builder::{BuilderInfo, Built, BuiltRow, Dropped, Fates, Job, PlannedCalls, Unit};
use super::config::BuildConfig;
use super::inputs::{SEED, SeedRow};
use super::responding::VERDICTS;
use super::texts::{PromptText, prompt_text, tagged};
pub(super) use answers::{final_answer, is_same, mentions_attempt};
pub use config::ReasoningConfig;
pub use kinds::ReasoningKind;
use kinds::SETTINGS;
use work::{Solution, Work, mentions};

/// How the builder is listed.
pub(super) const INFO: BuilderInfo = BuilderInfo {
    name: "reasoning",
    about: "questions of seven kinds of reasoning, with chains of thought whose answers are checked",
    seeds: "questions with an `answer`; without data the writer makes questions",
    asks: "the writer for questions and corrected chains, the checker for independent answers",
    works_without_data: true,
    prepare,
};

const QUESTION: PromptText = prompt_text!("question");
const REASON: PromptText = prompt_text!("reason");
const SAME: PromptText = prompt_text!("same_answer");
const REFLECT: PromptText = prompt_text!("reflect");

const QUESTION_FORM: (&str, &str) = (
    "a question and an answer",
    "Your reply lacks the question between <question> and </question>, or its answer between <answer> and </answer>. \
     Write both, with the tags.",
);
const ANSWER_FORM: (&str, &str) = (
    "a final answer",
    "Your reply does not end with a final answer. Answer the question, and end with a line of the form `Answer: ...`.",
);

/// Longer answers of the writer are sentences, which cannot be compared.
const MAX_ANSWER_CHARACTERS: usize = 120;

/// The step that writes questions.
const WRITING: &str = "question";
/// The step that compares independent answers with the reference.
const AGREEMENT: &str = "agreement";
/// The step that rewrites wrong answers.
const REFLECTION: &str = "reflection";
/// The step that drops easy questions.
const DIFFICULTY: &str = "difficulty";

/// What a question is made from.
#[derive(Debug, Clone, PartialEq)]
enum Origin {
    /// A kind and a setting; `variant` counts the questions of both before this one.
    New { kind: ReasoningKind, setting: usize, variant: usize },
    /// A row with its reference answer.
    Row { answer: String },
}

/// Units with what each is made from.
#[derive(Debug)]
struct ReasoningJob {
    settings: ReasoningConfig,
    units: Vec<Unit>,
    origins: Vec<Origin>,
}

fn prepare(config: &BuildConfig, seeds: &[SeedRow]) -> Result<Box<dyn Job>, StageError> {
    let settings = config.reasoning.clone().unwrap_or_default();
    settings.check()?;
    let is_sampled = config.data.is_empty() || settings.n_answers > 1 || settings.max_reflections > 1;
    if is_sampled {
        config.require_sampling(
            "above 0: without sampling, questions of one kind and answers to one question are alike",
        )?;
    }
    let job = match config.data.is_empty() {
        true => new_questions(settings, config.n_rows.unwrap_or(0), Seed(config.seed)),
        false => given_questions(settings, seeds),
    };
    Ok(Box::new(job))
}

/// Units of new questions: the kinds in turn, each in the settings in turn from a sampled one on.
fn new_questions(settings: ReasoningConfig, n_rows: usize, seed: Seed) -> ReasoningJob {
    let (n_kinds, n_languages) = (settings.kinds.len(), settings.languages.len());
    let first_setting = |kind: ReasoningKind| {
        let drawn = seed.generator("reasoning settings", &[kind as u64]).next_u64();
        (drawn % SETTINGS.len() as u64) as usize
    };
    let first_settings: Vec<usize> = settings.kinds.iter().map(|&kind| first_setting(kind)).collect();
    let (mut units, mut origins) = (Vec::new(), Vec::new());
    for row in 0..n_rows {
        let (kind, turn) = (settings.kinds[row % n_kinds], row / n_kinds);
        let setting = (first_settings[row % n_kinds] + turn) % SETTINGS.len();
        let variant = turn / SETTINGS.len();
        // Neighbours and repetitions of a setting are in different languages.
        let language = settings.languages[(turn + variant) % n_languages];
        units.push(Unit {
            text: format!("{}: {}", kind.code(), SETTINGS[setting][language as usize]),
            language,
            source: None,
            kept: Map::new(),
            kinds: vec![kind.code().to_owned()],
            dropped: None,
        });
        origins.push(Origin::New { kind, setting, variant });
    }
    ReasoningJob { settings, units, origins }
}

/// Units of rows with reference answers.
fn given_questions(settings: ReasoningConfig, seeds: &[SeedRow]) -> ReasoningJob {
    let (mut units, mut origins) = (Vec::new(), Vec::new());
    for seed in seeds {
        let kind = seed.columns.get(&settings.kind_column).and_then(Value::as_str);
        let kind = kind.and_then(ReasoningKind::find);
        let mut unit = seed.unit(kind.map(|kind| kind.code().to_owned()).into_iter().collect());
        let answer = given_answer(seed, &settings.answer_column);
        if !is_comparable(&answer) {
            let reason = "no short answer in `reasoning.answer_column`";
            unit.dropped.get_or_insert(Dropped::new(SEED, reason));
        }
        units.push(unit);
        origins.push(Origin::Row { answer });
    }
    ReasoningJob { settings, units, origins }
}

/// The reference answer in a column: the labelled one, or the whole text; empty where there is none.
pub(super) fn given_answer(seed: &SeedRow, column: &str) -> String {
    seed.text_at(column).map(|text| final_answer(&text).unwrap_or(text)).unwrap_or_default()
}

/// Whether an answer is short, and equal to itself at least.
pub(super) fn is_comparable(answer: &str) -> bool {
    answer.chars().count() <= MAX_ANSWER_CHARACTERS && is_same(answer, answer)
}

impl ReasoningJob {
    fn write_question(&self, idx: usize) -> Question {
        let language = self.units[idx].language;
        let (about, setting, variant) = match &self.origins[idx] {
            Origin::New { kind, setting, variant } => {
                (kind.about(language), SETTINGS[*setting][language as usize], *variant)
            }
            Origin::Row { .. } => ("", "", 0),
        };
        let number = (variant + 1).to_string();
        let values = [("{kind}", about), ("{setting}", setting), ("{variant}", number.as_str())];
        Question::new(QUESTION.fill(language, &values), variant as u64)
    }

    fn reason_question(&self, idx: usize, question: &str) -> String {
        REASON.fill(self.units[idx].language, &[("{question}", question)])
    }

    fn same_question(&self, idx: usize, work: &Work, other: &str) -> String {
        let values =
            [("{question}", work.question.as_str()), ("{answer}", work.answer.as_str()), ("{other}", other)];
        SAME.fill(self.units[idx].language, &values)
    }

    fn reflect_question(&self, idx: usize, work: &Work) -> String {
        let response = work.wrong().map_or("", |wrong| wrong.text.as_str());
        let values = [
            ("{question}", work.question.as_str()),
            ("{answer}", work.answer.as_str()),
            ("{response}", response),
        ];
        REFLECT.fill(self.units[idx].language, &values)
    }

    fn is_new(&self, idx: usize) -> bool {
        matches!(self.origins[idx], Origin::New { .. })
    }

    /// Questions and answers: of the rows, or written by the model.
    fn questions(&self, asking: &mut Asking<'_>, fates: &mut Fates) -> Result<Vec<Work>, StageError> {
        let work = |(unit, origin): (&Unit, &Origin)| match origin {
            Origin::Row { answer } => {
                Work { question: unit.text.clone(), answer: answer.clone(), ..Work::default() }
            }
            Origin::New { .. } => Work::default(),
        };
        let mut works: Vec<Work> = self.units.iter().zip(&self.origins).map(work).collect();
        let places: Vec<usize> = fates.open().into_iter().filter(|&idx| self.is_new(idx)).collect();
        let questions = places.iter().map(|&idx| self.write_question(idx)).collect();
        let read = |_: usize, reply: &str| {
            Some((tagged(reply, "question")?.to_owned(), tagged(reply, "answer")?.to_owned()))
        };
        let answers = asking.write("writing questions", questions, QUESTION_FORM, read)?;
        fates.take(WRITING, &places, answers, |idx, (question, answer)| {
            if !is_comparable(&answer) {
                return Err(Dropped::new(WRITING, "the answer is not a short one").with_detail(answer));
            }
            (works[idx].question, works[idx].answer) = (question, answer);
            Ok(())
        });
        Ok(works)
    }

    /// Independent answers to every question.
    fn solve(
        &self,
        works: &mut [Work],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let (places, n_answers) = (fates.open(), self.settings.n_answers);
        let mut questions = Vec::new();
        for &idx in &places {
            let text = self.reason_question(idx, &works[idx].question);
            questions.extend((0..n_answers as u64).map(|variation| Question::new(text.clone(), variation)));
        }
        let read = |_: usize, reply: &str| {
            let answer = final_answer(reply)?;
            Some(Solution { text: reply.trim().to_owned(), answer, is_right: false })
        };
        let mut answers = asking.answer("answering questions", questions, ANSWER_FORM, read)?.into_iter();
        for idx in places {
            let (mut solutions, mut reason) = (Vec::new(), None);
            for answer in answers.by_ref().take(n_answers) {
                match answer {
                    Ok(solution) => solutions.push(solution),
                    Err(why) => reason = Some(why),
                }
            }
            if let (true, Some(reason)) = (solutions.is_empty(), reason) {
                fates.drop_unit(idx, Dropped::new(AGREEMENT, reason));
            }
            works[idx].solutions = solutions;
        }
        Ok(())
    }

    /// Compares the independent answers with the reference. Those without a verdict are neither right nor wrong.
    fn compare(
        &self,
        works: &mut [Work],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let places = fates.open();
        let mut different: Vec<(usize, String)> = Vec::new();
        for &idx in &places {
            for Solution { answer, .. } in &works[idx].solutions {
                let is_asked = different.iter().any(|(place, other)| *place == idx && is_same(other, answer));
                if !works[idx].accepts(answer) && !is_asked {
                    different.push((idx, answer.clone()));
                }
            }
        }
        let texts =
            different.iter().map(|(idx, other)| self.same_question(*idx, &works[*idx], other)).collect();
        let read = |_: usize, reply: &str| read_verdicts(reply, 1).map(|verdicts| verdicts[0]);
        let verdicts = asking.check("comparing answers", texts, VERDICTS, read)?;
        for ((idx, other), verdict) in different.into_iter().zip(verdicts) {
            let work = &mut works[idx];
            match verdict {
                Ok(true) => work.same_answers.push(other),
                Ok(false) => {}
                Err(_) => work.solutions.retain(|solution| !is_same(&solution.answer, &other)),
            }
        }
        for idx in places {
            let mut solutions = std::mem::take(&mut works[idx].solutions);
            for solution in &mut solutions {
                solution.is_right = works[idx].accepts(&solution.answer);
            }
            works[idx].solutions = solutions;
            if let Err(dropped) = self.agreement(idx, &works[idx]) {
                fates.drop_unit(idx, dropped);
            }
        }
        Ok(())
    }

    /// Whether the independent answers speak for the reference. That of a row is taken for right.
    fn agreement(&self, idx: usize, work: &Work) -> Result<(), Dropped> {
        let n_right = work.n_right();
        let detail = || {
            let found: Vec<&str> = work.solutions.iter().map(|solution| solution.answer.as_str()).collect();
            format!("{} instead of {}", found.join(", "), work.answer)
        };
        let reason = if work.solutions.is_empty() {
            "no independent answer could be compared"
        } else if n_right == 0 && (self.is_new(idx) || self.settings.max_reflections == 0) {
            "no independent answer agrees with the reference"
        } else if self.is_new(idx) && work.n_of_largest_other() > n_right {
            "more independent answers agree on another answer"
        } else {
            return Ok(());
        };
        Err(Dropped::new(AGREEMENT, reason).with_detail(detail()))
    }

    /// One round of corrected chains for wrong answers without one.
    fn reflect(
        &self,
        round: u64,
        works: &mut [Work],
        asking: &mut Asking<'_>,
        fates: &Fates,
    ) -> Result<(), StageError> {
        let is_open = |idx: &usize| works[*idx].wrong().is_some() && works[*idx].reflection.is_none();
        let places: Vec<usize> = fates.open().into_iter().filter(is_open).collect();
        let question = |&idx: &usize| Question::new(self.reflect_question(idx, &works[idx]), round);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| Some((final_answer(reply)?, reply.trim().to_owned()));
        let answers = asking.write("correcting wrong answers", questions, ANSWER_FORM, read)?;
        for (idx, answer) in places.into_iter().zip(answers) {
            // A question without a corrected chain may have an independent answer that is right.
            let corrected = answer.ok().filter(|(found, text)| works[idx].accepts(found) && !mentions(text));
            works[idx].reflection = corrected.map(|(_, text)| text);
        }
        Ok(())
    }

    /// Drops questions without a response, and the surplus of those that every independent answer has right.
    fn drop_easy(&self, works: &[Work], fates: &mut Fates) {
        for idx in fates.open() {
            if works[idx].response().is_none() {
                let reason = "no chain reaches the reference without speaking of it";
                fates.drop_unit(idx, Dropped::new(REFLECTION, reason));
            }
        }
        let (easy, others): (Vec<usize>, Vec<usize>) =
            fates.open().into_iter().partition(|&idx| works[idx].wrong().is_none());
        let share = self.settings.max_easy_share;
        // At most `most` of `most + others.len()` rows; the small number is for shares such as 0.7 that are not exact.
        let most = if share < 1.0 {
            (others.len() as f64 * share / (1.0 - share) + 1e-9) as usize
        } else {
            easy.len()
        };
        for &idx in easy.iter().skip(most) {
            let reason = "more questions that every answer has right than `reasoning.max_easy_share`";
            fates.drop_unit(idx, Dropped::new(DIFFICULTY, reason));
        }
    }

    fn row(&self, idx: usize, work: &Work) -> Built {
        let Some((response, is_corrected)) = work.response() else {
            return Err(Dropped::new(REFLECTION, "no response"));
        };
        let mut columns = Map::from_iter([
            ("answer".to_owned(), json!(work.answer)),
            ("pass_rate".to_owned(), json!(work.pass_rate())),
            ("n_answers".to_owned(), json!(work.solutions.len())),
            ("is_reflection".to_owned(), json!(is_corrected)),
        ]);
        columns.extend(self.units[idx].kinds.first().map(|kind| ("reasoning_kind".to_owned(), json!(kind))));
        if !work.same_answers.is_empty() {
            columns.insert("same_answers".into(), json!(work.same_answers));
        }
        columns.extend(work.wrong().map(|wrong| ("wrong_response".to_owned(), json!(wrong.text))));
        let (prompt, response) = (work.question.clone(), Some(response.to_owned()));
        Ok(BuiltRow { prompt, response, has_reward_columns: true, columns, ..BuiltRow::default() })
    }
}

impl Job for ReasoningJob {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The kinds of new questions equally often.
    fn targets(&self) -> BTreeMap<String, usize> {
        if !self.origins.iter().any(|origin| matches!(origin, Origin::New { .. })) {
            return BTreeMap::new();
        }
        let kinds = &self.settings.kinds;
        let share = self.units.len() / kinds.len();
        kinds.iter().map(|kind| (kind.code().to_owned(), share)).collect()
    }

    fn calls(&self) -> Vec<PlannedCalls> {
        let open: Vec<usize> = Fates::of(&self.units).open();
        let sum = |of: &dyn Fn(usize) -> usize| open.iter().map(|&idx| of(idx) as u64).sum::<u64>();
        let is_new = self.origins.iter().any(|origin| matches!(origin, Origin::New { .. }));
        let (n, n_answers) = (open.len() as u64, self.settings.n_answers as u64);
        let rounds = self.settings.max_reflections as u64;
        // New questions and wrong answers are not known; their tokens are those of the completions.
        let length = |idx: usize| if is_new { 0 } else { self.units[idx].text.len() };
        let empty = Work::default();
        let reasoned = sum(&|idx| self.reason_question(idx, "").len() + length(idx));
        let compared = sum(&|idx| self.same_question(idx, &empty, "").len() + length(idx));
        let corrected = sum(&|idx| self.reflect_question(idx, &empty).len() + length(idx));
        let written = if is_new { sum(&|idx| self.write_question(idx).text.len()) } else { 0 };
        let n_written = if is_new { n } else { 0 };
        let n_solved = n.saturating_mul(n_answers);
        let steps = [
            ("writing questions", n_written, n_written, written),
            ("answering questions", n_solved, n_solved, reasoned.saturating_mul(n_answers)),
            ("comparing answers", 0, n_solved, compared.saturating_mul(n_answers)),
            ("correcting wrong answers", 0, n.saturating_mul(rounds), corrected.saturating_mul(rounds)),
        ];
        PlannedCalls::of_steps(steps)
    }

    fn build(&self, asking: &mut Asking<'_>) -> Result<Option<Vec<Built>>, StageError> {
        let mut fates = Fates::of(&self.units);
        let mut works = self.questions(asking, &mut fates)?;
        if asking.is_stopped() {
            return Ok(None);
        }
        self.solve(&mut works, asking, &mut fates)?;
        if asking.is_stopped() {
            return Ok(None);
        }
        self.compare(&mut works, asking, &mut fates)?;
        for round in 0..self.settings.max_reflections as u64 {
            if asking.is_stopped() {
                return Ok(None);
            }
            self.reflect(round, &mut works, asking, &fates)?;
        }
        self.drop_easy(&works, &mut fates);
        Ok(Some(fates.finish(|idx| self.row(idx, &works[idx]))))
    }

    /// The final answer is the reference, or one that was found the same; nothing is spoken of that the reader does not
    /// know.
    fn recheck(&self, record: &Map<String, Value>) -> Result<(), String> {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        let found = final_answer(text("response")).ok_or("the response has no final answer")?;
        let same = record.get("same_answers").and_then(Value::as_array);
        let same = same.into_iter().flatten().filter_map(Value::as_str);
        if !std::iter::once(text("answer")).chain(same).any(|accepted| is_same(&found, accepted)) {
            return Err(format!("the final answer is {found}, not the reference answer"));
        }
        match mentions(text("response")) {
            true => Err("the response speaks of a reference or of an earlier answer".into()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use truing_ask::pas::Language;

    use super::*;

    fn solution(answer: &str, is_right: bool) -> Solution {
        Solution { text: format!("I think so.\nAnswer: {answer}"), answer: answer.into(), is_right }
    }

    #[test]
    fn new_questions_cover_kinds_evenly_and_no_question_is_asked_twice() {
        let job = new_questions(ReasoningConfig::default(), 7 * 60, Seed(1));
        let mut n_of_kind: BTreeMap<&str, usize> = BTreeMap::new();
        job.units.iter().for_each(|unit| *n_of_kind.entry(&unit.kinds[0]).or_default() += 1);
        assert_eq!(n_of_kind.values().copied().collect::<Vec<_>>(), [60; 7]);
        let n_chinese = job.units.iter().filter(|unit| unit.language == Language::Zh).count();
        assert!((200..=220).contains(&n_chinese), "{n_chinese}");
        let texts: BTreeSet<String> = (0..job.units.len()).map(|idx| job.write_question(idx).text).collect();
        assert_eq!(texts.len(), job.units.len());
    }

    #[test]
    fn answers_that_agree_on_something_else_speak_against_a_written_reference() {
        let job = new_questions(ReasoningConfig::default(), 1, Seed(1));
        let reason = |solutions: Vec<Solution>| {
            let work = Work { answer: "Ada".into(), solutions, ..Work::default() };
            job.agreement(0, &work).err().map(|dropped| dropped.reason)
        };
        let (right, wrong) = (solution("Ada", true), solution("Bea", false));
        assert_eq!(reason(vec![right.clone(), wrong.clone(), solution("Cleo", false)]), None);
        let other = reason(vec![right, wrong.clone(), wrong.clone()]);
        assert_eq!(other.as_deref(), Some("more independent answers agree on another answer"));
        let none = reason(vec![wrong, solution("Cleo", false)]);
        assert_eq!(none.as_deref(), Some("no independent answer agrees with the reference"));
        assert_eq!(reason(Vec::new()).as_deref(), Some("no independent answer could be compared"));
    }

    #[test]
    fn easy_questions_keep_their_share() {
        let settings = ReasoningConfig { max_easy_share: 0.75, ..ReasoningConfig::default() };
        let job = new_questions(settings, 10, Seed(1));
        let work = |idx: usize| {
            let solutions = vec![solution("Ada", true), solution("Bea", idx != 3)];
            Work { answer: "Ada".into(), solutions, ..Work::default() }
        };
        let works: Vec<Work> = (0..10).map(work).collect();
        let mut fates = Fates::of(&job.units);
        job.drop_easy(&works, &mut fates);
        assert_eq!(fates.open(), [0, 1, 2, 3]);
    }

    #[test]
    fn the_check_of_a_row_wants_the_reference_or_its_equal() {
        let job = new_questions(ReasoningConfig::default(), 1, Seed(1));
        let check = |response: &str| {
            let record =
                json!({"response": response, "answer": "her aunt", "same_answers": ["the aunt of Ada"]});
            job.recheck(record.as_object().unwrap())
        };
        assert_eq!(check("Her mother's sister.\nAnswer: Her aunt."), Ok(()));
        assert_eq!(check("Her mother's sister.\nAnswer: aunt of Ada"), Ok(()));
        assert!(check("Answer: her mother").unwrap_err().contains("her mother"));
        assert!(check("Her aunt.").is_err());
        assert!(check("The reference answer is right.\nAnswer: her aunt").is_err());
    }
}
