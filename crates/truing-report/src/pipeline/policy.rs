//! Signs of reward hacking in a stage that trains a policy with rewards: does the reward rise together with what it
//! stands for, or with length, repetition and distance from the reference?

use serde_json::{Value, json};
use truing_statistics::Estimate;
use truing_types::with_causes;

use super::policy_rollouts::{LEARNED, RolloutMeasure, measures};
use super::text::beginning;
use crate::charts::CHARTS;
use crate::examples::read_ends;
use crate::health::{self, HealthNote, Level};
use crate::html::marked_up;
use crate::names;
use crate::outcome::{self, Unit, Verdict};
use crate::run_record::StageRecord;

/// Charts of a policy that say something about hacking, by name.
const CHART_NAMES: [&str; 4] = ["reward", "reward_parts", "kl", "completion_length"];
/// Prompts whose completions early and late are shown.
const N_EXAMPLES: usize = 2;

/// A policy as the page shows it.
pub(super) struct PolicySection {
    /// The stage.
    pub(super) stage: String,
    pub(super) lines: Vec<PolicyLine>,
    pub(super) notes: Vec<HealthNote>,
    pub(super) charts: Vec<ChartFrame>,
    pub(super) examples: Vec<Example>,
}

impl PolicySection {
    /// A note with its code marked.
    pub(super) fn note_markup(note: &HealthNote) -> String {
        marked_up(&note.text)
    }
}

/// A measure at the beginning and at the end of training.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PolicyLine {
    pub(super) measure: String,
    pub(super) basis: String,
    pub(super) early: String,
    pub(super) late: String,
    /// With its interval, where there is one.
    pub(super) change: String,
    pub(super) finding: &'static str,
    pub(super) class: &'static str,
}

/// Where the page's script draws a chart.
pub(super) struct ChartFrame {
    pub(super) id: String,
    pub(super) title: &'static str,
    /// Markup.
    pub(super) caption: String,
}

/// A prompt with a completion early and one late.
pub(super) struct Example {
    pub(super) prompt: String,
    /// Step, text and reward of each.
    pub(super) completions: [(u64, String, f64); 2],
}

/// What is known of a stage that trains a policy. Its charts are added to `drawn`.
pub(super) fn section(
    number: usize,
    name: &str,
    stage: &StageRecord,
    drawn: &mut Vec<Value>,
) -> PolicySection {
    let mut lines = held_out(stage);
    lines.extend(trends(stage));
    let mut notes = signs(stage);
    match read_ends(&stage.folder.join("rollouts")) {
        Ok([early, late]) => {
            let found = measures(&early, &late);
            notes.extend(found.iter().filter(|measure| measure.is_warning()).map(warning));
            lines.extend(found.iter().map(of_rollouts));
        }
        Err(error) => notes.push(HealthNote { level: Level::Bad, text: with_causes(&error) }),
    }
    let of_run = health::notes_on_stage(stage).into_iter().filter(|note| note.level != Level::Good);
    notes.extend(of_run);
    if notes.is_empty() {
        let text = "None of these measures shows a sign of reward hacking.".to_owned();
        notes.push(HealthNote { level: Level::Good, text });
    }
    let mut charts = Vec::new();
    for chart in CHARTS.iter().filter(|chart| CHART_NAMES.contains(&chart.name)) {
        if let Some((figure, caption)) = chart.drawn(stage) {
            let id = format!("policy-{number}-{}", chart.name);
            drawn.push(json!({ "id": id, "figure": figure }));
            charts.push(ChartFrame { id, title: chart.title, caption });
        }
    }
    let examples = stage.examples.most_changed.iter().take(N_EXAMPLES).map(|pair| Example {
        prompt: beginning(&pair[0].prompt),
        completions: pair.each_ref().map(|one| (one.step, beginning(&one.text), one.reward)),
    });
    PolicySection { stage: name.to_owned(), lines, notes, charts, examples: examples.collect() }
}

