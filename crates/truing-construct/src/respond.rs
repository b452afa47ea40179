//! Responses for training (report 3.2, 3.3): models sample several responses to each prompt, near-duplicates are
//! filtered, rewards score the rest, and the best are kept (rejection sampling). Prompts that are answered well already
//! are dropped, and so are refusals above a share. Where a range of pass rates is given, the prompts within it are
//! written for GRPO.
//!
//! [`RespondConfig`] is what was typed, [`RespondInputs`] the prompts, [`RespondPlan`] the calls and what they cost,
//! printable before the first; [`RespondStage`] samples in rounds of prompts and writes
//!
//! | file | rows |
//! |---|---|
//! | `candidates.jsonl` | one per prompt, with all its responses, their scores and what became of each |
//! | `responses.jsonl` | one per accepted response, as `messages`: `truing sft` trains on them |
//! | `prompts.jsonl` | one per prompt whose pass rate is in the range: `truing grpo` trains on them |
//! | `summary.json` | all counts |
//!
//! Every reply is kept: an interrupted run continues with the same recipe, and repeats no request. Settings that decide
//! only what is selected may change; the responses are then selected anew from the replies that are kept.
//!
//! The report samples 5 responses of the 3 most advanced models at temperature 1, top_p 0.99 and top_k 50, and drops
//! near-duplicates and well-answered prompts by ROUGE, without its thresholds; that near-duplicates are found by
//! ROUGE-L F1, and well-answered prompts by their scores, are readings of ours, and so are the default thresholds. It
//! is read as 5 responses of each model.

mod candidate;
mod config;
mod filter;
mod plan;
mod refusal;
mod run;
mod sample;
mod score;
mod select;
mod summary;
mod write;

pub use candidate::{Candidate, Fate, PromptFate};
pub use config::{Decoding, RespondConfig, RespondModel, Selection};
pub use plan::{ModelPlan, RespondInputs, RespondPlan, SourcePrompt};
pub use refusal::is_refusal;
pub use run::RespondOutcome;
pub use summary::{RespondSummary, SamplerSummary};

use std::borrow::Cow;

use truing_ask::ChatModelConfig;
use truing_model::Engine;
use truing_run::{Ended, Machine};
use truing_stages::{PlanContext, RunContext, Stage, StageError};
use truing_store::RunInputs;
use truing_types::StageName;

/// The stage. The folder of a run with the same recipe and inputs is used again, however the run begins.
#[derive(Debug)]
pub struct RespondStage;

impl Stage for RespondStage {
    const NAME: StageName = StageName::Respond;
    type Config = RespondConfig;
    type Inputs = RespondInputs;
    type Plan = RespondPlan;
    type Outcome = RespondOutcome;

    fn check(config: &RespondConfig) -> Result<(), StageError> {
        config.check()
    }

    fn load(config: &RespondConfig, context: &mut PlanContext<'_>) -> Result<RespondInputs, StageError> {
        RespondInputs::load(config, context.render.clone(), context.events)
    }

    fn plan<E: Engine>(
        config: RespondConfig,
        inputs: &RespondInputs,
        machine: &Machine,
    ) -> Result<RespondPlan, StageError> {
        RespondPlan::resolve(config, inputs, machine)
    }

    fn config(plan: &RespondPlan) -> &Self::Config {
        &plan.config
    }

    fn record<'a>(plan: &RespondPlan, inputs: &'a RespondInputs) -> Result<Cow<'a, RunInputs>, StageError> {
        plan.record(inputs).map(Cow::Owned)
    }

    fn chat_models(plan: &RespondPlan) -> Vec<Cow<'_, ChatModelConfig>> {
        plan.config.chat_models().into_iter().map(Cow::Borrowed).collect()
    }

    fn run<E: Engine + 'static>(
        plan: &RespondPlan,
        inputs: &RespondInputs,
        context: RunContext<'_>,
    ) -> Result<Ended<RespondOutcome>, StageError> {
        run::run::<E>(plan, inputs, context)
    }
}
