//! The commands, one file each. A new one is a file and a line in [`Command`] and in its `run`.

mod chat;
mod classifier;
mod doctor;
mod dpo;
mod embed;
mod generate;
mod grpo;
mod inspect;
mod judging;
mod label;
pub(crate) mod model;
mod plan;
mod prove;
mod quality;
mod quickstart;
mod report;
mod reward;
mod rollouts;
mod sampling;
mod select;
mod sft;
pub(crate) mod training;

use clap::Subcommand;

use crate::Context;
use crate::outcome::Outcome;

/// What can be asked of `truing`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fine-tune a small model on data that comes with truing, train a reward model and a policy, and see what it
    /// learnt. About a quarter of an hour.
    Quickstart(quickstart::Arguments),
    /// Fine-tune a model on conversations, as a recipe says.
    Sft(training::Arguments),
    /// Train on preferences without a reward model (DPO and its family), as a recipe says.
    Dpo(training::Arguments),
    /// Train a reward model, score with it, tell what it is worth.
    #[command(subcommand)]
    Reward(reward::Command),
    /// Train a policy by reinforcement learning: groups of its own completions, scored, as a recipe says.
    Grpo(training::Arguments),
    /// Label prompts by what they ask for: language models vote, as a recipe says; or train and use a classifier.
    Label(label::Arguments),
    /// Judge how good prompts are: compared with anchors by language models, as a recipe says; or train and use a scorer.
    Quality(quality::Arguments),
    /// Look at the completions that a policy run drew and scored.
    Rollouts(rollouts::Arguments),
    /// Choose few and different prompts out of many, with the reason for every one kept or dropped.
    Select(select::Arguments),
    /// Make vectors of texts, or teach an encoder which texts belong together.
    Embed(embed::Arguments),
    /// Print what a recipe will take, before any work: memory, every k, time.
    Plan(plan::Arguments),
    /// Prove on your model and data that packing, checkpointing and micro-batches change no result.
    Prove(prove::Arguments),
    /// Look at a conversation, a data set or a model before any work is done with it.
    Inspect(inspect::Arguments),
    /// Talk to a model.
    Chat(chat::Arguments),
    /// Continue prompts, one or many.
    Generate(generate::Arguments),
    /// Tell what this machine can do for a run, and what to fix.
    Doctor(doctor::Arguments),
    /// Write a run's HTML page anew from its folder.
    Report(report::Arguments),
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<Outcome> {
        match self {
            Self::Quickstart(arguments) => quickstart::run(arguments, context),
            Self::Sft(arguments) => sft::run(arguments, context),
            Self::Dpo(arguments) => dpo::run(arguments, context),
            Self::Reward(command) => reward::run(command, context),
            Self::Grpo(arguments) => grpo::run(arguments, context),
            Self::Label(arguments) => label::run(arguments, context),
            Self::Quality(arguments) => quality::run(arguments, context),
            Self::Rollouts(arguments) => rollouts::run(arguments, context),
            Self::Select(arguments) => select::run(arguments, context),
            Self::Embed(arguments) => embed::run(arguments, context),
            Self::Plan(arguments) => plan::run(arguments, context),
            Self::Prove(arguments) => prove::run(arguments, context),
            Self::Inspect(arguments) => inspect::run(arguments, context),
            Self::Chat(arguments) => chat::run(arguments, context),
            Self::Generate(arguments) => generate::run(arguments, context),
            Self::Doctor(arguments) => doctor::run(arguments, context),
            Self::Report(arguments) => report::run(arguments, context),
        }
    }
}
