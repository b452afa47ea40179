//! One page that needs nothing beside it: no network, no second file. Everything that a run recorded is escaped.

use std::path::Path;

use askama::Template;
use serde_json::{Value, json};
use truing_eval::pipeline::{Evaluation, GradedAnswer};
use truing_eval::reward::{RewardEvaluation, SourceDiagnostics};
use truing_statistics::ShareInterval;
use truing_store::{InputFile, atomic};

use crate::ReportError;
use crate::charts::CHARTS;
use crate::coverage;
use crate::evaluation;
use crate::examples::{RolloutExample, RolloutExamples};
use crate::health::{self, HealthNote};
use crate::names;
use crate::outcome::{self, Outcome};
use crate::run_record::{RunRecord, StageRecord};

/// Reads the run in `folder` and writes its page to `page`, whole or not at all. The folder of a prompt selection gets
/// its coverage page, that of an evaluation on benchmarks the page of its scores.
///
/// # Errors
/// When the folder holds no run, a file of it cannot be understood, or the page cannot be written.
pub fn write_report(folder: &Path, page: &Path) -> Result<(), ReportError> {
    if coverage::is_selection(folder) {
        return coverage::write_coverage(folder, page);
    }
    if evaluation::is_evaluation(folder) {
        return evaluation::write_evaluation(folder, page);
    }
    let html = render(&RunRecord::read(folder)?)?;
    Ok(atomic::write(page, html.as_bytes())?)
}

/// The page of a run.
///
/// # Errors
/// Only through a fault of ours.
pub fn render(record: &RunRecord) -> Result<String, ReportError> {
    let mut charts = Vec::new();
    let outcomes: Vec<Vec<Outcome>> = record.stages.iter().map(outcome::of_stage).collect();
    let stages: Vec<StageSection<'_>> = record
        .stages
        .iter()
        .enumerate()
        .map(|(idx, stage)| StageSection::of(idx, stage, &mut charts))
        .collect::<Result<_, _>>()?;
    let page = Page {
        record,
        cards: cards(record, &outcomes),
        answers: answer_rows(record, &outcomes),
        notes: health::notes_on_run(record),
        unfinished: health::unfinished(record),
        question_sets: question_sets(&record.evaluations),
        open_questions: open_questions(&record.evaluations),
        stages,
        charts_json: json_for_script(&Value::Array(charts)),
    };
    Ok(page.render()?)
}

/// `templates/report.html`.
#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    record: &'a RunRecord,
    cards: Vec<Card>,
    notes: Vec<HealthNote>,
    unfinished: Option<HealthNote>,
    question_sets: Vec<QuestionSet<'a>>,
    open_questions: Vec<OpenQuestion<'a>>,
    stages: Vec<StageSection<'a>>,
    answers: Vec<AnswerRow>,
    charts_json: String,
}

impl Page<'_> {
    /// Before the model's name.
    fn model_words(&self) -> &'static str {
        let is_evaluation = self.record.stages.iter().any(|stage| stage.kind == "reward_evaluation");
        if is_evaluation { "rewards by" } else { "started from" }
    }
}

/// A figure of the headline.
struct Card {
    label: String,
    before: Option<String>,
    value: String,
    detail: String,
    class: &'static str,
}

/// One line of the table that says whether it got better.
struct AnswerRow {
    /// Of a group of lines, on its first.
    stage: String,
    outcome: Option<Outcome>,
}

impl AnswerRow {
    fn group(name: String, outcomes: Vec<Outcome>) -> impl Iterator<Item = Self> {
        let rest = outcomes.len().saturating_sub(1);
        let names = std::iter::once(name).chain(std::iter::repeat_n(String::new(), rest));
        let outcomes = outcomes.into_iter().map(Some).chain(std::iter::repeat(None));
        names.zip(outcomes).map(|(stage, outcome)| Self { stage, outcome })
    }
}

