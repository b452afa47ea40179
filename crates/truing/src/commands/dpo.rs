//! `truing dpo`: preference optimisation without a reward model, from a recipe.

use truing_stages::dpo;
use truing_stages::responses::ResponseInputs;

use super::training::{self, Arguments, Stage};
use crate::Context;
use crate::outcome::Outcome;

/// The stage.
pub(crate) const STAGE: Stage<ResponseInputs> = Stage { load: dpo::load, run: dpo::run };

/// Reads the recipe, plans, trains, writes the page.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    training::run(&STAGE, arguments, context)
}
