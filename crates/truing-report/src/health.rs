//! What a run's figures mean, in plain words: what went well, what to look at, and what one would do.

use crate::names;
use crate::run_record::{RunRecord, StageRecord};

/// How a note is meant.
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
    /// How it is meant.
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

/// Notes on the whole run: did the model get better?
pub(crate) fn notes_on_run(record: &RunRecord) -> Vec<HealthNote> {
    let mut notes = Vec::new();
    let [before, .., after] = record.evaluations.as_slice() else { return notes };
    if let (Some(first), Some(last)) = (before.heldout_loss, after.heldout_loss) {
        let (level, verb) = if last < first { (Level::Good, "fell") } else { (Level::Bad, "did not fall") };
        notes.push(HealthNote {
            level,
            text: format!(
                "The held-out loss {verb}: {first:.3} before, {last:.3} after, over {} tokens the model never trained \
                 on. At {last:.3} nats the right token gets {:.0} % of the probability on (geometric) average; before \
                 it was {:.0} %.",
                after.n_heldout_tokens,
                100.0 * (-last).exp(),
                100.0 * (-first).exp()
            ),
        });
    }
    let lost: Vec<&str> = before
        .answers
        .iter()
        .filter(|old| old.is_right && after.answers.iter().any(|new| new.id == old.id && !new.is_right))
        .map(|answer| answer.id.as_str())
        .collect();
    if !lost.is_empty() {
        notes.push(HealthNote {
            level: Level::Look,
            text: format!(
                "Right before and wrong now: {}. Fine-tuning can also lose abilities.",
                lost.join(", ")
            ),
        });
    }
    if (1..100).contains(&after.answers.len()) {
        notes.push(HealthNote {
            level: Level::Look,
            text: format!(
                "{} questions are few: two more or fewer right answers may be chance. They show that something was \
                 learnt, not how good the model is.",
                after.answers.len()
            ),
        });
    }
    notes
}