/// Stages in order, then what the evaluations between them say.
fn answer_rows(record: &RunRecord, outcomes: &[Vec<Outcome>]) -> Vec<AnswerRow> {
    let is_one = record.stages.len() == 1;
    let of_stages = record.stages.iter().zip(outcomes).enumerate().map(|(idx, (stage, outcomes))| {
        let heading = words_for(&stage.kind).0;
        let name = if is_one { heading.to_owned() } else { format!("{}. {heading}", idx + 1) };
        (name, outcomes.clone())
    });
    let between = outcome::of_pipeline(record).into_iter();
    of_stages.chain(between).flat_map(|(name, outcomes)| AnswerRow::group(name, outcomes)).collect()
}

/// The graded items of one set.
struct QuestionSet<'a> {
    title: &'a str,
    /// Of each evaluation: how many are right.
    tallies: Vec<String>,
    questions: Vec<Question<'a>>,
}

/// A question that people read the answers of, in the order of the evaluations.
struct OpenQuestion<'a> {
    prompt: &'a str,
    answers: Vec<&'a str>,
}

/// A graded question with its answer in every evaluation.
struct Question<'a> {
    about: &'a str,
    prompt: &'a str,
    expected: &'a str,
    /// In the order of the evaluations; a question that one of them lacks is left open.
    answers: Vec<Option<&'a GradedAnswer>>,
    class: &'static str,
}

impl Question<'_> {
    /// What its coloured edge says, in words.
    fn change(&self) -> &'static str {
        match self.class {
            "won" => "became correct",
            "lost" => "became wrong",
            _ => "",
        }
    }
}

/// What a stage shows.
struct StageSection<'a> {
    heading: &'static str,
    introduction: &'static str,
    facts: Vec<(&'static str, String)>,
    notes: Vec<HealthNote>,
    charts: Vec<ChartFrame>,
    examples: &'a RolloutExamples,
    sources: Vec<[String; 9]>,
    recipe: &'a str,
    files: &'a [InputFile],
    versions: Vec<(&'a str, &'a str)>,
    seeds: Vec<(&'a str, u64)>,
}

/// Where the page's script draws a chart.
struct ChartFrame {
    id: String,
    title: &'static str,
    caption: String,
}

impl<'a> StageSection<'a> {
    fn of(idx: usize, stage: &'a StageRecord, drawn: &mut Vec<Value>) -> Result<Self, ReportError> {
        let (heading, introduction) = words_for(&stage.kind);
        let mut charts = Vec::new();
        for chart in CHARTS {
            if let Some((figure, caption)) = chart.drawn(stage) {
                let id = format!("chart-{idx}-{}", chart.name);
                drawn.push(json!({ "id": id, "figure": figure }));
                charts.push(ChartFrame { id, title: chart.title, caption });
            }
        }
        Ok(Self {
            heading,
            introduction,
            facts: facts(stage),
            notes: health::notes_on_stage(stage),
            charts,
            examples: &stage.examples,
            sources: reward_sources(stage),
            recipe: &stage.recipe,
            files: &stage.inputs.files,
            versions: stage.inputs.versions.iter().map(|(name, v)| (name.as_str(), v.as_str())).collect(),
            seeds: stage.inputs.seeds.iter().map(|(purpose, seed)| (purpose.as_str(), *seed)).collect(),
        })
    }
}

impl StageSection<'_> {
    /// A note with its code marked.
    fn note_markup(note: &HealthNote) -> String {
        marked_up(&note.text)
    }

    /// Lists of completions with their titles, those that are not empty.
    fn example_lists(&self) -> Vec<(&'static str, &[RolloutExample])> {
        let lists = [
            ("Best completions of the last steps", &self.examples.best[..]),
            ("Worst completions of the last steps", &self.examples.worst[..]),
        ];
        lists.into_iter().filter(|(_, examples)| !examples.is_empty()).collect()
    }
}

