//! Group-relative policy optimisation (report 2.1): groups of completions of a prompt are sampled from the policy
//! itself, scored, and credited against their group; the KL to the reference is exact over its top tokens.
//!
//! [`GrpoConfig`] is what was typed, [`GrpoInputs`] what it names on disk, [`GrpoPlan`] every decision that can be
//! made before work starts, [`GrpoStage`] the work.

mod check;
mod config;
mod failures;
mod inputs;
mod learn;
mod memory;
mod plan;
mod rollout_groups;
mod rollout_servers;
mod run;
mod running;
mod state;
mod step;
mod tally;
mod time;
mod watch;

pub use config::{Algorithm, GrpoConfig, KlGradient, KlKind, KlPlacement, LossType};
pub use failures::OnUnscoredStep;
pub use inputs::GrpoInputs;
pub use memory::StepBytes;
pub use plan::GrpoPlan;
pub use rollout_servers::{ImportanceSamplingMode, LogprobsMode, RolloutProtocol, RolloutsConfig, SyncCall};
pub use time::StepSecs;
pub use truing_run::samples::Prompt;

use std::borrow::Cow;
use truing_ask::ChatModelConfig;
use truing_model::{Engine, ModelFiles};
use truing_run::checks::DiskSpace;
use truing_run::{Ended, Machine};
use truing_store::RunInputs;
use truing_types::StageName;

use crate::training::plan::check_trainable;
use crate::{PlanContext, RunContext, Stage, StageError, TrainedModel};

/// The GRPO stage. `stop` is looked at after every completion and pack. Steps are functions of seed, step and weights:
/// a step that was interrupted is repeated with the same tokens.
///
/// With several ranks the prompts of a step are dealt to them: each samples and scores its share, then every rank knows
/// all groups, and the packs of the update are dealt. Tokens, rewards and advantages are those of one rank.
///
/// With `[rollouts]` completions are sampled on servers, which load the weights that the run writes.
///
/// Where rewards cannot be computed, the run ends by `on_unscored_step`; it is then saved as it was before.
#[derive(Debug)]
pub struct GrpoStage;

impl Stage for GrpoStage {
    const NAME: StageName = StageName::Grpo;
    type Config = GrpoConfig;
    type Inputs = GrpoInputs;
    type Plan = GrpoPlan;
    type Outcome = TrainedModel;

    fn check(config: &GrpoConfig) -> Result<(), StageError> {
        check::check_recipe(config)
    }

    fn disk_space(config: &GrpoConfig) -> Result<Option<DiskSpace>, StageError> {
        let spec = ModelFiles::open(config.model_name_or_path.as_ref())?.spec;
        let (n_parameters, n_trainable) = check_trainable(&spec, &config.trainable())?;
        Ok(Some(check::disk_space(config, n_parameters, n_trainable)))
    }

    fn load(config: &GrpoConfig, context: &mut PlanContext<'_>) -> Result<GrpoInputs, StageError> {
        GrpoInputs::load(config, context.render.clone(), context.events)
    }

    fn plan<E: Engine>(
        config: GrpoConfig,
        inputs: &GrpoInputs,
        machine: &Machine,
    ) -> Result<GrpoPlan, StageError> {
        GrpoPlan::resolve::<E>(config, inputs, machine)
    }

    fn config(plan: &GrpoPlan) -> &Self::Config {
        &plan.config
    }

    fn record<'a>(_: &GrpoPlan, inputs: &'a GrpoInputs) -> Result<Cow<'a, RunInputs>, StageError> {
        Ok(Cow::Borrowed(&inputs.record))
    }

    fn chat_models(plan: &GrpoPlan) -> Vec<Cow<'_, ChatModelConfig>> {
        let config = &plan.config;
        let judge = config.judge.iter().map(|judge| Cow::Borrowed(&judge.model));
        let servers = config.rollouts.iter();
        let servers = servers.flat_map(|rollouts| rollouts.chat_models(config.max_completion_length));
        judge.chain(servers.map(Cow::Owned)).collect()
    }

    fn run<E: Engine + 'static>(
        plan: &GrpoPlan,
        inputs: &GrpoInputs,
        context: RunContext<'_>,
    ) -> Result<Ended<TrainedModel>, StageError> {
        run::run::<E>(plan, inputs, context)
    }
}
