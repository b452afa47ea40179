//! All stages as this program runs them, by the `stage` of a recipe; and `truing run`, which runs a recipe of any.

use std::path::Path;

use truing_construct::build::BuildStage;
use truing_construct::files;
use truing_construct::label::LabelStage;
use truing_construct::pas::PasStage;
use truing_construct::pas_evaluate::PasEvaluateStage;
use truing_construct::prefer::PreferStage;
use truing_construct::quality::QualityStage;
use truing_construct::respond::RespondStage;
use truing_construct::select::SelectStage;
use truing_evaluate::evaluate::{self, EvaluateStage};
use truing_evaluate::merge_search::{self, MergeSearchStage};
use truing_pipeline::{Host, NamedOutput, Settings, SettleError, Settled, StageKind, settle};
use truing_reward::RewardError;
use truing_run::AsRunError as _;
use truing_stages::classifier::ClassifierStage;
use truing_stages::distill::DistillStage;
use truing_stages::dpo::DpoStage;
use truing_stages::embed::train::EmbedStage;
use truing_stages::grpo::GrpoStage;
use truing_stages::reward::RewardModelStage;
use truing_stages::sft::SftStage;
use truing_stages::{Recipe, RunError, StageError, recipe};
use truing_types::StageName;

use super::recipe_arguments::RecipeArguments;
use super::stage::{Arguments, RunArguments, StageCommand, read_toml_recipe, run_recipe, show_recipe};
use crate::Context;
use crate::outcome::Outcome;

