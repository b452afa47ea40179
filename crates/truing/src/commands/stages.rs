//! All stages as this program runs them, by the `stage` of a recipe; and `truing run`, which runs a recipe of any.

use truing_construct::build::BuildStage;
use truing_construct::label::LabelStage;
use truing_construct::pas::PasStage;
use truing_construct::pas_evaluate::PasEvaluateStage;
use truing_construct::prefer::PreferStage;
use truing_construct::quality::QualityStage;
use truing_construct::respond::RespondStage;
use truing_evaluate::evaluate::EvaluateStage;
use truing_evaluate::merge_search::MergeSearchStage;
use truing_stages::classifier::ClassifierStage;
use truing_stages::distill::DistillStage;
use truing_stages::dpo::DpoStage;
use truing_stages::embed::train::EmbedStage;
use truing_stages::grpo::GrpoStage;
use truing_stages::recipe;
use truing_stages::reward::RewardModelStage;
use truing_stages::select::SelectStage;
use truing_stages::sft::SftStage;
use truing_types::StageName;

use super::stage::{
    Arguments, RecipeArguments, RunArguments, StageCommand, read_recipe, run_recipe, show_recipe,
};
use crate::Context;
use crate::outcome::Outcome;

/// What the program does with recipes of one stage.
#[derive(Debug)]
pub(crate) struct StageEntry {
    stage: StageName,
    /// Makes the plan for a number of ranks and prints it, as one JSON object if asked to.
    pub(crate) show: fn(&RecipeArguments, usize, bool, &Context) -> anyhow::Result<Outcome>,
    /// Plans and runs.
    pub(crate) run: fn(&RecipeArguments, &RunArguments, &Context) -> anyhow::Result<Outcome>,
}

/// All stages, in the order of [`truing_types::STAGES`].
const STAGES: [StageEntry; truing_types::STAGES.len()] = [
    entry::<BuildStage>(),
    entry::<MergeSearchStage>(),
    entry::<PasStage>(),
    entry::<PasEvaluateStage>(),
    entry::<RespondStage>(),
    entry::<PreferStage>(),
    entry::<EvaluateStage>(),
    entry::<SelectStage>(),
    entry::<EmbedStage>(),
    entry::<LabelStage>(),
    entry::<QualityStage>(),
    entry::<GrpoStage>(),
    entry::<ClassifierStage>(),
    entry::<DistillStage>(),
    entry::<DpoStage>(),
    entry::<RewardModelStage>(),
    entry::<SftStage>(),
];

const fn entry<S: StageCommand>() -> StageEntry {
    StageEntry { stage: S::NAME, show: show_recipe::<S>, run: run_recipe::<S> }
}

/// The stage that a recipe is for.
pub(crate) fn of_recipe(arguments: &RecipeArguments) -> anyhow::Result<&'static StageEntry> {
    let path = &arguments.recipe;
    let named = recipe::stage_of(&read_recipe(path)?, path)?;
    let entry = STAGES.iter().find(|entry| entry.stage == named);
    entry.ok_or_else(|| anyhow::anyhow!("stage \"{named}\" has no command"))
}

/// Runs the stage that the recipe names.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    (of_recipe(&arguments.recipe)?.run)(&arguments.recipe, &arguments.run, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_a_command() {
        assert_eq!(STAGES.map(|entry| entry.stage), truing_types::STAGES.map(|info| info.stage));
    }
}
