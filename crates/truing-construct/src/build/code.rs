//! Code (report 4.4): tasks of five categories in ten languages, with responses that are run where they can be.
//!
//! 1. The writer writes a task of a category, a language, a difficulty and a topic, all balanced; for Python programs
//!    also a solution and tests.
//! 2. Python: the solution must pass the tests, the faulty program of a debugging task must not, and enough variants of
//!    the solution with one fault (`mutants.rs`) must fail, all in the sandbox.
//! 3. The writer answers the task. Programs must be in a fence, and those in Python must pass the tests. The checker
//!    verifies task and response, and says how difficult the task is; very hard tasks are dropped. What fails is
//!    answered again, at most `max_responses` times.
//! 4. The writer adds a deeper question and its answer, which the checker verifies. A row whose second half fails is
//!    kept without it.
//!
//! Programs in other languages are not run: the checker reads them. The coverage table counts them apart.

mod config;
mod draft;
mod kinds;
mod mutants;
mod runner;

use std::collections::BTreeMap;
use std::sync::Mutex;

use rand_chacha::rand_core::Rng;
use serde_json::{Map, Value, json};
use truing_reward::checklist::read_verdicts;
use truing_run::RunError;
use truing_stages::StageError;
use truing_types::Seed;

use super::asking::{Asking, Question};
use super::builder::{BuilderInfo, Built, BuiltRow, Dropped, Fates, Job, PlannedCalls, Unit};
use super::config::BuildConfig;
use super::inputs::SeedRow;
use super::responding::VERDICTS;
use super::texts::{PromptText, prompt_text, tagged};
pub use config::CodeConfig;
use draft::{Draft, Spec, Task, fenced, has_fence, prompt_language};
use kinds::TOPICS;
pub use kinds::{CodeCategory, CodeDifficulty, ProgrammingLanguage};
use mutants::mutants;
use runner::{Runner, Trial};

/// How the builder is listed.
pub(super) const INFO: BuilderInfo = BuilderInfo {
    name: "code",
    about: "programming tasks of five categories with responses; Python is run with tests",
    seeds: "code or topics that tasks are about; without data the writer makes tasks",
    asks: "the writer for tasks, responses and deeper questions, the checker to verify them",
    works_without_data: true,
    prepare,
};

const TASK: PromptText = prompt_text!("code_task");
const REVIEW: PromptText = prompt_text!("review_code");
const FOLLOW_UP: PromptText = prompt_text!("follow_up");
const REVIEW_FOLLOW_UP: PromptText = prompt_text!("review_follow_up");

const TASK_FORM: (&str, &str) = (
    "every part of a task",
    "Your reply lacks a part of the task. Write all of them, each between its tags.",
);
const RESPONSE_FORM: (&str, &str) = ("a response", "Your reply is empty. Answer the request.");
const REVIEW_FORM: (&str, &str) = (
    "a difficulty and a verdict on each question",
    "Your reply lacks the difficulty, a number from 1 to 4 between <difficulty> and </difficulty>, or does not end \
      with one verdict for each question, YES or NO, in double brackets. Write both.",
);
const FOLLOW_UP_FORM: (&str, &str) = (
    "a deeper question and an answer",
    "Your reply lacks the question between <follow_up> and </follow_up>, or its answer between <answer> and </answer>. \
     Write both, with the tags.",
);

/// Verdicts on a task and its response, and on a deeper question and its answer.
const N_VERDICTS: usize = 4;
const N_FOLLOW_UP_VERDICTS: usize = 3;

const WRITING: &str = "task";
const TESTING: &str = "tests";
const RESPONDING: &str = "response";
const REVIEWING: &str = "review";

/// Why a response without the program that is wanted is not used.
const NO_FENCE: &str = "the response has no code in a fence";

/// Units with what each is to be.
#[derive(Debug)]
struct CodeJob {
    settings: CodeConfig,
    seed: Seed,
    units: Vec<Unit>,
    specs: Vec<Spec>,
    /// What ran Python, kept for the check of the rows.
    runner: Mutex<Option<Runner>>,
}