/// The held-out outcomes of the stage's own record.
fn held_out(stage: &StageRecord) -> Vec<PolicyLine> {
    let outcomes = outcome::of_stage(stage).into_iter().filter(|outcome| outcome.is_held_out);
    outcomes
        .map(|outcome| PolicyLine {
            early: outcome.before_text(),
            late: outcome.after_text(),
            change: outcome.change_text(),
            finding: outcome.words(),
            class: outcome.class(),
            measure: outcome.measure,
            basis: outcome.basis,
        })
        .collect()
}

/// The metrics of training that are shown, with their units.
fn metrics(stage: &StageRecord) -> Vec<(String, String, Unit)> {
    let metric = |measure: &str, name: &str, unit| (measure.to_owned(), name.to_owned(), unit);
    let mut found = vec![metric("training reward", names::REWARD, Unit::Number)];
    found.extend(stage.reward_parts().into_iter().map(|part| {
        let of_model = if LEARNED.contains(&part) { ", computed by a model" } else { "" };
        (format!("reward `{part}`{of_model}"), names::reward_part_mean(part), Unit::Number)
    }));
    found.extend([
        metric("KL from the reference, nats per token", names::KL, Unit::Number),
        metric("tokens of a completion", names::COMPLETIONS_MEAN_LENGTH, Unit::Number),
        metric("completions cut at the token limit", names::COMPLETIONS_CLIPPED_RATIO, Unit::Share),
        metric("entropy, nats per token", names::ENTROPY, Unit::Number),
    ]);
    found
}

/// Metrics of training over its steps.
fn trends(stage: &StageRecord) -> Vec<PolicyLine> {
    let line = |(measure, name, unit): (String, String, Unit)| {
        let series = stage.series(&name);
        let n = series.len().div_ceil(10);
        let mean = |part: &[(u64, f64)]| part.iter().map(|(_, value)| value).sum::<f64>() / part.len() as f64;
        (n > 0).then(|| {
            let change = trend(stage, &name);
            PolicyLine {
                measure: measure.replace('`', ""),
                basis: format!(
                    "means of the first and of the last {n} of {} steps; trend over all",
                    series.len()
                ),
                early: unit.text(mean(&series[..n])),
                late: unit.text(mean(&series[series.len() - n..])),
                change: change.map_or_else(String::new, |change| unit.change(change)),
                finding: match change {
                    Some(change) if change.is_shown() && change.value > 0.0 => "rises",
                    Some(change) if change.is_shown() => "falls",
                    Some(_) => "no trend shown",
                    None => "too few steps for a trend",
                },
                class: "",
            }
        })
    };
    metrics(stage).into_iter().filter_map(line).collect()
}

fn trend(stage: &StageRecord, name: &str) -> Option<Estimate> {
    let points: Vec<(f64, f64)> =
        stage.series(name).iter().map(|&(step, value)| (step as f64, value)).collect();
    Estimate::trend(&points)
}

fn rises(stage: &StageRecord, name: &str) -> bool {
    trend(stage, name).is_some_and(|change| change.is_shown() && change.value > 0.0)
}

/// What the metrics of training say together.
fn signs(stage: &StageRecord) -> Vec<HealthNote> {
    let look = |text: String| HealthNote { level: Level::Look, text };
    let mut notes = Vec::new();
    let reward_rises = rises(stage, names::REWARD);
    let held_out = outcome::of_stage(stage).into_iter().find(|outcome| outcome.is_held_out);
    if let Some(outcome) = held_out.filter(|outcome| reward_rises && outcome.verdict() != Verdict::Better) {
        notes.push(look(format!(
            "The reward rises in training, and the {} is not shown to: the policy may have learned its prompts, or what \
             the reward does not mean.",
            outcome.measure
        )));
    }
    let part_rises = |part: &&str| rises(stage, &names::reward_part_mean(part));
    let (learned, verifiers): (Vec<&str>, Vec<&str>) =
        stage.reward_parts().into_iter().partition(|part| LEARNED.contains(part));
    for part in learned.into_iter().filter(part_rises) {
        let others: Vec<String> =
            verifiers.iter().filter(|other| !part_rises(other)).map(|other| format!("`{other}`")).collect();
        if !others.is_empty() {
            notes.push(look(format!(
                "`{part}` rises and {} not shown to: read the best completions, a model that gives rewards can be \
                 pleased without what it should reward.",
                match others.as_slice() {
                    [one] => format!("{one} is"),
                    all => format!("{} are", all.join(" and ")),
                }
            )));
        }
    }
    if reward_rises && rises(stage, names::COMPLETIONS_MEAN_LENGTH) {
        notes.push(look(
            "Completions get longer while the reward rises: compare rewards at equal length before calling it a gain."
                .to_owned(),
        ));
    }
    notes
}