/// Heading and introduction of a stage.
fn words_for(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "sft" => (
            "Supervised fine-tuning",
            "The model is trained on the assistant turns of conversations. Samples are packed without attending to \
             each other.",
        ),
        "reward_model" => {
            ("Reward model", "A reward model is trained on preference pairs (chosen and rejected responses).")
        }
        "reward_evaluation" => (
            "Reward model, evaluated",
            "The reward model was evaluated on responses with a known order, and scores where the data has them.",
        ),
        "embed" => (
            "Embedding model",
            "An encoder is trained on triplets: the anchor's embedding becomes more similar to the positive than to \
             the negative.",
        ),
        "classifier" => (
            "Classifier",
            "The model is trained to predict labels by dimension, scores, or both, and evaluated on held-out texts.",
        ),
        "dpo" => (
            "Direct preference optimisation",
            "The model is trained on preferences directly: the chosen response becomes more likely than the rejected \
             one, relative to the reference model.",
        ),
        "distill" => (
            "On-policy distillation",
            "The model samples completions, and its distribution at each token moves to that of a teacher. The loss is the \
             divergence from the teacher in nats per token.",
        ),
        "grpo" => (
            "Reinforcement learning (GRPO)",
            "The policy samples several completions of each prompt; completions with a reward above the mean of their \
             group become more likely.",
        ),
        _ => ("Stage", ""),
    }
}

/// The headline: the first outcome of each stage and of the whole run, then speed and memory.
fn cards(record: &RunRecord, outcomes: &[Vec<Outcome>]) -> Vec<Card> {
    let is_one = record.stages.len() == 1;
    let mut cards: Vec<Card> = outcome::of_pipeline(record)
        .pop()
        .map(|(name, outcomes)| {
            outcomes.into_iter().map(|outcome| outcome_card(&outcome, Some(&name))).collect()
        })
        .unwrap_or_default();
    for (stage, outcomes) in record.stages.iter().zip(outcomes) {
        let heading = (!is_one).then(|| words_for(&stage.kind).0);
        // A trend of training is the headline only where nothing is held out.
        let n = outcomes.iter().filter(|outcome| outcome.is_held_out).count().max(1);
        cards.extend(outcomes.iter().take(n).map(|outcome| outcome_card(outcome, heading)));
    }
    let mean = |name| mean_over_stages(record, name);
    if let Some(speed) = mean(names::TOKENS_PER_SECOND) {
        cards.push(Card::plain("speed", format!("{speed:.0}"), "tokens per second".into()));
    }
    cards.extend(memory_card(record));
    if let Some(share) = mean(names::UTILISATION) {
        cards.push(Card::plain(
            "utilisation",
            format!("{:.1} %", 100.0 * share),
            "of the packs' capacity".into(),
        ));
    }
    cards
}

fn outcome_card(outcome: &Outcome, of: Option<&str>) -> Card {
    let is_trend = outcome.after.is_none();
    let change = outcome.change_text();
    let detail = match outcome.change {
        Some(_) if is_trend => format!("{}; {}", outcome.basis, outcome.words()),
        Some(_) => format!("{change}; {}", outcome.words()),
        None => format!("{change}; no interval"),
    };
    Card {
        label: of.map_or_else(|| outcome.measure.clone(), |of| format!("{of}: {}", outcome.measure)),
        before: outcome.before.map(|(value, _)| outcome.unit.text(value)),
        value: if is_trend { change } else { outcome.after_text() },
        detail,
        class: outcome.class(),
    }
}

