//! `truing grpo`: reinforcement learning from groups of completions, from a recipe.

use std::path::Path;

use serde_json::{Map, Value, json};
use truing_stages::grpo::{GrpoPlan, GrpoStage};
use truing_stages::{StagePlan, TrainedModel};

use super::amount::amount_json;
use super::stage::{StageCommand, finish_training};
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::clean_path;

impl StageCommand for GrpoStage {
    fn plan_json(plan: &GrpoPlan) -> Value {
        let rows: Map<String, Value> =
            plan.table().into_iter().map(|row| (row.name, amount_json(row.amount))).collect();
        json!({ "fits": true, "peak_bytes": plan.peak_bytes(), "rows": rows })
    }

    fn finish(
        trained: TrainedModel,
        folder: &Path,
        as_json: bool,
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        let rollouts = format!("truing rollouts {}", clean_path(folder));
        finish_training(&trained, &[("rollouts", rollouts)], folder, as_json, context)
    }
}
