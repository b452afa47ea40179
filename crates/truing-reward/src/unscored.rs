//! Which completions could not be scored, and why, for messages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use truing_types::{RowOrigin, UnscoredReason};

use crate::ScoredCompletion;

/// Completions without a reward for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnscoredCount {
    /// How many.
    pub n: u64,
    /// The first one's row and what happened.
    pub first: String,
}

/// Which of some completions could not be scored, and why.
#[derive(Debug)]
pub struct UnscoredSummary {
    n_completions: usize,
    n_scored: usize,
    reasons: BTreeMap<UnscoredReason, UnscoredCount>,
    /// Rewards that no completion has.
    dead: Vec<DeadReward>,
}

/// A reward that could not be computed for any completion.
#[derive(Debug)]
struct DeadReward {
    name: String,
    n: usize,
    reason: UnscoredReason,
    detail: String,
    is_only_reason: bool,
}

impl UnscoredSummary {
    /// Of completions with the rows that they are of.
    pub fn of<'a>(scored: impl Iterator<Item = (&'a RowOrigin, &'a ScoredCompletion)>) -> Self {
        let mut found = Self { n_completions: 0, n_scored: 0, reasons: BTreeMap::new(), dead: Vec::new() };
        let mut parts: BTreeMap<&str, Option<DeadReward>> = BTreeMap::new();
        for (origin, one) in scored {
            found.n_completions += 1;
            match &one.total {
                Ok(_) => found.n_scored += 1,
                Err(unscored) => {
                    let first = || UnscoredCount { n: 0, first: located(origin, &unscored.detail) };
                    found.reasons.entry(unscored.reason).or_insert_with(first).n += 1;
                }
            }
            for (name, part) in &one.parts {
                match (part, parts.get_mut(name.as_str())) {
                    (Ok(_), _) => drop(parts.insert(name, None)),
                    (Err(_), Some(None)) => {}
                    (Err(unscored), Some(Some(dead))) => {
                        dead.n += 1;
                        dead.is_only_reason &= dead.reason == unscored.reason;
                    }
                    (Err(unscored), None) => {
                        let (reason, detail) = (unscored.reason, located(origin, &unscored.detail));
                        let dead =
                            DeadReward { name: name.clone(), n: 1, reason, detail, is_only_reason: true };
                        parts.insert(name, Some(dead));
                    }
                }
            }
        }
        found.dead = parts.into_values().flatten().collect();
        found
    }

    /// Whether there are completions, and none has a reward.
    #[must_use]
    pub fn is_total(&self) -> bool {
        self.n_completions > 0 && self.n_scored == 0
    }

    /// Whether completions stay without a reward for a reason that waiting does not mend.
    #[must_use]
    pub fn will_not_pass(&self) -> bool {
        let has_no_sandbox =
            |dead: &DeadReward| dead.reason == UnscoredReason::NoSandbox && dead.is_only_reason;
        self.reasons.contains_key(&UnscoredReason::JudgeRefused)
            || self.reasons.contains_key(&UnscoredReason::NoSandbox) && self.dead.iter().any(has_no_sandbox)
    }

    /// How many could not be scored, and why.
    #[must_use]
    pub fn text(&self) -> String {
        let n = self.n_completions;
        let how_many = match self.n_scored {
            0 => format!("none of {n} completions could be scored"),
            n_scored => format!("{} of {n} completions could not be scored", n - n_scored),
        };
        format!("{how_many}: {}", reasons_text(&self.reasons))
    }

    /// What should be said, each with a key of what it is about.
    #[must_use]
    pub fn warnings(&self) -> Vec<(String, String)> {
        let key = |reasons: &mut dyn Iterator<Item = &UnscoredReason>| {
            reasons.map(|reason| reason.as_str()).collect::<Vec<_>>().join(" ")
        };
        if self.is_total() {
            return vec![(format!("all {}", key(&mut self.reasons.keys())), self.text())];
        }
        let some = self.reasons.iter().map(|(reason, UnscoredCount { n, first })| {
            let text = format!(
                "{n} of {} completions have no reward and were not trained on: {}: {first}",
                self.n_completions,
                reason.as_str()
            );
            (format!("some {}", reason.as_str()), text)
        });
        let is_said = |dead: &&DeadReward| !self.reasons.contains_key(&dead.reason);
        let dead = self.dead.iter().filter(is_said).map(|dead| {
            let DeadReward { name, n, reason, detail, .. } = dead;
            let reason = reason.as_str();
            let text =
                format!("`{name}` could not be computed for any of its {n} completions: {reason}: {detail}");
            (format!("dead {name} {reason}"), text)
        });
        some.chain(dead).collect()
    }

    /// Adds the reasons to those of a whole run.
    pub fn add_to(&self, all: &mut BTreeMap<UnscoredReason, UnscoredCount>) {
        for (reason, count) in &self.reasons {
            match all.get_mut(reason) {
                Some(known) => known.n += count.n,
                None => drop(all.insert(*reason, count.clone())),
            }
        }
    }

    /// Completions that were looked at.
    #[must_use]
    pub fn n_completions(&self) -> usize {
        self.n_completions
    }
}

