//! Learning-rate schedules in closed form: a step's rate is a pure function of its number, so a resumed run
//! needs no scheduler state.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape after warm-up, under the names that transformers uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// The peak learning rate in every step.
    #[serde(alias = "constant_with_warmup")]
    Constant,
    /// Linear decay from the peak to the minimum.
    Linear,
    /// Cosine decay from the peak to the minimum (Loshchilov and Hutter 2017, arXiv 1608.03983).
    #[default]
    #[serde(alias = "cosine_with_min_lr")]
    Cosine,
    /// Warm-up, stable, decay: the peak, then a linear decay in the last steps (`decay_ratio`).
    #[serde(alias = "warmup_stable_decay")]
    Wsd,
}

/// A whole schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Shape after warm-up.
    pub kind: ScheduleKind,
    /// The highest rate.
    pub peak: f64,
    /// Where the decay ends, as a share of the peak.
    pub min_ratio: f64,
    /// Steps over which the rate rises in a straight line.
    pub warmup_steps: u64,
    /// Steps of the final decay of [`ScheduleKind::Wsd`].
    pub decay_steps: u64,
    /// All steps of the run, warm-up included.
    pub total_steps: u64,
}

impl Schedule {
    /// The rate of one step, counted from 1.
    ///
    /// Two conventions differ from transformers' lambdas, in which the first step has rate 0: the n-th
    /// warm-up step has `n / warmup_steps` of the peak, so no step is spent without learning.
    #[must_use]
    pub fn learning_rate(&self, step: u64) -> f64 {
        if step <= self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let share_of = |from: u64| {
            // The first step after `from` is still at the peak; the step after the last would be at the end.
            let length = self.total_steps.saturating_sub(from).max(1);
            ((step - 1).saturating_sub(from) as f64 / length as f64).min(1.0)
        };
        let decay = match self.kind {
            ScheduleKind::Constant => return self.peak,
            ScheduleKind::Linear => share_of(self.warmup_steps),
            ScheduleKind::Cosine => (1.0 - (std::f64::consts::PI * share_of(self.warmup_steps)).cos()) / 2.0,
            ScheduleKind::Wsd => {
                share_of(self.total_steps.saturating_sub(self.decay_steps).max(self.warmup_steps))
            }
        };
        self.peak * (1.0 - (1.0 - self.min_ratio) * decay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: ScheduleKind, min_ratio: f64, expected: &[(u64, f64)]) {
        let schedule =
            Schedule { kind, peak: 2e-5, min_ratio, warmup_steps: 10, decay_steps: 20, total_steps: 110 };
        for &(step, share) in expected {
            let found = schedule.learning_rate(step) / schedule.peak;
            assert!((found - share).abs() < 1e-12, "{kind:?} step {step}: {found} instead of {share}");
        }
    }

    #[test]
    fn rates_equal_the_closed_forms() {
        let warmup = [(1, 0.1), (5, 0.5), (10, 1.0), (11, 1.0)];
        for kind in [ScheduleKind::Constant, ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::Wsd] {
            check(kind, 0.0, &warmup);
        }
        check(ScheduleKind::Constant, 0.3, &[(60, 1.0), (110, 1.0)]);
        check(ScheduleKind::Linear, 0.0, &[(61, 0.5), (86, 0.25), (110, 0.01)]);
        check(ScheduleKind::Linear, 0.2, &[(61, 0.6)]);
        let quarter = std::f64::consts::FRAC_PI_4.cos();
        check(ScheduleKind::Cosine, 0.0, &[(61, 0.5), (36, (1.0 + quarter) / 2.0)]);
        check(ScheduleKind::Cosine, 0.1, &[(61, 0.55), (111, 0.1), (500, 0.1)]);
        check(ScheduleKind::Wsd, 0.0, &[(90, 1.0), (91, 1.0), (101, 0.5), (110, 0.05)]);
    }

    #[test]
    fn a_schedule_without_warm_up_starts_at_the_peak() {
        let schedule = Schedule {
            kind: ScheduleKind::Cosine,
            peak: 1.0,
            min_ratio: 0.0,
            warmup_steps: 0,
            decay_steps: 0,
            total_steps: 1,
        };
        assert_eq!(schedule.learning_rate(1), 1.0);
    }

    #[test]
    fn names_of_transformers_are_understood() {
        let parse = |text: &str| serde_json::from_str::<ScheduleKind>(text).unwrap();
        assert_eq!(parse("\"cosine_with_min_lr\""), ScheduleKind::Cosine);
        assert_eq!(parse("\"constant_with_warmup\""), ScheduleKind::Constant);
        assert_eq!(parse("\"warmup_stable_decay\""), ScheduleKind::Wsd);
    }
}
