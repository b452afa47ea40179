//! `truing completions` and `truing man`: what shells and `man` know of the command line.

use std::io;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::outcome::Outcome;
use crate::{Cli, Context};

/// Arguments of `truing completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArguments {
    /// The shell.
    shell: Shell,
}

/// Arguments of `truing man`.
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Folder for the pages, one per command. It is created.
    folder: PathBuf,
}

/// Writes the completion script of a shell to stdout.
pub(crate) fn completions(arguments: &CompletionArguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "truing", &mut script);
    context.printer.text(String::from_utf8_lossy(&script))?;
    Ok(Outcome::Fine)
}

/// Writes the man pages of all commands.
pub(crate) fn man(arguments: &ManArguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let folder = &arguments.folder;
    let written: io::Result<()> = std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), folder));
    written.with_context(|| format!("cannot write the man pages to {}", folder.display()))?;
    context.printer.line(format_args!("man pages  {}", folder.display()))?;
    Ok(Outcome::Fine)
}
