//! Back-translation (report 3.2): a quality model selects fine texts, and a model writes the instruction that each of
//! them answers. The text, cleaned, is the response. After instruction back-translation (Humpback, arXiv 2308.06259).
//!
//! 1. The checker scores the text as a response; poor texts are dropped.
//! 2. The writer removes what does not belong in a response. A program compares: nearly every word of the rest has to
//!    be a word of the text, in its order, so that nothing is rewritten.
//! 3. The writer writes the instruction, the checker judges the pair and lists what is wrong, and a program checks
//!    whether the instruction quotes the text. It is written again, at most `max_rounds` times.
//!
//! `reversal` differs: it keeps the text letter by letter, and demands measured properties of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use truing_ask::pas::Language;
use truing_prompts::rouge::{RougeScore, RougeTokenizer, RougeVocabulary, rouge_l};
use truing_run::RunError;
use truing_run::checks::{require_counts, require_share};
use truing_stages::StageError;

use super::asking::{Asking, Question};
use super::bounds::{require_bounded, require_scores};
use super::builder::{BuilderInfo, Built, BuiltRow, Dropped, Fates, Job, PlannedCalls, Unit};
use super::config::BuildConfig;
use super::inputs::SeedRow;
use super::prompt_writing::{Draft, PromptWriting, quotes, unit_of_text};
use super::texts::{PromptText, prompt_text, tagged};

/// How the builder is listed.
pub(super) const INFO: BuilderInfo = BuilderInfo {
    name: "back_translation",
    about: "instructions for fine texts, which are cleaned and become the responses",
    seeds: "texts (`text`, or another field by `columns = { prompt = \"body\" }`)",
    asks: "the checker to score texts and to judge pairs, the writer to clean texts and to write instructions",
    works_without_data: false,
    prepare,
};

const CLEAN: PromptText = prompt_text!("clean_text");
const TRANSLATE: PromptText = prompt_text!("back_translate");
const JUDGE: PromptText = prompt_text!("judge_pair");

const CLEANED: (&str, &str) = (
    "a cleaned text",
    "Your reply does not have the cleaned text between <response> and </response>. Write only that, with the tags.",
);

/// The step that cleans texts, and its calls.
const CLEANING_STEP: &str = "cleaning";
const CLEANING: &str = "cleaning texts";

/// Minimum share of the words of a cleaned text that are words of the text, in its order. A program splits and counts
/// words, so that a few differ where a line break or a mark is removed. Numbers are all the text's.
const MIN_OWN_WORDS: f64 = 0.98;

/// The table `[back_translation]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BackTranslationConfig {
    /// Shorter texts are dropped.
    pub min_characters: usize,
    /// Minimum score of a text as a response, from 1 to 10. 1 asks for no score.
    pub min_quality: f64,
    /// Whether the writer removes from the text what does not belong in a response.
    pub clean: bool,
    /// Minimum share of the text's words that are left after cleaning.
    pub min_kept_share: f64,
    /// Minimum score of instruction and response, from 1 to 10.
    pub min_score: f64,
    /// Maximum times that an instruction is written.
    pub max_rounds: usize,
}

impl Default for BackTranslationConfig {
    fn default() -> Self {
        Self {
            min_characters: 200,
            min_quality: 8.0,
            clean: true,
            min_kept_share: 0.6,
            min_score: 8.0,
            max_rounds: 2,
        }
    }
}

impl BackTranslationConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is invalid.
    pub(super) fn check(&self) -> Result<(), RunError> {
        let rounds = [("back_translation.max_rounds", self.max_rounds)];
        require_counts(rounds)?;
        require_bounded(rounds)?;
        require_share("back_translation.min_kept_share", self.min_kept_share)?;
        require_scores([
            ("back_translation.min_quality", self.min_quality),
            ("back_translation.min_score", self.min_score),
        ])
    }
}

/// One unit for each text.
#[derive(Debug)]
struct BackTranslationJob {
    settings: BackTranslationConfig,
    units: Vec<Unit>,
}

fn prepare(config: &BuildConfig, seeds: &[SeedRow]) -> Result<Box<dyn Job>, StageError> {
    let settings = config.back_translation.clone().unwrap_or_default();
    settings.check()?;
    let reason = "shorter than `back_translation.min_characters`";
    let unit = |seed: &SeedRow| unit_of_text(seed, settings.min_characters, reason);
    let units = seeds.iter().map(unit).collect();
    Ok(Box::new(BackTranslationJob { settings, units }))
}

