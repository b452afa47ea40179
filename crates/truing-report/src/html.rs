//! One page that needs nothing beside it: no network, no second file. Everything that a run recorded is escaped.

use std::path::Path;

use askama::Template;
use plotly::Plot;
use serde_json::{Value, json};
use truing_eval::classifier::{DimensionEvaluation, ScoreEvaluation};
use truing_eval::pipeline::{Evaluation, GradedAnswer};
use truing_eval::reward::{RewardEvaluation, SourceDiagnostics};
use truing_statistics::ShareInterval;
use truing_store::{InputFile, atomic};

use crate::ReportError;
use crate::charts::CHARTS;
use crate::coverage;
use crate::examples::{RolloutExample, RolloutExamples};
use crate::health::{self, HealthNote};
use crate::names;
use crate::run_record::{RunRecord, StageRecord};

/// Reads the run in `folder` and writes its page to `page`, whole or not at all. The folder of a prompt selection gets
/// its coverage page.
///
/// # Errors
/// When the folder holds no run, a file of it cannot be understood, or the page cannot be written.
pub fn write_report(folder: &Path, page: &Path) -> Result<(), ReportError> {
    if coverage::is_selection(folder) {
        return coverage::write_coverage(folder, page);
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
    let stages = record
        .stages
        .iter()
        .enumerate()
        .map(|(idx, stage)| StageSection::of(idx, stage, &mut charts))
        .collect::<Result<_, _>>()?;
    let page = Page {
        record,
        cards: cards(record),
        notes: health::notes_on_run(record),
        questions: questions(&record.evaluations),
        stages,
        plotly_script: plotly_script(),
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
    questions: Vec<Question<'a>>,
    stages: Vec<StageSection<'a>>,
    plotly_script: String,
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
    label: &'static str,
    before: Option<String>,
    value: String,
    detail: String,
    class: &'static str,
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
    caption: &'static str,
}

impl<'a> StageSection<'a> {
    fn of(idx: usize, stage: &'a StageRecord, drawn: &mut Vec<Value>) -> Result<Self, ReportError> {
        let (heading, introduction) = words_for(&stage.kind);
        let mut charts = Vec::new();
        for chart in CHARTS {
            let plot: Option<Plot> = (chart.draw)(stage);
            if let Some(plot) = plot {
                let id = format!("chart-{idx}-{}", chart.name);
                drawn.push(json!({ "id": id, "figure": serde_json::to_value(&plot)? }));
                charts.push(ChartFrame { id, title: chart.title, caption: chart.caption });
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
             each other; layers are recomputed in segments to save memory.",
        ),
        "reward_model" => {
            ("Reward model", "A reward model is trained on preference pairs (chosen and rejected responses).")
        }
        "reward_evaluation" => (
            "Reward model, evaluated",
            "The reward model was evaluated on responses with a known order, and scores where the data has them.",
        ),
        "classifier" => (
            "Classifier",
            "The model is trained to predict labels by dimension, scores, or both. It is measured on texts that it \
             was not trained on.",
        ),
        "dpo" => (
            "Preference optimisation",
            "The model is trained on preferences directly: the chosen response becomes more likely than the rejected \
             one, relative to the reference model.",
        ),
        "grpo" => (
            "Preference alignment",
            "The model answers each prompt several times; answers that score above the mean of their group become \
             more likely.",
        ),
        _ => ("Stage", ""),
    }
}

/// The headline: did it get better, and what did it cost?
fn cards(record: &RunRecord) -> Vec<Card> {
    let mut cards = Vec::new();
    if let [before, .., after] = record.evaluations.as_slice() {
        if let (Some(first), Some(last)) = (before.heldout_loss, after.heldout_loss) {
            cards.push(Card {
                label: "held-out loss",
                before: Some(format!("{first:.3}")),
                value: format!("{last:.3}"),
                detail: format!(
                    "{:+.0} %, over {} tokens",
                    100.0 * (last / first - 1.0),
                    after.n_heldout_tokens
                ),
                class: if last < first { "good" } else { "bad" },
            });
        }
        if !after.answers.is_empty() {
            let (first, last) = (before.n_right(), after.n_right());
            cards.push(Card {
                label: "answers right",
                before: Some(first.to_string()),
                value: last.to_string(),
                detail: format!("of {}, graded by a program", after.answers.len()),
                class: if last > first { "good" } else { "bad" },
            });
        }
    } else if let Some((first, last)) = record.stages.iter().find_map(first_and_last_eval_loss) {
        cards.push(Card {
            label: "held-out loss",
            before: Some(format!("{first:.3}")),
            value: format!("{last:.3}"),
            detail: format!("{:+.0} %", 100.0 * (last / first - 1.0)),
            class: if last < first { "good" } else { "bad" },
        });
    }
    for (label, name) in [("reward", names::REWARD), ("held-out reward", names::EVAL_REWARD)] {
        let ends = record.stages.iter().find_map(|stage| health::ends(&stage.series(name)));
        if let Some((first, last)) = ends {
            cards.push(Card {
                label,
                before: Some(format!("{first:.3}")),
                value: format!("{last:.3}"),
                detail: "means of the first and last tenth".into(),
                class: if last > first { "good" } else { "bad" },
            });
        }
    }
    cards.extend(record.stages.iter().filter_map(order_card));
    cards.extend(record.stages.iter().flat_map(classifier_cards));
    let mean = |name| mean_over_stages(record, name);
    if let Some(speed) = mean(names::TOKENS_PER_SECOND) {
        cards.push(Card::plain("speed", format!("{speed:.0}"), "tokens per second".into()));
    }
    let peak = record.stages.iter().filter_map(|s| s.last(names::PEAK_MEMORY_GIB)).reduce(f64::max);
    if let Some(peak) = peak {
        let predicted = record.stages.iter().filter_map(|s| s.plan.as_ref()?.peak_bytes).max();
        let detail = predicted
            .map_or_else(|| "measured".into(), |bytes| format!("predicted {}", gib(bytes as f64 / GIB)));
        cards.push(Card::plain("peak memory", gib(peak), detail));
    }
    if let Some(share) = mean(names::UTILISATION) {
        cards.push(Card::plain(
            "packs filled",
            format!("{:.1} %", 100.0 * share),
            "the rest is empty".into(),
        ));
    }
    cards
}

/// How often a reward model is right.
fn order_card(stage: &StageRecord) -> Option<Card> {
    let (first, last) = (stage.diagnostics.first()?, stage.diagnostics.last()?);
    let accuracy = last.diagnostics.all.accuracy?;
    let interval = last.diagnostics.all.accuracy_interval;
    let before = first.diagnostics.all.accuracy.filter(|_| first.step < last.step);
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    Some(Card {
        label: "pairs in order",
        before: before.map(percent),
        value: percent(accuracy),
        detail: of_trials(interval, last.diagnostics.all.n_pairs, "pairs"),
        class: class_above(interval, before.unwrap_or(0.5)),
    })
}

/// The 95 % interval of a share and how many trials it is of.
fn of_trials(interval: Option<ShareInterval>, n: u64, what: &str) -> String {
    match interval {
        Some(interval) => format!("95 % interval {}, of {n} {what}", interval.percent()),
        None => format!("of {n} {what}"),
    }
}

/// Good where the whole interval lies above what it is compared with.
fn class_above(interval: Option<ShareInterval>, baseline: f64) -> &'static str {
    if interval.is_some_and(|interval| interval.low > baseline) { "good" } else { "" }
}

/// How often a classifier is right, and how far a scorer agrees with what it learnt from.
fn classifier_cards(stage: &StageRecord) -> Vec<Card> {
    let Some(found) = &stage.classification else { return Vec::new() };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let of_dimension = |dimension: &DimensionEvaluation| {
        let accuracy = dimension.accuracy?;
        let interval = dimension.accuracy_interval;
        let baseline = dimension.baseline_accuracy;
        Some(Card {
            label: "labels right",
            before: baseline.map(percent),
            value: percent(accuracy),
            detail: format!("{}: {}", dimension.name, of_trials(interval, dimension.n_texts, "texts")),
            class: class_above(interval, baseline.unwrap_or(0.0)),
        })
    };
    let of_score = |score: &ScoreEvaluation| {
        let (order, rank) = (score.order_accuracy?, score.spearman?);
        let detail = format!("{}: Spearman {rank:.2}, {} texts", score.name, score.n_texts);
        Some(Card::plain("pairs in order", percent(order), detail))
    };
    let labels = found.dimensions.iter().filter_map(of_dimension);
    labels.chain(found.scores.iter().filter_map(of_score)).collect()
}

impl Card {
    fn plain(label: &'static str, value: String, detail: String) -> Self {
        Self { label, before: None, value, detail, class: "" }
    }
}

fn first_and_last_eval_loss(stage: &StageRecord) -> Option<(f64, f64)> {
    let losses = stage.series(names::EVAL_LOSS);
    (losses.len() >= 2).then(|| (losses[0].1, losses[losses.len() - 1].1))
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
            facts.push(("layers a segment", k.to_string()));
        }
        if let Some(budget) = plan.budget_bytes {
            facts.push(("memory allowed", gib(budget as f64 / GIB)));
        }
        if !plan.reason.is_empty() {
            facts.push(("why", plan.reason.clone()));
        }
    }
    facts
}

