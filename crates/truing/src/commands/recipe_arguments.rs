//! A recipe on the command line.

use std::path::PathBuf;

use clap::Args;

use crate::outcome::Hinted;

/// A recipe and what is changed of it.
#[derive(Debug, Args)]
pub(crate) struct RecipeArguments {
    /// The recipe, a TOML file.
    pub(crate) recipe: PathBuf,
    /// Override a setting, for instance `--set learning_rate=2e-5` or `--set data.0.path=mine.jsonl`. May be given
    /// several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

/// A command that was given neither a recipe nor a subcommand.
pub(crate) fn no_recipe(example: &str) -> anyhow::Error {
    let source = anyhow::anyhow!("a recipe is needed");
    anyhow::Error::new(Hinted { source, hint: example.to_owned() })
}
