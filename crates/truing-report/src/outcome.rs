//! Did it get better? For every stage, from held-out data where the run has them: what was measured before and after,
//! the change with its 95 % interval, and what that shows. A change whose interval contains 0 is not shown; single
//! steps are never compared with each other.

use truing_eval::held_out::HeldOutScores;
use truing_eval::pipeline::Evaluation;
use truing_statistics::{Estimate, ShareInterval};

use crate::names;
use crate::run_record::{RunRecord, StageRecord};

/// Fewer steps of an evaluation give no interval: with few degrees of freedom Student's says next to nothing.
const MIN_STEPS: usize = 5;

/// What a change shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Better,
    Worse,
    /// The interval contains no change.
    NotShown,
    /// All items changed by the same: their differences have no spread.
    NoSpread,
    /// There is a single item, or the evaluation has few steps.
    TooFew,
    /// The run does not keep what an interval needs.
    NoInterval,
}

/// How a measure is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Number,
    Share,
}

impl Unit {
    pub(crate) fn text(self, value: f64) -> String {
        match self {
            Self::Number => format!("{value:.3}"),
            Self::Share => format!("{:.1} %", 100.0 * value),
        }
    }

    /// A difference with its sign and its bounds; that of shares in percentage points.
    pub(crate) fn change(self, change: Estimate) -> String {
        let Estimate { value, low, high } = change;
        match self {
            Self::Number => format!("{} ({} to {})", signed(value, 3), signed(low, 3), signed(high, 3)),
            Self::Share => {
                let [value, low, high] = [value, low, high].map(|share| signed(100.0 * share, 1));
                format!("{value} points ({low} to {high})")
            }
        }
    }
}

/// With a sign, that of a minus where it is one; without a sign for what is 0 when rounded.
pub(crate) fn signed(value: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", value.abs());
    match text.parse::<f64>() {
        Ok(0.0) => text,
        _ if value < 0.0 => format!("−{text}"),
        _ => format!("+{text}"),
    }
}

/// What an interval is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// Values of single items.
    Values,
    /// A second item.
    Items,
    /// Steps of the evaluation.
    Steps,
    /// Paired differences that differ.
    Spread,
}

/// One measure of a stage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// For instance `held-out loss`.
    pub(crate) measure: String,
    pub(crate) unit: Unit,
    /// The value before; what it is compared with, where there is no before.
    pub(crate) before: Option<(f64, &'static str)>,
    pub(crate) after: Option<f64>,
    pub(crate) change: Option<Estimate>,
    /// Why there is no interval, if there is none.
    missing: Missing,
    is_lower_better: bool,
    /// What the interval comes from.
    pub(crate) basis: String,
    pub(crate) is_held_out: bool,
}

impl Outcome {
    pub(crate) fn verdict(&self) -> Verdict {
        match self.change {
            None => match self.missing {
                Missing::Values => Verdict::NoInterval,
                Missing::Items | Missing::Steps => Verdict::TooFew,
                Missing::Spread => Verdict::NoSpread,
            },
            Some(change) if !change.is_shown() => Verdict::NotShown,
            Some(change) if (change.value < 0.0) == self.is_lower_better => Verdict::Better,
            Some(_) => Verdict::Worse,
        }
    }

    /// The verdict in words.
    pub(crate) fn words(&self) -> &'static str {
        match self.verdict() {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::NotShown => "not shown: the interval contains 0",
            Verdict::NoSpread => "no interval: all differences are equal",
            Verdict::TooFew if self.missing == Missing::Steps => {
                "no interval: the evaluation has too few steps"
            }
            Verdict::TooFew => "no interval: it is a single item",
            Verdict::NoInterval => "no interval: the run keeps no values of single items",
        }
    }

    /// Style class of the page; none where nothing is shown.
    pub(crate) fn class(&self) -> &'static str {
        match self.verdict() {
            Verdict::Better => "good",
            Verdict::Worse => "bad",
            Verdict::NotShown | Verdict::NoSpread | Verdict::TooFew | Verdict::NoInterval => "",
        }
    }

    pub(crate) fn before_text(&self) -> String {
        match self.before {
            Some((value, "")) => self.unit.text(value),
            Some((value, what)) => format!("{} ({what})", self.unit.text(value)),
            None => String::new(),
        }
    }

    pub(crate) fn after_text(&self) -> String {
        self.after.map_or_else(String::new, |value| self.unit.text(value))
    }

    pub(crate) fn change_text(&self) -> String {
        match (self.change, self.before, self.after) {
            (Some(change), ..) => self.unit.change(change),
            (None, Some((before, _)), Some(after)) if self.unit == Unit::Share => {
                format!("{} points", signed(100.0 * (after - before), 1))
            }
            (None, Some((before, _)), Some(after)) => signed(after - before, 3),
            _ => String::new(),
        }
    }
}