/// The largest measured peak, and what was predicted for its stage.
fn memory_card(record: &RunRecord) -> Option<Card> {
    let peak = |stage: &StageRecord| stage.last(names::PEAK_MEMORY_GIB).unwrap_or(f64::NEG_INFINITY);
    let stage = record.stages.iter().rev().max_by(|a, b| peak(a).total_cmp(&peak(b)))?;
    let measured = stage.last(names::PEAK_MEMORY_GIB)?;
    let (detail, class) = match health::memory_error(stage) {
        None => ("measured".to_owned(), ""),
        Some((_, predicted, error)) if health::is_of_shorter_completions(stage, error) => {
            (format!("predicted {} for completions of full length", gib(predicted)), "")
        }
        Some((_, predicted, error)) => {
            let is_within = error.abs() <= health::MEMORY_TOLERANCE;
            let words = if is_within { "within 10 %" } else { "outside 10 %" };
            let detail = format!("predicted {}: {:+.0} %, {words}", gib(predicted), 100.0 * error);
            (detail, if is_within { "" } else { "look" })
        }
    };
    Some(Card { class, ..Card::plain("peak memory", gib(measured), detail) })
}

impl Card {
    fn plain(label: &'static str, value: String, detail: String) -> Self {
        Self { label: label.to_owned(), before: None, value, detail, class: "" }
    }
}

/// Mean over all rows of all stages.
fn mean_over_stages(record: &RunRecord, name: &str) -> Option<f64> {
    let values: Vec<f64> =
        record.stages.iter().flat_map(|stage| stage.series(name)).map(|(_, value)| value).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Sources of the last evaluation of a reward model, and all of them together, as a table.
fn reward_sources(stage: &StageRecord) -> Vec<[String; 9]> {
    let Some(RewardEvaluation { diagnostics: found, .. }) = stage.diagnostics.last() else {
        return Vec::new();
    };
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let percent =
        |value: Option<f64>| value.map_or_else(String::new, |value| format!("{:.1} %", 100.0 * value));
    let bounds = |interval: Option<ShareInterval>| {
        interval.map_or_else(String::new, |interval| format!(" ({})", interval.percent()))
    };
    let row = |name: &str, source: &SourceDiagnostics| {
        [
            name.to_owned(),
            source.n_pairs.to_string(),
            percent(source.accuracy) + &bounds(source.accuracy_interval),
            number(source.margin),
            percent(source.prefers_longer),
            number(source.length_correlation),
            number(source.score_correlation),
            number(source.score_rmse),
            number(source.spread_of_ties),
        ]
    };
    let all = (found.by_source.len() > 1).then(|| row("all", &found.all));
    found.by_source.iter().map(|(name, source)| row(name, source)).chain(all).collect()
}

fn facts(stage: &StageRecord) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if !stage.metrics.is_empty() {
        facts.push(("optimiser steps", stage.last_step().to_string()));
    }
    if let Some(RewardEvaluation { diagnostics, .. }) = stage.diagnostics.last() {
        facts.push(("responses scored", diagnostics.n_responses.to_string()));
        facts.push((
            "mean reward",
            format!("{:.2}, deviation {:.2}", diagnostics.mean_reward, diagnostics.reward_deviation),
        ));
        if let Some(error) = diagnostics.calibration_error {
            facts.push(("calibration error", format!("{error:.3}")));
        }
    }
    if let Some(tokens) = stage.last(names::NUM_TOKENS) {
        facts.push(("tokens seen", format!("{tokens:.0}")));
    }
    if let Some(loss) = stage.last(names::LOSS) {
        facts.push(("last training loss", format!("{loss:.3}")));
    }
    if let Some(plan) = &stage.plan {
        if let Some(k) = plan.layers_per_segment {
            facts.push(("layers per segment", k.to_string()));
        }
        if let Some(budget) = plan.budget_bytes {
            facts.push(("memory budget", gib(budget as f64 / GIB)));
        }
        if !plan.reason.is_empty() {
            facts.push(("activation checkpointing", plan.reason.clone()));
        }
    }
    facts
}

