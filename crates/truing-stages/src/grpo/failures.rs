//! What a run does where rewards cannot be computed, or are all the same: it says so at once, and ends by policy. A run that
//! learnt nothing never ends as if all were well.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_model::Engine;
use truing_reward::ScoredCompletion;
use truing_train::checkpoint::TrainerState;
use truing_types::{Event, RowOrigin, UnscoredReason};

use super::run::Running;
use super::state::{PromptState, UnscoredCount};
use crate::StageError;

/// Steps in a row with rewards but without differences between them, after which that is said.
const FLAT_STEPS: usize = 3;

/// What to do if rewards cannot be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnscoredStep {
    /// The run ends with an error. It ends at once if waiting cannot help (the judge's server refuses the key, the
    /// account or every request; there is no sandbox to run code in), otherwise after `max_unscored_steps` consecutive
    /// steps without a reward.
    #[default]
    Stop,
    /// The run continues with a warning.
    Warn,
}

/// What is known of the steps so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    n_unscored_in_a_row: usize,
    n_flat_in_a_row: usize,
    /// Why the last completions had no reward.
    last_problem: Option<String>,
    /// Where the run stood before the steps of which nothing could be scored. The weights are still the same.
    settled: Option<(TrainerState, PromptState)>,
    /// What was warned of; of each once.
    told: BTreeSet<String>,
    /// Whether the step being taken has a group with different rewards.
    pub(super) has_signal: bool,
}

impl Watch {
    /// Whether the last step could not be scored. A checkpoint of it would keep a resume from taking it again.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.settled.is_some()
    }
}

/// What completions were scored for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    /// To learn from, in a step.
    Step(u64),
    Evaluation,
}

impl Looked {
    fn name(self) -> String {
        match self {
            Self::Step(step) => format!("step {step}"),
            Self::Evaluation => "the evaluation".into(),
        }
    }

    /// The same for every step.
    fn kind(self) -> &'static str {
        match self {
            Self::Step(_) => "steps",
            Self::Evaluation => "evaluations",
        }
    }
}

/// Which of some completions could not be scored, and why.
pub(super) struct Unscoring {
    n_completions: usize,
    n_scored: usize,
    reasons: BTreeMap<UnscoredReason, UnscoredCount>,
    /// Rewards that no completion has.
    dead: Vec<DeadReward>,
}

/// A reward that could not be computed for any completion.
struct DeadReward {
    name: String,
    n: usize,
    reason: UnscoredReason,
    detail: String,
    is_only_reason: bool,
}

impl Unscoring {
    /// Of completions with the rows that they are of.
    pub(super) fn of<'a>(scored: impl Iterator<Item = (&'a RowOrigin, &'a ScoredCompletion)>) -> Self {
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
    pub(super) fn is_total(&self) -> bool {
        self.n_completions > 0 && self.n_scored == 0
    }

    /// Whether completions stay without a reward for a reason that waiting does not mend.
    fn will_not_pass(&self) -> bool {
        let has_no_sandbox =
            |dead: &DeadReward| dead.reason == UnscoredReason::NoSandbox && dead.is_only_reason;
        self.reasons.contains_key(&UnscoredReason::JudgeRefused)
            || self.reasons.contains_key(&UnscoredReason::NoSandbox) && self.dead.iter().any(has_no_sandbox)
    }

    /// How many could not be scored, and why.
    pub(super) fn text(&self) -> String {
        let n = self.n_completions;
        let how_many = match self.n_scored {
            0 => format!("none of {n} completions could be scored"),
            n_scored => format!("{} of {n} completions could not be scored", n - n_scored),
        };
        format!("{how_many}: {}", reasons_text(&self.reasons))
    }

