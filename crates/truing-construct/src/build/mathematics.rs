//! Mathematics (report 4.2): problems that cover the knowledge points of four levels evenly, with solutions in steps
//! whose final answers a program checks.
//!
//! Without `[[data]]` the writer makes problems with their answers, one knowledge point each; the checker solves
//! every problem without seeing the answer, and where the two differ the problem is dropped. With `[[data]]` the rows
//! are problems with reference answers. Either way the writer expands the answer into steps. Its prompt says that the
//! answer is right with 95 % probability, so that it does not bend a step to reach it. A solution is kept if the
//! answer that it marks equals the reference ([`math_answer`](truing_reward::verifiers::math_answer)) and it does not
//! speak of a reference.

mod answers;
mod points;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use truing_ask::pas::Language;
use truing_reward::verifiers::math_answer::{MathAnswerConfig, Verdict, extract_answer, grade};
use truing_reward::{Completion, RewardConfig, RewardKind, Rewards};
use truing_run::RunError;
use truing_run::checks::{require_counts, require_given};
use truing_stages::StageError;
use truing_types::{Conversation, FinishReason, Message, Role, RowOrigin, Seed};

use super::asking::{Asking, Question};
use super::bounds::require_bounded;
use super::builder::{BuilderInfo, Built, BuiltRow, Dropped, Fates, Job, PlannedCalls, Unit};
use super::config::BuildConfig;
use super::inputs::{SEED, SeedRow};
use super::texts::{PromptText, prompt_text, tagged};
use answers::{gives, is_readable};
pub(super) use answers::{mentions_reference, reference_of};
pub use points::{KnowledgePoint, Level, load_knowledge_points};

/// How the builder is listed.
pub(super) const INFO: BuilderInfo = BuilderInfo {
    name: "mathematics",
    about: "problems that cover knowledge points evenly, with solutions in steps whose answers are checked",
    seeds: "problems with an `answer`; without data the writer makes problems",
    asks: "the writer for problems and solutions, the checker for independent solutions",
    works_without_data: true,
    prepare,
};

const PROBLEM: PromptText = prompt_text!("problem");
const SOLVE: PromptText = prompt_text!("solve");
const EXPAND: PromptText = prompt_text!("expand");

const PROBLEM_FORM: (&str, &str) = (
    "a problem and an answer",
    "Your reply lacks the problem between <problem> and </problem>, or its final answer between <answer> and \
     </answer>. Write both, with the tags.",
);
const SOLUTION_FORM: (&str, &str) = (
    "a solution with a final answer",
    "Your reply does not give a final answer. Solve the problem and end with \\boxed{}.",
);

/// The step that writes problems.
const WRITING: &str = "problem";
/// The step that writes solutions.
const SOLUTION: &str = "solution";

/// The table `[mathematics]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MathematicsConfig {
    /// TOML file of knowledge points. Default: the bundled one, `recipes/data/knowledge_points.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "name_and_content"))]
    pub knowledge_points: Option<PathBuf>,
    /// Levels of new problems: `elementary`, `middle`, `high`, `college`.
    pub levels: Vec<Level>,
    /// Languages of new problems: `en`, `zh`.
    pub languages: Vec<Language>,
    /// Column of `[[data]]` with the reference answer.
    pub answer_column: String,
    /// Column of `[[data]]` with the knowledge point, for the coverage table.
    pub point_column: String,
    /// Whether the checker solves a new problem, and a different answer drops it.
    pub cross_check: bool,
    /// Maximum solutions of the writer to one problem.
    pub max_solutions: usize,
}

impl Default for MathematicsConfig {
    fn default() -> Self {
        Self {
            knowledge_points: None,
            levels: Level::ALL.to_vec(),
            languages: vec![Language::En, Language::Zh],
            answer_column: "answer".into(),
            point_column: "knowledge_point".into(),
            cross_check: true,
            max_solutions: 2,
        }
    }
}

