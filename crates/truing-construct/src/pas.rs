//! Training pairs for a complement model (PAS, arXiv 2407.06027; report 2.3): prompts of a pool are selected, sorted
//! into categories, given complements by a language model after golden pairs of their category, and reviewed by a
//! critic that knows five faults. [`crate::pas_evaluate`] measures what the trained model's complements change.
//!
//! [`PasConfig`] is what was typed, [`PasInputs`] the pool and the examples, [`PasPlan`] what is asked and what it
//! costs, printable before the first call; [`PasStage`] asks and writes `pairs.jsonl`, which `truing sft` trains on,
//! and `fates.jsonl`, which has one row for each prompt of the pool, with its outcome. Every reply is kept: an
//! interrupted run continues with the same recipe, and repeats no request.
//!
//! Where the sources are silent: a rejected complement is written again with another seed, `max_regenerations` times;
//! then the critic's correction is used, as in the authors' data, or the prompt is dropped. Without selection as many
//! prompts as it would keep are sampled at random, so that the ablation compares selections and not amounts.

mod config;
mod plan;
mod run;

pub use config::PasConfig;
pub use plan::{PasInputs, PasPlan, PoolPrompt};
pub use run::{Fate, FateRow, PasOutcome, PasSummary};

use std::borrow::Cow;
use truing_ask::ChatModelConfig;
use truing_model::Engine;
use truing_run::{Ended, Machine};
use truing_store::RunInputs;
use truing_types::StageName;

use crate::{PlanContext, RunContext, Stage, StageError};

/// The stage. The folder of a run with the same recipe and inputs is used again, however the run begins.
#[derive(Debug)]
pub struct PasStage;

impl Stage for PasStage {
    const NAME: StageName = StageName::Pas;
    type Config = PasConfig;
    type Inputs = PasInputs;
    type Plan = PasPlan;
    type Outcome = PasOutcome;

    fn check(config: &PasConfig) -> Result<(), StageError> {
        config.check()
    }

    fn load(config: &PasConfig, context: &mut PlanContext<'_>) -> Result<PasInputs, StageError> {
        PasInputs::load(config, context.events)
    }

    fn plan<E: Engine>(config: PasConfig, inputs: &PasInputs, _: &Machine) -> Result<PasPlan, StageError> {
        PasPlan::resolve(config, inputs)
    }

    fn config(plan: &PasPlan) -> &Self::Config {
        &plan.config
    }

    fn record<'a>(plan: &PasPlan, inputs: &'a PasInputs) -> Result<Cow<'a, RunInputs>, StageError> {
        plan.record(inputs).map(Cow::Owned)
    }

    fn chat_models(plan: &PasPlan) -> Vec<Cow<'_, ChatModelConfig>> {
        plan.config.chat_models().into_iter().map(Cow::Borrowed).collect()
    }

    fn run<E: Engine + 'static>(
        plan: &PasPlan,
        inputs: &PasInputs,
        context: RunContext<'_>,
    ) -> Result<Ended<PasOutcome>, StageError> {
        run::run(plan, inputs, context)
    }
}