/// How the settings of a stage of a pipeline are read.
type Settle = fn(&Settings<'_>, &dyn Host) -> Result<Settled, SettleError>;

/// What the program does with recipes of one stage.
#[derive(Debug)]
pub(crate) struct StageEntry {
    stage: StageName,
    /// Makes the plan for a number of ranks and prints it, as one JSON object if asked to.
    pub(crate) show: fn(&RecipeArguments, usize, bool, &Context) -> anyhow::Result<Outcome>,
    /// Whether its recipes have a key.
    has_key: fn(&str) -> bool,
    /// What a finished run leaves that other stages of a pipeline may use.
    outputs: &'static [NamedOutput],
    /// Reads the settings of a stage of a pipeline.
    settle: Settle,
    /// Settings of its recipes that declare something unknown of what they decide.
    #[cfg(test)]
    unknown_declarations: fn() -> Vec<String>,
    /// Plans and runs.
    pub(crate) run: fn(&RecipeArguments, &RunArguments, &Context) -> anyhow::Result<Outcome>,
}

/// All stages, in the order of [`truing_types::STAGES`].
const STAGES: [StageEntry; truing_types::STAGES.len()] = [
    entry::<BuildStage>(&[
        output("rows", files::ROWS),
        output("prompts", files::PROMPTS),
        output("fates", files::FATES),
    ]),
    entry::<MergeSearchStage>(&[
        MODEL,
        output("recipe", merge_search::MERGE_RECIPE),
        output("record", merge_search::RECORD),
    ]),
    entry::<PasStage>(&[output("pairs", files::PAIRS), output("fates", files::FATES)]),
    entry::<PasEvaluateStage>(&[output("results", files::RESULTS), output("summary", files::SUMMARY)]),
    entry::<RespondStage>(&[
        output("responses", files::RESPONSES),
        output("candidates", files::CANDIDATES),
        output("prompts", files::PROMPTS),
    ]),
    entry::<PreferStage>(&[
        output("pairs", files::PAIRS),
        output("ranked", files::RANKED),
        output("edit_queue", files::EDIT_QUEUE),
        output("minimal_pairs", files::MINIMAL_PAIRS),
        output("fates", files::FATES),
    ]),
    entry::<EvaluateStage>(&[
        output("results", truing_eval::results::RESULTS),
        output("answers", evaluate::ANSWERS),
    ]),
    entry::<SelectStage>(&[output("selected", files::SELECTED), output("decisions", files::DECISIONS)]),
    entry::<EmbedStage>(&[MODEL]),
    entry::<LabelStage>(&[
        output("labels", files::LABELS),
        output("review", files::REVIEW),
        output("unlabelled", files::UNLABELLED),
    ]),
    entry::<QualityStage>(&[output("scores", files::SCORES)]),
    entry::<GrpoStage>(&[MODEL]),
    entry::<ClassifierStage>(&[MODEL]),
    entry::<DistillStage>(&[MODEL]),
    entry::<DpoStage>(&[MODEL]),
    entry::<RewardModelStage>(&[MODEL]),
    entry::<SftStage>(&[MODEL]),
];

/// The model of a stage that trains.
pub(crate) const MODEL: NamedOutput = output("model", "model");

const fn output(name: &'static str, path: &'static str) -> NamedOutput {
    NamedOutput { name, path }
}

const fn entry<S: StageCommand>(outputs: &'static [NamedOutput]) -> StageEntry {
    StageEntry {
        stage: S::NAME,
        outputs,
        has_key: has_key::<S>,
        settle: settle_stage::<S>,
        #[cfg(test)]
        unknown_declarations: <S::Config as Recipe>::unknown_declarations,
        show: show_recipe::<S>,
        run: run_recipe::<S>,
    }
}

/// Reads the settings of a stage of a pipeline.
fn settle_stage<S: StageCommand>(settings: &Settings<'_>, host: &dyn Host) -> Result<Settled, SettleError> {
    settle::<S::Config>(settings, host, |config| {
        // The pipeline refuses the recipe of another stage itself.
        if config.stage() != S::NAME {
            return Ok(());
        }
        match S::check(config) {
            // Another stage may have yet to make the file.
            Ok(()) | Err(StageError::Reward(RewardError::UnreadFile { .. })) => Ok(()),
            Err(error) => {
                let key = error.as_run_error().and_then(RunError::setting);
                Err(SettleError::Value { key, source: error.into() })
            }
        }
    })
}

fn has_key<S: StageCommand>(key: &str) -> bool {
    let (text, no_value) = (format!("stage = \"{}\"\n", S::NAME), format!("{key}="));
    <S::Config as Recipe>::from_toml(&text, Path::new("recipe.toml"), &[no_value]).is_ok()
}

/// Whether recipes of any stage have a key.
pub(crate) fn is_setting(key: &str) -> bool {
    STAGES.iter().any(|entry| (entry.has_key)(key))
}

/// All stages as pipelines use them.
pub(crate) fn kinds() -> Vec<StageKind> {
    let kind = |entry: &StageEntry| StageKind {
        name: entry.stage.as_str(),
        outputs: entry.outputs,
        settle: entry.settle,
    };
    STAGES.iter().map(kind).collect()
}

/// The stage that a recipe is for.
pub(crate) fn of_recipe(arguments: &RecipeArguments) -> anyhow::Result<&'static StageEntry> {
    let path = &arguments.recipe;
    let named = recipe::stage_of(&read_toml_recipe(path)?, path)?;
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
    fn keys_of_recipes_are_settings() {
        for key in ["learning_rate", "num_generations"] {
            assert!(is_setting(key), "{key}");
        }
        for other in ["lerning_rate", "warp_speed"] {
            assert!(!is_setting(other), "{other}");
        }
    }

    #[test]
    fn no_recipe_of_a_stage_has_a_key_of_another_kind_of_file() {
        for key in recipe::FileKind::ALL.into_iter().flat_map(recipe::FileKind::own_keys) {
            assert!(!is_setting(key), "{key}");
        }
    }

    #[test]
    fn settings_of_all_stages_declare_what_they_decide() {
        for entry in &STAGES {
            assert_eq!((entry.unknown_declarations)(), [""; 0], "{}", entry.stage);
        }
    }

    #[test]
    fn every_stage_has_a_command() {
        assert_eq!(STAGES.map(|entry| entry.stage), truing_types::STAGES.map(|info| info.stage));
    }
}