fn prepare(config: &BuildConfig, seeds: &[SeedRow]) -> Result<Box<dyn Job>, StageError> {
    let settings = config.code.clone().unwrap_or_default();
    settings.check()?;
    config.require_sampling("above 0: without sampling, tasks of one topic are alike")?;
    let seed = Seed(config.seed);
    let drawn = seed.generator("code topics", &[]).next_u64();
    let first_topic = (drawn % TOPICS.len() as u64) as usize;
    let (mut units, mut specs, mut n_used) = (Vec::new(), Vec::new(), 0);
    for seed_row in seeds {
        let spec = Spec::of(&settings, n_used, usize::MAX);
        n_used += usize::from(seed_row.dropped.is_none());
        units.push(seed_row.unit(spec.kinds()));
        specs.push(spec);
    }
    let n_new = if config.data.is_empty() { config.n_rows.unwrap_or(0) } else { 0 };
    for row in 0..n_new {
        let spec = Spec::of(&settings, row, TOPICS.len());
        let language = prompt_language(&settings, row);
        units.push(Unit {
            text: TOPICS[(first_topic + row) % TOPICS.len()][language as usize].to_owned(),
            language,
            source: None,
            kept: Map::new(),
            kinds: spec.kinds(),
            dropped: None,
        });
        specs.push(spec);
    }
    Ok(Box::new(CodeJob { settings, seed, units, specs, runner: Mutex::new(None) }))
}

/// What is wrong with a task and its response, by the first verdict that is a no.
fn reason_of(verdicts: &[bool]) -> Option<&'static str> {
    let reasons = [
        "the task is not clear, or not of its category and language",
        "the response does not do what the task asks",
        "the response is wrong",
        "the response is poor code or poorly explained",
    ];
    Some(reasons[verdicts.iter().position(|is_yes| !is_yes)?])
}

impl CodeJob {
    fn task_question(&self, idx: usize) -> Question {
        let (unit, spec) = (&self.units[idx], self.specs[idx]);
        let number = (spec.variant + 1).to_string();
        let values = [
            ("{category}", spec.category.about(unit.language)),
            ("{language}", spec.language.name()),
            ("{difficulty}", spec.difficulty.name(unit.language)),
            ("{topic}", &unit.text),
            ("{parts}", &spec.outline(unit.language)),
            ("{variant}", &number),
        ];
        Question::new(TASK.fill(unit.language, &values), spec.variant as u64)
    }

    /// Fills a text about a task and its response.
    fn question(&self, text: &PromptText, idx: usize, draft: &Draft, response: &str) -> String {
        let (unit, spec) = (&self.units[idx], self.specs[idx]);
        let (follow_up, answer) = draft
            .follow_up
            .as_ref()
            .map_or(("", ""), |(question, answer)| (question.as_str(), answer.as_str()));
        let values = [
            ("{category}", spec.category.about(unit.language)),
            ("{language}", spec.language.name()),
            ("{task}", &draft.task.prompt),
            ("{response}", response),
            ("{follow_up}", follow_up),
            ("{answer}", answer),
        ];
        text.fill(unit.language, &values)
    }

    /// What runs Python; `None` where nothing is run.
    ///
    /// # Errors
    /// When something is to be run, and nothing can be.
    fn runner(&self, asking: &Asking<'_>) -> Result<Option<Runner>, StageError> {
        let open = Fates::of(&self.units).open();
        if !open.into_iter().any(|idx| self.specs[idx].has_tests()) {
            return Ok(None);
        }
        let mut runner = Runner::new(&self.settings.interpreter, asking.sandbox_program)?;
        runner.probe().map_err(|why| {
            let expected =
                format!("a machine on which Python runs in the sandbox, or other languages: {why}");
            RunError::BadSetting { key: "code.languages", found: "`python`".into(), expected }
        })?;
        Ok(Some(runner))
    }

    fn write_tasks(&self, asking: &mut Asking<'_>, fates: &mut Fates) -> Result<Vec<Draft>, StageError> {
        let mut drafts = vec![Draft::default(); self.units.len()];
        let places = fates.open();
        let questions = places.iter().map(|&idx| self.task_question(idx)).collect();
        let read = |at: usize, reply: &str| Task::read(reply, self.specs[places[at]]);
        let answers = asking.write("writing tasks", questions, TASK_FORM, read)?;
        fates.take(WRITING, &places, answers, |idx, task| {
            drafts[idx].task = task;
            Ok(())
        });
        Ok(drafts)
    }

    /// Drops tasks whose tests the solution fails, or that pass what is faulty. Everything is run at once.
    fn try_tests(&self, drafts: &mut [Draft], runner: &mut Runner, fates: &mut Fates) {
        let is_run = |idx: &usize| self.specs[*idx].has_tests();
        let places: Vec<usize> = fates.open().into_iter().filter(is_run).collect();
        let (mut trials, mut ends) = (Vec::new(), Vec::new());
        for &idx in &places {
            trials.extend(self.trials_of(idx, &drafts[idx].task));
            ends.push(trials.len());
        }
        let results = runner.run(&trials);
        let mut start = 0;
        for (idx, end) in places.into_iter().zip(ends) {
            let draft = &mut drafts[idx];
            match self.caught(idx, &results[start..end]) {
                Ok((n_mutants, n_caught)) => (draft.n_mutants, draft.n_caught) = (n_mutants, n_caught),
                Err(dropped) => fates.drop_unit(idx, dropped),
            }
            start = end;
        }
    }

