//! Evaluation on benchmarks: what a model is asked, what came back, and what its scores can resolve.
//!
//! [`EvaluateConfig`] is what was typed, [`EvaluateInputs`] the items of every benchmark, [`EvaluatePlan`] what is
//! asked and the smallest differences that the items can resolve, printable before the first call. [`EvaluateStage`]
//! asks the model and the judge, in rounds where an answer decides what is asked next, and keeps every answer: an
//! interrupted run continues with the same recipe, and pays for no call twice. What a benchmark asks and how it scores
//! is in [`truing_eval::benchmarks`].

mod answer_log;
mod asking;
mod config;
mod plan;
mod records;
mod run;

use std::borrow::Cow;

use truing_ask::ChatModelConfig;
use truing_model::Engine;
use truing_run::{Ended, Machine};
use truing_store::RunInputs;
use truing_types::StageName;

pub use answer_log::ANSWERS;
pub(crate) use answer_log::AnswerLog;
pub use config::{EvaluateConfig, EvaluateJudge, TaskConfig};
pub(crate) use plan::resolution_row;
pub use plan::{EvaluateInputs, EvaluatePlan, PlannedTask};
pub use records::{EvaluateOutcome, rescore};
pub(crate) use run::{Asking, SubjectModel};

use crate::{PlanContext, RunContext, Stage, StageError};

/// The stage. The folder of a run with the same recipe and inputs is used again, however the run begins.
#[derive(Debug)]
pub struct EvaluateStage;

impl Stage for EvaluateStage {
    const NAME: StageName = StageName::Evaluate;
    type Config = EvaluateConfig;
    type Inputs = EvaluateInputs;
    type Plan = EvaluatePlan;
    type Outcome = EvaluateOutcome;

    fn check(config: &EvaluateConfig) -> Result<(), StageError> {
        config.check()
    }

    fn load(config: &EvaluateConfig, context: &mut PlanContext<'_>) -> Result<EvaluateInputs, StageError> {
        EvaluateInputs::load(config, context)
    }

    fn plan<E: Engine>(
        config: EvaluateConfig,
        inputs: &EvaluateInputs,
        machine: &Machine,
    ) -> Result<EvaluatePlan, StageError> {
        EvaluatePlan::resolve(config, inputs, machine)
    }

    fn config(plan: &EvaluatePlan) -> &Self::Config {
        &plan.config
    }

    fn record<'a>(plan: &EvaluatePlan, _: &'a EvaluateInputs) -> Result<Cow<'a, RunInputs>, StageError> {
        Ok(Cow::Owned(plan.config.record()?))
    }

    fn chat_models(plan: &EvaluatePlan) -> Vec<Cow<'_, ChatModelConfig>> {
        let server = Some(&plan.config.model).filter(|model| model.server.is_some());
        let judge = plan.config.judge.as_ref().map(|judge| &judge.model);
        server.into_iter().chain(judge).map(Cow::Borrowed).collect()
    }

    fn run<E: Engine + 'static>(
        plan: &EvaluatePlan,
        inputs: &EvaluateInputs,
        context: RunContext<'_>,
    ) -> Result<Ended<EvaluateOutcome>, StageError> {
        run::run::<E>(plan, inputs, context)
    }
}
