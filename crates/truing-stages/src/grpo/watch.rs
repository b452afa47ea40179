//! What a run remembers of steps that could not be scored, or had nothing to learn from.

use std::collections::BTreeSet;

use truing_train::checkpoint::TrainerState;

use super::state::PromptState;

/// What is known of the steps so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) n_unscored_in_a_row: usize,
    pub(super) n_flat_in_a_row: usize,
    /// Why the last completions had no reward.
    pub(super) last_problem: Option<String>,
    /// The state of the run before the steps of which nothing could be scored. The weights are still the same.
    pub(super) settled: Option<(TrainerState, PromptState)>,
    /// What was warned of; of each once.
    pub(super) warned: BTreeSet<String>,
    /// Whether the step being taken has a group with different rewards.
    pub(super) has_signal: bool,
}

impl Watch {
    /// Whether the last step could not be scored. A checkpoint of it would keep a resume from taking it again.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.settled.is_some()
    }
}