    /// The solution, of a debugging task the faulty program, and faulty variants of the solution.
    fn trials_of(&self, idx: usize, task: &Task) -> Vec<Trial> {
        let mut generator = self.seed.generator("mutants", &[idx as u64]);
        let mut below = |n: usize| (generator.next_u64() % n.max(1) as u64) as usize;
        let faulty = task.given_code.clone().filter(|_| self.is_debugging(idx));
        let programs = std::iter::once(task.solution.clone()).chain(faulty);
        let programs = programs.chain(mutants(&task.solution, self.settings.max_mutants, &mut below));
        programs
            .map(|program| Trial {
                text: fenced(&program, ProgrammingLanguage::Python),
                tests: task.tests.clone(),
            })
            .collect()
    }

    fn is_debugging(&self, idx: usize) -> bool {
        self.specs[idx].category == CodeCategory::Debugging
    }

    /// The number of faulty variants, and how many of them fail a test; `results` are those of the trials.
    fn caught(&self, idx: usize, results: &[Result<bool, String>]) -> Result<(usize, usize), Dropped> {
        let dropped = |reason: &str| Dropped::new(TESTING, reason);
        let (solution, mut mutants) = results.split_first().ok_or_else(|| dropped("nothing was run"))?;
        match solution {
            Ok(true) => {}
            Ok(false) => return Err(dropped("the solution does not pass its tests")),
            Err(why) => return Err(dropped("the tests cannot be run").with_detail(why)),
        }
        if let (true, Some((faulty, others))) = (self.is_debugging(idx), mutants.split_first()) {
            if *faulty == Ok(true) {
                return Err(dropped("the faulty program passes the tests"));
            }
            mutants = others;
        }
        let n_caught = mutants.iter().filter(|passed| **passed == Ok(false)).count();
        if mutants.is_empty() {
            return Err(dropped("the solution has nothing that can be made faulty"));
        }
        let least = self.settings.min_caught_share * mutants.len() as f64;
        if n_caught == 0 || (n_caught as f64) < least {
            let detail = format!("{n_caught} of {} faulty variants fail a test", mutants.len());
            return Err(dropped("the tests do not notice faults").with_detail(detail));
        }
        Ok((mutants.len(), n_caught))
    }

    /// One response to every task without one; those without the code that is wanted are rejected, the others tested,
    /// then reviewed.
    fn respond(
        &self,
        round: u64,
        drafts: &mut [Draft],
        runner: Option<&mut Runner>,
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let is_open = |idx: &usize| drafts[*idx].response.is_none();
        let places: Vec<usize> = fates.open().into_iter().filter(is_open).collect();
        let question = |&idx: &usize| Question::new(drafts[idx].task.prompt.clone(), round);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| Some(reply.trim().to_owned()).filter(|text| !text.is_empty());
        let answers = asking.write("answering tasks", questions, RESPONSE_FORM, read)?;
        let mut responses: Vec<(usize, String)> = Vec::new();
        for (idx, answer) in places.into_iter().zip(answers) {
            match answer {
                Ok(response) if self.specs[idx].category.wants_program() && !has_fence(&response) => {
                    drafts[idx].rejected = Some(Dropped::new(RESPONDING, NO_FENCE));
                }
                Ok(response) => responses.push((idx, response)),
                Err(reason) => drafts[idx].rejected = Some(Dropped::new(RESPONDING, reason)),
            }
        }
        if asking.is_stopped() {
            return Ok(());
        }
        if let Some(runner) = runner {
            responses = self.passing(responses, drafts, runner);
        }
        self.review(responses, drafts, asking, fates)
    }

    /// The responses that pass the tests of their tasks, and those whose tasks have none.
    fn passing(
        &self,
        responses: Vec<(usize, String)>,
        drafts: &mut [Draft],
        runner: &mut Runner,
    ) -> Vec<(usize, String)> {
        let (tested, mut passing): (Vec<_>, Vec<_>) =
            responses.into_iter().partition(|(idx, _)| self.specs[*idx].has_tests());
        let trial = |(idx, response): &(usize, String)| Trial {
            text: response.clone(),
            tests: drafts[*idx].task.tests.clone(),
        };
        let trials: Vec<Trial> = tested.iter().map(trial).collect();
        for ((idx, response), result) in tested.into_iter().zip(runner.run(&trials)) {
            match result {
                Ok(true) => passing.push((idx, response)),
                _ => drafts[idx].rejected = Some(Dropped::new(RESPONDING, "no response passes the tests")),
            }
        }
        passing.sort_unstable_by_key(|(idx, _)| *idx);
        passing
    }

