//! Textbook style (report 4.1): a lesson about how to approach a request, then an exercise of the same kind with an
//! answer that follows the lesson.
//!
//! 1. Each seed prompt gets one of four aspects ([`TextbookAspect`]), all equally often.
//! 2. The writer writes a learner's question and a lesson of three parts.
//! 3. The writer writes an exercise, which is another request of the same kind, and its answer.
//! 4. A program checks that no part is missing or empty and that the exercise is not the seed prompt again. The checker
//!    verifies question, parts, exercise and answer one by one. What fails is written anew, at most `max_rounds` times.
//!
//! A row has four turns: question, lesson, exercise, answer.

mod aspects;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use truing_ask::pas::Language;
use truing_prompts::rouge::{RougeTokenizer, RougeVocabulary, rouge_l};
use truing_reward::checklist::read_verdicts;
use truing_run::RunError;
use truing_run::checks::{require_counts, require_given};
use truing_stages::StageError;

use super::asking::{Asking, Question};
use super::bounds::require_bounded;
use super::builder::{BuilderInfo, Built, BuiltRow, Dropped, Fates, Job, PlannedCalls, Unit};
use super::config::BuildConfig;
use super::inputs::SeedRow;
use super::responding::VERDICTS;
use super::texts::{PromptText, prompt_text, tagged};
use aspects::N_PARTS;
pub use aspects::TextbookAspect;

/// How the builder is listed.
pub(super) const INFO: BuilderInfo = BuilderInfo {
    name: "textbook",
    about: "lessons about how to approach a request, with an exercise and its answer",
    seeds: "prompts",
    asks: "the writer for lessons, exercises and answers, the checker to verify each part",
    works_without_data: false,
    prepare,
};

const LESSON: PromptText = prompt_text!("lesson");
const EXERCISE: PromptText = prompt_text!("exercise");
const VERIFY: PromptText = prompt_text!("verify_lesson");

const LESSON_FORM: (&str, &str) = (
    "a question and every part of a lesson",
    "Your reply lacks the question or a part of the lesson. Write all of them, each between its tags.",
);
const EXERCISE_FORM: (&str, &str) = (
    "an exercise and an answer",
    "Your reply lacks the exercise between <exercise> and </exercise>, or its answer between <answer> and </answer>. \
     Write both, with the tags.",
);

/// Shorter parts say nothing.
const MIN_PART_CHARACTERS: usize = 12;
/// ROUGE-L (F1) above which an exercise is its request again.
const MAX_SIMILARITY: f64 = 0.7;
/// Verdicts of the checker: on the question, each part, the exercise, whether the answer follows, whether it is right.
const N_VERDICTS: usize = N_PARTS + 4;

/// The steps of a round.
const WRITING: &str = "lesson";
const EXERCISING: &str = "exercise";
const VERIFICATION: &str = "verification";

/// The table `[textbook]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TextbookConfig {
    /// What lessons teach, equally often: `intent_analysis`, `thought_process`, `analogical_reasoning`,
    /// `alignment_principles`.
    pub aspects: Vec<TextbookAspect>,
    /// Maximum lessons, exercises and answers for one seed prompt, until the checker finds nothing wrong.
    pub max_rounds: usize,
}

impl Default for TextbookConfig {
    fn default() -> Self {
        Self { aspects: TextbookAspect::ALL.to_vec(), max_rounds: 2 }
    }
}

impl TextbookConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is invalid.
    pub(super) fn check(&self) -> Result<(), RunError> {
        let counts = [("textbook.max_rounds", self.max_rounds)];
        require_counts(counts)?;
        require_bounded(counts)?;
        require_given(!self.aspects.is_empty(), "textbook.aspects", "at least one aspect")
    }
}

/// Units with the aspect of each.
#[derive(Debug)]
struct TextbookJob {
    settings: TextbookConfig,
    units: Vec<Unit>,
    aspects: Vec<TextbookAspect>,
}

/// A chapter while it is written.
#[derive(Debug, Clone, Default)]
struct Chapter {
    question: String,
    parts: [String; N_PARTS],
    exercise: String,
    answer: String,
    /// Whether the checker found nothing wrong.
    is_verified: bool,
    /// Why the last attempt was not used.
    rejected: Option<Dropped>,
}

