//! Training data for one ability of a model (report 4): a writer model makes rows from seed rows, a checker model and
//! programs check them, and what is left is screened.
//!
//! A builder ([`BUILDERS`], one file each) knows one ability: which rows it sets out to make ([`Unit`]), what it
//! asks, and how a row is checked again without the models ([`Job`]). All others are shared: reading and
//! decontamination of the seed rows, the plan of calls, the calls with their cache ([`Asking`]), the fate of every
//! unit, screening ([`screening`]), coverage, and the files.
//!
//! [`BuildConfig`] is what was typed, [`BuildInputs`] the seed rows and the index of evaluation texts, [`BuildPlan`]
//! what is asked and what it costs at most, printable before the first call. [`BuildStage`] asks and writes
//! `rows.jsonl` (for `truing sft`), `prompts.jsonl` (for `truing grpo`), `fates.jsonl` and `summary.json`. Every
//! reply is kept: the same command continues an interrupted run, and repeats no request.

pub mod screening;

mod asking;
mod back_translation;
mod bounds;
mod builder;
mod code;
mod code_interpreter;
mod config;
mod constraints;
mod coverage;
mod inputs;
mod mathematics;
mod plan;
mod prompt_writing;
mod reasoning;
mod responding;
mod reversal;
mod rewrite;
mod run;
mod system_messages;
mod textbook;
mod texts;
mod tools;

pub use asking::{Asking, Question};
pub use back_translation::BackTranslationConfig;
pub use builder::{BUILDERS, BuilderInfo, Built, BuiltRow, Dropped, Fates, Job, PlannedCalls, Unit};
pub use code::{CodeCategory, CodeConfig, CodeDifficulty, ProgrammingLanguage};
pub use code_interpreter::{CodeInterpreterConfig, InterpreterKind};
pub use config::BuildConfig;
pub use constraints::ConstraintsConfig;
pub use coverage::{Coverage, CoverageRow};
pub use inputs::{BuildInputs, SeedRow};
pub use mathematics::{KnowledgePoint, Level, MathematicsConfig, load_knowledge_points};
pub use plan::BuildPlan;
pub use reasoning::{ReasoningConfig, ReasoningKind};
pub use reversal::ReversalConfig;
pub use rewrite::RewriteConfig;
pub use run::{BuildOutcome, BuildSummary, FateRow, Recheck};
pub use system_messages::{SystemKind, SystemMessagesConfig};
pub use textbook::{TextbookAspect, TextbookConfig};
pub use tools::{CallPattern, ToolsConfig, ToolsFormat};

use std::borrow::Cow;

use truing_ask::ChatModelConfig;
use truing_model::Engine;
use truing_run::{Ended, Machine};
use truing_stages::{PlanContext, RunContext, Stage, StageError};
use truing_store::RunInputs;
use truing_types::StageName;

/// The stage. The folder of a run with the same recipe and inputs is used again, however the run begins.
#[derive(Debug)]
pub struct BuildStage;

impl Stage for BuildStage {
    const NAME: StageName = StageName::Build;
    type Config = BuildConfig;
    type Inputs = BuildInputs;
    type Plan = BuildPlan;
    type Outcome = BuildOutcome;

    fn check(config: &BuildConfig) -> Result<(), StageError> {
        config.check()
    }

    fn load(config: &BuildConfig, context: &mut PlanContext<'_>) -> Result<BuildInputs, StageError> {
        BuildInputs::load(config, context.events)
    }

    fn plan<E: Engine>(
        config: BuildConfig,
        inputs: &BuildInputs,
        _: &Machine,
    ) -> Result<BuildPlan, StageError> {
        BuildPlan::resolve(config, inputs)
    }

    fn config(plan: &BuildPlan) -> &Self::Config {
        &plan.config
    }

    fn record<'a>(plan: &BuildPlan, inputs: &'a BuildInputs) -> Result<Cow<'a, RunInputs>, StageError> {
        plan.record(inputs).map(Cow::Owned)
    }

    fn chat_models(plan: &BuildPlan) -> Vec<Cow<'_, ChatModelConfig>> {
        plan.config.chat_models().into_iter().map(Cow::Borrowed).collect()
    }

    fn run<E: Engine + 'static>(
        plan: &BuildPlan,
        inputs: &BuildInputs,
        context: RunContext<'_>,
    ) -> Result<Ended<BuildOutcome>, StageError> {
        run::run(plan, inputs, context)
    }
}
