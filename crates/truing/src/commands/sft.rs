//! `truing sft`: supervised fine-tuning from a recipe.

use std::path::Path;

use serde_json::Value;
use truing_stages::TrainedModel;
use truing_stages::sft::SftStage;
use truing_stages::training::TrainingPlan;

use super::plan;
use super::stage::{StageCommand, finish_training};
use crate::Context;
use crate::outcome::Outcome;

impl StageCommand for SftStage {
    const STOPPING: &'static str = "stopping: the run is saved after this pack";

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
