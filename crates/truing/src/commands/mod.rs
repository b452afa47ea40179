//! The commands, one file each. A new one is a file and a line in [`Command`] and in its `run`.

mod amount;
mod annotate;
mod bench;
mod build;
mod chat;
mod classifier;
mod completions;
mod doctor;
mod embed;
mod evaluate;
mod generate;
mod grpo;
mod import;
mod inspect;
mod judging;
mod label;
mod launch;
mod merge;
mod merge_probe;
mod merge_search;
pub(crate) mod model;
mod output;
mod pas;
mod pas_serve;
mod pipeline;
mod place;
mod plan;
mod plan_cluster;
mod prefer;
mod quality;
mod quickstart;
mod recipe_arguments;
mod report;
mod respond;
mod reward;
mod rollouts;
mod sampling;
mod score;
mod select;
mod serve;
pub(crate) mod stage;
mod stages;
mod training;
mod verify;

use clap::Subcommand;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use truing_construct::respond::RespondStage;
use truing_construct::select::SelectStage;
use truing_stages::distill::DistillStage;
use truing_stages::dpo::DpoStage;
use truing_stages::grpo::GrpoStage;
use truing_stages::sft::SftStage;

use crate::Context;
use crate::outcome::Outcome;

/// What can be asked of `truing`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run SFT, a reward model and GRPO on a small model and bundled data; compare before and after. 15 to 20 minutes.
    #[command(after_help = "Example: truing quickstart --output runs/quickstart")]
    Quickstart(quickstart::Arguments),
    /// Run a recipe of any stage: its key `stage` names it.
    #[command(after_help = "Example: truing run recipes/tiny.toml --set learning_rate=2e-5")]
    Run(stage::Arguments),
    /// Fine-tune a model on conversations (SFT).
    #[command(after_help = "Examples:\
                            \n  truing sft recipes/tiny.toml --plan\
                            \n  truing sft recipes/tiny.toml\
                            \n  truing sft recipes/tiny.toml --resume")]
    Sft(stage::Arguments),
    /// Train on preferences without a reward model (DPO, IPO, SimPO, ORPO, KTO and others).
    #[command(after_help = "Example: truing dpo recipes/dpo.toml --set preference.beta=0.05")]
    Dpo(stage::Arguments),
    /// Distil a teacher into a model on the model's own completions: a larger model, or the model itself with a
    /// privileged prompt.
    #[command(after_help = "Examples:\
                            \n  truing distill recipes/distill.toml --plan\
                            \n  truing distill recipes/distill.toml --set distillation.divergence=forward_kl")]
    Distill(stage::Arguments),
    /// Train, apply or evaluate a reward model.
    #[command(
        subcommand,
        after_help = "Examples:\
                      \n  truing reward train recipes/reward_model.toml\
                      \n  truing reward score runs/reward_model/model pairs.jsonl -o scores.jsonl\
                      \n  truing reward evaluate runs/reward_model/model pairs.jsonl"
    )]
    Reward(reward::Command),
    /// Train a policy with reinforcement learning (GRPO, RLOO, DAPO, GSPO and others).
    #[command(after_help = "Example: truing grpo recipes/grpo_ifeval.toml --set num_generations=8")]
    Grpo(stage::Arguments),
    /// Label prompts by votes of LLM judges, or train and use a classifier.
    #[command(after_help = "Examples:\
                            \n  truing label recipes/label.toml --plan\
                            \n  truing label train recipes/label_encoder.toml")]
    Label(label::Arguments),
    /// Score the quality of prompts by pairwise comparisons of LLM judges, or train and use a scorer.
    #[command(after_help = "Examples:\
                            \n  truing quality recipes/quality.toml --plan\
                            \n  truing quality train recipes/quality_scorer.toml")]
    Quality(quality::Arguments),
    /// Evaluate a model on benchmarks; compare two evaluations; score stored answers again.
    #[command(after_help = "Examples:\
                            \n  truing evaluate --model runs/tiny/model --task gsm8k=gsm8k_test.jsonl --limit 100\
                            \n  truing evaluate recipes/evaluate.toml --plan\
                            \n  truing evaluate compare runs/eval_before runs/eval_after")]
    Evaluate(evaluate::Arguments),
    /// Merge models: averages, task vectors, TIES, DARE, Model Stock and others, from a recipe or a mergekit file.
    #[command(after_help = "Examples:\
                            \n  truing merge recipes/merge.toml --plan\
                            \n  truing merge mergekit.yaml --output runs/merged\
                            \n  truing merge search recipes/merge_search.toml --plan")]
    Merge(merge::Arguments),
    /// Show the rollouts of a GRPO or distillation run: completions, rewards, advantages.
    #[command(after_help = "Example: truing rollouts runs/grpo_ifeval")]
    Rollouts(rollouts::Arguments),
    /// Apply the rewards of a GRPO recipe (verifiers, a reward model, a judge) to given responses.
    #[command(
        after_help = "Example: truing score recipes/grpo_gsm8k.toml --data responses.jsonl -o scores.jsonl"
    )]
    Score(score::Arguments),
    /// Clean, deduplicate, decontaminate and select prompts; every dropped row has a reason.
    #[command(after_help = "Example: truing select recipes/select.toml --set selection.target_size=1000")]
    Select(stage::Arguments),
    /// Sample responses to prompts from several models, filter and score them, and keep the best (rejection sampling).
    #[command(after_help = "Examples:\
                            \n  truing respond recipes/respond.toml --plan\
                            \n  truing respond recipes/respond.toml --set select=top_n")]
    Respond(stage::Arguments),
    /// Prompt augmentation (PAS): make pairs, train a complement model, use it, measure it.
    #[command(
        subcommand,
        after_help = "Examples:\
                      \n  truing pas build recipes/pas.toml --plan\
                      \n  truing pas train recipes/pas_sft.toml\
                      \n  truing pas complete --model runs/pas_sft/model \"Why is the sky blue?\""
    )]
    Pas(pas::Command),
    /// Make preference data: judge the responses of prompts, measure the judges, and choose pairs.
    #[command(after_help = "Examples:\
                            \n  truing prefer recipes/prefer.toml --plan\
                            \n  truing prefer recipes/prefer.toml\
                            \n  truing prefer --self-test")]
    Prefer(prefer::Arguments),
    /// Make training data for one ability with models: constraints, reversal, mathematics, system messages.
    #[command(after_help = "Examples:\
                            \n  truing build list\
                            \n  truing build recipes/build_constraints.toml --plan\
                            \n  truing build recipes/build_constraints.toml")]
    Build(build::Arguments),
    /// Embed texts, or train an embedding model.
    #[command(after_help = "Examples:\
                            \n  truing embed --data prompts.jsonl -o vectors.npy\
                            \n  truing embed train recipes/embed.toml")]
    Embed(embed::Arguments),
    /// Print the cost of a recipe before running it: memory, activation checkpointing, steps, time.
    #[command(after_help = "Examples:\
                            \n  truing plan recipes/tiny.toml --set memory_gib=4\
                            \n  truing plan --cluster recipes/cluster_h100.toml --model Qwen/Qwen2.5-72B-Instruct\
                            \n  truing plan recipes/sft_7b_full.toml --cluster recipes/cluster_h100.toml")]
    Plan(plan::Arguments),
    /// Run a training command as several processes on this machine.
    #[command(after_help = "Example: truing launch -n 2 -- sft recipes/tiny.toml")]
    Launch(launch::Arguments),
    /// Run several stages as one recipe says: what is unchanged is not done again.
    #[command(
        subcommand,
        after_help = "Examples:\
                      \n  truing pipeline plan recipes/pipeline_tiny.toml\
                      \n  truing pipeline apply recipes/pipeline_tiny.toml"
    )]
    Pipeline(pipeline::Command),
    /// Check on your model and data that packing, checkpointing and micro-batches do not change results.
    #[command(visible_alias = "prove", after_help = "Example: truing verify --data quickstart/train.jsonl")]
    Verify(verify::Arguments),
    /// Inspect a conversation, a dataset or a model.
    #[command(after_help = "Examples:\
                            \n  truing inspect data --data quickstart/train.jsonl\
                            \n  truing inspect conversation --data quickstart/train.jsonl\
                            \n  truing inspect model runs/tiny/model")]
    Inspect(inspect::Arguments),
    /// Chat with a model in the terminal.
    #[command(
        after_help = "Example: truing chat --model runs/tiny/model --system \"Answer in one sentence.\""
    )]
    Chat(chat::Arguments),
    /// Generate replies to one or many prompts.
    #[command(after_help = "Examples:\
                            \n  truing generate --model runs/tiny/model \"Name three colours.\"\
                            \n  truing generate --file prompts.jsonl --json")]
    Generate(generate::Arguments),
    /// Serve models to OpenAI-compatible clients, with a chat page.
    #[command(after_help = "Examples:\
                            \n  truing serve --model runs/tiny/model\
                            \n  truing serve --model chat=runs/grpo/model --model \
                            reward=runs/reward_model/model --port 8080\
                            \n  truing serve --host 0.0.0.0 --api-key-file keys.txt")]
    Serve(serve::Arguments),
    /// Have people rank, rate, mark, edit and label responses on local pages; agreement, and training data.
    #[command(
        subcommand,
        after_help = "Examples:\
                      \n  truing annotate serve recipes/annotate.toml --port 8010\
                      \n  truing annotate status runs/annotate\
                      \n  truing annotate export runs/annotate --output data/annotated"
    )]
    Annotate(annotate::Command),
    /// Check this machine (processor, memory, caches, Python) and say what to fix.
    #[command(after_help = "Example: truing doctor")]
    Doctor(doctor::Arguments),
    /// Measure this machine's peaks, and products, a training step, decoding and embedding against them. Under a
    /// minute.
    #[command(
        after_help = "Examples:\n  truing bench\n  truing bench --quick\n  truing bench --model runs/tiny/model --json"
    )]
    Bench(bench::Arguments),
    /// Write the HTML report of a run again, from its folder.
    #[command(after_help = "Example: truing report runs/tiny")]
    Report(report::Arguments),
    /// Make a recipe of a YAML file of TRL, axolotl, LLaMA-Factory or verl.
    #[command(after_help = "Example: truing import llama3_lora_sft.yaml -o recipes/llama3.toml")]
    Import(import::Arguments),
    /// Print the completion script of a shell.
    #[command(
        after_help = "Example: truing completions bash > ~/.local/share/bash-completion/completions/truing"
    )]
    Completions(completions::CompletionArguments),
    /// Write the man pages of all commands to a folder.
    #[command(after_help = "Example: truing man ~/.local/share/man/man1")]
    Man(completions::ManArguments),
}