impl MathematicsConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is invalid.
    pub(super) fn check(&self) -> Result<(), RunError> {
        let counts = [("mathematics.max_solutions", self.max_solutions)];
        require_counts(counts)?;
        require_bounded(counts)?;
        require_given(!self.levels.is_empty(), "mathematics.levels", "at least one level")?;
        require_given(!self.languages.is_empty(), "mathematics.languages", "at least one language")
    }
}

/// What a problem is made from.
#[derive(Debug, Clone, PartialEq)]
enum Origin {
    /// A knowledge point; `variant` counts the problems about it before this one.
    Point { point: KnowledgePoint, variant: usize },
    /// A row with its reference answer.
    Row { answer: String },
}

/// Units with what each is made from.
#[derive(Debug)]
struct MathematicsJob {
    settings: MathematicsConfig,
    units: Vec<Unit>,
    origins: Vec<Origin>,
    targets: BTreeMap<String, usize>,
}

/// A problem while it is worked on.
#[derive(Debug, Clone, Default)]
struct Work {
    problem: String,
    answer: String,
    solution: Option<String>,
    /// Why the last solution was not used.
    rejected: Option<&'static str>,
}

fn prepare(config: &BuildConfig, seeds: &[SeedRow]) -> Result<Box<dyn Job>, StageError> {
    let settings = config.mathematics.clone().unwrap_or_default();
    settings.check()?;
    let points = load_knowledge_points(settings.knowledge_points.as_deref())?;
    let job = match config.data.is_empty() {
        true => new_problems(settings, points, config.n_rows.unwrap_or(0), Seed(config.seed), config)?,
        false => given_problems(settings, &points, seeds),
    };
    Ok(Box::new(job))
}

/// Units of new problems: the levels in turn, in each level its points in a sampled order, each point as often as the
/// others.
fn new_problems(
    settings: MathematicsConfig,
    points: Vec<KnowledgePoint>,
    n_rows: usize,
    seed: Seed,
    config: &BuildConfig,
) -> Result<MathematicsJob, StageError> {
    let bad = |key, found: String, expected: &str| -> Result<MathematicsJob, StageError> {
        Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into())
    };
    config.require_sampling("above 0: without sampling, problems of one knowledge point are alike")?;
    let mut of_levels: Vec<Vec<KnowledgePoint>> = Vec::new();
    for &level in &settings.levels {
        let of_level: Vec<KnowledgePoint> =
            points.iter().filter(|point| point.level == level).cloned().collect();
        if of_level.is_empty() {
            let found = format!("{} without knowledge points", level.code());
            return bad("mathematics.levels", found, "levels that the file of knowledge points has");
        }
        of_levels.push(seed.shuffled(of_level, "knowledge points", &[level as u64]));
    }
    let (mut units, mut origins) = (Vec::new(), Vec::new());
    for row in 0..n_rows {
        let of_level = &of_levels[row % of_levels.len()];
        let turn = row / of_levels.len();
        let (point, variant) = (of_level[turn % of_level.len()].clone(), turn / of_level.len());
        // Neighbours and repetitions are in different languages.
        let language = settings.languages[(turn % of_level.len() + variant) % settings.languages.len()];
        units.push(Unit {
            text: point.names[language as usize].clone(),
            language,
            source: None,
            kept: Map::new(),
            kinds: vec![point.id.clone()],
            dropped: None,
        });
        origins.push(Origin::Point { point, variant });
    }
    let n_levels = of_levels.len();
    let targets = of_levels.iter().flat_map(|of_level| {
        let share = n_rows / n_levels / of_level.len();
        of_level.iter().map(move |point| (point.id.clone(), share))
    });
    let targets = targets.collect();
    Ok(MathematicsJob { settings, units, origins, targets })
}