/// How much of a cleaned text is in the text (`precision`), and how much of the text is left (`recall`), both by the
/// longest common subsequence of their words.
fn compared(cleaned: &str, text: &str) -> RougeScore {
    let mut vocabulary = RougeVocabulary::new(RougeTokenizer::Words);
    let (target, prediction) = (vocabulary.tokens(text), vocabulary.tokens(cleaned));
    rouge_l(&target, &prediction)
}

/// A number of a cleaned text that the text does not have at its place.
fn new_number<'a>(cleaned: &'a str, text: &str) -> Option<&'a str> {
    let mut of_text = numbers(text);
    numbers(cleaned).find(|number| !of_text.any(|other| other == *number))
}

/// Runs of digits, in their order.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_numeric()).filter(|run| !run.is_empty())
}

/// What is wrong with a cleaned text.
fn check_cleaned(cleaned: &str, text: &str, min_kept_share: f64) -> Result<(), (&'static str, String)> {
    let RougeScore { precision, recall, .. } = compared(cleaned, text);
    if precision < MIN_OWN_WORDS {
        return Err((
            "the cleaned text has other words",
            format!("{precision:.3} of its words are the text's"),
        ));
    }
    if let Some(number) = new_number(cleaned, text) {
        return Err(("the cleaned text has other numbers", number.to_owned()));
    }
    if recall < min_kept_share {
        let reason = "cleaning removed more than `back_translation.min_kept_share` allows";
        return Err((reason, format!("{recall:.3} of the words are left")));
    }
    Ok(())
}

impl BackTranslationJob {
    fn text(&self, text: &PromptText, idx: usize, draft: &Draft) -> String {
        let unit = &self.units[idx];
        let problems = draft.problems.iter().flatten().map(String::as_str).collect::<Vec<_>>().join("\n");
        let values = [
            ("{text}", unit.text.as_str()),
            ("{response}", &draft.response),
            ("{prompt}", &draft.prompt),
            ("{missing}", &problems),
        ];
        text.fill(unit.language, &values)
    }

    /// Replaces each response by what the writer leaves of the text.
    fn clean(
        &self,
        drafts: &mut [Draft],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        if !self.settings.clean {
            return Ok(());
        }
        let places = fates.open();
        let question = |&idx: &usize| Question::new(self.text(&CLEAN, idx, &drafts[idx]), 0);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| tagged(reply, "response").map(str::to_owned);
        let answers = asking.write(CLEANING, questions, CLEANED, read)?;
        fates.take(CLEANING_STEP, &places, answers, |idx, cleaned| {
            check_cleaned(&cleaned, &self.units[idx].text, self.settings.min_kept_share)
                .map_err(|(reason, detail)| Dropped::new(CLEANING_STEP, reason).with_detail(detail))?;
            drafts[idx].response = cleaned;
            Ok(())
        });
        Ok(())
    }

    fn row(&self, idx: usize, draft: &Draft) -> BuiltRow {
        let unit = &self.units[idx];
        let mut columns = Map::from_iter([
            ("score".to_owned(), json!(draft.score)),
            ("n_rounds".to_owned(), json!(draft.n_rounds)),
        ]);
        columns.extend(draft.quality.map(|quality| ("quality".to_owned(), json!(quality))));
        if draft.response != unit.text {
            columns.insert("original_text".into(), json!(unit.text));
        }
        let (prompt, response) = (draft.prompt.clone(), Some(draft.response.clone()));
        BuiltRow { prompt, response, columns, ..BuiltRow::default() }
    }
}