fn prepare(config: &BuildConfig, seeds: &[SeedRow]) -> Result<Box<dyn Job>, StageError> {
    let settings = config.textbook.clone().unwrap_or_default();
    settings.check()?;
    if settings.max_rounds > 1 {
        config.require_sampling(
            "above 0, or `textbook.max_rounds` of 1: without sampling, every round is the same",
        )?;
    }
    let (mut units, mut aspects, mut n_used) = (Vec::new(), Vec::new(), 0);
    for seed in seeds {
        let aspect = settings.aspects[n_used % settings.aspects.len()];
        n_used += usize::from(seed.dropped.is_none());
        units.push(seed.unit(vec![aspect.code().to_owned()]));
        aspects.push(aspect);
    }
    Ok(Box::new(TextbookJob { settings, units, aspects }))
}

/// What a program finds wrong with a chapter.
fn problem_of(parts: &[&str], exercise: &str, seed_prompt: &str) -> Option<&'static str> {
    if parts.iter().any(|part| part.chars().count() < MIN_PART_CHARACTERS) {
        return Some("a part of the lesson is missing or says nothing");
    }
    if (1..parts.len()).any(|i| parts[..i].contains(&parts[i])) {
        return Some("two parts of the lesson are the same");
    }
    let mut words = RougeVocabulary::new(RougeTokenizer::Words);
    let (wanted, found) = (words.tokens(seed_prompt), words.tokens(exercise));
    let is_again = rouge_l(&wanted, &found).f1 > MAX_SIMILARITY;
    is_again.then_some("the exercise is the seed prompt again")
}

/// What is wrong, by the first verdict that is a no.
fn reason_of(verdicts: &[bool]) -> Option<&'static str> {
    Some(match verdicts.iter().position(|is_yes| !is_yes)? {
        0 => "the lesson does not answer the question",
        1..=N_PARTS => "a part of the lesson is wrong, or not about the request",
        4 => "the exercise is not another request of the same kind",
        5 => "the answer does not follow the lesson",
        _ => "the answer is not right or not complete",
    })
}

impl Chapter {
    /// The lesson as it is shown, with headings.
    fn lesson(&self, aspect: TextbookAspect, language: Language) -> String {
        let parts = aspect.parts().iter().zip(&self.parts);
        let part = parts.map(|(part, text)| format!("## {}\n\n{text}", part.heading[language as usize]));
        part.collect::<Vec<_>>().join("\n\n")
    }
}

impl TextbookJob {
    fn question(&self, text: &PromptText, idx: usize, chapter: &Chapter) -> String {
        let (unit, aspect) = (&self.units[idx], self.aspects[idx]);
        let lesson = chapter.lesson(aspect, unit.language);
        let values = [
            ("{prompt}", unit.text.as_str()),
            ("{aspect}", aspect.name(unit.language)),
            ("{parts}", &aspect.outline(unit.language)),
            ("{question}", &chapter.question),
            ("{lesson}", &lesson),
            ("{exercise}", &chapter.exercise),
            ("{answer}", &chapter.answer),
        ];
        text.fill(unit.language, &values)
    }

    /// One attempt at every chapter that is not verified. Chapters that fail a step skip the later ones.
    fn attempt(
        &self,
        round: u64,
        chapters: &mut [Chapter],
        asking: &mut Asking<'_>,
    ) -> Result<(), StageError> {
        let open = Fates::of(&self.units).open();
        let places: Vec<usize> = open.into_iter().filter(|&idx| !chapters[idx].is_verified).collect();
        let places = self.write_lessons(round, places, chapters, asking)?;
        if asking.is_stopped() {
            return Ok(());
        }
        let places = self.write_exercises(round, places, chapters, asking)?;
        if asking.is_stopped() {
            return Ok(());
        }
        self.verify(&places, chapters, asking)
    }

