//! The state of a run in progress, which all parts of its work share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use truing_client::{Counts, CountsSnapshot};
use truing_model::Engine;
use truing_reward::Rewards;
use truing_run::record::{RunRecord, is_any_stopped};
use truing_run::{Probe, model};
use truing_train::Trainer;
use truing_train::checkpoint::{self, ModelSaveOptions, TrainerState};
use truing_train::completion_packs::SampledPolicy;
use truing_types::{EventSink, Groups, ReasoningMarks, TokenId};

use super::rollout_servers::RolloutServers;
use super::state::PromptState;
use super::watch::Watch;
use super::{GrpoInputs, GrpoPlan};
use crate::StageError;

/// The state of a run in progress.
pub(super) struct Running<'a, E: Engine> {
    pub(super) plan: &'a GrpoPlan,
    pub(super) inputs: &'a GrpoInputs,
    /// All ranks sample other prompts. Packs are dealt to sequence groups, whose ranks divide each between them.
    pub(super) groups: &'a Groups,
    pub(super) probe: &'a dyn Probe,
    pub(super) events: &'a mut dyn EventSink,
    pub(super) stop: &'a AtomicBool,
    pub(super) record: RunRecord<'a>,
    pub(super) trainer: Trainer<E>,
    /// The frozen model, where it is not the policy without its adapters.
    pub(super) reference: Option<E>,
    /// Where completions are sampled while learning, if not in this process.
    pub(super) rollout_servers: Option<RolloutServers>,
    pub(super) rewards: Rewards,
    /// Counts of the judge's calls, and their values at the end of the last step.
    pub(super) judge_counts: Option<(Arc<Counts>, CountsSnapshot)>,
    pub(super) end_tokens: Vec<TokenId>,
    /// What completions are sampled from while learning.
    pub(super) policy: SampledPolicy,
    pub(super) state: TrainerState,
    pub(super) prompts: PromptState,
    /// What opens and closes a thought.
    pub(super) marks: ReasoningMarks,
    pub(super) watch: Watch,
}

impl<E: Engine> Running<'_, E> {
    /// Whether the stop flag of any rank is set.
    pub(super) fn is_stopped(&self) -> Result<bool, StageError> {
        Ok(is_any_stopped(self.stop, &*self.groups.world)?)
    }

    pub(super) fn save_checkpoint(&mut self) -> Result<(), StageError> {
        let Self { plan, inputs, trainer, state, prompts, .. } = self;
        let config = &plan.config;
        let (engine, n_kept) = (trainer.engine(), config.checkpoint.save_total_limit);
        self.record.save_checkpoint(state, n_kept, engine, &mut *self.events, |staged| {
            let files = inputs.renderer.tokenizer().files();
            let options = model::save_options(&inputs.model, &files);
            let base_model = model::base_of(&inputs.model, &config.model_name_or_path);
            let options = ModelSaveOptions::Decoder { options, base_model: Some(&*base_model) };
            checkpoint::save(engine, state, staged, &options)?;
            Ok(prompts.save(staged)?)
        })
    }
}
