//! What `reversal` and `back_translation` share: a text becomes a response, and the writer writes the prompt that it
//! answers. The checker scores the texts first. A prompt is judged after each round, and written again with the list of
//! what is wrong.

use truing_prompts::decontamination::{DecontaminationOptions, EvaluationIndex};
use truing_stages::StageError;

use super::asking::{Asking, Question};
use super::builder::{Dropped, Fates, Job, PlannedCalls, Unit};
use super::inputs::{SEED, SeedRow};
use super::texts::{PromptText, between, prompt_text, score, tagged};

const QUALITY: PromptText = prompt_text!("text_quality");

/// The form of a reply that ends with a score.
pub(super) const SCORE: (&str, &str) = (
    "a score",
    "Your reply does not end with a score from 1 to 10 in double brackets. Write only that, such as [[5]].",
);
const PROMPT: (&str, &str) = (
    "a prompt",
    "Your reply does not have the prompt between <prompt> and </prompt>. Write only that, with the tags.",
);
const INSPECTION: (&str, &str) = (
    "an inspection",
    "Your reply lacks <missing> and </missing>, or a score from 1 to 10 in double brackets after them. Write only \
     these.",
);

/// The step that scores texts, and its calls.
const QUALITY_STEP: &str = "quality";
const SCORING: &str = "scoring texts";

/// The prompt of a unit while it is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    /// Score of the text as a response.
    pub(super) quality: Option<f64>,
    /// The text, or what cleaning leaves of it.
    pub(super) response: String,
    pub(super) prompt: String,
    /// What is missing or wrong; `None` before the first verdict.
    pub(super) problems: Option<Vec<String>>,
    /// Score of the prompt.
    pub(super) score: f64,
    pub(super) n_rounds: usize,
}

impl Draft {
    fn is_done(&self) -> bool {
        self.problems.as_ref().is_some_and(Vec::is_empty)
    }
}

/// A builder that writes prompts for texts.
pub(super) trait PromptWriting: Job {
    /// The step of the fates of units whose prompt is not written.
    const STEP: &'static str;
    /// The phases of a round: writing prompts, and judging them.
    const PHASES: [&'static str; 2];

    /// What the writer is asked for a prompt.
    fn prompt_question(&self, idx: usize, draft: &Draft) -> String;

    /// What the checker is asked about a prompt.
    fn inspection_question(&self, idx: usize, draft: &Draft) -> String;

    /// What is wrong with a prompt, from what the checker lists and by programs.
    fn problems(&self, idx: usize, draft: &Draft, listed: &[String]) -> Vec<String>;

    /// Drafts with the texts as responses. Drops texts with a score below `min_quality`, for this reason; 1 asks for no
    /// score.
    ///
    /// # Errors
    /// When the checker refuses every request.
    fn begin(
        &self,
        min_quality: f64,
        reason: &str,
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<Vec<Draft>, StageError> {
        let draft = |unit: &Unit| Draft { response: unit.text.clone(), ..Draft::default() };
        let mut drafts: Vec<Draft> = self.units().iter().map(draft).collect();
        if min_quality <= 1.0 {
            return Ok(drafts);
        }
        let places = fates.open();
        let texts = places.iter().map(|&idx| quality_question(&self.units()[idx])).collect();
        let answers = asking.check(SCORING, texts, SCORE, |_, reply| score(reply))?;
        fates.take(QUALITY_STEP, &places, answers, |idx, quality| {
            drafts[idx].quality = Some(quality);
            match quality >= min_quality {
                true => Ok(()),
                false => Err(Dropped::new(QUALITY_STEP, reason).with_detail(quality.to_string())),
            }
        });
        Ok(drafts)
    }

    /// Writes and judges the prompts, at most `max_rounds` times each. Returns early once the run is stopped.
    ///
    /// # Errors
    /// When a model refuses every request.
    fn write_prompts(
        &self,
        max_rounds: usize,
        drafts: &mut [Draft],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        for round in 0..max_rounds as u64 {
            if asking.is_stopped() {
                return Ok(());
            }
            self.write_and_judge(round, drafts, asking, fates)?;
        }
        Ok(())
    }

    /// Writes the prompts that are not done, and has them judged.
    ///
    /// # Errors
    /// When a model refuses every request.
    fn write_and_judge(
        &self,
        round: u64,
        drafts: &mut [Draft],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let [writing, judging] = Self::PHASES;
        let places = not_done(drafts, fates);
        let question = |&idx: &usize| Question::new(self.prompt_question(idx, &drafts[idx]), round);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| tagged(reply, "prompt").map(str::to_owned);
        let answers = asking.write(writing, questions, PROMPT, read)?;
        fates.take(Self::STEP, &places, answers, |idx, prompt| {
            drafts[idx].prompt = prompt;
            drafts[idx].n_rounds += 1;
            Ok(())
        });
        if asking.is_stopped() {
            return Ok(());
        }
        let places = not_done(drafts, fates);
        let texts = places.iter().map(|&idx| self.inspection_question(idx, &drafts[idx])).collect();
        let read = |_: usize, reply: &str| Some((between(reply, "missing")?.to_owned(), score(reply)?));
        let answers = asking.check(judging, texts, INSPECTION, read)?;
        fates.take(Self::STEP, &places, answers, |idx, (missing, score)| {
            let draft = &mut drafts[idx];
            draft.score = score;
            let listed = missing.lines().map(str::trim).filter(|line| !line.is_empty());
            let listed: Vec<String> = listed.map(str::to_owned).collect();
            draft.problems = Some(self.problems(idx, draft, &listed));
            Ok(())
        });
        Ok(())
    }

    /// The draft of a finished prompt; for others why there is no row, with `reason` in words that units share.
    ///
    /// # Errors
    /// When the prompt is not done.
    fn finished<'a>(draft: &'a Draft, reason: &str) -> Result<&'a Draft, Dropped> {
        if draft.is_done() {
            return Ok(draft);
        }
        let problems = draft.problems.iter().flatten().map(String::as_str).collect::<Vec<_>>();
        Err(Dropped::new(Self::STEP, reason).with_detail(problems.join("; ")))
    }

