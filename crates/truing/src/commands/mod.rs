//! The commands, one file each. A new one is a file and a line in [`Command`] and in its `run`.

mod chat;
mod classifier;
mod doctor;
mod embed;
mod generate;
mod grpo;
mod inspect;
mod judging;
mod label;
pub(crate) mod model;
mod output;
mod plan;
mod prove;
mod quality;
mod quickstart;
mod report;
mod reward;
mod rollouts;
mod sampling;
mod select;
pub(crate) mod stage;
mod training;

use clap::Subcommand;
use truing_stages::dpo::DpoStage;
use truing_stages::grpo::GrpoStage;
use truing_stages::select::SelectStage;
use truing_stages::sft::SftStage;

use crate::Context;
use crate::outcome::Outcome;

/// What can be asked of `truing`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run SFT, a reward model and GRPO on a small model and bundled data; compare before and after. About 15 minutes.
    Quickstart(quickstart::Arguments),
    /// Fine-tune a model on conversations (SFT).
    Sft(stage::Arguments),
    /// Train on preferences without a reward model (DPO, IPO, SimPO, ORPO, KTO and others).
    Dpo(stage::Arguments),
    /// Train, apply or evaluate a reward model.
    #[command(subcommand)]
    Reward(reward::Command),
    /// Train a policy with reinforcement learning (GRPO, RLOO, DAPO, GSPO and others).
    Grpo(stage::Arguments),
    /// Label prompts by votes of LLM judges, or train and use a classifier.
    Label(label::Arguments),
    /// Score the quality of prompts by pairwise comparisons of LLM judges, or train and use a scorer.
    Quality(quality::Arguments),
    /// Show the rollouts of a GRPO run: completions, rewards, advantages.
    Rollouts(rollouts::Arguments),
    /// Clean, deduplicate, decontaminate and select prompts; every dropped row has a reason.
    Select(stage::Arguments),
    /// Embed texts, or train an embedding model.
    Embed(embed::Arguments),
    /// Print the cost of a recipe before running it: memory, activation checkpointing, steps, time.
    Plan(plan::Arguments),
    /// Check on your model and data that packing, checkpointing and micro-batches do not change results.
    Prove(prove::Arguments),
    /// Inspect a conversation, a dataset or a model.
    Inspect(inspect::Arguments),
    /// Chat with a model in the terminal.
    Chat(chat::Arguments),
    /// Generate replies to one or many prompts.
    Generate(generate::Arguments),
    /// Check this machine (processor, memory, caches, Python) and say what to fix.
    Doctor(doctor::Arguments),
    /// Write the HTML report of a run again, from its folder.
    Report(report::Arguments),
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<Outcome> {
        match self {
            Self::Quickstart(arguments) => quickstart::run(arguments, context),
            Self::Sft(arguments) => stage::run::<SftStage>(arguments, context),
            Self::Dpo(arguments) => stage::run::<DpoStage>(arguments, context),
            Self::Reward(command) => reward::run(command, context),
            Self::Grpo(arguments) => stage::run::<GrpoStage>(arguments, context),
            Self::Label(arguments) => label::run(arguments, context),
            Self::Quality(arguments) => quality::run(arguments, context),
            Self::Rollouts(arguments) => rollouts::run(arguments, context),
            Self::Select(arguments) => stage::run::<SelectStage>(arguments, context),
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
