//! How good a prompt is for training (report 3.1.3): prompts of a bucket are compared with anchors of the same bucket
//! by language models, on four dimensions, in both orders; wins are added up and strengths fitted, with their errors.
//!
//! [`QualityConfig`] is what was typed, [`QualityInputs`] the prompts, [`QualityPlan`] the buckets, their anchors and
//! what it will cost, printable before the first call; [`QualityStage`] asks and adds up. Every reply is kept: an
//! interrupted run continues with the same recipe, and repeats no request.
//!
//! Where the report is silent: both orders are asked, and where a judge contradicts itself it is a draw; anchors are
//! scored too, by the same comparisons; a bucket with no more prompts than anchors compares all with all. Not here:
//! what buckets are (a column says), and the small scorer that is trained on the labels.

mod config;
mod plan;
mod run;

pub use config::{QualityConfig, QualityJudge};
pub use plan::{QualityInputs, QualityPlan};
pub use run::QualityOutcome;

use std::borrow::Cow;
use truing_ask::ChatModelConfig;
use truing_model::Engine;
use truing_run::{Ended, Machine};
use truing_store::RunInputs;
use truing_types::StageName;

use crate::{PlanContext, RunContext, Stage, StageError};

/// The stage. The folder of a run with the same recipe and inputs is used again, however the run begins.
#[derive(Debug)]
pub struct QualityStage;

impl Stage for QualityStage {
    const NAME: StageName = StageName::Quality;
    type Config = QualityConfig;
    type Inputs = QualityInputs;
    type Plan = QualityPlan;
    type Outcome = QualityOutcome;

    fn check(config: &QualityConfig) -> Result<(), StageError> {
        config.check()
    }

    fn load(config: &QualityConfig, context: &mut PlanContext<'_>) -> Result<QualityInputs, StageError> {
        QualityInputs::load(config, context.events)
    }

    fn plan<E: Engine>(
        config: QualityConfig,
        inputs: &QualityInputs,
        _: &Machine,
    ) -> Result<QualityPlan, StageError> {
        QualityPlan::resolve(config, inputs)
    }

    fn config(plan: &QualityPlan) -> &Self::Config {
        &plan.config
    }

    fn record<'a>(plan: &QualityPlan, inputs: &'a QualityInputs) -> Result<Cow<'a, RunInputs>, StageError> {
        plan.record(inputs).map(Cow::Owned)
    }

    fn chat_models(plan: &QualityPlan) -> Vec<Cow<'_, ChatModelConfig>> {
        plan.config.judge.iter().map(|judge| Cow::Borrowed(&judge.model)).collect()
    }

    fn run<E: Engine + 'static>(
        plan: &QualityPlan,
        inputs: &QualityInputs,
        context: RunContext<'_>,
    ) -> Result<Ended<QualityOutcome>, StageError> {
        run::run(plan, inputs, context)
    }
}