/// What happened, with its row where that is not said yet.
fn located(origin: &RowOrigin, detail: &str) -> String {
    let origin = origin.to_string();
    if detail.contains(&origin) { detail.to_owned() } else { format!("{origin}: {detail}") }
}

/// The reasons with their counts and first rows, in one line.
#[must_use]
pub fn reasons_text(reasons: &BTreeMap<UnscoredReason, UnscoredCount>) -> String {
    let text = |(reason, count): (&UnscoredReason, &UnscoredCount)| {
        format!("{} ({}): {}", reason.as_str(), count.n, count.first)
    };
    reasons.iter().map(text).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_types::Unscored;

    fn scored(
        parts: &[(&str, Result<f64, UnscoredReason>)],
        total: Result<f64, UnscoredReason>,
    ) -> ScoredCompletion {
        let part = |part: Result<f64, UnscoredReason>| part.map_err(|reason| Unscored::new(reason, "why"));
        ScoredCompletion {
            parts: parts.iter().map(|&(name, value)| (name.to_owned(), part(value))).collect(),
            total: part(total),
        }
    }

    #[test]
    fn what_waiting_does_not_mend_is_told_apart() {
        use UnscoredReason::{JudgeFailed, JudgeRefused, MissingReference, NoSandbox};
        let ok = || scored(&[("a", Ok(1.0))], Ok(1.0));
        let origin = RowOrigin { source: "a.jsonl".into(), line: 3 };
        let only = |reason| scored(&[("a", Err(reason))], Err(reason));
        let optional = |reason| scored(&[("a", Err(reason)), ("b", Ok(1.0))], Ok(1.0));
        for (completions, will_not_pass, is_total, n_warnings) in [
            (vec![ok(), ok()], false, false, 0),
            (vec![only(JudgeFailed), only(JudgeFailed)], false, true, 1),
            (vec![only(MissingReference)], false, true, 1),
            (vec![only(JudgeRefused)], true, true, 1),
            // An account that runs dry in the middle of a step.
            (vec![ok(), only(JudgeRefused)], true, false, 1),
            (vec![ok(), only(MissingReference), only(JudgeFailed), only(JudgeFailed)], false, false, 2),
            (vec![optional(JudgeRefused), optional(JudgeRefused)], false, false, 1),
            (vec![only(NoSandbox), only(NoSandbox)], true, true, 1),
            (vec![ok(), only(NoSandbox)], false, false, 1),
            (vec![only(NoSandbox), only(JudgeFailed)], false, true, 1),
            (Vec::new(), false, false, 0),
        ] {
            let found = UnscoredSummary::of(completions.iter().map(|one| (&origin, one)));
            assert_eq!(found.will_not_pass(), will_not_pass, "{completions:?}");
            assert_eq!((found.is_total(), found.warnings().len()), (is_total, n_warnings), "{completions:?}");
        }
        let mixed = [only(JudgeFailed), only(JudgeFailed), only(MissingReference)];
        let expected = "none of 3 completions could be scored: missing_reference (1): a.jsonl:3: why; \
                        judge_failed (2): a.jsonl:3: why";
        let found = UnscoredSummary::of(mixed.iter().map(|one| (&origin, one)));
        assert_eq!(found.text(), expected);
        let some = [ok(), only(MissingReference)];
        let found = UnscoredSummary::of(some.iter().map(|one| (&origin, one)));
        let expected =
            "1 of 2 completions have no reward and were not trained on: missing_reference: a.jsonl:3: why";
        assert_eq!(found.warnings(), [("some missing_reference".into(), expected.into())]);
        let mut all = BTreeMap::new();
        found.add_to(&mut all);
        found.add_to(&mut all);
        assert_eq!(reasons_text(&all), "missing_reference (2): a.jsonl:3: why");
    }
}