/// Where an unknown option is a key of recipes, as other tools have options of these names, says how a key is set.
pub(crate) fn suggest_setting(refusal: &mut clap::Error) {
    if refusal.kind() != ErrorKind::UnknownArgument {
        return;
    }
    let Some(ContextValue::String(option)) = refusal.get(ContextKind::InvalidArg) else { return };
    let option = option.split('=').next().unwrap_or_default();
    let Some(key) = option.strip_prefix("--").map(|name| name.replace('-', "_")) else { return };
    if !stages::is_setting(&key) {
        return;
    }
    let value = typed_value(option).unwrap_or_else(|| "VALUE".to_owned());
    let tip = format!("`{key}` is a setting of recipes: `--set {key}={value}`");
    refusal.remove(ContextKind::SuggestedArg);
    refusal.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
}

/// The value of an option on the command line: behind its `=`, or the next argument.
fn typed_value(option: &str) -> Option<String> {
    let typed = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let mut typed = typed.skip_while(|argument| argument.split('=').next() != Some(option));
    match typed.next()?.split_once('=') {
        Some((_, value)) => Some(value.to_owned()),
        None => typed.next().filter(|next| !next.starts_with("--")),
    }
}

impl Command {
    /// Whether several processes of a launcher may run it together: training, and what prints the same everywhere.
    pub(crate) fn runs_on_ranks(&self) -> bool {
        matches!(
            self,
            Self::Run(_)
                | Self::Sft(_)
                | Self::Distill(_)
                | Self::Dpo(_)
                | Self::Grpo(_)
                | Self::Reward(reward::Command::Train(_))
                | Self::Pas(pas::Command::Train(_))
                | Self::Plan(_)
        )
    }

