//! The commands, one file each. A new one is a file and a line in [`Command`] and in its `run`.

mod doctor;
mod inspect;
mod model;
mod plan;
mod prove;
mod report;
mod sft;

use clap::Subcommand;

use crate::Context;
use crate::outcome::Outcome;

/// What can be asked of `truing`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fine-tune a model on conversations, as a recipe says.
    Sft(sft::Arguments),
    /// Print what a recipe will take, before any work: memory, every k, time.
    Plan(plan::Arguments),
    /// Prove on your model and data that packing, checkpointing and micro-batches change no result.
    Prove(prove::Arguments),
    /// Look at a conversation, a data set or a model before any work is done with it.
    Inspect(inspect::Arguments),
    /// Tell what this machine can do for a run, and what to fix.
    Doctor(doctor::Arguments),
    /// Write a run's HTML page anew from its folder.
    Report(report::Arguments),
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<Outcome> {
        match self {
            Self::Sft(arguments) => sft::run(arguments, context),
            Self::Plan(arguments) => plan::run(arguments, context),
            Self::Prove(arguments) => prove::run(arguments, context),
            Self::Inspect(arguments) => inspect::run(arguments, context),
            Self::Doctor(arguments) => doctor::run(arguments, context),
            Self::Report(arguments) => report::run(arguments, context),
        }
    }
}