    /// What should be said, each with a key of what it is about.
    fn warnings(&self) -> Vec<(String, String)> {
        let key = |reasons: &mut dyn Iterator<Item = &UnscoredReason>| {
            reasons.map(|reason| reason.as_str()).collect::<Vec<_>>().join(" ")
        };
        if self.is_total() {
            return vec![(format!("all {}", key(&mut self.reasons.keys())), self.text())];
        }
        let some = self.reasons.iter().map(|(reason, UnscoredCount { n, first })| {
            let text = format!(
                "{n} of {} completions have no reward and are not learnt from: {}: {first}",
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

    /// Adds them to those of the whole run.
    pub(super) fn add_to(&self, prompts: &mut PromptState) {
        prompts.n_completions += self.n_completions as u64;
        for (reason, count) in &self.reasons {
            match prompts.unscored.get_mut(reason) {
                Some(known) => known.n += count.n,
                None => drop(prompts.unscored.insert(*reason, count.clone())),
            }
        }
    }
}

/// What happened, with its row where that is not said yet.
fn located(origin: &RowOrigin, detail: &str) -> String {
    let origin = origin.to_string();
    if detail.contains(&origin) { detail.to_owned() } else { format!("{origin}: {detail}") }
}

fn reasons_text(reasons: &BTreeMap<UnscoredReason, UnscoredCount>) -> String {
    let text = |(reason, count): (&UnscoredReason, &UnscoredCount)| {
        format!("{} ({}): {}", reason.as_str(), count.n, count.first)
    };
    reasons.iter().map(text).collect::<Vec<_>>().join("; ")
}

/// How many completions of a run have no reward, and why; `None` where all have one.
fn unscored_text(prompts: &PromptState) -> Option<String> {
    let n: u64 = prompts.unscored.values().map(|count| count.n).sum();
    let text = format!(
        "{n} of {} completions have no reward: {}",
        prompts.n_completions,
        reasons_text(&prompts.unscored)
    );
    (n > 0).then_some(text)
}

impl<E: Engine> Running<'_, E> {
    /// Says what could not be scored: of each reason the first row.
    ///
    /// # Errors
    /// [`StageError::Unscored`], where by policy the run ends here.
    pub(super) fn look_at<'a>(
        &mut self,
        looked: Looked,
        scored: impl Iterator<Item = (&'a RowOrigin, &'a ScoredCompletion)>,
    ) -> Result<Unscoring, StageError> {
        let what = looked.name();
        let found = Unscoring::of(scored);
        if found.will_not_pass() && self.plan.config.on_unscored_step == OnUnscoredStep::Stop {
            let problem = format!("{what}: {}", found.text());
            return Err(StageError::Unscored { problem, saved: String::new() });
        }
        for (key, warning) in found.warnings() {
            if self.watch.told.insert(format!("{} {key}", looked.kind())) {
                self.events.emit(Event::Warning(format!("{what}: {warning}")));
            }
        }
        if found.is_total() {
            self.watch.last_problem = Some(found.text());
        }
        Ok(found)
    }

    /// Takes down how a step went. `before` is where the run stood before it.
    ///
    /// # Errors
    /// [`StageError::Unscored`] after too many steps of which nothing could be scored; the run is then saved.
    pub(super) fn take_down(
        &mut self,
        is_unscored: bool,
        has_signal: bool,
        before: (TrainerState, PromptState),
    ) -> Result<(), StageError> {
        let config = &self.plan.config;
        let (step, watch) = (self.state.step, &mut self.watch);
        if !is_unscored {
            watch.n_unscored_in_a_row = 0;
            watch.settled = None;
            watch.n_flat_in_a_row = if has_signal { 0 } else { watch.n_flat_in_a_row + 1 };
            if watch.n_flat_in_a_row == FLAT_STEPS {
                let first = step + 1 - FLAT_STEPS as u64;
                let why = match unscored_text(&self.prompts) {
                    None => "in each group all rewards were equal (`frac_reward_zero_std`); are the prompts too hard or too \
                             easy, or does a reward not tell completions apart?"
                        .into(),
                    Some(text) => format!("in each group rewards were missing or equal; in all steps so far {text}"),
                };
                let text = format!("steps {first} to {step} had no training signal: {why}");
                self.events.emit(Event::Warning(text));
            }
            return Ok(());
        }
        watch.n_unscored_in_a_row += 1;
        if config.on_unscored_step == OnUnscoredStep::Warn {
            return Ok(());
        }
        watch.settled.get_or_insert(before);
        let n = watch.n_unscored_in_a_row;
        if n < config.max_unscored_steps {
            return Ok(());
        }
        let last = watch.last_problem.clone().unwrap_or_default();
        let problem = format!(
            "step {step}: {last}; this was step {n} in a row without a reward (`max_unscored_steps`)"
        );
        Err(self.end_unscored(problem)?)
    }

    /// Saves the run where it ends for want of rewards.
    pub(super) fn save_if_unscored<T>(&mut self, result: Result<T, StageError>) -> Result<T, StageError> {
        match result {
            Err(StageError::Unscored { problem, .. }) => Err(self.end_unscored(problem)?),
            other => other,
        }
    }

    /// Goes back before the steps that could not be scored, so that a resume takes them again, and saves.
    fn end_unscored(&mut self, problem: String) -> Result<StageError, StageError> {
        if let Some((state, prompts)) = self.watch.settled.take() {
            (self.state, self.prompts) = (state, prompts);
        }
        self.save_checkpoint()?;
        let saved = match self.state.step {
            0 => "no step was trained; --resume starts with step 1".to_owned(),
            step => format!("the run is saved as it was after step {step}; --resume continues from there"),
        };
        Ok(StageError::Unscored { problem, saved })
    }

    /// Why the run has learnt nothing; `None` where it has.
    ///
    /// # Errors
    /// [`StageError::Unscored`], where by policy a run without a single reward is none.
    pub(super) fn nothing_learnt(&mut self) -> Result<Option<String>, StageError> {
        let PromptState { n_scored_steps, n_learnt_steps, .. } = self.prompts;
        if n_learnt_steps > 0 {
            return Ok(None);
        }
        if n_scored_steps > 0 {
            let why = match unscored_text(&self.prompts) {
                None if self.plan.config.mask_truncated_completions == Some(true) => {
                    "in every step the rewards of each group were equal (`frac_reward_zero_std`), or its completions were \
                     truncated and masked (`mask_truncated_completions`)"
                        .into()
                }
                None => "in every step all rewards of each group were equal (`frac_reward_zero_std`)".into(),
                Some(text) => format!("{text}; in each group the other rewards were equal or single"),
            };
            let text = format!("nothing was learnt: {why}. Do not use the saved model as a trained one");
            return Ok(Some(text));
        }
        let last = self.watch.last_problem.clone().unwrap_or_else(|| "no completion could be scored".into());
        let problem = format!("nothing was learnt, because no step had a reward: {last}");
        match self.plan.config.on_unscored_step {
            OnUnscoredStep::Stop => Err(self.end_unscored(problem)?),
            OnUnscoredStep::Warn => {
                Ok(Some(format!("{problem}. The saved model is the one that the run began with")))
            }
        }
    }

    /// What of the run the model has not learnt from, for the end of a run that has learnt something.
    pub(super) fn not_learnt_from(&self) -> Option<String> {
        let PromptState { n_learnt_steps, n_unscored_steps, .. } = self.prompts;
        let text = unscored_text(&self.prompts).filter(|_| n_learnt_steps > 0)?;
        let steps = match n_unscored_steps {
            0 => String::new(),
            n => format!("{n} of {} steps had no reward at all and changed nothing; ", self.state.step),
        };
        Some(format!("not all rollouts were used for training: {steps}{text}"))
    }
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
            let found = Unscoring::of(completions.iter().map(|one| (&origin, one)));
            assert_eq!(found.will_not_pass(), will_not_pass, "{completions:?}");
            assert_eq!((found.is_total(), found.warnings().len()), (is_total, n_warnings), "{completions:?}");
        }
        let mixed = [only(JudgeFailed), only(JudgeFailed), only(MissingReference)];
        let expected = "none of 3 completions could be scored: missing_reference (1): a.jsonl:3: why; \
                        judge_failed (2): a.jsonl:3: why";
        let found = Unscoring::of(mixed.iter().map(|one| (&origin, one)));
        assert_eq!(found.text(), expected);
        let some = [ok(), only(MissingReference)];
        let found = Unscoring::of(some.iter().map(|one| (&origin, one)));
        let expected =
            "1 of 2 completions have no reward and are not learnt from: missing_reference: a.jsonl:3: why";
        assert_eq!(found.warnings(), [("some missing_reference".into(), expected.into())]);
        let mut state = PromptState::default();
        assert_eq!(unscored_text(&state), None);
        found.add_to(&mut state);
        found.add_to(&mut state);
        let expected = "2 of 4 completions have no reward: missing_reference (2): a.jsonl:3: why";
        assert_eq!(unscored_text(&state).as_deref(), Some(expected));
    }
}
