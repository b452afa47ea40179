//! `truing sft`, `truing dpo`, `truing distill` and `truing reward train`: the stages that share one training run,
//! which plan, print and end alike.

use std::path::Path;

use serde_json::Value;
use truing_stages::distill::DistillStage;
use truing_stages::dpo::DpoStage;
use truing_stages::reward::RewardModelStage;
use truing_stages::sft::SftStage;
use truing_stages::training::TrainingPlan;
use truing_stages::{Stage, TrainedModel};

use super::plan;
use super::stage::{RunKind, StageCommand, finish_training};
use crate::Context;
use crate::outcome::Outcome;

/// A stage whose plan is a [`TrainingPlan`] and nothing else.
pub(crate) trait TrainingStage: Stage<Plan = TrainingPlan, Outcome = TrainedModel> {}

impl TrainingStage for SftStage {}
impl TrainingStage for DpoStage {}
impl TrainingStage for DistillStage {}
impl TrainingStage for RewardModelStage {}

impl<S: TrainingStage> StageCommand for S {
    const KIND: RunKind =
        RunKind { stopping: "stopping: the run is saved after this pack", ..RunKind::TRAINING };

    fn print_plan(plan: &TrainingPlan, context: &Context) -> anyhow::Result<()> {
        plan::print(plan, context)
    }

    fn plan_json(plan: &TrainingPlan) -> Value {
        plan::to_json(plan)
    }

    fn finish(
        trained: TrainedModel,
        folder: &Path,
        as_json: bool,
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        finish_training(&trained, &[], folder, as_json, context)
    }
}