    /// Runs the command.
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<Outcome> {
        match self {
            Self::Quickstart(arguments) => quickstart::run(arguments, context),
            Self::Run(arguments) => stages::run(arguments, context),
            Self::Sft(arguments) => stage::run::<SftStage>(arguments, context),
            Self::Distill(arguments) => stage::run::<DistillStage>(arguments, context),
            Self::Dpo(arguments) => stage::run::<DpoStage>(arguments, context),
            Self::Reward(command) => reward::run(command, context),
            Self::Grpo(arguments) => stage::run::<GrpoStage>(arguments, context),
            Self::Label(arguments) => label::run(arguments, context),
            Self::Quality(arguments) => quality::run(arguments, context),
            Self::Evaluate(arguments) => evaluate::run(arguments, context),
            Self::Merge(arguments) => merge::run(arguments, context),
            Self::Rollouts(arguments) => rollouts::run(arguments, context),
            Self::Score(arguments) => score::run(arguments, context),
            Self::Select(arguments) => stage::run::<SelectStage>(arguments, context),
            Self::Respond(arguments) => stage::run::<RespondStage>(arguments, context),
            Self::Pas(command) => pas::run(command, context),
            Self::Prefer(arguments) => prefer::run(arguments, context),
            Self::Build(arguments) => build::run(arguments, context),
            Self::Embed(arguments) => embed::run(arguments, context),
            Self::Plan(arguments) => plan::run(arguments, context),
            Self::Launch(arguments) => launch::run(arguments, context),
            Self::Pipeline(command) => pipeline::run(command, context),
            Self::Verify(arguments) => verify::run(arguments, context),
            Self::Inspect(arguments) => inspect::run(arguments, context),
            Self::Chat(arguments) => chat::run(arguments, context),
            Self::Generate(arguments) => generate::run(arguments, context),
            Self::Serve(arguments) => serve::run(arguments, context),
            Self::Annotate(command) => annotate::run(command, context),
            Self::Doctor(arguments) => doctor::run(arguments, context),
            Self::Bench(arguments) => bench::run(arguments, context),
            Self::Report(arguments) => report::run(arguments, context),
            Self::Import(arguments) => import::run(arguments, context),
            Self::Completions(arguments) => completions::completions(arguments, context),
            Self::Man(arguments) => completions::man(arguments, context),
        }
    }
}
