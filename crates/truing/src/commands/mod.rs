//! The commands, one file each. A new one is a file and a line in [`Command`] and in its `run`.

mod doctor;
mod report;

use clap::Subcommand;

use crate::Context;
use crate::outcome::Outcome;

/// What can be asked of `truing`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell what this machine can do for a run, and what to fix.
    Doctor(doctor::Arguments),
    /// Write a run's HTML page anew from its folder.
    Report(report::Arguments),
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<Outcome> {
        match self {
            Self::Doctor(arguments) => doctor::run(arguments, context),
            Self::Report(arguments) => report::run(arguments, context),
        }
    }
}