/// The open questions of the last evaluation, each with its answer in every evaluation.
fn open_questions(evaluations: &[Evaluation]) -> Vec<OpenQuestion<'_>> {
    let of = |id: &str| -> Vec<&str> {
        let answer = |evaluation: &'_ Evaluation| -> Option<usize> {
            evaluation.open_answers.iter().position(|answer| answer.id == id)
        };
        let text =
            |evaluation| answer(evaluation).map_or("", |idx| evaluation.open_answers[idx].answer.as_str());
        evaluations.iter().map(text).collect()
    };
    let last = evaluations.last().into_iter().flat_map(|evaluation| &evaluation.open_answers);
    last.map(|newest| OpenQuestion { prompt: &newest.prompt, answers: of(&newest.id) }).collect()
}

/// The graded items of the last evaluation by set.
fn question_sets(evaluations: &[Evaluation]) -> Vec<QuestionSet<'_>> {
    let Some(last) = evaluations.last() else { return Vec::new() };
    let tally = |set: &str| {
        let of = |evaluation: &Evaluation| {
            let score = evaluation.sets().into_iter().find(|score| score.set == set);
            score.map_or_else(String::new, |score| format!("{} of {}", score.n_right, score.n))
        };
        evaluations.iter().map(of).collect()
    };
    last.sets()
        .into_iter()
        .map(|score| QuestionSet {
            title: if score.set.is_empty() { "graded questions" } else { score.set },
            tallies: tally(score.set),
            questions: questions(evaluations, last, score.set),
        })
        .collect()
}

/// The questions of a set in their order, each with its answer in every evaluation.
fn questions<'a>(evaluations: &'a [Evaluation], last: &'a Evaluation, set: &str) -> Vec<Question<'a>> {
    let question = |of: &'_ GradedAnswer| -> Vec<Option<&GradedAnswer>> {
        evaluations.iter().map(|e| e.answers.iter().find(|answer| answer.id == of.id)).collect()
    };
    last.answers
        .iter()
        .filter(|newest| newest.set == set)
        .map(|newest| {
            let answers = question(newest);
            let was_right = answers.first().copied().flatten().map(|answer| answer.is_right);
            Question {
                about: &newest.about,
                prompt: &newest.prompt,
                expected: &newest.expected,
                class: match (was_right, newest.is_right) {
                    (Some(false), true) => "won",
                    (Some(true), false) => "lost",
                    _ => "",
                },
                answers,
            }
        })
        .collect()
}

/// Bytes of the unit that a page shows memory in.
const GIB: f64 = (1u64 << 30) as f64;

fn gib(gib: f64) -> String {
    format!("{gib:.2} GiB")
}

/// Text as markup, with what stands between backticks as code.
pub(crate) fn marked_up(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut markup = String::new();
    for (idx, part) in escaped.split('`').enumerate() {
        if idx % 2 == 1 {
            markup += &format!("<code>{part}</code>");
        } else {
            markup += part;
        }
    }
    markup
}

/// JSON that cannot end the script element that contains it.
pub(crate) fn json_for_script(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_marked_and_markup_is_not_taken_over() {
        assert_eq!(marked_up("set `max_steps` <now>"), "set <code>max_steps</code> &lt;now&gt;");
    }

    #[test]
    fn header_cells_have_a_scope_and_wide_tables_can_be_scrolled_by_key() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
        let (mut n_headers, mut n_scrolled) = (0, 0);
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let template = std::fs::read_to_string(&path).unwrap();
            let count = |text: &str| template.matches(text).count();
            assert_eq!(count("<th>") + count("<th "), count("<th scope=\"col\""), "{}", path.display());
            let n_tables = count("<div class=\"scroll") + count("<div class=\"graph");
            assert_eq!(n_tables, count("role=\"region\" tabindex=\"0\" aria-label=\""), "{}", path.display());
            n_headers += count("<th scope=\"col\"");
            n_scrolled += n_tables;
        }
        assert!(n_headers > 50 && n_scrolled > 15, "{n_headers} header cells, {n_scrolled} tables");
    }

    #[test]
    fn json_cannot_break_out_of_its_script() {
        let text = json_for_script(&json!({ "a": "</script><!--" }));
        assert!(!text.contains('<'));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["a"], "</script><!--");
    }
}