/// What the evaluations between the stages of a pipeline show: each against the one before it, then the last against
/// the first.
pub(crate) fn of_pipeline(record: &RunRecord) -> Vec<(String, Vec<Outcome>)> {
    let evaluations = &record.evaluations;
    let compared = |before: &Evaluation, after: &Evaluation| {
        let sets = after.sets();
        let answers = sets.iter().filter_map(|score| answers(before, after, score.set));
        let outcomes: Vec<Outcome> = heldout_loss(before, after).into_iter().chain(answers).collect();
        (format!("{} → {}", before.label, after.label), outcomes)
    };
    let mut rows: Vec<_> = evaluations.windows(2).map(|pair| compared(&pair[0], &pair[1])).collect();
    if let [first, _, .., last] = evaluations.as_slice()
        && evaluations.len() > 2
    {
        rows.push(compared(first, last));
    }
    rows.retain(|(_, outcomes)| !outcomes.is_empty());
    rows
}

/// Of models as they were saved, which rounds their weights: it differs a little from that of the same step in
/// training.
fn heldout_loss(before: &Evaluation, after: &Evaluation) -> Option<Outcome> {
    let change = after.loss_change_since(before);
    let items = match (change, after.heldout_items.len()) {
        // Only items that both evaluations have are paired: one of an earlier version has none.
        (Some(_), n) => format!("{n} items of {} tokens, paired", after.n_heldout_tokens),
        (None, _) => format!("{} tokens", after.n_heldout_tokens),
    };
    let is_single = before.heldout_items.len() == 1 && after.heldout_items.len() == 1;
    let missing = match change {
        Some(_) => Missing::Spread,
        None if is_single => Missing::Items,
        None => Missing::Values,
    };
    Some(Outcome {
        measure: "held-out loss of the saved model".into(),
        unit: Unit::Number,
        before: Some((before.heldout_loss?, "")),
        after: Some(after.heldout_loss?),
        change: change.filter(|change| has_width(*change)),
        missing,
        is_lower_better: true,
        basis: format!("{items}; weights as saved (save_dtype)"),
        is_held_out: true,
    })
}

/// Answers to the items of a set that both evaluations have.
fn answers(before: &Evaluation, after: &Evaluation, set: &str) -> Option<Outcome> {
    let passes = after.passes_since(before, set);
    let n = passes.n();
    let share = |n_passed: u64| n_passed as f64 / n as f64;
    (n > 0).then(|| Outcome {
        measure: if set.is_empty() { "correct answers".into() } else { set.to_owned() },
        unit: Unit::Share,
        before: Some((share(passes.n_both + passes.n_lost), "")),
        after: Some(share(passes.n_both + passes.n_gained)),
        change: Estimate::difference_of_paired_shares(passes),
        missing: Missing::Values,
        is_lower_better: false,
        basis: format!("{n} items, paired: {} gained, {} lost", passes.n_gained, passes.n_lost),
        is_held_out: true,
    })
}

/// What a stage's own record shows: held-out measures first, then the trend of training.
pub(crate) fn of_stage(stage: &StageRecord) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = match stage.kind.as_str() {
        "reward_model" | "reward_evaluation" => pair_accuracy(stage).into_iter().collect(),
        "classifier" => labels_and_scores(stage),
        "dpo" => against_chance(stage, names::REWARDS_ACCURACIES, "held-out preference accuracy")
            .into_iter()
            .collect(),
        "embed" => items(stage, HeldOutScores::ACCURACY_OF_STEPS, "held-out triplet accuracy")
            .filter(|paired| paired.missing != Missing::Steps)
            .or_else(|| shares(stage, names::ACCURACY, "held-out triplet accuracy"))
            .into_iter()
            .collect(),
        "grpo" => [
            items(stage, HeldOutScores::REWARD, "held-out reward")
                .or_else(|| ends(stage, names::EVAL_REWARD, "held-out reward", false)),
            items(stage, HeldOutScores::PASS_RATE, "held-out pass rate")
                .or_else(|| shares(stage, "pass_rate", "held-out pass rate")),
        ]
        .into_iter()
        .flatten()
        .collect(),
        _ => Vec::new(),
    };
    let (held_out_loss, training_loss) = match stage.kind.as_str() {
        "distill" => ("held-out divergence from the teacher", "training divergence from the teacher"),
        _ => ("held-out loss", "training loss"),
    };
    if stage.kind != "grpo" {
        outcomes.extend(
            items(stage, HeldOutScores::LOSS, held_out_loss)
                .or_else(|| items(stage, HeldOutScores::LOSS_OF_STEPS, held_out_loss))
                .or_else(|| ends(stage, names::EVAL_LOSS, held_out_loss, true)),
        );
    }
    outcomes.extend(if stage.kind == "grpo" {
        trend(stage, names::REWARD, "training reward", false)
    } else {
        trend(stage, names::LOSS, training_loss, true)
    });
    outcomes
}