/// Units of rows with reference answers.
fn given_problems(
    settings: MathematicsConfig,
    points: &[KnowledgePoint],
    seeds: &[SeedRow],
) -> MathematicsJob {
    let (mut units, mut origins) = (Vec::new(), Vec::new());
    for seed in seeds {
        let point = seed.columns.get(&settings.point_column).and_then(Value::as_str);
        let point = point.filter(|id| points.iter().any(|point| point.id == *id));
        let mut unit = seed.unit(point.map(str::to_owned).into_iter().collect());
        let answer =
            seed.text_at(&settings.answer_column).map(|text| reference_of(&text)).unwrap_or_default();
        if !is_readable(&answer) {
            let reason = "no readable answer in `mathematics.answer_column`";
            unit.dropped.get_or_insert(Dropped::new(SEED, reason));
        }
        units.push(unit);
        origins.push(Origin::Row { answer });
    }
    MathematicsJob { settings, units, origins, targets: BTreeMap::new() }
}

impl MathematicsJob {
    fn problem_question(&self, idx: usize) -> Question {
        let language = self.units[idx].language;
        let (level, name, variant) = match &self.origins[idx] {
            Origin::Point { point, variant } => {
                (point.level.name(language), point.names[language as usize].as_str(), *variant)
            }
            Origin::Row { .. } => ("", "", 0),
        };
        let number = (variant + 1).to_string();
        let values = [("{level}", level), ("{point}", name), ("{variant}", number.as_str())];
        Question::new(PROBLEM.fill(language, &values), variant as u64)
    }

    fn solve_question(&self, idx: usize, problem: &str) -> String {
        SOLVE.fill(self.units[idx].language, &[("{problem}", problem)])
    }

    fn solution_question(&self, idx: usize, work: &Work) -> String {
        let values = [("{problem}", work.problem.as_str()), ("{answer}", work.answer.as_str())];
        EXPAND.fill(self.units[idx].language, &values)
    }

    /// Problems and answers: of the rows, or written by the model.
    fn problems(&self, asking: &mut Asking<'_>, fates: &mut Fates) -> Result<Vec<Work>, StageError> {
        let work = |(unit, origin): (&Unit, &Origin)| match origin {
            Origin::Row { answer } => {
                Work { problem: unit.text.clone(), answer: answer.clone(), ..Work::default() }
            }
            Origin::Point { .. } => Work::default(),
        };
        let mut works: Vec<Work> = self.units.iter().zip(&self.origins).map(work).collect();
        let is_new = |idx: &usize| matches!(self.origins[*idx], Origin::Point { .. });
        let places: Vec<usize> = fates.open().into_iter().filter(is_new).collect();
        let questions = places.iter().map(|&idx| self.problem_question(idx)).collect();
        let read = |_: usize, reply: &str| {
            Some((tagged(reply, "problem")?.to_owned(), tagged(reply, "answer")?.to_owned()))
        };
        let answers = asking.write("writing problems", questions, PROBLEM_FORM, read)?;
        fates.take(WRITING, &places, answers, |idx, (problem, answer)| {
            let answer = reference_of(&answer);
            if !is_readable(&answer) {
                return Err(Dropped::new(WRITING, "the answer cannot be read").with_detail(answer));
            }
            (works[idx].problem, works[idx].answer) = (problem, answer);
            Ok(())
        });
        Ok(works)
    }

    /// Drops new problems whose independent solution has another answer.
    fn cross_check(
        &self,
        works: &[Work],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        const STEP: &str = "cross-check";
        let is_new = |idx: &usize| matches!(self.origins[*idx], Origin::Point { .. });
        let places: Vec<usize> =
            fates.open().into_iter().filter(|idx| self.settings.cross_check && is_new(idx)).collect();
        let texts = places.iter().map(|&idx| self.solve_question(idx, &works[idx].problem)).collect();
        let read = |_: usize, reply: &str| extract_answer(reply, false);
        let answers = asking.check("solving problems", texts, SOLUTION_FORM, read)?;
        fates.take(STEP, &places, answers, |idx, found| {
            match grade(&found, &works[idx].answer) == Verdict::Equal {
                true => Ok(()),
                false => {
                    let detail = format!("{found} instead of {}", works[idx].answer);
                    Err(Dropped::new(STEP, "an independent solution has another answer").with_detail(detail))
                }
            }
        });
        Ok(())
    }