/// Notes on one stage's figures.
pub(crate) fn notes_on_stage(stage: &StageRecord) -> Vec<HealthNote> {
    [
        completeness,
        reward_trend,
        zero_variance,
        divergence,
        clipping,
        unscored,
        order,
        length_bias,
        loss_trend,
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
    (taken < planned).then(|| HealthNote {
        level: Level::Look,
        text: format!("The run stopped after {taken} of {planned} steps; `--resume` continues from there."),
    })
}

/// Mean of the first and of the last tenth.
pub(crate) fn ends(points: &[(u64, f64)]) -> Option<(f64, f64)> {
    let n = points.len().div_ceil(10);
    if points.len() < 2 {
        return None;
    }
    let mean = |part: &[(u64, f64)]| part.iter().map(|(_, value)| value).sum::<f64>() / part.len() as f64;
    Some((mean(&points[..n]), mean(&points[points.len() - n..])))
}

/// Mean of a metric over the last tenth of the run.
fn late_mean(stage: &StageRecord, name: &str) -> Option<f64> {
    let points = stage.series(name);
    let n = points.len().div_ceil(10);
    (n > 0).then(|| points[points.len() - n..].iter().map(|(_, value)| value).sum::<f64>() / n as f64)
}

fn reward_trend(stage: &StageRecord) -> Option<HealthNote> {
    let (first, last) = ends(&stage.series(names::REWARD))?;
    let (level, verb) = if last > first { (Level::Good, "rose") } else { (Level::Bad, "did not rise") };
    let text = format!("The reward {verb}: {first:.3} to {last:.3} (means of the first and last tenth).");
    Some(HealthNote { level, text })
}

fn zero_variance(stage: &StageRecord) -> Option<HealthNote> {
    let share = late_mean(stage, names::FRAC_REWARD_ZERO_STD)?;
    (share > 0.8).then(|| HealthNote {
        level: Level::Look,
        text: format!(
            "In {:.0} % of the last groups all completions had the same reward, which gives no training signal. The \
             prompts are too easy or too hard.",
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
    let figures = format!("{:.1} % ({}) of {} pairs", 100.0 * accuracy, interval.percent(), all.n_pairs);
    Some(if interval.low > 0.5 {
        HealthNote { level: Level::Good, text: format!("The rewards order {figures} as people did.") }
    } else {
        HealthNote {
            level: Level::Bad,
            text: format!(
                "The rewards order {figures} as people did, which may be chance: do not train a policy against this \
                 model."
            ),
        }
    })
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

fn loss_trend(stage: &StageRecord) -> Option<HealthNote> {
    // The loss of a policy is a surrogate that is near 0 by construction.
    if stage.kind == "grpo" {
        return None;
    }
    let losses = stage.series(names::LOSS);
    if let Some((step, value)) = losses.iter().find(|(_, value)| !value.is_finite()) {
        return Some(HealthNote {
            level: Level::Bad,
            text: format!("The loss of step {step} was {value}: the run cannot be trusted from there on."),
        });
    }
    if losses.len() < 10 {
        return None;
    }
    let (first, last) = ends(&losses)?;
    Some(if last < first {
        HealthNote {
            level: Level::Good,
            text: format!(
                "The training loss fell from {first:.2} to {last:.2} (means of the first and last tenth)."
            ),
        }
    } else {
        HealthNote {
            level: Level::Bad,
            text: format!(
                "The training loss did not fall ({first:.2} to {last:.2}). The learning rate may be too high or too \
                 low, or no token of the answers carries loss: see `truing inspect conversation`."
            ),
        }
    })
}

fn overfitting(stage: &StageRecord) -> Option<HealthNote> {
    let held_out = stage.series(names::EVAL_LOSS);
    let &(_, last) = held_out.last()?;
    let &(best_step, best) = held_out.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    (held_out.len() >= 3 && last > best * 1.02).then(|| HealthNote {
        level: Level::Look,
        text: format!(
            "The held-out loss was lowest at step {best_step} ({best:.3}) and rose to {last:.3} since: the model \
             overfits. Use fewer epochs, or `load_best_model_at_end`."
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
            text: format!(
                "The gradient's norm was even (median {median:.2}, no step above five times that)."
            ),
        }
    } else {
        let shown: Vec<String> = spikes.iter().take(5).map(u64::to_string).collect();
        HealthNote {
            level: Level::Look,
            text: format!(
                "The gradient's norm was more than five times its median ({median:.2}) at {} step(s): {}{}. Clipping \
                 limits such steps; if there are many, look at their rows.",
                spikes.len(),
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
            "Packs were {:.1} % full on average.{}",
            100.0 * mean,
            if mean >= 0.9 { "" } else { " A longer pack or shorter samples would waste less." }
        ),
    })
}

fn memory_prediction(stage: &StageRecord) -> Option<HealthNote> {
    let predicted = stage.plan.as_ref()?.peak_bytes? as f64 / (1u64 << 30) as f64;
    let measured = stage.last(names::PEAK_MEMORY_GIB)?;
    let off = measured / predicted - 1.0;
    Some(HealthNote {
        level: if off.abs() <= 0.1 { Level::Good } else { Level::Look },
        text: format!(
            "Peak memory was {:.2} GiB; the planner had predicted {:.2} GiB ({:+.0} %).",
            measured,
            predicted,
            100.0 * off
        ),
    })
}

fn speed(stage: &StageRecord) -> Option<HealthNote> {
    let speeds = stage.series(names::TOKENS_PER_SECOND);
    let (first, last) = ends(&speeds).filter(|_| speeds.len() >= 10)?;
    (last < 0.8 * first).then(|| HealthNote {
        level: Level::Look,
        text: format!(
            "The run slowed down from {first:.0} to {last:.0} tokens per second: another program used the machine, \
             or the processor was throttled."
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
    fn each_rule_finds_what_it_is_for() {
        let falling: Vec<f64> = (0..30).map(|i| 3.0 - 0.05 * f64::from(i)).collect();
        let rising: Vec<f64> = falling.iter().rev().copied().collect();
        check(loss_trend, &stage(names::LOSS, &falling), Some(Level::Good));
        check(loss_trend, &stage(names::LOSS, &rising), Some(Level::Bad));
        check(loss_trend, &stage(names::LOSS, &[1.0, f64::NAN]), Some(Level::Bad));
        check(loss_trend, &stage(names::LOSS, &[1.0]), None);
        check(reward_trend, &stage(names::REWARD, &rising), Some(Level::Good));
        check(reward_trend, &stage(names::REWARD, &falling), Some(Level::Bad));
        check(zero_variance, &stage(names::FRAC_REWARD_ZERO_STD, &[0.1, 0.9]), Some(Level::Look));
        check(zero_variance, &stage(names::FRAC_REWARD_ZERO_STD, &[0.9, 0.1]), None);
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
        check(order, &evaluated(0.54, 0.0), Some(Level::Bad));
        check(length_bias, &evaluated(0.7, 0.6), Some(Level::Look));
        check(length_bias, &evaluated(0.7, 0.4), None);
        check(order, &stage(names::LOSS, &[1.0]), None);
        let mut memory = stage(names::PEAK_MEMORY_GIB, &[1.05]);
        check(memory_prediction, &memory, None);
        memory.plan = Some(PlanRecord { peak_bytes: Some(1 << 30), ..PlanRecord::default() });
        check(memory_prediction, &memory, Some(Level::Good));
        memory.plan = Some(PlanRecord { n_steps: Some(5), ..PlanRecord::default() });
        check(completeness, &memory, Some(Level::Look));
    }
}