    fn review(
        &self,
        responses: Vec<(usize, String)>,
        drafts: &mut [Draft],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let texts =
            responses.iter().map(|(idx, response)| self.question(&REVIEW, *idx, &drafts[*idx], response));
        let texts = texts.collect();
        let read = |_: usize, reply: &str| {
            let difficulty = CodeDifficulty::of_number(tagged(reply, "difficulty")?)?;
            Some((difficulty, read_verdicts(reply, N_VERDICTS)?))
        };
        let answers = asking.check("reviewing tasks and responses", texts, REVIEW_FORM, read)?;
        for ((idx, response), answer) in responses.into_iter().zip(answers) {
            let draft = &mut drafts[idx];
            let reason = match answer {
                Ok((CodeDifficulty::VeryHard, _)) => {
                    fates.drop_unit(idx, Dropped::new(REVIEWING, "the task is very hard"));
                    continue;
                }
                Ok((difficulty, verdicts)) => {
                    draft.difficulty = Some(difficulty);
                    reason_of(&verdicts).map(str::to_owned)
                }
                Err(reason) => Some(reason),
            };
            match reason {
                None => draft.response = Some(response),
                Some(reason) => draft.rejected = Some(Dropped::new(REVIEWING, reason)),
            }
        }
        Ok(())
    }

    /// Adds deeper questions and their answers where both can be read and verified.
    fn follow_up(
        &self,
        drafts: &mut [Draft],
        asking: &mut Asking<'_>,
        fates: &Fates,
    ) -> Result<(), StageError> {
        let is_answered = |idx: &usize| drafts[*idx].response.is_some();
        let places: Vec<usize> = fates.open().into_iter().filter(is_answered).collect();
        let about = |text: &PromptText, idx: usize, draft: &Draft| {
            self.question(text, idx, draft, draft.response.as_deref().unwrap_or_default())
        };
        let question = |&idx: &usize| Question::new(about(&FOLLOW_UP, idx, &drafts[idx]), 0);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| {
            Some((tagged(reply, "follow_up")?.to_owned(), tagged(reply, "answer")?.to_owned()))
        };
        let answers = asking.write("writing deeper questions", questions, FOLLOW_UP_FORM, read)?;
        for (&idx, answer) in places.iter().zip(answers) {
            drafts[idx].follow_up = answer.ok();
        }
        if asking.is_stopped() {
            return Ok(());
        }
        let written: Vec<usize> = places.into_iter().filter(|&idx| drafts[idx].follow_up.is_some()).collect();
        let texts = written.iter().map(|&idx| about(&REVIEW_FOLLOW_UP, idx, &drafts[idx])).collect();
        let read = |_: usize, reply: &str| read_verdicts(reply, N_FOLLOW_UP_VERDICTS);
        let answers = asking.check("reviewing deeper questions", texts, VERDICTS, read)?;
        for (idx, answer) in written.into_iter().zip(answers) {
            let is_good = answer.is_ok_and(|verdicts| verdicts.iter().all(|is_yes| *is_yes));
            drafts[idx].follow_up = drafts[idx].follow_up.take().filter(|_| is_good);
        }
        Ok(())
    }

    fn row(&self, idx: usize, draft: Draft) -> Built {
        let (unit, spec) = (&self.units[idx], self.specs[idx]);
        let Draft { task, n_mutants, n_caught, response, difficulty, follow_up, rejected } = draft;
        let Some(response) = response else {
            return Err(rejected.unwrap_or_else(|| Dropped::new(RESPONDING, "no response")));
        };
        let mut columns = Map::from_iter([
            ("category".to_owned(), json!(spec.category)),
            ("programming_language".to_owned(), json!(spec.language)),
            ("difficulty".to_owned(), json!(difficulty)),
            ("topic".to_owned(), json!(unit.text)),
            ("has_follow_up".to_owned(), json!(follow_up.is_some())),
        ]);
        if spec.has_tests() {
            columns.extend([
                ("test".to_owned(), json!(task.tests)),
                ("solution".to_owned(), json!(task.solution)),
                ("n_mutants".to_owned(), json!(n_mutants)),
                ("n_caught".to_owned(), json!(n_caught)),
                // What the tests were run on; with a deeper question it is not the last turn.
                ("tested_response".to_owned(), json!(response)),
            ]);
        }
        let turn = |role: &str, text: &str| json!({"role": role, "content": text});
        let (between, response) = match follow_up {
            Some((question, answer)) => (vec![turn("assistant", &response), turn("user", &question)], answer),
            None => (Vec::new(), response),
        };
        Ok(BuiltRow {
            prompt: task.prompt,
            between,
            response: Some(response),
            has_reward_columns: spec.has_tests(),
            columns,
            ..BuiltRow::default()
        })
    }
}