    /// One round of solutions for the problems without one.
    fn solve(
        &self,
        round: u64,
        works: &mut [Work],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let is_unsolved = |idx: &usize| works[*idx].solution.is_none();
        let places: Vec<usize> = fates.open().into_iter().filter(is_unsolved).collect();
        let question = |&idx: &usize| Question::new(self.solution_question(idx, &works[idx]), round);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| Some(reply.trim().to_owned()).filter(|text| !text.is_empty());
        let answers = asking.write("writing solutions", questions, SOLUTION_FORM, read)?;
        fates.take(SOLUTION, &places, answers, |idx, solution| {
            let work = &mut works[idx];
            work.rejected = if !gives(&solution, &work.answer) {
                Some("no solution has the reference answer")
            } else if mentions_reference(&solution) {
                Some("every solution with the reference answer speaks of a reference")
            } else {
                work.solution = Some(solution);
                None
            };
            Ok(())
        });
        Ok(())
    }

    fn row(&self, idx: usize, work: Work) -> Built {
        let Some(solution) = work.solution else {
            return Err(Dropped::new(SOLUTION, work.rejected.unwrap_or("no solution")));
        };
        let mut columns = Map::from_iter([("answer".to_owned(), json!(work.answer))]);
        if let Origin::Point { point, .. } = &self.origins[idx] {
            columns.insert("level".into(), json!(point.level));
        }
        columns.extend(self.units[idx].kinds.first().map(|id| ("knowledge_point".to_owned(), json!(id))));
        let (prompt, response) = (work.problem, Some(solution));
        Ok(BuiltRow { prompt, response, has_reward_columns: true, columns, ..BuiltRow::default() })
    }
}

impl Job for MathematicsJob {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn targets(&self) -> BTreeMap<String, usize> {
        self.targets.clone()
    }

    fn calls(&self) -> Vec<PlannedCalls> {
        let open: Vec<usize> = Fates::of(&self.units).open();
        let (n, rounds) = (open.len() as u64, self.settings.max_solutions as u64);
        let sum = |of: &dyn Fn(usize) -> usize| open.iter().map(|&idx| of(idx) as u64).sum::<u64>();
        let is_new = self.origins.iter().any(|origin| matches!(origin, Origin::Point { .. }));
        // New problems are not known; their tokens are those of the completions.
        let length = |idx: usize| if is_new { 0 } else { self.units[idx].text.len() };
        let mut calls = Vec::new();
        let mut add = |step, n_calls, max_calls, prompt_bytes| {
            calls.push(PlannedCalls { step, n_calls, max_calls, prompt_bytes });
        };
        if is_new {
            add("writing problems", n, n, sum(&|idx| self.problem_question(idx).text.len()));
            if self.settings.cross_check {
                add("solving problems", n, n, sum(&|idx| self.solve_question(idx, "").len()));
            }
        }
        let bytes = sum(&|idx| self.solution_question(idx, &Work::default()).len() + length(idx));
        add("writing solutions", n, n.saturating_mul(rounds), bytes.saturating_mul(rounds));
        calls
    }

    fn build(&self, asking: &mut Asking<'_>) -> Result<Option<Vec<Built>>, StageError> {
        let mut fates = Fates::of(&self.units);
        let mut works = self.problems(asking, &mut fates)?;
        if asking.is_stopped() {
            return Ok(None);
        }
        self.cross_check(&works, asking, &mut fates)?;
        for round in 0..self.settings.max_solutions as u64 {
            if asking.is_stopped() {
                return Ok(None);
            }
            self.solve(round, &mut works, asking, &mut fates)?;
        }
        Ok(Some(fates.finish(|idx| self.row(idx, std::mem::take(&mut works[idx])))))
    }