/// First and last evaluation of the same items.
fn items(stage: &StageRecord, measure: &str, name: &str) -> Option<Outcome> {
    let of_measure = || stage.held_out.iter().filter(|one| one.measure == measure);
    let (first, last) = (of_measure().next()?, of_measure().next_back()?);
    let differences = first.differences(last).filter(|_| first.step < last.step)?;
    let (is_lower_better, unit, of) = match measure {
        HeldOutScores::LOSS => (true, Unit::Number, "items"),
        HeldOutScores::LOSS_OF_STEPS => (true, Unit::Number, "steps of the evaluation"),
        HeldOutScores::ACCURACY_OF_STEPS => (false, Unit::Share, "steps of the evaluation"),
        HeldOutScores::ACCURACY => (false, Unit::Share, "prompts"),
        HeldOutScores::PASS_RATE => (false, Unit::Share, "items"),
        _ => (false, Unit::Number, "items"),
    };
    let what = match measure {
        HeldOutScores::ACCURACY => {
            let n_pairs: f64 = differences.iter().map(|(weight, _)| weight).sum();
            format!("{n_pairs} pairs of {} {of}", differences.len())
        }
        _ => format!("{} {of}", differences.len()),
    };
    let is_by_step = matches!(measure, HeldOutScores::LOSS_OF_STEPS | HeldOutScores::ACCURACY_OF_STEPS);
    let missing = match differences.len() {
        n if is_by_step && n < MIN_STEPS => Missing::Steps,
        1 => Missing::Items,
        0 => Missing::Values,
        _ => Missing::Spread,
    };
    // Differences that are all the same say nothing of how far others would spread; of items that pass or fail the
    // interval is known all the same.
    let change = first.change_to(last).filter(|change| has_width(*change) && missing != Missing::Steps);
    Some(Outcome {
        measure: name.to_owned(),
        missing,
        unit,
        before: Some((first.mean()?, "")),
        after: Some(last.mean()?),
        change,
        is_lower_better,
        basis: match missing {
            Missing::Steps => format!("{what}; measured in training"),
            _ => format!("{what}, paired; measured in training"),
        },
        is_held_out: true,
    })
}

/// Whether an interval is wider than the rounding of equal differences makes it.
fn has_width(change: Estimate) -> bool {
    change.high - change.low > 1e-9 * change.value.abs()
}

/// First and last value of a held-out metric, of which no interval is known.
fn ends(stage: &StageRecord, metric: &str, name: &str, is_lower_better: bool) -> Option<Outcome> {
    let series = stage.series(metric);
    let (&(first, before), &(last, after)) = (series.first()?, series.last()?);
    (first < last).then(|| Outcome {
        measure: name.to_owned(),
        unit: Unit::Number,
        before: Some((before, "")),
        after: Some(after),
        change: None,
        missing: Missing::Values,
        is_lower_better,
        basis: format!("evaluations of steps {first} and {last}"),
        is_held_out: true,
    })
}

/// Shares by step, and the number of items that they are of.
type ShareEnds = (Vec<(u64, f64)>, Option<u64>);

/// First and last value of a held-out share, and the number of items of the last.
fn share_ends(stage: &StageRecord, metric: &str) -> Option<ShareEnds> {
    let series = stage.series(&names::held_out(metric));
    let n = stage.last(names::EVAL_SAMPLES).map(|n| n as u64);
    (!series.is_empty()).then_some((series, n))
}

