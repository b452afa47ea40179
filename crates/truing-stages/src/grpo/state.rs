//! The position of a run in its prompts, and what it has seen of each: all that a resume needs besides seed and step.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde::{Deserialize, Serialize};
use truing_reward::unscored::UnscoredCount;
use truing_run::RunError;
use truing_store::{CommittedDirectory, StagedDirectory};
use truing_types::{Seed, UnscoredReason};

const FILE: &str = "prompts.json";

/// The order of the prompts and how they went.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PromptState {
    /// Places of the endless order that were used or passed over.
    pub(super) position: u64,
    /// Share of completions that passed, when a prompt was last sampled.
    pub(super) pass_rates: BTreeMap<u32, f64>,
    /// Steps in which some completion had a reward. Checkpoints of older versions do not say, and count as one.
    #[serde(default = "one")]
    pub(super) n_scored_steps: u64,
    /// Steps in which some group had different rewards, so that there was something to learn.
    #[serde(default = "one")]
    pub(super) n_learnt_steps: u64,
    /// Steps in which no completion had a reward.
    #[serde(default)]
    pub(super) n_unscored_steps: u64,
    /// Completions of all steps, and those of them that have no reward, by reason.
    #[serde(default)]
    pub(super) n_completions: u64,
    #[serde(default)]
    pub(super) unscored: BTreeMap<UnscoredReason, UnscoredCount>,
}

fn one() -> u64 {
    1
}

impl PromptState {
    pub(super) fn read(checkpoint: &CommittedDirectory) -> Result<Self, RunError> {
        let path = checkpoint.path().join(FILE);
        let failed = |source| RunError::Read { path: path.clone(), source };
        let bytes = fs::read(&path).map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))
    }

    pub(super) fn save(&self, staged: &mut StagedDirectory) -> Result<(), RunError> {
        let json = serde_json::to_vec(self).map_err(|source| RunError::Json { name: FILE, source })?;
        Ok(staged.write(FILE, &json)?)
    }

    /// The next `n` different prompts of `n_prompts`: seeded orders one after the other, an epoch each. With a
    /// curriculum prompts of which all or none passed are passed over, unless an epoch has no others.
    pub(super) fn choose(&mut self, n: usize, n_prompts: usize, seed: Seed, curriculum: bool) -> Vec<u32> {
        let n = n.min(n_prompts);
        let mut chosen: Vec<u32> = Vec::with_capacity(n);
        let mut taken: BTreeSet<u32> = BTreeSet::new();
        let mut order: Option<(u64, Vec<u32>)> = None;
        let mut n_passed_over = 0;
        while chosen.len() < n {
            let epoch = self.position / n_prompts as u64;
            if order.as_ref().is_none_or(|(of, _)| *of != epoch) {
                let prompts = (0..n_prompts as u32).collect();
                order = Some((epoch, seed.shuffled(prompts, "prompts", &[epoch])));
            }
            let Some((_, indices)) = &order else { break };
            let prompt = indices[(self.position % n_prompts as u64) as usize];
            self.position += 1;
            let is_settled = self.pass_rates.get(&prompt).is_some_and(|&rate| rate <= 0.0 || rate >= 1.0);
            if curriculum && is_settled && n_passed_over < n_prompts {
                n_passed_over += 1;
            } else if taken.insert(prompt) {
                chosen.push(prompt);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_visits_every_prompt_once() {
        let mut state = PromptState::default();
        let mut seen: Vec<u32> = (0..5).flat_map(|_| state.choose(2, 10, Seed(1), false)).collect();
        assert_ne!(seen, (0..10).collect::<Vec<_>>(), "they are shuffled");
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_curriculum_passes_over_what_is_settled_but_never_starves() {
        let pass_rates = (0..10).map(|i| (i, if i == 3 { 0.5 } else { 1.0 })).collect();
        let mut state = PromptState { pass_rates, ..PromptState::default() };
        assert_eq!(state.choose(1, 10, Seed(1), true), [3]);
        state.pass_rates.insert(3, 0.0);
        assert_eq!(state.choose(2, 10, Seed(1), true).len(), 2);
    }
}
