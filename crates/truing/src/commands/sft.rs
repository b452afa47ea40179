//! `truing sft`: supervised fine-tuning from a recipe.

use truing_stages::sft::{self, SftInputs};

use super::training::{self, Arguments, Stage};
use crate::Context;
use crate::outcome::Outcome;

/// The stage.
pub(crate) const STAGE: Stage<SftInputs> = Stage { load: SftInputs::load, run: sft::run };

/// Reads the recipe, plans, trains, writes the page.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    training::run(&STAGE, arguments, context)
}