/// The questions of the last evaluation in their order, each with its answer in every evaluation.
fn questions(evaluations: &[Evaluation]) -> Vec<Question<'_>> {
    let Some(last) = evaluations.last() else { return Vec::new() };
    let question = |of: &'_ GradedAnswer| -> Vec<Option<&GradedAnswer>> {
        evaluations.iter().map(|e| e.answers.iter().find(|answer| answer.id == of.id)).collect()
    };
    last.answers
        .iter()
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

/// plotly.js as the crate carries it, without the formula renderer that the crate puts behind it.
pub(crate) fn plotly_script() -> String {
    let mut scripts = Plot::offline_js_sources();
    if let Some(end) = scripts.find("</script>") {
        scripts.truncate(end + "</script>".len());
    }
    scripts
}

/// JSON that cannot end the script element that contains it.
pub(crate) fn json_for_script(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_plotting_script_is_inlined() {
        let script = plotly_script();
        assert!(script.starts_with("<script") && script.ends_with("</script>"));
        assert_eq!(script.matches("</script>").count(), 1);
        assert!(script.contains("plotly.js v3") && script.len() < 5_000_000, "{}", script.len());
    }

    #[test]
    fn json_cannot_break_out_of_its_script() {
        let text = json_for_script(&json!({ "a": "</script><!--" }));
        assert!(!text.contains('<'));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["a"], "</script><!--");
    }
}