impl PromptWriting for BackTranslationJob {
    const STEP: &'static str = "back-translation";
    const PHASES: [&'static str; 2] = ["writing instructions", "judging pairs"];

    fn prompt_question(&self, idx: usize, draft: &Draft) -> String {
        self.text(&TRANSLATE, idx, draft)
    }

    fn inspection_question(&self, idx: usize, draft: &Draft) -> String {
        self.text(&JUDGE, idx, draft)
    }

    /// What is wrong with a pair, in its language: a low score with what the judge lists, and a prompt that quotes.
    fn problems(&self, idx: usize, draft: &Draft, listed: &[String]) -> Vec<String> {
        let is_chinese = self.units[idx].language == Language::Zh;
        let mut problems = Vec::new();
        if draft.score < self.settings.min_score {
            problems.extend_from_slice(listed);
            let score = draft.score;
            problems.push(match is_chinese {
                true => format!("这一对只得到{score}分，满分10分。"),
                false => format!("The pair was given a score of {score} of 10."),
            });
        }
        if quotes(&draft.prompt, &draft.response) {
            let quoted =
                if is_chinese { "指令引用了回答。" } else { "The instruction quotes the response." };
            problems.push(quoted.into());
        }
        problems
    }
}

impl Job for BackTranslationJob {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn calls(&self) -> Vec<PlannedCalls> {
        let BackTranslationConfig { min_quality, max_rounds, .. } = self.settings;
        let open: Vec<usize> = Fates::of(&self.units).open();
        // The response has at most the text's length; instructions are not known.
        let draft = |idx: usize| Draft { response: self.units[idx].text.clone(), ..Draft::default() };
        let bytes = |&idx: &usize| self.text(&CLEAN, idx, &Draft::default()).len() as u64;
        let cleaning = self
            .settings
            .clean
            .then(|| PlannedCalls::in_rounds(CLEANING, open.len(), 1, open.iter().map(bytes).sum()));
        let before = self.scoring_calls(min_quality, &open).into_iter().chain(cleaning);
        before.chain(self.prompt_calls(max_rounds, &open, draft)).collect()
    }

    fn build(&self, asking: &mut Asking<'_>) -> Result<Option<Vec<Built>>, StageError> {
        let BackTranslationConfig { min_quality, max_rounds, .. } = self.settings;
        let mut fates = Fates::of(&self.units);
        let reason = "the text's score is below `back_translation.min_quality`";
        let mut drafts = self.begin(min_quality, reason, asking, &mut fates)?;
        if asking.is_stopped() {
            return Ok(None);
        }
        self.clean(&mut drafts, asking, &mut fates)?;
        self.write_prompts(max_rounds, &mut drafts, asking, &mut fates)?;
        if asking.is_stopped() {
            return Ok(None);
        }
        let reason = "the pair is not good enough after `back_translation.max_rounds`";
        Ok(Some(fates.finish(|idx| Ok(self.row(idx, Self::finished(&drafts[idx], reason)?)))))
    }

    /// The response is the text or what is left of it, and the instruction does not quote it.
    fn recheck(&self, record: &Map<String, Value>) -> Result<(), String> {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        if record.contains_key("original_text") {
            check_cleaned(text("response"), text("original_text"), self.settings.min_kept_share)
                .map_err(|(reason, detail)| format!("{reason}: {detail}"))?;
        }
        match quotes(text("prompt"), text("response")) {
            true => Err("the instruction quotes thirteen words of the response".into()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_removes_and_adds_nothing() {
        let text = "By A. Writer, 3 May.\nBees find flowers by colour. Photo: B. Taker.\nThey dance at home.";
        let check = |cleaned: &str| check_cleaned(cleaned, text, 0.5).map_err(|(reason, _)| reason);
        assert_eq!(check("Bees find flowers by colour.\n\nThey dance at home."), Ok(()));
        assert_eq!(check(text), Ok(()));
        let rewritten = "Bees locate flowers by their colour. They dance at home.";
        assert_eq!(check(rewritten), Err("the cleaned text has other words"));
        let reason = "cleaning removed more than `back_translation.min_kept_share` allows";
        assert_eq!(check("They dance at home."), Err(reason));
        assert_eq!(check_cleaned("蜜蜂靠颜色找到花。", "作者：甲。蜜蜂靠颜色找到花。", 0.6).err(), None);
        let long =
            format!("{}In 1789 there were 1,200 of them[2].", "A bee visits many flowers. ".repeat(60));
        let changed = |from: &str, to: &str| check_cleaned(&long.replace(from, to), &long, 0.6);
        assert_eq!(changed("[2]", ""), Ok(()));
        let reason = "the cleaned text has other numbers";
        assert_eq!(changed("1789", "1798"), Err((reason, "1798".to_owned())));
        assert_eq!(changed("In 1789 there were 1,200", "Of 1,200 in 1789"), Err((reason, "1789".to_owned())));
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        BackTranslationConfig::default().check().unwrap();
        let refused = |config: BackTranslationConfig| config.check().unwrap_err().to_string();
        let high = BackTranslationConfig { min_score: 11.0, ..BackTranslationConfig::default() };
        assert_eq!(refused(high), "`back_translation.min_score` is 11: expected a score from 1 to 10");
        let share = BackTranslationConfig { min_kept_share: 1.5, ..BackTranslationConfig::default() };
        assert!(refused(share).contains("`back_translation.min_kept_share` is 1.5"));
    }
}