    /// Returns the places of those that were written; so do the next steps.
    fn write_lessons(
        &self,
        round: u64,
        places: Vec<usize>,
        chapters: &mut [Chapter],
        asking: &mut Asking<'_>,
    ) -> Result<Vec<usize>, StageError> {
        let empty = Chapter::default();
        let question = |&idx: &usize| Question::new(self.question(&LESSON, idx, &empty), round);
        let questions = places.iter().map(question).collect();
        let read = |at: usize, reply: &str| {
            let parts = self.aspects[places[at]].parts();
            let parts: Vec<String> =
                parts.iter().map(|part| tagged(reply, part.tag).map(str::to_owned)).collect::<Option<_>>()?;
            let parts: [String; N_PARTS] = parts.try_into().ok()?;
            Some(Chapter { question: tagged(reply, "question")?.to_owned(), parts, ..Chapter::default() })
        };
        let answers = asking.write("writing lessons", questions, LESSON_FORM, read)?;
        let mut written = Vec::new();
        for (idx, answer) in places.into_iter().zip(answers) {
            match answer {
                Ok(chapter) => {
                    chapters[idx] = chapter;
                    written.push(idx);
                }
                Err(reason) => chapters[idx].rejected = Some(Dropped::new(WRITING, reason)),
            }
        }
        Ok(written)
    }

    fn write_exercises(
        &self,
        round: u64,
        places: Vec<usize>,
        chapters: &mut [Chapter],
        asking: &mut Asking<'_>,
    ) -> Result<Vec<usize>, StageError> {
        let question = |&idx: &usize| Question::new(self.question(&EXERCISE, idx, &chapters[idx]), round);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| {
            Some((tagged(reply, "exercise")?.to_owned(), tagged(reply, "answer")?.to_owned()))
        };
        let answers = asking.write("writing exercises", questions, EXERCISE_FORM, read)?;
        let mut written = Vec::new();
        for (idx, answer) in places.into_iter().zip(answers) {
            let chapter = &mut chapters[idx];
            let checked = answer.and_then(|(exercise, answer)| {
                (chapter.exercise, chapter.answer) = (exercise, answer);
                let parts: Vec<&str> = chapter.parts.iter().map(String::as_str).collect();
                problem_of(&parts, &chapter.exercise, &self.units[idx].text)
                    .map_or(Ok(()), |problem| Err(problem.to_owned()))
            });
            match checked {
                Ok(()) => written.push(idx),
                Err(reason) => chapter.rejected = Some(Dropped::new(EXERCISING, reason)),
            }
        }
        Ok(written)
    }

    fn verify(
        &self,
        places: &[usize],
        chapters: &mut [Chapter],
        asking: &mut Asking<'_>,
    ) -> Result<(), StageError> {
        let texts = places.iter().map(|&idx| self.question(&VERIFY, idx, &chapters[idx])).collect();
        let read = |_: usize, reply: &str| read_verdicts(reply, N_VERDICTS);
        let answers = asking.check("verifying lessons", texts, VERDICTS, read)?;
        for (&idx, answer) in places.iter().zip(answers) {
            let reason = answer.map_or_else(Some, |verdicts| reason_of(&verdicts).map(str::to_owned));
            chapters[idx].is_verified = reason.is_none();
            chapters[idx].rejected = reason.map(|reason| Dropped::new(VERIFICATION, reason));
        }
        Ok(())
    }

    fn row(&self, idx: usize, chapter: &Chapter) -> Built {
        let (unit, aspect) = (&self.units[idx], self.aspects[idx]);
        if !chapter.is_verified {
            let rejected = chapter.rejected.clone();
            return Err(rejected.unwrap_or_else(|| Dropped::new(WRITING, "no lesson was written")));
        }
        let parts = aspect.parts().iter().zip(&chapter.parts);
        let parts: Map<String, Value> =
            parts.map(|(part, text)| (part.tag.to_owned(), json!(text))).collect();
        let lesson = chapter.lesson(aspect, unit.language);
        Ok(BuiltRow {
            prompt: chapter.question.clone(),
            between: vec![
                json!({"role": "assistant", "content": lesson}),
                json!({"role": "user", "content": chapter.exercise}),
            ],
            response: Some(chapter.answer.clone()),
            columns: Map::from_iter([
                ("aspect".to_owned(), json!(aspect)),
                ("lesson".to_owned(), json!(parts)),
                ("seed_prompt".to_owned(), json!(unit.text)),
            ]),
            ..BuiltRow::default()
        })
    }
}

