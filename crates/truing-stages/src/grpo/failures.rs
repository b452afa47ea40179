//! What a run does where rewards cannot be computed, or are all the same: it says so at once, and ends by policy. A run
//! that learnt nothing never ends as if all were well.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_model::Engine;
use truing_reward::ScoredCompletion;
use truing_reward::unscored::{UnscoredSummary, reasons_text};
use truing_train::checkpoint::TrainerState;
use truing_types::{Event, RowOrigin};

use super::running::Running;
use super::state::PromptState;
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
    ) -> Result<UnscoredSummary, StageError> {
        let what = looked.name();
        let found = UnscoredSummary::of(scored);
        if found.will_not_pass() && self.plan.config.on_unscored_step == OnUnscoredStep::Stop {
            let problem = format!("{what}: {}", found.text());
            return Err(StageError::Unscored { problem, saved: String::new() });
        }
        for (key, warning) in found.warnings() {
            if self.watch.warned.insert(format!("{} {key}", looked.kind())) {
                self.events.emit(Event::Warning(format!("{what}: {warning}")));
            }
        }
        if found.is_total() {
            self.watch.last_problem = Some(found.text());
        }
        Ok(found)
    }

    /// Records how a step ended. `before` is the state of the run before it.
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
                    None => "in each group all rewards were equal (`frac_reward_zero_std`); are the prompts \
                             too hard or too easy, or does a reward not tell completions apart?"
                        .into(),
                    Some(text) => {
                        format!("in each group rewards were missing or equal; in all steps so far {text}")
                    }
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
                    "in every step the rewards of each group were equal (`frac_reward_zero_std`), or its \
                     completions were truncated and masked (`mask_truncated_completions`)"
                        .into()
                }
                None => "in every step all rewards of each group were equal (`frac_reward_zero_std`)".into(),
                Some(text) => format!("{text}; in each group the other rewards were equal or single"),
            };
            let text =
                format!("the model was not trained: {why}. Do not use the saved model as a trained one");
            return Ok(Some(text));
        }
        let last = self.watch.last_problem.clone().unwrap_or_else(|| "no completion could be scored".into());
        let problem = format!("the model was not trained, because no step had a reward: {last}");
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
    use truing_reward::unscored::UnscoredCount;
    use truing_types::UnscoredReason;

    #[test]
    fn a_run_says_how_many_completions_had_no_reward() {
        let mut state = PromptState { n_completions: 4, ..PromptState::default() };
        assert_eq!(unscored_text(&state), None);
        let count = UnscoredCount { n: 2, first: "a.jsonl:3: why".into() };
        state.unscored.insert(UnscoredReason::MissingReference, count);
        let expected = "2 of 4 completions have no reward: missing_reference (2): a.jsonl:3: why";
        assert_eq!(unscored_text(&state).as_deref(), Some(expected));
    }
}
