//! What a run's metrics mean: what is as expected, what is worth a look, what is wrong, and what to do about it.

use truing_statistics::{Estimate, ShareInterval};

use crate::names;
use crate::run_record::{RunRecord, StageRecord, Unfinished};

/// Severity of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// As it should be.
    Good,
    /// Worth a look.
    Look,
    /// Something is wrong.
    Bad,
}

/// One sentence or two.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HealthNote {
    /// Its severity.
    pub(crate) level: Level,
    /// What was found and what it means.
    pub(crate) text: String,
}

impl HealthNote {
    /// Style class of the page.
    pub(crate) fn class(&self) -> &'static str {
        match self.level {
            Level::Good => "good",
            Level::Look => "look",
            Level::Bad => "bad",
        }
    }

    /// The same for those who see no colours.
    pub(crate) fn mark(&self) -> &'static str {
        match self.level {
            Level::Good => "✓",
            Level::Look => "◦",
            Level::Bad => "✗",
        }
    }
}

/// That a pipeline has not come to its end: how far it is, and the command that continues it.
pub(crate) fn unfinished(record: &RunRecord) -> Option<HealthNote> {
    let Unfinished { stages, evaluations, resume_command } = record.unfinished.as_ref()?;
    let reached = match record.stages.iter().find(|stage| !stage.is_finished) {
        Some(stage) => {
            let planned = stage.plan.as_ref().and_then(|plan| plan.n_steps);
            let of_all = planned.map_or_else(String::new, |n| format!(" of {n}"));
            format!(" `{}` has taken {}{of_all} steps.", stage.kind, stage.last_step())
        }
        None => String::new(),
    };
    let resume = match resume_command {
        Some(command) => format!(" `{command}` continues it."),
        None => String::new(),
    };
    Some(HealthNote {
        level: Level::Bad,
        text: format!(
            "This run is unfinished: {} of {} stages and {} of {} evaluations are done.{reached}{resume}",
            stages.0, stages.1, evaluations.0, evaluations.1
        ),
    })
}

/// Notes on a pipeline's evaluations beyond what the table of outcomes says.
pub(crate) fn notes_on_run(record: &RunRecord) -> Vec<HealthNote> {
    let [before, .., after] = record.evaluations.as_slice() else { return Vec::new() };
    let lost: Vec<&str> = before
        .answers
        .iter()
        .filter(|old| old.is_right && after.answers.iter().any(|new| new.id == old.id && !new.is_right))
        .map(|answer| answer.id.as_str())
        .collect();
    let note = HealthNote {
        level: Level::Look,
        text: format!("Correct before and wrong at the end: {}.", shortened(&lost, 10)),
    };
    (!lost.is_empty()).then_some(note).into_iter().collect()
}

