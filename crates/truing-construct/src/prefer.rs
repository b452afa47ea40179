//! Preference data that proves its labels (report 3.3): the responses of a prompt are judged by several judges,
//! absolutely by aspect, in pairs and both orders, or against a golden answer; the judges are measured and weighted;
//! their scores are put on one scale; and pairs are made by their margin.
//!
//! [`PreferConfig`] is what was typed, [`PreferInputs`] the prompts with their responses, [`PreferPlan`] what is asked
//! and what it costs, printable before the first call; [`PreferStage`] asks and writes `pairs.jsonl`, which DPO and
//! reward models are trained on, `ranked.jsonl`, `edit_queue.jsonl`, `fates.jsonl`, `verdicts.jsonl`, `judges.json` and
//! `summary.json`. Every reply is kept: an interrupted run continues with the same recipe, and repeats no request. At
//! the end each pair is read back and computed again from the verdicts that are stored with it ([`check_pairs`]).
//!
//! [`self_test`] runs the same code with judges whose faults are known.
//!
//! Where the report is silent: both orders of a comparison are asked, and where they disagree it is a tie; a rating
//! that is missing is in no mean; the formula of the common scale is in [`scores`].

pub mod scores;
pub mod self_test;

mod ask;
mod check;
mod columns;
mod config;
mod inputs;
mod judges;
mod minimal;
mod output;
mod plan;
mod rules;
mod run;
mod verdict;

pub use ask::{Reply, Said};
pub use check::{check_minimal_pairs, check_pairs};
pub use config::{JudgeKind, MinimalDifference, PairRule, PreferConfig, PreferJudge, ScoreRater};
pub use inputs::{PreferInputs, PromptGroup, Response};
pub use judges::{JudgePair, JudgeReport, Measured, measure, verdicts_by_prompt};
pub use minimal::{MinimalPair, MinimalSummary};
pub use output::{PairRow, PreferSummary};
pub use plan::{Call, JudgePlan, MinimalPlan, PreferPlan, Shown};
pub use rules::{ChosenPair, Decision, Fate, decide};
pub use run::PreferOutcome;
pub use verdict::{Comparison, RaterKind, Verdict, VerdictValue, comparisons, raw_scores};

use std::borrow::Cow;

use truing_ask::ChatModelConfig;
use truing_model::Engine;
use truing_run::{Ended, Machine};
use truing_stages::{PlanContext, RunContext, Stage, StageError};
use truing_store::RunInputs;
use truing_types::StageName;

/// The stage. The folder of a run with the same recipe and inputs is used again, however the run begins.
#[derive(Debug)]
pub struct PreferStage;

impl Stage for PreferStage {
    const NAME: StageName = StageName::Prefer;
    type Config = PreferConfig;
    type Inputs = PreferInputs;
    type Plan = PreferPlan;
    type Outcome = PreferOutcome;

    fn check(config: &PreferConfig) -> Result<(), StageError> {
        config.check()
    }

    fn load(config: &PreferConfig, context: &mut PlanContext<'_>) -> Result<PreferInputs, StageError> {
        PreferInputs::load(config, context.events)
    }

    fn plan<E: Engine>(
        config: PreferConfig,
        inputs: &PreferInputs,
        _: &Machine,
    ) -> Result<PreferPlan, StageError> {
        PreferPlan::resolve(config, inputs)
    }

    fn config(plan: &PreferPlan) -> &Self::Config {
        &plan.config
    }

    fn record<'a>(plan: &PreferPlan, inputs: &'a PreferInputs) -> Result<Cow<'a, RunInputs>, StageError> {
        plan.record(inputs).map(Cow::Owned)
    }

    fn chat_models(plan: &PreferPlan) -> Vec<Cow<'_, ChatModelConfig>> {
        plan.config.chat_models().into_iter().map(Cow::Borrowed).collect()
    }

    fn run<E: Engine + 'static>(
        plan: &PreferPlan,
        inputs: &PreferInputs,
        context: RunContext<'_>,
    ) -> Result<Ended<PreferOutcome>, StageError> {
        run::run(plan, inputs, context.chat_models, context.stop, context.events)
    }
}