    /// The calls that score texts; none where `min_quality` is 1.
    fn scoring_calls(&self, min_quality: f64, open: &[usize]) -> Option<PlannedCalls> {
        let bytes = |&idx: &usize| quality_question(&self.units()[idx]).len() as u64;
        (min_quality > 1.0)
            .then(|| PlannedCalls::in_rounds(SCORING, open.len(), 1, open.iter().map(bytes).sum()))
    }

    /// The calls that write and judge prompts, by a draft for each unit with the texts that are known before.
    fn prompt_calls(
        &self,
        max_rounds: usize,
        open: &[usize],
        draft: impl Fn(usize) -> Draft,
    ) -> [PlannedCalls; 2] {
        let [writing, judging] = Self::PHASES;
        let sum = |of: &dyn Fn(usize, &Draft) -> String| -> u64 {
            open.iter().map(|&idx| of(idx, &draft(idx)).len() as u64).sum()
        };
        let written = sum(&|idx, draft| self.prompt_question(idx, draft));
        let judged = sum(&|idx, draft| self.inspection_question(idx, draft));
        [(writing, written), (judging, judged)]
            .map(|(step, bytes)| PlannedCalls::in_rounds(step, open.len(), max_rounds, bytes))
    }
}

/// A unit for a text; shorter ones are dropped for this reason.
pub(super) fn unit_of_text(seed: &SeedRow, min_characters: usize, reason: &str) -> Unit {
    let mut unit = seed.unit(Vec::new());
    if seed.text.chars().count() < min_characters {
        unit.dropped.get_or_insert_with(|| Dropped::new(SEED, reason));
    }
    unit
}

/// Whether a prompt repeats thirteen words of a text in a row.
pub(super) fn quotes(prompt: &str, text: &str) -> bool {
    let index = EvaluationIndex::new(DecontaminationOptions::default()).and_then(|mut index| {
        index.add("text", [text])?;
        Ok(index)
    });
    index.is_ok_and(|index| index.find(prompt).is_some())
}

fn quality_question(unit: &Unit) -> String {
    QUALITY.fill(unit.language, &[("{text}", &unit.text)])
}

/// Places of the open units whose prompt is not done.
fn not_done(drafts: &[Draft], fates: &Fates) -> Vec<usize> {
    fates.open().into_iter().filter(|&idx| !drafts[idx].is_done()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_that_repeats_thirteen_words_quotes() {
        let text = "Bees find flowers by colour and by scent. A bee that has found many flowers flies home and \
            dances. The dance shows the others where the flowers are.\n\n* The angle shows the direction.\n\
            * The length shows the distance.\n";
        let quoting =
            "On this: A bee that has found many flowers flies home and dances. The dance shows more.";
        assert!(quotes(quoting, text));
        assert!(!quotes("Explain how bees tell each other where flowers are.", text));
    }
}