impl Job for TextbookJob {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The aspects equally often.
    fn targets(&self) -> BTreeMap<String, usize> {
        let aspects = &self.settings.aspects;
        let share = Fates::of(&self.units).open().len() / aspects.len();
        aspects.iter().map(|aspect| (aspect.code().to_owned(), share)).collect()
    }

    fn calls(&self) -> Vec<PlannedCalls> {
        let open: Vec<usize> = Fates::of(&self.units).open();
        // Lessons and exercises are not known; their tokens are those of the completions.
        let empty = Chapter::default();
        let steps =
            [("writing lessons", &LESSON), ("writing exercises", &EXERCISE), ("verifying lessons", &VERIFY)];
        let planned = |(step, text): (&'static str, &PromptText)| {
            let bytes: u64 = open.iter().map(|&idx| self.question(text, idx, &empty).len() as u64).sum();
            PlannedCalls::in_rounds(step, open.len(), self.settings.max_rounds, bytes)
        };
        steps.into_iter().map(planned).collect()
    }

    fn build(&self, asking: &mut Asking<'_>) -> Result<Option<Vec<Built>>, StageError> {
        let mut chapters = vec![Chapter::default(); self.units.len()];
        for round in 0..self.settings.max_rounds as u64 {
            if asking.is_stopped() {
                return Ok(None);
            }
            self.attempt(round, &mut chapters, asking)?;
        }
        Ok(Some(Fates::of(&self.units).finish(|idx| self.row(idx, &chapters[idx]))))
    }

    /// Four turns, every part of the lesson, and an exercise that is not the seed prompt.
    fn recheck(&self, record: &Map<String, Value>) -> Result<(), String> {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        let aspect = TextbookAspect::find(text("aspect")).ok_or("`aspect` is unknown")?;
        let turns = record.get("between").and_then(Value::as_array).ok_or("there are no later turns")?;
        let [lesson, exercise] = turns.as_slice() else {
            return Err("the row does not have four turns".into());
        };
        let content = |turn: &Value| turn["content"].as_str().unwrap_or_default().to_owned();
        let (lesson, exercise) = (content(lesson), content(exercise));
        let part = |tag: &str| record.get("lesson").and_then(|parts| parts[tag].as_str()).unwrap_or_default();
        let parts: Vec<&str> = aspect.parts().iter().map(|one| part(one.tag)).collect();
        if !parts.iter().all(|part| lesson.contains(part)) {
            return Err("the lesson does not show every part".into());
        }
        if [text("prompt"), exercise.as_str(), text("response")].iter().any(|turn| turn.trim().is_empty()) {
            return Err("a turn is empty".into());
        }
        problem_of(&parts, &exercise, text("seed_prompt")).map_or(Ok(()), |problem| Err(problem.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_find_empty_parts_and_exercises_that_are_the_request_again() {
        let parts = ["The asker knows the basics.", "Two questions in one.", "A short list, no jargon."];
        let request = "Plan a vegetable garden of twenty square metres for two people.";
        let problem = |parts: &[&str], exercise: &str| problem_of(parts, exercise, request);
        assert_eq!(problem(&parts, "How do I lay out a small herb bed on a balcony?"), None);
        let again = "Plan a vegetable garden of thirty square metres for two people.";
        assert_eq!(problem(&parts, again), Some("the exercise is the seed prompt again"));
        let empty = [parts[0], "", parts[2]];
        assert_eq!(problem(&empty, "A bed?"), Some("a part of the lesson is missing or says nothing"));
        let same = [parts[0], parts[1], parts[0]];
        assert_eq!(problem(&same, "A bed?"), Some("two parts of the lesson are the same"));
    }

    #[test]
    fn the_first_no_is_the_reason() {
        let verdicts = |first_no: usize| -> Vec<bool> { (0..N_VERDICTS).map(|i| i < first_no).collect() };
        assert_eq!(reason_of(&verdicts(N_VERDICTS)), None);
        let reasons: Vec<&str> = (0..N_VERDICTS).filter_map(|i| reason_of(&verdicts(i))).collect();
        assert_eq!(reasons.len(), N_VERDICTS);
        assert_eq!(reasons[1], reasons[3]);
        assert_eq!(reasons[4], "the exercise is not another request of the same kind");
        assert_eq!(reasons[6], "the answer is not right or not complete");
    }
}
