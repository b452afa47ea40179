//! What a stage is: a recipe becomes a plan, and the plan becomes a finished run.
//!
//! The command line, `truing plan`, the quickstart and the tests run every stage through [`Stage`].

use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use truing_ask::{ChatModelConfig, OpenChatModel};
use truing_model::Engine;
use truing_run::checks::DiskSpace;
use truing_run::inputs::content_key;
use truing_run::{Ended, Machine, Probe, Recipe, Start};
use truing_store::{Digest, RunInputs};
use truing_text::RenderOptions;
use truing_train::PlanRow;
use truing_types::{EventSink, Groups, StageName};

use crate::StageError;

/// What a stage plans with.
pub struct PlanContext<'a> {
    /// How chat templates are rendered.
    pub render: RenderOptions,
    /// Looks at the machine. Called once the inputs are read, because they take memory.
    pub machine: &'a dyn Fn() -> Machine,
    /// Progress and warnings.
    pub events: &'a mut dyn EventSink,
}

/// What a stage runs with, besides its plan.
pub struct RunContext<'a> {
    /// How the run begins.
    pub start: Start,
    /// The ranks of the run.
    pub groups: &'a Groups,
    /// Clock and memory.
    pub probe: &'a dyn Probe,
    /// Progress, metrics and warnings.
    pub events: &'a mut dyn EventSink,
    /// Set from outside to stop the run. What was done is saved.
    pub stop: &'a AtomicBool,
    /// The models of [`Stage::chat_models`], opened, in the same order.
    pub chat_models: Vec<OpenChatModel>,
    /// A program that answers to the sandbox's child arguments; needed for rewards that run code.
    pub sandbox_program: Option<&'a Path>,
}

impl std::fmt::Debug for PlanContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlanContext").field("render", &self.render).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RunContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunContext").field("start", &self.start).finish_non_exhaustive()
    }
}

impl<'a> RunContext<'a> {
    /// Without chat models and sandbox.
    pub fn new(
        start: Start,
        groups: &'a Groups,
        probe: &'a dyn Probe,
        events: &'a mut dyn EventSink,
        stop: &'a AtomicBool,
    ) -> Self {
        Self { start, groups, probe, events, stop, chat_models: Vec::new(), sandbox_program: None }
    }
}

/// Every decision that can be made before work starts.
pub trait StagePlan {
    /// The plan as a table.
    fn table(&self) -> Vec<PlanRow>;

    /// The plan in one sentence.
    fn summary(&self) -> String;

    /// What would stop the run on this machine as it is now, although the plan itself can be made.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A stage of the system.
pub trait Stage {
    /// Its name in recipes.
    const NAME: StageName;
    /// Its settings.
    type Config: Recipe;
    /// What it reads before it plans.
    type Inputs;
    /// What it will do.
    type Plan: StagePlan;
    /// What a finished run leaves behind.
    type Outcome;

    /// Checks all that can be checked without a model and without data. It comes before any model is looked for, so
    /// that a wrong value costs no download.
    ///
    /// # Errors
    /// When a setting is missing or invalid, or contradicts another.
    fn check(config: &Self::Config) -> Result<(), StageError>;

    /// What a run saves, and the room for it, as far as the model says it: a run looks before it reads data. `None`
    /// where it is little.
    ///
    /// # Errors
    /// When the model is unusable.
    fn disk_space(_config: &Self::Config) -> Result<Option<DiskSpace>, StageError> {
        Ok(None)
    }

    /// Reads what the recipe names. Models are opened but not loaded.
    ///
    /// # Errors
    /// When a setting is missing or invalid, or a model, a file or a row is unusable.
    fn load(config: &Self::Config, context: &mut PlanContext<'_>) -> Result<Self::Inputs, StageError>;

    /// Makes the plan for an engine.
    ///
    /// # Errors
    /// When a setting is missing or invalid, or the memory does not suffice.
    fn plan<E: Engine>(
        config: Self::Config,
        inputs: &Self::Inputs,
        machine: &Machine,
    ) -> Result<Self::Plan, StageError>;

    /// The recipe of a plan.
    fn config(plan: &Self::Plan) -> &Self::Config;

    /// The files that the run is made from, with their digests.
    ///
    /// # Errors
    /// When a file cannot be read.
    fn record<'a>(plan: &Self::Plan, inputs: &'a Self::Inputs) -> Result<Cow<'a, RunInputs>, StageError>;

    /// What decides all that the finished run leaves behind ([`content_key`]).
    ///
    /// # Errors
    /// That of [`record`](Self::record).
    fn content_key<E: Engine>(plan: &Self::Plan, inputs: &Self::Inputs) -> Result<Digest, StageError> {
        Ok(content_key::<E>(Self::config(plan), &*Self::record(plan, inputs)?))
    }

    /// The chat models that a run calls, and that its [`RunContext`] has to hold.
    fn chat_models(_plan: &Self::Plan) -> Vec<Cow<'_, ChatModelConfig>> {
        Vec::new()
    }

    /// Runs the plan on an engine, in the folder that the recipe names.
    ///
    /// # Errors
    /// When the folder cannot be used, numbers are not finite, a model or server fails for good, or the disk fails.
    fn run<E: Engine + 'static>(
        plan: &Self::Plan,
        inputs: &Self::Inputs,
        context: RunContext<'_>,
    ) -> Result<Ended<Self::Outcome>, StageError>;

    /// [`check`](Self::check), [`load`](Self::load), then [`plan`](Self::plan).
    ///
    /// # Errors
    /// Those of all three.
    fn prepare<E: Engine>(
        config: Self::Config,
        context: &mut PlanContext<'_>,
    ) -> Result<(Self::Plan, Self::Inputs), StageError> {
        Self::check(&config)?;
        let inputs = Self::load(&config, context)?;
        let plan = Self::plan::<E>(config, &inputs, &(context.machine)())?;
        Ok((plan, inputs))
    }
}