fn of_rollouts(measure: &RolloutMeasure) -> PolicyLine {
    let RolloutMeasure { name, early, late, change, basis, .. } = measure;
    let with_interval = |estimate: &Estimate| {
        let [value, low, high] =
            [estimate.value, estimate.low, estimate.high].map(|value| format!("{value:.2}"));
        format!("{value} ({low} to {high})")
    };
    PolicyLine {
        measure: name.replace('`', ""),
        basis: basis.clone(),
        early: with_interval(early),
        late: with_interval(late),
        change: Unit::Number.change(*change),
        finding: match change.is_shown() {
            false => "no change shown",
            true if measure.is_warning() => "warning sign",
            true if change.value > 0.0 => "rises",
            true => "falls",
        },
        class: if measure.is_warning() { "bad" } else { "" },
    }
}

fn warning(measure: &RolloutMeasure) -> HealthNote {
    let RolloutMeasure { name, early, late, .. } = measure;
    let text = format!("From the first to the last rollouts: {name} {:.2} → {:.2}.", early.value, late.value);
    HealthNote { level: Level::Look, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_record::MetricsRow;

    /// Twenty steps of a policy; each metric goes from its first to its second value, with small noise.
    fn stage(metrics: &[(&str, f64, f64)]) -> StageRecord {
        let row = |step: u64| {
            let noise = ((step * 7919) % 101) as f64 / 101.0 - 0.5;
            let at = |&(name, first, last): &(&str, f64, f64)| {
                (name.to_owned(), first + (last - first) * (step as f64 / 20.0) + 0.02 * noise)
            };
            MetricsRow { step, values: metrics.iter().map(at).collect() }
        };
        StageRecord { kind: "grpo".into(), metrics: (1..=20).map(row).collect(), ..StageRecord::default() }
    }

    fn texts(stage: &StageRecord) -> Vec<String> {
        signs(stage).into_iter().map(|note| note.text).collect()
    }

    #[test]
    fn a_judge_that_is_pleased_without_the_verifier_is_named() {
        let hacked = stage(&[
            ("reward", 0.2, 0.9),
            ("rewards/judge/mean", 0.1, 0.9),
            ("rewards/ifeval/mean", 0.3, 0.3),
            ("completions/mean_length", 40.0, 90.0),
        ]);
        let found = texts(&hacked);
        assert!(found[0].starts_with("`judge` rises and `ifeval` is not shown to"), "{found:?}");
        assert!(found[1].starts_with("Completions get longer"), "{found:?}");
        assert_eq!(found.len(), 2);
        let honest = stage(&[
            ("reward", 0.2, 0.9),
            ("rewards/judge/mean", 0.1, 0.9),
            ("rewards/ifeval/mean", 0.3, 0.8),
            ("completions/mean_length", 40.0, 40.0),
        ]);
        assert_eq!(texts(&honest), Vec::<String>::new());
    }

    #[test]
    fn each_metric_has_a_line_with_its_trend() {
        let lines =
            trends(&stage(&[("reward", 0.2, 0.9), ("kl", 0.05, 0.05), ("rewards/judge/mean", 0.5, 0.1)]));
        let found: Vec<(&str, &str)> =
            lines.iter().map(|line| (line.measure.as_str(), line.finding)).collect();
        assert_eq!(
            found,
            [
                ("training reward", "rises"),
                ("reward judge, computed by a model", "falls"),
                ("KL from the reference, nats per token", "no trend shown"),
            ]
        );
        assert!(lines[0].change.starts_with("+0.6"), "{}", lines[0].change);
    }
}