    /// The reward that `truing grpo` would give, on the marked answer alone.
    fn recheck(&self, record: &Map<String, Value>) -> Result<(), String> {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        if mentions_reference(text("response")) {
            return Err("the solution speaks of a reference".into());
        }
        let kind =
            RewardKind::MathAnswer(MathAnswerConfig { marked_only: true, ..MathAnswerConfig::default() });
        let reward =
            RewardConfig { name: None, weight: 1.0, sources: Vec::new(), optional: false, reads: None, kind };
        let mut rewards = Rewards::new(&[reward], None).map_err(|error| error.to_string())?;
        let prompt =
            Conversation { messages: vec![Message::new(Role::User, text("prompt"))], tools: Vec::new() };
        let origin = RowOrigin { source: "rows.jsonl".into(), line: 1 };
        let completion = Completion {
            prompt: &prompt,
            text: text("response"),
            n_tokens: 0,
            finish_reason: FinishReason::EndOfTurn,
            columns: record,
            origin: &origin,
        };
        match rewards.score(&[completion]).pop().map(|scored| scored.total) {
            Some(Ok(1.0)) => Ok(()),
            Some(Err(unscored)) => Err(unscored.to_string()),
            _ => Err("the marked answer is not the reference answer".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn bundled() -> Vec<KnowledgePoint> {
        load_knowledge_points(None).unwrap()
    }

    #[test]
    fn new_problems_cover_levels_and_points_evenly() {
        let config = BuildConfig::default();
        let n_points = bundled().len();
        let job =
            new_problems(MathematicsConfig::default(), bundled(), 4 * n_points, Seed(3), &config).unwrap();
        let mut n_of_point: BTreeMap<&str, usize> = BTreeMap::new();
        job.units.iter().for_each(|unit| *n_of_point.entry(&unit.kinds[0]).or_default() += 1);
        assert_eq!(n_of_point.len(), n_points);
        // Each level has as many rows; the levels have 32 to 40 points.
        assert!(n_of_point.values().all(|n| (3..=5).contains(n)), "{n_of_point:?}");
        let questions: BTreeSet<String> = (0..job.units.len())
            .map(|idx| job.problem_question(idx))
            .map(|question| format!("{} {}", question.variation, question.text))
            .collect();
        assert_eq!(questions.len(), job.units.len(), "no question is asked twice");
        let frozen = BuildConfig { temperature: 0.0, ..config };
        let error = new_problems(MathematicsConfig::default(), bundled(), 4, Seed(3), &frozen).unwrap_err();
        assert!(error.to_string().starts_with("`temperature` is 0"), "{error}");
    }

    #[test]
    fn the_problems_of_a_point_alternate_between_the_languages() {
        for n_points in [1, 2, 3, 4, 7] {
            let of_level = |point: &KnowledgePoint| point.level == Level::High;
            let points: Vec<KnowledgePoint> = bundled().into_iter().filter(of_level).take(n_points).collect();
            let settings = MathematicsConfig { levels: vec![Level::High], ..MathematicsConfig::default() };
            let job = new_problems(settings, points, 4 * n_points, Seed(3), &BuildConfig::default()).unwrap();
            let mut of_points: BTreeMap<&str, Vec<Language>> = BTreeMap::new();
            job.units
                .iter()
                .for_each(|unit| of_points.entry(&unit.kinds[0]).or_default().push(unit.language));
            assert_eq!(of_points.len(), n_points);
            for languages in of_points.values() {
                assert_eq!(languages.len(), 4);
                assert!(languages.windows(2).all(|pair| pair[0] != pair[1]), "{of_points:?}");
            }
        }
    }

    #[test]
    fn the_check_of_a_row_wants_the_marked_answer() {
        let job = given_problems(MathematicsConfig::default(), &[], &[]);
        let check = |response: &str| {
            let record = json!({"prompt": "1 + 1?", "response": response, "answer": "2"});
            job.recheck(record.as_object().unwrap())
        };
        assert_eq!(check(r"1 + 1 is \boxed{2}."), Ok(()));
        assert!(check(r"1 + 1 is \boxed{3}.").is_err());
        assert!(check("It is 2 or so, I hope").is_err());
        assert!(check(r"As the answer key says, \boxed{2}").unwrap_err().contains("speaks of a reference"));
    }
}