/// The first `n` names, and how many more there are.
fn shortened(names: &[&str], n: usize) -> String {
    let shown = names[..names.len().min(n)].join(", ");
    match names.len().saturating_sub(n) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Notes on one stage's figures.
pub(crate) fn notes_on_stage(stage: &StageRecord) -> Vec<HealthNote> {
    [
        completeness,
        non_finite_loss,
        number_format,
        zero_variance,
        divergence,
        clipping,
        unscored,
        order,
        length_bias,
        overfitting,
        gradient_spikes,
        utilisation,
        memory_prediction,
        speed,
    ]
    .into_iter()
    .filter_map(|rule| rule(stage))
    .collect()
}

fn completeness(stage: &StageRecord) -> Option<HealthNote> {
    let planned = stage.plan.as_ref()?.n_steps?;
    let taken = stage.last_step();
    let resume = match stage.checkpoint_step {
        Some(step) => format!("`--resume` continues from the checkpoint of step {step}."),
        None => "There is no checkpoint: `--resume` starts from the beginning.".to_owned(),
    };
    (taken < planned && !stage.is_finished).then(|| HealthNote {
        level: Level::Look,
        text: format!("The run has taken {taken} of {planned} steps. {resume}"),
    })
}

/// Mean of a metric over the last tenth of the steps, at least ten of them.
fn late_mean(stage: &StageRecord, name: &str) -> Option<f64> {
    let points = stage.series(name);
    let n = points.len().div_ceil(10).max(10).min(points.len());
    (n > 0).then(|| points[points.len() - n..].iter().map(|(_, value)| value).sum::<f64>() / n as f64)
}

fn zero_variance(stage: &StageRecord) -> Option<HealthNote> {
    let share = late_mean(stage, names::FRAC_REWARD_ZERO_STD)?;
    (share > 0.8).then(|| HealthNote {
        level: Level::Look,
        text: format!(
            "In {:.0} % of the groups of the last steps all completions had the same reward, which gives no training \
             signal: the prompts are too easy or too hard.",
            100.0 * share
        ),
    })
}

fn divergence(stage: &StageRecord) -> Option<HealthNote> {
    let kl = late_mean(stage, names::KL)?;
    (kl > 0.5).then(|| HealthNote {
        level: Level::Look,
        text: format!(
            "The KL divergence from the reference is {kl:.2} nats per token: check the best completions for reward \
             hacking."
        ),
    })
}

fn clipping(stage: &StageRecord) -> Option<HealthNote> {
    let share = late_mean(stage, names::COMPLETIONS_CLIPPED_RATIO)?;
    (share > 0.3).then(|| HealthNote {
        level: Level::Look,
        text: format!(
            "{:.0} % of the last completions were cut off at the token limit: the reward sees unfinished answers.",
            100.0 * share
        ),
    })
}

fn unscored(stage: &StageRecord) -> Option<HealthNote> {
    let values = stage.metrics.iter().flat_map(|row| &row.values);
    let total: f64 =
        values.filter(|(name, _)| name.starts_with(names::UNSCORED_PREFIX)).map(|(_, count)| count).sum();
    (total > 0.0).then(|| HealthNote {
        level: Level::Look,
        text: format!(
            "{total:.0} completions had no reward and were not trained on; `truing rollouts` shows why."
        ),
    })
}

/// Whether a reward model orders pairs better than chance.
fn order(stage: &StageRecord) -> Option<HealthNote> {
    let all = &stage.diagnostics.last()?.diagnostics.all;
    let (accuracy, interval) = (all.accuracy?, all.accuracy_interval?);
    let figures = format!(
        "Pair accuracy is {:.1} % (95 % interval {}) on {} held-out pairs",
        100.0 * accuracy,
        interval.percent(),
        all.n_pairs
    );
    let (level, text) = match interval {
        ShareInterval { low, .. } if low > 0.5 => (Level::Good, format!("{figures}: above chance.")),
        ShareInterval { high, .. } if high < 0.5 => {
            (Level::Bad, format!("{figures}: below chance. Check which response the data call chosen."))
        }
        _ => (
            Level::Look,
            format!(
                "{figures}: not shown to be above chance (50 %). Do not train a policy against this model."
            ),
        ),
    };
    Some(HealthNote { level, text })
}

fn length_bias(stage: &StageRecord) -> Option<HealthNote> {
    let all = &stage.diagnostics.last()?.diagnostics.all;
    let (correlation, share) = (all.length_correlation?, all.prefers_longer?);
    (correlation > 0.5 && share > 0.6).then(|| HealthNote {
        level: Level::Look,
        text: format!(
            "Longer responses get higher rewards (correlation {correlation:.2}; the longer one is preferred in {:.0} % \
             of the pairs): a policy may learn to write more instead of better.",
            100.0 * share
        ),
    })
}

fn non_finite_loss(stage: &StageRecord) -> Option<HealthNote> {
    let losses = stage.series(names::LOSS);
    let (step, value) = losses.iter().find(|(_, value)| !value.is_finite())?;
    Some(HealthNote {
        level: Level::Bad,
        text: format!("The loss of step {step} was {value}: the weights after it are not usable."),
    })
}

/// The format of the saved model, where it is narrower than that of training.
fn number_format(stage: &StageRecord) -> Option<HealthNote> {
    let value = stage.recipe.lines().find_map(|line| line.strip_prefix("save_dtype = "))?;
    let format = value.trim().trim_matches(['"', '\'']);
    matches!(format, "bf16" | "f16").then(|| HealthNote {
        level: Level::Look,
        text: format!(
            "The model is saved in {format}: a weight that training moved by less than half the spacing of this format \
             is saved as it was. After few steps, or with a low learning rate, that can be most of what was learnt; \
             `save_dtype = \"f32\"` keeps it."
        ),
    })
}

fn overfitting(stage: &StageRecord) -> Option<HealthNote> {
    let held_out = stage.series(names::EVAL_LOSS);
    let &(_, last) = held_out.last()?;
    let &(best_step, best) = held_out.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    (held_out.len() >= 3 && last > best * 1.02).then(|| HealthNote {
        level: Level::Look,
        text: format!(
            "The held-out loss was lowest at step {best_step} ({best:.3}) and is now {last:.3}: the model overfits. \
             Use fewer epochs, or `load_best_model_at_end`."
        ),
    })
}

fn gradient_spikes(stage: &StageRecord) -> Option<HealthNote> {
    let norms = stage.series(names::GRAD_NORM);
    if norms.len() < 10 {
        return None;
    }
    let mut sorted: Vec<f64> = norms.iter().map(|(_, norm)| *norm).collect();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    // The first tenth is warm-up, where norms are large by nature.
    let spikes: Vec<u64> =
        norms[norms.len() / 10..].iter().filter(|(_, n)| *n > 5.0 * median).map(|(step, _)| *step).collect();
    Some(if spikes.is_empty() {
        HealthNote {
            level: Level::Good,
            text: format!("The gradient norm was even: median {median:.2}, no step above five times that."),
        }
    } else {
        let shown: Vec<String> = spikes.iter().take(5).map(u64::to_string).collect();
        HealthNote {
            level: Level::Look,
            text: format!(
                "The gradient norm was more than five times its median ({median:.2}) at {}: {}{}. Clipping limits such \
                 steps; if there are many, look at their samples.",
                if spikes.len() == 1 { "1 step".to_owned() } else { format!("{} steps", spikes.len()) },
                shown.join(", "),
                if spikes.len() > shown.len() { ", ..." } else { "" }
            ),
        }
    })
}

fn utilisation(stage: &StageRecord) -> Option<HealthNote> {
    let values = stage.series(names::UTILISATION);
    if values.is_empty() {
        return None;
    }
    let mean = values.iter().map(|(_, value)| value).sum::<f64>() / values.len() as f64;
    Some(HealthNote {
        level: if mean >= 0.9 { Level::Good } else { Level::Look },
        text: format!(
            "Packs were {:.1} % full on average (utilisation).{}",
            100.0 * mean,
            if mean >= 0.9 { "" } else { " A longer pack or shorter samples would waste less." }
        ),
    })
}

/// Measured and predicted peak memory in GiB, and their difference as a fraction of the prediction. `None` also where
/// the process had reached its peak in an earlier stage.
pub(crate) fn memory_error(stage: &StageRecord) -> Option<(f64, f64, f64)> {
    let predicted = stage.plan.as_ref()?.peak_bytes? as f64 / (1u64 << 30) as f64;
    let measured = stage.last(names::PEAK_MEMORY_GIB)?;
    let is_of_this_stage = stage.peak_before.is_none_or(|before| before < measured);
    (predicted > 0.0 && is_of_this_stage).then(|| (measured, predicted, measured / predicted - 1.0))
}

/// Largest relative error of a memory prediction that is as promised.
pub(crate) const MEMORY_TOLERANCE: f64 = 0.1;

/// Whether a peak is below its prediction because the plan is for completions of full length, which a policy samples
/// rarely: such a difference says nothing of the prediction.
pub(crate) fn is_of_shorter_completions(stage: &StageRecord, error: f64) -> bool {
    error < -MEMORY_TOLERANCE && matches!(stage.kind.as_str(), "grpo" | "distill")
}

fn memory_prediction(stage: &StageRecord) -> Option<HealthNote> {
    let (measured, predicted, error) = memory_error(stage)?;
    if is_of_shorter_completions(stage, error) {
        let text = format!(
            "Peak memory was {measured:.2} GiB, below the {predicted:.2} GiB that are predicted for completions of \
             full length."
        );
        return Some(HealthNote { level: Level::Good, text });
    }
    let is_within = error.abs() <= MEMORY_TOLERANCE;
    let words = if is_within { "within the promised 10 %" } else { "outside the promised 10 %" };
    Some(HealthNote {
        level: if is_within { Level::Good } else { Level::Look },
        text: format!(
            "Peak memory was {measured:.2} GiB, predicted {predicted:.2} GiB: {:+.0} %, {words}.",
            100.0 * error
        ),
    })
}

fn speed(stage: &StageRecord) -> Option<HealthNote> {
    let speeds = stage.series(names::TOKENS_PER_SECOND);
    let points: Vec<(f64, f64)> = speeds.iter().map(|&(step, value)| (step as f64, value)).collect();
    let mean = points.iter().map(|(_, value)| value).sum::<f64>() / points.len().max(1) as f64;
    let change = Estimate::trend(&points)?;
    (change.high < 0.0 && change.value < -0.2 * mean).then(|| HealthNote {
        level: Level::Look,
        text: format!(
            "The run slowed down by {:.0} tokens per second (mean {mean:.0}): another program used the machine, or \
             the processor was throttled.",
            -change.value
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_record::{MetricsRow, PlanRecord};
    use truing_eval::reward::{RewardDiagnostics, RewardEvaluation, SourceDiagnostics};
    use truing_statistics::ShareInterval;

    fn stage(name: &str, values: &[f64]) -> StageRecord {
        let row = |(idx, value): (usize, &f64)| MetricsRow {
            step: idx as u64 + 1,
            values: [(name.to_owned(), *value)].into(),
        };
        StageRecord { metrics: values.iter().enumerate().map(row).collect(), ..StageRecord::default() }
    }

    fn check(rule: fn(&StageRecord) -> Option<HealthNote>, stage: &StageRecord, level: Option<Level>) {
        assert_eq!(rule(stage).map(|note| note.level), level);
    }

    #[test]
    fn a_model_saved_in_a_narrower_format_is_named() {
        let saved = |format: &str| StageRecord {
            recipe: format!("stage = \"grpo\"\nsave_dtype = \"{format}\"\n\n[[data]]\npath = \"a.jsonl\"\n"),
            ..StageRecord::default()
        };
        check(number_format, &saved("f32"), None);
        check(number_format, &StageRecord::default(), None);
        for format in ["bf16", "f16"] {
            let note = number_format(&saved(format)).unwrap();
            assert!(note.text.starts_with(&format!("The model is saved in {format}: ")), "{}", note.text);
        }
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        let falling: Vec<f64> = (0..30).map(|i| 3.0 - 0.05 * f64::from(i)).collect();
        let rising: Vec<f64> = falling.iter().rev().copied().collect();
        check(non_finite_loss, &stage(names::LOSS, &[1.0, f64::NAN]), Some(Level::Bad));
        check(non_finite_loss, &stage(names::LOSS, &[1.0]), None);
        let late = [[0.1; 10], [0.9; 10]].concat();
        check(zero_variance, &stage(names::FRAC_REWARD_ZERO_STD, &late), Some(Level::Look));
        check(zero_variance, &stage(names::FRAC_REWARD_ZERO_STD, &[0.1, 0.9]), None);
        check(divergence, &stage(names::KL, &[0.6]), Some(Level::Look));
        check(clipping, &stage(names::COMPLETIONS_CLIPPED_RATIO, &[0.2]), None);
        check(unscored, &stage("unscored/failed", &[0.0, 2.0]), Some(Level::Look));
        check(unscored, &stage("unscored/failed", &[0.0]), None);
        check(overfitting, &stage(names::EVAL_LOSS, &[2.0, 1.5, 1.6]), Some(Level::Look));
        check(overfitting, &stage(names::EVAL_LOSS, &[2.0, 1.5, 1.4]), None);
        let mut norms = vec![1.0; 40];
        check(gradient_spikes, &stage(names::GRAD_NORM, &norms), Some(Level::Good));
        norms[30] = 9.0;
        check(gradient_spikes, &stage(names::GRAD_NORM, &norms), Some(Level::Look));
        check(utilisation, &stage(names::UTILISATION, &[0.99]), Some(Level::Good));
        check(utilisation, &stage(names::UTILISATION, &[0.5]), Some(Level::Look));
        check(speed, &stage(names::TOKENS_PER_SECOND, &rising), None);
        check(speed, &stage(names::TOKENS_PER_SECOND, &falling), Some(Level::Look));
        let evaluated = |accuracy, correlation| {
            let all = SourceDiagnostics {
                accuracy: Some(accuracy),
                accuracy_interval: Some(ShareInterval { low: accuracy - 0.05, high: accuracy + 0.05 }),
                length_correlation: Some(correlation),
                prefers_longer: Some(0.7),
                ..SourceDiagnostics::default()
            };
            let diagnostics = RewardDiagnostics { all, ..RewardDiagnostics::default() };
            StageRecord {
                diagnostics: vec![RewardEvaluation { step: 1, diagnostics }],
                ..StageRecord::default()
            }
        };
        check(order, &evaluated(0.7, 0.0), Some(Level::Good));
        check(order, &evaluated(0.54, 0.0), Some(Level::Look));
        check(order, &evaluated(0.4, 0.0), Some(Level::Bad));
        check(length_bias, &evaluated(0.7, 0.6), Some(Level::Look));
        check(length_bias, &evaluated(0.7, 0.4), None);
        check(order, &stage(names::LOSS, &[1.0]), None);
        let mut memory = stage(names::PEAK_MEMORY_GIB, &[1.05]);
        check(memory_prediction, &memory, None);
        memory.plan = Some(PlanRecord { peak_bytes: Some(1 << 30), ..PlanRecord::default() });
        check(memory_prediction, &memory, Some(Level::Good));
        let beyond = StageRecord { plan: memory.plan.clone(), ..stage(names::PEAK_MEMORY_GIB, &[1.11]) };
        check(memory_prediction, &beyond, Some(Level::Look));
        // A plan of a policy is for completions of full length.
        let below = StageRecord { plan: memory.plan.clone(), ..stage(names::PEAK_MEMORY_GIB, &[0.78]) };
        check(memory_prediction, &below, Some(Level::Look));
        let of_policy = |stage: StageRecord| StageRecord { kind: "grpo".into(), ..stage };
        check(memory_prediction, &of_policy(below), Some(Level::Good));
        check(memory_prediction, &of_policy(beyond), Some(Level::Look));
    }

    #[test]
    fn a_stopped_run_is_only_said_to_continue_from_a_checkpoint() {
        let plan = Some(PlanRecord { n_steps: Some(5), ..PlanRecord::default() });
        let stopped = StageRecord { plan, ..stage(names::LOSS, &[1.0; 3]) };
        let text = |stage: &StageRecord| completeness(stage).unwrap().text;
        assert_eq!(
            text(&stopped),
            "The run has taken 3 of 5 steps. There is no checkpoint: `--resume` starts from the beginning."
        );
        let saved = StageRecord { checkpoint_step: Some(2), ..stopped.clone() };
        assert_eq!(
            text(&saved),
            "The run has taken 3 of 5 steps. `--resume` continues from the checkpoint of step 2."
        );
        assert_eq!(completeness(&StageRecord { is_finished: true, ..stopped }), None);
    }
}
