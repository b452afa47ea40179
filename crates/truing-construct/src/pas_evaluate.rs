//! What complements change: a target model answers each prompt as it is and with its complement (PAS,
//! arXiv 2407.06027). Where a prompt has instructions that a program can check (IFEval), both replies are checked;
//! where it has none, a judge compares them in both orders, if the recipe names one.
//!
//! [`PasEvaluateConfig`] is what was typed, [`PasEvaluateInputs`] the prompts, [`PasEvaluatePlan`] the calls, printable
//! before the first; [`PasEvaluateStage`] asks and adds up. Every reply is kept: an interrupted run continues with the
//! same recipe, and repeats no request.
//!
//! A prompt whose complement fails is answered as it is, as a proxy would, and counts with equal replies. Equal replies
//! are as good as each other without a judge. A verdict that changes with the order of the replies counts as no
//! difference.

mod config;
mod plan;
mod run;

pub use config::PasEvaluateConfig;
pub use plan::{EvaluationPrompt, PasEvaluateInputs, PasEvaluatePlan};
pub use run::{
    Compared, ComparedReplies, Difference, Judged, PasEvaluateOutcome, PasEvaluateSummary, Verified,
};

use std::borrow::Cow;
use truing_ask::ChatModelConfig;
use truing_model::Engine;
use truing_run::{Ended, Machine};
use truing_store::RunInputs;
use truing_types::StageName;

use crate::{PlanContext, RunContext, Stage, StageError};

/// The stage. The folder of a run with the same recipe and inputs is used again, however the run begins.
#[derive(Debug)]
pub struct PasEvaluateStage;

impl Stage for PasEvaluateStage {
    const NAME: StageName = StageName::PasEvaluate;
    type Config = PasEvaluateConfig;
    type Inputs = PasEvaluateInputs;
    type Plan = PasEvaluatePlan;
    type Outcome = PasEvaluateOutcome;

    fn check(config: &PasEvaluateConfig) -> Result<(), StageError> {
        config.check()
    }

    fn load(
        config: &PasEvaluateConfig,
        context: &mut PlanContext<'_>,
    ) -> Result<PasEvaluateInputs, StageError> {
        PasEvaluateInputs::load(config, context.events)
    }

    fn plan<E: Engine>(
        config: PasEvaluateConfig,
        inputs: &PasEvaluateInputs,
        _: &Machine,
    ) -> Result<PasEvaluatePlan, StageError> {
        PasEvaluatePlan::resolve(config, inputs)
    }

    fn config(plan: &PasEvaluatePlan) -> &Self::Config {
        &plan.config
    }

    fn record<'a>(
        plan: &PasEvaluatePlan,
        inputs: &'a PasEvaluateInputs,
    ) -> Result<Cow<'a, RunInputs>, StageError> {
        plan.record(inputs).map(Cow::Owned)
    }

    fn chat_models(plan: &PasEvaluatePlan) -> Vec<Cow<'_, ChatModelConfig>> {
        plan.config.chat_models().into_iter().map(Cow::Borrowed).collect()
    }

    fn run<E: Engine + 'static>(
        plan: &PasEvaluatePlan,
        inputs: &PasEvaluateInputs,
        context: RunContext<'_>,
    ) -> Result<Ended<PasEvaluateOutcome>, StageError> {
        run::run(plan, inputs, context)
    }
}
