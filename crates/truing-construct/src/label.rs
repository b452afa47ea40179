//! What is asked, in six dimensions (report 3.1.1): labels for prompts out of a label set that is data, voted on by
//! language models.
//!
//! [`LabelConfig`] is what was typed, [`LabelInputs`] the label set, the prompts and the labels that they have already,
//! [`LabelPlan`] what is asked and what it costs, printable before the first call; [`LabelStage`] asks and adds up.
//! Every reply is kept: an interrupted run continues with the same recipe, and pays for no reply twice.
//!
//! Where the report is silent: all dimensions are asked in one call, several times of each judge; an answer outside the
//! label set is not a vote, and is listed for the authors of the set; the result of the votes is in
//! [`truing_prompts::labels`]. A judge that fails has no ballot; one that answers without a label has an empty one,
//! which costs confidence. A dimension without a single vote has no label and says why, never a default.

mod config;
mod plan;
mod run;

pub use config::{LabelConfig, LabelJudge, OnUnknownLabel};
pub use plan::{LabelInputs, LabelPlan};
pub use run::LabelOutcome;

use std::borrow::Cow;
use truing_ask::ChatModelConfig;
use truing_model::Engine;
use truing_run::{Ended, Machine};
use truing_store::RunInputs;
use truing_types::StageName;

use crate::{PlanContext, RunContext, Stage, StageError};

/// The stage. The folder of a run with the same recipe and inputs is used again, however the run begins.
#[derive(Debug)]
pub struct LabelStage;

impl Stage for LabelStage {
    const NAME: StageName = StageName::Label;
    type Config = LabelConfig;
    type Inputs = LabelInputs;
    type Plan = LabelPlan;
    type Outcome = LabelOutcome;

    fn check(config: &LabelConfig) -> Result<(), StageError> {
        config.check()
    }

    fn load(config: &LabelConfig, context: &mut PlanContext<'_>) -> Result<LabelInputs, StageError> {
        LabelInputs::load(config, context.events)
    }

    fn plan<E: Engine>(
        config: LabelConfig,
        inputs: &LabelInputs,
        _: &Machine,
    ) -> Result<LabelPlan, StageError> {
        LabelPlan::resolve(config, inputs)
    }

    fn config(plan: &LabelPlan) -> &Self::Config {
        &plan.config
    }

    fn record<'a>(plan: &LabelPlan, inputs: &'a LabelInputs) -> Result<Cow<'a, RunInputs>, StageError> {
        plan.record(inputs).map(Cow::Owned)
    }

    fn chat_models(plan: &LabelPlan) -> Vec<Cow<'_, ChatModelConfig>> {
        plan.config.judge.iter().map(|judge| Cow::Borrowed(&judge.model)).collect()
    }

    fn run<E: Engine + 'static>(
        plan: &LabelPlan,
        inputs: &LabelInputs,
        context: RunContext<'_>,
    ) -> Result<Ended<LabelOutcome>, StageError> {
        run::run(plan, inputs, context)
    }
}