/// A held-out share, last against first.
fn shares(stage: &StageRecord, metric: &str, name: &str) -> Option<Outcome> {
    let (series, n) = share_ends(stage, metric)?;
    let (&(first, before), &(last, after)) = (series.first()?, series.last()?);
    (first < last).then(|| Outcome {
        measure: name.to_owned(),
        unit: Unit::Share,
        before: Some((before, "")),
        after: Some(after),
        change: n.and_then(|n| Estimate::difference_of_shares((before, n), (after, n))),
        missing: Missing::Values,
        is_lower_better: false,
        basis: n.map_or_else(String::new, |n| format!("{n} items, unpaired")),
        is_held_out: true,
    })
}

/// A share of pairs against one half: before training, all pairs are ties.
fn against_chance(stage: &StageRecord, metric: &str, name: &str) -> Option<Outcome> {
    let (series, n) = share_ends(stage, metric)?;
    let after = series.last()?.1;
    let interval = n.and_then(|n| ShareInterval::wilson(after, n as f64));
    Some(Outcome {
        basis: n.map_or_else(String::new, |n| format!("{n} pairs, Wilson")),
        ..against(name, after, interval, (0.5, "chance"))
    })
}

/// A share against a fixed one.
fn against(
    name: &str,
    after: f64,
    interval: Option<ShareInterval>,
    baseline: (f64, &'static str),
) -> Outcome {
    let change = interval.map(|interval| Estimate {
        value: after - baseline.0,
        low: interval.low - baseline.0,
        high: interval.high - baseline.0,
    });
    Outcome {
        measure: name.to_owned(),
        unit: Unit::Share,
        before: Some(baseline),
        after: Some(after),
        change,
        missing: Missing::Values,
        is_lower_better: false,
        basis: String::new(),
        is_held_out: true,
    }
}

/// How often a reward model orders pairs as people did: against its first evaluation, or else against chance.
fn pair_accuracy(stage: &StageRecord) -> Option<Outcome> {
    if let Some(paired) = items(stage, HeldOutScores::ACCURACY, "held-out pair accuracy") {
        return Some(paired);
    }
    let (first, last) = (stage.diagnostics.first()?, stage.diagnostics.last()?);
    let all = &last.diagnostics.all;
    let after = all.accuracy?;
    let n = all.n_pairs;
    match first.diagnostics.all.accuracy.filter(|_| first.step < last.step) {
        Some(before) => Some(Outcome {
            before: Some((before, "")),
            change: Estimate::difference_of_shares((before, first.diagnostics.all.n_pairs), (after, n)),
            basis: format!("{n} pairs, unpaired"),
            ..against("held-out pair accuracy", after, None, (0.5, "chance"))
        }),
        None => Some(Outcome {
            basis: format!("{n} pairs, Wilson"),
            ..against("held-out pair accuracy", after, all.accuracy_interval, (0.5, "chance"))
        }),
    }
}

/// Each dimension against always predicting the most frequent label, each score against no correlation.
fn labels_and_scores(stage: &StageRecord) -> Vec<Outcome> {
    let Some(found) = &stage.classification else { return Vec::new() };
    let dimensions = found.dimensions.iter().filter_map(|dimension| {
        let name = format!("held-out accuracy of {}", dimension.name);
        let baseline = (dimension.baseline_accuracy?, "most frequent label");
        let outcome = against(&name, dimension.accuracy?, dimension.accuracy_interval, baseline);
        Some(Outcome { basis: format!("{} texts, Wilson", dimension.n_texts), ..outcome })
    });
    let scores = found.scores.iter().filter_map(|score| {
        let after = score.spearman?;
        Some(Outcome {
            measure: format!("held-out rank correlation of {}", score.name),
            unit: Unit::Number,
            before: Some((0.0, "none")),
            after: Some(after),
            change: Estimate::rank_correlation(after, score.n_texts),
            missing: Missing::Values,
            is_lower_better: false,
            basis: format!("{} texts, Spearman", score.n_texts),
            is_held_out: true,
        })
    });
    dimensions.chain(scores).collect()
}

/// The straight line through all steps.
fn trend(stage: &StageRecord, metric: &str, name: &str, is_lower_better: bool) -> Option<Outcome> {
    let series = stage.series(metric);
    let points: Vec<(f64, f64)> = series.iter().map(|&(step, value)| (step as f64, value)).collect();
    let change = Estimate::trend(&points)?;
    Some(Outcome {
        measure: name.to_owned(),
        unit: Unit::Number,
        before: None,
        after: None,
        change: Some(change),
        missing: Missing::Values,
        is_lower_better,
        basis: format!("trend over {} steps", points.len()),
        is_held_out: false,
    })
}

#[cfg(test)]
mod tests;