impl Job for CodeJob {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    /// Categories, languages and difficulties, each equally often.
    fn targets(&self) -> BTreeMap<String, usize> {
        let n = Fates::of(&self.units).open().len();
        let CodeConfig { categories, languages, difficulties, .. } = &self.settings;
        let categories =
            categories.iter().map(|one| (format!("category.{}", one.code()), n / categories.len()));
        let languages = languages.iter().map(|one| (format!("language.{}", one.code()), n / languages.len()));
        let difficulties =
            difficulties.iter().map(|one| (format!("difficulty.{}", one.code()), n / difficulties.len()));
        categories.chain(languages).chain(difficulties).collect()
    }

    fn calls(&self) -> Vec<PlannedCalls> {
        let open: Vec<usize> = Fates::of(&self.units).open();
        let (n, rounds) = (open.len() as u64, self.settings.max_responses as u64);
        let n_follow_ups = if self.settings.follow_up { n } else { 0 };
        let sum = |of: &dyn Fn(usize) -> usize| open.iter().map(|&idx| of(idx) as u64).sum::<u64>();
        // Tasks and responses are not known; their tokens are those of the completions.
        let empty = Draft::default();
        let about = |text: &PromptText| sum(&|idx| self.question(text, idx, &empty, "").len());
        let steps = [
            ("writing tasks", n, n, sum(&|idx| self.task_question(idx).text.len())),
            ("answering tasks", n, n.saturating_mul(rounds), 0),
            ("reviewing responses", n, n.saturating_mul(rounds), about(&REVIEW).saturating_mul(rounds)),
            ("writing deeper questions", n_follow_ups, n_follow_ups, about(&FOLLOW_UP)),
            ("reviewing deeper questions", n_follow_ups, n_follow_ups, about(&REVIEW_FOLLOW_UP)),
        ];
        PlannedCalls::of_steps(steps)
    }

    fn build(&self, asking: &mut Asking<'_>) -> Result<Option<Vec<Built>>, StageError> {
        let mut runner = self.runner(asking)?;
        let mut fates = Fates::of(&self.units);
        let mut drafts = self.write_tasks(asking, &mut fates)?;
        if asking.is_stopped() {
            return Ok(None);
        }
        if let Some(runner) = &mut runner {
            self.try_tests(&mut drafts, runner, &mut fates);
        }
        for round in 0..self.settings.max_responses as u64 {
            if asking.is_stopped() {
                return Ok(None);
            }
            self.respond(round, &mut drafts, runner.as_mut(), asking, &mut fates)?;
        }
        if asking.is_stopped() {
            return Ok(None);
        }
        if self.settings.follow_up {
            self.follow_up(&mut drafts, asking, &fates)?;
        }
        if let Ok(mut kept) = self.runner.lock() {
            *kept = runner;
        }
        Ok(Some(fates.finish(|idx| self.row(idx, std::mem::take(&mut drafts[idx])))))
    }

    /// The tests are run once more, on the response as it is written. Other rows have a difficulty below very hard, and
    /// a fence where a program is wanted.
    fn recheck(&self, record: &Map<String, Value>) -> Result<(), String> {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        if !CodeDifficulty::KEPT.iter().any(|one| one.code() == text("difficulty")) {
            return Err("the difficulty is unknown or very hard".into());
        }
        let first_response = match record.get("between") {
            Some(turns) => turns[0]["content"].as_str().unwrap_or_default(),
            None => text("response"),
        };
        let category = CodeCategory::ALL.into_iter().find(|one| one.code() == text("category"));
        let category = category.ok_or("the category is unknown")?;
        if category.wants_program() && !has_fence(first_response) {
            return Err(NO_FENCE.into());
        }
        if !record.contains_key("test") {
            return Ok(());
        }
        let mut runner = self.runner.lock().map_err(|_| "what runs Python is broken")?;
        let runner = runner.as_mut().ok_or("nothing runs Python here")?;
        let trial = Trial { text: first_response.to_owned(), tests: text("test").to_owned() };
        match runner.run(&[trial]).pop() {
            Some(Ok(true)) => Ok(()),
            Some(Err(why)) => Err(why),
            _ => Err("the response does not pass the tests".into()),
        }
    }
}
